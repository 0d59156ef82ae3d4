"""Write running text: roles, references, links, citations and claims as plain Markdown."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from pybtex.style.formatting.plain import Style

from .citations import PlainMarkdown, authors
from .number import Book, Target
from .read import UNSUPPORTED, Page

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


class Inline:
    """Turns the running text of one page into plain Markdown."""

    def __init__(self, book: Book, page: Page):
        self.book, self.page = book, page

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
            return f"${' '.join(found['math'].split())}$"
        return found[0] if found["href"] is None else self.markdown_link(found, line)

    def display(self, tex: str) -> str:
        """A displayed formula: rows aligned as the builder aligns them, no comments."""
        tex = re.sub(r"(?<!\\)%.*", "", tex)
        rows = [row.strip() for row in re.split(r"\n\s*\n", tex) if row.strip()]
        tex = " \\\\\n".join(rows)
        outside = re.sub(r"\\begin\{(\w+\*?)\}.*\\end\{\1\}", "", tex, flags=re.DOTALL)
        if "\\\\" in outside:
            tex = f"\\begin{{aligned}}\n{tex}\n\\end{{aligned}}"
        return tex

    def role(self, name: str, content: str, line: int) -> str:
        explicit = re.fullmatch(r"(.*?)\s*<([^<>]+)>", content, re.DOTALL)
        words, label = explicit.groups() if explicit else ("", content)
        if name == "math":
            return f"${content}$"
        if name == "claim":
            return self.claim(content, line)
        if name == "problems":
            file = "../" * (self.page.name.count("/") + 1) + "assignments/student"
            places = {**self.book.links.problems, "file": file}.items()
            return " · ".join(f"[{words}]({place}/{content}.ipynb)" for words, place in places)
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
            f"otherwise, or teach it to tools/notebooks",
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
        return f"[{words}]({posixpath.relpath(f'{page.name}.ipynb', here)})"

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
        claim = registry[name]
        records = self.book.pages.get(f"ledger/{claim.chapter.split('/')[0]}", self.page)
        verdict = getattr(claim.verdict, "value", claim.verdict)
        return f"(claim {self.link(f'`{name}`', records)}: {verdict})"
