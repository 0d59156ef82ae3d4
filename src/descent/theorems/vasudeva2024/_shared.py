"""Hypotheses that several theorems of this part share, and how they read a run."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..._descend import Trajectory
from .._inequality import Inequality
from .._report import Promise
from .._selection import SelectionStart

#: Inner products are known to this share of the largest.
ROUNDING = 1e-12


def selectable(at: SelectionStart) -> tuple[Inequality, ...]:
    """Equal scores of the other tokens, and a margin that is positive."""
    margin = (1 / at.length).reshape(())
    return (
        Inequality("the other scores of a sequence are equal", at.uneven, torch.tensor(1e-9)),
        Inequality("0 < margin", torch.zeros_like(margin), margin, strict=True),
    )


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
