"""The reference of the library: docstrings become pages, and code leads to them."""

import re

import pytest
import sphinx_reference
from surface import public

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
