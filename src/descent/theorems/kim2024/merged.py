"""Theorems of :doc:`/kim2024/merged`: one drop for merged heads, long plateaus for separate ones."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ... import _validate
from ..._errors import error
from ...models.linear_attention import LinearAttention, Weights
from ...problems import Problem
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report

#: A loss is known to this part of the loss of no answer: what is below is rounding.
BLUR = 1e-12


@dataclass(frozen=True)
class LinearAttentionStart:
    """Heads of linear attention at a start, and gradient flow from there at ``times``.

    ``below`` is a length that `long_plateau` speaks of, larger than the heads are at the start.
    ValueError and TypeError as the model raises them.
    """

    model: LinearAttention
    problem: Problem
    weights: Weights
    times: Float[Tensor, " t"]
    below: float = 0.3

    def __post_init__(self) -> None:
        if not isinstance(self.model, LinearAttention):
            found = f"model must be LinearAttention, got {_validate.shown(self.model)}"
            raise error(TypeError, found, "give LinearAttention(H, n) or one with a rank")
        self.model.check(self.weights, self.problem)
        _validate.positive("below", self.below)

    @cached_property
    def path(self) -> Weights:
        """The weights at each time, in front of the runs."""
        return self.model.flow(self.weights, self.problem, self.times)

    @cached_property
    def silent(self) -> Tensor:
        """The loss of the answer zero, half the trace of Lambda."""
        return self.problem.tokens.square().sum((-2, -1)) / self.problem.tokens.shape[-2] / 2

    @cached_property
    def room(self) -> Tensor:
        """What can be learned: the loss of zero less the least loss."""
        return self.silent - self.model.least(self.problem)

    def left(self, weights: Weights) -> Float[Tensor, "*r"]:
        """The part of the room that is left, one for the answer zero."""
        return (self.model.loss(weights, self.problem) - self.model.least(self.problem)) / self.room

    @cached_property
    def matrices(self) -> Float[Tensor, "*r"]:
        """How many matrices a head has, beside its value."""
        return torch.full_like(self.weights.V[..., 0], len(self.weights) - 1)

    @cached_property
    def excess(self) -> Float[Tensor, "*r"]:
        """How much longer than the values the matrices are, in squares; at least zero."""
        matrices = self.weights[1].square().sum((-3, -2, -1))
        return (matrices - self.weights.V.square().sum(-1)).clamp_min(0)

    @cached_property
    def square(self) -> Tensor:
        """The Frobenius norm of Lambda squared."""
        return torch.linalg.matrix_norm(self.model.landscape(self.problem).square)

    @cached_property
    def steepness(self) -> Tensor:
        """Smallest and largest eigenvalue of the loss as a function of M, (2, ...)."""
        spectrum = self.model.spectrum(self.problem)
        G = torch.linalg.eigvalsh(self.model.landscape(self.problem).G)
        return torch.stack([spectrum[..., -1] * G[..., 0], spectrum[..., 0] * G[..., -1]])

    def longest(self, weights: Weights) -> Float[Tensor, "*r"]:
        """The largest length among all values and matrices of a head."""
        norms = [weights.V.abs(), *(torch.linalg.matrix_norm(W) for W in weights[1:])]
        return torch.stack(norms).amax((0, -1))


@theorem(
    "one-drop",
    title="One drop",
    box="thm-one-drop",
    standing=Standing.PROVED,
    start=LinearAttentionStart,
    uses=("lem-balance", "prop-linear-loss"),
)
def one_drop(at: LinearAttentionStart) -> Report:
    """The part of the loss that is left falls at least as fast as a sigmoid."""
    begun, theta = at.left(at.weights), at.excess * at.square / (2 * at.room)
    kappa = 2 * at.room * at.steepness[0] / at.square

    def falls(_: object) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        time = at.times.reshape(-1, *[1] * begun.ndim)
        now = (at.left(at.path) - BLUR * at.silent / at.room).clamp_min(1e-300)
        logit = torch.log((1 - theta - now) / now) - torch.log((1 - theta - begun) / begun)
        return kappa * (1 - theta) * time, logit + 1e-6, tuple(range(len(at.times)))

    return Report(
        hypotheses=(
            Inequality("merged: one matrix a head", at.matrices, torch.ones_like(begun)),
            Inequality("E(0) + θ < 1", begun + theta, torch.ones_like(begun), strict=True),
        ),
        promises=(Promise("κ(1-θ)t ≤ ln (1-θ-E)/E - ln (1-θ-E(0))/E(0)", falls),),
        constants={"κ": kappa.expand_as(begun), "θ": theta, "E(0)": begun},
    )


@theorem(
    "long-plateau",
    title="Separate heads start late",
    box="thm-long-plateau",
    standing=Standing.PROVED,
    start=LinearAttentionStart,
    uses=("prop-linear-loss",),
)
def long_plateau(at: LinearAttentionStart) -> Report:
    """Until a time of the order of one over the size of the start all lengths are below ``below``."""
    begun, A, top = at.longest(at.weights), at.below, at.model.spectrum(at.problem)[..., 0].square()
    rho = top + at.model.H * at.steepness[1] * A**3

    def slow(_: object) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        time = at.times.reshape(-1, *[1] * begun.ndim)
        now = at.longest(at.path)
        known = (1e-7 + 1e-12 / now) / now  # to which the flow is integrated
        return 1 / begun - 1 / now.clamp_max(A), rho * time + known, tuple(range(len(at.times)))

    def flat(_: object) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        fallen = at.silent - at.model.loss(at.path, at.problem)
        bound = at.model.H * top * at.longest(at.path) ** 3
        return fallen, bound + BLUR * at.silent, tuple(range(len(at.times)))

    return Report(
        hypotheses=(
            Inequality("separate: 2 ≤ matrices a head", 2 * torch.ones_like(begun), at.matrices),
            Inequality("a(0) ≤ A", begun, torch.full_like(begun, A)),
        ),
        promises=(
            Promise("1/a(0) - 1/min(a(t), A) ≤ ρt", slow),
            Promise("½ tr Λ - L ≤ H λ_1^2 a^3", flat),
        ),
        constants={"ρ": rho.expand_as(begun), "a(0)": begun, "plateau": (1 / begun - 1 / A) / rho},
    )
