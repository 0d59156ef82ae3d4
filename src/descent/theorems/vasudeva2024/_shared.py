"""Hypotheses that several theorems of this part share, and how they read a run."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..._descend import Trajectory
from .._inequality import Inequality
from .._report import Promise
from .._selection import SelectionStart

#: Inner products are known to this share of the largest.
ROUNDING = 1e-12


def feasible(at: SelectionStart) -> Inequality:
    """A margin that is positive."""
    margin = (1 / at.length).reshape(())
    return Inequality("0 < margin", torch.zeros_like(margin), margin, strict=True)


def selectable(at: SelectionStart) -> tuple[Inequality, ...]:
    """Equal scores of the other tokens, and a margin that is positive."""
    even = Inequality("the other scores of a sequence are equal", at.uneven, torch.tensor(SHARE))
    return even, feasible(at)


def steep(at: SelectionStart) -> Inequality:
    """The slopes of the loss, whose ratio enters constants, are numbers of float64."""
    tiny = at.kappa_min.new_tensor(torch.finfo(at.kappa_min.dtype).tiny)
    return Inequality("float64 holds κ_min", tiny, at.kappa_min, strict=True)


#: Scores count as equal where their differences move the way down by this share of it at most.
SHARE = 1e-9


def alike(at: SelectionStart, W: Float[Tensor, "*r D D"]) -> Inequality:
    """Scores are equal up to rounding at best, and attention may weigh the rounding more than them.

    At a token that is not optimal the derivative of f is its attention times the gap of the scores
    times the attention to the optimal token, and times what its score differs from the others'.
    Where nearly no attention is on the optimal token, rounding is all that is left.
    """
    m, spread = at.m(W), at.others.amax(-1) - at.others.amin(-1)
    wrong = at.log_slope(at.others.mean(-1) + at.gap * m.sigmoid()) + logsigmoid(-m)
    true = (wrong + logsigmoid(m) + at.gap.log()).logsumexp(-1)
    share = ((wrong + spread.log()).amax(-1) - true).exp()
    return Inequality("float64 holds the other scores equal", share, torch.tensor(SHARE))


def heard(at: SelectionStart) -> Promise:
    """The same all along a run."""

    def measured(run: Trajectory):
        found = alike(at, path(run))
        return found.left, found.right.to(found.left).expand_as(found.left), run.at

    return Promise("float64 holds the other scores equal", measured, ("weights",))


def no_push(at: SelectionStart) -> Inequality:
    """No two of the A_it point against each other: gaps then never fall."""
    least = at.gram.amin()
    return Inequality("⟨A_it, A_jτ⟩ ≥ 0", -least, ROUNDING * at.B.square())


def taken(at: SelectionStart) -> Promise:
    """No gradient so short that float64 loses its square, with which normalised steps end."""

    def last(run: Trajectory):
        weights = at.weights._replace(W=path(run)[-1])
        gradient = at.model.loss_and_gradient(weights, at.problem, "W")[1]["W"]
        square = gradient.square().sum((-2, -1))
        return torch.full_like(square, torch.finfo(square.dtype).tiny), square, ()

    return Promise("float64 holds ‖∇f‖²", last, ("weights",))


def depth(at: SelectionStart) -> Float[Tensor, "*r"]:
    """By how much the least soft margin of the start is below zero: M."""
    return (-at.m(at.weights.W).amin(-1)).clamp_min(0)


def path(run: Trajectory) -> Float[Tensor, "t *r D D"]:
    """The matrices W that a run was seen at."""
    return run.watched["weights"].W


def correlation(at: SelectionStart, W: Float[Tensor, "*r D D"]) -> Float[Tensor, "*r"]:
    """The cosine of the angle to W_mm; zero for W = 0, which has no direction."""
    inner = (W * at.mm.direction).sum((-2, -1))
    length = torch.linalg.vector_norm(W, dim=(-2, -1))
    return torch.where(length > 0, inner / length.clamp_min(torch.finfo(W.dtype).tiny), 0.0)
