"""Every symbol that a chapter uses stands on the notation page, or is named as local to its page.

What counts as a symbol: in each formula of a page, every single letter, every Greek letter, and
every letter or number set in a face of its own (``\\mathbb R``, ``\\mathbf 1``), after subscripts and
superscripts, accents and primes are taken off. So ``W_Q^h`` is ``W``, and what stands in an index
only is not looked at. Words (``\\mathrm{soft}``, ``\\text{...}``) are no symbols. A letter that one page
alone needs, or needs in another sense, stands in ``notation_local.yml`` with what it means there.
"""

import re
from pathlib import Path

import pytest
import yaml
from sphinx_external_toc.parsing import parse_toc_yaml

ROOT = Path(__file__).parents[1]
PAGES = [name for name in parse_toc_yaml(ROOT / "_toc.yml") if name != "notation"]
LOCAL = yaml.safe_load((ROOT / "tests/notation_local.yml").read_text()) or {}

GREEK = """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi
    pi rho varrho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma
    Upsilon Phi Psi Omega ell""".split()

MATH = re.compile(r"(?<!\\)\$\$(?P<display>.+?)\$\$|(?<![\\$])\$(?P<inline>[^$]+?)\$", re.S)
NOT_PROSE = re.compile(r"\A---\n.*?\n---\n|^(`{3,})\{code-cell\}.*?^\1$", re.S | re.M)
ENVIRONMENT = r"\\(?:begin|end|label|tag)\s*\{[^{}]*\}"
WORDS = (
    r"\\(?:text|textbf|textit|mathrm|operatorname|mathsf|mathit)\*?\s*(?:\{[^{}]*\}|\\?[A-Za-z])"
)
SCRIPT = r"[_^]\s*(?:\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}|\\[A-Za-z]+|[^\\\s])"
FACE = (
    r"\\(mathbb|mathbf|mathcal|mathfrak|boldsymbol)"
    r"\s*\{?\s*(\\?[A-Za-z0-9]+?)\s*(?:\}|(?![A-Za-z0-9])|(?<=[A-Za-z0-9]))"
)


def formulas(text):
    """The TeX of all formulas of a page, code cells and front matter left out."""
    prose = NOT_PROSE.sub("", text)
    return [found["display"] or found["inline"] for found in MATH.finditer(prose)]


def symbols(tex):
    """The symbols of one formula."""
    tex = re.sub(ENVIRONMENT, " ", tex)
    found = {f"\\{face} {letter}" for face, letter in re.findall(FACE, tex)}
    tex = re.sub(FACE, " ", tex)
    tex = re.sub(WORDS, " ", tex)
    tex = re.sub(SCRIPT, " ", tex)
    commands = re.findall(r"\\([A-Za-z]+)", tex)
    found |= {f"\\{name}" for name in commands if name in GREEK}
    return found | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+|\\.", " ", tex)))


def used(text):
    return set().union(*map(symbols, formulas(text)))


def defined(notation):
    """The symbols in the first column of the notation page's tables."""
    rows = re.findall(r"^\|([^|\n]*(?:\\\|[^|\n]*)*)\|", notation, re.M)
    return set().union(*(used(cell) for cell in rows))


def missing(text, notation, local):
    """Symbols of a page that neither the notation page nor the page's own list explains."""
    return sorted(used(text) - defined(notation) - set(local))


def page(name):
    return (ROOT / f"book/{name}.md").read_text("utf8")


@pytest.mark.parametrize("name", PAGES)
def test_every_symbol_stands_on_the_notation_page_or_is_local(name):
    unknown = missing(page(name), page("notation"), LOCAL.get(name, {}))
    assert not unknown, (
        f"book/{name}.md uses {' '.join(unknown)}: add a row to book/notation.md, "
        f"or a line to tests/notation_local.yml"
    )


@pytest.mark.parametrize("name", LOCAL)
def test_local_symbols_are_used_on_their_page_and_say_what_they_are(name):
    assert name in PAGES
    assert set(LOCAL[name]) <= used(page(name))
    assert all(len(str(meaning).split()) > 1 for meaning in LOCAL[name].values())


def rows():
    """(symbols, page that introduces them) for each row of the notation page."""
    for line in page("notation").splitlines():
        if line.startswith("| $"):
            entries = re.findall(r"\$[^$]+\$", line.split(" | ")[0].replace("\\|", "!"))
            plain = [e for e in entries if not re.match(r"\$\\(bar|widetilde)", e)]
            yield used(" ".join(plain)), re.search(r"\{doc\}`([^`]+)`", line)[1]


@pytest.mark.parametrize("name", [n for n in LOCAL if n.startswith(("foundations", "song2024"))])
def test_a_letter_of_a_part_means_nothing_else_on_any_of_its_pages(name):
    """What a page defines for itself, in a proof or an exercise, is no letter of its part's table."""
    part = name.split("/")[0]
    taken = set().union(*(found for found, place in rows() if place.startswith(part)))
    assert not set(LOCAL[name]) & taken


def test_rows_of_the_notation_page_lead_to_a_chapter():
    rows = [line for line in page("notation").splitlines() if line.startswith("| $")]
    assert rows
    for row in rows:
        target = re.search(r"\{doc\}`([^`]+)`", row)
        assert target and target[1] in PAGES, row


# ---------------------------------------------------------------- the check itself


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"W_Q^h X_{ik}", {"W", "X"}),
        (r"\nabla_{W_V^h} f = B_h^\top r\,(w_O^h)^\top", {"f", "B", "r", "w"}),
        (r"e^{q_k\cdot k_j/\sqrt d}", {"e"}),
        (r"\sqrt d\,\hat\gamma'_{ih} \le \varrho", {"d", r"\gamma", r"\varrho"}),
        (r"X \in \mathbb R^{n\times D}", {"X", r"\mathbb R"}),
        (r"S\mathbf 1\mathbf 1^\top", {"S", r"\mathbf 1"}),
        (r"\mathrm{MH}(X_i) \text{ for all } S^{\mathrm{soft}}", {"X", "S"}),
        (r"\begin{pmatrix}0&M\\M^\top&0\end{pmatrix}", {"M"}),
        (r"\frac1{\sqrt d}\sum_{i=1}^{N} \Gamma_{i}", {"d", r"\Gamma"}),
        (r"\|W_O\|^2 \sigma_{\min}(B_0)", {"W", r"\sigma", "B"}),
        (r"10^{-10}", set()),
    ],
)
def test_symbols_of_a_formula(tex, expected):
    assert symbols(tex) == expected


PAGE = """---
title: $Z$
---
# A page with $X$ and $$ \\kappa X $$

```{code-cell} ipython3
price = "$Q$"
```

:::{prf:lemma} A lemma on $W_Q$
For all $y$ it costs \\$5.
:::
"""
TABLE = "| symbol | what |\n|---|---|\n| $X_i$, $W_Q$ | tokens of $Z$ |\n| $y$ | labels |\n"


def test_formulas_in_directives_count_and_code_does_not():
    assert used(PAGE) == {"X", r"\kappa", "W", "y"}


def test_only_the_first_column_defines():
    assert defined(TABLE) == {"X", "W", "y"}


def test_a_symbol_that_stands_nowhere_is_found():
    assert missing(PAGE, TABLE, {}) == [r"\kappa"]
    assert missing(PAGE, TABLE, {r"\kappa": "a number of this page"}) == []
    assert missing(PAGE + "and $v$", TABLE, {}) == [r"\kappa", "v"]
