"""Claims of the chapter on sparse attention."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ... import problems, steps, theorems
from ...models import Selection
from ...theorems import SelectionStart, Standing
from .._record import Evidence, Verdict, claim
from ._shared import LAYER, bolder, norm, planted, scaled, seen
from .convergence import all_active

SPARSITY = "vasudeva2024/sparsity"


def rest(at: SelectionStart, W: Tensor) -> Tensor:
    """Logarithm of the largest share of attention that goes elsewhere than to an optimal token."""
    return logsigmoid(-at.m(W).amin(-1))


@claim(
    "vasudeva2024-sparsity",
    theorem="vasudeva2024-sparsity",
    paper="Descent",
    number="Theorem",
    statement=r"$\frac12 e^{-\|W\|/\|W_{mm}\|} \le \max_i(1 - \varphi_{i,opt}) \le (T-1)\,"
    r"e^{-\|W\|(1/\|W_{mm}\| - B\,\mathrm{err})}$ for every $W$: no matrix of its length makes "
    r"attention sparser than that of the margin, up to a constant.",
    verdict=Verdict.HOLDS,
    chapter=SPARSITY,
    mutations={"a rate 2 % off": {"times": 1.02}},
)
def sparsity(times: float = 1.0) -> Evidence:
    """Two draws, eight starts each, 2 500 normalised steps; and orthonormal tokens from zero, two
    and three a sequence, where W keeps to the margin and both constants are attained."""
    theorem = theorems.get("vasudeva2024-sparsity")
    outcomes = [theorem(LAYER, *planted(seed, runs=8)).trial(2500) for seed in range(2)]
    for n in (2, 3):
        problem, u = problems.orthonormal_tokens(4, n, 14, seed=0)
        start = LAYER.init(problem, seed=0, scale=0, u=u)
        outcomes.append(theorem(LAYER, problem, start).trial(100))
    return Evidence.of(outcomes, conclusions=bolder(outcomes, times))


@claim(
    "vasudeva2024-sparsity-slope",
    title="The slope of sparsity",
    box="thm-sparsity",
    standing=Standing.OBSERVED,
    uses=("thm-sharp-law",),
    paper="Descent",
    number="Corollary",
    statement=r"Under normalised descent $\log\max_i(1 - \varphi_{i,opt})$ falls with $\|W\|$ at "
    r"the slope $-1/\|W_{mm}\|$, to a tenth of a per cent.",
    verdict=Verdict.HOLDS,
    chapter=SPARSITY,
    mutations={"2 % more": {"times": 1.02}},
)
def sparsity_slope(times: float = 1.0) -> Evidence:
    """Eight draws, four starts each, between 450 and 900 steps."""
    off = 0.0
    for seed in range(8):
        problem, weights = planted(seed)
        at = SelectionStart(LAYER, problem, weights)
        W, _ = seen(problem, weights, steps.normalised(0.5), [450, 900])
        slope = rest(at, W).diff(dim=0) / norm(W).diff(dim=0)
        off = max(off, float((slope * at.length * times + 1).abs().max()))
    return Evidence(
        conclusions={"to a tenth of a per cent": off < 1e-3},
        numbers={"largest_deviation": off, "runs": 32},
    )


@claim(
    "vasudeva2024-descent-sparsity",
    title="Sparsity under plain descent",
    box="thm-descent-sparsity",
    standing=Standing.PROVED,
    uses=("thm-polyak-margin", "thm-rate"),
    paper="Descent",
    number="Theorem",
    statement=r"With equal non-optimal scores, under descent with a constant step $\eta \le 1/L$, "
    r"once all $\varphi_{i,opt} \ge \frac12$, $\max_i(1 - \varphi_{i,opt}) = \Theta(1/t)$, "
    r"$\|W_t\|/\log t \to \|W_{mm}\|$ and $1 - \mathrm{corr}_t = O(\log\log t/\log t)$.",
    verdict=Verdict.HOLDS,
    chapter=SPARSITY,
    mutations={
        "normalised steps": {"normalise": True},
        "steps so short that no token wins": {"eta": 1e-3},
    },
)
def descent_sparsity(normalise: bool = False, eta: float = 0.6) -> Evidence:
    """Two draws, four starts each of length 1, 6 000 steps of descent on the loss."""
    turn, grow, slow, convex, steepest = 0.0, 0.0, -math.inf, 1.0, 0.0
    for seed in range(2):
        problem, weights = planted(seed, scale=1.0)
        at = SelectionStart(LAYER, problem, weights)
        step = steps.normalised(0.01) if normalise else eta
        W, _ = seen(problem, weights, step, [600, 1900, 6000], Selection())
        t = torch.tensor([600.0, 1900.0, 6000.0], dtype=torch.float64)[:, None]
        left, beyond = t.log() + rest(at, W), at.R(W) - t.log()
        turn = max(turn, float(left.diff(dim=0).abs().max()))
        grow = max(grow, float(beyond.diff(dim=0).abs().max()))
        missing = (1 - at.mm.correlation(W)) * t.log() / t.log().log()
        slow = max(slow, float(missing.log().diff(dim=0).max()))
        convex = min(convex, float(torch.sigmoid(at.m(W)).min()))
        steepest = max(steepest, float(curvature(at)))
    return Evidence(
        conclusions={
            "t times the share left changes by less than a fifth in half a decade": turn < 0.2,
            "R - log t changes by less than 0.2 in half a decade": grow < 0.2,
            "1 - corr falls at least like log log t / log t": slow < 0,
        },
        numbers={
            "largest_change_of_log_share": turn,
            "largest_change_of_R": grow,
            "slowest_fall_of_the_rest": slow,
            "bound_of_the_curvature": steepest,
            "runs": 8,
        },
        hypotheses={
            "optimal tokens have half of the attention": convex >= 0.5,
            "η ≤ 1/L": eta * steepest <= 1,
        },
    )


def curvature(at: SelectionStart) -> Tensor:
    r"""A bound on the curvature of the logistic loss, wherever W is: equal non-optimal scores.

    The loss of sequence i is :math:`h(m_i)` with :math:`|h'| \le \Delta\sup|\ell'|/4` and
    :math:`|h''| \le \Delta^2/64 + \Delta\sup|\ell'|/(6\sqrt3)`. The soft margin has a gradient of
    length at most B, and minus its second derivative is a variance of the A_it, at most B^2.
    """
    steep = at.gap * at.slope(at.others.mean(-1))
    each = at.gap.square() / 64 + steep * (1 / 4 + 1 / (6 * 3**0.5))
    return at.B.square() * each.mean()


@claim(
    "vasudeva2024-underflow",
    title="Where float64 ends, and where it need not",
    box="eq-naive",
    standing=Standing.OBSERVED,
    paper="Descent",
    number="Equation",
    statement=r"Normalised descent by $X^\top(\mathrm{diag}\,\varphi - \varphi\varphi^\top)\gamma$ "
    r"in float64 turns away from the margin once $1 - \varphi < 10^{-16}$; by differences of "
    r"scores and logarithms of weights it keeps the sharp law to $\|W\| = 15\,000$.",
    verdict=Verdict.HOLDS,
    chapter=SPARSITY,
    mutations={
        "the naive gradient for ours": {"careful": False},
        "fifty steps, before float64 ends": {"count": 50},
    },
)
def underflow(careful: bool = True, count: int = 400) -> Evidence:
    """Two draws: 400 steps of 0.5 either way, and 6 300 steps of 2.4 the careful way."""
    wandered, kept, far, longest = 2.0, 0.0, 0.0, 0.0
    for problem, weights in all_active(2):
        weights = weights._replace(W=weights.W[:1], u=weights.u[:1])
        at = SelectionStart(LAYER, problem, weights)
        astray = wander(at, count)
        wandered = min(wandered, float(at.mm.error(astray)))
        ours = W = astray
        if careful:
            ours = seen(problem, weights, steps.normalised(0.5), [count])[0][-1]
            W = seen(problem, weights, steps.normalised(2.4), [6300])[0][-1]
        kept = max(kept, float((scaled(at, ours) / at.K - 1).abs().max()))
        far = max(far, float((scaled(at, W) / at.K - 1).abs().max()))
        longest = max(longest, float(norm(W).max()))
    return Evidence(
        conclusions={
            "the naive gradient ends astray": wandered > 0.3,
            "ours keeps the sharp law, to 1 %": kept < 0.01,
            "and further on": far < 0.01 and longest > 15_000,
        },
        numbers={"error_of_naive": wandered, "deviation_of_ours": kept, "longest": longest},
    )


def wander(at: SelectionStart, count: int) -> Tensor:
    """Normalised steps of 0.5 by the formula with the Jacobian of the softmax."""
    X, z, W = at.problem.X, at.z, at.weights.W[0]
    for _ in range(count):
        p = torch.softmax((X @ (z @ W.mT)[..., None]).squeeze(-1), -1)
        f = (p * at.gamma).sum(-1)
        J = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        pull = torch.sigmoid(-f)[:, None] * (J @ at.gamma[..., None]).squeeze(-1)
        G = torch.einsum("nt,ntd,ne->de", pull, X, z)
        W = W + 0.5 * G / norm(G).clamp_min(1e-300)
    return W
