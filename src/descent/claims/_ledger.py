"""The ledger: every claim beside what came out when it was run."""

import html
import os
from collections import Counter
from dataclasses import dataclass

from tqdm.auto import tqdm

from descent.plots._text import formulas

from ._record import Claim, Evidence, registry


@dataclass(frozen=True)
class Entry:
    """A claim and the evidence of one run of it."""

    claim: Claim
    evidence: Evidence

    def record(self) -> dict:
        """The entry as plain data, as `python -m descent ledger --json` prints it."""
        names = ("id", "paper", "number", "statement", "verdict", "chapter")
        record = {name: str(getattr(self.claim, name)) for name in names}
        return record | {"evidence": self.evidence.numbers, "supported": self.evidence.supports}


class Ledger(list[Entry]):
    """Entries that show themselves as a table in a terminal and as rows on a page."""

    def __str__(self) -> str:
        width = max((len(entry.claim.id) for entry in self), default=0)
        lines = [
            f"{entry.claim.id:{width}}  {entry.claim.verdict:18}  "
            f"{'yes' if entry.evidence.supports else 'NO '}        {source(entry.claim)}"
            for entry in self
        ]
        return "\n".join([f"{'claim':{width}}  {'verdict':18}  supported  source", *lines])

    def _repr_html_(self) -> str:
        counts = Counter(str(entry.claim.verdict) for entry in self)
        summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        rows = "".join(map(_row, self))
        return f'<div class="descent-ledger"><p>{len(self)} claims: {summary}.</p>{rows}</div>'

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": str(self)}


def run(claims: list[Claim] | None = None) -> Ledger:
    """Run the claims (all of them by default), with a progress bar where somebody waits."""
    chosen = list(registry.values()) if claims is None else claims
    bar = tqdm(chosen, desc="ledger", leave=False, delay=2, disable="DESCENT_BOOK" in os.environ)
    return Ledger(Entry(claim, claim.run()) for claim in bar)


#: Papers by the key that claims and the bibliography use.
PAPERS = {
    "song2024": "Song et al. 2024",
    "wu2023": "Wu et al. 2023",
    "vasudeva2024": "Vasudeva et al. 2024",
    "kim2024": "Kim and Suzuki 2024",
}


def source(claim: Claim) -> str:
    """Whose statement it is, and its number there."""
    return f"{PAPERS.get(claim.paper, claim.paper)}, {claim.number}"


def slug(verdict: str) -> str:
    """The verdict as a CSS class."""
    return "verdict-" + str(verdict).replace(" ", "-")


def _row(entry: Entry) -> str:
    claim, evidence = entry.claim, entry.evidence
    verdict = html.escape(str(claim.verdict))
    if not evidence.supports:
        verdict += " (not supported: " + html.escape("; ".join(evidence.failed)) + ")"
    numbers = "".join(
        f"<div><dt>{html.escape(name.replace('_', ' '))}</dt><dd>{number(value)}</dd></div>"
        for name, value in evidence.numbers.items()
    )
    return (
        f'<section class="descent-claim-row" id="{claim.id}"><p class="descent-claim-head">'
        f'<a class="descent-claim-id" href="#{claim.id}">{claim.id}</a> '
        f'<span class="descent-verdict {slug(claim.verdict)}">{verdict}</span></p>'
        f"<p>{formulas(claim.statement)}</p>"
        f'<p class="descent-claim-source">{html.escape(source(claim))}. {_chapter(claim)}</p>'
        f"<dl>{numbers}</dl></section>"
    )


def _chapter(claim: Claim) -> str:
    # the page that a link would lead to exists in the built book only
    if "DESCENT_BOOK" not in os.environ:
        return f"Chapter {claim.chapter}."
    return f'<a href="{claim.chapter}.html">Read the chapter</a>.'


def number(value: float) -> str:
    """A number as one writes it: integers whole, the rest with three digits."""
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa} × 10<sup>{int(exponent)}</sup>" if exponent else mantissa
