"""Write the notebooks that Colab, Binder and Jupyter open, from the pages of the book.

    python tools/notebooks.py                    write notebooks/**/*.ipynb
    python tools/notebooks.py song2024/values    this page only
    python tools/notebooks.py --check            write nothing, exit 1 if a notebook is out of step

The pages use directives and roles that only the book's builder understands. Here each becomes
plain Markdown, with the numbers that the built book shows: a chapter's number is its place among
the numbered parts of ``_toc.yml``; each kind of statement (theorem, lemma, exercise, equation) has
a counter of its own, which starts again with each chapter.

A page may refer to a later one, so all are read and numbered before the first is written. What has
no plain counterpart is an error that names the file and the line, lest raw markup reach a reader.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import posixpath
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import nbformat
import yaml
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pybtex.backends.markdown import Backend
from pybtex.database import parse_file
from pybtex.style.formatting.plain import Style
from sphinx_external_toc.parsing import parse_toc_yaml

STATEMENTS = {
    f"prf:{kind}"
    for kind in (
        "algorithm assumption axiom conjecture corollary criterion definition example "
        "lemma notation observation property proposition remark theorem"
    ).split()
}
ADMONITIONS = set(
    "admonition attention caution danger dropdown error hint important note "
    "seealso tip warning".split()
)
HOLD_MARKDOWN = STATEMENTS | ADMONITIONS | {"prf:proof", "exercise", "solution"}
UNTITLED = ADMONITIONS - {"admonition", "dropdown"} | {"prf:proof", "math"}
KNOWN = HOLD_MARKDOWN | {
    "code-cell",
    "code-block",
    "math",
    "bibliography",
    "tableofcontents",
    "exercise-start",
    "exercise-end",
    "solution-start",
    "solution-end",
}

# What the parser finds, beside directives, and what becomes of it.
PLAIN = {
    "fence": "verbatim",
    "code_block": "verbatim",
    "html_block": "verbatim",
    "front_matter": "drop",
    "myst_line_comment": "drop",
    "myst_block_break": "break",
    "myst_target": "target",
}
UNSUPPORTED = {
    "amsmath": "a bare LaTeX environment: write $$ \\begin{aligned} ... $$",
    "dl_open": "a definition list: write a table or a list",
    "footnote_reference_open": "a footnote: say it in the text",
    "substitution_block": "a substitution: write the words",
}

# What running text may hold; the first that fits wins, so code and formulas shield what is in them.
INLINE = re.compile(
    r"""
    \\[\\`$\[\]{}]                                                       # an escaped character
  | (?P<comment><!--.*?-->)
  | (?:\{(?P<role>[a-zA-Z][\w:+.-]*)\})?(?P<ticks>`+)(?!`)(?P<code>.+?)(?<!`)(?P=ticks)(?!`)
  | (?P<display>\$\$)
  | \$(?P<math>(?:\\.|[^$\\])+?)\$
  | (?P<footnote>\[\^[^\]]+\])
  | (?P<image>!?)\[(?P<text>(?:\[[^\]]*\]|[^\[\]])*)\]\((?P<href>[^()\s]*)(?:\s+"[^"]*")?\)
    (?:\{[^}]*\})?                                                       # its class or width
""",
    re.VERBOSE | re.DOTALL,
)


class ExportError(Exception):
    """Something that cannot become plain Markdown; the message says where and what would do."""


@dataclass
class Block:
    """A piece of a page: text, verbatim, heading, math, target, break, drop, or a directive."""

    kind: str
    line: int
    body: str = ""
    prefix: str = ""  # what stands to its left: the indent of a list item, or quote marks
    title: str = ""
    label: str = ""
    options: dict = field(default_factory=dict)
    skipped: int = 0  # lines from the opening fence to the body
    level: int = 0  # of a heading
    number: str = ""
    children: list[Block] = field(default_factory=list)

    @property
    def folded(self) -> bool:
        return self.kind == "dropdown" or "dropdown" in str(self.options.get("class", "")).split()


@dataclass
class Page:
    name: str
    path: Path
    blocks: list[Block] = field(default_factory=list)
    chapter: tuple[int, ...] = ()
    title: str = ""

    @cached_property
    def cited(self) -> list[str]:
        groups = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", self.path.read_text("utf-8"))
        return list(dict.fromkeys(key.strip() for keys in groups for key in keys.split(",")))

    def error(self, line: int, message: str) -> ExportError:
        return ExportError(f"book/{self.name}.md:{line}: {message}")


@dataclass
class Target:
    """What a label names: its page, its kind, its number, and the words that refer to it."""

    page: Page
    kind: str
    number: str
    words: str


# ------------------------------------------------------------------------------ reading a page


def read_page(book: Path, name: str, markdown) -> Page:
    page = Page(name, book / f"{name}.md")
    if not page.path.exists():
        raise ExportError(f"_toc.yml names {name}, but book/{name}.md does not exist")
    page.blocks = parse(page.path.read_text("utf-8"), page, 1, markdown)
    titles = [block.body for block in page.blocks if block.level == 1]
    if len(titles) != 1:
        raise page.error(1, f"a page has one title (# ...), this one has {len(titles)}")
    page.title = titles[0]
    return page


def parse(text: str, page: Page, first: int, markdown) -> list[Block]:
    """Cut Markdown into blocks; ``first`` is the line of the file on which ``text`` starts."""
    lines, blocks, end = text.split("\n"), [], 0
    for token in markdown.parse(text):
        if token.map is None or token.map[0] < end:
            continue
        block = read_token(token, lines, page, first)
        if block is None:
            continue
        blocks += [Block("text", first + end, "\n".join(lines[end : token.map[0]])), block]
        if block.kind in HOLD_MARKDOWN:
            block.children = parse(block.body, page, block.line + block.skipped, markdown)
        end = token.map[1]
    return [*blocks, Block("text", first + end, "\n".join(lines[end:]))]


def read_token(token, lines: list[str], page: Page, first: int) -> Block | None:
    """The block that a token begins, or None where its lines are ordinary text."""
    start, stop = token.map
    line, prefix = first + start, re.match(r"[\s>]*", lines[start])[0]
    if token.type in UNSUPPORTED:
        raise page.error(line, UNSUPPORTED[token.type])
    if token.type in ("fence", "colon_fence") and token.info.startswith("{"):
        return read_directive(token, page, line, prefix)
    if token.type in ("math_block", "math_block_label"):
        if ">" in prefix:
            raise page.error(line, "a displayed formula in a block quote: use an admonition")
        return Block("math", line, token.content, prefix, label=token.info)
    if token.type == "heading_open" and token.level == 0:
        words = re.sub(r"^#+\s*|\s#+\s*$", "", lines[start])
        return Block("heading", line, words, level=int(token.tag[1]))
    if token.type == "html_block" and re.fullmatch(r"\s*<!--.*-->\s*", token.content, re.DOTALL):
        return Block("drop", line)
    kind = PLAIN.get(token.type)
    body = token.content if kind == "target" else "\n".join(lines[start:stop])
    return kind and Block(kind, line, body)


def read_directive(token, page: Page, line: int, prefix: str) -> Block:
    name, _, title = token.info[1:].partition("}")
    if name not in KNOWN:
        raise page.error(
            line,
            f"the exporter does not know the directive {{{name}}}: write it "
            f"otherwise, or teach it to tools/notebooks.py",
        )
    options, body, skipped = read_options(token.content)
    title = title.strip()
    if title and name in UNTITLED:  # their text may start on the line of the fence
        title, body, skipped = "", f"{title}\n{body}", skipped - 1
    label = str(options.get("label", ""))
    return Block(name, line, body, prefix, title, label, options, skipped + 1)


def read_options(content: str) -> tuple[dict, str, int]:
    """Split the options, ``:key: value`` or YAML between ``---``, off the body of a directive."""
    lines, stop = content.split("\n"), 0
    if lines[0].strip() == "---":
        stop = next(k for k, line in enumerate(lines) if k and line.strip() == "---")
        return (
            yaml.safe_load("\n".join(lines[1:stop])) or {},
            "\n".join(lines[stop + 1 :]),
            stop + 1,
        )
    options = {}
    while found := re.match(r"\s*:([\w-]+):\s*(.*)", lines[stop]):
        options[found[1]] = yaml.safe_load(found[2]) if found[1] == "tags" else found[2].strip()
        stop += 1
    return options, "\n".join(lines[stop:]), stop


# ------------------------------------------------------------------------------ numbering


class Book:
    """Every page of the table of contents, in its order, numbered as the built book numbers it."""

    def __init__(self, root: Path):
        self.root = root
        self.config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
        self.sphinx = self.config.get("sphinx", {}).get("config", {})
        self.macros = self.sphinx.get("mathjax3_config", {}).get("tex", {}).get("macros", {})
        self.links = Links(self.config, root)
        self.pages: dict[str, Page] = {}
        self.labels: dict[str, Target] = {}
        self.counters, self.chapters = Counter(), 0
        extensions = set(self.config.get("parse", {}).get("myst_enable_extensions", ["dollarmath"]))
        self.markdown = create_md_parser(MdParserConfig(enable_extensions=extensions), RendererHTML)
        self.toc = parse_toc_yaml(root / "_toc.yml")
        self.add(self.toc.root.docname, ())

    @cached_property
    def bibliography(self):
        return parse_file(self.root / "book" / self.config["bibtex_bibfiles"][0]).entries

    def add(self, name: str, chapter: tuple[int, ...]) -> None:
        """Number a page, then the pages below it, which continue the count of its sections."""
        page = self.pages[name] = read_page(self.root / "book", name, self.markdown)
        page.chapter = chapter
        sections = self.number(page)
        for tree in self.toc[name].subtrees:
            for child in map(str, tree.items):
                if chapter:
                    sections += 1
                    self.add(child, (*chapter, sections))
                else:
                    self.chapters += bool(tree.numbered)
                    self.add(child, (self.chapters,) if tree.numbered else ())

    def number(self, page: Page) -> int:
        """Give the blocks of a page their numbers and labels; return how many sections it has."""
        sections, targets = [], []
        for block in walk(page.blocks):
            if block.kind == "heading":
                sections = next_section(sections, block.level)
                block.number = dotted(*page.chapter, *sections) if page.chapter else ""
            self.number_statement(page, block)
            if block.kind == "target":
                targets.append(block)
            elif block.kind != "drop" and (block.kind != "text" or block.body.strip()):
                for target in targets:
                    self.name_place(page, target, block)
                targets.clear()
        return sections[0] if sections else 0

    def number_statement(self, page: Page, block: Block) -> None:
        kind = kind_of(block)
        counted = block.kind in STATEMENTS or kind == "exercise"
        counted = counted or (kind == "equation" and block.label)  # only those that can be named
        if counted and "nonumber" not in block.options:
            # A page below a chapter goes on counting where the chapter stopped; the pages without
            # a number count together.
            chapter = page.chapter[:1]
            self.counters[chapter, kind] += 1
            block.number = dotted(*chapter, self.counters[chapter, kind])
        if block.label:
            target = Target(page, kind, block.number, self.words(block))
            self.define(page, block.line, block.label, target)

    def words(self, block: Block) -> str:
        """How the text refers to a block: "(3.1)", "Theorem 3.1", "Solution to Exercise 3.1"."""
        if block.kind == "math":
            return f"({block.number})"
        if kind_of(block) == "solution":
            exercise = self.labels.get(block.title)
            return f"Solution to {exercise.words}" if exercise else "Solution"
        return name_of(block)

    def name_place(self, page: Page, target: Block, block: Block) -> None:
        kind, words = ("section", block.body) if block.kind == "heading" else ("place", "")
        self.define(page, target.line, target.body, Target(page, kind, block.number, words))

    def define(self, page: Page, line: int, label: str, target: Target) -> None:
        if label in self.labels:
            other = self.labels[label].page.name
            raise page.error(line, f"the label {label} is already taken in book/{other}.md")
        self.labels[label] = target


def walk(blocks: list[Block]) -> Iterator[Block]:
    """All blocks in reading order, those inside directives included."""
    for block in blocks:
        yield block
        yield from walk(block.children)


def next_section(sections: list[int], level: int) -> list[int]:
    """The counts at a heading: [] at the title #, [2] at the second ##, [2, 1] at the ### below."""
    counts = [*sections, *[0] * level][: level - 1]
    return [*counts[:-1], counts[-1] + 1] if counts else []


def dotted(*numbers: int) -> str:
    return ".".join(map(str, numbers))


def kind_of(block: Block) -> str:
    """The word for it: theorem, exercise, equation, ..."""
    kind = block.kind.removeprefix("prf:").removesuffix("-start")
    return "equation" if kind == "math" else kind


def name_of(block: Block) -> str:
    """ "Theorem 3.1", or "Theorem" for one without a number."""
    return f"{kind_of(block).title()} {block.number}".strip()


# ------------------------------------------------------------------------------ addresses


class Links:
    """Every public address, derived from the one setting ``repository`` of ``_config.yml``."""

    def __init__(self, config: dict, root: Path):
        repository, buttons = config["repository"], config.get("launch_buttons", {})
        self.url, self.branch = repository["url"].rstrip("/"), repository["branch"]
        found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", self.url)
        if not found:
            raise ExportError(
                f"_config.yml: repository.url is {self.url}, expected https://github.com/OWNER/NAME"
            )
        colab = buttons.get("colab_url", "https://colab.research.google.com")
        binder = buttons.get("binderhub_url", "https://mybinder.org")
        self.colab = f"{colab}/github/{found[1]}/blob/{self.branch}/notebooks"
        self.binder = f"{binder}/v2/gh/{found[1]}/{self.branch}?urlpath=lab/tree/notebooks"
        self.source = f"{self.url}/blob/{self.branch}/{repository.get('path_to_book', 'book')}"
        # What pip installs need not be called what Python imports.
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
        self.package = project["name"]

    def badges(self, name: str) -> str:
        """Links in words: a picture of a badge would be fetched from another host."""
        return (
            f"[Open in Colab]({self.colab}/{name}.ipynb) · "
            f"[Open in Binder]({self.binder}/{name}.ipynb) · "
            f"[Source]({self.source}/{name}.md)"
        )

    def setup(self) -> str:
        return (
            f"# Only Colab lacks the library of this book: fetch it there, and nowhere else.\n"
            f"# It asks for minimum versions, so what Colab already has stays as it is.\n"
            f"import sys\n"
            f'if "google.colab" in sys.modules:\n'
            f'    %pip install -q "{self.package} @ git+{self.url}@{self.branch}"\n'
            f"import descent"
        )


# ------------------------------------------------------------------------------ writing a page


class Writer:
    """Turns the blocks of one page into the cells of one notebook."""

    def __init__(self, book: Book, page: Page):
        self.book, self.page = book, page

    def notebook(self) -> str:
        """The text of the file, the same to the byte each time."""
        cells = self.cells()
        if any(cell.cell_type == "code" for cell in cells):
            cells.insert(1, new_code_cell(self.book.links.setup()))
        give_ids(cells)
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
        notebook = new_notebook(cells=cells, metadata=metadata)
        nbformat.validate(notebook)
        return nbformat.writes(notebook) + "\n"

    def cells(self) -> list:
        cells, text = [], []
        for piece in [*self.pieces(), None]:
            if isinstance(piece, str):
                text.append(piece)
                continue
            if source := join(text):
                cells.append(new_markdown_cell(source))
            text.clear()
            if piece:
                cells.append(piece)
        return cells

    def pieces(self) -> Iterator:
        """Markdown, code cells, and None wherever a Markdown cell ends."""
        folded = False
        for block in self.page.blocks:
            if block.kind in ("solution-start", "solution-end"):
                folded = block.folded
            if block.kind == "code-cell" and not block.prefix:
                yield self.code_cell(block, folded)
            else:
                yield None if block.kind == "break" else self.write(block)
            if block.level == 1:
                yield self.book.links.badges(self.page.name)
                yield None
        if self.page.cited and all(b.kind != "bibliography" for b in walk(self.page.blocks)):
            yield None
            yield "**References**\n\n" + self.references(self.page.cited)

    def code_cell(self, block: Block, folded: bool):
        """What the page hides is folded in Jupyter and in Colab, where it still runs."""
        if unknown := set(block.options) - {"tags"}:
            raise self.page.error(
                block.line,
                f"the exporter does not know the cell option {', '.join(sorted(unknown))}",
            )
        tags = [str(tag) for tag in block.options.get("tags") or []]
        metadata, jupyter = {"tags": tags} if tags else {}, {}
        if folded or {"hide-input", "hide-cell", "remove-input", "remove-cell"} & set(tags):
            jupyter["source_hidden"], metadata["cellView"] = True, "form"
        if {"hide-output", "hide-cell", "remove-output", "remove-cell"} & set(tags):
            jupyter["outputs_hidden"] = True
        if jupyter:
            metadata["jupyter"] = jupyter
        return new_code_cell(block.body.strip("\n"), metadata=metadata)

    def write(self, block: Block) -> str:
        """Plain Markdown for one block."""
        group = (
            "statement"
            if block.kind in STATEMENTS
            else "admonition"
            if block.kind in ADMONITIONS
            else block.kind.removeprefix("prf:").replace("-", "_")
        )
        return indent(getattr(self, f"write_{group}")(block), block.prefix)

    def inside(self, block: Block) -> str:
        return join([self.write(child) for child in block.children])

    def write_statement(self, block: Block) -> str:
        text = self.titled(block)
        return text if block.folded else quote(text)

    def titled(self, block: Block) -> str:
        """ "**Theorem 3.1** (Title). Text", or folded under that heading."""
        title = f" ({self.inline(block.title, block.line)})" if block.title else ""
        if block.folded:
            return fold(name_of(block) + title, self.inside(block))
        heading = f"**{name_of(block)}**{title}." if title else f"**{name_of(block)}.**"
        return run_in(heading, self.inside(block))

    write_exercise = write_exercise_start = titled

    def write_solution(self, block: Block) -> str:
        return fold(self.solution_heading(block), self.inside(block))

    def write_solution_start(self, block: Block) -> str:
        """Not folded, as nothing folds away cells; their code is hidden instead."""
        return f"**{self.solution_heading(block)}.**"

    def solution_heading(self, block: Block) -> str:
        return f"Solution to {self.target(block.title, block.line, 'exercise').words}"

    def write_admonition(self, block: Block) -> str:
        title, text = self.inline(block.title, block.line) or block.kind.title(), self.inside(block)
        if block.folded:
            return fold(title, text)
        stop = "" if title.endswith((".", "?", "!")) else "."
        return quote(run_in(f"**{title}{stop}**", text))

    def write_proof(self, block: Block) -> str:
        pieces = [piece for child in block.children if (piece := self.write(child)).strip()]
        ends_in_prose = pieces and not pieces[-1].rstrip().endswith(("$$", "```", "|", ">"))
        text = join(pieces) + (" ∎" if ends_in_prose else "\n\n∎")
        return fold("Proof", text) if block.folded else run_in("*Proof.*", text)

    def write_heading(self, block: Block) -> str:
        number = f"{block.number}. " if block.number else ""
        return "#" * block.level + f" {number}{self.inline(block.body, block.line)}"

    def write_text(self, block: Block) -> str:
        return self.inline(block.body, block.line)

    def write_math(self, block: Block) -> str:
        tag = f" \\tag{{{block.number}}}" if block.number else ""
        return f"$$\n{self.display(block.body)}{tag}\n$$"

    def write_verbatim(self, block: Block) -> str:
        return block.body

    def write_code_block(self, block: Block) -> str:
        return f"```{block.title}\n{block.body.rstrip()}\n```"

    def write_code_cell(self, block: Block) -> str:
        raise self.page.error(
            block.line,
            "a code cell inside a directive or a list does not run: "
            "use solution-start ... solution-end",
        )

    write_break = write_code_cell

    def write_bibliography(self, block: Block) -> str:
        """All that the book cites, or what this page cites where the directive has a filter."""
        pages = [self.page] if "filter" in block.options else self.book.pages.values()
        return self.references(list(dict.fromkeys(key for page in pages for key in page.cited)))

    def write_tableofcontents(self, block: Block) -> str:
        others = (page for page in self.book.pages.values() if page is not self.page)
        return "\n".join(f"- {self.link(self.inline(page.title, 1), page)}" for page in others)

    def write_nothing(self, block: Block) -> str:
        return ""

    write_drop = write_target = write_exercise_end = write_solution_end = write_nothing

    # -------------------------------------------------------------------------- running text

    def inline(self, text: str, line: int) -> str:
        """Running text with its roles, references and links replaced."""

        def replace(found: re.Match) -> str:
            return self.inline_piece(found, line + text.count("\n", 0, found.start()))

        return INLINE.sub(replace, text)

    def inline_piece(self, found: re.Match, line: int) -> str:
        if found["display"]:
            raise self.page.error(
                line, "$$ inside a paragraph: a displayed formula needs a blank line before it"
            )
        if found["footnote"]:
            raise self.page.error(line, UNSUPPORTED["footnote_reference_open"])
        if found["comment"]:
            return ""
        if found["role"]:
            return self.role(found["role"], found["code"].strip(), line)
        if found["math"]:
            return f"${' '.join(expand(found['math'], self.book.macros).split())}$"
        return found[0] if found["href"] is None else self.markdown_link(found, line)

    def display(self, tex: str) -> str:
        """A displayed formula: rows aligned as the builder aligns them, no comments, no macros."""
        tex = re.sub(r"(?<!\\)%.*", "", tex)
        rows = [row.strip() for row in re.split(r"\n\s*\n", tex) if row.strip()]
        tex = " \\\\\n".join(rows)
        outside = re.sub(r"\\begin\{(\w+\*?)\}.*\\end\{\1\}", "", tex, flags=re.DOTALL)
        if "\\\\" in outside:
            tex = f"\\begin{{aligned}}\n{tex}\n\\end{{aligned}}"
        return expand(tex, self.book.macros)

    def role(self, name: str, content: str, line: int) -> str:
        explicit = re.fullmatch(r"(.*?)\s*<([^<>]+)>", content, re.DOTALL)
        words, label = explicit.groups() if explicit else ("", content)
        if name == "math":
            return f"${expand(content, self.book.macros)}$"
        if name == "claim":
            return self.claim(content, line)
        if name in ("cite", "cite:p", "cite:t"):
            return self.citation(name, content, line)
        if name == "doc":
            page = self.page_at(label, line)
            return self.link(words or self.inline(page.title, line), page)
        if name in ("eq", "ref", "numref", "prf:ref"):
            return self.reference(name, label, words, line)
        raise self.page.error(
            line,
            f"the exporter does not know the role {{{name}}}: write it "
            f"otherwise, or teach it to tools/notebooks.py",
        )

    def reference(self, role: str, label: str, words: str, line: int) -> str:
        target = self.target(label, line, "equation" if role == "eq" else "")
        if role == "numref":
            words = self.numbered(target, label, words or "{name} %s", line)
        words = words or self.inline(target.words, line)
        if not words:
            raise self.page.error(line, f"{label} has no title: write {{{role}}}`words <{label}>`")
        return self.link(words, target.page)

    def numbered(self, target: Target, label: str, words: str, line: int) -> str:
        if not target.number:
            raise self.page.error(line, f"{label} has no number: use {{ref}}")
        name = "Section" if target.kind == "section" else target.words.split()[0]
        words = words.replace("%s", target.number).replace("{number}", target.number)
        return words.replace("{name}", name)

    def target(self, label: str, line: int, kind: str = "") -> Target:
        found = self.book.labels.get(label)
        if not found:
            raise self.page.error(line, f"no page of the book defines the label {label}")
        if kind and found.kind != kind:
            raise self.page.error(line, f"the label {label} is of a {found.kind}, not an {kind}")
        return found

    def page_at(self, path: str, line: int) -> Page:
        """The page that a path leads to, seen from this page or (/...) from the book's root."""
        here = posixpath.dirname(self.page.name)
        name = posixpath.normpath(posixpath.join("/", here, path)).lstrip("/")
        if name not in self.book.pages:
            raise self.page.error(line, f"the link leads to {name}, which is not in _toc.yml")
        return self.book.pages[name]

    def link(self, words: str, page: Page) -> str:
        """Words that lead to the notebook of a page, and plain words where that is this one.

        The address is relative: so it works in a clone, in Jupyter, Binder, VS Code, on GitHub and
        in Colab, stays in the reader's own copy and branch, and needs no network.
        """
        if page is self.page:
            return words
        here = posixpath.dirname(self.page.name) or "."
        return f"[{words}]({posixpath.relpath(page.name, here)}.ipynb)"

    def markdown_link(self, found: re.Match, line: int) -> str:
        words, href = self.inline(found["text"], line), found["href"]
        path, _, label = href.partition("#")
        if re.match(r"\w+:", href):
            return f"{found['image']}[{words}]({href})"
        if not path:
            return self.reference("ref", label, words, line)
        if path.endswith(".md"):
            page = self.page_at(path.removesuffix(".md"), line)
            return self.link(words or self.inline(page.title, line), page)
        return f"{found['image']}[{words}]({self.file(path, line)})"

    def file(self, path: str, line: int) -> str:
        """The address of a file beside the page, a picture say, as seen from the notebook."""
        file = self.page.path.parent / path
        if not file.exists():
            raise self.page.error(line, f"the link leads to {path}, which does not exist")
        folder = (self.book.root / "notebooks" / self.page.name).parent
        return Path(os.path.relpath(file, folder)).as_posix()

    # -------------------------------------------------------------------------- citations, claims

    def citation(self, role: str, keys: str, line: int) -> str:
        """ "Song et al. [2024]", in the brackets that the book's own style has."""
        style = self.book.sphinx.get("bibtex_reference_style", "")
        left, right = "()" if style.endswith("round") else "[]"
        entries = [self.entry(key.strip(), line) for key in keys.split(",")]
        pairs = [(authors(entry), entry.fields["year"]) for entry in entries]
        if role == "cite:t":
            return ", ".join(f"{names} {left}{year}{right}" for names, year in pairs)
        return left + ", ".join(f"{names}, {year}" for names, year in pairs) + right

    def entry(self, key: str, line: int):
        if key not in self.book.bibliography:
            file = self.book.config["bibtex_bibfiles"][0]
            raise self.page.error(line, f"book/{file} has no entry {key}")
        return self.book.bibliography[key]

    def references(self, keys: list[str]) -> str:
        formatted = Style().format_entries([self.entry(key, 1) for key in keys])
        texts = (entry.text.render(PlainMarkdown()) for entry in formatted)
        return "\n".join("- " + " ".join(text.split()) for text in texts)

    def claim(self, name: str, line: int) -> str:
        try:
            from descent.claims import registry  # it brings torch: only a page with claims pays
        except ImportError as error:
            raise self.page.error(
                line, f"a {{claim}} needs the library: pip install --no-deps -e . ({error})"
            ) from error
        if name not in registry:
            raise self.page.error(
                line, f"the ledger has no claim {name}, it has {', '.join(sorted(registry))}"
            )
        verdict = registry[name].verdict
        words = self.link(f"`{name}`", self.book.pages.get("ledger", self.page))
        return f"(claim {words}: {getattr(verdict, 'value', verdict)})"


def give_ids(cells: list) -> None:
    """Name each cell after what it says, so that only an edited cell gets a new name."""
    seen = Counter()
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


class PlainMarkdown(Backend):
    """Escapes only what would be read as markup; pybtex's own escapes every full stop."""

    symbols = {"ndash": "–", "newblock": " ", "nbsp": " "}

    def format_str(self, text: str) -> str:
        return re.sub(r"([*_`$\[\]])", r"\\\1", text)

    def format_href(self, url: str, text: str, external: bool = False) -> str:
        return f"[{text}]({url})" if text else ""


def authors(entry) -> str:
    names = [
        " ".join(map(str, person.rich_prelast_names + person.rich_last_names))
        for person in entry.persons["author"]
    ]
    return f"{names[0]} et al." if len(names) > 2 else " and ".join(names)


def join(pieces: list[str]) -> str:
    """Paragraphs with one blank line between them."""
    trimmed = (re.sub(r"\A(?:[ \t]*\n)+|\s+\Z", "", piece) for piece in pieces)
    return "\n\n".join(piece for piece in trimmed if piece.strip())


def run_in(heading: str, text: str) -> str:
    """The heading and the text in one paragraph, unless the text starts with a list, say."""
    prose = re.match(r"[^\W\d]|\$(?!\$)|[(\[]", text)
    return f"{heading} {text}" if prose else join([heading, text])


def indent(text: str, prefix: str) -> str:
    return "\n".join((prefix + line).rstrip() for line in text.split("\n")) if prefix else text


def quote(text: str) -> str:
    """A block quote, each formula on one line: Jupyter takes quote marks inside it for TeX."""
    formula = re.compile(r"\$\$.*?\$\$", re.DOTALL)
    return indent(formula.sub(lambda found: " ".join(found[0].split()), text), "> ")


def fold(title: str, text: str) -> str:
    """Markdown shows between the tags if blank lines surround it, but not in the summary."""
    return f"<details><summary>{re.sub('[*`]', '', title)}</summary>\n\n{text}\n\n</details>"


def expand(tex: str, macros: dict) -> str:
    """Write out the book's TeX macros: no definition would reach all cells in every viewer."""
    names = "|".join(map(re.escape, macros))
    while macros and (found := re.search(rf"\\({names})(?![A-Za-z])", tex)):
        definition, end = macros[found[1]], found.end()
        body, arity, *_ = definition if isinstance(definition, list) else (definition, 0)
        values = []
        for _ in range(arity):
            value, end = argument(tex, end)
            values.append(value)
        body = re.sub(r"#(\d)", lambda mark, values=values: values[int(mark[1]) - 1], body)
        apart = " " if re.search(r"\\[A-Za-z]+\Z", body) and tex[end : end + 1].isalpha() else ""
        tex = tex[: found.start()] + body + apart + tex[end:]
    return tex


def argument(tex: str, start: int) -> tuple[str, int]:
    """The argument of a macro, a group in braces or one symbol, and where it ends."""
    found = re.compile(r"\s*(\\[A-Za-z]+|\\.|\S)").match(tex, start)
    if found[1] != "{":
        return found[1], found.end()
    depth, end = 1, found.end()
    while depth:
        depth += {"{": 1, "}": -1}.get(tex[end], 0)
        end += 1
    return tex[found.end() : end - 1], end


# ------------------------------------------------------------------------------ the command


def export(root: Path, names: list[str] | None = None) -> dict[str, str]:
    """The notebooks' texts by the names of their pages: those named, or all of ``_toc.yml``."""
    book = Book(root)
    names = [re.sub(r"^(?:book/)?(.*?)(?:\.md)?$", r"\1", name) for name in names or book.pages]
    for name in names:
        if name not in book.pages:
            raise ExportError(f"{name} is no page of _toc.yml, which has {', '.join(book.pages)}")
    return {name: Writer(book, book.pages[name]).notebook() for name in names}


def stale(folder: Path, pages: dict[str, str]) -> list[Path]:
    """Notebooks whose page has left the table of contents."""
    kept = {folder / f"{name}.ipynb" for name in pages}
    return [
        file
        for file in sorted(folder.rglob("*.ipynb"))
        if file not in kept and ".ipynb_checkpoints" not in file.parts
    ]


def main(arguments: list[str] | None = None, root: Path = Path(__file__).parent.parent) -> int:
    parser = argparse.ArgumentParser(description="Write notebooks/ from the pages of book/.")
    parser.add_argument("pages", nargs="*", help="such as song2024/values (default: all)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 if a notebook is out of step"
    )
    options = parser.parse_args(arguments)
    try:
        texts = export(root, options.pages)
    except ExportError as error:
        print(error, file=sys.stderr)
        return 1
    folder = root / "notebooks"
    files = {folder / f"{name}.ipynb": text.encode() for name, text in texts.items()}
    changed = {
        file: text for file, text in files.items() if not file.exists() or file.read_bytes() != text
    }
    gone = [] if options.pages else stale(folder, texts)
    return (check if options.check else update)(folder, changed, gone)


def check(folder: Path, changed: dict[Path, bytes], gone: list[Path]) -> int:
    for file in changed:
        print(f"notebooks/{file.relative_to(folder)} differs from its page", file=sys.stderr)
    for file in gone:
        print(f"notebooks/{file.relative_to(folder)} has no page in _toc.yml", file=sys.stderr)
    if changed or gone:
        print("run: make notebooks", file=sys.stderr)
    return int(bool(changed or gone))


def update(folder: Path, changed: dict[Path, bytes], gone: list[Path]) -> int:
    for file, text in changed.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text)
        print(f"wrote notebooks/{file.relative_to(folder)}")
    for file in gone:
        file.unlink()
        print(f"removed notebooks/{file.relative_to(folder)}: its page has left _toc.yml")
    if not changed and not gone:
        print("notebooks/ agrees with book/: nothing to write")
    return 0


if __name__ == "__main__":
    sys.exit(main())
