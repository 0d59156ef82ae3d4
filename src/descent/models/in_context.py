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

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import _validate, draws
from .._errors import error
from ..lanes import Read, Step
from ..spectra import eigenvalues
from ..steps import PrecisionWarning
from . import _in_context_step, encoder
from .encoder import Activation

#: By name: the encoder's, and the sigmoid of the paper's experiments.
ACTIVATIONS = encoder.ACTIVATIONS | {
    "sigmoid": Activation(torch.sigmoid, lambda Z: torch.sigmoid(Z) * torch.sigmoid(-Z)),
}

#: Torch is as fast as lanes with so many inputs times neurons of one cloud (measured), and lanes
#: with so many clouds of any size.
LARGE, MANY = 12_000, 3
#: A pull of so many roundings of its natural size is rounding.
ROUNDING = 500
#: So many of a feature's square are too: what is left of it beside the others.
BLUR = 45


class Neurons(NamedTuple):
    """A cloud of d neurons of equal mass; leading dimensions ``*r`` are clouds side by side."""

    a: Float[Tensor, "*r d k"]
    w: Float[Tensor, "*r d D"]


class Population(NamedTuple):
    """All inputs, equally likely, and the true features there.

    For `descend` they are m sequences of one token, the rows of F their labels.
    """

    X: Float[Tensor, "m D"]
    F: Float[Tensor, "m k"]  #: f° at each input

    tokens = property(lambda self: self.X)
    y = property(lambda self: self.F)
    N = property(lambda self: len(self.X))
    n = property(lambda self: 1)
    D = property(lambda self: self.X.shape[-1])

    def to(self, *args: object, **kwargs: object) -> "Population":
        """The same on another device or in another precision, as ``Tensor.to``."""
        return Population(*(x.to(*args, **kwargs) for x in self))


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
    size. Where Sigma is singular, as it is with fewer neurons than features, its pseudo-inverse
    stands for the inverse: f° is then regressed on what h spans, and `loss` is still the infimum
    over W.

    Parameters
    ----------
    activation : ``"sigmoid"``, ``"tanh"``, ``"relu"``, or an `encoder.Activation` of one's own.

    Raises
    ------
    ValueError : for an unknown name.
    """

    activation: str | Activation = "sigmoid"

    #: The letters of `Neurons` that gradient descent may move; neither is a matrix W of X @ W.
    trainable, acts_on_tokens = "aw", ""
    #: How many trailing dimensions of each are its own: the others are runs.
    own = {"a": 2, "w": 2}

    def __post_init__(self) -> None:
        if not isinstance(self.activation, Activation):
            _validate.one_of("activation", self.activation, ACTIVATIONS)

    @property
    def sigma(self) -> Activation:
        """The activation and its derivative."""
        own = isinstance(self.activation, Activation)
        return self.activation if own else ACTIVATIONS[self.activation]

    def init(
        self,
        population: Population,
        *,
        d: int,
        seed: int,
        runs: draws.Runs = None,
        scale: float = 1.0,
    ) -> Neurons:
        """Draw d neurons, all entries independent normal of standard deviation ``scale``."""
        population = _population(population)
        d = _validate.count("d", d)
        scale = _validate.positive("scale", scale)
        shapes = {"a": (d, population.F.shape[1]), "w": (d, population.X.shape[1])}
        drawn = (scale * draws.normal(seed, name, shape, runs) for name, shape in shapes.items())
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

    def check(self, neurons: Neurons, population: Population) -> None:
        """Raise ValueError or TypeError where neurons and population do not go together."""
        self._check(_neurons(neurons), _population(population).X)
        if not all(isinstance(x, Tensor) for x in population):
            found = "X and F of the population must be tensors"
            raise error(TypeError, found, "make them so with torch.as_tensor")

    def warn(self, neurons: Neurons, population: Population) -> None:
        """Warn of clouds at a critical point: `descend` from there follows rounding.

        Warns
        -----
        PrecisionWarning : that says how many.
        """
        _warn_of_rest(self, self.moments(neurons, population), population, above=3)

    def _check(self, neurons: Neurons, X: Tensor) -> None:
        d, D = neurons.w.shape[-2], X.shape[-1]
        _validate.shape("w", neurons.w, (d, D), f"inputs have D = {D}")
        for name, part in zip(neurons._fields, neurons, strict=True):
            _validate.like(name, part, X)

    def _moments(self, neurons: Neurons, population: Population) -> Moments:
        return _regress(self._features(neurons, population.X), population.F)

    # -- infinite prompts -------------------------------------------------------------------------

    def loss(self, neurons: Neurons, population: Population) -> Float[Tensor, "*r"]:
        r"""The loss of infinite prompts with the best W, :math:`\tfrac12 E\|f^\circ - Bh\|^2`."""
        return _half(self.moments(neurons, population).zeta)

    def loss_and_gradient(
        self, neurons: Neurons, population: Population, train: str = "aw"
    ) -> tuple[Float[Tensor, "*r"], dict[str, Tensor]]:
        """The loss, and its gradient by each letter of ``train``: minus `velocities` over d.

        A step of `descend` of length d dt is thus a step of the flow by Euler's method, dt long.
        """
        population, neurons = _population(population), _neurons(neurons)
        self._check(neurons, population.X)
        if not isinstance(train, str) or train:
            _validate.letters("train", train, self.trainable)
        return self._loss_and_gradient(neurons, population, train)

    def _loss_and_gradient(self, neurons: Neurons, population: Population, train: str):
        at, d = self._moments(neurons, population), neurons.a.shape[-2]
        flow = self._velocities(neurons, population, at)
        return _half(at.zeta), {letter: -getattr(flow, letter) / d for letter in train}

    def objective(self, neurons: Neurons, population: Population, train: str) -> Callable:
        """What `descend` calls at every step: what moves to loss and gradients."""
        return lambda moving: self._loss_and_gradient(neurons._replace(**moving), population, train)

    def on_lanes(self, neurons: Neurons, population: Population, train: str) -> Step | None:
        """The step for `descent.lanes`; None for few large clouds, or an activation of one's own.

        None as well for fewer neurons than features: Sigma is singular then, and only torch has its
        pseudo-inverse.
        """
        m, (runs, d, p) = len(population.X), neurons.a.shape
        few_and_large = runs < MANY and m * d > LARGE * runs
        if few_and_large or p > d or self.activation not in _in_context_step.KINDS:
            return None
        X, F, own = population.X, population.F, torch.eye(d).to(population.X)
        reads = {
            "a": Read(own, neurons.a.mT, X.new_ones(runs, p), lambda c: c.mT),
            "w": Read(X, neurons.w, X.new_ones(runs, d), lambda c: c),
        }
        kind = _in_context_step.KINDS.index(self.activation)
        return Step(
            _in_context_step.step,
            reads,
            data=(F.contiguous().numpy(), d, p, kind, _blur(F)),
            scratch=((d, m), (p, m), (p, p), (F.shape[1], p), (F.shape[1],)),
            work=m * d * (20 + 3 * p),
        )

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
        return self._moved(neurons, population.X, self._pull(at) / len(population.X))

    def _moved(self, neurons: Neurons, X: Tensor, pull: Float[Tensor, "*r m k"]) -> Neurons:
        """The velocities of neurons whose features are pulled by this much at every input."""
        Z = X @ neurons.w.mT
        slope = self.sigma.derivative(Z) * (pull @ neurons.a.mT)
        return Neurons(self.sigma.value(Z).mT @ pull, slope.mT @ X)

    def _pull(self, at: Moments) -> Float[Tensor, "*r m k"]:
        """B^T zeta at every input: what the features are pulled towards."""
        return at.zeta @ at.B

    def escape_matrix(
        self, neurons: Neurons, population: Population
    ) -> Float[Tensor, "*r k*p k*p"]:
        r"""How fast the flow leaves a cloud whose p features are orthogonal to the k true ones.

        The flow linearised there takes :math:`C\Sigma^{-1/2}` to this matrix times it (rows one after
        the other): with :math:`c(w) = E[f^\circ\sigma(w^\top x)]` and :math:`b = \Sigma^{-1/2}a`,
        the mean over the cloud of :math:`cc^\top\otimes\Sigma^{-1} + \nabla c\,\nabla c^\top\otimes
        bb^\top`. Its eigenvalues are the growth exponents; all others of the flow are zero.
        Introduced in :doc:`/kim2024/landscape`.

        Raises
        ------
        ValueError : unless C is zero, up to rounding, and Sigma invertible.
        """
        at, m = self.moments(neurons, population), len(population.X)
        _invertible(at, neurons)
        _no_overlap(at, population)
        Z = population.X @ neurons.w.mT
        c = self.sigma.value(Z).mT @ population.F / m
        slopes = self.sigma.derivative(Z).mT[..., None, :] * population.F.mT  # (*r d k m)
        nabla, values = slopes @ population.X / m, torch.linalg.eigh(at.Sigma)
        b = neurons.a @ (values[1] / values[0].sqrt()[..., None, :] @ values[1].mT)
        by_a = torch.einsum("...di,...dj,...pq->...ipjq", c, c, _inverse(at.Sigma))
        by_w = torch.einsum("...dix,...djx,...dp,...dq->...ipjq", nabla, nabla, b, b)
        size = c.shape[-1] * b.shape[-1]
        return ((by_a + by_w) / b.shape[-2]).reshape(*by_a.shape[:-4], size, size)

    # -- W beside the neurons ---------------------------------------------------------------------

    def joint_velocities(
        self, neurons: Neurons, W: Float[Tensor, "*r k k"], population: Population
    ) -> tuple[Neurons, Float[Tensor, "*r k k"]]:
        """The gradient flow of `loss_with`: minus d times its gradient by each neuron, minus that by W."""
        at = self.moments(neurons, population)
        return self._joint(neurons, _attention(W, at.h), population, at)

    def _joint(
        self, neurons: Neurons, W: Tensor, population: Population, at: Moments
    ) -> tuple[Neurons, Tensor]:
        left, m = population.F - at.h @ (at.C @ W).mT, len(population.X)
        pull = left @ at.C @ W + population.F @ (left.mT @ at.h / m) @ W.mT
        return self._moved(neurons, population.X, pull / m), at.C.mT @ (left.mT @ at.h) / m

    def relax(
        self,
        neurons: Neurons,
        W: Float[Tensor, "*r k k"],
        population: Population,
        time: float | Float[Tensor, "*r"],
    ) -> Float[Tensor, "*r k k"]:
        r"""Where the gradient flow of W takes it while the neurons stand still, exactly.

        :math:`\dot W = C^\top C(I - W\Sigma)`, solved in the eigenbases of :math:`C^\top C` and
        :math:`\Sigma`. What C does not see stays. ``time`` is one positive number, or one a run.
        Introduced in :doc:`/kim2024/timescales`.
        """
        at = self.moments(neurons, population)
        return self._relax(at, _attention(W, at.h), _positive("time", time, at.h))

    def _relax(self, at: Moments, W: Tensor, time: float | Tensor) -> Tensor:
        best = _inverse(_validate.finite("Sigma", at.Sigma, "make the neurons smaller"))
        rows, left = torch.linalg.eigh(at.C.mT @ at.C)
        columns, right = torch.linalg.eigh(at.Sigma)
        rates = (rows[..., :, None] * columns[..., None, :]).clamp_min(0)
        away = left.mT @ (W - best) @ right
        return best + left @ (torch.exp(-time * rates) * away) @ right.mT

    def joint_step(
        self,
        neurons: Neurons,
        W: Float[Tensor, "*r k k"],
        population: Population,
        eta: float,
        ratio: float | Float[Tensor, "*r"],
    ) -> tuple[Neurons, Float[Tensor, "*r k k"]]:
        """One step of length ``eta`` of the joint flow in which W is ``ratio`` times as fast.

        W relaxes for a time of ``ratio * eta`` while the neurons stand, exactly; then they take one
        step of Euler's method. The error is of first order in ``eta``, whatever the ratio.
        """
        at, eta = self.moments(neurons, population), _validate.positive("eta", eta)
        W = self._relax(at, _attention(W, at.h), eta * _positive("ratio", ratio, at.h))
        flow, _ = self._joint(neurons, W, population, at)
        return Neurons(*(x + eta * v for x, v in zip(neurons, flow, strict=True))), W

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
        + \tfrac12\mathrm{tr}(G_n W\Sigma W^\top)` with :math:`G_n` of `prompt_moment`.
        """
        at = self.moments(neurons, population)
        W, G = _attention(W, at.h), self._prompt_moment(at, population, n, noise)
        square = at.C.mT @ at.C
        return _half(population.F) - _trace(square @ W) + _trace(G @ W @ at.Sigma @ W.mT) / 2

    def prompt_moment(
        self, neurons: Neurons, population: Population, n: int, noise: float = 0.0
    ) -> Float[Tensor, "*r k k"]:
        r"""The second moment of what a prompt of n pairs adds up, :math:`\frac1n\sum y_i h(x_i)`.

        :math:`G_n = (1-\tfrac1n)C^\top C + \tfrac1n\big(E[\|f^\circ\|^2 hh^\top] + s^2\Sigma\big)`.
        """
        return self._prompt_moment(self.moments(neurons, population), population, n, noise)

    def _prompt_moment(self, at: Moments, population: Population, n: int, noise: float) -> Tensor:
        n, s = _validate.count("n", n), _validate.not_negative("noise", noise)
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
        G = self._prompt_moment(at, population, n, noise)
        return _inverse(G) @ at.C.mT @ at.C @ inverse

    def predict(
        self, neurons: Neurons, W: Float[Tensor, "*r k k"], prompts: Prompts
    ) -> Float[Tensor, "*r N"]:
        """The answer to the query of every prompt."""
        prompts = _prompts(prompts)
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

        Warns
        -----
        PrecisionWarning : if a cloud starts at a critical point, from which only rounding moves it.
        """
        loss, steps = self.loss(neurons, population), _validate.count("steps", steps)
        at, losses, eta = Neurons(*neurons), [loss], torch.full_like(loss, 0.1)
        moments = self._moments(at, population)
        _warn_of_rest(self, moments, population)
        flow = self._velocities(at, population, moments)
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


# ---------------------------------------------------------------------------- the landscape


def regress(h: Float[Tensor, "*r m p"], population: Population) -> Moments:
    """The moments of any features on a population, whichever neurons or none make them.

    The loss depends on neurons through their features only, and its landscape is best seen there.
    Introduced in :doc:`/kim2024/landscape`.

    Raises
    ------
    ValueError : unless h is finite and has a row for every input.
    """
    population = _population(population)
    h = _validate.matrix("h", h)
    shape = (len(population.F), h.shape[-1])
    return _regress(_on_inputs("h", h, shape, population.F), population.F)


def _regress(h: Tensor, F: Tensor) -> Moments:
    Sigma, C = h.mT @ h / len(F), F.mT @ h / len(F)
    B = C @ _inverse(Sigma)
    return Moments(h, Sigma, C, B, F - h @ B.mT)


def variations(
    at: Moments, change: Float[Tensor, "*r m p"]
) -> tuple[Float[Tensor, "*r"], Float[Tensor, "*r"]]:
    r"""First and second derivative of the least loss as the features move along ``h + s change``.

    .. math::
        -E[\zeta^\top B\delta], \qquad
        E\|B\delta\|^2 - \|(B\,E[\delta h^\top] - E[\zeta\delta^\top])^\top\|^2_{\Sigma^{-1}}

    for the change :math:`\delta`. Along the homotopy :math:`(1-s)h + sRf^\circ` it is
    ``population.F @ R.mT - at.h``.
    Introduced in :doc:`/kim2024/landscape`.

    Raises
    ------
    ValueError : for a change of another shape than h, or where Sigma is singular and there is no
        second derivative.
    """
    _invertible(_moments(at))
    change, m = _on_inputs("change", change, at.h.shape[-2:], at.h), at.h.shape[-2]
    moved, inverse = change @ at.B.mT, _inverse(at.Sigma)
    # what is left is orthogonal to h: regressed once more, it is so to more digits
    left = at.zeta - at.h @ (at.zeta.mT @ at.h / m @ inverse).mT
    turn = at.B @ change.mT @ at.h / m - left.mT @ change / m
    second = 2 * _half(moved) - _trace(turn @ inverse @ turn.mT)
    return -(left * moved).sum(-1).mean(-1), second


def steepest(at: Moments) -> Float[Tensor, "*r p k"]:
    r"""The R of norm one along whose homotopy :math:`(1-s)h + sRf^\circ` the loss falls fastest.

    The polar factor of :math:`(\Sigma_\zeta B)^\top`, orthogonal for as many features as true ones.
    Introduced in :doc:`/kim2024/landscape`.
    """
    residual = _moments(at).zeta.mT @ at.zeta / at.zeta.shape[-2]
    _validate.finite("the residual times B", residual @ at.B, "make the features smaller")
    U, _, V = torch.linalg.svd(residual @ at.B, full_matrices=False)
    return (U @ V).mT


# ---------------------------------------------------------------------------- data


def planted(
    D: int, k: int, m: int, seed: int, *, r: tuple[float, ...], steepness: float = 1.0
) -> tuple[Population, Neurons]:
    """A population of m normal inputs and their negatives, and the k neurons of tanh that teach.

    The teachers look along orthonormal directions, ``steepness`` long; their answers are mixed so
    that the true features are uncorrelated on the population, with second moments ``r``, the first
    teacher's part in each positive: eigenvectors leave the sign open, and routines choose their own.
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
    if not bool(values[0] > 1e-12 * values[-1]):
        found = f"the teachers' {k} answers depend on one another at {m} inputs"
        raise error(ValueError, found, "take more inputs, or another steepness")
    vectors = torch.where(vectors[0] < 0, -vectors, vectors)
    mix = vectors / values.sqrt() * torch.tensor(r, dtype=X.dtype).sqrt()
    return Population(X, raw @ mix), Neurons(k * mix, w)


def prompts(population: Population, N: int, n: int, seed: int, *, noise: float = 0.0) -> Prompts:
    """Prompts of n inputs drawn from the population, each with a new standard normal task."""
    population, N, n = _population(population), _validate.count("N", N), _validate.count("n", n)
    noise = _validate.not_negative("noise", noise)
    m, k = population.F.shape
    place = (m * draws.uniform(seed, "place", (N, n + 1))).long().to(population.F.device)
    v = draws.normal(seed, "v", (N, k)).to(population.F)
    y = (population.F[place] @ v[..., None]).squeeze(-1)
    heard = y[:, 1:] + noise * draws.normal(seed, "noise", (N, n)).to(y)
    X = population.X[place]
    return Prompts(X[:, 1:], heard, X[:, 0], y[:, 0])


# ---------------------------------------------------------------------------- what is given


def _positive(name: str, value: float | Tensor, h: Tensor) -> float | Tensor:
    """One positive number, or one for each run of h, as a matrix of one entry each."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return _validate.positive(name, value)
    value = _validate.finite(name, _validate.tensor(name, value), "give finite numbers")
    _validate.shape(name, value, tuple(h.shape[:-2]), "there is one for each run")
    if bool((value <= 0).any()):
        raise error(ValueError, f"{name} has entries that are not positive", "give positive ones")
    return value.to(h)[..., None, None]


def _half(rows: Float[Tensor, "*r m k"]) -> Float[Tensor, "*r"]:
    """Half the mean square of the rows."""
    return rows.square().sum(-1).mean(-1) / 2


def _inverse(S: Float[Tensor, "*r k k"]) -> Float[Tensor, "*r k k"]:
    """The inverse of second moments, a pseudo-inverse where only rounding makes one invertible.

    That is told where all features have length one, for it does not depend on their units. It is
    NaN for a run that has gone beyond all numbers: others beside it go on.
    """
    sound = torch.isfinite(S).all(-1).all(-1)[..., None, None]
    units = _units(S)
    found = torch.linalg.pinv((units * S).where(sound, 0), rtol=_blur(S), hermitian=True)
    return (units * found).where(sound, torch.nan)


def _units(S: Float[Tensor, "*r k k"]) -> Float[Tensor, "*r k k"]:
    """What S is multiplied by, entry by entry, for a diagonal of ones; zeros where that underflows."""
    square = S.diagonal(dim1=-2, dim2=-1)
    per_length = square.where(square > torch.finfo(S.dtype).tiny, torch.inf).rsqrt()
    return per_length[..., :, None] * per_length[..., None, :]


def _blur(x: Tensor) -> float:
    """The share of a square that is rounding, in this precision."""
    return BLUR * torch.finfo(x.dtype).eps


def _trace(A: Float[Tensor, "*r k k"]) -> Float[Tensor, "*r"]:
    return A.diagonal(dim1=-2, dim2=-1).sum(-1)


def _on_inputs(name: str, h: Tensor, shape: tuple[int, ...], F: Tensor) -> Tensor:
    """Finite numbers, those of each input in a row."""
    h = _validate.finite(name, _validate.matrix(name, h), "choose other features")
    return _validate.like(
        name, _validate.shape(name, h, shape, "there is one row for each input"), F
    )


def _moments(at: Moments) -> Moments:
    if not isinstance(at, Moments):
        found = f"at must be Moments, got {_validate.shown(at)}"
        raise error(TypeError, found, "take those of in_context.regress(h, population)")
    return at


def _invertible(at: Moments, neurons: Neurons | None = None) -> None:
    """Raise where Sigma is singular, up to rounding, as it is for fewer neurons than features."""
    p = at.h.shape[-1]
    if neurons is not None and neurons.a.shape[-2] < p:
        found = f"Sigma is singular: {p} features are made of d = {neurons.a.shape[-2]}"
        raise error(ValueError, found, f"take d = {p} neurons or more")
    values = eigenvalues(_units(at.Sigma) * at.Sigma)
    if not bool((values[..., 0] > _blur(values) * values[..., -1]).all()):
        found = "Sigma is singular: some mixture of the features is zero at every input"
        raise error(ValueError, found, "choose neurons whose features are linearly independent")


def _no_overlap(at: Moments, population: Population) -> None:
    """Raise unless learned and true features are uncorrelated, up to rounding."""
    size = (_trace(at.Sigma) * 2 * _half(population.F)).sqrt()
    if bool((at.C.abs().amax((-2, -1)) > max(1e-9, _blur(size)) * size).any()):
        found = f"C has entries up to {float(at.C.abs().max()):.1e}"
        raise error(ValueError, found, "choose neurons whose features are orthogonal to f°")


def _warn_of_rest(model: InContext, at: Moments, population: Population, above: int = 2) -> None:
    """A critical point has B^T zeta = 0 at every input; B has the size of f° over h."""
    size = population.F.square().sum() / (torch.linalg.matrix_norm(at.h) * len(at.h) ** 0.5)
    pull = model._pull(at).abs().amax((-2, -1))
    still = int((pull <= ROUNDING * torch.finfo(pull.dtype).eps * size).sum())
    if still:
        warnings.warn(
            f"{still} of {pull.numel()} clouds start at a critical point: only rounding moves them,"
            " and where they go means nothing; perturb them with flows.perturbed",
            PrecisionWarning,
            stacklevel=above + 1,
        )


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


def _prompts(prompts: Prompts) -> Prompts:
    """Its parts as finite tensors, of as many prompts and pairs each, else raise."""
    if not isinstance(prompts, Prompts):
        found = f"prompts must be Prompts, got {_validate.shown(prompts)}"
        raise error(TypeError, found, "draw some with in_context.prompts")
    remedy, least, parts = "drop these prompts", (3, 2, 2, 1), []
    for name, part, dimensions in zip(prompts._fields, prompts, least, strict=True):
        name = f"prompts.{name}"
        part = _validate.finite(name, _validate.matrix(name, part, dimensions), remedy)
        if part.ndim > dimensions:
            found = f"{name} has shape {tuple(part.shape)}"
            raise error(ValueError, found, f"give {dimensions} dimensions")
        parts.append(part)
    X, y, query, answer = parts
    if not X.shape[:2] == y.shape or not len(X) == len(query) == len(answer):
        shapes = (
            f"{n} {tuple(part.shape)}" for n, part in zip(prompts._fields, parts, strict=True)
        )
        found = f"prompts has {', '.join(shapes)}"
        raise error(ValueError, found, "give a label to each pair, and a query to each prompt")
    for name, part in zip(prompts._fields[1:], parts[1:], strict=True):
        _validate.like(f"prompts.{name}", part, X)
    return Prompts(*parts)


def _neurons(neurons: Neurons) -> Neurons:
    """a and w as tensors with as many rows each, else raise."""
    if not isinstance(neurons, Neurons):
        found = f"neurons must be Neurons, got {_validate.shown(neurons)}"
        raise error(TypeError, found, "draw some with InContext().init(population, d=20, seed=0)")
    a, w = (_validate.matrix(n, v) for n, v in zip(neurons._fields, neurons, strict=True))
    try:
        clouds = np.broadcast_shapes(a.shape[:-1], w.shape[:-1])
    except ValueError:
        clouds = a.shape[-2:-1] + w.shape[-2:-1]
    if not a.shape[-2] == w.shape[-2] == clouds[-1]:
        found = f"a has shape {tuple(a.shape)} and w {tuple(w.shape)}"
        raise error(ValueError, found, "give one row of each for each neuron")
    for name, value in (("a", a), ("w", w)):
        _validate.finite(name, value, "draw them again")
    return Neurons(*(x.expand(*clouds, x.shape[-1]) for x in (a, w)))
