"""What a claim is: a statement, a verdict, and a check that could come out against it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from .. import _validate


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


@dataclass(frozen=True)
class Evidence:
    """What a check brings back.

    conditions : what must be true for the verdict to stand, in words, at least one.
    numbers : what was measured, by name.
    """

    conditions: dict[str, bool]
    numbers: dict[str, float]

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ValueError("conditions is empty: a check needs at least one that could fail")
        bad = [name for name, value in self.numbers.items() if not math.isfinite(value)]
        if bad:
            raise ValueError(f"numbers {', '.join(bad)} are NaN or infinite: the check went wrong")

    @property
    def supports(self) -> bool:
        """Whether every condition came out true."""
        return all(self.conditions.values())

    @property
    def failed(self) -> list[str]:
        """The conditions that came out false."""
        return [name for name, true in self.conditions.items() if not true]


@dataclass(frozen=True)
class Claim:
    """One statement of a paper or of this book, and the code that puts it to the test.

    ``mutations`` maps a name to keyword arguments of ``check`` that break a hypothesis or a
    constant: under each of them the evidence must turn against the claim.
    """

    id: str
    paper: str
    number: str
    statement: str
    verdict: Verdict
    chapter: str
    check: Callable[..., Evidence] = field(repr=False)
    mutations: dict[str, dict] = field(repr=False)

    def run(self, **changes: object) -> Evidence:
        """Build the instance, compute the hypotheses, run it."""
        return self.check(**changes)


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
) -> Callable:
    """Enter the decorated check into the registry."""
    if id in registry:
        raise ValueError(f"claim {id!r} exists already: choose another id")
    if not mutations:
        raise ValueError(f"claim {id!r} has no mutation: name a change that must make it fail")

    def enter(check: Callable[..., Evidence]) -> Callable[..., Evidence]:
        registry[id] = Claim(id, paper, number, statement, verdict, chapter, check, mutations)
        return check

    return enter


def get(id: str) -> Claim:
    """The claim of that id; ValueError with the list of ids if there is none."""
    return registry[_validate.one_of("claim", id, registry)]
