"""Claims of the chapter on the gradients of attention."""

from collections.abc import Callable

import torch
from torch import Tensor

from ... import exact, kernels, problems, symbolic
from ..._descend import descend
from ...draws import normal, uniform
from ...kernels import Kernel
from ...models import Attention
from ...theorems import Standing
from .._record import Evidence, Verdict, claim

CHAPTER = "foundations/gradients"

#: Shapes N, n, D, H, d that SymPy differentiates entry by entry in a fraction of a second each.
WRITTEN_OUT = ((1, 2, 1, 1, 1), (2, 2, 1, 2, 1), (1, 2, 2, 1, 1), (1, 3, 1, 1, 2))

#: Agreement to rounding: sums of at most a few hundred products of numbers of size one.
ROUNDING = 1e-11

#: Central differences with h = 1e-5 err by h^2 times the third derivative, plus 1e-16 / h.
DIFFERENCED = 1e-6


def signs(M: Tensor) -> Tensor:
    """A direction of the shape of M with entries of size one."""
    return torch.cos(torch.arange(M.numel(), dtype=M.dtype)).reshape(M.shape)


def autograd(layer: Attention, weights, problem) -> dict[str, Tensor]:
    """The gradient that reverse-mode differentiation of the loss finds."""
    leaves = type(weights)(*(M.clone().requires_grad_() for M in weights))
    return dict(
        zip("QKV", torch.autograd.grad(layer.loss(leaves, problem).sum(), leaves[:3]), strict=True)
    )


def slopes(layer: Attention, weights, problem, h: float = 1e-5) -> dict[str, Tensor]:
    """Central differences of the loss along `signs`, one number a run for each matrix."""

    def loss(name, step):
        M = getattr(weights, name)
        return layer.loss(weights._replace(**{name: M + step * signs(M[0])}), problem)

    return {name: (loss(name, h) - loss(name, -h)) / (2 * h) for name in "QKV"}


def gap(found: dict[str, Tensor], true: dict[str, Tensor]) -> float:
    """Largest difference over the three matrices, in units of the larger of the gradient and one."""
    return max(
        float((found[W] - true[W]).abs().max() / true[W].abs().max().clamp_min(1)) for W in "QKV"
    )


def agreement(kernel: Kernel, stages: dict, draws: int = 24) -> dict[str, float]:
    """The closed form of a layer with this kernel against four others, the largest gap of each.

    The closed form is the kernel's; the derivations are those of the registered kernel of its name.
    """
    found = {name: 0.0 for name in ("entrywise", "matrix", "autograd", "differences")}

    def compare(name, layer, weights, problem, other):
        closed = layer.loss_and_gradient(weights, problem)[1]
        found[name] = max(found[name], gap(closed, other))

    for shape in WRITTEN_OUT:
        instance = drawn(kernel, *shape, seed=0)
        by_entry = symbolic.elementwise(kernel.name, *shape).compile()
        compare("entrywise", *instance, by_entry(*instance[1:]))
    matrix = symbolic.generated(kernel.name, stages)
    for seed in range(draws):
        shape = [1 + int(5 * u) for u in uniform(seed, "shape", (5,))]
        layer, weights, problem = drawn(kernel, *shape, seed=seed)
        compare("matrix", layer, weights, problem, matrix(weights, problem))
        compare("autograd", layer, weights, problem, autograd(layer, weights, problem))
        closed = layer.loss_and_gradient(weights, problem)[1]
        along = {W: (closed[W] * signs(closed[W][0])).sum((-3, -2, -1)) for W in "QKV"}
        measured = gap(along, slopes(layer, weights, problem))
        found["differences"] = max(found["differences"], measured)
    return found


def drawn(kernel: Kernel, N: int, n: int, D: int, H: int, d: int, seed: int):
    """A layer, eight draws of its weights and a problem of that shape."""
    problem = problems.gaussian(N=N, n=n, D=D, seed=seed)
    layer = Attention(kernel, H=H, d=d)
    return layer, layer.init(problem, runs=8, seed=seed + 1), problem


def derivation(name: str, pullback: Callable | None, flip: str | None) -> Evidence:
    """Derive both ways, subtract, print the code, and compare it with all that computes gradients.

    ``pullback`` replaces that of the closed form; ``flip`` reverses a sign in a derived expression.
    """
    kernel = kernels.get(name)
    if pullback is not None:
        kernel = Kernel(name, kernel.score, kernel.value, pullback)
    stages = dict(symbolic.matrix_form(name))
    if flip is not None:
        stages[flip] = -stages[flip]
    exact_zero = all(
        symbolic.difference(name, W, n=2, D=1, d=1, stages=stages).is_zero_matrix for W in "QKV"
    )
    gaps = agreement(kernel, stages)
    return Evidence(
        {
            "the two derivations differ by exactly zero": exact_zero,
            "the code from the entries agrees": gaps["entrywise"] < ROUNDING,
            "the code from the matrices agrees": gaps["matrix"] < ROUNDING,
            "autograd agrees": gaps["autograd"] < ROUNDING,
            "finite differences agree": gaps["differences"] < DIFFERENCED,
        },
        {f"largest_gap_to_{other}": value for other, value in gaps.items()}
        | {"shapes": len(WRITTEN_OUT) + 24, "runs_each": 8},
    )


@claim(
    "symbolic-softmax-gradient",
    title="The gradients of attention, softmax",
    box="thm-gradients",
    standing=Standing.PROVED,
    uses=("lem-jacobians",),
    paper="Descent",
    number="Theorem",
    statement=r"The gradients of softmax attention by $W_Q, W_K, W_V$ are those of Lemmas 1 and 6 of "
    r"Song et al. 2024, head by head; SymPy derives them entry by entry and with symbolic matrices.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "a sign in the pullback": {
            "pullback": lambda C, S, dS: S * dS + S * (S * dS).sum(-1, True)
        },
        "the Gaussian's pullback": {"pullback": lambda C, S, dS: S * dS},
        "a sign in the derived gradient of the keys": {"flip": "K"},
        "a sign in the derived Jacobian": {"flip": "C"},
    },
)
def symbolic_softmax_gradient(
    pullback: Callable | None = None, flip: str | None = None
) -> Evidence:
    """Two derivations and the code made from them, the closed form, autograd, finite differences."""
    return derivation("softmax", pullback, flip)


@claim(
    "symbolic-gaussian-gradient",
    title="The gradients of attention, Gaussian",
    box="thm-gradients",
    standing=Standing.PROVED,
    uses=("lem-jacobians",),
    paper="Descent",
    number="Theorem",
    statement=r"The gradients of Gaussian attention are those of softmax attention with "
    r"$\Gamma = S\circ A$, less the terms $X^\top\mathrm{diag}(\Gamma\mathbf 1)XW_Q/\sqrt d$ and "
    r"$X^\top\mathrm{diag}(\Gamma^\top\mathbf 1)XW_K/\sqrt d$ of the squared norms.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "a sign in the pullback": {"pullback": lambda C, S, dS: -S * dS},
        "softmax's pullback": {"pullback": kernels.softmax.pullback},
        "a sign in the derived gradient of the queries": {"flip": "Q"},
        "a sign in the derived gradient of the values": {"flip": "V"},
    },
)
def symbolic_gaussian_gradient(
    pullback: Callable | None = None, flip: str | None = None
) -> Evidence:
    """Two derivations and the code made from them, the closed form, autograd, finite differences."""
    return derivation("gaussian", pullback, flip)


def textbook(C: Tensor, S: Tensor, dS: Tensor) -> Tensor:
    """Softmax's pullback as it is usually written."""
    weighted = S * dS
    return weighted - S * weighted.sum(-1, keepdim=True)


def by_autograd(C: Tensor, S: Tensor, dS: Tensor) -> Tensor:
    """What autograd makes of torch.softmax."""
    return torch.func.vjp(lambda C: torch.softmax(C, -1), C)[1](dS)[0]


def rounding_bound(C: Tensor, S: Tensor, dS: Tensor) -> Tensor:
    r"""What the chapter proves of the stable pullback: an absolute bound for each entry (..., n).

    :math:`s_j [(3\varrho + (2n + 9)\epsilon) \sum_l s_l |a_j - a_l|
    + (\varrho + (n + 6)\epsilon)^2 \sum_l s_l |a_l|]`, for weights with relative errors up to rho.
    """
    epsilon, n = torch.finfo(C.dtype).eps / 2, C.shape[-1]
    rho = (C.amax(-1, True) - C.amin(-1, True) + n + 4) * epsilon
    spread = (S[..., None, :] * (dS[..., :, None] - dS[..., None, :]).abs()).sum(-1)
    first = (3 * rho + (2 * n + 9) * epsilon) * spread
    return S * (first + (rho + (n + 6) * epsilon) ** 2 * (S * dS.abs()).sum(-1, True))


@claim(
    "saturated-gradient",
    title="A stable pullback",
    box="prop-stable",
    standing=Standing.PROVED,
    paper="Descent",
    number="Proposition",
    statement=r"As softmax attention saturates, $s\circ a - s\,(s^\top a)$ loses all its digits, and "
    r"so does autograd of torch's softmax. With the mean $s^\top a$ subtracted first, every entry keeps the "
    r"accuracy of the weights, relative to $s_j\sum_ls_l|a_j-a_l|$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "the pullback as it is usually written": {"pullback": textbook},
        "subtract the entry at the smallest weight": {
            "pullback": lambda C, S, dS: textbook(C, S, dS - dS.gather(-1, S.argmin(-1, True)))
        },
        "the stable pullback called the usual one and autograd's": {
            "usual": kernels.softmax.pullback,
            "automatic": kernels.softmax.pullback,
        },
    },
)
def saturated_gradient(
    pullback: Callable = kernels.softmax.pullback,
    usual: Callable = textbook,
    automatic: Callable = by_autograd,
) -> Evidence:
    """Rows of 2 to 6 scores at scales 1 to 128, 40 draws each, against fifty digits."""
    worst, over, lost = 0.0, [], [0.0, 0.0]
    for scale in (1.0, 8.0, 32.0, 128.0):
        for draw in range(40):
            C, dS = normal(draw, f"scale {scale:g}", (2, 2 + draw % 5))
            C = scale * C
            S = torch.softmax(C, -1)
            true = exact.pullback("softmax", C, dS)
            found = pullback(C, S, dS)
            error = torch.tensor(
                [float(abs(a - b)) for a, b in zip(found.tolist(), true, strict=True)]
            )
            over.append((error / rounding_bound(C, S, dS)).max())
            worst = max(worst, exact.relative_error(found, true))
            if 1e-200 < float(S.sort().values[:-1].sum()) < 1e-17:
                others = [exact.relative_error(way(C, S, dS), true) for way in (usual, automatic)]
                lost = [max(pair) for pair in zip(lost, others, strict=True)]
    over = torch.stack(over)
    return Evidence(
        {
            "every entry is within the bound": float(over.max()) < 1,
            "no row loses more than three digits": worst < 1e-12,
            "the usual form loses all of them": lost[0] > 0.5,
            "so does autograd of torch's softmax": lost[1] > 0.5,
        },
        {
            "largest_relative_error": worst,
            "largest_relative_error_of_the_usual_form": lost[0],
            "largest_relative_error_of_autograd": lost[1],
            "rows": 160,
        },
        sharpness={"every entry is within the bound": (float(over.median()), float(over.max()))},
    )


def at_origin(layer: Attention, weights, problem) -> tuple[Tensor, Tensor]:
    r"""The Hessian (2Dd, 2Dd) by W_Q and W_K at zero, and :math:`F` (D, D) of the proposition."""
    origin = weights._replace(Q=0 * weights.Q, K=0 * weights.K)

    def loss(v):
        Q, K = v.view(2, *weights.Q.shape)
        return layer.loss(origin._replace(Q=Q, K=K), problem)

    hessian = torch.func.hessian(loss)(torch.zeros(2 * weights.Q.numel(), dtype=weights.Q.dtype))
    residual = layer.predict(origin, problem) - problem.y
    u = layer.forward(origin, problem).u[0]
    rows = (problem.X.mT @ residual[..., None]).squeeze(-1)
    columns = (problem.X.mT @ (u - u.mean(-1, keepdim=True))[..., None]).squeeze(-1)
    return hessian, rows.mT @ columns / (problem.n * layer.d**0.5)


@claim(
    "saddle-at-zero",
    title="A saddle at zero",
    box="prop-saddle",
    standing=Standing.PROVED,
    uses=("thm-gradients",),
    paper="Descent",
    number="Proposition",
    statement=r"With $W_Q = W_K = 0$, one softmax head, the gradients by $W_Q, W_K$ vanish and the "
    r"Hessian has the eigenvalues $\pm\sigma_i(F)$, each $d$ times; from nearby descent leaves at the "
    r"rate $1+\eta\sigma_1$ per step.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "a Gaussian head": {"kernel": "gaussian"},
        "without the square root of d": {"factor": 2**0.5},
        "a start that is not near": {"size": 1.0},
        "the queries at zero alone": {"keys": 1.0},
    },
)
def saddle_at_zero(
    kernel: str = "softmax", factor: float = 1.0, size: float = 1e-6, keys: float = 0.0
) -> Evidence:
    """Compare spectra for 40 problems, and the growth of the weights from a start of size 1e-6."""
    spectrum, growth, stationary = 0.0, 0.0, 0.0
    for seed in range(40):
        problem = problems.gaussian(N=2, n=3, D=3, seed=seed)
        layer = Attention(kernel, H=1, d=2)
        weights = layer.init(problem, seed=seed)
        hessian, F = at_origin(layer, weights, problem)
        sigma = factor * torch.linalg.svdvals(F).repeat_interleave(2)
        expected = torch.cat([sigma, -sigma]).sort().values
        found = torch.linalg.eigvalsh(hessian)
        spectrum = max(spectrum, float((found - expected).abs().max() / sigma[0]))
        origin = weights._replace(Q=0 * weights.Q, K=keys * weights.K)
        slope = layer.loss_and_gradient(origin, problem, "QK")[1]
        stationary = max(stationary, *(float(g.abs().max()) for g in slope.values()))
        near = weights._replace(Q=size * weights.Q, K=size * weights.K)
        run = descend(layer, problem, near, train="QK", step=0.05 / float(sigma[0]), steps=40)
        left, _, right = torch.linalg.svd(F)
        leaving = [(left[:, 0] @ w.Q[0] - right[0] @ w.K[0]).norm() for w in (near, run.weights)]
        growth = max(growth, abs(float(leaving[1] / leaving[0]) / 1.05**40 - 1))
    return Evidence(
        {
            "zero is a critical point": stationary < 1e-13,
            "the spectrum is plus and minus the singular values": spectrum < 1e-12,
            # the next terms of the gradient are of the size of the weights, cubed
            "the weights grow as the negative curvature says": growth < 1e-6,
        },
        {
            "largest_error_of_spectrum": spectrum,
            "largest_error_of_growth": growth,
            "problems": 40,
        },
    )
