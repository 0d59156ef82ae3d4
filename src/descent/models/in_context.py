r"""Linear attention over learned features, as in Kim and Suzuki 2024: prompts are solved in context.

A prompt holds n pairs :math:`(x_i, y_i)` with :math:`y_i = v^\top f^\circ(x_i)`, and a query x. The
task v is new in every prompt, the map :math:`f^\circ` to k features is common to all:

.. math::
    \hat y = \frac1n\sum_{i=1}^n y_i\, h(x_i)^\top W h(x), \qquad
    h(x) = \int a\,\sigma(w^\top x)\,\mu(da\,dw).

The distribution :math:`\mu` is a cloud of d neurons of equal mass. Expectations over x are means
over a fixed sample, the *population*, so that every formula here is exact for it. With
:math:`\Sigma = E hh^\top`, :math:`C = E f^\circ h^\top` and tasks of covariance I the loss of
infinite prompts is :math:`\tfrac12 E\|f^\circ - CWh\|^2`. Introduced in :doc:`/kim2024/prompts`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import _validate, draws
from .._errors import error
from . import encoder
from .encoder import Activation

#: By name: the encoder's, and the sigmoid of the paper's experiments.
ACTIVATIONS = encoder.ACTIVATIONS | {
    "sigmoid": Activation(torch.sigmoid, lambda Z: torch.sigmoid(Z) * torch.sigmoid(-Z)),
}


class Neurons(NamedTuple):
    """A cloud of d neurons of equal mass; leading dimensions ``*r`` are clouds side by side."""

    a: Float[Tensor, "*r d k"]
    w: Float[Tensor, "*r d D"]


class Population(NamedTuple):
    """All inputs, equally likely, and the true features there."""

    X: Float[Tensor, "m D"]
    F: Float[Tensor, "m k"]  #: f° at each input


class Prompts(NamedTuple):
    """N prompts of n pairs, a query each, and its label without noise."""

    X: Float[Tensor, "N n D"]
    y: Float[Tensor, "N n"]
    query: Float[Tensor, "N D"]
    answer: Float[Tensor, " N"]


class Moments(NamedTuple):
    """What all losses are made of, for a cloud on a population."""

    h: Float[Tensor, "*r m k"]
    Sigma: Float[Tensor, "*r k k"]  #: E h h^T
    C: Float[Tensor, "*r k k"]  #: E f° h^T
    B: Float[Tensor, "*r k k"]  #: C Sigma^+, the regression of f° on h
    zeta: Float[Tensor, "*r m k"]  #: f° - B h, what is left


@dataclass(frozen=True)
class InContext:
    """Neurons and one layer of linear attention, whose matrix W joins the learned features.

    The cloud may make another number of features than k, the number of true ones; W then has their
    size. Where Sigma is singular, its pseudo-inverse stands for the inverse: f° is then regressed on
    what h spans, and `loss` is still the infimum over W.

    Parameters
    ----------
    activation : ``"sigmoid"``, ``"tanh"``, ``"relu"``, or an `encoder.Activation` of one's own.

    Raises
    ------
    ValueError : for an unknown name.
    """

    activation: str | Activation = "sigmoid"

    def __post_init__(self) -> None:
        if not isinstance(self.activation, Activation):
            _validate.one_of("activation", self.activation, ACTIVATIONS)

    @property
    def sigma(self) -> Activation:
        """The activation and its derivative."""
        own = isinstance(self.activation, Activation)
        return self.activation if own else ACTIVATIONS[self.activation]

    def init(
        self, population: Population, *, d: int, seed: int, runs: draws.Runs = None
    ) -> Neurons:
        """Draw d neurons, all entries independent standard normal."""
        population = _population(population)
        d = _validate.count("d", d)
        shapes = {"a": (d, population.F.shape[1]), "w": (d, population.X.shape[1])}
        drawn = (draws.normal(seed, name, shape, runs) for name, shape in shapes.items())
        return Neurons(*(each.to(population.X) for each in drawn))

    def features(self, neurons: Neurons, X: Float[Tensor, "*b m D"]) -> Float[Tensor, "*r m k"]:
        """The learned features h at every row of X: the mean of the neurons' answers."""
        neurons, X = _neurons(neurons), _validate.matrix("X", X)
        self._check(neurons, X)
        return self._features(neurons, X)

    def _features(self, neurons: Neurons, X: Tensor) -> Tensor:
        return self.sigma.value(X @ neurons.w.mT) @ neurons.a / neurons.a.shape[-2]

    def moments(self, neurons: Neurons, population: Population) -> Moments:
        """Sigma, C, the regression B of the true features on the learned ones, its residual.

        Every loss comes through here.

        Raises
        ------
        ValueError : for shapes that do not fit, or entries that are not finite.
        TypeError : for what is no `Neurons` or no `Population`.
        """
        population, neurons = _population(population), _neurons(neurons)
        self._check(neurons, population.X)
        return self._moments(neurons, population)

    def _check(self, neurons: Neurons, X: Tensor) -> None:
        d, D = neurons.w.shape[-2], X.shape[-1]
        _validate.shape("w", neurons.w, (d, D), f"inputs have D = {D}")
        for name, part in zip(neurons._fields, neurons, strict=True):
            _validate.like(name, part, X)

    def _moments(self, neurons: Neurons, population: Population) -> Moments:
        h, m = self._features(neurons, population.X), len(population.X)
        Sigma, C = h.mT @ h / m, population.F.mT @ h / m
        B = C @ _inverse(Sigma)
        return Moments(h, Sigma, C, B, population.F - h @ B.mT)

    # -- infinite prompts -------------------------------------------------------------------------

    def loss(self, neurons: Neurons, population: Population) -> Float[Tensor, "*r"]:
        r"""The loss of infinite prompts with the best W, :math:`\tfrac12 E\|f^\circ - Bh\|^2`."""
        return _half(self.moments(neurons, population).zeta)

    def loss_with(
        self, neurons: Neurons, W: Float[Tensor, "*r k k"], population: Population
    ) -> Float[Tensor, "*r"]:
        r"""The loss of infinite prompts, :math:`\tfrac12 E\|f^\circ - CWh\|^2`."""
        at = self.moments(neurons, population)
        return _half(population.F - at.h @ (at.C @ _attention(W, at.h)).mT)

    def first_variation(
        self, neurons: Neurons, population: Population, where: Neurons
    ) -> Float[Tensor, "*r e"]:
        r"""How the loss changes as mass moves to e other neurons.

        :math:`\frac{\delta L}{\delta\mu}(a, w) = -E[\zeta^\top B a\,\sigma(w^\top x)]`, whose mean
        over the cloud itself is zero.
        """
        where, pull = _neurons(where), self._pull(self.moments(neurons, population))
        answers = self.sigma.value(population.X @ where.w.mT)
        return -((answers.mT @ pull) * where.a).sum(-1) / len(population.X)

    def velocities(self, neurons: Neurons, population: Population) -> Neurons:
        """The Wasserstein gradient flow of `loss`: minus d times its gradient by each neuron."""
        return self._velocities(neurons, population, self.moments(neurons, population))

    def _velocities(self, neurons: Neurons, population: Population, at: Moments) -> Neurons:
        X, pull = population.X, self._pull(at) / len(population.X)
        Z = X @ neurons.w.mT
        slope = self.sigma.derivative(Z) * (pull @ neurons.a.mT)
        return Neurons(self.sigma.value(Z).mT @ pull, slope.mT @ X)

    def _pull(self, at: Moments) -> Float[Tensor, "*r m k"]:
        """B^T zeta at every input: what the features are pulled towards."""
        return at.zeta @ at.B

    # -- finite prompts ---------------------------------------------------------------------------

    def finite_loss(
        self,
        neurons: Neurons,
        W: Float[Tensor, "*r k k"],
        population: Population,
        n: int,
        noise: float = 0.0,
    ) -> Float[Tensor, "*r"]:
        r"""The expected loss of prompts of n independent pairs, exactly.

        Labels in the context have independent noise of standard deviation ``noise``; the answer
        has none. It is :math:`\tfrac12\mathrm{tr}E f^\circ f^{\circ\top} - \mathrm{tr}(C^\top CW)
        + \tfrac12\mathrm{tr}(G_n W\Sigma W^\top)` with :math:`G_n` of `spread`.
        """
        at = self.moments(neurons, population)
        W, G = _attention(W, at.h), self._spread(at, population, n, noise)
        square = at.C.mT @ at.C
        return _half(population.F) - _trace(square @ W) + _trace(G @ W @ at.Sigma @ W.mT) / 2

    def spread(
        self, neurons: Neurons, population: Population, n: int, noise: float = 0.0
    ) -> Float[Tensor, "*r k k"]:
        r"""The second moment of what a prompt of n pairs adds up, :math:`\frac1n\sum y_i h(x_i)`.

        :math:`G_n = (1-\tfrac1n)C^\top C + \tfrac1n\big(E[\|f^\circ\|^2 hh^\top] + s^2\Sigma\big)`.
        """
        return self._spread(self.moments(neurons, population), population, n, noise)

    def _spread(self, at: Moments, population: Population, n: int, noise: float) -> Tensor:
        n, s = _validate.count("n", n), _validate.real("noise", noise)
        _validate.finite("noise", torch.tensor(s), "give a finite standard deviation")
        square = population.F.square().sum(-1, keepdim=True)
        fourth = (square * at.h).mT @ at.h / len(population.X)
        return (1 - 1 / n) * at.C.mT @ at.C + (fourth + s**2 * at.Sigma) / n

    def best_attention(
        self, neurons: Neurons, population: Population, n: int | None = None, noise: float = 0.0
    ) -> Float[Tensor, "*r k k"]:
        r"""A W of least loss for prompts of n pairs, infinite ones if n is left out.

        :math:`G_n^{-1}C^\top C\,\Sigma^{-1}`; for infinite prompts :math:`\Sigma^{-1}`.
        """
        at = self.moments(neurons, population)
        inverse = _inverse(at.Sigma)
        if n is None:
            return inverse
        G = self._spread(at, population, n, noise)
        return _inverse(G) @ at.C.mT @ at.C @ inverse

    def predict(
        self, neurons: Neurons, W: Float[Tensor, "*r k k"], prompts: Prompts
    ) -> Float[Tensor, "*r N"]:
        """The answer to the query of every prompt."""
        if not isinstance(prompts, Prompts):
            found = f"prompts must be Prompts, got {_validate.shown(prompts)}"
            raise error(TypeError, found, "draw some with in_context.prompts")
        for name, part in zip(prompts._fields, prompts, strict=True):
            _validate.finite(f"prompts.{name}", part, "drop these prompts")
        N, n = prompts.y.shape
        h = self.features(neurons, prompts.X.flatten(0, 1)).unflatten(-2, (N, n))
        W = _attention(W, h)
        context = (prompts.y[..., None, :] @ h).squeeze(-2) / n
        return (context @ W * self.features(neurons, prompts.query)).sum(-1)

    # -- training ---------------------------------------------------------------------------------

    def train(
        self, neurons: Neurons, population: Population, steps: int
    ) -> tuple[Neurons, Float[Tensor, "steps *r"]]:
        """Follow the flow downhill by steps of a length that each cloud chooses for itself.

        A step is taken where it lowers `loss` by a tenth of what the slope promises (Armijo), and
        the next one is twice as long; else the cloud stays and the next is a quarter as long.
        Returns the clouds, and (steps + 1, ...) losses.
        """
        loss, steps = self.loss(neurons, population), _validate.count("steps", steps)
        at, losses, eta = Neurons(*neurons), [loss], torch.full_like(loss, 0.1)
        flow = self._velocities(at, population, self._moments(at, population))
        for _ in range(steps):
            tried = Neurons(*(x + eta[..., None, None] * v for x, v in zip(at, flow, strict=True)))
            moments = self._moments(tried, population)
            found = _half(moments.zeta)
            speed = sum(v.square().sum((-2, -1)) for v in flow) / at.a.shape[-2]
            good = found <= loss - 0.1 * eta * speed
            again = self._velocities(tried, population, moments)
            at, flow = _chosen(good, tried, at), _chosen(good, again, flow)
            loss, eta = torch.where(good, found, loss), torch.where(good, 2 * eta, eta / 4)
            losses.append(loss)
        return at, torch.stack(losses)


# ---------------------------------------------------------------------------- data


def planted(
    D: int, k: int, m: int, seed: int, *, r: tuple[float, ...], steepness: float = 1.0
) -> tuple[Population, Neurons]:
    """A population of m normal inputs and their negatives, and the k neurons of tanh that teach.

    The teachers look along orthonormal directions, ``steepness`` long; their answers are mixed so
    that the true features are uncorrelated on the population, with second moments ``r``.
    Introduced in :doc:`/kim2024/prompts`.

    Raises
    ------
    ValueError : for fewer dimensions than features, or fewer inputs.
    """
    k = _validate.count("k", k)
    D, m = _validate.count("D", D, least=k), _validate.count("m", m, least=k)
    steepness = _validate.positive("steepness", steepness)
    r = [_validate.positive("r", each) for each in _validate.several("r", r, k)]
    half = draws.normal(seed, "x", (m, D))
    X = torch.cat([half, -half])
    w = steepness * torch.linalg.qr(draws.normal(seed, "w", (D, k)))[0].mT
    raw = torch.tanh(X @ w.mT)
    values, vectors = torch.linalg.eigh(raw.mT @ raw / len(X))
    mix = vectors / values.sqrt() * torch.tensor(r, dtype=X.dtype).sqrt()
    return Population(X, raw @ mix), Neurons(k * mix, w)


def prompts(population: Population, N: int, n: int, seed: int, *, noise: float = 0.0) -> Prompts:
    """Prompts of n inputs drawn from the population, each with a new standard normal task."""
    population, N, n = _population(population), _validate.count("N", N), _validate.count("n", n)
    noise = _validate.real("noise", noise)
    m, k = population.F.shape
    place = (m * draws.uniform(seed, "place", (N, n + 1))).long()
    v = draws.normal(seed, "v", (N, k)).to(population.F)
    y = (population.F[place] @ v[..., None]).squeeze(-1)
    heard = y[:, 1:] + noise * draws.normal(seed, "noise", (N, n)).to(y)
    X = population.X[place]
    return Prompts(X[:, 1:], heard, X[:, 0], y[:, 0])


# ---------------------------------------------------------------------------- what is given


def _half(rows: Float[Tensor, "*r m k"]) -> Float[Tensor, "*r"]:
    """Half the mean square of the rows."""
    return rows.square().sum(-1).mean(-1) / 2


def _inverse(S: Float[Tensor, "*r k k"]) -> Float[Tensor, "*r k k"]:
    """The pseudo-inverse of a symmetric matrix: what its rounding alone makes nonzero is zero."""
    return torch.linalg.pinv(S, rtol=1e-14, hermitian=True)


def _trace(A: Float[Tensor, "*r k k"]) -> Float[Tensor, "*r"]:
    return A.diagonal(dim1=-2, dim2=-1).sum(-1)


def _chosen(good: Tensor, new: Neurons, old: Neurons) -> Neurons:
    pairs = zip(new, old, strict=True)
    return Neurons(*(torch.where(good[..., None, None], n, o) for n, o in pairs))


def _attention(W: Tensor, h: Tensor) -> Tensor:
    """W, if it is a finite square matrix with a row for each column of h."""
    W = _validate.matrix("W", W)
    k = h.shape[-1]
    _validate.like("W", _validate.shape("W", W, (k, k), f"the neurons make {k} features"), h)
    return _validate.finite("W", W, "choose another W")


def _population(population: Population) -> Population:
    """X and F as tensors with as many rows each, else raise."""
    if not isinstance(population, Population):
        found = f"population must be a Population, got {_validate.shown(population)}"
        raise error(TypeError, found, "make one with in_context.Population(X, F)")
    named = zip(population._fields, population, strict=True)
    X, F = (_validate.matrix(name, value) for name, value in named)
    if X.ndim != 2 or F.ndim != 2 or len(X) != len(F):
        found = f"X has shape {tuple(X.shape)} and F {tuple(F.shape)}"
        raise error(ValueError, found, "give one row of each for each input")
    _validate.like("F", F, X)
    for name, value in (("X", X), ("F", F)):
        _validate.finite(name, value, "drop these inputs")
    return Population(X, F)


def _neurons(neurons: Neurons) -> Neurons:
    """a and w as tensors with as many rows each, else raise."""
    if not isinstance(neurons, Neurons):
        found = f"neurons must be Neurons, got {_validate.shown(neurons)}"
        raise error(TypeError, found, "draw some with InContext().init(population, d=20, seed=0)")
    a, w = (_validate.matrix(n, v) for n, v in zip(neurons._fields, neurons, strict=True))
    if a.shape[:-1] != w.shape[:-1]:
        found = f"a has shape {tuple(a.shape)} and w {tuple(w.shape)}"
        raise error(ValueError, found, "give one row of each for each neuron")
    for name, value in (("a", a), ("w", w)):
        _validate.finite(name, value, "draw them again")
    return Neurons(a, w)
