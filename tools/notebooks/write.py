"""Write a page: its blocks as the cells of a notebook."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from .inline import Inline
from .markdown import fold, indent, join, quote, run_in
from .read import ADMONITIONS, STATEMENTS, Block, name_of, walk


class Writer(Inline):
    """Turns the blocks of one page into the cells of one notebook."""

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


def give_ids(cells: list) -> None:
    """Name each cell after what it says, so that only an edited cell gets a new name."""
    seen = Counter()
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
