"""Read a problem set: ``assignments/NAME.md``, MyST Markdown like a page of the book.

The first tag of a code cell says what it is, the second names a function of the student's:

    draw           draw(rng) gives this course's constants; <<name>> is replaced by them everywhere
    given          code that everyone gets
    answer F       the model answer; students get it without what is between the two marks
    check F        what a student can see: tests that teach
    judge F        the parts that decide (see ``judge``)
    variant F      another right answer, on which the judge is tested
    wrong F 4      a wrong answer, which is worth 4 points

An admonition of class ``written`` is a question for a person, its title a name and points, its text
the model answer with the rubric; one of class ``teacher`` is for teachers only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from notebooks.number import Book
from notebooks.read import Page, parse
from notebooks.write import Writer

from . import judge
from .values import generator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "assignments"
DRAW = re.compile(r"^```\{code-cell\}[^\n]*\n:tags: \[draw\]\n(.*?)^```\n", re.M | re.S)
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION$", re.M | re.S)
STUB = r"\1raise NotImplementedError  # your code here"
WRITE_HERE = "*Write below this line.*\n"
FOR_ALL = ("text", "given", "answer", "check", "written")


@dataclass
class Cell:
    role: str
    text: str
    name: str = ""
    points: float = 0.0

    @property
    def stub(self) -> str:
        """What a student finds here."""
        if self.role == "written":
            return WRITE_HERE
        return SOLUTION.sub(STUB, self.text)


@dataclass
class Set:
    """A problem set with the constants of one course."""

    name: str
    title: str
    cells: list[Cell] = field(default_factory=list)

    def of(self, *roles: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.role in roles]

    @cached_property
    def judge(self) -> str:
        """The Python of its judge, which is a file of its own, and in no notebook."""
        return "\n\n".join(f"PROBLEM = {c.name!r}\n{c.text}" for c in self.of("judge")) + "\n"

    @cached_property
    def parts(self) -> list[judge.Part]:
        return judge.read(self.judge)

    @property
    def points(self) -> dict[str, float]:
        """Points by problem, in the order of the set."""
        found = dict.fromkeys((c.name for c in self.of("judge")), 0.0)
        for part in self.parts:
            found[part.problem] += part.points
        return found | {c.name: c.points for c in self.of("written")}


class SetWriter(Writer):
    """Writes the text of a set. It leaves the repository, so its links are addresses."""

    def link(self, words: str, page: Page) -> str:
        links = self.book.links
        return f"[{words}]({links.url}/blob/{links.branch}/notebooks/{page.name}.ipynb)"

    def set_cells(self):
        text = []
        for block in [*self.page.blocks, None]:
            special = block and self.special(block)
            if block is None or special or block.kind == "break" or block.level in (1, 2):
                if joined := "\n\n".join(p for piece in text if (p := piece.strip())):
                    yield Cell("text", joined)
                text.clear()
            if special:
                yield special
            elif block:
                text.append(self.write(block) if block.kind != "break" else "")

    def special(self, block) -> Cell | None:
        """The cell that a block is, unless it is text."""
        if block.kind == "code-cell":
            role, *rest = map(str, block.options["tags"])
            points = float(rest[1]) if rest[1:] else 0.0
            return Cell(role, block.body.strip("\n"), rest[0] if rest else "", points)
        kind = str(block.options.get("class", ""))
        if block.kind != "admonition" or kind not in ("written", "teacher"):
            return None
        name, _, points = block.title.partition(" ")
        if kind == "teacher":
            return Cell(kind, f"**{block.title}** {self.inside(block)}")
        return Cell(kind, self.inside(block), name, float(points))


def names() -> list[str]:
    """The sets there are. What else lies beside them begins with a capital."""
    return sorted(file.stem for file in FOLDER.glob("*.md") if file.stem.islower())


def read(name: str, seed: str, book: Book, folder: Path = FOLDER) -> Set:
    """The set with the constants that the seed draws."""
    file = folder / f"{name}.md"
    if not file.exists():
        raise ValueError(f"there is no set {name}, but {', '.join(names())}")
    page = Page(f"../assignments/{name}", file)
    text = with_constants(file.read_text("utf-8"), generator(seed, name, "constants"))
    page.blocks = parse(text, page, 1, book.markdown)
    page.title = next(block.body for block in page.blocks if block.level == 1)
    return Set(name, page.title, list(SetWriter(book, page).set_cells()))


def with_constants(text: str, rng) -> str:
    """The text with the draw's constants in place of their names."""
    drawn = constants(text, rng)
    return text if drawn is None else filled(text, drawn)


def constants(text: str, rng) -> dict | None:
    """What the draw gives by name; None without a draw."""
    found, space = DRAW.search(text), {}
    if found:
        exec(found[1], space)
        return space["draw"](rng)
    return None


def filled(text: str, drawn: dict) -> str:
    return re.sub(r"<<(\w+)>>", lambda name: str(drawn[name[1]]), DRAW.sub("", text))
