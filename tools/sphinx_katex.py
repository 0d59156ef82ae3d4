r"""Formulas set when the book is built, by KaTeX, which runs inside Python: pages need no script.

Each becomes HTML for the eye and MathML for those who listen. There are two kinds:

* formulas of the text, which Sphinx hands to its ``html_math_renderer`` one by one;
* formulas in what code cells print, captions and the ledger. The library writes them as MathML
  with their TeX beside it (``descent.plots._text.formulas``), for notebooks to show as it stands.
"""

import re
from functools import cache, partial
from html import escape, unescape
from pathlib import Path

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)

KATEX = Path(__file__).with_name("katex") / "katex.min.js"
CLASSES = "math notranslate nohighlight"
WITH_TEX = re.compile(
    r'<math>(?:(?!</math>).)*<annotation encoding="application/x-tex">(.*?)</annotation>'
    r"</semantics></math>",
    re.S,
)


@cache
def engine():
    """KaTeX in a V8 of its own: started by the first formula."""
    v8 = MiniRacer()
    v8.eval(KATEX.read_text("utf8"))
    v8.eval(
        "const set = (tex, displayMode) => katex.renderToString(tex, {displayMode, strict: code =>"
        " code == 'unicodeTextInMathMode' ? 'ignore' : 'error'})"
    )
    return v8


@cache
def typeset(tex, display=False):
    """One formula as HTML; raises ``JSEvalException`` with KaTeX's words if it is none."""
    html = sound(engine().call("set", tex, display))
    return html if display or len(LETTERS.sub("", html)) <= SHORT else breakable(html)


# The sign that a function is applied, where KaTeX writes it as one index more: after the "min" of
# \sigma_{\min}. A script has as many parts as its name says, or else browsers call it broken.
APPLIED = re.compile(
    r"<mo>\u2061</mo>(?=(?:<m([ino])[^>]*>[^<]*</m\1>|<mrow>(?:(?!</?mrow).)*</mrow>)?"
    "</m(?:sub|sup|subsup)>)"
)


def sound(html):
    """The same with MathML that is MathML."""
    return APPLIED.sub("", html).replace(' columnspacing=""', "")


LETTERS = re.compile("<math.*?</math>|<.*?>", re.S)
SHORT = 15  # letters: such a formula stays on one line


def breakable(html):
    """A long formula may break between its relations, and nowhere else."""
    base = '<span class="katex-base">'
    return html.replace(f"</span>{base}", f"</span><wbr>{base}")


def formula(tex, display, location):
    """The same for a page: a formula that KaTeX can't read is a warning, and shown as TeX."""
    try:
        return typeset(tex, display)
    except JSEvalException as error:
        reason = str(error).split("KaTeX parse error: ")[-1].splitlines()[0]
        logger.warning("KaTeX cannot set %r: %s", tex, reason, location=location)
        return escape(tex)


def displayed(node):
    """The TeX of a displayed formula: lines are aligned and paragraphs stacked, as Sphinx does."""
    tex = node.astext().strip()
    if node.get("nowrap"):  # an environment of amsmath's; equations are numbered by Sphinx
        names = "align|gather|equation|alignat|multline"
        return re.sub(rf"\\(begin|end)\{{({names})\}}", r"\\\1{\2*}", tex)
    parts = [
        rf"\begin{{split}}{part}\end{{split}}" if r"\\" in part else part
        for part in tex.split("\n\n")
        if part.strip()
    ]
    return (
        parts[0] if len(parts) == 1 else r"\begin{gathered}" + r"\\".join(parts) + r"\end{gathered}"
    )


def visit_math(self, node):
    self.body.append(self.starttag(node, "span", "", CLASS=CLASSES))
    self.body.append(formula(node.astext(), False, node) + "</span>")
    raise nodes.SkipNode


def visit_math_block(self, node):
    """A display; its number and its permalink stand beside it."""
    self.body.append(self.starttag(node, "div", CLASS=CLASSES))
    if node.get("number"):
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(formula(displayed(node), True, node) + "</div>\n")
    raise nodes.SkipNode


def set_outputs(app, doctree, docname):
    """Set the formulas in what code cells print."""
    for raw in doctree.findall(nodes.raw):
        if "</math>" in raw.astext():
            text = WITH_TEX.sub(partial(from_mathml, raw), raw.astext())
            raw.children[:] = [nodes.Text(text)]


def from_mathml(raw, found):
    return formula(unescape(found[1]), False, raw)


def setup(app):
    app.add_html_math_renderer("katex", (visit_math, None), (visit_math_block, None))
    app.connect("config-inited", lambda app, config: setattr(config, "html_math_renderer", "katex"))
    app.connect("doctree-resolved", set_outputs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
