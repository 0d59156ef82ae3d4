"""Claims of the chapter on starts from which descent selects the wrong tokens."""

import math
from collections.abc import Iterable, Iterator
from functools import cache

import torch
from torch import Tensor

from ... import draws, margin, problems
from ...models import Selection, SelectionWeights
from ...models.selection import optimal, scores
from ...problems import Problem
from ...statistics import wilson
from ...theorems import Standing
from .._record import Evidence, Verdict, claim

TRAPS = "vasudeva2024/traps"
#: |l'| at 0 over |l'| at 1, logistic loss: the kappa of pairs with scores 0 and 1.
KAPPA = 0.5 / (1 / (1 + math.e))


def march(
    layer: Selection, problem: Problem, at: SelectionWeights, lengths: Iterable[float | Tensor]
) -> Iterator[Tensor]:
    """W after each of the steps, which have these lengths; a tensor (*r, 1, 1) gives each its own.

    A run whose gradient underflows stays where it is.
    """
    W = at.W
    for length in lengths:
        G = layer.loss_and_gradient(at._replace(W=W), problem)[1]["W"]
        size = torch.linalg.vector_norm(G, dim=(-2, -1), keepdim=True)
        tiny = 1e-140  # the square of a smaller entry is zero
        W = W - torch.where(size > tiny, length * G / size.clamp_min(tiny), 0)
        yield W


def stacked(drawn: Iterable[tuple[Problem, Tensor]], runs: int) -> tuple[Problem, Tensor]:
    """Data sets beside each other, and their decoders for ``runs`` runs each, (sets, runs, D)."""
    data, decoders = zip(*drawn, strict=True)
    X, y = (torch.stack([getattr(p, name) for p in data])[:, None] for name in "Xy")
    u = torch.stack(decoders)[:, None]
    return Problem(X, y), u.expand(-1, runs, -1)


def contradicting(ratio: Tensor, length: Tensor) -> list[tuple[Problem, Tensor]]:
    r"""Pairs with A_1 = (1, 0), :math:`\|A_2\|` given and :math:`-\langle A_1, A_2\rangle` = ratio."""
    across = (length.square() - ratio.square()).sqrt()
    second = torch.stack([-ratio, across], -1)
    first = torch.eye(2, dtype=ratio.dtype)[0].expand_as(second)
    return [problems.pairs(a) for a in torch.stack([first, second], -2)]


def along(plane: Tensor) -> Tensor:
    """The W (*r, 3, 3) of `problems.pairs` that acts as this vector of the plane (*r, 2)."""
    W = plane.new_zeros(*plane.shape[:-1], 3, 3)
    W[..., :2, 2] = plane
    return W


def gaps(problem: Problem, W: Tensor) -> Tensor:
    """The gaps (*r, N) of the second tokens over the first, which `problems.pairs` makes optimal."""
    a, z = problem.X[..., 1, :] - problem.X[..., 0, :], problem.X[..., 0, :]
    return torch.einsum("...ia,...ab,...ib->...i", a, W, z)


def uniform(*shape: int, seed: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform numbers, float64."""
    return low + (high - low) * draws.uniform(seed, "uniform", shape)


@claim(
    "vasudeva2024-trap",
    title="A trap",
    box="thm-trap",
    standing=Standing.PROVED,
    paper="Descent",
    number="Theorem",
    statement=r"Two sequences of two tokens with $q = -\langle A_1,A_2\rangle > \|A_1\|_F^2$: from "
    r"$g_1 \ge 0$, $g_2 \le -\rho g_1 - \beta$ descent never leaves this set, whatever the step "
    r"sizes; with steps of one length it tends to the direction of $A_1$ and "
    r"$\varphi_{2,\mathrm{opt}} \to 0$.",
    verdict=Verdict.HOLDS,
    chapter=TRAPS,
    mutations={
        "a weaker contradiction": {"strength": 0.6},
        "a start on the border of the second sequence": {"depth": 0.0},
    },
)
def trap(strength: float = 1.0, depth: float = 1.0) -> Evidence:
    """Sixty pairs, eight starts each: thirty steps of random lengths up to 100; 120 of length 1."""
    q = strength * uniform(60, seed=0, low=1.2, high=3.0)
    size = (q / strength) * uniform(60, seed=1, low=1.05, high=2.0)
    problem, u = stacked(contradicting(q, size), runs=8)
    rho = (1 + q / strength)[:, None] / 2
    promised = q[:, None] / strength
    share = torch.minimum(1 / promised, (promised - rho) / size.square()[:, None]) / 2
    beta = depth * (4 * KAPPA / share).log()
    g_1 = uniform(60, 8, seed=2, high=10.0)
    W = along(in_plane(g_1, -rho * g_1 - beta, q, size))
    lengths = 10 ** uniform(30, 60, 8, 1, 1, seed=3, low=-3.0, high=2.0)
    layer, left, phi = Selection(goal="loss"), 0.0, 0.0
    for W_t in march(layer, problem, SelectionWeights(W, u), lengths):
        g = gaps(problem, W_t)
        left = max(left, float((g[..., 1] + rho * g[..., 0] + beta).max()))
        left = max(left, -float(g[..., 0].min()))
        phi = max(phi, float((g[..., 1].sigmoid() - (-beta).sigmoid()).max()))
    *_, end = march(layer, problem, SelectionWeights(W, u), [1.0] * 120)
    cosine = end[..., 0, 2] / torch.linalg.vector_norm(end, dim=(-2, -1))
    return Evidence(
        conclusions={
            "no step leaves the set": left <= 1e-9,
            "the second attends to its optimal token at most by σ(-β)": phi <= 1e-12,
            "the direction tends to that of A_1": float(cosine.min()) > 0.99,
            "the attention to the second optimal token to zero": float(
                gaps(problem, end)[..., 1].max()
            )
            < -100,
        },
        numbers={
            "largest_step_out_of_the_set": left,
            "least_cosine": float(cosine.min()),
            "runs": 480,
        },
        hypotheses={"q > a_1": float(q.min()) > 1},
    )


def in_plane(g_1: Tensor, g_2: Tensor, q: Tensor, size: Tensor) -> Tensor:
    """The vector of the plane with these gaps (sets, runs): A_1 = (1, 0), A_2 = (-q, across)."""
    across = (size.square() - q.square()).sqrt()[:, None]
    return torch.stack([g_1, (g_2 + q[:, None] * g_1) / across], -1)


@claim(
    "vasudeva2024-no-trap",
    title="No trap",
    box="thm-no-trap",
    standing=Standing.PROVED,
    uses=("prop-equal-scores",),
    paper="Descent",
    number="Theorem",
    statement=r"Two sequences of two tokens with $-\langle A_1,A_2\rangle \le \min_i\|A_i\|_F^2$, "
    r"feasible: normalised flow from every start has both gaps non-negative from a finite time on, "
    r"and no step of descent, however long, lowers $g_1+g_2$.",
    verdict=Verdict.HOLDS,
    chapter=TRAPS,
    mutations={"beyond the least squared length": {"strength": 1.5}},
)
def no_trap(strength: float = 1.0) -> Evidence:
    """Sixty pairs with q up to 0.9 of the least squared length, sixteen starts of norm 8."""
    size = 10 ** uniform(60, seed=0, low=-0.5, high=0.5)
    q = strength * uniform(60, seed=1, low=0.3, high=0.9) * size.square().clamp_max(1)
    feasible = q < 0.99 * size
    problem, u = stacked(contradicting(q[feasible], size[feasible]), runs=16)
    turn = 2 * math.pi / 16 * torch.arange(16, dtype=torch.float64)
    start = along(8 * torch.stack([turn.cos(), turn.sin()], -1)).expand(*u.shape[:-1], 3, 3)
    layer, at = Selection(goal="log excess"), SelectionWeights(start, u)
    lengths = 10 ** uniform(60, *u.shape[:-1], 1, 1, seed=2, low=-2.0, high=1.0)
    fallen, before = 0.0, gaps(problem, start).sum(-1)
    for W in march(layer, problem, at, lengths):
        now = gaps(problem, W).sum(-1)
        fallen, before = max(fallen, float((before - now).max())), now
    *_, end = march(layer, problem, at, [0.1] * 2500)
    least = gaps(problem, end).amin(-1)
    return Evidence(
        conclusions={
            "both gaps are positive in the end": float(least.min()) > 0,
            "the sum never falls": fallen < 1e-9,
        },
        numbers={
            "runs": least.numel(),
            "runs_with_a_lost_sequence": int((least <= 0).sum()),
            "largest_fall_of_the_sum": fallen,
        },
        hypotheses={"q ≤ min a_i": bool((q <= size.square().clamp_max(1)).all())},
    )


@claim(
    "vasudeva2024-signs",
    title="The condition on signs",
    box="prop-signs",
    standing=Standing.PROVED,
    paper="Descent",
    number="Proposition",
    statement=r"If no query is zero, all $\langle A_{it},A_{j\tau}\rangle \ge 0$ and non-optimal "
    r"scores are equal, no step of descent from any start, however long, lowers any gap, and all "
    r"$\varphi_{i,\mathrm{opt}_i}$ exceed $\frac12$ from a finite time on.",
    verdict=Verdict.HOLDS,
    chapter=TRAPS,
    mutations={
        "random tokens, with inner products of both signs": {"orthonormal": False},
        "random tokens in four dimensions": {"orthonormal": False, "D": 4},
    },
)
def signs(orthonormal: bool = True, D: int = 12) -> Evidence:
    """N = 4, n = 3, D = 12, 64 starts of norm 30: forty steps of random lengths, 200 of length 1."""
    draw = problems.orthonormal_tokens if orthonormal else problems.planted
    problem, u = draw(N=4, n=3, D=D, seed=0)
    a, z = margin.differences(problem, optimal(scores(problem, u))), problem.X[:, 0]
    W = draws.normal(1, "W", (D, D), runs=64)
    at = SelectionWeights(30 * W / torch.linalg.vector_norm(W, dim=(1, 2), keepdim=True), u)
    at = at._replace(u=u.expand(64, D))
    layer, fallen, before = Selection(goal="log excess"), 0.0, margin.products(at.W, a, z)
    lengths = 10 ** uniform(40, 64, 1, 1, seed=2, low=-2.0, high=1.0)
    for W_t in march(layer, problem, at, lengths):
        now = margin.products(W_t, a, z)
        fallen, before = max(fallen, float((before - now).max())), now
    *_, end = march(layer, problem, at, [1.0] * 200)
    selected = optimal(scores(problem, u))
    m = layer.soft_margins(at._replace(W=end), problem, selected)
    return Evidence(
        conclusions={
            "no gap ever falls": fallen < 1e-9,
            "all attend to their optimal tokens in the end": float(m.min()) > 0,
        },
        numbers={
            "runs": 64,
            "largest_fall_of_a_gap": fallen,
            "lost_at_the_start": int((layer.soft_margins(at, problem, selected) < 0).any(-1).sum()),
        },
        hypotheses={"no two point against each other": float(margin.gram(a, z).min()) > -1e-12},
    )


@cache
def trapped(d: int, sets: int, runs: int = 8) -> int:
    """On how many data sets (6 sequences of 4 tokens) some start of norm 30 loses a sequence."""
    problem, u = stacked((problems.planted(N=6, n=4, D=d, seed=k) for k in range(sets)), runs)
    W = draws.normal(d, "W", (runs, d, d), runs=sets)
    at = SelectionWeights(30 * W / torch.linalg.vector_norm(W, dim=(-2, -1), keepdim=True), u)
    layer = Selection(goal="log excess")
    *_, end = march(layer, problem, at, [2.0] * 400)
    selected = optimal(scores(problem, u))
    m = layer.soft_margins(at._replace(W=end), problem, selected)
    return int((m < 0).any(-1).any(-1).sum())


@claim(
    "vasudeva2024-dimension",
    title="Traps and the dimension",
    box="thm-trap",
    standing=Standing.OBSERVED,
    paper="Descent",
    number="Observation",
    statement=r"Six random sequences of four tokens with equal non-optimal scores: at $d=6$ some "
    r"of eight starts of norm 30 is trapped on a good part of the data sets, at $d=20$ on none of "
    r"60.",
    verdict=Verdict.HOLDS,
    chapter=TRAPS,
    mutations={"ten dimensions for twenty": {"wide": 10}, "six for twenty": {"wide": 6}},
)
def dimension(wide: int = 20) -> Evidence:
    """Sixty data sets for each dimension, eight starts each, to length 800."""
    low, high = trapped(6, 60), trapped(wide, 60)
    return Evidence(
        conclusions={
            "none is trapped in the larger dimension": high == 0,
            "the intervals of the two shares are disjoint": wilson(low, 60)[0]
            > wilson(high, 60)[1],
        },
        numbers={"data_sets": 60, "trapped_at_6": low, f"trapped_at_{wide}": high},
    )


@claim(
    "tarzanagh2023-tight",
    title="One sequence is what global convergence needs",
    box="thm-trap",
    standing=Standing.OBSERVED,
    uses=("thm-trap",),
    paper="tarzanagh2023margin",
    number="Theorem 2, its restriction to one sequence",
    statement=r"The restriction of Theorem 2 to $n = 1$ cannot be dropped: on two sequences of two "
    r"tokens normalised descent tends to $W_{\mathrm{mm}}$ from $W_0 = 0$ and to the direction of "
    r"$A_1$, at a cosine of $0.562$, from $5A_1$; plain descent likewise.",
    verdict=Verdict.HOLDS,
    chapter=TRAPS,
    mutations={"a shorter rival": {"s": 1.2}, "5 A_1 for zero": {"near": 5.0}},
)
def tight(s: float = 3.0, near: float = 0.0) -> Evidence:
    """s = 3, 45 degrees: 2000 steps of length 0.1, and 4000 of plain descent with step 1."""
    problem, u = problems.trap(s=s, alpha=45)
    found, starts = margin.svm(problem, u), along(torch.tensor([[near, 0], [5.0, 0]]).double())
    at = SelectionWeights(starts, u.expand(2, 3))
    *_, walked = march(Selection(goal="log excess"), problem, at, [0.1] * 2000)
    W, layer = starts, Selection()
    for _ in range(4000):
        W = W - layer.loss_and_gradient(at._replace(W=W), problem)[1]["W"]
    cosines = torch.stack([found.correlation(walked), found.correlation(W)])
    return Evidence(
        conclusions={
            "from zero both go to the margin": float(cosines[:, 0].min()) > 0.999,
            "from 5 A_1 both to a cosine of 0.56": float((cosines[:, 1] - 0.562).abs().max())
            < 0.01,
        },
        numbers={
            "cosine_from_zero": float(cosines[0, 0]),
            "cosine_from_zero_plain": float(cosines[1, 0]),
            "cosine_from_afar": float(cosines[0, 1]),
            "cosine_from_afar_plain": float(cosines[1, 1]),
        },
    )


@claim(
    "tarzanagh2023-locally-optimal",
    title="What is selected when scores differ",
    box="prop-signs",
    standing=Standing.OBSERVED,
    paper="tarzanagh2023margin",
    number="Definition 2 and Theorem 3, from zero",
    statement=r"With unequal scores descent from $W_0 = 0$ may select tokens that are not optimal. "
    r"On sixty draws of four sequences of six unit tokens in four dimensions those that it selects, "
    r"where attention has become one-hot, are locally optimal, and $W$ has the direction of their "
    r"own SVM.",
    verdict=Verdict.HOLDS,
    chapter=TRAPS,
    mutations={
        "the SVM of the optimal tokens": {"own": False},
        "ascent for descent": {"way": -1.0},
        "ten times the dimensions": {"D": 40},
    },
)
def locally_optimal(own: bool = True, way: float = 1.0, D: int = 4) -> Evidence:
    """Sixty draws of four sequences of six unit tokens in four dimensions, to length 300."""
    drawn = [problems.unit_tokens(N=4, n=6, D=D, seed=k) for k in range(60)]
    problem, u = stacked(drawn, runs=1)
    at, layer = SelectionWeights(torch.zeros(60, 1, D, D).double(), u), Selection()
    *_, end = march(layer, problem, at, [0.5 * way] * 600)
    attention = layer.attention(at._replace(W=end), problem)[:, 0]
    firm, chosen = attention.amax(-1).amin(-1) > 1 - 1e-5, attention.argmax(-1)
    cosines, local, best = [], [], 0
    for k in torch.nonzero(firm)[:, 0].tolist():
        data, gamma = drawn[k][0], scores(*drawn[k])
        best += int((chosen[k] == optimal(gamma)).all())
        found = margin.svm(data, selected=chosen[k] if own else optimal(gamma))
        mine = gamma.gather(-1, found.selected[:, None])
        local.append(bool((~found.support | (gamma < mine)).all()))
        cosines.append(float(found.correlation(end[k, 0])))
    return Evidence(
        conclusions={
            "the cosine to the SVM exceeds 0.99": min(cosines) > 0.99,
            "every selection is locally optimal": all(local),
            "not all are optimal": best < len(local),
        },
        numbers={
            "least_cosine": min(cosines),
            "one_hot": len(local),
            "all_optimal": best,
            "draws": 60,
        },
        hypotheses={"attention has become one-hot in most": len(local) >= 50},
    )
