"""Hypotheses and promises that several theorems of the part share.

Invariants are written as distances moved: a left side that is zero at the start shows in its
sharpness whether anything moved at all. "At least half its start" would look half attained by a
run that stands still.
"""

import torch
from torch import Tensor

from .._attention import AttentionStart
from .._inequality import Inequality
from .._report import Linear, Promise


def full_rank(at: AttentionStart) -> Inequality:
    """B_0 has rank Nn, as far as its precision can tell."""
    return Inequality("0 < σ_min(B_0)", at.noise, at.sigma, strict=True)


def linear(at: AttentionStart, mu: Tensor, power: int = 1) -> Linear:
    """The loss falls at this rate."""
    return Linear(mu, at.rounding, power)


def weights_move(at: AttentionStart, letter: str, most: Tensor, name: str) -> Promise:
    """Each head's matrix stays within its own ``most`` (*r, H) of its start, in Frobenius' norm."""

    def measure(run):
        moved = getattr(run.watched["weights"], letter) - getattr(at.weights, letter)
        length = torch.linalg.matrix_norm(moved)
        share = torch.where(length > 0, length / most, 0)
        return share.amax(-1), torch.ones_like(share[..., 0]), run.at

    return Promise(name, measure, watches=("weights",))


def path(at: AttentionStart, letter: str, most: Tensor, name: str) -> Promise:
    """All heads of a matrix together stay within ``most`` (*r) of their start."""

    def measure(run):
        moved = getattr(run.watched["weights"], letter) - getattr(at.weights, letter)
        return moved.square().sum((-3, -2, -1)).sqrt(), most, run.at

    return Promise(name, measure, watches=("weights",))


def features_move(at: AttentionStart, most: Tensor, name: str) -> Promise:
    """The features stay within ``most`` (*r) of their start, in the spectral norm."""

    def measure(run):
        return torch.linalg.matrix_norm(at.now(run).B - at.B, 2), most, run.at

    return Promise(name, measure, watches=("weights",))
