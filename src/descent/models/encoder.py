r"""A shallow encoder, as in Wu et al. 2023: attention, ReLU, pooling, one real output a sequence.

.. math::
    f(X) = \tau_1\, w_O^\top \sum_{i=1}^{n} \sigma\bigl(W_V^\top X^\top \beta_i\bigr),
    \qquad \beta_i = \mathrm{softmax}\bigl(\tau_0\, X W_K W_Q^\top x_i\bigr),
    \qquad \ell = \tfrac12 \sum_{j=1}^N (f(X_j) - y_j)^2 .

The letters are the house's: N sequences of n tokens in D dimensions, and ``d`` columns of each of
W_Q, W_K, W_V, the *width*; the paper writes :math:`d_s`, :math:`d`, :math:`d_m` for n, D, d, and
the transposes of our matrices. All four weights can be trained.

Where :math:`\sigma` is ReLU the derivative that is used at zero is 0. Introduced in
:doc:`/wu2023/scaling`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import _memory, _validate, draws, kernels
from .._errors import error
from ..lanes import Read, Step
from ..problems import Problem
from ._encoder_step import step as encoder_step


class Activation(NamedTuple):
    """A function with value 0 at 0, and its derivative, entry by entry."""

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]


#: By name. The second derivative of tanh is at most 4 / (3 sqrt 3) in size.
ACTIVATIONS = {
    "relu": Activation(torch.relu, lambda Z: (Z > 0).to(Z)),
    "tanh": Activation(torch.tanh, lambda Z: 4 * torch.sigmoid(2 * Z) * torch.sigmoid(-2 * Z)),
}
#: Score factors tau_0 by name, as functions of the width.
SCALINGS = {"d^-1/2": lambda d: d**-0.5, "d^-1": lambda d: 1 / d}


class Initialisation(NamedTuple):
    """Variances of the entries times their fan-in, and the factor tau_1 (Wu et al. 2023, Table 1).

    ``fan_in`` says whether variances are divided by the dimension that a weight sums over.
    """

    variance: float
    fan_in: bool
    output: Callable[[int], float]


INITIALISATIONS = {
    "lecun": Initialisation(1.0, True, lambda d: 1.0),
    "he": Initialisation(2.0, True, lambda d: 1.0),
    "ntk": Initialisation(1.0, False, lambda d: d**-0.5),
}


#: Above this many products of a query's and a key's entries, in one sequence, matrix products are
#: faster than sums that are written out; in all sequences together, where runs are so few that lanes
#: are idle (measured).
LARGE, MANY = 16384, 8


class EncoderWeights(NamedTuple):
    """Weights of an encoder; leading dimensions ``*r`` are runs trained side by side."""

    Q: Float[Tensor, "*r D d"]
    K: Float[Tensor, "*r D d"]
    V: Float[Tensor, "*r D d"]
    O: Float[Tensor, "*r d"]  # noqa: E741  the paper's w_O


class Pass(NamedTuple):
    """What one pass through the encoder computes, kept for the way back."""

    Q: Float[Tensor, "*r N n d"]
    K: Float[Tensor, "*r N n d"]
    V: Float[Tensor, "*r N n d"]
    S: Float[Tensor, "*r N n n"]
    Z: Float[Tensor, "*r N n d"]  #: before the activation
    features: Float[Tensor, "*r N d"]  #: the paper's F_pre: pooled, times tau_1
    output: Float[Tensor, "*r N"]


@dataclass(frozen=True)
class Encoder:
    """Softmax attention, an activation, pooling and a linear read-out; no bias, one head.

    Parameters
    ----------
    d : the width.
    scaling : the factor tau_0 of the scores, ``"d^-1/2"`` (practice) or ``"d^-1"`` (the limit of
        the tangent kernel).
    initialisation : ``"lecun"``, ``"he"`` or ``"ntk"``; the last one also has tau_1 = d^-1/2.
    activation : ``"relu"`` or ``"tanh"``.
    pooling : ``"sum"`` over tokens, as in the paper's proofs, or ``"mean"``.

    Raises
    ------
    ValueError : for an unknown name, or d below 1.

    Examples
    --------
    >>> from descent import models, problems
    >>> problem = problems.sequences(N=3, n=2, D=4, seed=0)
    >>> encoder = models.Encoder(16, "d^-1", "lecun")
    >>> encoder.predict(encoder.init(problem, seed=1, runs=5), problem).shape
    torch.Size([5, 3])
    """

    d: int
    scaling: str = "d^-1/2"
    initialisation: str = "lecun"
    activation: str = "relu"
    pooling: str = "sum"

    #: The weights that gradient descent may move, in the order of `EncoderWeights`.
    trainable = "QKVO"
    #: Of these, the ones that enter as X @ W alone (see `descent.span`).
    acts_on_tokens = "QKV"
    #: How many trailing dimensions of each weight are its own: the others are runs.
    own = {"Q": 2, "K": 2, "V": 2, "O": 1}

    def __post_init__(self) -> None:
        _validate.count("d", self.d)
        _validate.one_of("scaling", self.scaling, SCALINGS)
        _validate.one_of("initialisation", self.initialisation, INITIALISATIONS)
        _validate.one_of("activation", self.activation, ACTIVATIONS)
        _validate.one_of("pooling", self.pooling, ("sum", "mean"))

    @property
    def tau_0(self) -> float:
        """The factor of the scores."""
        return SCALINGS[self.scaling](self.d)

    def tau_1(self, problem: Problem) -> float:
        """The factor of the pooled features."""
        factor = INITIALISATIONS[self.initialisation].output(self.d)
        return factor / problem.n if self.pooling == "mean" else factor

    def init(
        self, problem: Problem, *, seed: int, runs: draws.Runs = None, scale: float = 1.0
    ) -> EncoderWeights:
        """Draw independent normal weights with the variances of Table 1, times ``scale**2``."""
        _validate.positive("scale", scale)
        _validate.problem(problem)
        table = INITIALISATIONS[self.initialisation]

        def normal(W: str, *shape: int) -> Tensor:
            # the first of a weight's own dimensions is the one that it sums over
            std = scale * (table.variance / (shape[0] if table.fan_in else 1)) ** 0.5
            return (std * draws.normal(seed, f"W_{W}", shape, runs)).to(problem.X)

        return EncoderWeights(*(normal(W, problem.D, self.d) for W in "QKV"), normal("O", self.d))

    def check(self, weights: EncoderWeights, problem: Problem) -> None:
        """Raise ValueError where weights or data are not what the encoder is made for."""
        _validate.problem(problem)
        if not isinstance(weights, EncoderWeights):
            found = f"weights must be EncoderWeights, got {_validate.shown(weights)}"
            raise error(TypeError, found, "draw some with encoder.init(problem, seed=0)")
        if problem.y.ndim != problem.X.ndim - 2:
            found = "y holds one label a token, but an encoder answers for a sequence"
            raise error(ValueError, found, "give y the shape (..., N)")
        fits = f"the encoder has d = {self.d} and the tokens D = {problem.D}"
        for name, W in zip(weights._fields, weights, strict=True):
            expected = (self.d,) if name == "O" else (problem.D, self.d)
            _validate.shape(f"W_{name}", W, expected, fits)
            _validate.like(f"W_{name}", W, problem.X)
            _validate.finite(f"W_{name}", W, "initialise it again")

    # -- the model ------------------------------------------------------------------------------

    def forward(self, weights: EncoderWeights, problem: Problem) -> Pass:
        """Queries, keys, values, attention, features and the output of every run.

        Every public function of an encoder comes through here, so all raise what `check` does.
        """
        weights = _validate.weights(weights)
        self.check(weights, problem)
        return self._forward(weights, problem)

    def _forward(self, weights: EncoderWeights, problem: Problem) -> Pass:
        """The same for what has been looked at: `descend` does not look at every step."""
        activation, shape = ACTIVATIONS[self.activation], (problem.N, problem.n)
        # of all tokens at once: a product for each sequence would copy the weights for each
        Q, K, V = ((problem.tokens @ W).unflatten(-2, shape) for W in weights[:3])
        _memory.room("the attention matrices", *Q.shape[:-1], problem.n)
        S = torch.softmax(self.tau_0 * Q @ K.mT, -1)
        Z = S @ V
        features = self.tau_1(problem) * activation.value(Z).sum(-2)
        return Pass(Q, K, V, S, Z, features, (features @ weights.O[..., None]).squeeze(-1))

    def predict(self, weights: EncoderWeights, problem: Problem) -> Float[Tensor, "*r N"]:
        """The output, one number a sequence."""
        return self.forward(weights, problem).output

    def features(self, weights: EncoderWeights, problem: Problem) -> Float[Tensor, "*r N d"]:
        r"""What the last weight reads, the paper's :math:`F_{\mathrm{pre}}`, tau_1 included."""
        return self.forward(weights, problem).features

    def loss(self, weights: EncoderWeights, problem: Problem) -> Float[Tensor, "*r"]:
        """Half the sum of squared residuals."""
        return (self.predict(weights, problem) - problem.y).square().sum(-1) / 2

    def loss_and_gradient(
        self, weights: EncoderWeights, problem: Problem, train: str = "QKVO"
    ) -> tuple[Float[Tensor, "*r"], dict[str, Tensor]]:
        """The loss (...,) and a dict with one gradient, shaped as its weight, per letter."""
        train = _validate.letters("train", train, self.trainable)
        weights = _validate.weights(weights)
        self.check(weights, problem)
        return self._loss_and_gradient(weights, problem, train)

    def _loss_and_gradient(self, weights: EncoderWeights, problem: Problem, train: str):
        run = self._forward(weights, problem)
        residual = run.output - problem.y
        gradient = self._pull_back(weights, problem, run, residual, train)
        return residual.square().sum(-1) / 2, gradient

    def objective(self, weights: EncoderWeights, problem: Problem, train: str) -> Callable:
        """What `descend` calls at every step: trained weights to loss and gradients."""
        return lambda moving: self._loss_and_gradient(weights._replace(**moving), problem, train)

    def on_lanes(self, weights: EncoderWeights, problem: Problem, train: str) -> Step | None:
        """The step for `descent.lanes`; None for large matrices, the more so where runs are few."""
        if problem.X.ndim > 3:  # its step compiled once more takes more memory than a page has left
            return None
        each, runs = problem.n**2 * self.d, len(weights.O)
        if each > LARGE or (runs < MANY and problem.N * each > LARGE * runs):
            return None
        one = weights.O.new_ones(1, 1)  # O is no matrix that tokens meet: it is read as it is
        X, square = problem.tokens, torch.ones_like(weights.O)
        reads = {W: Read(X, getattr(weights, W).mT, square, lambda c: c.mT) for W in "QKV"}
        return Step(
            encoder_step,
            reads | {"O": Read(one, weights.O[..., None], square, lambda c: c[..., 0])},
            data=(
                problem.y.contiguous().numpy(),
                problem.N,
                problem.n,
                self.d,
                self.tau_0,
                self.tau_1(problem),
                self.activation == "relu",
            ),
            scratch=((problem.n, problem.n), (problem.n, problem.n), (self.d, problem.n)),
            work=problem.N * (6 * each + 20 * problem.n**2),
        )

    def pullback(
        self,
        weights: EncoderWeights,
        problem: Problem,
        c: Float[Tensor, "*r N"],
        train: str = "QKVO",
    ) -> dict[str, Tensor]:
        r"""The gradient of :math:`\sum_j c_j f(X_j)`: the residual's transposed Jacobian times c."""
        run = self.forward(weights, problem)
        _validate.letters("train", train, self.trainable)
        c = _validate.like("c", _validate.tensor("c", c), problem.X)
        _validate.shape("c", c, run.output.shape, "there is one for each output")
        weights = _validate.weights(weights)
        return self._pull_back(weights, problem, run, c, train)

    def _pull_back(self, weights, problem: Problem, run: Pass, c: Tensor, train: str) -> dict:
        X = problem.X
        dZ = c[..., None, None] * self._sensitivity(weights, problem, run)
        pulled = {}
        if "O" in train:
            pulled["O"] = (c[..., None, :] @ run.features).squeeze(-2)
        if "V" in train:
            pulled["V"] = run.S.mT @ dZ
        if "Q" in train or "K" in train:
            pulled["Q"], pulled["K"] = self._scores_pullback(run, dZ)
        return {
            W: pulled[W] if W == "O" else X.flatten(-3, -2).mT @ pulled[W].flatten(-3, -2)
            for W in train
        }

    def _sensitivity(self, weights, problem: Problem, run: Pass) -> Float[Tensor, "*r N n d"]:
        """Derivative of each output by its own Z."""
        slope = ACTIVATIONS[self.activation].derivative(run.Z)
        return self.tau_1(problem) * slope * weights.O[..., None, None, :]

    def _scores_pullback(self, run: Pass, dZ: Tensor) -> tuple[Tensor, Tensor]:
        """From the derivative by Z to those by queries and keys."""
        dS = dZ @ run.V.mT
        # the kernel's pullback keeps its digits where a row is nearly one-hot; it needs no scores
        dC = self.tau_0 * kernels.softmax.pullback(None, run.S, dS)
        return dC @ run.K, dC.mT @ run.Q

    # -- the tangent kernel ---------------------------------------------------------------------

    def ntk(
        self, weights: EncoderWeights, problem: Problem, train: str = "QKVO"
    ) -> Float[Tensor, "*r N N"]:
        r"""The tangent kernel :math:`K = J J^\top` of the outputs, J over ``train``.

        From the forward quantities alone. The gradient of an output with respect to a D x d
        matrix is :math:`X^\top G` with an n x d matrix G, and
        :math:`\langle X^\top G, X'^\top G'\rangle = \sum (X X'^\top) \circ (G G'^\top)`: no Jacobian
        of N D d entries is ever made. Costs N^2 n^2 (D + d) a run.
        """
        return sum(self.ntk_parts(weights, problem, train).values())

    def ntk_parts(
        self, weights: EncoderWeights, problem: Problem, train: str = "QKVO"
    ) -> dict[str, Float[Tensor, "*r N N"]]:
        """The share of each weight of ``train`` in `ntk`."""
        run = self.forward(weights, problem)
        _validate.letters("train", train, self.trainable)
        weights = _validate.weights(weights)
        A = self._sensitivity(weights, problem, run)
        parts = {}
        if "O" in train:
            parts["O"] = run.features @ run.features.mT
        if "V" in train:
            parts["V"] = _paired(run.S @ problem.X, A)
        if "Q" in train or "K" in train:
            for W, G in zip("QK", self._scores_pullback(run, A), strict=True):
                parts[W] = _paired(problem.X, G)
        return {W: parts[W] for W in train}


# ---------------------------------------------------------------------------- kernels of the limit


def arc_cosine(
    A: Float[Tensor, "*b p D"], B: Float[Tensor, "*b q D"]
) -> tuple[Float[Tensor, "*b p q"], Float[Tensor, "*b p q"]]:
    r"""Expectations over :math:`w \sim \mathcal N(0, I)` of two products of ReLU and of its slope.

    :math:`E\,\sigma(a\cdot w)\sigma(b\cdot w)
    = \frac{\|a\|\|b\|}{2\pi}(\sin\theta + (\pi-\theta)\cos\theta)` and
    :math:`E\,\dot\sigma(a\cdot w)\dot\sigma(b\cdot w) = \frac{\pi-\theta}{2\pi}`, with
    :math:`\theta` the angle between the rows a of A and b of B (Cho and Saul 2009). Rows of zeros
    have angle pi/2 with everything. Introduced in :doc:`/wu2023/apart`.
    """
    A, B = _validate.matrix("A", A), _validate.matrix("B", B)
    _validate.like("B", B, A)
    _validate.shape("B", B, (*A.shape[:-2], B.shape[-2], A.shape[-1]), "its rows meet those of A")
    a, b = (torch.linalg.vector_norm(M, dim=-1) for M in (A, B))
    lengths = a[..., :, None] * b[..., None, :]
    cosine = (A @ B.mT / torch.where(lengths > 0, lengths, 1)).clamp(-1, 1)
    theta = torch.arccos(cosine)
    value = lengths / (2 * math.pi) * (torch.sin(theta) + (math.pi - theta) * cosine)
    return value, (math.pi - theta) / (2 * math.pi)


def limit_ntk(problem: Problem) -> Float[Tensor, "*b N N"]:
    r"""The tangent kernel of infinite width (Wu et al. 2023, Lemma 1): sum pooling, ReLU.

    For the initialisation ``"ntk"`` and the scaling ``"d^-1"``. Attention is then uniform, and the
    kernel is a function of the mean tokens of the sequences alone.
    Introduced in :doc:`/wu2023/tangent`.
    """
    mean = _validate.problem(problem).X.mean(-2)
    value, slope = arc_cosine(mean, mean)
    return problem.n**2 * (value + slope * (mean @ mean.mT))


def pooled_kernel(attended: Float[Tensor, "*b N n D"]) -> Float[Tensor, "*b N N"]:
    r""":math:`E_w[g(w) g(w)^\top]` with :math:`g_j(w) = \sum_i \sigma(w\cdot u_{ji})`, ReLU.

    ``attended`` are the :math:`u_{ji} = X_j^\top\beta_{ji}`, what the tokens see. Its smallest
    eigenvalue is the number that decides whether a wide encoder can fit all labels.
    Introduced in :doc:`/wu2023/apart`.
    """
    attended = _validate.matrix("attended", attended, 3)
    N, n = attended.shape[-3:-1]
    rows = attended.flatten(-3, -2)
    return _pooled(arc_cosine(rows, rows)[0], N, n)


def _paired(X: Float[Tensor, "*b N n D"], G: Float[Tensor, "*r N n d"]) -> Float[Tensor, "*r N N"]:
    r"""All inner products of the N matrices :math:`X_j^\top G_j`, which are not formed."""
    N, n = G.shape[-3:-1]
    X, G = X.flatten(-3, -2), G.flatten(-3, -2)
    return _pooled((X @ X.mT) * (G @ G.mT), N, n)


def _pooled(M: Float[Tensor, "*b Nn Nn"], N: int, n: int) -> Float[Tensor, "*b N N"]:
    """Sums over the n tokens of both sequences."""
    return M.unflatten(-1, (N, n)).sum(-1).unflatten(-2, (N, n)).sum(-2)
