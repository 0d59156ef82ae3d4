"""Slides of each part, from its chapters: ``python tools/course slides`` after ``make book``.

Nothing is written twice. A section's title and its first sentences make a slide; so does each box
with a theorem or a definition, each figure as the book has it, and each drill, its answer one step
later. All other prose, the proofs too, becomes the notes that the speaker's window shows (key S).
nbconvert writes the deck for Reveal.js, and everything it loads lies beside it.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import nbformat
import yaml
from jupyter_cache import get_cache
from nbconvert import SlidesExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebooks.number import Book
from notebooks.read import ADMONITIONS, STATEMENTS, Block, Page
from notebooks.write import Writer

from .source import ROOT

TEMPLATES = Path(__file__).parent
NOT_SHOWN = ("Where to read more", "Exercises")
FORMULA = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)|\$\$(.+?)\$\$|(?<!\\)\$((?:\\.|[^$\\])+?)\$", re.S)
DRILL = re.compile(r"^\W*Drill\.[*_]*\s*")  # but not the $ of a formula that comes next
GAP = re.compile(r"\s+(?=[.,;:](?:\s|$))")  # where a claim stood, which a slide leaves out
SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z◊])")
OPENING = 320  # characters of a section's first paragraph that a slide may show, in whole sentences
FIGURE = re.compile(r'class="descent-(?:figure|explorer)')


class SlideWriter(Writer):
    """Cells of a deck from the blocks of a chapter. A formula is ◊7◊ until the deck is written."""

    def __init__(self, book: Book, page: Page, outputs: list[list], typeset: Callable):
        super().__init__(book, page)
        self.outputs, self.typeset, self.formulas = iter(outputs), typeset, []
        self.asked, self.unfinished = set(drills(page)), False

    def link(self, words: str, page: Page) -> str:
        return words

    def claim(self, name: str, line: int) -> str:
        return ""

    def deck(self) -> Iterator:
        section, opening = "", False
        for block in self.page.blocks:
            if block.level:
                section, opening = block.body, True
                if section not in NOT_SHOWN:
                    yield self.text(self.write(block), "slide" if block.level == 1 else "subslide")
            elif block.kind == "code-cell":
                yield from map(_figure, next(self.outputs))
            elif section == "Exercises":
                yield from self.drill(block)
            elif section not in NOT_SHOWN and (written := self.write(block).strip()):
                for kind, piece in self.pieces_of(block, written, opening):
                    opening = False
                    yield self.text(piece, kind)

    def pieces_of(self, block: Block, written: str, opening: bool) -> Iterator[tuple[str, str]]:
        """A block as pieces for the slide and for the notes. A formula is for the slide if the
        chapter numbers it, or if the sentence above it on the slide ends with it."""
        unfinished, self.unfinished = self.unfinished, False
        if block.kind in STATEMENTS | ADMONITIONS and not block.folded:
            yield "subslide", re.sub("^> ?", "", written, flags=re.M)
        elif block.kind == "math" and (block.label or unfinished):
            yield "-", written
        elif block.kind != "text":
            yield "notes", written
        else:
            for paragraph in re.split(r"\n{2,}", written):
                if paragraph.startswith("|"):
                    yield "subslide", paragraph
                    continue
                if opening:
                    shown, opening = self.begin(paragraph), False
                    self.unfinished = not shown.endswith((".", "?", "!", ")"))
                    yield "-", shown
                yield "notes", paragraph

    def begin(self, paragraph: str) -> str:
        """Its first sentences: two or three short ones, or a long one."""
        formulas = []

        def hide(found):
            formulas.append(found[0])
            return f"◊{len(formulas) - 1}◊"

        first, *rest = SENTENCE.split(FORMULA.sub(hide, paragraph))
        for sentence in rest:
            if len(first) + len(sentence) > OPENING:
                break
            first += " " + sentence
        return re.sub("◊(.+?)◊", lambda found: formulas[int(found[1])], first)

    def drill(self, block: Block) -> Iterator:
        """The question, and then its answer."""
        if block.kind == "exercise" and block.label in self.asked:
            question = DRILL.sub("", self.inside(block))
            yield self.text(f"**Question.** {question}", "subslide")
        elif block.kind == "solution" and block.title in self.asked:
            yield self.text(self.inside(block), "fragment")

    def text(self, markdown: str, kind: str):
        def hide(found):
            if found[1]:
                return found[0]
            self.formulas.append(self.typeset(unescape(found[2] or found[3]), bool(found[2])))
            return f"◊{len(self.formulas) - 1}◊"

        return _slide(new_markdown_cell(GAP.sub("", FORMULA.sub(hide, markdown))), kind)

    def show(self, html: str) -> str:
        return re.sub("◊(.+?)◊", lambda found: self.formulas[int(found[1])], html)


def drills(page: Page) -> list[str]:
    """Labels of the exercises that say that they are drills, or else of the shortest four."""
    answers = {block.title: block.body for block in page.blocks if block.kind == "solution"}
    asked = [b for b in page.blocks if b.kind == "exercise" and b.label in answers]
    named = [block.label for block in asked if DRILL.match(block.body)]
    by_length = sorted(asked, key=lambda block: len(block.body) + len(answers[block.label]))
    return named or [block.label for block in by_length[:4]]


def _slide(cell, kind: str):
    cell.metadata["slideshow"] = {"slide_type": kind}
    return cell


def _figure(html: str):
    return _slide(
        new_code_cell(outputs=[new_output("display_data", {"text/html": html})]), "subslide"
    )


# --------------------------------------------------------------------- what the built book has run


def parts(book: Book) -> dict[str, tuple[str, list[str]]]:
    """Name, title and chapters of each numbered part."""
    found = {}
    for tree in book.toc[book.toc.root.docname].subtrees:
        if tree.numbered:
            chapters = list(map(str, tree.items))
            found[chapters[0].split("/")[0]] = tree.caption, chapters
    return found


def figures(root: Path) -> Callable[[str], list[list[str]]]:
    """For a page, what its code cells drew when the book was built, cell by cell."""
    import build

    config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    pages, cache = build.notebooks(root, config), get_cache(root / "_build" / ".jupyter_cache")

    def of(name: str) -> list[list[str]]:
        try:
            record = cache.match_cache_notebook(pages[name])
        except KeyError:
            raise ValueError(f"{name} has not been run: `make book` first") from None
        cells = cache.get_cache_bundle(record.pk).nb.cells
        return [_drawn(cell) for cell in cells if cell.cell_type == "code"]

    return of


def _drawn(cell) -> list[str]:
    shown = [output.get("data", {}).get("text/html", "") for output in cell.outputs]
    return [_typeset_output("".join(html)) for html in shown if FIGURE.search("".join(html))]


def _typeset_output(html: str) -> str:
    """A section in a slide would be a slide to Reveal.js."""
    from sphinx_katex import WITH_TEX, typeset

    html = re.sub(r"<(/?)section\b", r"<\1div", html).replace("section.descent", "div.descent")
    return WITH_TEX.sub(lambda found: typeset(unescape(found[1])), html)


# -------------------------------------------------------------------------------------- the decks


def write(target: Path, root: Path = ROOT) -> list[Path]:
    """A deck for each part, and what they load, into a folder; the files of the decks."""
    book, of, made = Book(root), figures(root), []
    target.mkdir(parents=True, exist_ok=True)
    for name, (title, chapters) in parts(book).items():
        made.append(target / f"{name}.html")
        made[-1].write_text(deck(book, title, chapters, of), "utf-8")
    copy_what_they_load(target, root)
    return made


def deck(book: Book, title: str, chapters: list[str], of: Callable) -> str:
    from sphinx_katex import typeset

    shown = []
    for chapter in chapters:
        writer = SlideWriter(book, book.pages[chapter], of(chapter), typeset)
        shown.append(writer.show(_export(title, list(writer.deck()))))
    head, _, rest = shown[0].partition("<!-- slides -->")
    tail = rest.rpartition("<!-- end of slides -->")[2]
    inside = [
        page.partition("<!-- slides -->")[2].rpartition("<!-- end of slides -->")[0]
        for page in shown
    ]
    return head + "".join(inside) + tail


def _export(title: str, cells: list) -> str:
    exporter = SlidesExporter(
        template_name="slides_template",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    book = new_notebook(cells=cells, metadata={"title": title})
    return exporter.from_notebook_node(nbformat.from_dict(book))[0]


def copy_what_they_load(target: Path, root: Path) -> None:
    """Reveal.js from the package that carries it, KaTeX's style and the fonts from the book."""
    package = Path(importlib.util.find_spec("sphinx_revealjs").origin).parent
    reveal = package / "_static" / "revealjs"
    for file in ("dist/reveal.js", "dist/reveal.css", "plugin/notes/notes.js", "LICENSE"):
        (target / "reveal" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(reveal / file, target / "reveal" / file)
    for folder in ("katex", "fonts"):
        shutil.copytree(root / "book/static" / folder, target / folder, dirs_exist_ok=True)
    for file in ("slides.css", "slides.js"):
        shutil.copy(TEMPLATES / "slides_template" / file, target)
