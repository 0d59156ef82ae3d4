"""What a chapter promises its readers, checked on its source."""

import pathlib
import re

import pytest
from pybtex.database import parse_file

BOOK = pathlib.Path(__file__).parents[1] / "book"
CHAPTERS = {str(p.relative_to(BOOK)): p.read_text() for p in sorted(BOOK.rglob("*.md"))}
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

LINES_OF_A_CHAPTER = 600
LINES_OF_A_CELL = 15  # those that a reader sees without asking
WIDTH_OF_CODE = 72  # what a column shows, and a phone nearly


def complaints(source: str) -> list[str]:
    """Where a chapter's source breaks its promises."""
    found = []
    if (length := source.count("\n")) > LINES_OF_A_CHAPTER:
        found.append(f"{length} lines: split the chapter at {LINES_OF_A_CHAPTER}")
    for cell in CELL.findall(source):
        options, lines = _split(cell)
        if "hide-input" not in options and len(lines) > LINES_OF_A_CELL:
            found.append(f"{len(lines)} lines in the cell that begins {lines[0]!r}: show the idea")
        found += [f"{len(line)} columns: {line}" for line in lines if len(line) > WIDTH_OF_CODE]
        drawn = [k for k, line in enumerate(lines) if line.startswith(("figure(", "explore("))]
        if drawn and any(line[0] not in " )" for line in lines[drawn[0] + 1 :]):
            found.append(f"a figure in the cell that begins {lines[0]!r} is not its last value")
    return found


PARTS = ("foundations/", "song2024/")


def shortcomings(source: str, opens: bool) -> list[str]:
    """What a page of a part lacks; the one that ``opens`` a part states results and explores none."""
    found = []
    if (drills := len(re.findall(r"^Drill\.", source, re.MULTILINE))) < 4:
        found.append(f"{drills} drills: four at least")
    if not opens and not re.search(r"^explore\(", source, re.MULTILINE):
        found.append("no explorer")
    for cell in CELL.findall(source):
        if re.search(r"^figure\(", cell, re.MULTILINE):
            break
        options, lines = _split(cell)
        if "hide-input" not in options:
            found.append(f"{lines[0]!r} comes before the first figure")
    return found


@pytest.mark.parametrize("name", [n for n in CHAPTERS if n.startswith(PARTS)])
def test_a_chapter_draws_first_and_lets_its_reader_play_and_drill(name):
    assert shortcomings(CHAPTERS[name], opens=name.endswith("index.md")) == []


def test_a_page_without_drills_figure_or_explorer_is_noticed():
    page = cell("x = 1") + cell("figure(", ")", options=":tags: [hide-input]")
    assert shortcomings(page, opens=False) == [
        "0 drills: four at least", "no explorer", "'x = 1' comes before the first figure"
    ]  # fmt: skip
    assert shortcomings("Drill. One.\n" * 4, opens=True) == []


def _split(cell: str) -> tuple[str, list[str]]:
    lines = cell.strip("\n").split("\n")
    options = [line for line in lines if line.startswith(":")]
    return " ".join(options), [line for line in lines[len(options) :] if line.strip()]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_is_short_and_its_cells_are_readable(name):
    assert complaints(CHAPTERS[name]) == []


def cell(*lines, options=""):
    return "\n".join(
        ["```{code-cell} ipython3", *([options] if options else []), *lines, "```", ""]
    )


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("\n" * 601, "601 lines: split"),
        (cell(*["x = 1"] * 16), "16 lines in the cell that begins 'x = 1'"),
        (cell("x" * 73), "73 columns"),
        (cell("x" * 73, options=":tags: [hide-input]"), "73 columns"),
        (cell("x = 1", "figure(", "    x,", ")", "assert x"), "a figure in the cell that begins"),
    ],
)
def test_a_broken_promise_is_noticed(source, complaint):
    (found,) = complaints(source)
    assert found.startswith(complaint)


def test_a_hidden_cell_may_be_long():
    assert complaints(cell(*["x = 1"] * 30, options=":tags: [hide-input]")) == []


def test_no_two_references_are_cited_alike():
    """Two papers of the same authors and year are told apart by a letter after the year."""
    entries = parse_file(BOOK / "references.bib", "bibtex").entries
    cited = {}
    for key, entry in entries.items():
        people = [" ".join(person.last_names) for person in entry.persons["author"]]
        who = " and ".join(people) if len(people) < 3 else f"{people[0]} et al."
        cited.setdefault((who, entry.fields["year"]), []).append(key)
    assert len(entries) > 50 and not [keys for keys in cited.values() if len(keys) > 1]
