"""The ledger: every claim beside what came out when it and its mutations were run."""

import html
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from descent.plots._text import formulas

from .._errors import error
from . import _kept
from ._record import Claim, Evidence, registry


@dataclass(frozen=True)
class Entry:
    """A claim, the evidence of one run of it, and that of each of its mutations by name."""

    claim: Claim
    evidence: Evidence
    mutations: dict[str, Evidence] = field(default_factory=dict)

    def record(self) -> dict:
        """The entry as plain data, as `python -m descent ledger --json` prints it."""
        names = ("id", "title", "paper", "number", "statement", "standing", "verdict", "chapter")
        record = {name: str(getattr(self.claim, name)) for name in (*names, "box")}
        return record | {
            "uses": list(self.claim.uses),
            "evidence": vars(self.evidence) | {"turns": self.evidence.turns},
            "mutations": {name: each.turned for name, each in self.mutations.items()},
            "supported": self.evidence.supports,
        }


class Ledger(list[Entry]):
    """Entries that show themselves as a table in a terminal and as rows on a page.

    anew : the ids of the claims that were run for it; the others were kept.
    """

    anew: tuple[str, ...] = ()

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


def run(claims: list[Claim] | None = None, jobs: int | None = None) -> Ledger:
    """The claims (all of them by default) with their evidence and that of their mutations.

    What was run before by the same code, also by another process, is read and not run again. The
    rest is run by ``jobs`` processes at once (one for each core by default), with a progress bar
    where somebody waits. A claim of one's own is run in this process, and not kept.
    """
    chosen = list(registry.values()) if claims is None else claims
    found = {claim.id: _kept.read(claim) for claim in chosen}
    if any(each is None for each in found.values()):
        with _kept.locked():  # whoever waited here finds most of it kept
            missing = [claim for claim in chosen if _kept.read(claim) is None]
            found = {claim.id: _kept.read(claim) for claim in chosen} | _work(missing, jobs)
    else:
        missing = []
    ledger = Ledger(_entry(claim, found[claim.id]) for claim in chosen)
    ledger.anew = tuple(claim.id for claim in missing)
    return ledger


def _entry(claim: Claim, found: dict[str, Evidence]) -> Entry:
    return Entry(claim, found[""], {name: each for name, each in found.items() if name})


def _work(missing: list[Claim], jobs: int | None) -> dict[str, dict[str, Evidence]]:
    ours = [claim for claim in missing if _kept.is_ours(claim)]
    jobs = min(jobs or os.cpu_count() or 1, len(ours))
    silent = "DESCENT_BOOK" in os.environ
    with tqdm(total=len(missing), desc="ledger", leave=False, delay=2, disable=silent) as bar:
        if jobs > 1:
            with ThreadPoolExecutor(jobs) as pool:  # each waits for a process of its own
                parts = [ours[k::jobs] for k in range(jobs)]
                list(pool.map(_elsewhere, parts, [bar.update] * jobs))
        found = {}
        for claim in missing:
            found[claim.id] = _kept.read(claim)
            if found[claim.id] is None:
                found[claim.id] = _kept.work(claim)
                bar.update()
    return found


def _elsewhere(claims: list[Claim], done: Callable[[], object]) -> None:
    """Run claims in another process, which keeps their evidence; RuntimeError where it fails."""
    command = [sys.executable, "-m", "descent.claims", *(claim.id for claim in claims)]
    path = os.pathsep.join(filter(None, (str(_kept.PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "DESCENT_BOOK": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    with process:
        for _ in process.stdout:
            done()
    if process.returncode:
        found = f"a claim could not be run, see above: {' '.join(command)}"
        raise error(RuntimeError, found, "run that command alone")


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
        f'<p class="descent-claim-source">{html.escape(source(claim))}, {claim.standing}. '
        f"{_chapter(claim)}</p>{_tested(entry)}<dl>{numbers}</dl></section>"
    )


def _tested(entry: Entry) -> str:
    """What was assumed, what followed and how sharply, and what each mutation turned."""
    evidence, parts = entry.evidence, []
    if evidence.hypotheses:
        parts.append(("Assumed", "; ".join(evidence.hypotheses)))
    parts.append(("Follows", "; ".join(_sharply(evidence, name) for name in evidence.conclusions)))
    for name, turned in entry.mutations.items():
        parts.append((f"With {name}", "false: " + "; ".join(turned.turned)))
    items = "".join(f"<li>{html.escape(word)}: {html.escape(text)}.</li>" for word, text in parts)
    return f'<ul class="descent-claim-tested">{items}</ul>'


def _sharply(evidence: Evidence, name: str) -> str:
    if name not in evidence.sharpness:
        return name
    median, best = evidence.sharpness[name]
    factor = evidence.turns[name]
    turns = f"turns at {factor:g} times the constant" if factor else "not at ten times the constant"
    return f"{name} (measured over bound {median:.2g}, at best {best:.2g}; {turns})"


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
