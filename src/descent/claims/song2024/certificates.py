r"""The counterexamples of this part, in ball arithmetic.

For Theorems 1 and 2 one inequality settles every step size :math:`\eta` with
:math:`\eta\alpha < 1` and every :math:`t \ge 1`, for the labels at hand. Let
:math:`g = r_0^\top Gr_0/\|r_0\|^2`. By Jensen's inequality for the even power :math:`x^{2t}`,
:math:`f_t/f_0 = \|(I-\eta G)^tr_0\|^2/\|r_0\|^2 \ge (1-\eta g)^{2t}`, and :math:`(1-\eta g)^2 >
1-2\eta g \ge 1-\eta\alpha` if :math:`0 < 2g \le \alpha`. In Theorem 2 from :math:`W_V = 0` the
queries and keys do not move in the first step, and the same says it for t = 1.
"""

from functools import reduce
from operator import add

import torch
from flint import arb, arb_mat

from ...models import Attention, AttentionWeights
from ...problems import Problem
from .._certificate import Certain


def exact(A: torch.Tensor) -> arb_mat:
    """The float64 entries as they are, without an error."""
    return arb_mat(A.tolist())


def norm(A: arb_mat) -> arb:
    """Root of the sum of squares."""
    return sum((x * x for x in A.entries()), arb(0)).sqrt()


def eigenvalues(A: arb_mat) -> list[arb]:
    """Of a symmetric matrix without negative ones, in rising order, each enclosed."""
    # a ball that touches zero may say less, which a square root could not bear
    values = [x.real.max(arb(0)) for x in A.eig(multiple=True)]
    return sorted(values, key=lambda x: x.mid())


def largest(W: torch.Tensor) -> arb:
    """The largest singular value."""
    A = exact(W if W.shape[0] <= W.shape[1] else W.mT)
    return eigenvalues(A * A.transpose())[-1].sqrt()


class Start:
    """One run of softmax attention in balls: features by head, residual, the numbers of Theorem 1."""

    def __init__(self, layer: Attention, problem: Problem, weights: AttentionWeights):
        self.layer, self.problem, self.weights = layer, problem, weights
        heads = list(zip(*(list(W) for W in weights), strict=True))
        rows = [self._rows(X, heads) for X in problem.X]
        self.blocks = [arb_mat(sum((sequence[h] for sequence in rows), [])) for h in range(layer.H)]
        residual = arb_mat([[-arb(y)] for y in problem.y.flatten().tolist()])
        self.omega = []
        for B, (_, _, V, w) in zip(self.blocks, heads, strict=True):
            column = exact(w[:, None])
            residual, self.omega = residual + B * exact(V) * column, [*self.omega, norm(column)]
        self.residual = residual

    def _rows(self, X: torch.Tensor, heads: list) -> list[list[list[arb]]]:
        """The rows of S_h X for each head."""
        tokens, root = exact(X), arb(self.layer.d).sqrt()
        found = []
        for Q, K, *_ in heads:
            C = (tokens * exact(Q)) * (tokens * exact(K)).transpose()
            E = [[(c / root).exp() for c in row] for row in C.tolist()]
            S = arb_mat([[e / sum(row, arb(0)) for e in row] for row in E])
            found.append((S * tokens).tolist())
        return found

    @property
    def least(self) -> arb:
        r"""The smallest eigenvalue of :math:`B_0B_0^\top`."""
        return eigenvalues(reduce(add, (B * B.transpose() for B in self.blocks)))[0]

    @property
    def slope(self) -> arb:
        r""":math:`r_0^\top Gr_0/\|r_0\|^2`."""
        pulled = (norm(B.transpose() * self.residual) for B in self.blocks)
        squares = ((w * p) ** 2 for w, p in zip(self.omega, pulled, strict=True))
        return sum(squares, arb(0)) / norm(self.residual) ** 2

    @property
    def rate(self) -> arb:
        r"""The printed :math:`\|W_O\|^2\sigma_{\min}^2(B_0)`."""
        return sum((w * w for w in self.omega), arb(0)) * self.least

    def condition_8(self) -> arb:
        """The left side of condition (8)."""
        n, N, H, W = self.problem.n, self.problem.N, self.layer.H, self.weights
        q, k, v = ([largest(M) for M in heads] for heads in (W.Q, W.K, W.V))
        sigma = self.least.sqrt()
        least = reduce(arb.min, q + k, sigma)
        top = n**2 * arb(N * H).sqrt() * norm(exact(self.problem.tokens)) ** 5
        top *= sum((a * a for a in q + k), arb(0))
        top *= arb(2) * (1 + reduce(arb.max, v)) / 3 * norm(self.residual)
        output = sum((w * w for w in self.omega), arb(0)).sqrt()
        return top / (output * sigma**2 * least)


def too_flat(start: Start, name: str) -> list[Certain]:
    """Full rank, and the inequality that refutes the printed rate."""
    return [
        Certain("0 < σ_min²(B_0)", arb(0), start.least),
        Certain(f"2 r_0ᵀGr_0/‖r_0‖² < {name} = ‖W_O‖² σ_min²(B_0)", 2 * start.slope, start.rate),
    ]


def first_run(layer: Attention, problem: Problem, weights: AttentionWeights) -> Start:
    """The first of the runs."""
    X = problem.X if problem.X.ndim == 3 else problem.X[0]
    one = Problem(X, problem.y[0] if problem.y.ndim == 3 else problem.y)
    return Start(layer, one, AttentionWeights(*(W[0] for W in weights)))


def condition_12(layer: Attention, problem: Problem, weights: AttentionWeights) -> list[Certain]:
    """One token, one dimension, one head: every number of (12) can be written down."""
    x, y, q, k, v, w = (arb(A.item()) for A in (problem.X, problem.y, *weights))
    u, delta = x * v * w, abs(x * x * (k - q))
    residual = abs((-((x * q - x * k) ** 2) / 2).exp() * u - y)
    left = abs(x) ** 5 * (abs(q) + abs(k)) * (arb(9) / 4 * x**2 * (q**2 + k**2)).exp()
    left *= abs(v) * abs(w) * residual / (u**2 * delta.min(abs(q)))
    return [
        Certain("0 < δ", arb(0), delta),
        Certain("left side of (12) < 1/8", left, arb(1) / 8),
        Certain("0 < u, so that every output is positive", arb(0), u),
        Certain("y < 0, so that every loss exceeds y²/2", y, arb(0)),
    ]
