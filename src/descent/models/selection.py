r"""One attention layer that answers for a whole sequence, as in Vasudeva et al. 2024.

.. math::
    \Phi(X_i) = u^\top X_i^\top \varphi_i, \qquad
    \varphi_i = \mathrm{softmax}(X_i W z_i) \in \mathbb R^n, \qquad
    \widehat L = \frac1N \sum_i \ell\big(y_i \Phi(X_i)\big),

with one label :math:`y_i = \pm1` a sequence and the query :math:`z_i`, one of its tokens. The layer
selects: with the *score* :math:`\gamma_{it} = y_i u^\top x_{it}` of a token, the signed output is
:math:`f_i = \sum_t \varphi_{it}\gamma_{it}`, and it is largest where all attention lies on the token
of the largest score. Introduced in :doc:`/vasudeva2024/logistic`.

**Nothing here underflows.** As attention saturates, :math:`f_i` and the largest score agree to the
last digit, and so would the gradient vanish if it were made from their difference. All differences
are taken between scores, before they are weighted, and the weights are kept as logarithms.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from .. import _validate, draws
from .._errors import error
from ..lanes import Read, Step
from ..problems import Problem
from ._selection_step import LINEAR, step, step_in_factors

LOSSES = ("logistic", "exponential")
GOALS = ("loss", "log loss", "log excess")
#: Above this many numbers the tokens' products x z^T, (N n, D^2), are not worth their memory.
LARGE = 2**22


class SelectionWeights(NamedTuple):
    """Key-query matrix and decoder; leading dimensions ``*r`` are runs trained side by side."""

    W: Float[Tensor, "*r D D"]
    u: Float[Tensor, "*r D"]


class FactoredWeights(NamedTuple):
    """The same with :math:`W = K Q^\\top`, keys and queries trained apart."""

    K: Float[Tensor, "*r D d"]
    Q: Float[Tensor, "*r D d"]
    u: Float[Tensor, "*r D"]


class Forward(NamedTuple):
    """What one pass computes; ``f`` are the signed outputs, positive where the sign is right."""

    log_attention: Float[Tensor, "*r N n"]
    scores: Float[Tensor, "*r N n"]
    f: Float[Tensor, "*r N"]


@dataclass(frozen=True)
class Selection:
    r"""Attention with a linear decoder and one output a sequence.

    Parameters
    ----------
    ell : ``"logistic"``, :math:`\ell(f) = \log(1 + e^{-f})`, or ``"exponential"``, :math:`e^{-f}`.
    d : columns of K and Q where :math:`W = KQ^\top` is trained in factors; W itself if left out.
    query : which token of each sequence asks.
    goal : what descends: ``"loss"``, :math:`\widehat L`; ``"log loss"``; or ``"log excess"``,
        :math:`\log(\widehat L - \widehat L_*)`, with :math:`\widehat L_*` the loss of attention to
        the optimal tokens alone. The gradient of a logarithm points where the gradient itself does,
        and its length stays of order one however small the loss has become.

    Raises
    ------
    ValueError : for an unknown loss or goal, or a d or query that is no count.

    Examples
    --------
    >>> from descent import models, problems
    >>> problem, u = problems.planted(N=4, n=3, D=20, seed=0)
    >>> layer = models.Selection("logistic")
    >>> weights = layer.init(problem, seed=1, runs=2, u=u)
    >>> layer.attention(weights, problem).shape
    torch.Size([2, 4, 3])
    """

    ell: str = "logistic"
    d: int | None = None
    query: int = 0
    goal: str = "loss"

    #: How many dimensions of each weight are its own: the others are runs.
    own = {"W": 2, "K": 2, "Q": 2, "u": 1}
    #: W meets tokens on both sides: `descent.span`, which knows of one, leaves it as it is.
    acts_on_tokens = ""

    def __post_init__(self) -> None:
        _validate.one_of("ell", self.ell, LOSSES)
        _validate.one_of("goal", self.goal, GOALS)
        _validate.count("query", self.query, least=0)
        if self.d is not None:
            _validate.count("d", self.d)

    @property
    def trainable(self) -> str:
        """The weights that may move, in the order of their container."""
        return "Wu" if self.d is None else "KQu"

    def init(
        self,
        problem: Problem,
        *,
        seed: int,
        runs: draws.Runs = None,
        scale: float = 1.0,
        u: Float[Tensor, " D"] | None = None,
    ) -> SelectionWeights | FactoredWeights:
        """Draw normal weights; ``scale`` is the length to expect of W (or of K and of Q), or 0.

        u is drawn with length 1 to expect, unless it is given: the same for all runs.
        """
        if _validate.real("scale", scale) != 0:
            _validate.positive("scale", scale)
        _validate.problem(problem)

        def normal(name: str, *shape: int, length: float) -> Tensor:
            draw = draws.normal(seed, name, shape, runs)
            return (length / math.prod(shape) ** 0.5 * draw).to(problem.X)

        D, columns = problem.D, problem.D if self.d is None else self.d
        matrices = [normal(name, D, columns, length=scale) for name in self.trainable[:-1]]
        drawn = normal("u", D, length=1.0)
        if u is not None:
            u = _validate.tensor("u", u).to(problem.X)
            u = _validate.shape("u", u, (D,), "it meets the tokens")
            if u.ndim > 1 and u.shape != drawn.shape:
                found = f"u has shape {tuple(u.shape)}, but for these runs {tuple(drawn.shape)} are drawn"
                raise error(ValueError, found, f"give all runs one u, of shape {(D,)}")
            u = u.expand_as(drawn)
        else:
            u = drawn
        return self._container(*matrices, u)

    @property
    def _container(self) -> type:
        return SelectionWeights if self.d is None else FactoredWeights

    def check(self, weights: NamedTuple, problem: Problem) -> None:
        """Raise ValueError where weights or data are not what the layer is made for."""
        check_data(problem, self.query)
        if not isinstance(weights, self._container):
            found = f"weights must be {self._container.__name__}, got {_validate.shown(weights)}"
            raise error(TypeError, found, "draw some with layer.init(problem, seed=0)")
        shapes = {"u": (problem.D,)}
        for name, W in zip(weights._fields, weights, strict=True):
            columns = problem.D if name == "W" else self.d
            expected = shapes.get(name, (problem.D, columns))
            _validate.shape(name, W, expected, f"the tokens have D = {problem.D}")
            _validate.finite(name, W, "initialise it again")
            _validate.like(name, W, problem.X)
        if self.goal == "log excess":
            chosen(problem, weights.u)

    # -- the layer ----------------------------------------------------------------------------

    def forward(self, weights: NamedTuple, problem: Problem) -> Forward:
        """Logarithms of the attention, scores of the tokens and signed outputs of every run.

        Every public function of the layer comes through here, so all raise what `check` does.
        """
        weights = _validate.weights(weights)
        self.check(weights, problem)
        return self._forward(weights, problem)

    def _forward(self, weights: NamedTuple, problem: Problem) -> Forward:
        """The same for what has been looked at: `descend` does not look at every step."""
        z = problem.X[..., self.query, :]
        keys = z @ weights.W.mT if self.d is None else (z @ weights.Q) @ weights.K.mT
        attended = (problem.X @ keys[..., None]).squeeze(-1)
        log_attention = torch.log_softmax(attended, -1)
        log_attention, gamma = torch.broadcast_tensors(log_attention, _scores(problem, weights.u))
        return Forward(log_attention, gamma, (log_attention.exp() * gamma).sum(-1))

    def attention(self, weights: NamedTuple, problem: Problem) -> Float[Tensor, "*r N n"]:
        """The attention map: what each token of a sequence is given, together one."""
        return self.forward(weights, problem).log_attention.exp()

    def predict(self, weights: NamedTuple, problem: Problem) -> Float[Tensor, "*r N"]:
        """The layer's output, one number a sequence; its sign is the answer."""
        f = self.forward(weights, problem).f
        return problem.y * f

    def soft_margins(
        self, weights: NamedTuple, problem: Problem, token: Int[Tensor, "*b N"]
    ) -> Float[Tensor, "*r N"]:
        r"""The logit :math:`m_i` of the attention to ``token``: attention is :math:`\sigma(m_i)`."""
        log_attention = self.forward(weights, problem).log_attention
        token = _validate.tensor("token", token).to(torch.int64)
        _validate.shape("token", token, (problem.N,), "each sequence has one")
        if not bool(((token >= 0) & (token < problem.n)).all()):
            found = f"token holds {token.tolist()}, but a sequence has {problem.n} tokens"
            raise error(ValueError, found, f"number them 0 to {problem.n - 1}")
        index = token.expand(log_attention.shape[:-1])[..., None]
        others = log_attention.scatter(-1, index, -torch.inf).logsumexp(-1)
        return log_attention.gather(-1, index).squeeze(-1) - others

    def loss(self, weights: NamedTuple, problem: Problem) -> Float[Tensor, "*r"]:
        """The goal: the mean loss of the sequences, or its logarithm."""
        return self._goal(self.forward(weights, problem))

    def loss_and_gradient(
        self, weights: NamedTuple, problem: Problem, train: str = "W"
    ) -> tuple[Float[Tensor, "*r"], dict[str, Tensor]]:
        """The goal and its gradients in closed form, one for each letter of ``train``."""
        train = _validate.letters("train", train, self.trainable)
        weights = _validate.weights(weights)
        self.check(weights, problem)
        return self._loss_and_gradient(weights, problem, train)

    def _loss_and_gradient(self, weights: NamedTuple, problem: Problem, train: str):
        if "u" in train and self.goal == "log excess":
            raise error(
                ValueError, "goal='log excess' is for a fixed decoder u", "use 'log loss' instead"
            )
        pass_ = self._forward(weights, problem)
        goal = self._goal(pass_)
        # minus the derivative of the goal by f_i, as a logarithm
        slope = logsigmoid(-pass_.f) if self.ell == "logistic" else -pass_.f
        slope = slope - math.log(problem.N)
        if self.goal != "loss":
            slope = slope - goal[..., None]
        gradient = {}
        if set(train) & set("WKQ"):
            pull = -weighted_differences(pass_, slope)
            gradient |= self._through_attention(weights, problem, pull, train)
        if "u" in train:
            seen = (pass_.log_attention.exp()[..., None, :] @ problem.X).squeeze(-2)
            gradient["u"] = -((slope.exp() * problem.y)[..., None] * seen).sum(-2)
        return goal, {name: gradient[name] for name in train}

    def objective(self, weights: NamedTuple, problem: Problem, train: str) -> Callable:
        """What `descend` calls at every step: trained weights to goal and gradients."""
        _require_a_way_down(weights, problem, train)
        return lambda moving: self._loss_and_gradient(weights._replace(**moving), problem, train)

    def _through_attention(
        self, weights: NamedTuple, problem: Problem, pull: Float[Tensor, "*r N n"], train: str
    ) -> dict[str, Tensor]:
        """From the derivative by what is attended to, X W z, to that by W or its factors."""
        z = problem.X[..., self.query, :]
        keys = (pull[..., None, :] @ problem.X).squeeze(-2)  # (*r, N, D)
        if self.d is None:
            return {"W": keys.mT @ z}
        pulled = {}
        if "K" in train:
            pulled["K"] = keys.mT @ (z @ weights.Q)
        if "Q" in train:
            pulled["Q"] = z.mT @ (keys @ weights.K)
        return pulled

    def on_lanes(self, weights: NamedTuple, problem: Problem, train: str) -> Step | None:
        """The step for `descent.lanes`; None where W has too many entries to be read whole."""
        if problem.X.ndim > 3:  # all products of two entries would be kept of each run
            return None
        _require_a_way_down(weights, problem, train)
        X, N, n, D = problem.tokens, problem.N, problem.n, problem.D
        whole = self.d is None
        if (whole and X.numel() * D > LARGE) or ("u" in train and self.goal == "log excess"):
            return None
        z = problem.X[:, self.query]
        if whole:
            pairs = (problem.X[..., None] * z[:, None, None, :]).flatten(0, 1).flatten(1)
            W = weights.W.flatten(1)[:, None]
            reads = {"W": _read(pairs, W, lambda c: c[:, 0].unflatten(1, (D, D)))}
        else:
            reads = {
                "K": _read(X, weights.K.mT, lambda c: c.mT),
                "Q": _read(z, weights.Q.mT, lambda c: c.mT),
            }
        reads["u"] = _read(X, weights.u[:, None], lambda c: c[:, 0])
        kept = ((N, n), (N, n), (N, n), (N,), (N,))
        return Step(
            step if whole else step_in_factors,
            reads,
            (
                problem.y.contiguous().numpy(),
                n,
                self.ell == "logistic",
                GOALS.index(self.goal),
                self.d or 0,
            ),
            kept if whole else ((1, N * n), (1, N * n), *kept),
            work=N * n * (100 + 3 * (self.d or 0)),
        )

    def _goal(self, pass_: Forward) -> Float[Tensor, "*r"]:
        if self.goal == "log excess":
            return log_excess(pass_, self.ell).logsumexp(-1) - math.log(pass_.f.shape[-1])
        if self.goal == "log loss":
            each = _log_softplus(-pass_.f) if self.ell == "logistic" else -pass_.f
            return each.logsumexp(-1) - math.log(pass_.f.shape[-1])
        return (softplus(-pass_.f) if self.ell == "logistic" else (-pass_.f).exp()).mean(-1)


def _read(through: Tensor, columns: Tensor, write: Callable[[Tensor], Tensor]) -> Read:
    """A weight that is read by its own columns."""
    return Read(through, columns, columns.new_ones(columns.shape[:2]), write)


def scores(problem: Problem, u: Float[Tensor, "*r D"]) -> Float[Tensor, "*r N n"]:
    r"""What attention to a token alone would be worth: :math:`\gamma_{it} = y_i u^\top x_{it}`."""
    u = _validate.tensor("u", u)
    _validate.shape("u", u, (_validate.problem(problem).D,), f"the tokens have D = {problem.D}")
    _check_labels(problem)
    return _scores(problem, _validate.like("u", u, problem.X))


def _scores(problem: Problem, u: Float[Tensor, "*r D"]) -> Float[Tensor, "*r N n"]:
    return problem.y[..., None] * (problem.X @ u[..., None, :, None]).squeeze(-1)


def optimal(gamma: Float[Tensor, "*r N n"]) -> Int[Tensor, "*r N"]:
    """The token of the largest score in each sequence.

    Raises
    ------
    ValueError : where a sequence has one score throughout, or two tokens share the largest.
    """
    return _largest(_validate.matrix("gamma", gamma), 0.0)


def chosen(problem: Problem, u: Float[Tensor, "*r D"]) -> Int[Tensor, "*r N"]:
    """The optimal tokens of a decoder, whose scores differ by more than rounding.

    Raises
    ------
    ValueError : where scores are equal, as in `optimal`, or differ by less than they are known.
    """
    return _largest(scores(problem, u), _rounding(problem, _validate.tensor("u", u)))


def _rounding(problem: Problem, u: Float[Tensor, "*r D"]) -> Float[Tensor, "*r N"]:
    """How far the rounding of a sum of D products may put a score off, in each sequence."""
    length = torch.linalg.vector_norm
    longest = length(problem.X, dim=-1).amax(-1)
    return problem.D * torch.finfo(u.dtype).eps * longest * length(u, dim=-1)[..., None]


def _largest(gamma: Float[Tensor, "*r N n"], within: Tensor | float) -> Int[Tensor, "*r N"]:
    """The token of the largest score; scores that are ``within`` so much of each other are equal."""
    _check_length(gamma.shape[-1])
    top = gamma.topk(2, -1)
    flat = _sequences(gamma.amax(-1) - gamma.amin(-1) <= within)
    if flat:
        raise error(
            ValueError,
            f"all tokens have the same score in {flat} sequences, so none is optimal: "
            "is the decoder u zero?",
            "give another u, or tokens that are no copies of one another",
        )
    tied = _sequences(top.values[..., 0] - top.values[..., 1] <= within)
    if tied:
        raise error(
            ValueError,
            f"two tokens share the largest score in {tied} sequences, so none is the optimal one",
            "change u, merge copies of a token, or name the tokens to select",
        )
    return top.indices[..., 0]


def _require_a_way_down(weights: NamedTuple, problem: Problem, train: str) -> None:
    """Raise where u stays and tells no two tokens of a sequence apart, so that no W changes the loss."""
    gamma = _scores(problem, weights.u)
    level = gamma.amax(-1) - gamma.amin(-1) <= _rounding(problem, weights.u)
    flat = int(level.all(-1).sum())
    if flat and "u" not in train:
        raise error(
            ValueError,
            f"all tokens of every sequence have the same score in {flat} runs, so that no attention "
            "changes the loss: is the decoder u zero?",
            "give another u, or train it as well",
        )


def _sequences(found: Tensor) -> int:
    """In how many sequences something was found, whatever the run."""
    return int(found.reshape(-1, found.shape[-1]).any(0).sum())


def log_excess(pass_: Forward, ell: str) -> Float[Tensor, "*r N"]:
    r"""Logarithm of :math:`\ell(f_i) - \ell(\gamma_{i,\mathrm{opt}})`, exact however small that is.

    :math:`\delta = \gamma_{opt} - f = \sum_t\varphi_t(\gamma_{opt} - \gamma_t)` is a sum of positive
    terms; :math:`\ell(\gamma_{opt} - \delta) - \ell(\gamma_{opt})` is a function of it that is
    almost linear near zero.
    """
    best = pass_.scores.amax(-1)
    log_delta = (pass_.log_attention + (best[..., None] - pass_.scores).log()).logsumexp(-1)
    delta = log_delta.exp()
    if ell == "logistic":
        rest, slope = torch.log1p(torch.sigmoid(-best) * torch.expm1(delta)), torch.sigmoid(-best)
    else:
        rest, slope = (-best).exp() * torch.expm1(delta), (-best).exp()
    seen = delta > LINEAR
    ratio = torch.where(seen, rest / torch.where(seen, delta, 1), slope)
    return log_delta + ratio.log()


def weighted_differences(
    pass_: Forward, log_weight: Float[Tensor, "*r N"]
) -> Float[Tensor, "*r N n"]:
    r"""The weight of sequence i times :math:`\partial f_i/\partial(X_iWz_i)`.

    That derivative is :math:`\varphi_t(\gamma_t - f)`. Scores are measured from that of the token a
    which has the most attention: with :math:`q_t = \varphi_t(\gamma_a - \gamma_t)` it is
    :math:`\varphi_t\sum_\tau q_\tau - q_t`, where nothing cancels, and the weight joins q as a
    logarithm, so that small attention and a large weight meet before either is lost.
    """
    a = pass_.log_attention.argmax(-1, keepdim=True)
    difference = pass_.scores.gather(-1, a) - pass_.scores
    weighted = (pass_.log_attention + log_weight[..., None]).exp() * difference
    q = torch.where(difference == 0, 0.0, weighted)  # infinity times zero is not meant
    return pass_.log_attention.exp() * q.sum(-1, keepdim=True) - q


def check_data(problem: Problem, query: int = 0) -> None:
    """Raise ValueError unless there is one label of size one a sequence, and something to select."""
    query = _validate.count("query", query, least=0)
    _check_labels(_validate.problem(problem))
    _check_length(problem.n)
    if query >= problem.n:
        raise error(
            ValueError,
            f"query must be below n = {problem.n}, got {query}",
            f"be below n = {problem.n}",
        )
    alike = int((problem.X == problem.X[..., :1, :]).all(-1).all(-1).sum())
    if alike:
        raise error(
            ValueError,
            f"all tokens are the same in {alike} sequences: there is nothing to select",
            "leave these sequences out",
        )
    silent = int((problem.X[..., query, :] == 0).all(-1).sum())
    if silent:
        raise error(
            ValueError,
            f"the query token (query={query}) is zero in {silent} sequences, "
            "where attention would be uniform whatever W is",
            "ask with another token",
        )


def _check_labels(problem: Problem) -> None:
    if problem.y.ndim != problem.X.ndim - 2:
        found = f"y has shape {tuple(problem.y.shape)}, one label a token"
        raise error(ValueError, found, f"expected one a sequence, {tuple(problem.X.shape[:-2])}")
    if not bool((problem.y.abs() == 1).all()):
        raise error(
            ValueError, "y must hold labels +1 and -1, one a sequence", "take the sign of yours"
        )


def _check_length(n: int) -> None:
    if n < 2:
        found = "each sequence has one token: there is nothing to select"
        raise error(ValueError, found, "give each two tokens or more")


def _log_softplus(x: Tensor) -> Tensor:
    """log(log(1 + e^x)): x itself, to rounding, where x is far below zero."""
    small = x < -37
    return torch.where(small, x, softplus(torch.where(small, 0.0, x)).log())
