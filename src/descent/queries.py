r"""Training the queries alone: what their gradient can reach, and what no gradient can.

With :math:`W_K, W_V, W_O` fixed every token has a *read-out* :math:`u_{ij} = x_{ij} W_V w_O`, a
number, and the layer's output is :math:`o_{ik} = \sum_j S_{kj} u_{ij}`. All that the queries do is
to choose S. Introduced in :doc:`/song2024/queries`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from . import _memory, _validate, draws, kernels, spectra
from ._errors import error
from .models import Attention, AttentionWeights
from .problems import Problem


def scores_jacobian(
    layer: Attention, weights: AttentionWeights, problem: Problem
) -> Float[Tensor, "*r H Nnn Dd"]:
    r"""Derivative of all N n^2 scores C of each head with respect to its own W_Q.

    The row of (i, k, j) is :math:`x_{ik} \otimes k_{ij} / \sqrt d` for a dot product, and
    :math:`x_{ik} \otimes (k_{ij} - q_{ik}) / \sqrt d` for a distance.

    Raises
    ------
    ValueError, TypeError : for weights that do not suit the layer or the problem.
    """
    pass_ = _validate.model(layer, "forward").forward(weights, problem)
    moved = pass_.K.unsqueeze(-3)  # (*r, H, N, 1, n keys, d)
    if layer.kernel.score == "distance":
        moved = moved - pass_.Q.unsqueeze(-2)
    x = problem.X.unsqueeze(-4)[..., None, :, None]  # (..., 1, N, n queries, 1, D, 1)
    rows = x * moved.unsqueeze(-2) / layer.d**0.5
    return rows.flatten(-2).flatten(-4, -2)


class PL(NamedTuple):
    r"""Constants of :math:`\|\nabla_{W_Q} f\|^2 \ge 2\mu f` for Gaussian attention, weakest first.

    mu : :math:`n \sum_h \delta_h^2 \kappa_h^2 \min|u^h|^2`, in the paper's symbols.
    rows : :math:`\sum_h \delta_h^2 \min_{ik} \|S_k \circ u_i\|^2`, before kappa and u are split.
    tangent : smallest eigenvalue of :math:`JJ^\top`, J the derivative of the outputs: the best.
    delta : :math:`\delta_h` of each head, the smallest singular value of `scores_jacobian`.
    """

    mu: Float[Tensor, "*r"]
    rows: Float[Tensor, "*r"]
    tangent: Float[Tensor, "*r"]
    delta: Float[Tensor, "*r H"]


def pl(layer: Attention, weights: AttentionWeights, problem: Problem) -> PL:
    """The three constants at ``weights``, (*r) each.

    Raises
    ------
    ValueError, TypeError : unless the kernel is the Gaussian, and layer, weights and problem fit.
    """
    kernels.require(_validate.model(layer, "kernel").kernel, kernels.gaussian)
    pass_, jacobian = layer.forward(weights, problem), scores_jacobian(layer, weights, problem)
    delta = spectra.sigma_min(jacobian)
    read = pass_.S * pass_.u.unsqueeze(-2)  # (*r, H, N, n, n): the S_kj u_j of each output
    kappa, least = pass_.S.amin((-3, -2, -1)), pass_.u.abs().amin((-2, -1))
    shortest = read.square().sum(-1).amin((-2, -1))
    J = (read.flatten(-3)[..., None] * jacobian).unflatten(-2, (-1, problem.n)).sum(-2)
    theta = torch.linalg.eigvalsh((J @ J.mT).sum(-3))[..., 0]
    return PL(
        problem.n * (delta * kappa * least).square().sum(-1),
        (delta.square() * shortest).sum(-1),
        theta,
        delta,
    )


def interval(
    layer: Attention, weights: AttentionWeights, problem: Problem
) -> tuple[Float[Tensor, "*r N 1"], Float[Tensor, "*r N 1"]]:
    r"""Lowest and highest output that any queries and keys allow, for these read-outs u.

    Softmax outputs are averages: :math:`[\min_j u_{ij}, \max_j u_{ij}]`. Gaussian entries lie in
    (0, 1]: :math:`[\sum_j \min(u_{ij}, 0), \sum_j \max(u_{ij}, 0)]`. Heads add up.

    Raises
    ------
    ValueError : for any other kernel.
    """
    u = _validate.model(layer, "kernel", "forward").forward(weights, problem).u
    if kernels.require(layer.kernel, kernels.softmax, kernels.gaussian) == kernels.softmax:
        low, high = u.amin(-1), u.amax(-1)
    else:
        low, high = u.clamp_max(0).sum(-1), u.clamp_min(0).sum(-1)
    return low.sum(-2)[..., None], high.sum(-2)[..., None]


def floor(layer: Attention, weights: AttentionWeights, problem: Problem) -> Float[Tensor, "*r"]:
    """The loss below which no queries and no keys can bring it, from `interval`.

    Examples
    --------
    >>> from descent import queries, models, problems
    >>> problem = problems.gaussian(N=2, n=2, D=8, seed=0)
    >>> layer = models.Attention(kernel="softmax", H=2, d=4)
    >>> weights = layer.init(problem, seed=1, runs=3)
    >>> bool((queries.floor(layer, weights, problem) >= 0).all())
    True
    """
    low, high = interval(layer, weights, problem)
    outside = (low - problem.y).clamp_min(0) + (problem.y - high).clamp_min(0)
    return outside.square().sum((-2, -1)) / 2


def softmax_smoothness(
    layer: Attention, weights: AttentionWeights, problem: Problem
) -> Float[Tensor, "*r"]:
    r"""A curvature bound for W_Q that holds at *every* W_Q, so that 1/L is always a safe step.

    With :math:`\rho_{ih}` the range of the read-outs and :math:`\bar r_{ik}` the largest residual
    that the hull allows,
    :math:`L = \frac1d \sum_i \max_k(\sum_h \rho_{ih}^2/4 + \frac54 \max_h \rho_{ih}\bar r_{ik})
    \|X_i\|^2 \max_h \|K_{ih}\|^2`.

    Raises
    ------
    ValueError, TypeError : unless the kernel is softmax, and layer and problem fit.
    """
    kernels.require(_validate.model(layer, "kernel").kernel, kernels.softmax)
    low, high = interval(layer, weights, problem)
    pass_ = layer.forward(weights, problem)
    rho = pass_.u.amax(-1) - pass_.u.amin(-1)  # (*r, H, N)
    furthest = torch.maximum(high - problem.y, problem.y - low).amax(-1)
    curved = rho.square().sum(-2) / 4 + 1.25 * rho.amax(-2) * furthest
    keys = torch.linalg.matrix_norm(pass_.K, 2).square().amax(-2)
    tokens = torch.linalg.matrix_norm(problem.X, 2).square()
    return (curved * tokens * keys).sum(-1) / layer.d


def two_by_two(
    layer: Attention, *, u: tuple[float, float], y: tuple[float, float], runs: int, seed: int
) -> tuple[Problem, AttentionWeights]:
    """The example of Song et al. 2024, section 4.2.2, with read-outs ``u`` and labels ``y``.

    One sequence of two tokens, X = I, one head, d = 2, w_O = (1, 1); W_V = ((2, 1), (1, 2)) where
    u = (3, 3) as in the paper (its a, which cancels, is 1). W_Q and W_K are drawn.

    Raises
    ------
    ValueError, TypeError : unless the layer has one head with d = 2, and what is given are pairs.
    """
    _validate.model(layer, "kernel", "H", "d")
    if (layer.H, layer.d) != (1, 2):
        found = f"the example is of one head with d = 2, got H = {layer.H} and d = {layer.d}"
        raise error(ValueError, found, "make it with Attention(kernel, H=1, d=2)")
    u, y = (
        _validate.finite(k, _pair(k, v), "give two numbers").tolist()
        for k, v in zip("uy", (u, y), strict=True)
    )
    runs = _validate.count("runs", runs)
    eye = torch.eye(2, dtype=torch.float64)
    problem = Problem(eye[None], torch.tensor([y], dtype=torch.float64))
    V = torch.tensor([[u[0] - 1, 1], [1, u[1] - 1]], dtype=torch.float64)
    weights = layer.init(problem, runs=runs, seed=seed)
    return problem, weights._replace(
        V=V.repeat(runs, 1, 1, 1), O=torch.ones(runs, 1, 2, dtype=torch.float64)
    )


def _pair(name: str, values: tuple[float, float]) -> Tensor:
    values = _validate.tensor(name, values)
    if values.shape != (2,):
        found = f"{name} must be two numbers, got shape {tuple(values.shape)}"
        raise error(ValueError, found, "two numbers")
    return values


def random_instances(
    layer: Attention,
    shape: tuple[int, int, int],
    noise: Float[Tensor, "levels"],
    *,
    count: int,
    seed: int,
) -> tuple[Problem, AttentionWeights]:
    """``count`` problems of ``shape`` (N, n, D), weights for each, and labels near their outputs.

    The labels (levels, count, N, n) are the layer's own first outputs plus ``noise`` times one
    standard normal draw: how far there is to go is the only thing that a level changes.

    Raises
    ------
    ValueError, TypeError : for a size or a seed that is no whole number in its range.
    """
    _validate.model(layer, "kernel", "H", "d")
    shape = _validate.several("shape", shape, 3)
    shape = tuple(_validate.count(name, size) for name, size in zip("NnD", shape, strict=True))
    noise = _validate.finite("noise", _validate.tensor("noise", noise), "give finite levels")
    if noise.ndim != 1:
        found = f"noise must be a line of levels, got shape {tuple(noise.shape)}"
        raise error(ValueError, found, "give a list of numbers")
    count = _validate.count("count", count)
    _memory.room("all tokens", len(noise), count, *shape)
    X = draws.normal(seed, "X", shape, runs=count)
    off = draws.normal(seed, "y", shape[:2], runs=count)
    weights = layer.init(Problem(X, off), runs=count, seed=seed)
    levels = len(noise)
    y = layer.predict(weights, Problem(X, off)) + noise.to(X)[:, None, None, None] * off
    repeated = (W.repeat(levels, *[1] * W.ndim) for W in weights)
    return Problem(X.repeat(levels, 1, 1, 1, 1), y), AttentionWeights(*repeated)
