"""The build runs what changed, all of it and nothing else, on a book of two small pages."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import build
import pytest

CONFIG = """
title: A small book
author: Nobody
copyright: "2026"
only_build_toc_files: true
execute: {execute_notebooks: cache, timeout: 60}
parse: {myst_enable_extensions: [colon_fence, dollarmath]}
"""
TOC = """
format: jb-book
root: first
chapters:
  - file: part/second
"""
# The cell also notes each of its runs in a file, so that a test can count them.
PAGE = """---
jupytext:
  text_representation: {{extension: .md, format_name: myst}}
kernelspec: {{display_name: Python 3, language: python, name: python3}}
---
# The {name} page

:::{{note}}
Not code.
:::

```{{code-cell}} ipython3
import descent
print("{name} says", descent.VALUE, file=open("runs.txt", "a"))
print("{name} says", descent.VALUE)
```
"""


class Book:
    """A book in a folder, and what its last build said."""

    def __init__(self, root):
        self.root = root

    def build(self):
        environment = dict(os.environ, PYTHONPATH=str(self.root / "src"))
        command = [sys.executable, build.__file__, self.root]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        self.output, self.ran = done.stdout + done.stderr, self.runs()
        return done.returncode

    def runs(self):
        """The pages run since the last time somebody asked, by what they printed."""
        lines = []
        for notes in self.root.glob("book/**/runs.txt"):
            lines += notes.read_text().splitlines()
            notes.unlink()
        return sorted(lines)

    def edit(self, file, old, new):
        text = (self.root / file).read_text()
        assert old in text
        (self.root / file).write_text(text.replace(old, new))

    def shows(self, page, text):
        return text in (self.root / "_build" / "html" / f"{page}.html").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The small book, built once."""
    root = tmp_path_factory.mktemp("book")
    (root / "book" / "part").mkdir(parents=True)
    (root / "src" / "descent").mkdir(parents=True)
    (root / "_config.yml").write_text(CONFIG)
    (root / "_toc.yml").write_text(TOC)
    (root / "requirements.txt").write_text("")
    (root / "src/descent/__init__.py").write_text("VALUE = 1\n")
    (root / "book/first.md").write_text(PAGE.format(name="first"))
    (root / "book/part/second.md").write_text(PAGE.format(name="second"))
    book = Book(root)
    assert book.build() == 0, book.output
    assert book.ran == ["first says 1", "second says 1"], "Sphinx must not run them again"
    return root


@pytest.fixture
def book(built, tmp_path):
    """A copy of the built book to change at will."""
    return Book(Path(shutil.copytree(built, tmp_path / "book")))


def test_a_second_build_runs_nothing(book):
    assert book.build() == 0
    assert book.ran == []
    assert book.shows("first", "first says 1") and book.shows("part/second", "second says 1")
    assert str(book.root / "_build/html/index.html") in book.output


def test_an_edited_page_is_run_and_no_other(book):
    book.edit("book/part/second.md", '"second says"', '"second now says"')
    assert book.build() == 0
    assert book.ran == ["second now says 1"]
    assert book.shows("part/second", "second now says 1")


def test_a_change_in_the_library_reaches_every_page(book):
    book.edit("src/descent/__init__.py", "1", "2")
    assert book.build() == 0
    assert book.ran == ["first says 2", "second says 2"]
    assert book.shows("first", "first says 2") and book.shows("part/second", "second says 2")


def test_a_failing_cell_fails_the_build_and_is_named(book):
    book.edit("book/first.md", "import descent\n", "import descent\n1 / 0\n")
    assert book.build() != 0
    page = (book.root / "book/first.md").read_text().splitlines()
    line = page.index("```{code-cell} ipython3") + 1
    assert f"book/first.md:{line}: code cell 1 failed" in book.output
    assert "ZeroDivisionError: division by zero" in book.output
    assert "\x1b[" not in book.output, "no colour codes in a log"
    assert len(book.output.splitlines()) < 25
    assert book.build() != 0, "a failure is not kept as if it were an output"


def test_a_kernel_that_dies_fails_the_build_and_is_named(book):
    book.edit("book/first.md", "import descent\n", "import os; os._exit(1)\n")
    assert book.build() != 0
    assert re.search(r"book/first.md:\d+: code cell 1 failed\n +Kernel died", book.output)


def test_a_long_path_of_temporary_files_is_no_hindrance(book, tmp_path, monkeypatch):
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    book.edit("book/first.md", '"first says"', '"first now says"')
    assert book.build() == 0, book.output
    assert book.ran == ["first now says 1"]


def test_a_page_taken_out_of_the_toc_disappears(book):
    book.edit("_toc.yml", "chapters:\n  - file: part/second\n", "")
    assert book.build() == 0
    assert book.ran == []
    assert not (book.root / "_build/html/part/second.html").exists()
    assert book.shows("first", "first says 1")


def test_a_warning_fails_the_next_build_too(book):
    book.edit("book/first.md", "Not code.", "Not code, see {ref}`nowhere`.")
    for _ in range(2):
        assert book.build() != 0
        assert "first.md" in book.output and "nowhere" in book.output
    book.edit("book/first.md", ", see {ref}`nowhere`.", ".")
    assert book.build() == 0
    assert book.ran == [], "words are no reason to run a page"


@pytest.mark.parametrize("file", ["__init__.py", "_explore/explorer.js", "plots/figure.css"])
def test_the_library_key_sees_every_source(built, tmp_path, file):
    root = Path(shutil.copytree(built, tmp_path / "book"))
    source = root / "src" / "descent" / file
    source.parent.mkdir(exist_ok=True)
    source.write_text("one")
    before = build.library_key(root)
    assert build.library_key(root) == before
    source.write_text("two")
    assert build.library_key(root) != before


def test_the_site_key_sees_the_style_and_the_extension(built, tmp_path):
    root = Path(shutil.copytree(built, tmp_path / "book"))
    keys = {build.site_key(root)}
    for file in ("book/static/descent.css", "tools/sphinx_descent.py", "_config.yml", "_toc.yml"):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text("changed")
        keys.add(build.site_key(root))
    assert len(keys) == 5
