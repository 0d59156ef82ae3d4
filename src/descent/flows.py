r"""Clouds of neurons that flow: Wasserstein gradient flow with particles, birth and death of mass.

The loss of `models.InContext` is a function of a distribution :math:`\mu` of neurons. Down its first
variation :math:`V = \frac{\delta L}{\delta\mu}` neurons move, and mass grows where V is negative:

.. math::
    \partial_t\mu = \nabla\cdot(\mu\nabla V) - \gamma\mu V .

Here :math:`\mu` is a cloud of particles with masses. Introduced in :doc:`/kim2024/dynamics`.
"""

import warnings
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from . import _layout, _validate, draws
from ._descend import DivergenceWarning, Plan, carry_out
from ._errors import error
from ._watch import Watch
from .models import InContext
from .models.in_context import (
    Neurons,
    Population,
    _chosen,
    _half,
    _neurons,
    _population,
    _warn_of_rest,
)

#: Squares of features beyond this size may overflow.
LARGEST = 1e75
#: Inputs times neurons that are followed at a time: their activations fit into a core's cache.
BLOCK = 100_000


class Flow(NamedTuple):
    """A flow by steps of one length, and the cloud at some of them, t in number, the start first."""

    neurons: Neurons  #: (t, *r, d, k) and (t, *r, d, D)
    mass: Float[Tensor, "t *r d"]  #: of each neuron; they sum to one
    loss: Float[Tensor, "steps *r"]  #: at the start and after every step


def euler(
    model: InContext,
    neurons: Neurons,
    population: Population,
    *,
    dt: float,
    steps: int,
    train: str = "aw",
    birth: float = 0.0,
    mass: Float[Tensor, "*r d"] | None = None,
    every: int = 1,
) -> Flow:
    r"""Follow the flow by Euler's method.

    Parameters
    ----------
    model, neurons, population : as for `InContext.loss`; clouds are followed side by side.
    dt : the length of a step, in the time of the flow.
    steps : how many.
    train : what moves, some of "a" and "w"; with "" neurons stay, and only mass moves.
    birth : the rate :math:`\gamma` at which mass is born and dies.
    mass : of the neurons at the start, equal if left out; scaled to sum to one.
    every : keep the cloud after every so many steps.

    Raises
    ------
    ValueError, TypeError : for steps, rates or masses that are none.

    Warns
    -----
    PrecisionWarning : if a cloud starts at a critical point, from which only rounding moves it.
    DivergenceWarning : if a cloud went beyond what float64 holds; from there its loss is infinite.

    Examples
    --------
    >>> from descent import flows
    >>> from descent.models import InContext, in_context
    >>> population, _ = in_context.planted(4, 2, 50, seed=0, r=(1.0, 0.5))
    >>> cloud = InContext().init(population, d=10, seed=0, runs=3)
    >>> flow = flows.euler(InContext(), cloud, population, dt=0.01, steps=20, birth=1.0)
    >>> bool((flow.loss[-1] < flow.loss[0]).all()), tuple(flow.mass.shape)
    (True, (21, 3, 10))
    """
    if not isinstance(model, InContext):
        found = f"model must be an InContext, got {_validate.shown(model)}"
        raise error(TypeError, found, "make one with models.InContext()")
    model.loss(neurons, population)  # it says what does not fit
    cloud, population = _neurons(neurons), _population(population)
    birth = _validate.not_negative("birth", birth)
    dt, steps = _validate.positive("dt", dt), _validate.count("steps", steps)
    every, moves = _validate.count("every", every), _moving(train)
    wanted = any(x.requires_grad for x in (*cloud, *population))  # a gradient, which torch follows
    descends = any(moves) and not birth and mass is None and not wanted
    mass = _masses(mass, cloud)
    _warn_of_rest(model, model._moments(weighted(cloud, mass), population), population)
    train = "".join(x for x, moved in zip("aw", moves, strict=True) if moved)
    if descends and _layout.choose(model, cloud, population, train, True) is not _layout.Plain:
        return _descended(model, population, cloud, mass, dt, steps, every, train)

    # Clouds do not see each other: so many at a time that what they need stays in the cache.
    runs, size = mass.shape[:-1], max(1, BLOCK // (len(population.X) * mass.shape[-1]))
    blocks = (x.reshape(-1, *x.shape[len(runs) :]).split(size) for x in (*cloud, mass))
    rates = {"dt": dt, "steps": steps, "every": every, "birth": birth, "moves": moves}
    found = [
        _follow(model, population, Neurons(a, w), each, **rates)
        for a, w, each in zip(*blocks, strict=True)
    ]
    *kept, alive = zip(*found, strict=True)
    _warn_of_lost(torch.cat(alive))
    joined = (torch.cat(part, 1) for part in kept)
    a, w, mass, loss = (x.reshape(len(x), *runs, *x.shape[2:]) for x in joined)
    return Flow(Neurons(a, w), mass, loss)


def _descended(
    model: InContext,
    population: Population,
    cloud: Neurons,
    mass: Float[Tensor, "*r d"],
    dt: float,
    steps: int,
    every: int,
    train: str,
) -> Flow:
    """The same as gradient descent in the compiled engine, whose gradient is minus the flow over d."""
    kept, d = range(0, steps + 1, every), mass.shape[-1]
    plan = Plan(steps, None, None, 1, Watch(["weights"], kept, steps))
    run = carry_out(plan, model, population, cloud, train, d * dt, True)
    _warn_of_lost(~run.diverged)
    step = torch.arange(steps + 1).reshape(-1, *[1] * run.eta.ndim)
    loss = torch.where(run.diverged & (step >= run.diverged_at), torch.inf, run.loss)
    return Flow(run.watched["weights"], mass.expand(len(kept), *mass.shape), loss)


def _follow(
    model: InContext,
    population: Population,
    cloud: Neurons,
    mass: Float[Tensor, "r d"],
    *,
    dt: float,
    steps: int,
    every: int,
    birth: float,
    moves: list[bool],
) -> tuple[Tensor, ...]:
    """Neurons and masses at the steps that are kept, all losses, and which clouds are finite."""
    alive, kept, losses = mass[..., 0] >= 0, [], []  # all, so far
    for step in range(steps + 1):
        if step % every == 0:
            kept.append((*cloud, mass))
        at = model._moments(weighted(cloud, mass), population)
        speed = model._velocities(cloud, population, at)
        losses.append(torch.where(alive, _half(at.zeta), torch.inf))
        if birth:
            growth = dt * birth * (speed.a * cloud.a).sum(-1)
            mass = _born(mass, torch.where(alive[..., None], growth, 0))
        moved = Neurons(*(x + dt * m * v for x, m, v in zip(cloud, moves, speed, strict=True)))
        alive = alive & _bounded(moved)
        cloud = _chosen(alive, moved, cloud)
    return *(torch.stack(part) for part in zip(*kept, strict=True)), torch.stack(losses), alive


def weighted(neurons: Neurons, mass: Float[Tensor, "*r d"]) -> Neurons:
    """The cloud of equal masses with the features of one of these masses: a is scaled by d times it.

    Raises
    ------
    ValueError : for masses of another shape, negative ones, or none at all.
    """
    neurons = _neurons(neurons)
    return Neurons(neurons.a * (neurons.a.shape[-2] * _masses(mass, neurons))[..., None], neurons.w)


def paired(neurons: Neurons) -> Neurons:
    """Every neuron beside its mirror image (a, -w), so that features are even functions of x.

    If true features are odd and the population symmetric, the loss is then as large as it can be,
    and the cloud is at rest: a total saddle.
    """
    a, w = _neurons(neurons)
    return Neurons(torch.cat([a, a], -2), torch.cat([w, -w], -2))


def perturbed(
    neurons: Neurons,
    size: float,
    seed: int,
    *,
    length: float | None = None,
    runs: draws.Runs = None,
) -> Neurons:
    r"""The cloud with every entry moved by a normal number of standard deviation ``size``.

    With ``length`` left out all numbers are independent. Else each entry is moved by a smooth field,
    a Gaussian process over the neurons with covariance
    :math:`e^{-\|\theta-\theta'\|^2/2\ell^2}` at :math:`\theta=(a,w)`.

    Raises
    ------
    ValueError, TypeError : for a size that is negative, or a length that is not positive.
    """
    a, w = _neurons(neurons)
    size = _validate.not_negative("size", size)
    noise = [draws.normal(seed, name, x.shape, runs).to(x) for name, x in (("a", a), ("w", w))]
    if length is not None:
        root = _root(torch.cat([a, w], -1), _validate.positive("length", length))
        noise = [root @ each for each in noise]
    return Neurons(a + size * noise[0], w + size * noise[1])


# ---------------------------------------------------------------------------- what is given


def _born(mass: Float[Tensor, "*r d"], growth: Float[Tensor, "*r d"]) -> Float[Tensor, "*r d"]:
    """Each mass times e to its growth, all scaled to sum to one."""
    return torch.softmax(mass.log() + growth, -1)


def _root(theta: Float[Tensor, "*r d e"], length: float) -> Float[Tensor, "*r d d"]:
    """The symmetric square root of the covariance: others differ by the signs of eigenvectors.

    Eigenvalues that rounding made negative are zero.
    """
    K = torch.exp(-torch.cdist(theta, theta).square() / (2 * length**2))
    values, vectors = torch.linalg.eigh(K)
    return vectors * values.clamp_min(0).sqrt()[..., None, :] @ vectors.mT


def _masses(mass: Tensor | None, neurons: Neurons) -> Float[Tensor, "*r d"]:
    """Masses that sum to one for each cloud, else raise."""
    shape = neurons.a.shape[:-1]
    if mass is None:
        return neurons.a.new_full(shape, 1 / shape[-1])
    mass = _validate.matrix("mass", mass, least=1)
    if mass.shape not in (shape, shape[-1:]):
        found = f"mass has shape {tuple(mass.shape)}, but the neurons are {tuple(shape)}"
        raise error(ValueError, found, "give each neuron a mass")
    _validate.finite("mass", mass, "give finite masses")
    if bool((mass < 0).any()) or not bool((mass.sum(-1) > 0).all()):
        found = "mass must not be negative, and not all zero"
        raise error(ValueError, found, "give each neuron a mass of zero or more")
    return (_validate.like("mass", mass, neurons.a) / mass.sum(-1, keepdim=True)).expand(shape)


def _moving(train: str) -> list[bool]:
    """Whether a moves, and whether w does."""
    if not isinstance(train, str) or train:
        _validate.letters("train", train, "aw")
    return [x in train for x in "aw"]


def _bounded(neurons: Neurons) -> Bool[Tensor, "*r"]:
    """Which clouds have entries of a size that can be squared twice."""
    sizes = (x.abs().amax((-2, -1)) for x in neurons)
    return torch.stack([size < LARGEST for size in sizes]).all(0)


def _warn_of_lost(alive: Tensor) -> None:
    if not bool(alive.all()):
        warnings.warn(
            f"{int((~alive).sum())} of {alive.numel()} clouds went beyond {LARGEST:g}: take a"
            " shorter dt",
            DivergenceWarning,
            stacklevel=3,
        )
