"""Claims of the chapter on rank, width and the tangent kernel."""

import itertools
from functools import cache

import torch
from torch import Tensor

from ... import problems, spectra, theorems
from ..._descend import descend
from ...models import Attention
from ...problems import Problem
from ...theorems import Standing
from ...theorems.foundations.rank import most
from .._record import Evidence, Verdict, claim

CHAPTER = "foundations/rank"
KERNELS = ("softmax", "gaussian")


def features_rank(layer: Attention, problem: Problem, runs: int) -> Tensor:
    """The rank of B_0 in each of several draws of the weights."""
    weights = layer.init(problem, runs=runs, seed=1)
    return spectra.rank(spectra.concat(layer.features(weights, problem)))


def dependent(problem: Problem) -> Problem:
    """Distinct tokens that are linearly dependent: the last token is the sum of all others."""
    X = problem.tokens.clone()
    X[-1] = X[:-1].sum(0)
    return Problem(X.unflatten(0, (problem.N, problem.n)), problem.y)


@claim(
    "rank-threshold",
    theorem="rank-threshold",
    paper="Descent",
    number="Theorem",
    statement=r"For almost all tokens and weights $\operatorname{rank} B_0 = \min(HD, Nn)$, for "
    r"every shape and both kernels, except softmax on sequences of one token, where it is "
    r"$\min(D, N)$; with one head and distinct tokens it is $\operatorname{rank} X$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "counting columns where a sequence is one token": {"lone": False},
        "two tokens of a sequence made equal": {"twin": True},
        "the rank of X with several heads": {"heads": 2},
    },
)
def rank_threshold(lone: bool = True, twin: bool = False, heads: int = 1) -> Evidence:
    """All shapes with at most three of each and Nn at most 6, both kernels, 8 draws each.

    One draw of full rank proves its shape, since a minor is an analytic function of the draw.
    """
    wrong = draws = one_head = 0
    for N, n, D, H in itertools.product((1, 2, 3), repeat=4):
        if N * n > 6:
            continue
        problem = problems.gaussian(N=N, n=n, D=D, seed=0)
        if twin and n > 1:
            problem.X[0, 1] = problem.X[0, 0]
        for kernel in KERNELS:
            alone = lone and n == 1 and kernel == "softmax"
            expected = min(D, N) if alone else min(H * D, N * n)
            ranks = features_rank(Attention(kernel, H=H, d=2), problem, runs=8)
            wrong += int((ranks != expected).sum())
            draws += ranks.numel()
    for D, kernel in itertools.product((5, 11, 24), KERNELS):
        problem = dependent(problems.gaussian(N=4, n=3, D=D, seed=0))
        ranks = features_rank(Attention(kernel, H=heads, d=4), problem, runs=16)
        one_head += int((ranks != spectra.rank(problem.tokens)).sum())
    return Evidence(
        {
            "every rank is as predicted": wrong == 0,
            "one head has the rank of the tokens": one_head == 0,
        },
        {"wrong_ranks": wrong, "draws": draws, "wrong_ranks_on_dependent_tokens": one_head},
    )


def jacobian_ranks(kernel: str, N: int, n: int, D: int, d: int, runs: int) -> Tensor:
    """Ranks (runs,) of the derivative of S with respect to W_Q, at weights of half the usual size.

    A smaller size keeps attention away from saturation, where rows of the derivative vanish.
    """
    problem, layer = problems.gaussian(N=N, n=n, D=D, seed=0), Attention(kernel, d=d)
    weights = layer.init(problem, runs=runs, seed=1, scale=0.5)
    J = layer.attention_jacobian(weights, problem)[..., 0, :, :]
    # softmax of a single token is constant: its derivative is exactly zero
    return spectra.rank(J, 1e-9) if bool(J.any()) else torch.zeros(runs, dtype=torch.int64)


@claim(
    "jacobian-ranks",
    theorem="jacobian-ranks",
    paper="song2024",
    number="Section 4.2",
    statement=r"The derivative of all attention matrices with respect to $W_Q$ has rank at most "
    r"$Nn(n-1)$ for softmax and $Nn^2$ for the Gaussian; for almost all tokens and weights with "
    r"$D \ge Nn$ it is $Nn\min(n-1, d)$ and $Nn\min(n, d)$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "softmax loses nothing": {"lost": 0},
        "softmax loses two directions a row": {"lost": 2},
        "fewer dimensions than tokens": {"spare": -1},
    },
)
def jacobian_ranks_claim(lost: int = 1, spare: int = 0) -> Evidence:
    """The four shapes of the theory, and shapes with D at least Nn, 16 draws each."""
    shapes = [(1, 2, 2, 2), (2, 3, 6, 4), (3, 2, 6, 2), (2, 4, 8, 4)]
    grid = itertools.product((1, 2, 3), (2, 3, 4), (0, 3), (1, 2, 3, 5))
    shapes += [(N, n, N * n + extra, d) for N, n, extra, d in grid]
    wrong = {"softmax": 0, "gaussian": 0}
    for N, n, D, d in shapes:
        for kernel in KERNELS:
            directions = n - lost if kernel == "softmax" else n
            ranks = jacobian_ranks(kernel, N, n, D + spare, d, runs=16)
            wrong[kernel] += int((ranks != N * n * min(directions, d)).sum())
    return Evidence(
        {f"every {kernel} rank is as predicted": count == 0 for kernel, count in wrong.items()},
        {
            "wrong_softmax": wrong["softmax"],
            "wrong_gaussian": wrong["gaussian"],
            "draws": 32 * len(shapes),
        },
    )


@claim(
    "jacobian-width-not-sufficient",
    title="Width is necessary and does not suffice",
    box="thm-jacobian",
    standing=Standing.PROVED,
    paper="song2024",
    number="Remark 4",
    statement=r"$Dd \ge Nn^2$ is necessary for the Gaussian derivative to have rank $Nn^2$, as "
    r"the paper says, and does not suffice: $(N,n,D,d) = (2,3,3,6)$ has $Dd = Nn^2 = 18$ and "
    r"rank $15$ (softmax $9$). The rank is at most $\tfrac12D(3D+1)$ (softmax $D^2$), so no $d$ "
    r"makes up for a small $D$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "twice as many dimensions": {"shape": (2, 3, 6, 6)},
        "the symmetric part forgotten": {"symmetric": False},
    },
)
def jacobian_width(shape: tuple = (2, 3, 3, 6), symmetric: bool = True) -> Evidence:
    """64 draws of the example, then the bounds over 270 shapes, 2 draws each."""
    example = {kernel: jacobian_ranks(kernel, *shape, runs=64) for kernel in KERNELS}
    over = attained = draws = 0
    for N, n, D, d in itertools.product((1, 2, 3), (2, 3, 4), (1, 2, 3, 4, 6), (1, 2, 3, 4, 6, 8)):
        for kernel in KERNELS:
            ranks, bound = jacobian_ranks(kernel, N, n, D, d, runs=2), most(kernel, N, n, D, d)
            if not symmetric and kernel == "gaussian":
                bound = min(bound, D * D)
            over += int((ranks > bound).sum())
            attained += int((ranks == bound).sum())
            draws += 2
    return Evidence(
        {
            "the Gaussian example has rank 15": bool((example["gaussian"] == 15).all()),
            "the softmax example has rank 9": bool((example["softmax"] == 9).all()),
            "no rank exceeds its bound": over == 0,
        },
        {"ranks_over_the_bound": over, "share_that_attains_it": attained / draws, "draws": draws},
    )


def autograd_kernel(layer: Attention, weights, problem: Problem, train: str) -> Tensor:
    """The tangent kernel of one run, from Jacobians that autograd found."""

    def outputs(*moving: Tensor) -> Tensor:
        changed = dict(zip(train, moving, strict=True))
        return layer.predict(weights._replace(**changed), problem).flatten()

    point = tuple(getattr(weights, W) for W in train)
    blocks = torch.func.jacrev(outputs, tuple(range(len(train))))(*point)
    J = torch.cat([block.flatten(1) for block in blocks], -1)
    return J @ J.mT


@claim(
    "ntk-layer",
    theorem="ntk-layer",
    paper="Descent",
    number="Proposition",
    statement=r"The tangent kernel is a sum over heads and trained matrices; for $W_V$ it is $G$ "
    r"and for $W_Q$ it is $\sum_h XX^\top \circ g^h g^{h\top}$. One step of size $\eta$ moves "
    r"the residual by $-\eta\Theta r + O(\eta^2)$, and $\lambda_{\min}(\Theta) \ge "
    r"\lambda_{\min}(G)$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "keys forgotten": {"kept": "QV"},
        "values forgotten": {"kept": "QK"},
        "queries without their tokens": {"tokens": False},
    },
)
def ntk_layer(kept: str = "QKV", tokens: bool = True) -> Evidence:
    """Both kernels, H = 3, 8 runs each: autograd, one small step, the smallest eigenvalues; and one
    head without values, whose kernel is that of the values."""
    problem, outcomes = problems.gaussian(N=2, n=3, D=5, seed=0), []
    gap, parts, order, below = 0.0, 0.0, 0.0, 0.0
    for kernel in KERNELS:
        layer = Attention(kernel, H=3, d=4)
        weights = layer.init(problem, runs=8, seed=1)
        theta, G = layer.ntk(weights, problem, kept), layer.gram(weights, problem)
        for r in range(8):
            one = type(weights)(*(W[r] for W in weights))
            exact = autograd_kernel(layer, one, problem, "QKV")
            gap = max(gap, float((theta[r] - exact).abs().max() / exact.abs().max()))
            for W, formula in (("V", G[r]), ("Q", by_queries(layer, one, problem, tokens))):
                exact = autograd_kernel(layer, one, problem, W)
                parts = max(parts, float((formula - exact).abs().max() / exact.abs().max()))
        coarse, fine = (step_error(layer, weights, problem, theta, eta) for eta in (1e-4, 1e-5))
        order = max(order, float((fine / coarse).max()))
        lowest = [torch.linalg.eigvalsh(A)[:, 0] for A in (theta, G)]
        below = max(below, float((lowest[1] - lowest[0]).max()))
        outcomes.append(theorems.foundations.tangent_kernel(layer, problem, weights).against())
        alone, wide = Attention(kernel, H=1, d=4), problems.gaussian(N=2, n=3, D=7, seed=0)
        silent = alone.init(wide, runs=8, seed=1)
        silent = silent._replace(V=0 * silent.V)
        outcomes.append(theorems.foundations.tangent_kernel(alone, wide, silent).against())
    return Evidence.of(
        outcomes,
        conclusions={
            "the closed form is autograd's": gap < 1e-12,
            "the parts of the values and the queries are the formulas'": parts < 1e-12,
            # the error is O(eta^2): a step ten times smaller errs a hundred times less
            "a step moves the residual by the kernel, to second order": order < 0.02,
            # eigenvalues are known to about 1e-14 here
            "training more never lowers the smallest eigenvalue": below < 1e-12,
        },
        gap_to_autograd=gap,
        gap_of_the_parts=parts,
        error_ratio_at_a_tenth_of_the_step=order,
    )


def by_queries(layer: Attention, weights, problem: Problem, tokens: bool) -> Tensor:
    r""":math:`\sum_h XX^\top \circ g^h g^{h\top}` of one run, or the sum without X.

    Row l of :math:`g^h` is the derivative of output l by its own query.
    """
    pass_, m = layer.forward(weights, problem), problem.N * problem.n

    def outputs(Q: Tensor) -> Tensor:
        S = layer.kernel.attention(Q, pass_.K)
        return (S @ pass_.u[..., None]).squeeze(-1).sum(0).flatten()

    by_all = torch.func.jacrev(outputs)(pass_.Q).flatten(2, 3)  # (m, H, m, d)
    g = by_all[torch.arange(m), :, torch.arange(m)].movedim(1, 0)
    same = problem.tokens @ problem.tokens.mT if tokens else 1.0
    return (same * (g @ g.mT)).sum(0)


def step_error(layer: Attention, weights, problem: Problem, theta: Tensor, eta: float) -> Tensor:
    r"""Length of :math:`r_1 - (I - \eta\Theta) r_0` in every run after one step on all matrices."""
    r0 = (layer.predict(weights, problem) - problem.y).flatten(-2)
    gradient = layer.loss_and_gradient(weights, problem)[1]
    moved = {W: getattr(weights, W) - eta * gradient[W] for W in gradient}
    r1 = (layer.predict(weights._replace(**moved), problem) - problem.y).flatten(-2)
    predicted = r0 - eta * (theta @ r0[..., None]).squeeze(-1)
    return torch.linalg.vector_norm(r1 - predicted, dim=-1)


def relative_change(new: Tensor, old: Tensor) -> Tensor:
    """Frobenius distance over Frobenius size, run by run."""
    return torch.linalg.matrix_norm(new - old) / torch.linalg.matrix_norm(old)


@cache
def kernel_movement(kernel: str, H: int, d: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """How far training moves the tangent kernel, and the last loss over the first: (runs,) each.

    32 runs on N = 2, n = 3, D = 24, all three matrices, 300 steps of half the inverse of the
    kernel's largest eigenvalue. ``scale`` multiplies W_O; the labels are the first output plus the
    same noise whatever it is, so that the first residual does not grow with it.
    """
    problem, layer = problems.gaussian(N=2, n=3, D=24, seed=0), Attention(kernel, H=H, d=d)
    weights = layer.init(problem, runs=32, seed=1)
    weights = weights._replace(O=weights.O * scale)
    start = layer.predict(weights, problem)
    problem = Problem(problem.X.expand(32, *problem.X.shape), start + problem.y)
    theta = layer.ntk(weights, problem)
    step = 0.5 / torch.linalg.eigvalsh(theta)[:, -1]
    run = descend(layer, problem, weights, step=step, steps=300)
    moved = relative_change(layer.ntk(run.weights, problem), theta)
    return moved, run.loss[-1] / run.loss[0]


@claim(
    "ntk-lazy-heads",
    title="Heads calm the tangent kernel",
    box="prop-many-heads",
    standing=Standing.OBSERVED,
    paper="Descent",
    number="Observation",
    statement=r"Training all three matrices of softmax attention to a fit, the tangent kernel "
    r"moves the less the more heads there are (faster than $H^{-1/2}$) and the larger the output "
    r"scale is (about as its inverse). A head sixteen times wider moves it by more than half as "
    r"much.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "wider heads instead of more heads": {"grow": "d"},
        "more heads instead of a wider head": {"wider": (16, 4)},
        "an output scale no larger": {"scale": 1.0},
    },
)
def ntk_lazy_heads(
    grow: str = "H", wider: tuple[int, int] = (1, 64), scale: float = 16.0
) -> Evidence:
    """Median over 32 runs of the relative change, at 1, 4 and 16 heads, widths, and scales."""
    base = {"H": 1, "d": 4}
    more = {v: kernel_movement("softmax", **base | {grow: v * base[grow]}) for v in (1, 4, 16)}
    scaled = [kernel_movement("softmax", H=2, d=4, scale=v) for v in (1.0, scale)]
    wide = kernel_movement("softmax", *wider)[0].median()
    change = {v: float(moved.median()) for v, (moved, _) in more.items()}
    slope = float(torch.log(torch.tensor(change[16] / change[1])) / torch.log(torch.tensor(16.0)))
    gain = float(scaled[0][0].median() / scaled[1][0].median())
    fit = max(float(left.median()) for _, left in (*more.values(), *scaled))
    return Evidence(
        {
            "heads calm the kernel": -1 < slope < -0.5,
            "scale calms the kernel": 8 < gain < 32,
            "width of a head hardly does": float(wide) > 0.5 * change[1],
        },
        {
            "change_with_1_head": change[1],
            "change_with_16_heads": change[16],
            "slope_over_heads": slope,
            "change_with_one_head_16_times_wider": float(wide),
            "gain_of_scale_16": gain,
            "largest_median_loss_left": fit,
        },
        hypotheses={"the runs fit their labels": fit < 1e-3},
    )
