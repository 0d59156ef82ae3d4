"""The ledger: every claim beside what came out when it and its mutations were run."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from .. import _validate
from .._errors import error
from . import _graph, _kept, _pages
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
    """Entries that show themselves as a table in a terminal and as records on a page.

    anew : the ids of the claims that were run for it; the others were kept.
    """

    anew: tuple[str, ...] = ()

    def __str__(self) -> str:
        width = max((len(entry.claim.id) for entry in self), default=0)
        lines = [
            f"{entry.claim.id:{width}}  {entry.claim.verdict:18}  "
            f"{'yes' if entry.evidence.supports else 'NO '}        {_pages.source(entry.claim)}"
            for entry in self
        ]
        return "\n".join([f"{'claim':{width}}  {'verdict':18}  supported  source", *lines])

    def part(self, name: str) -> "Ledger":
        """The claims of one part of the book, such as ``"song2024"``.

        Raises
        ------
        ValueError : if no claim belongs to a part of that name.
        """
        _validate.one_of("part", name, {_pages.part(entry.claim): None for entry in self})
        return Ledger(entry for entry in self if _pages.part(entry.claim) == name)

    def overview(self) -> _pages.Page:
        """All claims at a glance: by part, surprises first, with a choice of the verdict."""
        return _pages.Page(_pages.overview(self), str(self))

    def graph(self) -> _pages.Page:
        """Which of these results rests on which, by the references in their proofs."""
        claims = [entry.claim for entry in self]
        edges = _graph.uses(claims)
        text = "\n".join(
            f"{label} uses {', '.join(sorted(of))}" for label, of in edges.items() if of
        )
        return _pages.Page(_graph.graph(claims, registry.values()), text)

    def errata(self) -> _pages.Page:
        """What the papers print and does not hold, or is not proved, as it is printed."""
        return _pages.Page(_pages.errata(self), str(Ledger(filter(_pages.surprising, self))))

    def _repr_html_(self) -> str:
        return _pages.records(self, registry.values())

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
        try:
            if jobs > 1:
                _side_by_side([ours[k::jobs] for k in range(jobs)], bar.update)
            found = {}
            for claim in missing:
                found[claim.id] = _kept.read(claim)
                if found[claim.id] is None:
                    found[claim.id] = _kept.work(claim)
                    bar.update()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_interrupted(missing)) from None
    return found


def _interrupted(missing: list[Claim]) -> str:
    kept = sum(_kept.is_ours(claim) and _kept.read(claim) is not None for claim in missing)
    return (
        f"interrupted: {kept} of the {len(missing)} claims that were to be run are kept; "
        "give the same command again to go on"
    )


def _side_by_side(parts: list[list[Claim]], done: Callable[[], object]) -> None:
    """Run each part in a process of its own; Ctrl-C ends them all."""
    running: list[subprocess.Popen] = []
    with ThreadPoolExecutor(len(parts)) as pool:  # a thread waits for each process
        try:
            list(pool.map(lambda part: _elsewhere(part, done, running), parts))
        except KeyboardInterrupt:
            for process in running:
                process.terminate()
            raise


def _elsewhere(claims: list[Claim], done: Callable[[], object], running: list) -> None:
    """Run claims in another process, which keeps their evidence; RuntimeError where it fails."""
    command = [sys.executable, "-m", "descent.claims", *(claim.id for claim in claims)]
    path = os.pathsep.join(filter(None, (str(_kept.PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "DESCENT_BOOK": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # a terminal's Ctrl-C is for this process, which ends that one
    )
    running.append(process)
    with process:
        for _ in process.stdout:
            done()
    if process.returncode:
        found = f"a claim could not be run, see above: {' '.join(command)}"
        raise error(RuntimeError, found, "run that command alone")
