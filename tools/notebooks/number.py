"""Number the pages: chapters, sections, statements and equations, as the built book does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from pybtex.database import parse_file
from sphinx_external_toc.parsing import parse_toc_yaml

from .links import Links
from .read import STATEMENTS, Block, Page, kind_of, name_of, read_page, walk


@dataclass
class Target:
    """What a label names: its page, its kind, its number, and the words that refer to it."""

    page: Page
    kind: str
    number: str
    words: str


#: Sphinx makes the library's reference of docstrings; in a notebook `help` shows them.
ON_THE_SITE_ALONE = "reference/"


class Book:
    """Every page of the table of contents, in its order, numbered as the built book numbers it."""

    def __init__(self, root: Path):
        self.root = root
        self.config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
        self.sphinx = self.config.get("sphinx", {}).get("config", {})
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
                if child.startswith(ON_THE_SITE_ALONE):
                    continue
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


def next_section(sections: list[int], level: int) -> list[int]:
    """The counts at a heading: [] at the title #, [2] at the second ##, [2, 1] at the ### below."""
    counts = [*sections, *[0] * level][: level - 1]
    return [*counts[:-1], counts[-1] + 1] if counts else []


def dotted(*numbers: int) -> str:
    return ".".join(map(str, numbers))
