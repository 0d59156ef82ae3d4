"""Every problem set is solved by its own answers, and tells wrong ones from right ones."""

import ast
import copy
import html
import json
import re
from functools import cache

import nbformat
import pytest
from course import command, grade, inmate, judge, release, source, values
from notebooks.number import Book

BOOK = Book(source.ROOT)
SEEDS = ("one seed of a course", "another one", "a third")


@cache
def read(name, seed=SEEDS[0]):
    return source.read(name, seed, BOOK)


def solved(set_, *more):
    """What a notebook defines: all that is given, the model answers, and these in their place."""
    names = {}
    for text in [cell.text for cell in set_.of("given", "answer")] + list(more):
        exec(text, names)
    return names


def caller(names):
    """Calls as the judge makes them, without the process."""

    def call(name, *arguments):
        packed = json.loads(json.dumps([values.pack(one) for one in arguments]))
        kind, value = inmate.answer(names, name, packed)
        if kind == "raised":
            raise values.Refused(f"raised {value}")
        return values.unpack(json.loads(json.dumps(value)))

    return call


def marks(set_, names, seed=SEEDS[0], problem=None):
    parts = [part for part in set_.parts if problem in (None, part.problem)]
    found = judge.decide(parts, caller(names), seed)
    assert not [mark for mark in found if judge.BY_HAND in mark["why"]], found
    return found


def points(found):
    return sum(mark["points"] for mark in found)


def answers(role):
    return [
        pytest.param(name, place, id=f"{name}-{cell.name}-{place}")
        for name in source.names()
        for place, cell in enumerate(read(name).of(role))
    ]


sets = pytest.mark.parametrize("name", source.names())


# ---------------------------------------------------------------------------------- right and wrong


@sets
@pytest.mark.parametrize("seed", SEEDS)
def test_the_model_answers_get_all_points(name, seed):
    set_ = read(name, seed)
    lost = [m for m in marks(set_, solved(set_), seed) if m["points"] < m["of"]]
    assert not lost


@sets
def test_the_stubs_get_none(name):
    set_ = read(name)
    names = {}
    for cell in set_.of("given", "answer"):
        exec(cell.stub, names)
    assert points(marks(set_, names)) == 0


@pytest.mark.parametrize(("name", "place"), answers("variant"))
def test_another_right_answer_gets_all_points(name, place):
    for seed in SEEDS[:2]:
        set_ = read(name, seed)
        cell = set_.of("variant")[place]
        lost = marks(set_, solved(set_, cell.text), seed, cell.name)
        assert not [m for m in lost if m["points"] < m["of"]]


@pytest.mark.parametrize(("name", "place"), answers("wrong"))
def test_a_wrong_answer_gets_what_it_is_worth(name, place):
    for seed in SEEDS[:2]:
        set_ = read(name, seed)
        cell = set_.of("wrong")[place]
        found = marks(set_, solved(set_, cell.text), seed, cell.name)
        assert points(found) == cell.points < sum(m["of"] for m in found), found


@sets
def test_each_hidden_part_refuses_a_wrong_answer(name):
    set_, kept = read(name), set()
    for cell in set_.of("wrong"):
        found = marks(set_, solved(set_, cell.text), problem=cell.name)
        kept |= {(m["problem"], m["part"]) for m in found if m["points"] < m["of"]}
    assert {(part.problem, part.title) for part in set_.parts} == kept


@sets
def test_each_problem_has_wrong_answers_and_other_right_ones(name):
    set_ = read(name)
    for problem in {part.problem for part in set_.parts}:
        defines = f"def {problem}("
        assert sum(defines in cell.text for cell in set_.of("variant")) >= 2, problem
        assert sum(defines in cell.text for cell in set_.of("wrong")) >= 3, problem


@sets
def test_what_students_see_passes_on_the_model_and_not_on_the_stub(name):
    set_ = read(name)
    done, bare = solved(set_), {}
    for cell in set_.of("given", "answer"):
        exec(cell.stub, bare)
    for cell in set_.of("check"):
        exec(cell.text, done)
        with pytest.raises(NotImplementedError):
            exec(cell.text, bare)


# ------------------------------------------------------------------------------------------ mutants

OPPOSITE = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
OPPOSITE |= {ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq}
RENAMED = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}


def mutants(text):
    """The code with one operator, number or name changed, one after the other."""
    tree = ast.parse(text)
    for place, node in enumerate(ast.walk(tree)):
        for change in changes(node):
            other = copy.deepcopy(tree)
            change(list(ast.walk(other))[place])
            yield ast.unparse(other)


def changes(node):
    if isinstance(node, ast.BinOp) and type(node.op) in OPPOSITE:
        yield lambda n: setattr(n, "op", OPPOSITE[type(n.op)]())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPPOSITE:
        yield lambda n: setattr(n, "ops", [OPPOSITE[type(n.ops[0])](), *n.ops[1:]])
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(node, ast.Attribute) and node.attr in RENAMED:
        yield lambda n: setattr(n, "attr", RENAMED[n.attr])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield lambda n: setattr(n, "op", ast.UAdd())


def test_mutants_are_what_they_are_meant_to_be():
    found = [text.replace("\n", "") for text in mutants("x = -a.min(1) * 2")]
    assert found == ["x = -a.min(1) / 2", "x = +a.min(1) * 2", "x = -a.min(1) * 3"] + [
        "x = -a.max(1) * 2",
        "x = -a.min(2) * 2",
    ]


@sets
def test_hidden_tests_kill_mutants_of_the_model_answers(name):
    set_, alive, count = read(name), [], 0
    for cell in set_.of("answer"):
        problems = set(re.findall(r"^def (\w+)\(", cell.text, re.M)) & set(set_.points)
        full = sum(set_.points[problem] for problem in problems)
        for text in mutants(cell.text):
            count += 1
            try:
                names = solved(set_, text)
            except Exception:
                continue
            if sum(points(marks(set_, names, problem=p)) for p in problems) == full:
                alive.append(text)
    assert count > 20 and len(alive) <= count / 10, "\n\n".join(alive)


# ------------------------------------------------------------------------------- the set as a whole


@sets
def test_headings_give_the_points(name):
    set_ = read(name)
    found, problem = {}, None
    for cell in set_.cells:
        if heading := re.search(r"^## (.*) \((\d+) points\)$", cell.text, re.M):
            problem = heading[1]
            found[problem] = [int(heading[2]), 0]
        elif cell.role in ("judge", "written"):
            found[problem][1] += set_.points[cell.name]
    assert all(said == true for said, true in found.values()), found
    total = sum(set_.points.values())
    assert f" {total:g} points" in set_.cells[0].text and 60 <= total <= 100
    assert 5 <= len(found) <= 8


@sets
def test_each_course_has_its_own_constants(name):
    texts = {release.student(read(name, seed), "") for seed in SEEDS}
    assert len(texts) == len(SEEDS) and not any("<<" in text for text in texts)


@sets
def test_the_way_from_release_to_marks(name, tmp_path):
    """The teacher's notebook, handed in, gets all points but those that a person gives."""
    release.release(tmp_path, [name])
    hand_in = tmp_path / "hand-in"
    hand_in.mkdir()
    for kind, file in (("student", f"release/{name}/{name}"), ("teacher", f"teacher/{name}")):
        book = nbformat.read(tmp_path / f"{file}.ipynb", 4)
        nbformat.validate(book)
        nbformat.write(book, hand_in / f"{kind}.ipynb")
    stub, model = grade.grade(tmp_path, name, hand_in)
    set_ = source.read(name, (tmp_path / "seed").read_text(), BOOK)
    assert model["total"] == sum(part.points for part in set_.parts), model
    assert stub["total"] == 0 and "GRADED" not in stub["state"], stub
    for question in set_.of("written"):
        assert question.text.strip() in model["answers"][question.name]
        assert stub["answers"][question.name] == ""


def test_the_published_notebooks_are_in_step(capsys):
    assert command.main(["publish", "--check"]) == 0, capsys.readouterr().out


@sets
def test_nothing_hidden_is_in_what_is_published(name):
    text = (source.FOLDER / "student" / f"{name}.ipynb").read_text("utf-8")
    set_ = source.read(name, release.PUBLIC, BOOK)
    assert len(release.hidden(set_)) > 50
    release.refuse_leaks(set_, text)
    for sign in ("BEGIN SOLUTION", "@part", "def draw"):
        assert sign not in text


@pytest.fixture(scope="session")
def elsewhere(site):
    """All that is public besides the notebooks: the pages as they are read, and the library."""
    pages = [page.read_text("utf-8") for page in site.rglob("*.html")]
    texts = [html.unescape(re.sub(r"<[^>]+>", "", page)) for page in pages]
    files = [*site.rglob("*.ipynb"), *(source.ROOT / "src").rglob("*.py")]
    return "\n".join(texts + [file.read_text("utf-8") for file in files])


@sets
def test_nothing_hidden_is_in_the_book_or_in_the_library(elsewhere, name):
    """Lines of 60 characters and more: shorter ones are formulas of the chapters, and loop heads."""
    long = [line for line in release.hidden(read(name)) if len(line) >= 60]
    assert len(long) > 20
    assert not [line for line in long if line in elsewhere or json.dumps(line)[1:-1] in elsewhere]
