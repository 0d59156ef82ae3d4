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

STYLE = (
    "body{font:1rem/1.5 system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{border:1px solid #999;padding:.2rem .5rem;"
    "text-align:left;vertical-align:top}pre{white-space:pre-wrap;background:#8882;padding:.5rem}"
)
FORMULA = re.compile(
    r'<(?:span class="math inline|div class="math block)">(.*?)</(?:span|div)>', re.S
)


def page(title: str, markdown: str) -> str:
    """Markdown of ours with formulas as a page that needs no other file."""
    parser = create_md_parser(MdParserConfig(enable_extensions={"dollarmath"}), RendererHTML)

    def formula(found: re.Match) -> str:
        display = "block" if "block" in found[0][:30] else "inline"
        return convert(unescape(found[1]).strip(), display=display)

    return document(title, FORMULA.sub(formula, parser.render(markdown)))


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
    rows = [row(("problem", "part", "points", ""), "th")]
    for mark in result["marks"]:
        words = f"{mark['why'] + '. ' if mark['why'] else ''}{mark['hint']}"
        points = f"{mark['points']:g} of {mark['of']:g}"
        rows.append(row((mark["problem"], mark["part"], points, words)))
    for question in about["written"]:
        points = result["written"].get(question["name"])
        words = "not marked yet" if points is None else f"{points:g} of {question['points']:g}"
        rows.append(row((question["name"], "written answer", words, "")))
    notes = "".join(f"<li>{escape(note)}</li>" for note in result["notes"])
    total = f"{result['total']:g} of {sum(about['points'].values()):g} points"
    body = f"<h1>{escape(title)}</h1><p>{total}. {escape(result['state'])}</p>"
    return document(title, f"{body}<table>{''.join(rows)}</table><ul>{notes}</ul>")


def for_reader(about: dict, results: list[dict]) -> str:
    """All written answers, question by question, each below its model answer and rubric."""
    pieces = [f"<h1>{escape(about['title'])}: written answers</h1><p>Marks go to written.csv.</p>"]
    for question in about["written"]:
        name, points = question["name"], question["points"]
        model = re.search(r"<style>.*?</style>(.*)</html>", page("", question["answer"]), re.S)[1]
        pieces.append(f"<h2>{escape(name)} ({points:g} points)</h2><h3>Model answer</h3>{model}")
        for result in results:
            answer = result["answers"].get(name)
            words = "NOT FOUND: look into the notebook" if answer is None else answer or "(empty)"
            student = escape(result["student"])
            pieces.append(f"<h3>{student}</h3><pre>{escape(words)}</pre>")
    return document(about["title"], "".join(pieces))


# ------------------------------------------------------------------------------------------- tables


def safe(value: str) -> str:
    """Spreadsheets run what begins like a formula."""
    return "'" + value if value[:1] in tuple("=+-@\t\r") else value


def table(file: Path, rows: Iterable[Iterable]) -> None:
    with open(file, "w", newline="", encoding="utf-8") as target:
        csv.writer(target).writerows(
            [safe(v) if isinstance(v, str) else v for v in r] for r in rows
        )


def tables(folder: Path, about: dict, results: list[dict], entered: dict) -> None:
    """marks.csv for Moodle and for spreadsheets, canvas.csv, and written.csv to be filled in."""
    problems, most = list(about["points"]), sum(about["points"].values())
    found = [problem_points(about, result) for result in results]
    head = ["student", "total", *problems, "state", "notes"]
    rows = [
        [r["student"], r["total"], *[p.get(name, "") for name in problems], r["state"]]
        + [" ".join(r["notes"])]
        for r, p in zip(results, found, strict=True)
    ]
    table(folder / "marks.csv", [head, ["points possible", most, *about["points"].values()], *rows])
    canvas = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", about["title"]]]
    canvas.append(["Points Possible", "", "", "", "", most])
    canvas += [[r["student"], "", "", r["student"], "", r["total"]] for r in results]
    table(folder / "canvas.csv", canvas)
    names = [question["name"] for question in about["written"]]
    entered = {r["student"]: {} for r in results} | entered
    rows = [[s, *[points.get(name, "") for name in names]] for s, points in entered.items()]
    table(folder / "written.csv", [["student", *names], *rows])


def problem_points(about: dict, result: dict) -> dict[str, float]:
    points = {name: value for name, value in result["written"].items() if value is not None}
    for mark in result["marks"]:
        points[mark["problem"]] = points.get(mark["problem"], 0) + mark["points"]
    return points
