"""The theorem of :doc:`/kim2024/timescales`: W alone converges, and how fast."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ...models import InContext
from ...models.in_context import Moments, Neurons, Population
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report, blurred

#: Times at which the promises are held, in units of one over the rate.
TIMES = torch.linspace(0, 5, 26, dtype=torch.float64)[1:]


@dataclass(frozen=True)
class RelaxationStart:
    """Neurons that stand still, and a W that is trained from where it is.

    ValueError and TypeError as the model raises them.
    """

    model: InContext
    neurons: Neurons
    population: Population
    W: Float[Tensor, "*r k k"]

    def __post_init__(self) -> None:
        self.model.loss_with(self.neurons, self.W, self.population)

    @cached_property
    def at(self) -> Moments:
        """The moments of the features."""
        return self.model.moments(self.neurons, self.population)

    @cached_property
    def sizes(self) -> Float[Tensor, "*r k"]:
        """The eigenvalues of Sigma, in rising order."""
        return torch.linalg.eigvalsh(self.at.Sigma)

    @cached_property
    def rate(self) -> Float[Tensor, "*r"]:
        """The square of the smallest nonzero singular value of C, times the least eigenvalue of Sigma."""
        s = torch.linalg.svdvals(self.at.C)
        # C is the sum of products of this size, and known to their rounding
        size = (self.sizes[..., -1] * self.population.F.square().sum(-1).mean()).sqrt()
        known = torch.maximum(1e-9 * s[..., 0], 1e-14 * size)[..., None]
        seen = torch.where(s > known, s, torch.inf).amin(-1)
        return torch.where(seen.isfinite(), seen, 0).square() * self.sizes[..., 0].clamp_min(0)

    @cached_property
    def rest(self) -> Float[Tensor, "*r k k"]:
        """The limit, the minimiser that is nearest to W."""
        inverse = torch.linalg.pinv(self.at.Sigma, rtol=1e-14, hermitian=True)
        C = self.at.C
        return self.W - torch.linalg.pinv(C, rtol=1e-9) @ C @ (self.W - inverse)

    @cached_property
    def path(self) -> Float[Tensor, "t *r k k"]:
        """W at `TIMES`, in units of one where there is no rate."""
        given = self.neurons, self.W, self.population
        rate = torch.where(self.rate > 0, self.rate, 1)
        return torch.stack([self.model.relax(*given, t / rate) for t in TIMES])

    def distance(self, W: Float[Tensor, "*t k k"]) -> Float[Tensor, "*t"]:
        """From the limit, in the Frobenius norm."""
        return torch.linalg.matrix_norm(W - self.rest)

    def excess(self, W: Float[Tensor, "*t k k"]) -> Float[Tensor, "*t"]:
        """Of the loss over its least."""
        best = self.model.loss(self.neurons, self.population)
        return self.model.loss_with(self.neurons, W, self.population) - best


@theorem(
    "kim2024-lemma-3-1",
    title="Attention converges while the neurons stand",
    box="lem-relaxation",
    standing=Standing.PROVED,
    start=RelaxationStart,
    uses=("prop-infinite-loss",),
)
def relaxation(at: RelaxationStart) -> Report:
    """The distance falls at the rate, the excess of the loss at twice the rate."""
    fall = torch.exp(-TIMES).to(at.W).reshape(-1, *[1] * at.rate.ndim)
    steps = tuple(range(len(TIMES)))
    largest = torch.linalg.matrix_norm(at.at.C, 2).square()
    # eigenvalues of C^T C and of Sigma are known to a rounding of the largest
    doubt = at.sizes[..., -1] / at.sizes[..., 0].clamp_min(1e-300)
    doubt = doubt + largest * at.sizes[..., 0] / at.rate.clamp_min(1e-300)
    size = torch.linalg.matrix_norm(at.W) + torch.linalg.matrix_norm(at.rest)
    known = (1e-9 + 1e-14 * doubt) * size
    stretch = (largest * at.sizes[..., -1]).sqrt()  # from W to answers
    answers = at.population.F.square().sum(-1).mean().sqrt() + stretch * size
    least = at.model.loss(at.neurons, at.population)

    def closer(_: object) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        return at.distance(at.path), fall * at.distance(at.W) + known, steps

    def better(_: object) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        above = least + fall.square() * at.excess(at.W) + (stretch * known).square() / 2
        right = blurred(above, torch.finfo(at.W.dtype).eps * answers) - least
        return at.excess(at.path), right, steps

    gap = torch.linalg.matrix_norm(at.at.C @ at.rest - at.at.B)
    return Report(
        hypotheses=(
            Inequality("0 < λ_min(Σ)", 1e-11 * at.sizes[..., -1], at.sizes[..., 0], strict=True),
            Inequality("0 < C", 1e-14 * largest * at.sizes[..., 0], at.rate, strict=True),
        ),
        promises=(
            Promise("‖W_t - W_∞‖ ≤ e^-ρt ‖W_0 - W_∞‖", closer),
            Promise("L_t - L ≤ e^-2ρt (L_0 - L)", better),
            Promise("C W_∞ = C Σ^-1", lambda _: (gap, largest.sqrt() * known, ())),
        ),
        constants={"ρ": at.rate},
    )
