"""The theorem of :doc:`/kim2024/prompts`: what a prompt of finite length costs."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ...models import InContext
from ...models.in_context import Moments, Neurons, Population
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report


@dataclass(frozen=True)
class InContextStart:
    """A model, its neurons, a population, and prompts of n pairs with ``noise`` on the labels.

    ValueError and TypeError as the model raises them.
    """

    model: InContext
    neurons: Neurons
    population: Population
    n: int
    noise: float = 0.0

    @cached_property
    def moments(self) -> Moments:
        """Second moments of the learned and the true features."""
        return self.model.moments(self.neurons, self.population)

    @cached_property
    def sizes(self) -> Float[Tensor, "*r p"]:
        """The eigenvalues of Sigma, in rising order."""
        return torch.linalg.eigvalsh(self.moments.Sigma)

    @cached_property
    def infinite(self) -> Float[Tensor, "*r"]:
        """The least loss of infinite prompts."""
        return self.model.loss(self.neurons, self.population)

    @cached_property
    def finite(self) -> Float[Tensor, "*r"]:
        """The least expected loss of prompts of n pairs."""
        return self._with(self.n)

    @cached_property
    def inverse(self) -> Float[Tensor, "*r"]:
        """The expected loss of prompts of n pairs with the best W of infinite ones."""
        return self._with(None)

    def _with(self, length: int | None) -> Float[Tensor, "*r"]:
        given = self.neurons, self.population
        W = self.model.best_attention(*given, length, self.noise)
        return self.model.finite_loss(self.neurons, W, self.population, self.n, self.noise)

    @cached_property
    def ceiling(self) -> Tensor:
        """The bound, p (sup |f°|^2 + s^2) / 2n for p learned features."""
        largest = self.population.F.square().sum(-1).max()
        features = self.neurons.a.shape[-1]
        return features * (largest + self.noise**2) / (2 * self.n)


@theorem(
    "kim2024-finite-prompts",
    title="The price of a short prompt",
    box="thm-finite-prompts",
    standing=Standing.PROVED,
    start=InContextStart,
    uses=("prop-finite-loss", "prop-infinite-loss"),
)
def finite_prompts(at: InContextStart) -> Report:
    """Between the loss of infinite prompts and that plus the ceiling; losses known to rounding."""
    size = at.population.F.square().sum(-1).mean() + at.finite.abs() + at.inverse.abs()
    # W is an inverse, known to the condition of Sigma
    blur = (1e-12 + 1e-14 * at.sizes[..., -1] / at.sizes[..., 0].clamp_min(1e-300)) * size
    return Report(
        hypotheses=(
            Inequality("0 < λ_min(Σ)", 1e-11 * at.sizes[..., -1], at.sizes[..., 0], strict=True),
        ),
        promises=(
            Promise("L ≤ L^n", lambda _: (at.infinite, at.finite + blur, ())),
            Promise("L^n ≤ L^n_TF(Σ^-1)", lambda _: (at.finite, at.inverse + blur, ())),
            Promise(
                "L^n_TF(Σ^-1) - L ≤ k (sup|f|^2 + s^2) / 2n",
                lambda _: (at.inverse - at.infinite, at.ceiling.expand_as(at.infinite) + blur, ()),
            ),
        ),
        constants={"L": at.infinite, "L^n": at.finite},
    )
