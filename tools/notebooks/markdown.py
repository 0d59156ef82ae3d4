"""Pieces of plain Markdown: paragraphs, quotes, folds."""

import re


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
