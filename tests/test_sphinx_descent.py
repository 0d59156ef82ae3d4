"""The Sphinx extension, on a book of three pages with claims of its own."""

import re
import subprocess
import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from xml.etree import ElementTree

import nbformat
import pytest
import sphinx_descent
import sphinx_katex
from build import Result, keep
from jupyter_cache import get_cache
from pybtex.database import Person

from descent.plots._text import formulas

ROOT = Path(__file__).parent.parent
VERDICTS = ["holds", "holds as corrected", "counterexample", "gap", "not reproduced", "open"]

# The small book brings its own registry of claims, one for each verdict.
CONF = f"""
import sys, types
from types import SimpleNamespace

sys.path.insert(0, {str(ROOT / "tools")!r})
registry = {{
    f"claim-{{i}}": SimpleNamespace(verdict=verdict, chapter="part/chapter")
    for i, verdict in enumerate({VERDICTS!r})
}}
sys.modules["descent"] = types.ModuleType("descent")
sys.modules["descent.claims"] = SimpleNamespace(registry=registry)

project = html_title = "A small book"
extensions = ["myst_nb", "sphinx_thebe", "sphinx_book_theme", "sphinx_proof"]
extensions += ["sphinx_descent", "sphinx_katex"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
html_theme = "sphinx_book_theme"
html_theme_options = {{
    "repository_url": "https://github.com/some/book", "path_to_docs": "book",
    "repository_branch": "main", "use_edit_page_button": True,
    "launch_buttons": {{
        "binderhub_url": "https://mybinder.org", "colab_url": "https://colab.research.google.com",
        "notebook_interface": "jupyterlab",
    }},
}}
nb_execution_mode = "off"
"""

HEADER = """---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
---
"""

INDEX = "# A small book\n\n```{toctree}\npart/chapter\nledger/part\n```\n"
LEDGER = "# Ledger\n\n{claim}`claim-0`\n"
CHAPTER = """# Chapter

The first paragraph says &lt;what&gt; the page is about.

{claim}`claim-1`

```{prf:proof}
By *looking*.
```

```{prf:proof}
Again.
```

$x < y$

Then ($y$), so {claim}`claim-1`, and no more.

$$
a &= b \\\\
  &= c
$$ (sum)

```{code-cell} ipython3
1 + 1
```

```{raw} html
<p>as a cell would show it: FORMULA</p>
<figure class="descent-figure"><figcaption>One.</figcaption></figure>
<section class="descent-explorer"><p class="descent-caption">Two.</p></section>
```

:::{note}
:class: dropdown
Read this *later*.
:::
""".replace("FORMULA", formulas("$x < y$"))


def build(folder, pages, notebooks):
    """Build a small book; gives the finished process. Its pages lie in ``folder/html``."""
    files = {"book/conf.py": CONF, **{f"book/{name}.md": text for name, text in pages.items()}}
    files |= {f"notebooks/{name}.ipynb": text for name, text in notebooks.items()}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "book", "html"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    pages = {"index": INDEX, "ledger/part": LEDGER, "part/chapter": HEADER + CHAPTER}
    built = build(folder, pages, {"part/chapter": "the committed notebook"})
    assert built.returncode == 0, built.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def chapter(book):
    return (book / "part/chapter.html").read_text()


def test_a_claim_is_a_badge_with_its_verdict_that_links_to_its_record_in_the_ledger(chapter):
    badge = re.search(r'<a class="descent-claim[^>]*>.*?</a>', chapter)[0]
    assert 'href="../ledger/part.html#claim-1"' in badge
    assert "verdict-holds-as-corrected" in badge
    assert re.sub("<.*?>", "", badge) == "claim claim-1 · holds as corrected"


def test_on_the_page_of_records_itself_a_badge_links_within_the_page(book):
    assert 'href="#claim-0"' in (book / "ledger/part.html").read_text()


def test_a_verdict_may_be_an_enum_or_a_word(monkeypatch):
    verdict = Enum("Verdict", {"GAP": "gap"})
    registry = {"a": SimpleNamespace(verdict=verdict.GAP), "b": SimpleNamespace(verdict="open")}
    monkeypatch.setitem(sys.modules, "descent", ModuleType("descent"))
    monkeypatch.setitem(sys.modules, "descent.claims", SimpleNamespace(registry=registry))
    found = [sphinx_descent.claim_of(id) for id in "abc"]
    assert found[2] is None
    assert [sphinx_descent.verdict_of(claim) for claim in found[:2]] == ["gap", "open"]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_has_a_colour(verdict):
    name = sphinx_descent.badge("id", verdict, "#id")["classes"][-1]
    assert f".{name} {{ --tone:" in (ROOT / "book/static/descent.css").read_text()


def test_colab_binder_and_the_download_lead_to_the_notebook_and_edit_to_the_markdown(chapter):
    notebook = "notebooks/part/chapter.ipynb"
    assert f"colab.research.google.com/github/some/book/blob/main/{notebook}" in chapter
    assert f"mybinder.org/v2/gh/some/book/main?urlpath=lab/tree/{notebook}" in chapter
    assert 'href="../_sources/part/chapter.ipynb"' in chapter
    assert 'href="../_sources/part/chapter.md"' not in chapter
    assert "github.com/some/book/edit/main/book/part/chapter.md" in chapter


def test_the_notebook_served_is_the_committed_one(book):
    assert (book / "_sources/part/chapter.ipynb").read_text() == "the committed notebook"


def test_thebe_leaves_no_trace(book, chapter):
    assert "thebe" not in chapter.lower()
    assert list(book.rglob("sphinx-thebe*")) == []


def test_a_page_is_described_by_its_first_sentences(chapter):
    description = re.search('<meta name="description" content="(.*?)" />', chapter)[1]
    assert description.startswith("The first paragraph says &lt;what&gt; the page is about.")


def test_formulas_of_the_text_and_of_outputs_are_set_by_katex(chapter):
    set_by_katex = sphinx_katex.typeset("x < y")
    assert chapter.count(set_by_katex) == 2
    assert "<math>" not in chapter


def test_names_and_paths_in_tables_break_between_their_parts():
    page = {"body": '<table><span class="pre">a/NAME/tau_0.csv</span></table>'}
    page["body"] += '<span class="pre">a/b.c</span>'
    sphinx_descent.part_names(None, "page", "page.html", page, None)
    names = re.findall('"pre">(.*?)</span>', page["body"])
    assert names == ["a/<wbr>NAME/<wbr>tau_<wbr>0<wbr>.csv", "a/b.c"]


def test_a_page_is_told_how_much_it_held_also_when_the_checkout_has_moved(tmp_path):
    cache = get_cache(tmp_path / "_build" / ".jupyter_cache")
    result = Result("part/chapter", nbformat.v4.new_notebook(), seconds=1.0, megabytes=300)
    keep(cache, Path("/where/it/was"), result)
    app = SimpleNamespace(outdir=str(tmp_path / "_build" / "html"), env=SimpleNamespace())
    sphinx_descent.remember_memory(app)
    assert app.env.descent_memory == {"part/chapter": 300}


def test_references_stand_in_the_order_of_the_alphabet():
    names = ["{\\L}ojasiewicz, S", "Kim, J", "Mei, S", "{\\'E}tienne, A", "Du, S"]
    key = sphinx_descent.ByLetter().person_key
    found = sorted(map(Person, names), key=key)
    assert [str(person).split(",")[0] for person in found] == [
        "Du", "{\\'E}tienne", "Kim", "{\\L}ojasiewicz", "Mei"
    ]  # fmt: skip


def test_an_option_of_a_command_does_not_break_after_its_dash():
    page = {"body": '<code><span class="pre">--out</span> <span class="pre">a-b</span></code>'}
    sphinx_descent.part_names(None, "page", "page.html", page, None)
    assert re.findall('class="(.*?)">', page["body"]) == ["pre descent-option", "pre"]


PARTS = {"msub": 2, "msup": 2, "msubsup": 3, "munder": 2, "mover": 2, "munderover": 3, "mfrac": 2}


@pytest.mark.parametrize(
    "tex",
    [
        r"\sigma_{\min}(B)",
        r"\sigma_{\min}^2",
        r"\lambda_{\max}^{t+1}",
        r"x^{\min}",
        r"w_{\min}^{\top}",
        r"\max_{i\in\arg\max_j x_j} y_i",
        r"\begin{split}a&=b\\c&=\min_x d\end{split}",
    ],
)
def test_scripts_have_as_many_parts_as_mathml_asks_for(tex):
    html = sphinx_katex.typeset(tex, display=True)
    formula = ElementTree.fromstring(re.search("<math.*</math>", html)[0])
    tags = [(node.tag.partition("}")[2], len(node)) for node in formula.iter()]
    assert [tag for tag in tags if PARTS.get(tag[0], tag[1]) != tag[1]] == []
    assert 'columnspacing=""' not in html


def test_what_a_function_is_applied_to_is_still_told():
    assert "<mi>min</mi><mo>\u2061</mo><mi>x</mi>" in sphinx_katex.typeset(r"\min x")


def test_a_formula_that_katex_cannot_read_fails_the_build(tmp_path):
    pages = {"index": HEADER + "# A small book\n\n$\\nonsense$\n"}
    built = build(tmp_path, pages, {"index": "{}"})
    assert built.returncode == 1
    assert "index.md:9: WARNING: KaTeX cannot set '\\\\nonsense'" in built.stderr


def test_the_number_of_an_equation_stands_beside_it(chapter):
    equation = re.search(r'<div class="math[^>]*id="equation-sum">.*?</div>', chapter, re.S)[0]
    assert re.search(r'<span class="eqno">\(1\)<a class="headerlink"', equation)
    assert r"\begin{split}a &amp;= b \\" in equation


def test_a_comma_stays_on_the_line_of_its_formula(chapter):
    kept = re.findall(r'<span class="descent-kept">(.*?)</span>(?=[ .])', chapter, re.S)
    assert len(kept) == 2
    assert re.sub(r"<math.*?</math>|<.*?>", "", kept[0]) == "(y),"
    assert "claim-1" in kept[1] and kept[1].endswith(",")


def test_figures_are_numbered_and_can_be_linked_to(chapter):
    number = '<a class="descent-figure-number" href="#figure-{}">Figure {}</a>'
    place = '<span id="figure-{}"></span>'
    one = f'<figure class="descent-figure"><figcaption>{number.format(1, 1)} One.'
    two = f'<section class="descent-explorer"><p class="descent-caption">{number.format(2, 2)} Two.'
    assert place.format(1) + one in chapter
    assert place.format(2) + two in chapter


def test_a_page_says_how_to_cite_it(chapter):
    for name, text in {
        "citation_title": "Chapter",
        "citation_fulltext_html_url": "https://some.github.io/book/part/chapter.html",
    }.items():
        assert f'<meta name="{name}" content="{text}" />' in chapter
    assert '<link rel="canonical" href="https://some.github.io/book/part/chapter.html"' in chapter


def test_a_statement_shows_its_address():
    box = '<div class="proof theorem admonition" id="thm-a"><p class="admonition-title">Theorem</p>'
    context = {"body": box}
    sphinx_descent.permalinks(None, "page", "page.html", context, None)
    assert '<a class="headerlink" href="#thm-a"' in context["body"]


def test_a_folded_box_needs_no_script(chapter):
    box = re.search(r'<details class="admonition.*?</details>', chapter, re.S)[0]
    assert re.search('<summary class="admonition-title"><span>Note</span></summary>', box)
    assert "Read this <em>later</em>." in box


def test_proofs_begin_with_a_word_of_their_own_and_share_no_id(chapter):
    assert chapter.count('<span class="descent-proof-word">Proof.</span> ') == 2
    assert 'id="proof"' not in chapter


def test_an_unknown_claim_and_a_missing_notebook_fail_the_build(tmp_path):
    pages = {"index": HEADER + "# A small book\n\n{claim}`no-such-claim` {problems}`no-such-set`\n"}
    built = build(tmp_path, pages, notebooks={})
    assert built.returncode == 1
    assert "no claim is called 'no-such-claim'" in built.stderr
    assert "no problem set is called 'no-such-set'" in built.stderr
    assert "notebooks/index.ipynb is missing: run `make notebooks`" in built.stderr


def test_a_word_at_the_end_of_a_line_is_not_said_again_beside_the_formula_below_it():
    nodes = sphinx_descent.nodes
    formula = nodes.math("", "x")
    paragraph = nodes.paragraph("", "", nodes.Text("so it is\n"), formula, nodes.Text(": each"))
    sphinx_descent.keep_together(None, paragraph, "page")
    assert paragraph.astext() == "so it is\nx: each"
