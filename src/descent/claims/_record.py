"""What a claim is: a statement, a verdict, and a check that could come out against it."""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

import torch

from .. import _validate, theorems
from .._descend import DivergenceWarning
from .._errors import error
from ..steps import PrecisionWarning
from ..theorems import Inequality, Outcome, Standing
from ..theorems._inequality import TOLERANCE
from ._certificate import BITS, certify


class Verdict(StrEnum):
    """How a published statement fares when it is run.

    *Counterexample* says false as printed, and an instance in hand shows it. *Gap* says that the
    printed proof does not give what is printed; the statement itself may be true.
    """

    HOLDS = "holds"
    CORRECTED = "holds as corrected"
    COUNTEREXAMPLE = "counterexample"
    GAP = "gap"
    NOT_REPRODUCED = "not reproduced"
    OPEN = "open"


#: A constant is made bolder by these factors, in turn, until a conclusion refuses it.
LADDER = (1.02, 1.1, 1.5, 2.0, 10.0)


@dataclass(frozen=True)
class Evidence:
    """What a check brings back: what is assumed and what follows, kept apart.

    conclusions : what follows, in words, and whether it came true; at least one. A mutation must
        turn one of these.
    numbers : what was measured, by name.
    hypotheses : what is assumed, in words, and whether it is met in every run.
    sharpness : for conclusions that are inequalities, measured over bound in the median and at
        best: 1 is attained, and far below 1 the bound is slack.
    """

    conclusions: dict[str, bool]
    numbers: dict[str, float] = field(default_factory=dict)
    hypotheses: dict[str, bool] = field(default_factory=dict)
    sharpness: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.conclusions:
            raise error(
                ValueError, "conclusions is empty", "a check needs at least one that could fail"
            )
        bad = [name for name, value in self.numbers.items() if not math.isfinite(value)]
        if bad:
            raise error(
                ValueError,
                f"the check went wrong, numbers {', '.join(bad)} are NaN or infinite",
                "find out which step of the check made them",
            )

    @classmethod
    def of(
        cls,
        outcomes: Iterable[Outcome],
        *,
        conclusions: dict[str, bool] | None = None,
        hypotheses: dict[str, bool] | None = None,
        sharpness: dict[str, tuple[float, float]] | None = None,
        **numbers: float,
    ) -> "Evidence":
        """The evidence of a theorem's outcomes, and what else was found, by name.

        A hypothesis counts as met and a conclusion as true if it is so in every run of all.
        """
        outcomes = list(outcomes)
        asked = _by_name(h for outcome in outcomes for h in outcome.hypotheses)
        found = _by_name(c for outcome in outcomes for c in outcome.conclusions)
        runs = sum(outcome.conclusions[0].met.numel() for outcome in outcomes)
        return cls(
            conclusions=_all_met(found) | (conclusions or {}),
            numbers={"runs": runs} | numbers,
            hypotheses=_all_met(asked) | (hypotheses or {}),
            sharpness={name: _sharpness(each) for name, each in found.items()} | (sharpness or {}),
        )

    @property
    def supports(self) -> bool:
        """Whether every hypothesis is met and every conclusion came true."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """The hypotheses that are not met and the conclusions that are false."""
        return [n for n, true in (self.hypotheses | self.conclusions).items() if not true]

    @property
    def turned(self) -> list[str]:
        """The conclusions that are false."""
        return [name for name, true in self.conclusions.items() if not true]

    @property
    def turns(self) -> dict[str, float | None]:
        """For each inequality the first factor of `LADDER` on its constant that turns it, or None.

        That takes no second run: a left side c times as large fails where c times the sharpness
        exceeds one.
        """
        return {
            name: next((factor for factor in LADDER if factor * best > 1 + TOLERANCE), None)
            for name, (_, best) in self.sharpness.items()
        }


def _by_name(inequalities: Iterable[Inequality]) -> dict[str, list[Inequality]]:
    found: dict[str, list[Inequality]] = {}
    for each in inequalities:
        found.setdefault(each.name, []).append(each)
    return found


def _all_met(by_name: dict[str, list[Inequality]]) -> dict[str, bool]:
    return {name: all(bool(i.met.all()) for i in each) for name, each in by_name.items()}


def _sharpness(conclusions: list[Inequality]) -> tuple[float, float]:
    values = torch.cat([c.sharpness.flatten() for c in conclusions])
    return float(values.median()), float(values.max())


@dataclass(frozen=True)
class Claim:
    """One statement of a paper or of this book, and the code that puts it to the test.

    title, box, standing, uses : as in `descent.theorems.Theorem`; those of ``theorem`` where the
        claim is about one.
    mutations : name -> keyword arguments of ``check`` that break a hypothesis or a constant; under
        each of them a *conclusion* must fail.
    certificate : for a counterexample, what gives its `Certain` inequalities.
    proof : or the label of the box that proves it on paper.
    """

    id: str
    paper: str
    number: str
    statement: str
    verdict: Verdict
    chapter: str
    check: Callable[..., Evidence] = field(repr=False)
    mutations: dict[str, dict] = field(repr=False)
    title: str = ""
    box: str = ""
    standing: Standing = Standing.OBSERVED
    uses: tuple[str, ...] = ()
    theorem: str = ""
    certificate: Callable[[], list] | None = field(default=None, repr=False)
    proof: str = ""

    def run(self, **changes: object) -> Evidence:
        """Build the instance, compute the hypotheses, run it; ``changes`` are those of a mutation."""
        with warnings.catch_warnings():
            for kind in (DivergenceWarning, PrecisionWarning) if changes else ():
                # a mutation may well diverge, or not move, and its conclusions then say so
                warnings.simplefilter("ignore", kind)
            found = self.check(**changes)
        return found if changes or not self.certificate else self._certified(found)

    def certified(self, bits: int = BITS) -> list:
        """The inequalities of its certificate, enclosed with this many bits; none without one."""
        return certify(self.certificate, bits) if self.certificate else []

    def _certified(self, found: Evidence) -> Evidence:
        proved = {f"certified: {each.name}": each.holds for each in self.certified()}
        return replace(found, conclusions=found.conclusions | proved)


registry: dict[str, Claim] = {}


def claim(
    id: str,
    *,
    paper: str,
    number: str,
    statement: str,
    verdict: Verdict,
    chapter: str,
    mutations: dict[str, dict],
    theorem: str = "",
    **record: object,
) -> Callable:
    """Enter the decorated check into the registry.

    ``theorem`` names the theorem that it is about, whose title, box, standing and uses it takes;
    a claim without one gives these four by name. A counterexample also has a
    ``certificate`` or names its ``proof``.
    """
    if id in registry:
        raise error(ValueError, f"claim {id!r} exists already", "choose another id")
    if not mutations:
        raise error(
            ValueError, f"claim {id!r} has no mutation", "name a change that must make it fail"
        )
    if (verdict is Verdict.COUNTEREXAMPLE) != bool(record.keys() & {"certificate", "proof"}):
        raise error(
            ValueError,
            f"claim {id!r}: a counterexample, and nothing else, has a certificate or a proof",
            "it has a certificate in ball arithmetic or names its proof",
        )
    if theorem:
        about = theorems.get(theorem)
        taken = {name: getattr(about, name) for name in ("title", "box", "standing", "uses")}
        record = taken | record

    def enter(check: Callable[..., Evidence]) -> Callable[..., Evidence]:
        of = (id, paper, number, statement, verdict, chapter, check, mutations)
        registry[id] = Claim(*of, theorem=theorem, **record)
        return check

    return enter


def get(id: str) -> Claim:
    """The claim of that id.

    Raises
    ------
    ValueError : if there is none, with the ids that come nearest.

    Examples
    --------
    >>> from descent import claims
    >>> claims.get("song2024-theorem-1").verdict
    <Verdict.HOLDS: 'holds'>
    """
    return registry[_validate.one_of("claim", id, registry)]
