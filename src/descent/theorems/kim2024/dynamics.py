"""Theorems of :doc:`/kim2024/dynamics`: what the flow of a cloud conserves, and how fast it falls."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ... import _validate, flows
from ..._errors import error
from ..._least_squares import least_norm
from ...models import InContext, in_context
from ...models.in_context import Moments, Neurons, Population
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report

#: Sizes that are zero up to rounding are told from zero at this share of what they are made of.
ZERO = 1e-9


@dataclass(frozen=True)
class CloudStart:
    """A model, a cloud of neurons with masses, a population, and the neurons that teach it.

    mass : equal for all neurons if left out.
    teachers : neurons of equal mass with the true features, for the theorem on birth and death.
    dt, steps : of the flow that a theorem on a flow is held against.

    ValueError and TypeError as the model and `flows.euler` raise them.
    """

    model: InContext
    neurons: Neurons
    population: Population
    mass: Tensor | None = None
    teachers: Neurons | None = None
    dt: float = 0.01
    steps: int = 100

    @cached_property
    def masses(self) -> Float[Tensor, "*r d"]:
        """The mass of each neuron; they sum to one."""
        return flows._masses(self.mass, self.neurons)

    @cached_property
    def moments(self) -> Moments:
        """Second moments of the cloud's features and the true ones."""
        return self.model.moments(flows.weighted(self.neurons, self.masses), self.population)

    @cached_property
    def loss(self) -> Float[Tensor, "*r"]:
        """The loss of infinite prompts with the best W."""
        return self.moments.zeta.square().sum(-1).mean(-1) / 2

    @cached_property
    def speed(self) -> Neurons:
        """The velocities of the neurons; ``speed.a`` is the pull on each."""
        return self.model._velocities(self.neurons, self.population, self.moments)

    @cached_property
    def variation(self) -> Float[Tensor, "*r d"]:
        """The first variation of the loss at each neuron."""
        return -(self.speed.a * self.neurons.a).sum(-1)

    def over(self, values: Float[Tensor, "*r d"]) -> Float[Tensor, "*r"]:
        """The integral over the cloud."""
        return (self.masses * values).sum(-1)

    @cached_property
    def Q(self) -> Float[Tensor, "*r k k"]:
        """The second moment of the outer weights."""
        return self.neurons.a.mT @ (self.masses[..., None] * self.neurons.a)

    @cached_property
    def left(self) -> Float[Tensor, "*r k k"]:
        """The second moment of what is left, E zeta zeta^T, times B."""
        zeta = self.moments.zeta
        return zeta.mT @ zeta @ self.moments.B / zeta.shape[-2]

    @cached_property
    def nuclear(self) -> Float[Tensor, "*r"]:
        """The nuclear norm of that product: how fast the loss falls along the best homotopy."""
        return torch.linalg.svdvals(self.left).sum(-1)

    @cached_property
    def answers(self) -> Float[Tensor, "*r m d"]:
        """What each neuron says to each input, before its outer weight."""
        return self.model.sigma.value(self.population.X @ self.neurons.w.mT)

    @cached_property
    def representer(self) -> Float[Tensor, "*r d k"]:
        """Outer weights of least norm that make the true features of these neurons."""
        root, F = self.masses.sqrt(), self.population.F
        A = self.answers * root[..., None, :]
        v = least_norm(A, F.expand(*A.shape[:-2], *F.shape))
        return v / root[..., None]

    @cached_property
    def missed(self) -> Float[Tensor, "*r"]:
        """The largest entry of the true features that the representer does not make."""
        made = self.answers @ (self.masses[..., None] * self.representer)
        return (made - self.population.F).abs().amax((-2, -1))

    @cached_property
    def cost(self) -> Float[Tensor, "*r"]:
        """The squared norm of the representer over the cloud."""
        return self.over(self.representer.square().sum(-1))

    @cached_property
    def least(self) -> Tensor:
        """The smallest second moment of the true features."""
        F = self.population.F
        return torch.linalg.eigvalsh(F.mT @ F / len(F))[0]

    @cached_property
    def total(self) -> Tensor:
        """The mean square of the true features, twice the loss of features that are of no use."""
        return self.population.F.square().sum(-1).mean()

    @cached_property
    def sizes(self) -> Float[Tensor, "*r k"]:
        """The eigenvalues of Sigma, in rising order."""
        return torch.linalg.eigvalsh(self.moments.Sigma)

    @cached_property
    def invertible(self) -> Inequality:
        """Sigma is invertible, by more than rounding."""
        least, largest = self.sizes[..., 0], self.sizes[..., -1]
        return Inequality("0 < λ_min(Σ)", 1e-14 * largest, least, strict=True)

    @cached_property
    def ceiling(self) -> Float[Tensor, "*r"]:
        """R_1^2, at least as large as any eigenvalue of Sigma while w stays."""
        return _largest(self._rooted) * torch.linalg.eigvalsh(self.Q)[..., -1]

    @cached_property
    def _rooted(self) -> Float[Tensor, "*r m d"]:
        return self.answers * self.masses.sqrt()[..., None, :]

    @cached_property
    def stride(self) -> Float[Tensor, "*r"]:
        """The step times the largest curvature that the outer weights would meet at a minimum.

        There it is that of E|B(delta - Pi delta)|^2, with Pi the projection on the features.
        """
        A, h = self._rooted, self.moments.h
        rest = A - h @ least_norm(h, A)
        return self.dt * _largest(rest) * torch.linalg.matrix_norm(self.moments.B, 2).square()

    @cached_property
    def crowding(self) -> Float[Tensor, "*r"]:
        """The largest density of the teachers with respect to the cloud, infinite if they miss it.

        ValueError where no teachers were given.
        """
        if self.teachers is None:
            raise error(ValueError, "teachers were left out", "give neurons that make f°")
        teachers = in_context._neurons(self.teachers)
        for name, theirs, ours in zip("aw", teachers, self.neurons, strict=True):
            wanted = theirs.shape[-2], ours.shape[-1]
            _validate.shape(
                f"teachers.{name}", theirs, wanted, f"the cloud has {wanted[1]} columns"
            )
            _validate.like(f"teachers.{name}", theirs, ours)
        theta, taught = (torch.cat(tuple(x), -1) for x in (self.neurons, teachers))
        same = (theta[..., :, None, :] == taught[..., None, :, :]).all(-1)
        held = (same * self.masses[..., None]).sum(-2)
        twins = (taught[:, None] == taught).all(-1).to(held).mean(-1)  # one may come twice
        return (twins / held).amax(-1)


@theorem(
    "conserved-second-moment",
    title="What the flow conserves",
    box="thm-conserved",
    standing=Standing.PROVED,
    start=CloudStart,
)
def conserved(at: CloudStart) -> Report:
    """The derivative of Q vanishes, and Sigma is bounded by Q."""
    flux = at.speed.a.mT @ (at.masses[..., None] * at.neurons.a)
    parts = at.over(torch.linalg.vector_norm(at.speed.a, dim=-1) * _norm(at.neurons.a))
    loudest = at.answers.square().amax((-2, -1))
    values, vectors = torch.linalg.eigh(at.Q)
    root = vectors / values.clamp_min(0).sqrt()[..., None, :]
    relative = torch.linalg.eigvalsh(root.mT @ at.moments.Sigma @ root)[..., -1]
    made = parts + torch.linalg.matrix_norm(at.moments.B) * (at.total * at.sizes.sum(-1)).sqrt()
    # the regression is known to the condition of Sigma
    known = ZERO + 1e-14 * at.sizes[..., -1] / at.sizes[..., 0].clamp_min(1e-300)
    return Report(
        hypotheses=(at.invertible,),
        promises=(
            Promise(
                "∫ g aᵀ dμ = 0",
                lambda _: (flux.abs().amax((-2, -1)), known * made, ()),
            ),
            Promise("Σ ⪯ sup σ² Q", lambda _: (relative, loudest, ())),
        ),
        constants={"λ_max(Q)": values[..., -1], "L": at.loss},
    )


def _largest(A: Float[Tensor, "*r m d"]) -> Float[Tensor, "*r"]:
    """The largest eigenvalue of the kernel A^T A / m."""
    return torch.linalg.matrix_norm(A, 2).square() / A.shape[-2]


def _norm(a: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a, dim=-1)


@theorem(
    "improvement-rate",
    title="How fast the flow falls",
    box="thm-improvement",
    standing=Standing.PROVED,
    start=CloudStart,
    uses=("prop-dissipation",),
)
def improvement(at: CloudStart) -> Report:
    """The flow dissipates at least the square of the nuclear norm over the representer's."""
    moving = at.over(at.speed.a.square().sum(-1))
    some = Inequality("0 < E‖f°‖²", 0 * at.loss, at.total.expand_as(at.loss), strict=True)
    return Report(
        hypotheses=(some, _left(at), _made(at)),
        promises=(
            Promise(
                "‖Σ_ζ B‖_*² / ‖a°‖² ≤ ∫ ‖g‖² dμ", lambda _: (at.nuclear**2 / at.cost, moving, ())
            ),
        ),
        constants={"‖a°‖²": at.cost, "‖Σ_ζ B‖_*": at.nuclear, "L": at.loss},
    )


@theorem(
    "improvement-by-birth",
    title="How fast birth and death make it fall",
    box="thm-birth",
    standing=Standing.PROVED,
    start=CloudStart,
    uses=("prop-dissipation",),
)
def by_birth(at: CloudStart) -> Report:
    """With teachers that have a density, mass alone dissipates this much, per unit of the rate."""
    along = at.left.diagonal(dim1=-2, dim2=-1).sum(-1)
    born = at.over(at.variation.square())
    return Report(
        hypotheses=(
            Inequality("ρ < ∞", torch.zeros_like(at.loss), 1 / at.crowding, strict=True),
            _left(at),
            Inequality(
                "∫ a° σ dμ° = f°",
                _off(at),
                (ZERO * at.population.F.abs().max()).expand_as(at.loss),
            ),
        ),
        promises=(
            Promise("(tr B Σ_ζ)² / ρ ≤ ∫ V² dμ", lambda _: (along**2 / at.crowding, born, ())),
        ),
        constants={"ρ": at.crowding, "L": at.loss},
    )


def _off(at: CloudStart) -> Tensor:
    made = at.model.features(at.teachers, at.population.X)
    return (made - at.population.F).abs().amax((-2, -1)).expand_as(at.loss)


@theorem(
    "frozen-rate",
    title="An explicit rate while the inner weights stay",
    box="thm-frozen",
    standing=Standing.PROVED,
    start=CloudStart,
    uses=("thm-improvement", "thm-conserved"),
)
def frozen(at: CloudStart) -> Report:
    """How fast 1/L grows at least, along Euler's steps that are so short that they follow the flow."""
    rate = 4 * (at.least - 2 * at.loss) / (at.cost * at.ceiling)
    return Report(
        hypotheses=(
            at.invertible,
            Inequality("0 < L_0", 1e-9 * at.total.expand_as(at.loss), at.loss, strict=True),
            Inequality("L_0 < r/2", 2 * at.loss, at.least.expand_as(at.loss), strict=True),
            _made(at),
            Inequality("τ times the curvature ≤ 1", at.stride, torch.ones_like(at.stride)),
        ),
        promises=(Promise("c t ≤ 1/L(t) - 1/L_0", lambda _: _along(at, rate)),),
        constants={"c": rate, "‖a°‖²": at.cost, "R_1²": at.ceiling, "L_0": at.loss},
    )


def _along(at: CloudStart, rate: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """What the bound says of 1/L along the flow with w frozen, and what it is, after every step."""
    options = {"dt": at.dt, "steps": at.steps, "every": at.steps, "mass": at.mass}
    flow = flows.euler(at.model, at.neurons, at.population, train="a", **options)
    t = at.dt * torch.arange(1, at.steps + 1).to(at.loss)
    t = t.reshape(-1, *[1] * at.loss.ndim)
    # a loss is known to a rounding of the true features
    blur = 1e-12 / at.loss + 1e-14 * at.total / at.loss.square()
    return rate * t, 1 / flow.loss[1:] - 1 / at.loss + blur, tuple(range(1, at.steps + 1))


def _left(at: CloudStart) -> Inequality:
    """What is left of the true features is more than the regression's rounding."""
    largest = at.sizes[..., -1:]
    least = torch.where(at.sizes > 1e-14 * largest, at.sizes, largest).amin(-1)
    known = ZERO + 1e-14 * largest[..., 0] / least.clamp_min(1e-300)
    return Inequality("0 < L", known.square() * at.total, at.loss, strict=True)


def _made(at: CloudStart) -> Inequality:
    size = at.population.F.abs().max()
    return Inequality("∫ a° σ dμ = f°", at.missed, (ZERO * size).expand_as(at.missed))
