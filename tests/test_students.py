"""What students open needs the library and what the library brings, and nothing else."""

import json
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
from course import source
from notebooks.number import Book

NOTEBOOKS = sorted((source.FOLDER / "student").glob("*.ipynb"))

# Imports what the library requires, directly or not, and refuses all else that is installed.
BARE = """
import importlib.metadata as md, json, re, sys
from packaging.requirements import Requirement

def closure(name, seen):
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name not in seen:
        try: requires = md.requires(name) or []
        except md.PackageNotFoundError: return seen
        seen.add(name)
        for one in map(Requirement, requires):
            if one.marker is None or one.marker.evaluate({"extra": ""}): closure(one.name, seen)
    return seen

kept = set()
for name in json.loads(sys.argv[2]): closure(name, kept)
owners = md.packages_distributions()
others = {module for module, names in owners.items()
          if not {re.sub(r"[-_.]+", "-", n).lower() for n in names} & kept} - {"descent"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in others:
            raise ModuleNotFoundError(f"No module named {name!r} in a bare environment")
sys.meta_path.insert(0, Refuse())

space, failed = {}, []
for number, (text, may_fail) in enumerate(json.load(open(sys.argv[1]))):
    try: exec(compile(text, f"cell {number}", "exec"), space)
    except NotImplementedError: assert may_fail, number
print("pytest" in others, "nbgrader" in others, "done")
"""


def requirements():
    project = tomllib.loads((source.ROOT / "pyproject.toml").read_text())["project"]
    return [entry.split(">=")[0] for entry in project["dependencies"]]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_student_needs_nothing_but_the_library(file, tmp_path):
    cells = [
        (
            cell.source.replace("    %pip", "    pass  # %pip"),
            "raises-exception" in str(cell.metadata),
        )
        for cell in nbformat.read(file, 4).cells
        if cell.cell_type == "code"
    ]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    command = [sys.executable, "-c", BARE, str(tmp_path / "cells.json"), json.dumps(requirements())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("True True done"), done.stderr[-2000:]


def test_there_is_a_notebook_for_each_set():
    assert [file.stem for file in NOTEBOOKS] == source.names()


def test_the_course_page_opens_each_set_and_says_its_points():
    page = (source.ROOT / "book/course/index.md").read_text("utf-8")
    book = Book(source.ROOT)
    told = re.findall(r"^\*\*\d\. .*?, (\d+) points.*\{problems\}`(\w+)`\.$", page, re.M)
    true = {name: sum(source.read(name, "x", book).points.values()) for name in source.names()}
    assert {name: float(points) for points, name in told} == true


def needed():
    """The chapters that each set of the course page asks for, by its number there."""
    page = (source.ROOT / "book/course/index.md").read_text("utf-8")
    names = re.findall(r"^\*\*\d\. .*\{problems\}`(\w+)`\.$", page, re.M)
    texts = [(source.FOLDER / f"{name}.md").read_text("utf-8") for name in names]
    return [set(chapters(text.split("\n## ")[0])) for text in texts]


def chapters(text):
    return re.findall(r"\{doc\}`/(\w+/\w+)`", text)


def due_before_read(plan):
    """Sets that a plan's table collects before it has come to all of their chapters."""
    read, early = set(), []
    for line in re.findall(r"^\| \d+ \|.*$", plan, re.M):
        read |= set(chapters(line))
        (number,) = re.findall(r"in: set (\d)", line) or [0]
        if number and needed()[int(number) - 1] - read:
            early.append(int(number))
    return early


def plans():
    page = (source.ROOT / "book/course/syllabus.md").read_text("utf-8")
    return page.split("\n## ")[1:3]


@pytest.mark.parametrize("plan", plans(), ids=["six weeks", "twelve weeks"])
def test_no_set_is_due_before_its_chapters_are_read(plan):
    assert re.findall(r"in: set (\d)", plan) == re.findall(r"out: set (\d)", plan)
    assert due_before_read(plan) == []
    assert due_before_read(plan.replace("/foundations/span", "/foundations/momentum")) == [1]
    assert due_before_read(plan.replace("/vasudeva2024/traps", "traps")) == [5]
