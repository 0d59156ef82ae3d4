"""The lemma of :doc:`/foundations/span`, for a layer, tokens and weights of one's own."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ... import span
from ..._descend import Trajectory, descend
from ...problems import Problem
from .._attention import AttentionStart
from .._record import Standing, theorem
from .._report import Promise, Report, blurred

#: Sums of some hundred steps in another order differ by this, where training is not chaotic.
ROUNDING = 1e-10


@dataclass(frozen=True)
class SpanStart(AttentionStart):
    """A layer that trains in all dimensions, beside what its tokens span.

    basis : an orthonormal basis (D, r) to try in place of the tokens' own.
    """

    basis: Float[Tensor, "D r"] | None = None

    @cached_property
    def reduction(self) -> span.Reduction:
        """The problem in that basis."""
        if self.basis is None:
            return span.reduce(self.problem)
        small = Problem(self.problem.X @ self.basis, self.problem.y, self.problem.ambient)
        return span.Reduction(small, self.basis, "QKV")

    def descend(self, **options) -> Trajectory:
        """Train in all D dimensions, which `descent.descend` by itself would not."""
        return descend(self.model, self.problem, self.weights, reduce=False, **options)


@theorem(
    "span-lemma",
    title="Descent stays in the span of the tokens",
    box="lem-span",
    standing=Standing.PROVED,
    start=SpanStart,
)
def lemma(at: SpanStart) -> Report:
    """Held against a run in all dimensions: its losses and weights, and those of the small problem."""
    small = at.reduction

    def again(run: Trajectory, problem: Problem, start: NamedTuple) -> Trajectory:
        last = run.every * (len(run.loss) - 1)
        options = {"step": run.eta, "steps": last, "every": run.every, "reduce": False}
        return descend(at.model, problem, start, **options)

    def inside(run: Trajectory) -> Trajectory:
        return again(run, small.problem, small.restrict(at.weights))

    def losses(run):
        other = inside(run).loss
        gap = (run.loss - other).abs().where(~(run.loss.isnan() & other.isnan()), 0)
        known = (blurred(run.loss, at.rounding) - run.loss).nan_to_num()
        size = run.loss.nan_to_num().cummax(0).values
        return gap, ROUNDING * size + known, tuple(run.steps.tolist())

    def lifts(run):
        return _apart(small.lift(at.weights, inside(run).weights), run.weights)

    def tame(run):
        nudge = 1 + 64 * torch.finfo(at.problem.X.dtype).eps
        start = at.weights._replace(**{W: nudge * getattr(at.weights, W) for W in "QKV"})
        return _apart(again(run, at.problem, start).weights, run.weights)

    return Report(
        hypotheses=(),
        promises=(
            Promise("the losses are those of the small problem", losses),
            Promise("W_t = W_0 + Q(W̃_t - W̃_0)", lifts),
        ),
        constants={
            "dimensions of the small problem": at.r.new_tensor(small.basis.shape[-1]),
        },
        train="QKV",
        along=(Promise("a rounding at the start stays one", tame),),
    )


def _apart(found: NamedTuple, run: NamedTuple) -> tuple[Tensor, Tensor, tuple]:
    """How far weights are from those of a run, and how far sums in another order may lead.

    Each matrix in its own units: one may be far smaller than the others.
    """
    shares = []
    for a, b in ((getattr(found, W), getattr(run, W)) for W in "QKV"):
        off, size = ((x.abs().amax((-3, -2, -1))) for x in (a - b, b))
        shares.append(torch.where(off == 0, 0, off / size))
    largest = torch.stack(shares).amax(0)
    return largest, torch.full_like(largest, ROUNDING), ()
