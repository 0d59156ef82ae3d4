r"""The conditions of Theorem 2 of Song et al. 2024, term by term, for an instance in hand.

Introduced in :doc:`/song2024/joint`.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ... import kernels, spectra
from ..._errors import error
from ...models import Attention, AttentionWeights
from ...problems import Problem

#: What the paper's proof of Theorem 2 asks its condition (8) to stay below.
NU = 1 / 54


class Terms(NamedTuple):
    """The numbers that the conditions are made of, at a start; ``*r`` are runs."""

    X: Float[Tensor, ""]  #: largest singular value of all tokens stacked
    X_F: Float[Tensor, ""]  #: their Frobenius norm
    sigma: Float[Tensor, "*r"]  #: sigma_min(B_0)
    q: Float[Tensor, "*r H"]  #: largest singular value of each W_Q
    k: Float[Tensor, "*r H"]  #: of each W_K
    v: Float[Tensor, "*r"]  #: of the block diagonal matrix of all W_V
    o: Float[Tensor, "*r"]  #: norm of W_O
    residual: Float[Tensor, "*r"]  #: norm of the first residual


def terms(layer: Attention, problem: Problem, weights: AttentionWeights) -> Terms:
    """Compute them."""

    def top(W: Tensor) -> Tensor:
        return torch.linalg.matrix_norm(W, 2)

    return Terms(
        X=top(problem.tokens),
        X_F=torch.linalg.matrix_norm(problem.tokens),
        sigma=spectra.sigma_min(spectra.beside(layer.features(weights, problem))),
        q=top(weights.Q),
        k=top(weights.K),
        v=top(weights.V).amax(-1),
        o=torch.linalg.vector_norm(weights.O, dim=(-2, -1)),
        residual=(2 * layer.loss(weights, problem)).sqrt(),
    )


def condition_8(
    layer: Attention, problem: Problem, weights: AttentionWeights, power: int = 5
) -> Float[Tensor, "*r"]:
    r"""The left side of condition (8); Theorem 2 of the paper asks that it be at most `NU`.

    :math:`\bar\lambda^V = \frac23(1 + \sigma_{\max}(W_V))` as in the paper's proof. ``power`` is
    that of the Frobenius norm: 5 in the text, 6 in the appendix.
    """
    at = terms(layer, problem, weights)
    least = torch.minimum(torch.minimum(at.q, at.k).amin(-1), at.sigma)
    shape = problem.n**2 * math.sqrt(problem.N * layer.H) * at.X_F**power
    scores = (at.q.square() + at.k.square()).sum(-1)
    return shape * scores * (2 / 3 * (1 + at.v)) * at.residual / (at.o * at.sigma**2 * least)


def smallness(layer: Attention, problem: Problem, weights: AttentionWeights) -> Float[Tensor, "*r"]:
    r"""Left over right side of the book's own condition for one head; it asks for at most 1.

    The theorem "Training everything" of :doc:`/song2024/joint` proves that this is enough.
    """
    if layer.H != 1 or layer.kernel not in (kernels.softmax, kernels.gaussian):
        found = f"smallness is proved for less than H = {layer.H} and {layer.kernel.name}"
        raise error(ValueError, found, "take one head and the kernel softmax or gaussian")
    at, d = terms(layer, problem, weights), layer.d
    if layer.kernel == kernels.softmax:
        norm, factor = problem.n**0.5, 9 * at.X**6 * (at.q**2 + at.k**2).sum(-1) / d
    else:
        norm, factor = problem.n, 32 * problem.n * at.X**4 / (math.e * d**0.5)
    v = at.v + 8 * norm * at.X * at.residual / (at.o * at.sigma**2)
    return factor * v * at.residual / (at.o * at.sigma**3)
