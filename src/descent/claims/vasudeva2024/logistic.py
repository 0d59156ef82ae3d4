"""Claims of the chapter that leads from logistic regression to attention."""

import math

import torch
from torch import Tensor

from ... import draws, margin, problems
from ...models import Selection, SelectionWeights
from ...models.selection import optimal, scores
from ...problems import Problem
from ...theorems import Standing
from .._record import Evidence, Verdict, claim

LOGISTIC = "vasudeva2024/logistic"


def normal(*shape: int, seed: int) -> Tensor:
    """Independent standard normal entries, float64."""
    return draws.normal(seed, "normal", shape)


#: Points (their number in twice as many dimensions, and the seed) that are all active.
DATA = ((3, 1), (4, 7), (5, 2), (6, 7))


def project(w: Tensor, on: Tensor) -> Tensor:
    """The part of each w (runs, p) along one vector (p)."""
    return (w @ on)[:, None] * on / on.square().sum()


def constant(x: Tensor, alpha: Tensor, start: Tensor) -> Tensor:
    """The K of the theorem for each start (runs, p): r* lies in the start plus the points' span."""
    across = start - start @ torch.linalg.pinv(x) @ x
    r = across + torch.linalg.pinv(x) @ -alpha.log()
    return torch.linalg.vector_norm(r - project(r, alpha @ x), dim=-1)


def flow(x: Tensor, w: Tensor, length: float = 150.0, pieces: int = 3000) -> Tensor:
    """Gradient flow on the exponential loss of points x (n, p) from w (runs, p), piece by piece.

    All pieces have the same length, since the path does not depend on how fast it is walked; each
    is half made along the slope in its middle (the midpoint rule).
    """
    step = length / pieces

    def slope(w: Tensor) -> Tensor:
        G = torch.softmax(-w @ x.mT, -1) @ x
        return G / torch.linalg.vector_norm(G, dim=-1, keepdim=True)

    for _ in range(pieces):
        w = w + step * slope(w + step / 2 * slope(w))
    return w


def descent(x: Tensor, w: Tensor, steps: int = 20_000) -> Tensor:
    """Gradient descent with step 1 on the mean logistic loss of x (n, p) from w (runs, p)."""
    for _ in range(steps):
        w = w + torch.sigmoid(-w @ x.mT) @ x / len(x)
    return w


@claim(
    "soudry2018-direction",
    title="Where gradient flow goes, and how slowly",
    box="thm-soudry",
    standing=Standing.PROVED,
    paper="soudry2018",
    number="Theorem 3, for gradient flow on the exponential loss, with the constant",
    statement=r"If all points are active in the hard-margin SVM, linearly independent, with duals "
    r"$\alpha_i > 0$, the error of the direction times $\|w\|$ tends to $K = \|P r^*\|$ with "
    r"$x_i^\top r^* = -\log\alpha_i$; descent on the logistic loss is seen to do the same.",
    verdict=Verdict.HOLDS,
    chapter=LOGISTIC,
    mutations={"the constant of equal duals": {"power": 0.0}, "two per cent more": {"share": 1.02}},
)
def direction(power: float = 1.0, share: float = 1.0) -> Evidence:
    """Four data sets of three to six points, eight starts each: flow to length 150, 20 000 steps."""
    ratios: dict[str, list[Tensor]] = {"flow": [], "descent": []}
    least = math.inf
    for n, seed in DATA:
        x, start = normal(n, 2 * n, seed=seed), normal(8, 2 * n, seed=100 + seed)
        alpha, _ = margin.hard_margin(x @ x.mT)
        least = min(least, float(alpha.amin() / alpha.amax()))
        K, best = share * constant(x, alpha**power, start), alpha @ x
        for name, w in (("flow", flow(x, start)), ("descent", descent(x, start))):
            across = torch.linalg.vector_norm(w - project(w, best), dim=-1)
            ratios[name].append(across / K)  # the length across is the error times the norm
    seen = {name: torch.cat(each) for name, each in ratios.items()}
    off = {name: float((each - 1).abs().max()) for name, each in seen.items()}
    return Evidence(
        conclusions={
            "flow: the error times the norm is K to 0.1 %": off["flow"] < 1e-3,
            "descent: K to 3 %, so far": off["descent"] < 0.03,
        },
        numbers={
            "largest_deviation_of_flow": off["flow"],
            "largest_deviation_of_descent": off["descent"],
            "runs": sum(len(each) for each in seen.values()),
        },
        hypotheses={"all points are active": least > 1e-3},
    )


@claim(
    "vasudeva2024-soft-margin",
    title="The soft margin, and the loss in soft margins",
    box="prop-equal-scores",
    standing=Standing.PROVED,
    uses=("lem-soft-margin",),
    paper="Descent",
    number="Proposition",
    statement=r"The optimal token has the attention $\sigma(m_i)$ with "
    r"$m_i = -\log\sum_t e^{-g_{it}}$, between $\min_t g_{it} - \log(T-1)$ and $\min_t g_{it}$. "
    r"With equal non-optimal scores "
    r"$-\nabla\widehat L = \sum_i c_i\sum_t\tilde\varphi_{it}A_{it}$, and $\widehat L$ is convex "
    r"where all $m_i \ge 0$.",
    verdict=Verdict.HOLDS,
    chapter=LOGISTIC,
    mutations={
        "the least gap for the soft margin": {"hard": True},
        "convexity everywhere": {"least": -math.inf},
    },
)
def soft_margin(hard: bool = False, least: float = 0.0) -> Evidence:
    """N = 5, n = 4, D = 8, 400 pairs of W: half of them near W_mm, where the loss is convex."""
    problem, u = problems.planted(N=5, n=4, D=8, seed=0)
    layer, best = Selection(), margin.svm(problem, u)
    W = 4 * normal(2, 400, 8, 8, seed=1) + 8 * torch.linspace(0, 3, 400)[:, None, None] * best.W
    at = SelectionWeights(W, u.expand(2, 400, 8))
    gaps = margin.products(W, margin.differences(problem, best.selected), problem.X[:, 0])
    gaps = torch.where(best.constrained, gaps, torch.inf)
    m = gaps.amin(-1) if hard else -torch.logsumexp(-gaps, -1)
    attention = layer.attention(at, problem)
    on_optimal = torch.gather(attention, -1, best.selected.expand(2, 400, 5)[..., None])[..., 0]
    _, gradient = layer.loss_and_gradient(at, problem)
    error = gradient["W"] + pull(problem, u, attention, m)
    inside = (m >= least).all(-1).all(0)
    middle = layer.loss(SelectionWeights(W.mean(0), at.u[0]), problem)
    bulge = (middle - layer.loss(at, problem).mean(0))[inside]
    low = gaps.amin(-1)
    near = layer.soft_margins(at._replace(W=1e-3 * W), problem, best.selected)
    below = torch.cat([low - m, 1e-3 * low - near]) / math.log(problem.n - 1)
    bounds = "the soft margin lies between its bounds"
    return Evidence(
        conclusions={
            "attention is the sigmoid of the soft margin": worst(on_optimal - m.sigmoid()) < 1e-13,
            bounds: bool(((below > -1e-12) & (below < 1 + 1e-12)).all()),
            "the gradient is as stated": worst(error) < 1e-13,
            "the loss in the middle is at most the mean": float(bulge.max()) < 1e-14,
        },
        numbers={
            "largest_error_of_attention": worst(on_optimal - m.sigmoid()),
            "largest_error_of_gradient": worst(error),
            "pairs_in_the_convex_set": int(inside.sum()),
            "largest_excess_in_the_middle": float(bulge.max()),
        },
        hypotheses={"a quarter of the pairs lies in the convex set": int(inside.sum()) >= 100},
        sharpness={bounds: (float(below.median()), float(below.max()))},
    )


def worst(error: Tensor) -> float:
    """The largest absolute entry."""
    return float(error.abs().max())


def pull(problem: Problem, u: Tensor, attention: Tensor, m: Tensor) -> Tensor:
    r"""The sum of all :math:`c_i\tilde\varphi_{it}A_{it}`, logistic loss: minus the gradient.

    With :math:`\tilde\varphi_{it} = \varphi_{it}/\sigma(-m_i)` it is
    :math:`\frac1N\sigma(-f_i)\Delta_i\sigma(m_i)\varphi_{it}A_{it}`.
    """
    gamma = scores(problem, u)
    selected = optimal(gamma)
    Delta = gamma.amax(-1) - gamma.amin(-1)
    f = gamma.amin(-1) + Delta * m.sigmoid()
    weights = (Delta * (-f).sigmoid() * m.sigmoid() / problem.N)[..., None] * attention
    a, z = margin.differences(problem, selected), problem.X[..., 0, :]
    return torch.einsum("...it,ita,ib->...ab", weights, a, z)


@claim(
    "vasudeva2024-feasible",
    title="The nearest point, the duals, and the certificate",
    box="prop-nearest",
    standing=Standing.PROVED,
    paper="Descent",
    number="Proposition",
    statement=r"Random tokens in $d \ge \max(T-1, n)$ dimensions can be selected at will: (SVM) is "
    r"feasible, $W_{\mathrm{mm}} = \sum\alpha_{it}A_{it}$ with $\alpha \ge 0$ on active constraints "
    r"and $\sum\alpha_{it} = \|W_{\mathrm{mm}}\|_F^2$. Where it is not feasible, a convex combination "
    r"of the $A_{it}$ is zero. For orthonormal tokens "
    r"$W_{\mathrm{mm}} = \sum_i(x_{i,\mathrm{opt}_i} - \bar x_i)z_i^\top$.",
    verdict=Verdict.HOLDS,
    chapter=LOGISTIC,
    mutations={
        "fewer dimensions": {"dimensions": 2},
        "twice the multipliers": {"factor": 2.0},
        "equal weights in the certificate": {"equal": True},
        "tokens a tenth from orthonormal": {"tilt": 0.1},
    },
)
def feasible(
    dimensions: int = 4, factor: float = 1.0, equal: bool = False, tilt: float = 0.0
) -> Evidence:
    """N = 4, n = 5: forty draws in four dimensions, forty in two, and orthonormal tokens."""
    solved, off, slack = 0, 0.0, 0.0
    for seed in range(40):
        problem, u = problems.unit_tokens(N=4, n=5, D=dimensions, seed=seed)
        try:
            found = margin.svm(problem, u)
        except margin.Infeasible:
            continue
        solved += 1
        off = max(off, abs(factor * float(found.duals.sum()) / found.norm**2 - 1))
        slack = max(slack, worst(found.duals * (found.margins - 1)) / float(found.duals.max()))
        slack = max(slack, -float(found.duals.min()))
    certified = [certificate(seed, equal) for seed in range(40)]
    exact, u = problems.orthonormal_tokens(N=4, n=5, D=24, seed=0)
    found = margin.svm(Problem(exact.X + tilt * exact.X.roll(1, 1), exact.y), u)
    closed = worst(found.W - margin.orthonormal(exact, found.selected))
    return Evidence(
        conclusions={
            "every draw is feasible": solved == 40,
            "the multipliers add up to the squared norm": solved > 0 and off < 1e-8,
            "they are non-negative, and zero where inactive": solved > 0 and slack < 1e-8,
            "in two dimensions the infeasible have a zero combination": max(certified) < 1e-9,
            "the closed form": closed < 1e-10 and abs(found.norm**2 - 4 * 4 / 5) < 1e-10,
        },
        numbers={
            "draws": 40,
            "largest_error_of_the_sum": off,
            "largest_slackness": slack,
            "infeasible_in_two_dimensions": sum(length > 0 for length in certified),
            "largest_length_of_a_certificate": max(certified),
            "error_of_the_closed_form": closed,
        },
        hypotheses={"some are infeasible in two dimensions": max(certified) > 0},
    )


def certificate(seed: int, equal: bool) -> float:
    """The length of the convex combination that is said to be zero; 0 where all can be selected."""
    problem, u = problems.unit_tokens(N=4, n=5, D=2, seed=seed)
    try:
        margin.svm(problem, u)
    except margin.Infeasible as proof:
        a, z = margin.differences(problem, optimal(scores(problem, u))), problem.X[..., 0, :]
        weights = proof.weights
        if equal:
            weights = torch.full_like(weights, 1 / weights.numel())
        convex = float(weights.min()) >= 0 and abs(float(weights.sum()) - 1) < 1e-12
        length = float(torch.linalg.vector_norm(margin.combine(weights, a, z)))
        return max(length, 1e-300) if convex else math.inf
    return 0.0
