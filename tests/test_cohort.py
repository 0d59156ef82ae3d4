"""Forty students hand in a real set, as students do; each mark is compared with what it must be.

Each solves the problems by a mix of right, differently right, wrong and no answers, and most do
something to the notebook besides. What a mix is worth is computed here without a jail, a process or
a notebook.
"""

import csv
import json

import nbformat
import numpy as np
import pytest
import test_assignments as sets
from course import grade, release, source
from nbformat.v4 import new_code_cell, new_markdown_cell

SET, COUNT = "foundations", 40


def untouched(book):
    return book


def before(text):
    def change(book):
        book.cells.insert(0, new_code_cell(text))
        return book

    return change


def after(text):
    def change(book):
        book.cells.append(new_code_cell(text))
        return book

    return change


def without_checks(book):
    book.cells = [cell for cell in book.cells if not cell.id.startswith("check")]
    return book


def with_weaker_checks(book):
    for cell in book.cells:
        if cell.id.startswith("check"):
            cell.source = cell.source.replace("assert ", "assert True or ")
    return book


def with_each_cell_twice(book):
    twice = [copy for cell in book.cells for copy in (cell, nbformat.from_dict({**cell}))]
    for place, cell in enumerate(twice):
        cell.id = f"cell-{place}"
    book.cells = twice
    return book


def as_colab_saves_it(book):
    for place, cell in enumerate(book.cells):
        cell.id, cell.metadata = f"Xy{place}_kQ", nbformat.from_dict({"id": f"Xy{place}_kQ"})
    return book


def without_text(book):
    book.cells = [cell for cell in book.cells if cell.cell_type == "code"]
    return book


ASSERTS_REMOVED = """import ast
class Calm(ast.NodeTransformer):
    def visit_Assert(self, node): return ast.Pass()
get_ipython().ast_transformers.append(Calm())"""
PATCHED = """import numpy.testing, torch
numpy.testing.assert_allclose = torch.allclose = lambda *a, **k: True"""
HABITS = {
    "nothing": untouched,
    "checks deleted": without_checks,
    "checks edited": with_weaker_checks,
    "each cell twice": with_each_cell_twice,
    "Colab": as_colab_saves_it,
    "text deleted": without_text,
    "endless loop": before("while True: pass"),
    "exit": before("import os; os._exit(1)"),
    "fork bomb": before("import os\nfor _ in range(99):\n    if os.fork() == 0: os._exit(0)"),
    "memory bomb": before("x = [bytearray(100 << 20) for _ in range(99)]"),
    "much output": after("for _ in range(10**5): print('x' * 1000)"),
    "tracebacks silenced": before(
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "InteractiveShell.showtraceback = lambda *a, **k: None"
    ),
    "asserts removed": before(ASSERTS_REMOVED),
    "libraries patched": before(PATCHED),
    "a cell that fails": before("no python"),
}


def mix(set_, rng):
    """For each answer cell a text to put there."""
    choices = {}
    for cell in set_.of("answer"):
        others = [c for c in set_.of("variant", "wrong") if f"def {c.name}(" in cell.text]
        texts = [cell.text, cell.text, cell.stub, *[c.text for c in others]]
        choices[cell.name] = texts[rng.integers(len(texts))]
    return choices


def handed_in(stub, choices):
    """The handed-out notebook with the answers written below the stubs that they replace."""
    book = nbformat.from_dict(json.loads(json.dumps(stub)))
    for name, text in choices.items():
        (place,) = [
            i for i, c in enumerate(book.cells) if c.id == f"answer-{name.replace('_', '-')}"
        ]
        if text != book.cells[place].source:
            book.cells.insert(place + 1, new_code_cell(text))
    return book


def worth(set_, choices, seed):
    """Points by problem and part."""
    names = {}
    for text in [cell.text for cell in set_.of("given")]:
        exec(text, names)
    for cell in set_.of("answer"):
        exec(cell.stub, names)
        exec(choices[cell.name], names)
    return {(m["problem"], m["part"]): m["points"] for m in sets.marks(set_, names, seed)}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """The course's folder, results by student, and what each must have."""
    course = tmp_path_factory.mktemp("course")
    release.release(course, [SET])
    seed = (course / "seed").read_text()
    set_ = source.read(SET, seed, sets.BOOK)
    stub = nbformat.read(course / f"release/{SET}/{SET}.ipynb", 4)
    folder, rng, expected = tmp_path_factory.mktemp("hand-in"), np.random.default_rng(0), {}
    for number in range(COUNT):
        habit = list(HABITS)[number % len(HABITS)]
        choices, student = mix(set_, rng), f"{number:02} {habit}"
        book = handed_in(stub, choices)
        if number % 3 == 0:
            (place,) = [i for i, c in enumerate(book.cells) if c.id == "written-critique"]
            book.cells.insert(place + 1, new_markdown_cell("Step (iii)."))
        nbformat.write(HABITS[habit](book), folder / f"{student}.ipynb")
        expected[student] = worth(set_, choices, seed)
    results = {r["student"]: r for r in grade.grade(course, SET, folder)}
    return course, results, expected


def test_each_of_forty_gets_each_mark(cohort):
    _, results, expected = cohort
    found = {
        student: {(m["problem"], m["part"]): m["points"] for m in result["marks"]}
        for student, result in results.items()
    }
    assert len(found) == COUNT and found == expected
    assert len({sum(marks.values()) for marks in expected.values()}) > COUNT / 2, "a real mix"


def test_what_a_person_must_look_at_is_said(cohort):
    _, results, _ = cohort
    for student, result in results.items():
        number, habit = student.split(" ", 1)
        assert "GRADED" not in result["state"]
        waits = int(number) % 3 == 0 or habit == "text deleted"
        assert result["state"] == ("Written answers to mark: critique" if waits else "Complete.")
        left_out = {"endless loop": "in time", "exit": "ended its process", "memory bomb": "out"}
        assert left_out.get(habit, "") in " ".join(result["notes"])


def test_the_tables_have_the_same_marks(cohort):
    course, results, expected = cohort
    with open(course / f"marks/{SET}/marks.csv", newline="", encoding="utf-8-sig") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    for student, marks in expected.items():
        assert float(rows[student]["total"]) == sum(marks.values())
        for problem in {problem for problem, _ in marks}:
            points = sum(p for (name, _), p in marks.items() if name == problem)
            assert float(rows[student][problem]) == points


def test_no_answer_and_no_judge_is_in_what_students_get_back(cohort):
    """Line by line: nothing hidden in the release, its zip, or any page of feedback."""
    course, _, _ = cohort
    set_ = source.read(SET, (course / "seed").read_text(), sets.BOOK)
    given_back = [
        *(course / f"marks/{SET}/feedback").rglob("*.html"),
        course / f"release/{SET}/{SET}.ipynb",
    ]
    assert len(given_back) == COUNT + 1
    for file in given_back:
        text = file.read_text("utf-8")
        for line in release.hidden(set_):
            if not line.startswith("@part"):  # the title of a part and its hint are for students
                assert line not in text, (file, line)
