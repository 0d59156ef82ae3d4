"""Each number in an answer to an exam question is computed another way."""

import re

import numpy as np
import pytest
from course import release, source
from notebooks.number import Book
from notebooks.read import Page, parse

BOOK = Book(source.ROOT)
TEXT = (source.FOLDER / "Exam.md").read_text("utf-8")
SEEDS = range(8)


def constants(seed):
    return source.constants(TEXT, np.random.default_rng(seed))


def cells(drawn):
    page = Page("../assignments/Exam", source.FOLDER / "Exam.md")
    page.blocks = parse(source.filled(TEXT, drawn), page, 1, BOOK.markdown)
    return list(source.SetWriter(BOOK, page).set_cells())


def failing(drawn):
    """The questions whose check fails."""
    found, failed = cells(drawn), []
    given = next(cell.text for cell in found if cell.role == "given")
    for cell in found:
        if cell.role == "check":
            try:
                exec(f"{given}\n{cell.text}", {})
            except AssertionError:
                failed.append(cell.name)
    return failed


@pytest.mark.parametrize("seed", SEEDS)
def test_the_answers_are_right(seed):
    assert failing(constants(seed)) == []


ANSWERS = [name for name in constants(0) if name.startswith("a_")]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_wrong_answer_is_found(name):
    right = constants(0)
    wrong = right[name] + 1 if isinstance(right[name], int) else right[name] * 1.05
    assert f"<<{name}>>" in TEXT and failing(right | {name: wrong})


def test_each_part_has_questions_and_each_question_an_answer_with_its_points():
    found = cells(constants(0))
    heads, parts = [], []
    for cell in found:
        parts += re.findall(r"^## (.*)$", cell.text, re.M) if cell.role == "text" else []
        heads += re.findall(r"^### \d+\. .* \((\d+) points\)$", cell.text, re.M)
    assert heads == [f"{cell.points:g}" for cell in found if cell.role == "written"]
    assert len(heads) == 24 and [part.split(".")[0] for part in parts] == [
        f"Part {n}" for n in ("I", "II", "III", "IV", "V")
    ]


def test_a_question_with_a_number_is_checked():
    names = {cell.name for cell in cells(constants(0)) if cell.role == "check"}
    for name, answer in re.findall(
        r"\{admonition\} (\w+) \d+\n:class: written\n(.*?):::", TEXT, re.S
    ):
        assert ("<<a_" in answer) == (name in names), name


def test_questions_come_without_answers_and_with_other_numbers_in_each_course(tmp_path):
    pages = []
    for course in ("one", "two"):
        (tmp_path / course).mkdir()
        release.examine(tmp_path / course, f"the seed of course {course}", BOOK)
        pages.append((tmp_path / course / "teacher/exam-questions.html").read_text())
        answers = (tmp_path / course / "teacher/exam-answers.html").read_text()
        assert "Answer." in answers and "<<" not in answers and "&lt;&lt;" not in answers
        assert "Answer." not in pages[-1] and "for the weights, 2 for" not in pages[-1]
    assert pages[0] != pages[1]
