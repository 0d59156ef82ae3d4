"""Read a page: cut its Markdown into blocks.

What has no plain counterpart is refused here where it shows, with its file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

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
            f"otherwise, or teach it to tools/notebooks",
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


def walk(blocks: list[Block]) -> Iterator[Block]:
    """All blocks in reading order, those inside directives included."""
    for block in blocks:
        yield block
        yield from walk(block.children)


def kind_of(block: Block) -> str:
    """The word for it: theorem, exercise, equation, ..."""
    kind = block.kind.removeprefix("prf:").removesuffix("-start")
    return "equation" if kind == "math" else kind


def name_of(block: Block) -> str:
    """ "Theorem 3.1", or "Theorem" for one without a number."""
    return f"{kind_of(block).title()} {block.number}".strip()
