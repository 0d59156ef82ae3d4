"""Claims of the chapter on attention as a kernel."""

import torch
from torch import Tensor

from ... import draws, kernels, problems, spectra, theorems
from ..._descend import descend
from ...models import Attention, AttentionWeights
from ...problems import Problem
from ...theorems import Standing
from .._record import Evidence, Verdict, claim

PAGE = "foundations/kernels"


def alone(Q: Tensor, K: Tensor) -> tuple[Attention, Problem, AttentionWeights]:
    """Layers of one head whose queries and keys are these (runs, n, d): the tokens are unit vectors."""
    runs, n, d = Q.shape
    problem = Problem(torch.eye(n, dtype=Q.dtype)[None], torch.zeros(1, n, dtype=Q.dtype))
    V, O = torch.zeros(runs, 1, n, d, dtype=Q.dtype), torch.ones(runs, 1, d, dtype=Q.dtype)  # noqa: E741
    return Attention(d=d), problem, AttentionWeights(Q[:, None], K[:, None], V, O)


@claim(
    "kernel-factorisation",
    theorem="kernel-factorisation",
    paper="Descent",
    number="Proposition",
    statement=r"Softmax and Gaussian attention differ by positive diagonal factors, "
    r"$S^{\mathrm{soft}} = D_1 S^{\mathrm{gauss}} D_2$, so they always have the same rank.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={"the paper's Eq. (11), without the factor 2": {"width": 1.0}},
)
def kernel_factorisation(width: float = 2.0) -> Evidence:
    """Compare softmax with the rescaled Gaussian on 200 random pairs of queries and keys.

    In every second pair two keys coincide, so that a rank below n is among what is compared.
    """
    Q, K = draws.normal(0, "QK", (2, 200, 5, 3))
    K[::2, 1] = K[::2, 0]
    outcome = theorems.foundations.factorisation(*alone(Q, K)).against()
    gauss = kernels.gaussian.attention(Q, K) ** (2 / width)
    columns = gauss * torch.exp(K.square().sum(-1) / (2 * 3**0.5))[..., None, :]
    error = kernels.softmax.attention(Q, K) - columns / columns.sum(-1, keepdim=True)
    return Evidence.of(
        [outcome],
        conclusions={"so it is written out": float(error.abs().max()) < 1e-13},
        largest_error=float(error.abs().max()),
        smallest_rank=float(outcome.report.constants["ranks of the S_i, summed"].min()),
    )


@claim(
    "equal-rank",
    theorem="equal-rank",
    paper="Descent",
    number="Corollary",
    statement=r"One head, all $Nn$ tokens linearly independent: $\operatorname{rank} B_0 = "
    r"\sum_i \operatorname{rank} S_i$ for softmax and Gaussian attention alike, singular $S_i$ "
    r"included. With dependent tokens the two ranks can differ.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={"tokens that sum to zero": {"independent": False}},
)
def equal_rank(independent: bool = True) -> Evidence:
    """Random layers, and layers whose keys coincide in the first sequence, 32 each."""
    problem = problems.gaussian(N=4, n=3, D=14, seed=0)
    if not independent:
        X = torch.tensor([[[2.0], [-1.5], [-1.0], [0.5]]], dtype=torch.float64)
        problem = Problem(X, torch.zeros(1, 4, dtype=torch.float64))
    outcomes = []
    for kernel in ("softmax", "gaussian"):
        layer = Attention(kernel, d=6)
        weights = layer.init(problem, runs=32, seed=1)
        if not independent:
            weights = weights._replace(Q=0 * weights.Q)  # every row of S alike
        for K in (weights.K, merge_keys(problem, weights.K)):
            report = theorems.foundations.equal_rank(layer, problem, weights._replace(K=K))
            outcomes.append(report.against())
    ranks = torch.stack([outcome.report["rank B_0"] for outcome in outcomes])
    return Evidence.of(outcomes, largest_rank=float(ranks.max()), smallest_rank=float(ranks.min()))


def merge_keys(problem: Problem, K: Tensor) -> Tensor:
    """W_K (..., H, D, d) changed so that the first sequence's first two tokens have one key."""
    difference = problem.X[0, 0] - problem.X[0, 1]
    unit = difference / difference.norm()
    return K - unit[:, None] * (unit @ K).unsqueeze(-2)


@claim(
    "gaussian-gram",
    theorem="gaussian-gram",
    paper="Descent",
    number="Proposition",
    statement=r"If $W_Q = W_K$ and the projected tokens of a sequence are distinct, its Gaussian "
    r"attention matrix is symmetric positive definite, and its softmax attention invertible.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={
        "two projected tokens coincide": {"distinct": False},
        "keys of their own": {"tied": False},
    },
)
def gaussian_gram(distinct: bool = True, tied: bool = True) -> Evidence:
    """256 sequences of five tokens in three dimensions."""
    Q, K = 2 * draws.normal(0, "QK", (2, 256, 5, 3))
    K = Q if tied else K
    if not distinct:
        Q[:, 1] = Q[:, 0]
    outcome = theorems.foundations.tied(*alone(Q, K)).against()
    least = float(outcome.report["λ_min(S_gauss)"].min())
    full = bool((spectra.rank(kernels.softmax.attention(Q, K)) == 5).all())
    # eigenvalues are known to about 1e-15, and the closest pair of 2560 is not that close
    return Evidence.of(
        [outcome],
        conclusions={"positive definite": least > 1e-12, "softmax attention is invertible": full},
        smallest_eigenvalue=least,
    )


def interval(kernel: str, u: Tensor, width: float = 1.0) -> tuple[Tensor, Tensor]:
    """Ends (..., N, 1) of the outputs that read-outs u (..., N, n) allow, ``width`` of it."""
    low, high = u.amin(-1, keepdim=True), u.amax(-1, keepdim=True)
    if kernel == "gaussian":
        low, high = u.clamp_max(0).sum(-1, keepdim=True), u.clamp_min(0).sum(-1, keepdim=True)
    margin = (1 - width) * (high - low) / 2
    return low + margin, high - margin


def floor(kernel: str, u: Tensor, y: Tensor, width: float = 1.0) -> Tensor:
    """Half the squared distance of the labels (..., N, n) from that interval."""
    return (y - y.clamp(*interval(kernel, u, width))).square().sum((-2, -1)) / 2


def attaining(kernel: str, problem: Problem, weights: AttentionWeights) -> AttentionWeights:
    """Queries and keys of one column that bring each output to the nearest point of its interval.

    Keys sit at two ends, +1 and -1 by read-out; moving a query from one end to the other moves its
    output through the whole interval, and bisection stops it where its label is.
    """
    layer = Attention(kernel, d=weights.Q.shape[-1])
    u = layer.forward(weights, problem).u.squeeze(-3)
    keys = 12 * torch.sign(u)
    if kernel == "softmax":
        high, low = u == u.amax(-1, keepdim=True), u == u.amin(-1, keepdim=True)
        keys = high.to(u) - low.to(u)
    left, right = torch.full_like(u, -40.0), torch.full_like(u, 40.0)
    if kernel == "gaussian":
        left, right = left * 0.3, right * 0.3

    for _ in range(100):
        middle = (left + right) / 2
        S = layer.kernel.attention(middle[..., None], keys[..., None])
        below = (S @ u[..., None]).squeeze(-1) < problem.y
        left, right = torch.where(below, middle, left), torch.where(below, right, middle)
    back = torch.linalg.pinv(problem.tokens)
    W_Q, W_K = ((back @ x.flatten(-2)[..., None]).unsqueeze(-3) for x in (left, keys))
    return weights._replace(Q=W_Q, K=W_K)


#: Twice the Gaussian: a kernel with entries above one, for which its bound does not hold.
DOUBLE = kernels.Kernel("double", "distance", lambda C: 2 * torch.exp(C), lambda C, S, dS: S * dS)


def reach(kernel: str, use: str | kernels.Kernel, width: float) -> Evidence:
    """Floor of ``kernel``'s interval against 64 trained layers with kernel ``use``, and the best weights."""
    problem = problems.gaussian(N=3, n=3, D=9, seed=0)
    problem = Problem(problem.X, 2 * problem.y)
    layer = Attention(use, d=1)
    weights = layer.init(problem, runs=64, seed=1)
    u = layer.forward(weights, problem).u.squeeze(-3)
    bound = floor(kernel, u, problem.y, width)
    run = descend(layer, problem, weights, train="QK", step=0.02, steps=1500)
    below = float((run.loss.amin(0) - bound).min())
    best = layer.loss(attaining(kernel, problem, weights), problem)
    error = float((best - bound).abs().max())
    return Evidence(
        conclusions={
            "no run goes below the floor": below > -1e-9,
            "some weights attain it": error < 1e-6,
        },
        hypotheses={"the floor is not zero": float(bound.min()) > 1e-3},
        numbers={
            "least_loss_minus_floor": below,
            "largest_error_of_attained_floor": error,
            "smallest_floor": float(bound.min()),
            "median_floor": float(bound.median()),
            "runs": 64,
        },
    )


@claim(
    "softmax-hull",
    title="The hull of softmax outputs",
    box="thm-hull",
    standing=Standing.PROVED,
    paper="Descent",
    number="Theorem",
    statement=r"One softmax head with $W_V, W_O$ fixed and read-outs $u_i = X_iW_VW_O$: whatever $W_Q$ "
    r"and $W_K$, $f \ge \frac12\sum_{i,k}\operatorname{dist}(y_{ik}, [\min_j u_{ij}, \max_j u_{ij}])^2$, "
    r"and for independent tokens this is the infimum.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={
        "Gaussian attention": {"use": "gaussian"},
        "a hull five per cent narrower": {"width": 0.95},
    },
)
def softmax_hull(use: str = "softmax", width: float = 1.0) -> Evidence:
    """64 layers of one head, queries and keys trained, and the weights that the proof constructs."""
    return reach("softmax", use, width)


@claim(
    "gaussian-bound",
    title="The interval of Gaussian outputs",
    box="thm-gaussian-bound",
    standing=Standing.PROVED,
    paper="Descent",
    number="Theorem",
    statement=r"The same for a Gaussian head with the interval $[\sum_j\min(u_{ij},0), "
    r"\sum_j\max(u_{ij},0)]$, which contains the hull: its rows do not sum to one, but "
    r"$0 < S \le 1$.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={
        "a kernel whose entries exceed one": {"use": "double"},
        "an interval five per cent narrower": {"width": 0.95},
    },
)
def gaussian_bound(use: str = "gaussian", width: float = 1.0) -> Evidence:
    """64 layers of one head, queries and keys trained, and the weights that the proof constructs."""
    return reach("gaussian", DOUBLE if use == "double" else use, width)


@claim(
    "softmax-saturation",
    theorem="softmax-saturation",
    paper="Descent",
    number="Proposition",
    statement=r"The derivative of a softmax row $s$ with respect to its scores has norm at most "
    r"$2(1-\max_j s_j) \le 2(n-1)e^{-\delta}$, $\delta$ the gap between the two largest scores.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={"the factor 1.9 for 2": {"factor": 1.9}, "three for n - 1": {"others": 3}},
)
def softmax_saturation(factor: float = 2.0, others: int = 4) -> Evidence:
    """4000 rows of five scores, of sizes from 0.1 to 10, and two, nearly decided, that attain the bounds."""
    sizes = torch.logspace(-1, 1, 4000, dtype=torch.float64)[:, None]
    C = sizes * draws.normal(0, "C", (4000, 5))
    two, five = [8.0, 0.0, -40.0, -40.0, -40.0], [8.0, 0.0, 0.0, 0.0, 0.0]
    C = torch.cat([C, C.new_tensor([two, five])])
    # one query that picks the scores of each run, the other four see nothing
    Q, K = torch.zeros(2, len(C), 5, 1, dtype=C.dtype)
    Q[:, 0], K[..., 0] = 1, C
    outcome = theorems.foundations.saturation(*alone(Q, K)).against()
    s, top = torch.softmax(C, -1), C.topk(2).values
    rest = 1 - s.amax(-1)
    known = rest > 1e-9  # both are known to 1e-16, so to 1e-7 of themselves
    norm = torch.linalg.matrix_norm(s.diag_embed() - s[..., :, None] * s[..., None, :], 2)
    ratio = float((norm / (factor * rest))[known].max())
    gap = (rest / (others * torch.exp(top[:, 1] - top[:, 0])))[known]
    return Evidence.of(
        [outcome],
        conclusions={
            "the norm of each row obeys it": ratio <= 1 + 1e-6,
            "the largest weight obeys the gap": float(gap.max()) <= 1 + 1e-6,
        },
        sharpness={"the largest weight obeys the gap": (float(gap.median()), float(gap.max()))},
        largest_norm_over_bound=ratio,
        largest_rest_over_bound=float(gap.max()),
    )
