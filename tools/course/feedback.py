"""What comes of grading: pages for students and teachers, tables for a gradebook.

A page shows titles, points and hints. It shows nothing that a call printed or raised, for that could
carry hidden inputs, and it has no hidden test to show.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from html import escape, unescape
from pathlib import Path

from latex2mathml.converter import convert
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

COMPLETE, UNREADABLE = "Complete.", "The file "
STYLE = (
    "body{font:1rem/1.5 system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0}td,th{border:1px solid #999;padding:.2rem .5rem;"
    "text-align:left;vertical-align:top}pre{white-space:pre-wrap;background:#8882;padding:.5rem}"
    "@media(max-width:40rem){table{font-size:.8rem}td{overflow-wrap:anywhere}}"
)
FORMULA = re.compile(
    r'<(?:span class="math inline|div class="math block)">(.*?)</(?:span|div)>', re.S
)


def page(title: str, markdown: str) -> str:
    """Markdown of ours as a page that needs no other file."""
    return document(title, rendered(markdown))


def rendered(markdown: str) -> str:
    """Its HTML, formulas as MathML."""
    parser = create_md_parser(MdParserConfig(enable_extensions={"dollarmath"}), RendererHTML)

    def formula(found: re.Match) -> str:
        display = "block" if "block" in found[0][:30] else "inline"
        return convert(unescape(found[1]).strip(), display=display)

    return FORMULA.sub(formula, parser.render(markdown))


def document(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>{body}</html>\n'
    )


def row(cells: Iterable, tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"


def for_student(about: dict, result: dict) -> str:
    """The feedback that one student gets."""
    title = f"{about['title']}: {result['student']}"
    rows = [row(("problem", "part", "points", "what to look at"), "th")]
    for mark in result["marks"]:
        words = f"{mark['why'] + '. ' if mark['why'] else ''}{mark['hint']}"
        points = f"{mark['points']:g} of {mark['of']:g}"
        rows.append(row((mark["problem"], mark["part"], points, words)))
    for question in about["written"]:
        points = result["written"].get(question["name"])
        words = "not marked yet" if points is None else f"{points:g} of {question['points']:g}"
        rows.append(row((question["name"], "written answer", words, "")))
    notes = "".join(f"<li>{escape(note)}</li>" for note in result["notes"])
    points = f"{result['total']:g} of {sum(about['points'].values()):g} points"
    total = points if result["graded"] else "Not graded"
    told = result["state"] == COMPLETE or result["state"].startswith(UNREADABLE)
    state = result["state"] if told else "Not final: a person looks at it."
    body = f"<h1>{escape(title)}</h1><p>{total}. {escape(state)}</p>"
    return document(title, f"{body}<table>{''.join(rows)}</table><ul>{notes}</ul>")


def for_reader(about: dict, results: list[dict]) -> str:
    """All written answers, question by question, each below its model answer and rubric."""
    pieces = [f"<h1>{escape(about['title'])}: written answers</h1><p>Marks go to written.csv.</p>"]
    for question in about["written"]:
        name, points = question["name"], question["points"]
        model = rendered(question["answer"])
        pieces.append(f"<h2>{escape(name)} ({points:g} points)</h2><h3>Model answer</h3>{model}")
        for result in results:
            answer = result["answers"].get(name)
            words = "NOT FOUND: look into the notebook" if answer is None else answer or "(empty)"
            if not answer and result["stray"]:
                words += f"\n\nElsewhere in the notebook:\n\n{result['stray']}"
            student = escape(result["student"])
            pieces.append(f"<h3>{student}</h3><pre>{escape(words)}</pre>")
    return document(about["title"], "".join(pieces))


# ------------------------------------------------------------------------------------------- tables


def safe(value: str) -> str:
    """Spreadsheets run what begins like a formula."""
    return "'" + value if value[:1] in tuple("=+-@\t\r") else value


def table(file: Path, rows: Iterable[Iterable], encoding: str = "utf-8") -> None:
    with open(file, "w", newline="", encoding=encoding) as target:
        csv.writer(target).writerows(
            [safe(v) if isinstance(v, str) else v for v in r] for r in rows
        )


def tables(folder: Path, about: dict, results: list[dict], entered: dict) -> None:
    """marks.csv for spreadsheets, moodle.csv and canvas.csv, and written.csv to be filled in."""
    most = sum(about["points"].values())
    for_people = "utf-8-sig"  # by which a spreadsheet knows the encoding
    table(folder / "marks.csv", marks(about, results, most), for_people)
    table(folder / "moodle.csv", moodle(results))
    table(folder / "canvas.csv", canvas(about["title"], results, most))
    names = [question["name"] for question in about["written"]]
    entered = {r["student"]: {} for r in results} | entered
    rows = [[s, *[points.get(name, "") for name in names]] for s, points in entered.items()]
    table(folder / "written.csv", [["student", *names], *rows], for_people)


def marks(about: dict, results: list[dict], most: float) -> list[list]:
    """Everything; a total of what was graded, though answers may still wait for a person."""
    problems = list(about["points"])
    rows = [["student", "total", *problems, "state", "notes"]]
    rows.append(["points possible", most, *about["points"].values()])
    for result in results:
        total = result["total"] if result["graded"] else ""
        points = problem_points(about, result)
        row = [result["student"], total, *[points.get(name, "") for name in problems]]
        rows.append([*row, result["state"], " ".join(result["notes"])])
    return rows


def final(result: dict) -> float | str:
    """What may go to a platform: an empty field there is no grade yet, and a zero is one."""
    return result["total"] if result["state"] == COMPLETE else ""


def moodle(results: list[dict]) -> list[list]:
    """An assignment's grading worksheet, for which it must hold the first, third and fourth column;
    or, with files named by user name, what its gradebook imports.

    Moodle names the folders of its download "Full Name_12345_assignsubmission_file".
    """
    rows = [["Identifier", "Username", "Grade", "Last modified (grade)"]]
    for result in results:
        found = re.search(r"_(\d+)_assignsubmission_", result["student"])
        who = [f"Participant {found[1]}", ""] if found else ["", result["student"]]
        rows.append([*who, final(result), ""])
    return rows


def canvas(title: str, results: list[dict], most: float) -> list[list]:
    """The columns of Canvas's gradebook. It names downloads NAME_ID_ATTACHMENT_FILE.ipynb."""
    rows = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", title]]
    rows.append(["Points Possible", "", "", "", "", most])
    for result in results:
        found = re.match(r"([^_]+)_(?:LATE_)?(\d+)_\d+_", result["student"])
        who = (
            [found[1], found[2], "", ""]
            if found
            else [result["student"], "", "", result["student"]]
        )
        rows.append([*who, "", final(result)])
    return rows


def problem_points(about: dict, result: dict) -> dict[str, float]:
    points = {name: value for name, value in result["written"].items() if value is not None}
    for mark in result["marks"]:
        points[mark["problem"]] = points.get(mark["problem"], 0) + mark["points"]
    return points
