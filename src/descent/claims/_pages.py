"""The ledger as HTML: all claims at a glance, the record of each, and the errata of the papers.

A page of the book is known by its address only in the book. There a chapter is linked, and a label
stands in a link that the book leads to its box and words as the box is numbered.
"""

import html
import inspect
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from textwrap import dedent
from typing import TYPE_CHECKING

from ..plots._text import formulas, lettered
from ._record import Claim, Verdict

if TYPE_CHECKING:
    from ._ledger import Entry

#: Papers by the key that claims and the bibliography use.
PAPERS = {
    "song2024": "Song et al. 2024",
    "wu2023": "Wu et al. 2023",
    "vasudeva2024": "Vasudeva et al. 2024",
    "kim2024": "Kim and Suzuki 2024",
    "tarzanagh2023margin": "Tarzanagh et al. 2023",
    "sheen2024": "Sheen et al. 2024",
    "julistiono2024": "Julistiono et al. 2024",
    "soudry2018": "Soudry et al. 2018",
}
#: The parts of the book by the folder of their pages.
PARTS = {"foundations": "Foundations", **PAPERS}
#: The pages of the parts in the order of the book.
CHAPTERS = [
    f"{part}/{page}"
    for part, pages in {
        "foundations": "layer descent momentum kernels gradients rank span",
        "song2024": "index values joint queries gaussian landscape initialisation",
        "wu2023": "index scaling width apart tangent initialisations",
        "vasudeva2024": "index logistic convergence sparsity traps everywhere joint text",
        "kim2024": "index prompts timescales landscape dynamics outside merged",
    }.items()
    for page in pages.split()
]


@dataclass(frozen=True)
class Page:
    """What a notebook shows of the ledger: HTML, and the same as text."""

    html: str
    text: str

    def __str__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}


def part(claim: Claim) -> str:
    """The folder of the page that puts a claim to use, such as ``"song2024"``."""
    return claim.chapter.split("/")[0]


def source(claim: Claim) -> str:
    """Whose statement it is, and its number there."""
    return f"{PAPERS.get(claim.paper, claim.paper)}, {claim.number}"


def slug(verdict: str) -> str:
    """The verdict as a CSS class."""
    return "verdict-" + str(verdict).replace(" ", "-")


def surprising(entry: "Entry") -> bool:
    return entry.claim.verdict is not Verdict.HOLDS


def in_order(entries: Iterable["Entry"]) -> list["Entry"]:
    """As the chapters stand in the book; what is in none of them comes last."""
    places = {chapter: k for k, chapter in enumerate(CHAPTERS)}
    return sorted(entries, key=lambda entry: places.get(entry.claim.chapter, len(places)))


# ------------------------------------------------------------------ at a glance


def overview(entries: Iterable["Entry"]) -> str:
    """All claims, what is surprising first, by part and chapter, with a choice of the verdict."""
    entries = in_order(entries)
    surprises = [entry for entry in entries if surprising(entry)]
    rest = [entry for entry in entries if not surprising(entry)]
    groups = _group("surprises", "Not as printed, or open", surprises) if surprises else ""
    for name, members in groupby(rest, lambda entry: part(entry.claim)):
        title = html.escape(PARTS.get(name, name))
        if "DESCENT_BOOK" in os.environ:
            title = f'<a href="ledger/{name}.html">{title}</a>'
        groups += _group(name, title, members)
    return f'<div class="descent-overview">{_choice(entries)}{groups}</div>'


def _choice(entries: list["Entry"]) -> str:
    counts = Counter(str(entry.claim.verdict) for entry in entries)
    choices = [("all", len(entries)), *((str(v), counts[v]) for v in Verdict if counts[v])]
    labels = "".join(
        f'<label class="{slug(name)}"><input type="radio" name="verdict" value="{slug(name)}"'
        f"{' checked' if name == 'all' else ''}> {name} <b>{count}</b></label>"
        for name, count in choices
    )
    return f"<fieldset><legend>Show the claims with verdict</legend>{labels}</fieldset>"


def _group(id: str, title: str, entries: Iterable["Entry"]) -> str:
    lists = "".join(
        f"<section>{heading}<ul>{''.join(map(_line, members))}</ul></section>"
        for heading, members in _by_chapter(entries)
    )
    return f'<section><h2 id="{id}">{title}</h2>{lists}</section>'


def _by_chapter(entries: Iterable["Entry"]) -> Iterator[tuple[str, Iterator["Entry"]]]:
    """The claims of each chapter below its title, which the book fills in."""
    for chapter, members in groupby(entries, lambda entry: entry.claim.chapter):
        title = leading(f"{chapter}.html") if "DESCENT_BOOK" in os.environ else chapter
        yield f"<h3>{title}</h3>", members


def _line(entry: "Entry") -> str:
    claim = entry.claim
    title = formulas(claim.title)
    if "DESCENT_BOOK" in os.environ:
        title = f'<a href="ledger/{part(claim)}.html#{claim.id}">{title}</a>'
    whose = html.escape(source(claim)) if claim.paper in PAPERS else "ours"
    return (
        f'<li id="{claim.id}" class="{slug(claim.verdict)}">{title} {_verdict(entry)} '
        f'<span class="descent-claim-source">{whose}, {claim.standing}</span></li>'
    )


def _verdict(entry: "Entry") -> str:
    words = html.escape(str(entry.claim.verdict))
    if not entry.evidence.supports:
        words += " (not supported: " + html.escape("; ".join(entry.evidence.failed)) + ")"
    return f'<span class="descent-verdict">{words}</span>'


# ------------------------------------------------------------------ the record of a claim


def records(entries: Iterable["Entry"], claims: Iterable[Claim]) -> str:
    """Claims as rows with all that was found; ``claims`` are those that may use their boxes."""
    claims = list(claims)
    rows = [
        heading + "".join(_record(entry, claims) for entry in members)
        for heading, members in _by_chapter(in_order(entries))
    ]
    return f'<div class="descent-ledger">{"".join(rows)}</div>'


def _record(entry: "Entry", claims: list[Claim]) -> str:
    claim = entry.claim
    numbers = "".join(
        f"<div><dt>{html.escape(name.replace('_', ' '))}</dt><dd>{number(value)}</dd></div>"
        for name, value in entry.evidence.numbers.items()
    )
    return (
        f'<section class="descent-claim-row {slug(claim.verdict)}" id="{claim.id}">'
        f'<p class="descent-claim-head"><a class="descent-claim-id" href="#{claim.id}">{claim.id}'
        f"</a> {_verdict(entry)}</p>"
        f"<p><strong>{formulas(claim.title)}.</strong> {formulas(claim.statement)}</p>"
        f'<p class="descent-claim-source">{html.escape(source(claim))}, {claim.standing}. '
        f"{_places(claim, claims)}</p>{_tested(entry)}<dl>{numbers}</dl>{_code(claim)}</section>"
    )


def _places(claim: Claim, claims: list[Claim]) -> str:
    """Where a claim stands, what it uses and what uses it, and how to run it."""
    users = [c for c in claims if claim.box and claim.box in c.uses and c.id != claim.id]
    used = [label for label in claim.uses if label != claim.box]
    parts = [_box(claim)]
    if used:
        parts.append("It uses " + ", ".join(map(leading, used)) + ".")
    if users:
        parts.append("Used by " + ", ".join(map(_other, users)) + ".")
    parts.append(f"Run it: <code>python -m descent check {claim.id}</code>.")
    return " ".join(parts)


def _box(claim: Claim) -> str:
    if "DESCENT_BOOK" not in os.environ:
        return f"Chapter {claim.chapter}."
    chapter = f'<a href="../{claim.chapter}.html">its chapter</a>'
    return f"See {leading(claim.box)} in {chapter}." if claim.box else f"See {chapter}."


def leading(label: str) -> str:
    """A link to the box or the equation of that label; the book knows its number and its place."""
    if "DESCENT_BOOK" not in os.environ:
        return f"<code>{label}</code>"
    return f'<a data-label="{label}" href="#">{label}</a>'


def _other(claim: Claim) -> str:
    if "DESCENT_BOOK" not in os.environ:
        return f"<code>{claim.id}</code>"
    return f'<a href="../ledger/{part(claim)}.html#{claim.id}">{claim.id}</a>'


def _tested(entry: "Entry") -> str:
    """What was assumed, what followed and how sharply, and what each mutation turned."""
    evidence, parts = entry.evidence, []
    if evidence.hypotheses:
        parts.append(("Assumed", "; ".join(evidence.hypotheses)))
    parts.append(("Follows", "; ".join(_sharply(entry, name) for name in evidence.conclusions)))
    for name, turned in entry.mutations.items():
        parts.append((f"With {name}", "false: " + "; ".join(turned.turned)))
    items = "".join(f"<li>{lettered(word)}: {lettered(text)}.</li>" for word, text in parts)
    return f'<ul class="descent-claim-tested">{items}</ul>'


def _code(claim: Claim) -> str:
    """The check as it is written, folded; nothing where Python keeps no source of it."""
    try:
        text = dedent(inspect.getsource(claim.check))
    except (OSError, TypeError):
        return ""
    text = re.sub(r"\A.*?^(?=def )", "", text, flags=re.S | re.M)  # its decorator stands above
    return (
        '<details class="hide"><summary>Show the code</summary>'
        f"<pre>{html.escape(text, quote=False)}</pre></details>"
    )


def _sharply(entry: "Entry", name: str) -> str:
    if name not in entry.evidence.sharpness:
        return name
    median, best = entry.evidence.sharpness[name]
    factor = entry.evidence.turns[name]
    turns = f"turns at {factor:g} times the constant" if factor else "not at ten times the constant"
    return (
        f"{name} (measured over bound {_written(median, 2)}, at best {_written(best, 2)}; {turns})"
    )


def number(value: float) -> str:
    """A number as one writes it: integers whole, the rest with three digits."""
    return lettered(_written(value, 3))


def _written(value: float, digits: int) -> str:
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa} × 10^{int(exponent)}" if exponent else mantissa


# ------------------------------------------------------------------ errata


def errata(entries: Iterable["Entry"]) -> str:
    """What the papers print and the runs do not confirm, paper by paper."""
    found = [entry for entry in in_order(entries) if surprising(entry)]
    groups = []
    for paper, name in PAPERS.items():
        rows = "".join(_erratum(entry) for entry in found if entry.claim.paper == paper)
        if rows:
            groups.append(f'<section><h2 id="{paper}">{name}</h2><dl>{rows}</dl></section>')
    return f'<div class="descent-errata">{"".join(groups)}</div>'


def _erratum(entry: "Entry") -> str:
    claim = entry.claim
    name = claim.id
    if "DESCENT_BOOK" in os.environ:
        name = f'<a href="ledger/{part(claim)}.html#{claim.id}">{claim.id}</a>'
    where = f" See {leading(claim.box)}." if claim.box else ""
    return (
        f'<dt class="{slug(claim.verdict)}">{html.escape(claim.number)} {_verdict(entry)}</dt>'
        f"<dd>{formulas(claim.statement)}{where} Evidence: {name}.</dd>"
    )
