r"""One attention layer, as in Song et al. 2024, section 3: H heads, one real output per token.

.. math::
    \mathrm{MH}(X_i) = \sum_{h=1}^H S(X_i W_Q^h, X_i W_K^h)\, X_i W_V^h\, w_O^h \in \mathbb R^n,
    \qquad f = \tfrac12 \sum_i \|\mathrm{MH}(X_i) - y_i\|^2 .

The values enter only through the *read-out* :math:`u^h = X W_V^h w_O^h`, one number a token, since
the output weights are fixed: the closed forms below never build an ``n x d`` value matrix.
Introduced in :doc:`/song2024/values`; the gradients are derived in :doc:`/foundations/gradients`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import _memory, _validate, draws, kernels
from .._errors import error
from ..lanes import Read, Step, labels
from ..problems import Problem
from ..spectra import eigenvalues, top_hessian_eigenvalue
from . import _protocol
from ._attention_step import step as attention_step


class AttentionWeights(NamedTuple):
    """Weights of an attention layer; leading dimensions ``*r`` are runs trained side by side."""

    Q: Float[Tensor, "*r H D d"]
    K: Float[Tensor, "*r H D d"]
    V: Float[Tensor, "*r H D d"]
    O: Float[Tensor, "*r H d"]  # noqa: E741  the paper's W^O


#: Above this many products of a query's and a key's entries, in one sequence and head, matrix
#: products are faster than sums that are written out.
SMALL = 16384


class Forward(NamedTuple):
    """What one pass through the layer computes, kept for the way back."""

    Q: Float[Tensor, "*r H N n d"]
    K: Float[Tensor, "*r H N n d"]
    u: Float[Tensor, "*r H N n"]
    C: Float[Tensor, "*r H N n n"]
    S: Float[Tensor, "*r H N n n"]
    output: Float[Tensor, "*r N n"]


@dataclass(frozen=True)
class Attention:
    """Multi-head attention with a fixed output weight.

    Parameters
    ----------
    kernel : ``"softmax"``, ``"gaussian"``, a registered name or a `descent.kernels.Kernel`.
    H : number of heads.
    d : columns of each of W_Q, W_K, W_V.

    Raises
    ------
    ValueError : for an unknown kernel, or H or d below 1.

    Examples
    --------
    >>> from descent import models, problems
    >>> problem = problems.gaussian(N=2, n=2, D=8, seed=0)
    >>> layer = models.Attention(kernel="softmax", H=2, d=4)
    >>> weights = layer.init(problem, seed=1, runs=3)
    >>> loss, gradient = layer.loss_and_gradient(weights, problem, "QK")
    >>> loss.shape, gradient["Q"].shape
    (torch.Size([3]), torch.Size([3, 2, 8, 4]))
    """

    kernel: str | kernels.Kernel = "softmax"
    H: int = 1
    d: int = 8

    #: The matrices that gradient descent may move, in the order of `AttentionWeights`.
    trainable = "QKV"
    #: Of these, the ones whose rows live in token space (see `descent.span`): all of them.
    acts_on_tokens = "QKV"
    #: How many dimensions of each weight are its own: the others are runs.
    own = {"Q": 3, "K": 3, "V": 3, "O": 2}
    #: `descent._layout` knows this model's closed forms in its own order of memory.
    innermost = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", kernels.get(self.kernel))
        _validate.count("H", self.H)
        _validate.count("d", self.d)

    def init(
        self, problem: Problem, *, seed: int, runs: draws.Runs = None, scale: float = 1.0
    ) -> AttentionWeights:
        """Draw independent normal weights.

        W_Q, W_K, W_V have variance ``scale**2 / D``, so that queries, keys and values of standard
        normal tokens have entries of size ``scale`` (D is ``problem.ambient``: where the tokens are
        coordinates in their span, the dimension they come from); W_O has variance ``1 / (H d)``, so
        that the heads' sum stays of that size. ``runs`` adds a dimension of independent draws, as
        many as it says, or those whose numbers it lists; without it run 0 is drawn. More runs
        leave the first ones as they are (see `descent.draws`).
        """
        _validate.positive("scale", scale)

        def normal(W: str, *shape: int, std: float) -> Tensor:
            return (std * draws.normal(seed, f"W_{W}", shape, runs)).to(problem.X)

        inputs = (self.H, _validate.problem(problem).D, self.d)
        _memory.room("the weights of all runs", runs if isinstance(runs, int) else 1, *inputs)
        Q, K, V = (normal(W, *inputs, std=scale / problem.ambient**0.5) for W in "QKV")
        return AttentionWeights(Q, K, V, normal("O", self.H, self.d, std=(self.H * self.d) ** -0.5))

    def check(self, weights: AttentionWeights, problem: Problem) -> None:
        """Raise ValueError where a weight does not fit the tokens or is not finite."""
        _validate.problem(problem)
        if not isinstance(weights, AttentionWeights):
            found = f"weights must be AttentionWeights, got {_validate.shown(weights)}"
            raise error(TypeError, found, "draw some with layer.init(problem, seed=0)")
        if problem.y.ndim != problem.X.ndim - 1:
            found = "y holds one label a sequence, but this layer answers for each token"
            raise error(ValueError, found, "give y the shape (..., N, n)")
        for name in "QKV":
            W = getattr(weights, name)
            _validate.shape(
                f"W_{name}",
                W,
                (self.H, problem.D, self.d),
                f"the layer has H = {self.H}, d = {self.d} and the tokens D = {problem.D}",
            )
        _validate.shape("W_O", weights.O, (self.H, self.d))
        for name, W in zip(weights._fields, weights, strict=True):
            _validate.like(f"W_{name}", W, problem.X)
            _validate.finite(f"W_{name}", W, "initialise it again")
        _protocol.spread(self, weights, problem)

    def memory(self, problem: Problem) -> int:
        """Bytes a run that `loss_and_gradient` takes on its way.

        Queries, keys and their gradients, and six arrays like the attention matrix.
        """
        numbers = problem.N * problem.n * self.H * (4 * self.d + 6 * problem.n)
        return numbers * problem.X.element_size()

    # -- the layer ----------------------------------------------------------------------------

    def forward(self, weights: AttentionWeights, problem: Problem) -> Forward:
        """Queries, keys, read-outs, scores, attention matrices and the output of every run.

        Every public function of a layer comes through here, so all of them raise what `check` does.
        """
        weights = _validate.weights(weights)
        self.check(weights, problem)
        return self._forward(weights, problem)

    def _forward(self, weights: AttentionWeights, problem: Problem) -> Forward:
        """The same for what has been looked at: `descend` and a path do not look at every step."""

        def project(W: Tensor) -> Tensor:
            return (problem.tokens.unsqueeze(-3) @ W).unflatten(-2, (problem.N, problem.n))

        Q, K = project(weights.Q), project(weights.K)
        u = project(weights.V @ weights.O[..., None]).squeeze(-1)
        _memory.room("the attention matrices", *Q.shape[:-1], problem.n)
        C = self.kernel.scores(Q, K)
        S = self.kernel.value(C)
        return Forward(Q, K, u, C, S, (S @ u[..., None]).squeeze(-1).sum(-3))

    def attention(self, weights: AttentionWeights, problem: Problem) -> Float[Tensor, "*r H N n n"]:
        """The attention matrices alone."""
        return self.forward(weights, problem).S

    def predict(self, weights: AttentionWeights, problem: Problem) -> Float[Tensor, "*r N n"]:
        """The layer's output, one number per token."""
        return self.forward(weights, problem).output

    def loss(self, weights: AttentionWeights, problem: Problem) -> Float[Tensor, "*r"]:
        """Half the sum of squared residuals (Song et al. 2024, Eq. 6)."""
        return _half_square(self.predict(weights, problem) - problem.y)

    def _predict(self, weights: AttentionWeights, problem: Problem) -> Float[Tensor, "*r N n"]:
        return self._forward(weights, problem).output

    def loss_and_gradient(
        self, weights: AttentionWeights, problem: Problem, train: str = "QKV"
    ) -> tuple[Float[Tensor, "*r"], dict[str, Tensor]]:
        """The loss and its gradients in closed form (Song et al. 2024, Lemmas 1 and 6).

        Returns the loss (...,) and a dict with one gradient (..., H, D, d) per letter of ``train``.
        """
        _validate.letters("train", train, self.trainable)
        return self._pull_back(self.forward(weights, problem), weights, problem, train)

    def _pull_back(
        self, pass_: Forward, weights: AttentionWeights, problem: Problem, train: str
    ) -> tuple[Float[Tensor, "*r"], dict[str, Tensor]]:
        residual = pass_.output - problem.y
        pulled = {}
        if "V" in train:
            # df/du = S^T r, and u = X W_V w_O
            pulled["V"] = (pass_.S.mT @ residual[..., None, :, :, None]) * weights.O[
                ..., None, None, :
            ]
        if "Q" in train or "K" in train:
            # df/dS = r u^T: the output is linear in S
            dS = residual[..., None, :, :, None] * pass_.u[..., None, :]
            dC = self.kernel.pullback(pass_.C, pass_.S, dS)
            pulled["Q"], pulled["K"] = self.kernel.scores_pullback(pass_.Q, pass_.K, dC)
        X = problem.tokens.mT.unsqueeze(-3)
        return _half_square(residual), {W: X @ pulled[W].flatten(-3, -2) for W in train}

    # -- training the values alone is least squares --------------------------------------------

    def features(self, weights: AttentionWeights, problem: Problem) -> Float[Tensor, "*r H m D"]:
        r"""The blocks :math:`B_h = (S_{ih} X_i)_i` of Song et al. 2024, Eq. (5)."""
        B = self.forward(weights, problem).S @ problem.X.unsqueeze(-4)
        return B.flatten(-3, -2)

    def gram(self, weights: AttentionWeights, problem: Problem) -> Float[Tensor, "*r m m"]:
        r""":math:`G = \sum_h \|w_O^h\|^2 B_h B_h^\top`, the matrix that drives the residual.

        With W_V trained alone ``r_{t+1} = (I - eta G) r_t`` exactly; G is the tangent kernel.
        """
        B = (
            self.features(weights, problem)
            * torch.linalg.vector_norm(weights.O, dim=-1)[..., None, None]
        )
        return (B @ B.mT).sum(-3)

    # -- derivatives of the output and of the attention matrix ---------------------------------

    def jacobian(
        self, weights: AttentionWeights, problem: Problem, train: str = "QKV"
    ) -> dict[str, Float[Tensor, "*r m H D d"]]:
        """Derivative of every output with respect to every entry of the matrices in ``train``.

        Returns a dict with one array (..., m, H, D, d) per letter, ``m = N n`` outputs.
        Introduced in :doc:`/foundations/rank`.
        """
        _validate.letters("train", train, self.trainable)
        pass_ = self.forward(weights, problem)
        jacobians = {}
        if "V" in train:
            # output k of sequence i moves with row k of B_h, times w_O
            B = self.features(weights, problem)
            jacobians["V"] = B[..., None] * weights.O[..., None, None, :]
        if "Q" in train or "K" in train:
            # output k is row k of S times u: its cotangent of S is e_k u^T
            k = torch.eye(problem.n).to(problem.X)
            cotangents = k[:, :, None] * pass_.u[..., None, None, :]
            jacobians |= self._through_scores(pass_, problem, cotangents)
        return {W: jacobians[W].movedim(-4, -3) for W in train}

    def attention_jacobian(
        self, weights: AttentionWeights, problem: Problem
    ) -> Float[Tensor, "*r H Nnn Dd"]:
        """Derivative of all N n^2 entries of each head's S with respect to its own W_Q.

        Introduced in :doc:`/foundations/rank`.
        """
        pass_ = self.forward(weights, problem)
        entries = torch.eye(problem.n**2).to(problem.X).unflatten(-1, (problem.n, problem.n))
        cotangents = entries.expand(*pass_.S.shape[:-2], *entries.shape)
        return self._through_scores(pass_, problem, cotangents)["Q"].flatten(-2)

    def _through_scores(
        self, pass_: Forward, problem: Problem, dS: Float[Tensor, "*r H N p n n"]
    ) -> dict[str, Float[Tensor, "*r H Np D d"]]:
        """Gradients for W_Q and W_K of p functions of each sequence, given their dS."""
        Q, K, C, S = (A.unsqueeze(-3) for A in (pass_.Q, pass_.K, pass_.C, pass_.S))
        dC = self.kernel.pullback(C.expand_as(dS), S.expand_as(dS), dS)
        X = problem.X[..., None, :, None, :, :].mT
        pulled = zip("QK", self.kernel.scores_pullback(Q, K, dC), strict=True)
        return {W: (X @ grad).flatten(-4, -3) for W, grad in pulled}

    def ntk(
        self, weights: AttentionWeights, problem: Problem, train: str = "QKV"
    ) -> Float[Tensor, "*r m m"]:
        r"""The tangent kernel :math:`\Theta = J J^\top` of the outputs, J over ``train`` alone.

        Gradient flow moves the residual by :math:`\dot r = -\Theta r`. For ``train="V"`` it is
        `gram`. Introduced in :doc:`/foundations/rank`.
        """
        flat = [J.flatten(-3) for J in self.jacobian(weights, problem, train).values()]
        return sum(J @ J.mT for J in flat)

    # -- what gradient descent asks for ---------------------------------------------------------

    def objective(
        self, weights: AttentionWeights, problem: Problem, train: str
    ) -> Callable[[dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]:
        """What `descend` calls at every step: trained matrices to loss and gradients.

        Whatever the frozen weights fix is computed once, here. With W_V trained alone that is the
        whole attention matrix, and a step is two products with the features B.
        """
        weights = _validate.weights(weights)
        _validate.letters("train", train, self.trainable)
        if train != "V":
            self.check(weights, problem)

            def objective(moving: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
                here = weights._replace(**moving)
                return self._pull_back(self._forward(here, problem), here, problem, train)

            return objective
        return least_squares(self.features(weights, problem), weights.O, problem.y.flatten(-2))

    def on_lanes(self, weights: AttentionWeights, problem: Problem, train: str) -> Step | None:
        """The step for `descent.lanes`; None for a kernel of one's own, and for large matrices."""
        normalises = {kernels.softmax: True, kernels.gaussian: False}
        if self.kernel not in normalises or problem.n**2 * self.d > SMALL:
            return None
        X, H, d, N, n = problem.tokens, self.H, self.d, problem.N, problem.n
        kept = 1 if set(train) & set("QK") else N  # attention matrices that never change
        return Step(
            attention_step,
            {
                "Q": self._read_scores(X, weights.Q),
                "K": self._read_scores(X, weights.K),
                "V": Read(
                    through=X,
                    columns=(weights.V @ weights.O[..., None]).squeeze(-1),
                    square=weights.O.square().sum(-1),
                    write=lambda c: c[..., None] * weights.O[..., None, :],
                ),
            },
            data=(labels(problem), N, n, H, d, normalises[self.kernel]),
            scratch=((kept, H, n, n), (n, n), (n,)),
            work=N * n * n * H * (3 * d + 20),
        )

    def _read_scores(self, X: Tensor, W: Float[Tensor, "r H D d"]) -> Read:
        """Queries or keys over d^(1/4), so that their products are the scores."""
        shrink = self.d**-0.25
        return Read(
            through=X,
            columns=(W * shrink).mT.flatten(1, 2),
            square=W.new_full((len(W), self.H * self.d), shrink**2),
            write=lambda c: (c * shrink).unflatten(1, (self.H, self.d)).mT,
        )

    def smoothness(
        self, weights: AttentionWeights, problem: Problem, train: str
    ) -> Float[Tensor, "*r"]:
        """The loss's curvature L for the step 1/L: NaN where it is no finite number.

        Exact and global for W_V alone (the largest eigenvalue of `gram`); otherwise the largest
        absolute eigenvalue of the Hessian at ``weights``, which holds only nearby.
        """
        weights = _validate.weights(weights)
        self.check(weights, problem)
        _validate.letters("train", train, self.trainable)
        if train == "V":
            return eigenvalues(self.gram(weights, problem))[..., -1]
        weights = _protocol.spread(self, weights, problem)
        objective = self.objective(weights, problem, train)
        point = {W: getattr(weights, W) for W in train}
        return top_hessian_eigenvalue(objective, point, weights.O.ndim - 2)


def least_squares(
    B: Float[Tensor, "*r H m D"],
    O: Float[Tensor, "*r H d"],
    y: Float[Tensor, "*r m"],  # noqa: E741
) -> Callable[[dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]:
    r"""The objective in W_V of fixed features: :math:`\tfrac12\|\sum_h B_h W_V^h w_O^h - y\|^2`."""

    def objective(moving: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        readout = moving["V"] @ O[..., None]
        residual = (B @ readout).sum(-3).squeeze(-1) - y
        gradient = (B.mT @ residual[..., None, :, None]) * O[..., None, :]
        return residual.square().sum(-1) / 2, {"V": gradient}

    return objective


def _half_square(residual: Float[Tensor, "*r N n"]) -> Float[Tensor, "*r"]:
    return residual.square().sum((-2, -1)) / 2
