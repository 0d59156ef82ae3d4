r"""Linear attention that learns linear regression in context, keys and queries merged or separate.

A prompt holds n pairs :math:`(x_i, w^\top x_i)` and a query x, with inputs of law
:math:`N(0, \Lambda)` and a new task w of law :math:`N(0, I)` in every prompt. H heads answer

.. math::
    \hat y = \beta^\top M x, \qquad \beta = \frac1n\sum_i y_i x_i, \qquad
    M = \sum_h v_h U_h \quad\text{or}\quad M = \sum_h v_h K_h Q_h^\top .

The expected loss is a quadratic function of M, so nothing has to be sampled: with
:math:`G = (1 + \tfrac1n)\Lambda^2 + \tfrac1n\mathrm{tr}(\Lambda)\Lambda` it is
:math:`\tfrac12\mathrm{tr}\Lambda - \mathrm{tr}\,\Lambda^2M + \tfrac12\mathrm{tr}\,GM\Lambda M^\top`.
A `Problem` says what the inputs are: :math:`\Lambda` is the second moment of its tokens, and its
labels are not read (`inputs` makes one). Introduced in :doc:`/kim2024/merged`.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.integrate import solve_ivp
from torch import Tensor

from .. import _validate, draws
from .._errors import error
from ..problems import Problem
from . import _protocol, in_context
from .in_context import _trace

#: Gradients that a flow may take: thousands are usual.
EVALUATIONS = 100_000


class MergedWeights(NamedTuple):
    """Values, and keys and queries as one matrix a head."""

    V: Float[Tensor, "*r H"]
    U: Float[Tensor, "*r H D D"]


class SeparateWeights(NamedTuple):
    """Values, keys and queries; the rank of a head is the number of columns."""

    V: Float[Tensor, "*r H"]
    K: Float[Tensor, "*r H D k"]
    Q: Float[Tensor, "*r H D k"]


Weights = MergedWeights | SeparateWeights


class Landscape(NamedTuple):
    """What the loss is made of."""

    Lambda: Float[Tensor, "*b D D"]  #: second moment of the inputs
    square: Float[Tensor, "*b D D"]  #: its square
    G: Float[Tensor, "*b D D"]  #: second moment of the prompt's own second moment


@dataclass(frozen=True)
class LinearAttention:
    """H heads of linear attention on prompts of n pairs.

    Parameters
    ----------
    H : number of heads.
    n : pairs in a prompt.
    rank : columns of each head's keys and queries; left out, a head has one matrix for both.

    Raises
    ------
    ValueError, TypeError : for a number that is no whole number from 1 on.
    """

    H: int = 1
    n: int = 30
    rank: int | None = None

    acts_on_tokens = ""

    def __post_init__(self) -> None:
        _validate.count("H", self.H)
        _validate.count("n", self.n)
        if self.rank is not None:
            _validate.count("rank", self.rank)

    @property
    def trainable(self) -> str:
        """The letters of the weights."""
        return "VU" if self.rank is None else "VKQ"

    @property
    def own(self) -> dict[str, int]:
        """The trailing dimensions that are each weight's own."""
        return {"V": 1} | {letter: 3 for letter in self.trainable[1:]}

    def init(
        self, problem: Problem, *, seed: int, runs: draws.Runs = None, scale: float = 1.0
    ) -> Weights:
        """Draw all entries normal; a head's value and matrices then have a length of about ``scale``."""
        D, scale = _validate.problem(problem).D, _validate.real("scale", scale)
        columns = self.rank or D
        drawn = {"V": draws.normal(seed, "V", (self.H,), runs)}
        for letter in self.trainable[1:]:
            entries = draws.normal(seed, letter, (self.H, D, columns), runs)
            drawn[letter] = entries / (D * columns) ** 0.5
        return self._kind(**{letter: (scale * W).to(problem.X) for letter, W in drawn.items()})

    def aligned(self, problem: Problem, size: float | Float[Tensor, "*r"]) -> Weights:
        """A balanced start of that size from which the scalar equations are exact.

        Merged, the heads together are one of that length, along the square of Lambda. Separate,
        each head has that length, head h along eigenvector h, and they begin again after D.
        """
        size = _validate.tensor("size", size) if isinstance(size, Tensor) else torch.tensor(
            _validate.real("size", size), dtype=torch.float64
        )  # fmt: skip
        X = _validate.problem(problem).X
        size = _validate.finite("size", size.to(X), "choose another size")[..., None]
        if self.rank is None:
            square = self.landscape(problem).square
            V = (size / self.H**0.5).expand(*size.shape[:-1], self.H)
            return MergedWeights(V, V[..., None, None] * square / _norm(square))
        heads = torch.arange(self.H, device=X.device)
        along = self.directions(problem).mT[heads % problem.D]
        column = size[..., None, None] * along[..., None].expand(-1, -1, self.rank)
        column = column / self.rank**0.5
        return SeparateWeights(size.expand(*size.shape[:-1], self.H), column, column)

    @property
    def _kind(self) -> type:
        return MergedWeights if self.rank is None else SeparateWeights

    def check(self, weights: Weights, problem: Problem) -> None:
        """Raise ValueError or TypeError where weights and problem do not go together."""
        weights = self._taken(weights, _validate.problem(problem).D)
        for letter, W in weights._asdict().items():
            _validate.like(letter, W, problem.X)
        _protocol.spread(self, weights, problem)

    def _taken(self, weights: Weights, D: int | None = None) -> Weights:
        """The weights as tensors of shapes that go together, all finite; else raise."""
        if not isinstance(weights, self._kind):
            found = f"weights must be {self._kind.__name__}, got {_validate.shown(weights)}"
            raise error(TypeError, found, "draw some with init(problem, seed=0)")
        parts = {letter: _validate.tensor(letter, W) for letter, W in weights._asdict().items()}
        D = D or _validate.matrix("keys", parts[self.trainable[1]], least=3).shape[-2]
        shapes = {"V": (self.H,)} | {letter: (self.H, D, self.rank or D) for letter in "UKQ"}
        for letter, W in parts.items():
            because = f"there are H = {self.H} heads in D = {D} dimensions"
            _validate.shape(letter, W, shapes[letter], because)
            _validate.finite(letter, _validate.like(letter, W, parts["V"]), "initialise it again")
        runs = [tuple(W.shape[: -self.own[letter]]) for letter, W in parts.items()]
        try:
            np.broadcast_shapes(*runs)
        except ValueError:
            found = f"weights have the runs {', '.join(map(str, runs))}"
            raise error(ValueError, found, "give each the same leading dimensions") from None
        return self._kind(**parts)

    # -- the loss ---------------------------------------------------------------------------------

    def landscape(self, problem: Problem) -> Landscape:
        """The matrices of the loss."""
        X = _validate.problem(problem).tokens
        Lambda = X.mT @ X / X.shape[-2]
        square = Lambda @ Lambda
        G = (1 + 1 / self.n) * square + _trace(Lambda)[..., None, None] * Lambda / self.n
        return Landscape(Lambda, square, G)

    def joined(self, weights: Weights) -> Float[Tensor, "*r D D"]:
        """The matrix M that all heads make together."""
        return self._joined(self._taken(weights))

    def _joined(self, weights: Weights) -> Tensor:
        if isinstance(weights, MergedWeights):
            return (weights.V[..., None, None] * weights.U).sum(-3)
        return ((weights.V[..., None, None] * weights.K) @ weights.Q.mT).sum(-3)

    def predict(self, weights: Weights, prompts: in_context.Prompts) -> Float[Tensor, "*r N"]:
        """The answer to the query of every prompt."""
        if not isinstance(prompts, in_context.Prompts):
            found = f"prompts must be Prompts, got {_validate.shown(prompts)}"
            raise error(TypeError, found, "give in_context.Prompts(X, y, query, answer)")
        for name, part in zip(prompts._fields, prompts, strict=True):
            _validate.finite(f"prompts.{name}", part, "drop these prompts")
        M = self._joined(self._taken(weights, prompts.query.shape[-1]))
        _validate.like("weights", M, prompts.query)
        beta = (prompts.y[..., None, :] @ prompts.X).squeeze(-2) / prompts.y.shape[-1]
        return (beta @ M * prompts.query).sum(-1)

    def loss(self, weights: Weights, problem: Problem) -> Float[Tensor, "*r"]:
        """The expected loss over all prompts, exactly."""
        self.check(weights, problem)
        return self._value(self.joined(weights), self.landscape(problem))[0]

    def loss_and_gradient(
        self, weights: Weights, problem: Problem, train: str
    ) -> tuple[Float[Tensor, "*r"], dict[str, Tensor]]:
        """The loss of each run and its gradient by each letter of ``train``."""
        self.check(weights, problem)
        if not (isinstance(train, str) and train == ""):
            _validate.letters("train", train, self.trainable)
        return self._derived(self._taken(weights), self.landscape(problem), train)

    def objective(self, weights: Weights, problem: Problem, train: str):
        """Trained weights to loss and gradients; the landscape is worked out once."""
        self.check(weights, problem)
        weights, at = self._taken(weights), self.landscape(problem)
        return lambda moving: self._derived(weights._replace(**moving), at, train)

    def _value(self, M: Tensor, at: Landscape) -> tuple[Tensor, Tensor]:
        """The loss, and minus its gradient by M, the pull R."""
        fit = at.G @ M @ at.Lambda
        loss = _trace(at.Lambda) / 2 - _dot(at.square, M) + _dot(fit, M) / 2
        return loss, at.square - fit

    def _derived(self, weights: Weights, at: Landscape, train: str) -> tuple[Tensor, dict]:
        loss, R = self._value(self._joined(weights), at)
        R, v = R[..., None, :, :], weights.V[..., None, None]
        if isinstance(weights, MergedWeights):
            by = {"V": lambda: _dot(R, weights.U), "U": lambda: v * R}
        else:
            by = {
                "V": lambda: _dot(R @ weights.Q, weights.K),
                "K": lambda: v * (R @ weights.Q),
                "Q": lambda: v * (R.mT @ weights.K),
            }
        return loss, {letter: -by[letter]() for letter in train}

    # -- where it leads ---------------------------------------------------------------------------

    def best(self, problem: Problem) -> Float[Tensor, "*b D D"]:
        r"""The M of least loss, :math:`G^{-1}\Lambda`."""
        at = self.landscape(problem)
        return torch.linalg.solve(at.G, at.Lambda)

    def least(self, problem: Problem) -> Float[Tensor, "*b"]:
        """The least loss of all M."""
        return self._value(self.best(problem), self.landscape(problem))[0]

    def spectrum(self, problem: Problem) -> Float[Tensor, "*b D"]:
        """The eigenvalues of Lambda, the largest first."""
        return torch.linalg.eigvalsh(self.landscape(problem).Lambda).flip(-1)

    def directions(self, problem: Problem) -> Float[Tensor, "*b D D"]:
        """The eigenvectors of Lambda as columns, in the same order."""
        return torch.linalg.eigh(self.landscape(problem).Lambda)[1].flip(-1)

    def gains(self, problem: Problem) -> Float[Tensor, "*b D"]:
        r"""What each direction takes off the loss once learned, :math:`\lambda_i^3/2g_i`."""
        spectrum = self.spectrum(problem)
        total = spectrum.sum(-1, keepdim=True)
        return spectrum / (1 + (1 + total / spectrum) / self.n) / 2

    def learned(self, weights: Weights, problem: Problem) -> Float[Tensor, "*r D"]:
        """The part of each direction that is learned: 0 none of it, 1 as much as is best."""
        self.check(weights, problem)
        E = self.directions(problem)
        found = E.mT @ self.joined(weights) @ E
        wanted = E.mT @ self.best(problem) @ E
        return found.diagonal(dim1=-2, dim2=-1) / wanted.diagonal(dim1=-2, dim2=-1)

    def flow(self, weights: Weights, problem: Problem, times: Float[Tensor, " t"]) -> Weights:
        """Gradient flow from ``weights``, at increasing times from zero on: (t, *r, ...) each.

        By an explicit Runge-Kutta method of order eight, all runs with the same steps.

        Raises
        ------
        RuntimeError : if it has not come to an end after `EVALUATIONS` gradients, as from a start so
            long that only tiny steps are stable.
        """
        self.check(weights, problem)
        times = _validate.finite("times", _validate.matrix("times", times, least=1), "end sooner")
        if times.ndim > 1 or bool((times < 0).any()) or bool((times.diff() <= 0).any()):
            found = f"times must be a line that rises from zero on, got {_validate.shown(times)}"
            raise error(ValueError, found, "give them in order")
        weights = _protocol.spread(self, self._taken(weights), problem)
        at = Landscape(*(A.detach().cpu().double() for A in self.landscape(problem)))
        shapes = [W.shape for W in weights]
        sizes = [W.numel() for W in weights]

        def placed(flat: Tensor) -> Weights:
            parts = flat.split(sizes, -1)
            return self._kind(*(p.unflatten(-1, s) for p, s in zip(parts, shapes, strict=True)))

        asked = itertools.count(1)
        lost, smaller = "the flow is lost at time {:.3g}", "start smaller, or end sooner"

        def slope(time: float, flat) -> Tensor:
            if next(asked) > EVALUATIONS:
                raise error(RuntimeError, lost.format(time), smaller)
            gradient = self._derived(placed(torch.from_numpy(flat)), at, self.trainable)[1]
            return -torch.cat([gradient[letter].flatten() for letter in self.trainable]).numpy()

        start = torch.cat([W.detach().flatten() for W in weights]).cpu().double().numpy()
        span = (0.0, float(times[-1]))
        if span[1] == 0:  # nothing to integrate
            return placed(torch.from_numpy(start)[None].to(weights.V))
        looks = times.detach().cpu().double().numpy()
        least = 1e-13 * (np.abs(start).max() or 1.0)
        with np.errstate(all="ignore"):  # what overflows is told below
            run = solve_ivp(slope, span, start, "DOP853", looks, rtol=1e-9, atol=least)
        if not run.success:
            time = run.t[-1] if len(run.t) else 0.0
            raise error(RuntimeError, lost.format(time), smaller)
        return placed(torch.from_numpy(run.y.T.copy()).to(weights.V))


# ---------------------------------------------------------------------------- data


def inputs(spectrum: list[float] | Float[Tensor, " D"]) -> Problem:
    """A problem whose tokens have a diagonal second moment with that spectrum; labels are zero.

    Raises
    ------
    ValueError : for an eigenvalue that is not positive and finite.
    """
    values = _validate.matrix("spectrum", spectrum, least=1).double()
    _validate.finite("spectrum", values, "give finite eigenvalues")
    if values.ndim != 1 or not bool((values > 0).all()):
        found = f"spectrum must be a line of positive numbers, got {_validate.shown(spectrum)}"
        raise error(ValueError, found, "give a line of positive numbers")
    X = torch.diag((len(values) * values).sqrt())[None]
    return Problem(X, torch.zeros_like(X[..., 0]))


def prompts(problem: Problem, N: int, n: int, seed: int) -> in_context.Prompts:
    """N prompts of n normal inputs with the second moment of the problem's tokens, and their tasks."""
    X = _validate.problem(problem).tokens
    N, n = _validate.count("N", N), _validate.count("n", n)
    half = draws.normal(seed, "x", (N, n + 1, X.shape[-2])).to(X) @ X / X.shape[-2] ** 0.5
    y = (half @ draws.normal(seed, "w", (N, X.shape[-1], 1)).to(X)).squeeze(-1)
    return in_context.Prompts(half[:, 1:], y[:, 1:], half[:, 0], y[:, 0])


# ---------------------------------------------------------------------------- heads on a plateau


def climbing_time(
    model: LinearAttention, problem: Problem, size: float, share: float
) -> Float[Tensor, "*b D"]:
    r"""When an aligned head of rank one and length ``size`` has learned that share of its direction.

    Its length follows :math:`\dot s = \lambda^2s^2 - g\lambda s^5`, and with
    :math:`\sigma = s/s^*` the time is a difference of
    :math:`-\tfrac1\sigma - \tfrac13\ln(1-\sigma) + \tfrac16\ln(1+\sigma+\sigma^2)
    - \tfrac1{\sqrt3}\arctan\tfrac{2\sigma+1}{\sqrt3}`, over :math:`\lambda^2s^*`.

    Raises
    ------
    ValueError : for a share that is not between 0 and 1, or smaller than at the start.
    """
    spectrum = _ours(model).spectrum(problem)
    total = spectrum.sum(-1, keepdim=True)
    full = (1 / (spectrum * (1 + (1 + total / spectrum) / model.n))) ** (1 / 3)
    begun, end = _validate.positive("size", size) / full, _validate.fraction("share", share)
    if bool((begun**3 >= end).any()):
        found = f"share is {share}, and the start has more of some direction"
        raise error(ValueError, found, "start smaller, or ask for a larger share")
    end = torch.full_like(begun, end) ** (1 / 3)
    return (_climbed(end) - _climbed(begun)) / (spectrum**2 * full)


def _ours(model: LinearAttention) -> LinearAttention:
    """The model, if it is one of this file; else raise."""
    if not isinstance(model, LinearAttention):
        found = f"model must be LinearAttention, got {_validate.shown(model)}"
        raise error(TypeError, found, "take LinearAttention(H, n, rank=1)")
    return model


def _climbed(sigma: Tensor) -> Tensor:
    around = torch.arctan((2 * sigma + 1) / 3**0.5) / 3**0.5
    square = torch.log1p(sigma + sigma**2) / 6
    return -1 / sigma - torch.log1p(-sigma) / 3 + square - around


class Stairs(NamedTuple):
    """When directions are learned from a small start, and which, in the order of time."""

    time: Float[Tensor, "*r steps"]
    direction: Int[Tensor, "*r steps"]  #: 0 is that of the largest eigenvalue
    head: Int[Tensor, "*r steps"]


def stairs(model: LinearAttention, weights: SeparateWeights, problem: Problem) -> Stairs:
    r"""The staircase of separate heads of rank one, to leading order in the size of the start.

    While M is that of a saddle a head feels the constant pull R, a diagonal matrix of the
    :math:`\lambda_i^2` that are not learned, and moves alone. With :math:`\dot\tau = v` its
    :math:`k \pm q` are :math:`e^{\pm R\tau}` times what they were, which leaves one equation,
    :math:`\ddot\tau = k^\top Rq`. The head that becomes infinite first has learned a direction; R
    loses it, and the others go on. See :doc:`/kim2024/merged`.

    Raises
    ------
    ValueError : for heads that are merged or of a higher rank.
    """
    _ours(model).check(weights, problem)
    if model.rank != 1:
        found = f"heads must have rank 1, got rank={model.rank}"
        raise error(ValueError, found, "take LinearAttention(H, n, rank=1)")
    if problem.X.ndim > 3:
        found = f"problem must be one, got batch dimensions {tuple(problem.X.shape[:-3])}"
        raise error(ValueError, found, "give one problem at a time")
    if bool(
        (sum(W.flatten(-3 if W.ndim > 2 else -1).square().sum(-1) for W in weights) == 0).any()
    ):
        raise error(ValueError, "a run has all weights zero", "start it elsewhere")
    device = weights.V.device
    problem = Problem(problem.X.detach().cpu(), problem.y.detach().cpu())
    weights = SeparateWeights(*(W.detach().cpu() for W in weights))
    rho, E = model.spectrum(problem).square().numpy(), model.directions(problem)
    k, q = ((W.squeeze(-1) @ E).reshape(-1, model.H, problem.D) for W in weights[1:])
    flat = (each.numpy() for each in (weights.V.reshape(-1, model.H), k + q, k - q))
    found = zip(*(_climb(rho, *run) for run in zip(*flat, strict=True)), strict=True)
    shape = weights.V.shape[:-1]
    arrays = (torch.tensor(np.array(each)).reshape(*shape, -1) for each in found)
    return Stairs(*(each.to(device) for each in arrays))


def _climb(rho: np.ndarray, v: np.ndarray, p: np.ndarray, m: np.ndarray) -> tuple[list, list, list]:
    """One run of `stairs`: times, directions, heads; p and m are k + q and k - q (H, D)."""
    rho, now, idle, steps = rho.copy(), 0.0, np.arange(len(v)), min(len(v), len(rho))
    times, directions, heads = [np.inf] * steps, [-1] * steps, [-1] * steps
    for step in range(steps):
        tau, v, late = _until_one_is_large(rho, v, p, m)
        if late == np.inf:
            break
        p, m = p * np.exp(np.outer(tau, rho)), m * np.exp(-np.outer(tau, rho))
        first, now = np.abs(v).argmax(), now + late
        ahead = (rho * (p[first] ** 2 + m[first] ** 2)).argmax()
        times[step], directions[step], heads[step] = now, int(ahead), int(idle[first])
        rho[ahead] = 0
        v, p, m, idle = (np.delete(each, first, 0) for each in (v, p, m, idle))
    return times, directions, heads


def _until_one_is_large(
    rho: np.ndarray, v: np.ndarray, p: np.ndarray, m: np.ndarray, growth: float = 1e6
) -> tuple[np.ndarray, np.ndarray, float]:
    r"""Follow :math:`\dot\tau = v,\ \dot v = k^\top Rq` of each head until one has grown so much."""
    # lengths are measured in that of the start, and time in its inverse: nothing here is small
    size, H = max(np.abs(v).max(), np.abs(p).max(), np.abs(m).max()), len(v)
    squares = (p / size) ** 2 / 4, (m / size) ** 2 / 4

    def slope(_: float, state: np.ndarray) -> np.ndarray:
        rise = np.exp(2 * np.outer(state[:H], rho))
        return np.concatenate([state[H:], (squares[0] * rise - squares[1] / rise) @ rho])

    def large(_: float, state: np.ndarray) -> float:
        return np.abs(state[H:]).max() - growth

    large.terminal = True
    start, forever = np.concatenate([np.zeros(H), v / size]), 1e6 / rho.max()
    run = solve_ivp(slope, (0, forever), start, "LSODA", events=large, rtol=1e-9, atol=1e-12)
    late = run.t[-1] / size if run.status == 1 else np.inf
    return run.y[:H, -1], run.y[H:, -1] * size, late


# ---------------------------------------------------------------------------- sums


def _dot(A: Float[Tensor, "*r a b"], B: Float[Tensor, "*r a b"]) -> Float[Tensor, "*r"]:
    return (A * B).sum((-2, -1))


def _norm(A: Float[Tensor, "*r a b"]) -> Float[Tensor, "*r 1 1"]:
    return torch.linalg.matrix_norm(A, keepdim=True)
