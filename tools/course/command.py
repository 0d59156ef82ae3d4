"""The command line: release, grade, publish, slides."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from pathlib import Path

from notebooks.read import ExportError


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, do what they say, return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except (ValueError, OSError, ExportError) as error:
        print(f"course: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="course", description="Problem sets that grade themselves."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    release = commands.add_parser("release", help="write a course's notebooks and judges")
    release.add_argument("course", type=_folder, help="a folder, made where there is none")
    release.add_argument("sets", nargs="*", help="such as foundations (default: all)")
    release.set_defaults(command=_release)
    grade = commands.add_parser("grade", help="grade a folder of submissions")
    grade.add_argument("course", type=_folder)
    grade.add_argument("set", help="such as foundations")
    grade.add_argument(
        "submissions", type=_folder, help="STUDENT.ipynb, or STUDENT/ with a notebook"
    )
    grade.add_argument("--workers", type=int, default=2, help="submissions at a time (default: 2)")
    grade.set_defaults(command=_grade)
    publish = commands.add_parser("publish", help="write assignments/student/")
    publish.add_argument("--check", action="store_true", help="only say what is out of step")
    publish.set_defaults(command=_publish)
    slides = commands.add_parser("slides", help="write _build/slides/ from the built book")
    slides.set_defaults(command=_slides)
    return parser


def _slides(options: argparse.Namespace) -> None:
    from .slides import ROOT, write

    for deck in write(ROOT / "_build" / "slides"):
        print(deck)


def _release(options: argparse.Namespace) -> None:
    from .release import release

    os.umask(0o077)  # seed and judges are nobody else's
    release(options.course.resolve(), options.sets)


def _grade(options: argparse.Namespace) -> None:
    from .grade import grade

    os.umask(0o077)  # marks are nobody else's
    course = options.course.resolve()
    results = grade(course, options.set, options.submissions, options.workers)
    for state, students in itertools.groupby(sorted(results, key=_state), _state):
        names = [result["student"] for result in students]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
        print(f"{len(names)}: {state} ({shown})")
    print(f"{len(results)} submissions: {course}/marks/{options.set}/marks.csv")


def _state(result: dict) -> str:
    return result["state"]


def _folder(text: str) -> Path:
    """A path; make passes on the ~ that a shell would have replaced."""
    return Path(text).expanduser()


def _publish(options: argparse.Namespace) -> int:
    from .release import publish

    return publish(options.check)
