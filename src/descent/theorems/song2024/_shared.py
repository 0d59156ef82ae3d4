"""Hypotheses and promises that several theorems of the part share."""

from torch import Tensor

from .._attention import AttentionStart
from .._inequality import Inequality
from .._report import Linear


def full_rank(at: AttentionStart) -> Inequality:
    """B_0 has rank Nn, as far as its precision can tell."""
    return Inequality("0 < σ_min(B_0)", at.noise, at.sigma, strict=True)


def linear(at: AttentionStart, mu: Tensor, power: int = 1) -> Linear:
    """The loss falls at this rate."""
    return Linear(mu, at.rounding, power)
