"""A course for nbgrader: its folders, its releases, and the marks in its gradebook.

``release`` writes ``source/SET/SET.ipynb``; nbgrader makes of it ``release/SET/SET.ipynb``, which
students get, and enters the questions into ``gradebook.db``. So the course can be handed out and
collected by JupyterHub's exchange. Marks come from our judges: ``nbgrader autograde`` would find no
hidden tests in these notebooks, and would overwrite the marks with nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from .feedback import problem_points
from .source import WRITE_HERE, Cell, Set

FUNCTION = re.compile(r"^def (\w+)\(", re.M)
SETTINGS = """# nbgrader's settings for this course. Written once: what you change here stays.
c = get_config()
c.CourseDirectory.course_id = {course!r}
c.ClearSolutions.code_stub = {{"python": "raise NotImplementedError  # your code here"}}
c.ClearSolutions.text_stub = ""
"""


def grade_id(cell: Cell) -> str:
    return f"{cell.role}-{cell.name.replace('_', '-')}"


def problems(set_: Set, cell: Cell) -> list[str]:
    """The problems whose points are won in a cell: the functions that it is to define."""
    if cell.role == "written":
        return [cell.name]
    judged = {part.problem for part in set_.parts}
    return [name for name in FUNCTION.findall(cell.text) if name in judged]


def marked(cell: Cell) -> str:
    """Its text as nbgrader cuts it: what lies between the two marks is not handed out."""
    if cell.role == "written":
        return f"{WRITE_HERE}### BEGIN SOLUTION\n{cell.text}\n### END SOLUTION"
    return cell.text


def metadata(set_: Set, cell: Cell) -> dict:
    """An answer that a person marks, in nbgrader's words: it has nothing to run."""
    points = sum(set_.points[name] for name in problems(set_, cell))
    kind = {"solution": True, "grade": points > 0, "locked": False, "task": False}
    if points:
        kind["points"] = points
    return kind | {"schema_version": 3, "grade_id": grade_id(cell)}


def settings(course: Path) -> Config:
    """What nbgrader_config.py of the course says, written where there is none."""
    file = course / "nbgrader_config.py"
    if not file.exists():
        file.write_text(SETTINGS.format(course=course.name), "utf-8")
    config = PyFileConfigLoader(file.name, path=str(course)).load_config()
    config.CourseDirectory.root = str(course)
    return config


def generate(course: Path, name: str) -> str:
    """Let nbgrader make the students' notebook; its text."""
    forget_other_questions(course, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nbgrader.apps import NbGraderAPI

        # nbgrader starts alembic by name, for a new gradebook.
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = NbGraderAPI(config=settings(course)).generate_assignment(name)
    if not done["success"]:
        raise ValueError(f"nbgrader made no release of {name}: {done.get('error') or done['log']}")
    return (course / f"release/{name}/{name}.ipynb").read_text("utf-8")


def forget_other_questions(course: Path, name: str) -> None:
    """Take marks out of the gradebook that were given for other questions than are asked now.

    While there are any, nbgrader makes no release. Grading enters all marks anew.
    """
    if not (course / "gradebook.db").exists():
        return
    source = nbformat.read(course / f"source/{name}/{name}.ipynb", 4)
    cells = [cell.metadata.nbgrader for cell in source.cells if "nbgrader" in cell.metadata]
    asked = [{cell.grade_id for cell in cells if cell[kind]} for kind in ("grade", "solution")]
    with open_gradebook(course) as book:
        marked = [s.student.id for s in book.assignment_submissions(name)]
        if not marked:
            return
        known = book.find_notebook(name, name)
        if asked == [
            {cell.name for cell in kind} for kind in (known.grade_cells, known.solution_cells)
        ]:
            return
        for student in marked:
            book.remove_submission(name, student)
    print(
        f"{name}: its questions have changed; submissions taken out of the gradebook: "
        f"{len(marked)}. Grade them again.",
        file=sys.stderr,
    )


def withdraw(course: Path, name: str) -> None:
    shutil.rmtree(course / "release" / name)


# -------------------------------------------------------------------------------------------- marks


@contextmanager
def open_gradebook(course: Path) -> Iterator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy's, on nbgrader
        from nbgrader.api import Gradebook

        course_id = settings(course).CourseDirectory.course_id
        with Gradebook(f"sqlite:///{course}/gradebook.db", course_id) as book:
            yield book


def record(course: Path, name: str, about: dict, results: list[dict]) -> None:
    """Enter the marks into the gradebook, of which `nbgrader export` writes a table."""
    with open_gradebook(course) as book:
        for result in results:
            if not result["state"].startswith("NOT GRADED"):
                _enter(book, name, about, result)
        book.db.commit()


def _enter(book, name: str, about: dict, result: dict) -> None:
    """One submission anew; what waits for a person is marked so."""
    student, won = result["student"], problem_points(about, result)
    book.update_or_create_student(student)
    if any(old.student.id == student for old in book.assignment_submissions(name)):
        book.remove_submission(name, student)
    book.add_submission(name, student)
    for grade in book.find_submission_notebook(name, name, student).grades:
        points = [won.get(problem) for problem in about["cells"][grade.name]]
        grade.needs_manual_grade = None in points
        grade.manual_score = sum(filter(None, points))


def hand_back(course: Path, name: str, student: str, page: str, notebook: Path | None) -> None:
    """Lay a page where `nbgrader release_feedback` looks, if the exchange brought the submission."""
    signs = (
        [notebook.with_name(f) for f in ("timestamp.txt", "submission_secret.txt")]
        if notebook
        else []
    )
    if not signs or not all(sign.is_file() for sign in signs):
        return
    folder = course / "feedback" / student / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.html").write_text(page, "utf-8")
    for sign in signs:
        shutil.copy(sign, folder)
