"""Write a course's folder: what students get, what teachers get, what the judge needs.

COURSE/seed                        the secret from which constants and hidden inputs are drawn
COURSE/release/NAME/NAME.ipynb     to hand out
COURSE/zip/NAME.zip                the same for a learning platform
COURSE/teacher/NAME.ipynb          with model answers, rubric and notes
COURSE/teacher/NAME.html           the rubric alone
COURSE/teacher/exam-*.html         questions for an examination, and their answers
COURSE/judge/NAME.py, NAME.json    the hidden tests; the questions that people mark
COURSE/source, gradebook.db        nbgrader's, see ``gradebook``
"""

from __future__ import annotations

import json
import os
import re
import secrets
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from notebooks.number import Book
from notebooks.write import give_ids

from . import gradebook, source
from .feedback import page
from .source import FOR_ALL, SOLUTION, Cell, Set

POINTS = re.compile(r"^## (.*) \((\d+) points\)$", re.M)
PUBLIC = "public"  # the seed of the notebooks that anybody can open


class Leak(ValueError):
    """A student's notebook shows something that it must not."""


def notebook(cells: list, ids: dict[int, str]) -> str:
    """The text of the file, the same to the byte each time."""
    give_ids(cells)
    for place, name in ids.items():
        cells[place].id = name
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.validate(book)
    return nbformat.writes(book) + "\n"


def student(set_: Set, setup: str) -> str:
    """The notebook to hand out: text, stubs, and the checks that may be seen."""
    cells = [new_markdown_cell(set_.cells[0].text), new_code_cell(setup)]
    cells += [_cell(cell, cell.stub) for cell in set_.of(*FOR_ALL)[1:]]
    return notebook(cells, ids(set_))


def for_nbgrader(set_: Set, setup: str) -> str:
    """From this nbgrader makes the same, and knows how many points each answer is worth."""
    cells = [new_markdown_cell(set_.cells[0].text), new_code_cell(setup)]
    for cell in set_.of(*FOR_ALL)[1:]:
        cells.append(_cell(cell, gradebook.marked(cell)))
        if cell.role in ("answer", "written"):
            cells[-1].metadata["nbgrader"] = gradebook.metadata(set_, cell)
    return notebook(cells, ids(set_))


def ids(set_: Set) -> dict[int, str]:
    """The cells that grading may want to find again, by their places in a student's notebook."""
    cells = enumerate(set_.of(*FOR_ALL)[1:], start=2)  # the title, the set-up, and then they come
    kinds = ("answer", "check", "written")
    return {place: gradebook.grade_id(cell) for place, cell in cells if cell.role in kinds}


def teacher(set_: Set, setup: str) -> str:
    """The same with model answers, the rubric of each problem, and notes."""
    cells = [new_markdown_cell(set_.cells[0].text), new_code_cell(setup)]
    for cell in set_.cells[1:]:
        if cell.role in (*FOR_ALL, "teacher"):
            cells.append(_cell(cell, cell.text))
        elif cell.role == "judge":
            cells.append(new_markdown_cell(rubric(set_, cell.name)))
    return notebook(cells, {})


def _cell(cell: Cell, text: str):
    if cell.role == "written":
        return new_markdown_cell(f"**Answer {cell.name}.** {text}")
    if cell.role in ("text", "teacher"):
        return new_markdown_cell(text)
    # A check that fails must not stop "run all" before the next problem.
    tags = {"tags": ["raises-exception"]} if cell.role == "check" else {}
    return new_code_cell(text, metadata=tags)


def rubric(set_: Set, problem: str) -> str:
    """A table of the parts of one problem."""
    rows = [f"| {p.title} | {p.points:g} | {p.hint} |" for p in set_.parts if p.problem == problem]
    head = ["| what `" + problem + "` must do | points | hint if it fails |", "|---|---|---|"]
    return "\n".join([*head, *rows])


def sheet(set_: Set) -> str:
    """The rubric of the whole set, as HTML."""
    pieces = [f"# {set_.title}: rubric"]
    for cell in set_.of("text", "judge", "written", "teacher"):
        if cell.role == "text":
            pieces += re.findall(r"^## .*", cell.text, re.M)
        elif cell.role == "judge":
            pieces.append(rubric(set_, cell.name))
        elif cell.role == "written":
            pieces.append(f"**{cell.name}**, {cell.points:g} points. {cell.text}")
        else:
            pieces.append(cell.text)
    return page(set_.title, "\n\n".join(pieces))


def hidden(set_: Set) -> list[str]:
    """Lines that must stand in nothing that students get."""
    lines = []
    for cell in set_.cells:
        if cell.role in ("judge", "variant", "wrong", "written", "teacher"):
            lines += cell.text.splitlines()
        for _, block in SOLUTION.findall(cell.text):
            lines += block.splitlines()
    public = "\n".join(cell.stub for cell in set_.of(*FOR_ALL))
    stripped = (line.strip() for line in lines)
    return sorted({line for line in stripped if len(line) > 14 and line not in public})


def refuse_leaks(set_: Set, text: str) -> None:
    """Search a student's file, as it is and as JSON writes it, for each hidden line."""
    for line in hidden(set_):
        if line in text or json.dumps(line)[1:-1] in text:
            raise Leak(f"{set_.name}: what students get shows {line!r}")


def refuse_wrong_sums(set_: Set) -> None:
    """What a heading and the first lines promise is what the parts and the questions give."""
    said, given, problem = {}, {}, ""
    for cell in set_.cells:
        if heading := POINTS.search(cell.text):
            problem, said[heading[1]], given[heading[1]] = heading[1], float(heading[2]), 0.0
        elif problem and cell.role in ("judge", "written"):
            given[problem] += set_.points[cell.name]
    for problem, points in said.items():
        if points != given[problem]:
            where = f"{set_.name}, {problem}: {points:g} points in its heading"
            raise ValueError(f"{where}, {given[problem]:g} given")
    total = re.search(r"(\d+) points", set_.cells[0].text)
    if total and float(total[1]) != sum(set_.points.values()):
        where = f"{set_.name}: {total[0]} in its first lines"
        raise ValueError(f"{where}, {sum(set_.points.values()):g} given")


def seed_of(course: Path) -> str:
    """The course's secret. It is drawn here: one that a person thinks of can be guessed."""
    file, wanted = course / "seed", os.environ.get("SEED")
    if not file.exists():
        seed = wanted or secrets.token_hex(16)
        if len(seed) < 16:
            raise ValueError("SEED must have at least 16 characters that nobody can guess")
        course.mkdir(parents=True, exist_ok=True)
        file.touch(0o600)
        file.write_text(seed)
    kept = file.read_text().strip()
    if wanted and wanted != kept:
        raise ValueError(f"{course} has a seed already, which is not SEED: take another folder")
    return kept


def release(course: Path, names: list[str], folder: Path = source.FOLDER) -> None:
    """Write the folder of a course."""
    seed, book = seed_of(course), Book(source.ROOT)
    examine(course, seed, book)
    for name in names or source.names():
        set_ = source.read(name, seed, book, folder)
        refuse_wrong_sums(set_)
        setup = book.links.setup()
        for file, text in {
            f"source/{name}/{name}.ipynb": for_nbgrader(set_, setup),
            f"teacher/{name}.ipynb": teacher(set_, setup),
            f"teacher/{name}.html": sheet(set_),
            f"judge/{name}.py": set_.judge,
            f"judge/{name}.json": json.dumps(about(set_, setup), indent=1),
        }.items():
            write(course / file, text)
        handed = gradebook.generate(course, name)
        try:
            refuse_leaks(set_, handed)
        except Leak:
            gradebook.withdraw(course, name)
            raise
        pack(course / f"zip/{name}.zip", f"{name}/{name}.ipynb", handed)
        print(f"{course}/release/{name}/{name}.ipynb: {sum(set_.points.values()):g} points")


def examine(course: Path, seed: str, book: Book) -> None:
    """Questions for an examination with this course's numbers, without and with their answers."""
    exam = source.read("Exam", seed, book)
    questions = "\n\n".join(cell.text for cell in exam.of("text"))
    answers = "\n\n".join(
        cell.text if cell.role == "text" else f"**Answer.** {cell.text}"
        for cell in exam.of("text", "written")
    )
    write(course / "teacher/exam-questions.html", page(exam.title, questions))
    write(course / "teacher/exam-answers.html", page(exam.title, answers))


def about(set_: Set, setup: str) -> dict:
    """What grading needs to know of a set besides its judge."""
    graded = {
        gradebook.grade_id(c): gradebook.problems(set_, c) for c in set_.of("answer", "written")
    }
    handed = nbformat.reads(student(set_, setup), 4).cells
    return {
        "title": set_.title,
        "points": set_.points,
        "written": [
            {"name": c.name, "points": c.points, "answer": c.text} for c in set_.of("written")
        ],
        "cells": {name: problems for name, problems in graded.items() if problems},
        "handed out": [cell.source for cell in handed if cell.cell_type == "markdown"],
    }


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")


def pack(file: Path, name: str, text: str) -> None:
    """A zip of one file, the same to the byte each time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        archive.writestr(ZipInfo(name), text, ZIP_DEFLATED)


def public() -> dict[str, str]:
    """The students' notebooks with the public constants, by name."""
    book, texts = Book(source.ROOT), {}
    for name in source.names():
        set_ = source.read(name, PUBLIC, book)
        texts[name] = student(set_, book.links.setup())
        refuse_leaks(set_, texts[name])
    return texts


def publish(check: bool = False) -> int:
    """Write ``assignments/student/``, or only say what there is out of step."""
    folder = source.FOLDER / "student"
    texts = {folder / f"{name}.ipynb": text for name, text in public().items()}
    old = {file: file.read_text("utf-8") for file in folder.glob("*.ipynb")}
    changed = [file for file, text in texts.items() if old.get(file) != text]
    gone = [file for file in old if file not in texts]
    for file in changed + gone:
        print(f"assignments/student/{file.name} {'is out of step' if check else 'written'}")
    if check:
        return int(bool(changed or gone))
    folder.mkdir(exist_ok=True)
    for file in changed:
        file.write_text(texts[file], "utf-8")
    for file in gone:
        file.unlink()
    return 0
