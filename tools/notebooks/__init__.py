"""Write the notebooks that Colab, Binder and Jupyter open, from the pages of the book.

    python tools/notebooks                       write notebooks/**/*.ipynb
    python tools/notebooks song2024/values       this page only
    python tools/notebooks --check               write nothing, exit 1 if a notebook is out of step

The pages use directives and roles that only the book's builder understands. Here each becomes
plain Markdown, with the numbers that the built book shows: a chapter's number is its place among
the numbered parts of ``_toc.yml``; each kind of statement (theorem, lemma, exercise, equation) has
a counter of its own, which starts again with each chapter.

A page may refer to a later one, so all are read and numbered before the first is written. What has
no plain counterpart is an error that names the file and the line, lest raw markup reach a reader.

``read`` cuts a page into blocks, ``number`` numbers those of all pages, ``write`` makes the cells of
a notebook of them (``inline`` their running text), ``command`` puts it on disk.
"""

from .command import export, main
from .read import ExportError

__all__ = ["ExportError", "export", "main"]
