"""The reference of the library: docstrings become pages, and code leads to them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sphinx_reference
from sphinx_external_toc.parsing import parse_toc_yaml
from surface import public

ROOT = Path(__file__).parents[1]
CHAPTERS = [page for page in parse_toc_yaml(ROOT / "_toc.yml") if "reference" not in page]

SUM = """Sum.

x : what is
    added.
y : more.

Raises
------
ValueError : if so.

See `sum`."""

RESTRUCTURED = """Sum.


``x``
    what is
    added.
``y``
    more.

.. rubric:: Raises


``ValueError``
    if so.

See ``sum``."""


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (SUM, RESTRUCTURED),
        ("It is (*r, N), or *so*, with ``*r``.", "It is (\\*r, N), or *so*, with ``*r``."),
        ("**axes : more.", "\n``**axes``\n    more."),
        (":math:`a^\n* b` (*r)", ":math:`a^\n* b` (\\*r)"),
        ("D = 10**9, say", "D = 10\\ :sup:`9`\\ , say"),
        ("It fills steps_to_*.", "It fills steps_to\\_*."),
        ("See :doc:`/a` and `A.b`.", "See :doc:`/a` and ``A.b``."),
    ],
)
def test_a_docstring_becomes_restructured_text(docstring, expected):
    assert sphinx_reference.restructured(docstring.split("\n")) == expected.split("\n")


def test_what_a_cell_imports_from_the_library_is_known_by_its_path():
    source = (
        "import descent, torch\nfrom descent import models as m\nfrom descent.plots import figure"
    )
    assert sphinx_reference.imported(source) == {
        "descent": "descent",
        "m": "descent.models",
        "figure": "descent.plots.figure",
    }


def chain(*names):
    return '<span class="o">.</span>'.join(f'<span class="n">{name}</span>' for name in names)


def test_a_name_in_code_leads_to_its_entry_and_what_is_not_ours_nowhere():
    names = {"models": "descent.models"}
    places = {"descent.models.Attention": "a.html#x", "descent.models": "a.html#y"}
    body = chain("models", "Attention", "init") + chain("torch", "Tensor") + chain("models", "new")
    assert re.findall(r'href="([^"]*)"', sphinx_reference.linked(body, names, places)) == [
        "a.html#x",
        "a.html#y",
    ]
    assert sphinx_reference.linked(chain("Attention"), names, places) == chain("Attention")


def test_a_word_that_is_a_module_leads_there_by_its_whole_name_alone():
    places = {"descent.steps": "a.html#x", "descent.rerun": "a.html#y"}
    words = ("steps", "descent.steps", "rerun")
    code = '<code class="docutils literal notranslate"><span class="pre">{}</span></code>'
    body = sphinx_reference.mentioned("".join(map(code.format, words)), places, {"descent.steps"})
    assert re.findall(r'href="([^"]*)"', body) == ["a.html#x", "a.html#y"]


def test_every_public_name_has_an_entry(site):
    pages = "".join(page.read_text("utf8") for page in (site / "reference").glob("*.html"))
    entries = set(re.findall(r'<dt class="sig[^"]*" id="([^"]+)"', pages))
    again = {"descent.claims.Standing"}  # stands with the theorems
    assert set(public()) - entries == again


def test_chapters_lead_to_the_reference(site):
    page = (site / "song2024/values.html").read_text("utf8")
    assert 'href="../reference/models.html#descent.models.Attention"' in page


# ---------------------------------------------------------------- and back


@pytest.mark.parametrize(
    ("source", "path", "line"),
    [
        ("from descent import models as m\nm.Attention\nm.Attention", "models.Attention", 2),
        ("from descent.models import Attention\nx = Attention", "models.Attention", 2),
        ("import descent\nrun = descent.descend()\nrun.steps", "Trajectory.steps", 3),
        ("import descent\ndescent.descend().steps", "Trajectory", 2),
        (
            "from descent import kernels\nkernels.softmax.attention(S)",
            "kernels.Kernel.attention",
            2,
        ),
        (
            "from descent import models\ndef f():\n    l = models.Attention()\n    l.init()\nl = 1",
            "models.Attention.init",
            4,
        ),
        (
            "from descent.theorems import song2024\nsong2024.theorem_1(*data).bound(5)",
            "theorems.Report.bound",
            2,
        ),
    ],
)
def test_what_code_uses_is_known_with_the_line(source, path, line):
    assert sphinx_reference.used(source)[f"descent.{path}"] == line


@pytest.mark.parametrize(
    "rest",
    [
        "def f(layer):\n    layer.init()",
        "g = lambda layer: layer.init()",
        "layer = models.Encoder()\nlayer.init()",
        "layer.init()\nlayer = 1",
        "for layer in (1, 2):\n    layer.init()",
        "layer, x = 1, 2\nlayer.init()",
        "def layer(): ...\nlayer.init()",
    ],
)
def test_a_method_of_what_may_be_something_else_is_not_told(rest):
    source = "from descent import models\nlayer = models.Attention()\n"
    assert "descent.models.Attention.init" in sphinx_reference.used(source + "layer.init()")
    assert not any(path.endswith("init") for path in sphinx_reference.used(source + rest))


REFERENCE = """
Reference
=========

.. py:function:: descent.descend

   Introduced in :doc:`/one`.

.. py:function:: descent.optimise
"""
PAGE = """
{0}
===

Here
----

.. code-block:: python

   from descent import {1}
   {1}()
"""


class Small:
    """A book of a few pages and a reference, as Sphinx builds what changed in it."""

    def __init__(self, root):
        self.root = root
        self.write("conf", 'extensions = ["sphinx.ext.autodoc", "sphinx_reference"]', "py")
        self.write("index", "Front\n=====\n\n.. toctree::\n\n   two\n   one\n   reference\n")
        self.write("reference", REFERENCE)
        self.write("descent", "", "py")  # of the real one nothing is asked here

    def write(self, name, text, kind="rst"):
        (self.root / f"{name}.{kind}").write_text(text)

    def lines(self):
        """The lines under the entries of the reference, links as their addresses, after a build."""
        paths = os.pathsep.join([str(ROOT / "tools"), str(self.root)])
        subprocess.run(
            [sys.executable, "-m", "sphinx", "-Q", "-j", "2", self.root, self.root / "out"],
            env={**os.environ, "PYTHONPATH": paths},
            check=True,
        )
        page = (self.root / "out/reference.html").read_text()
        lines = re.findall('<p class="descent-uses">(.*?)</p>', page)
        return [re.sub('<a .*?href="(.*?)".*?</a>', r"\1", line) for line in lines]


def test_a_chapter_that_changes_changes_what_leads_to_it(tmp_path):
    book = Small(tmp_path)
    for name in ("one", "two", *"abcd"):  # more than five pages are read by two processes
        book.write(name, PAGE.format(name, "descend"))
    assert book.lines() == ["Also in the book: two.html#here"]
    book.write("one", PAGE.format("one", "optimise"))
    assert book.lines() == ["In the book: two.html#here", "In the book: one.html#here"]
    book.write("two", "two\n===\n")
    assert book.lines() == ["In the book: one.html#here"]
    (tmp_path / "one.rst").unlink()
    assert book.lines() == []


def test_of_many_pages_an_entry_names_the_first():
    pages = [(f"{n}.html", str(n), "") for n in range(5)]
    assert sphinx_reference.line(pages, again=False).astext() == "In the book: 0 · 1 · 2 · 2 more"
    assert sphinx_reference.line(pages[:4], again=False).astext() == "In the book: 0 · 1 · 2 · 3"


ENTRY = re.compile(r'<dt class="sig[^"]*" id="([^"]+)">(.*?)(?=<dt class="sig|<section|\Z)', re.S)
LINK = re.compile(r'href="\.\./([\w/-]+)\.html[^"]*"')


@pytest.fixture(scope="module")
def entries(site):
    """The pages that each entry of the reference leads to, in its order, as often as it does."""
    pages = [page.read_text("utf8") for page in (site / "reference").glob("*.html")]
    found = {id: LINK.findall(text) for page in pages for id, text in ENTRY.findall(page)}
    return {id: [page for page in links if page in CHAPTERS] for id, links in found.items()}


def test_each_entry_leads_back_to_the_first_page_whose_code_leads_to_it(site, entries):
    """The front page comes last: it shows, and introduces nothing."""
    first = {}
    for page in [*CHAPTERS[1:], CHAPTERS[0]]:
        html = (site / f"{page}.html").read_text("utf8")
        for code in re.findall("<pre>.*?</pre>", html, re.S):
            for id in re.findall(r'class="descent-code" href="[^"#]*#([^"]+)"', code):
                first.setdefault(id, page)
    wrong = {id: page for id, page in first.items() if page not in entries.get(id, [page])}
    assert not wrong
    assert len(first) > 100


def test_no_entry_names_a_page_twice(entries):
    assert {id for id, pages in entries.items() if len(pages) != len(set(pages))} == set()
