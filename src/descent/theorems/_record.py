"""A theorem: a record, and a function of a start that says what it asks and what it promises."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from .. import _validate
from .._errors import error
from ._precision import out_of_range, widened
from ._report import Report


class Standing(StrEnum):
    """On what a statement rests.

    *Proved*: in the book. *Cited*: proved elsewhere. *Observed*: seen in runs, not proved.
    *Refuted*: false, and its record is kept so that anybody can see it fail.
    """

    PROVED = "proved"
    CITED = "cited"
    OBSERVED = "observed"
    REFUTED = "refuted"


@dataclass(frozen=True)
class Theorem:
    """A statement of the book that can be held against anybody's data.

    title : as in its box.
    box : the label of that box, or of the equation where the statement stands.
    standing : on what it rests.
    start : makes of what the theorem is called with the numbers that ``state`` reads. For an
        attention layer that is `descent.theorems.AttentionStart`; a model of another kind brings
        its own, any object with ``model``, ``problem``, ``weights`` and the numbers it takes.
    state : the statement, a function of such a start.
    uses : labels of what its proof refers to.
    """

    id: str
    title: str
    box: str
    standing: Standing
    start: Callable[..., Any] = field(repr=False)
    state: Callable[[Any], Report] = field(repr=False)
    uses: tuple[str, ...] = ()

    def __call__(self, *of: object, **given: object) -> Report:
        """The report on these data, in float64; of an attention layer: (layer, problem, weights)."""
        wide = {name: widened(value) for name, value in given.items()}
        return self.about(self.start(*map(widened, of), **wide))

    def about(self, start: Any) -> Report:
        """The report on a start."""
        report = self.state(start)
        asked = report.hypotheses + out_of_range(start)
        return replace(report, hypotheses=asked, theorem=self, start=start)

    def __reduce__(self) -> tuple:
        """A copy is the theorem itself, and another process finds its own by the id."""
        return get, (self.id,)


registry: dict[str, Theorem] = {}


def theorem(
    id: str,
    *,
    title: str,
    box: str,
    standing: Standing,
    start: Callable[..., Any],
    uses: tuple[str, ...] = (),
) -> Callable:
    """Enter the decorated statement into the registry; its name then is the theorem itself.

    Raises
    ------
    ValueError : if there is a theorem of that id.
    """
    if id in registry:
        raise error(ValueError, f"theorem {id!r} exists already", "choose another id")

    def enter(state: Callable[[Any], Report]) -> Theorem:
        registry[id] = Theorem(id, title, box, standing, start, state, uses)
        return registry[id]

    return enter


def get(id: str) -> Theorem:
    """The theorem of that id.

    Raises
    ------
    ValueError : if there is none, with the ids that come nearest.

    Examples
    --------
    >>> from descent import theorems, models, problems
    >>> problem = problems.gaussian(N=2, n=2, D=8, seed=0)
    >>> layer = models.Attention(kernel="softmax", H=2, d=4)
    >>> weights = layer.init(problem, seed=1, runs=3)
    >>> report = theorems.get("song2024-theorem-1")(layer, problem, weights)
    >>> outcome = report.trial(steps=100)
    >>> outcome.holds
    True
    """
    return registry[_validate.one_of("theorem", id, registry)]
