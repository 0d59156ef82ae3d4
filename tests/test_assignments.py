"""Every problem set is solved by its own answers, and tells wrong ones from right ones."""

import ast
import html
import json
import re
from functools import cache

import asked
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
    return decided([part for part in set_.parts if problem in (None, part.problem)], names, seed)


def decided(parts, names, seed=SEEDS[0]):
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
def test_wrong_answers_of_each_problem_span_three_marks(name):
    marks, problem = {}, ""
    for cell in read(name).cells:
        if heading := re.match(r"## (\d+)\.", cell.text):
            problem = heading[1]
        if cell.role == "wrong":
            marks.setdefault(problem, set()).add(cell.points)
    assert not [problem for problem, found in marks.items() if len(found) < 3]


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
OPPOSITE |= {ast.USub: ast.UAdd, ast.And: ast.Or, ast.Or: ast.And}
RENAMED = {"min": "max", "minimum": "maximum", "argmin": "argmax", "zeros": "ones", "sin": "cos"}
RENAMED |= {new: old for old, new in RENAMED.items()}
SIZES = ("N", "n", "D", "d", "t", "steps", "len")


class Put(ast.NodeTransformer):
    """One node in place of another."""

    def __init__(self, new, old):
        self.new, self.old = new, old

    def visit(self, node):
        return self.new if node is self.old else self.generic_visit(node)


def mutants(text, name):
    """The code with one operator, number or name of a function changed, one after the other."""
    tree = ast.parse(text)
    (function,) = (node for node in tree.body if getattr(node, "name", "") == name)
    for old in list(ast.walk(function)):
        for new in changes(old):
            yield ast.unparse(Put(new, old).visit(tree))
            Put(old, new).visit(tree)


def changes(node):
    def but(**fields):
        return type(node)(**vars(node) | fields)

    if type(getattr(node, "op", None)) in OPPOSITE:
        yield but(op=OPPOSITE[type(node.op)]())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPPOSITE:
        yield but(ops=[OPPOSITE[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield from (but(value=node.value + 1), but(value=node.value - 1))
    elif isinstance(node, ast.Attribute) and node.attr in RENAMED:
        yield but(attr=RENAMED[node.attr])
    elif isinstance(node, ast.Attribute) and node.attr == "T":
        yield node.value
    elif is_size(node):
        yield ast.BinOp(node, ast.Add(), ast.Constant(1))


def is_size(node):
    """The length of something, or a name by which sizes go."""
    name = node.func if isinstance(node, ast.Call) else node
    load = isinstance(getattr(name, "ctx", None), ast.Load)
    return load and getattr(name, "id", "") in SIZES[: len(SIZES) - (name is node)]


def test_mutants_are_what_they_are_meant_to_be():
    code = "def f(a, n):\n    x = -a.min(1) * 2\n    return x.T @ a if n < len(a) else 0"
    found = {text.split("\n", 1)[1].replace("\n   ", ";").strip() for text in mutants(code, "f")}
    begins = ["x = -a.min(1) / 2", "x = +a.min(1) * 2", "x = -a.max(1) * 2"]
    begins += [f"x = -a.min({one}) * {two}" for one, two in ((2, 2), (0, 2), (1, 3), (1, 1))]
    ends = ["x.T @ a if n >= len(a) else 0", "x @ a if n < len(a) else 0"]
    ends += [f"x.T @ a if {n} < {m} else 0" for n, m in (("n + 1", "len(a)"), ("n", "len(a) + 1"))]
    ends += [f"x.T @ a if n < len(a) else {number}" for number in (1, -1)]
    same = "x = -a.min(1) * 2", "x.T @ a if n < len(a) else 0"
    assert found == {f"{x}; return {same[1]}" for x in begins} | {
        f"{same[0]}; return {x}" for x in ends
    }


def problems():
    """Each function that the model answers define, with the cell that does."""
    for name in source.names():
        for cell in read(name).of("answer"):
            for problem in re.findall(r"^def (\w+)\(", cell.text, re.M):
                yield pytest.param(name, problem, cell.text, id=f"{name}-{problem}")


def loses(name, problem, text):
    """Whether a part refuses what this text defines; the first that does is enough."""
    set_ = read(name)
    try:
        names = solved(set_, text)
    except Exception:
        return True
    parts = [part for part in set_.parts if part.problem == problem]
    return any(points(decided([part], names)) < part.points for part in parts)


def is_right(name, problem, text):
    return asked.right(name, problem, solved(read(name), text)[problem])


@pytest.mark.parametrize(("name", "problem", "text"), list(problems()))
def test_hidden_tests_kill_mutants_of_each_model_answer(name, problem, text):
    found = list(mutants(text, problem))
    alive = [mutant for mutant in found if not loses(name, problem, mutant)]
    known = (name, problem) in asked.ASKED
    right = [mutant for mutant in found if known and is_right(name, problem, mutant)]
    assert set(right) <= set(alive), "the judge refuses a right answer"
    missed = set(alive) - set(right)
    assert found and len(missed) <= (len(found) - len(right)) / 10, "\n\n".join(missed)


@pytest.mark.parametrize(("name", "problem"), sorted(asked.ASKED))
def test_what_is_asked_tells_right_answers_from_wrong_ones(name, problem):
    set_ = read(name)
    for cell in set_.of("answer", "variant", "wrong"):
        if f"def {problem}(" in cell.text:
            full = cell.role != "wrong" or cell.name != problem
            assert is_right(name, problem, cell.text) == full, cell.text


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
