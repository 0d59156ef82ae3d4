"""Claims of the chapter on linear attention with merged and with separate keys and queries."""

import itertools
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ... import draws, symbolic, theorems
from ..._descend import descend
from ...models import linear_attention
from ...models.in_context import Prompts
from ...models.linear_attention import LinearAttention, Weights
from ...problems import Problem
from ...theorems import Standing
from .._record import Evidence, Verdict, claim

PAPER, CHAPTER = "zhang2025", "kim2024/merged"
SPREAD, WHITE = (1.0, 0.6, 0.35), (0.7, 0.7, 0.7)


def turned(spectrum: tuple[float, ...], seed: int = 0) -> Problem:
    """Inputs of that spectrum whose principal axes are no coordinate axes."""
    straight = linear_attention.inputs(list(spectrum))
    axes = torch.linalg.qr(draws.normal(seed, "axes", (straight.D, straight.D)))[0]
    return Problem(straight.X @ axes.mT, straight.y)


def silent(problem: Problem) -> Tensor:
    """The loss of the answer zero."""
    return problem.tokens.square().sum() / len(problem.tokens) / 2


# ---------------------------------------------------------------------------- the loss


def signs(prompts: Prompts, problem: Problem) -> Prompts:
    """The same tasks on inputs of equal second moment that are not normal: signs along the axes."""
    values, E = torch.linalg.eigh(problem.tokens.mT @ problem.tokens / len(problem.tokens))
    X, query = (((Z @ E).sign() * values.sqrt()) @ E.mT for Z in (prompts.X, prompts.query))
    w = torch.linalg.lstsq(prompts.X, prompts.y[..., None]).solution
    return Prompts(X, (X @ w).squeeze(-1), query, (query[:, None] @ w).flatten())


@claim(
    "linear-attention-loss",
    title="The loss of linear attention",
    box="prop-linear-loss",
    standing=Standing.PROVED,
    paper="Descent",
    number="Proposition",
    statement=r"For inputs $N(0,\Lambda)$ and tasks $N(0,I)$ the expected loss is $\frac12\mathrm{tr}"
    r"\,\Lambda-\mathrm{tr}\,\Lambda^2M+\frac12\mathrm{tr}\,GM\Lambda M^\top$ with "
    r"$G=(1+\frac1n)\Lambda^2+\frac1n\mathrm{tr}(\Lambda)\Lambda$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "infinite prompts": {"longer": 10**9},
        "inputs that are signs": {"normal": False},
    },
)
def linear_attention_loss(longer: int = 1, normal: bool = True) -> Evidence:
    """40 000 prompts of 4 and of 16 pairs for merged heads and heads of rank 1 and 2; and SymPy."""
    problem, scores, gaps = turned(SPREAD), [], []
    for n, rank in itertools.product((4, 16), (None, 1, 2)):
        model = LinearAttention(H=2, n=n, rank=rank)
        weights = model.init(problem, seed=1, scale=1.2)
        drawn = linear_attention.prompts(problem, 40_000, n, seed=n)
        drawn = drawn if normal else signs(drawn, problem)
        found = (model.predict(weights, drawn) - drawn.answer).square() / 2
        asked = LinearAttention(2, n * longer, rank)
        exact = asked.loss(weights, problem)
        scores.append(float((found.mean() - exact) / found.std() * len(found) ** 0.5))
        gaps.append(abs(by_sympy(model) - float(straight_loss(asked))))
    worst = max(map(abs, scores))
    return Evidence(
        {
            "formula and prompts agree to four standard errors": worst < 4,
            "formula and SymPy agree": max(gaps) < 1e-12,
        },
        {"largest_distance_in_standard_errors": worst, "largest_gap_to_sympy": max(gaps)},
    )


def straight_loss(model: LinearAttention) -> Tensor:
    """The loss of drawn weights where Lambda is diagonal, in two dimensions."""
    problem = linear_attention.inputs([1.0, 0.5])
    return model.loss(model.init(problem, seed=2), problem)


def by_sympy(model: LinearAttention) -> float:
    """The same from the moments of normal inputs, entry by entry."""
    derived = symbolic.linear_attention(model.H, 2, model.rank)
    weights = model.init(linear_attention.inputs([1.0, 0.5]), seed=2)
    values = dict(zip(derived.spectrum, (1.0, 0.5), strict=True)) | {derived.n: model.n}
    for letter, W in weights._asdict().items():
        entries = derived.weights[letter]
        flat = entries if letter == "V" else [e for block in entries for e in block]
        values |= dict(zip(flat, W.flatten().tolist(), strict=True))
    return float(derived.loss.subs(values))


@claim(
    "linear-attention-balance",
    title="What the flow keeps",
    box="lem-balance",
    standing=Standing.PROVED,
    paper="Descent",
    number="Lemma",
    statement=r"Gradient flow keeps $v_hv_j-\langle U_h,U_j\rangle$ for all pairs of merged heads, "
    r"and for each separate head $v^2-\|K\|^2$ and $K^\top K-Q^\top Q$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"steps of gradient descent instead of the flow": {"step": 0.2}},
)
def linear_attention_balance(step: float = 0.0) -> Evidence:
    """Eight random starts of three merged heads, of rank one and of rank two, to time 60."""
    problem, moved, kept = turned(SPREAD), [], []
    for rank in (None, 1, 2):
        model = LinearAttention(H=3, n=20, rank=rank)
        start = model.init(problem, seed=3, runs=8, scale=0.6)
        if step:
            end = descend(model, problem, start, step=step, steps=round(60 / step)).weights
        else:
            path = model.flow(start, problem, torch.tensor([0.0, 60.0]).double())
            end = type(start)(*(W[-1] for W in path))
        moved.append(float((end[1] - start[1]).flatten(1).norm(dim=1).min()))
        gaps = zip(balance(end), balance(start), strict=True)
        kept.append(max(float((a - b).abs().max()) for a, b in gaps))
    return Evidence(
        {"kept to a millionth": max(kept) < 1e-6},
        {"largest_change": max(kept), "least_move": min(moved)},
        {"all heads move": min(moved) > 0.1},
    )


def balance(weights: Weights) -> tuple[Tensor, ...]:
    """What the flow keeps."""
    v = weights.V
    if isinstance(weights, linear_attention.MergedWeights):
        flat = weights.U.flatten(-2)
        return (v[..., :, None] * v[..., None, :] - flat @ flat.mT,)
    inner = weights.K.mT @ weights.K, weights.Q.mT @ weights.Q
    return v.square() - weights.K.square().sum((-2, -1)), inner[0] - inner[1]


# ---------------------------------------------------------------------------- critical points


def scattered(model: LinearAttention, problem: Problem, seed: int, runs: int) -> Weights:
    """Random starts of lengths from 0.1 to 10."""
    size = 10 ** (2 * draws.uniform(seed, "size", (1,), runs) - 1)
    start = model.init(problem, seed=seed, runs=runs)
    return type(start)(*(size.view(-1, *[1] * (W.ndim - 1)) * W for W in start))


def around_saddles(model: LinearAttention, problem: Problem, seed: int, each: int) -> Weights:
    """Starts near a head for each direction of a set, the other heads short, for all sets."""
    D = problem.D
    sets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * D).repeat(each, 1)
    full = model.best(problem).trace() / D
    size = full ** (1 / 3) * sets[:, : model.H]
    ahead = model.aligned(problem, 1.0)
    noise = model.init(problem, seed=seed, runs=len(sets), scale=0.2)
    scale = [size.view(*size.shape, *[1] * (W.ndim - 1)) for W in ahead]
    return type(ahead)(*(s * W + E for s, W, E in zip(scale, ahead, noise, strict=True)))


def critical(model: LinearAttention, problem: Problem, start: Weights) -> tuple[Tensor, ...]:
    """Points where the squared gradient is driven to rounding: M, loss, the Hessian's least eigenvalue.

    Levenberg and Marquardt, each run with a damping of its own; runs that end elsewhere are left
    out.
    """
    shapes = [W.shape[1:] for W in start]
    theta = torch.cat([W.flatten(1) for W in start], 1)
    sizes, at = [W[0].numel() for W in start], model.landscape(problem)

    def placed(flat: Tensor) -> Weights:
        parts = zip(flat.split(sizes, -1), shapes, strict=True)
        return type(start)(*(part.unflatten(-1, shape) for part, shape in parts))

    def loss(flat: Tensor) -> Tensor:
        return model._value(model.joined(placed(flat)), at)[0]

    slope, bend = (torch.func.vmap(of(loss)) for of in (torch.func.grad, torch.func.hessian))
    theta = _levenberg(theta, slope, bend)
    good = slope(theta).norm(dim=1) < 1e-11
    theta = theta[good]
    least = torch.linalg.eigvalsh(bend(theta))[:, 0]
    return model.joined(placed(theta)), loss(theta), least


def _levenberg(theta: Tensor, slope: Callable, bend: Callable) -> Tensor:
    damping = theta.new_full((len(theta), 1, 1), 1e-2)
    g = slope(theta)
    eye = torch.eye(theta.shape[1], dtype=theta.dtype)
    for _ in range(120):
        H = bend(theta)
        step = torch.linalg.solve(H @ H + damping * eye, (H @ g[..., None]))[..., 0]
        tried = theta - step
        new = slope(tried)
        good = new.norm(dim=1) < g.norm(dim=1)
        theta, g = (torch.where(good[:, None], a, b) for a, b in ((tried, theta), (new, g)))
        damping = damping * torch.where(good, 0.2, 5.0)[:, None, None]
        damping = damping.clamp(1e-18, 1e6)
    return theta


@cache
def of_two_heads(rank: int | None) -> tuple[Tensor, ...]:
    """Critical points of two heads in three dimensions from 100 starts."""
    problem, model = turned(SPREAD), LinearAttention(H=2, n=20, rank=rank)
    return critical(model, problem, scattered(model, problem, 4, 100))


@claim(
    "zhang2025-two-fixed-points",
    title="Merged heads have two critical values",
    box="thm-two-values",
    standing=Standing.PROVED,
    uses=("prop-linear-loss",),
    paper=PAPER,
    number="Abstract",
    statement=r"The loss of merged heads has two critical values, $\frac12\mathrm{tr}\,\Lambda$ where "
    r"$M=0$ and the least where $M=G^{-1}\Lambda$; at the first the Hessian has a negative "
    r"eigenvalue.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "keys and queries apart": {"rank": 1},
        "the best M for zero": {"bent": "best"},
    },
)
def two_fixed_points(rank: int | None = None, bent: str = "zero") -> Evidence:
    """Critical points of two heads in three dimensions from 100 starts."""
    problem = turned(SPREAD)
    model = LinearAttention(H=2, n=20, rank=rank)
    M, loss, least = of_two_heads(rank)
    zero, best = silent(problem), model.least(problem)
    of_zero, of_best = (loss - zero).abs() < 1e-9, (loss - best).abs() < 1e-9
    apart = (M - model.best(problem)).flatten(1).norm(dim=1)
    return Evidence(
        {
            "every critical value is one of the two": bool((of_zero | of_best).all()),
            "M is zero or the best": bool(
                (torch.minimum(M.flatten(1).norm(dim=1), apart) < 1e-6).all()
            ),
            "where M is zero the loss bends down": bool(
                (least[{"zero": of_zero, "best": of_best}[bent]] < -0.01).all()
            ),
        },
        {"points": len(loss), "of_them_at_zero": int(of_zero.sum())},
        {"both are found": bool(of_zero.any() and of_best.any())},
    )


@claim(
    "zhang2025-saddles",
    title="Separate heads have a saddle for every set of eigenvectors",
    box="thm-saddles",
    standing=Standing.PROVED,
    uses=("prop-linear-loss",),
    paper=PAPER,
    number="Abstract",
    statement=r"With distinct eigenvalues the critical values of separate heads are $\frac12\mathrm{tr}"
    r"\,\Lambda-\frac12\sum_{i\in S}\lambda_i^3/g_i$, one for each set $S$ of at most as many "
    r"eigenvectors as the heads have columns.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "values of infinite prompts": {"longer": 10**9},
        "keys and queries merged": {"rank": None},
    },
)
def saddles(longer: int = 1, rank: int | None = 1) -> Evidence:
    """Three heads of rank one in three dimensions: critical points from 100
    starts anywhere and 48 near the saddles."""
    problem = turned(SPREAD)
    model = LinearAttention(H=3, n=20, rank=rank)
    gains = LinearAttention(3, 20 * longer, 1).gains(problem)
    sets = [S for m in range(4) for S in itertools.combinations(range(3), m)]
    values = torch.stack([silent(problem) - gains[list(S)].sum() for S in sets])
    starts = [scattered(model, problem, 4, 100)]
    if rank is not None:
        starts.append(around_saddles(model, problem, 4, each=6))
    loss = torch.cat([critical(model, problem, start)[1] for start in starts])
    gap = (loss[:, None] - values).abs()
    nearest, which = gap.min(1)
    return Evidence(
        {
            "every critical value found is one of these": float(nearest.max()) < 1e-9,
            "each of these is found": len(set(which[nearest < 1e-9].tolist())) == len(sets),
        },
        {"points": len(loss), "sets": len(sets), "largest_gap": float(nearest.max())},
    )


# ---------------------------------------------------------------------------- merged


@claim(
    "zhang2025-time-course",
    title="The exact solution for white inputs",
    box="thm-white",
    standing=Standing.PROVED,
    uses=("prop-linear-loss",),
    paper=PAPER,
    number="Abstract",
    statement=r"For $\Lambda=\lambda I$, merged heads that start balanced and along the identity "
    r"follow a logistic curve of rate $2\sqrt D\lambda^2$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "inputs that are not white": {"spectrum": SPREAD},
        "infinite prompts": {"longer": 10**9},
        "half the rate": {"rate": 1.0},
    },
)
def time_course(
    spectrum: tuple[float, ...] = WHITE, longer: int = 1, rate: float = 2.0
) -> Evidence:
    """Four heads that start at 0.3, 0.03 and 0.003."""
    problem, model = turned(spectrum), LinearAttention(H=4, n=10)
    size = torch.tensor([0.3, 0.03, 0.003]).double()
    times = torch.linspace(0, 20, 101).double()
    path = model.joined(model.flow(model.aligned(problem, size), problem, times))
    lam, D = sum(spectrum) / 3, 3
    m = 1 / (lam * (1 + (1 + D) / (10 * longer)))
    begun = size**2 / D**0.5
    curve = m / (1 + (m / begun - 1) * torch.exp(-rate * D**0.5 * lam**2 * times[:, None]))
    gap = path - curve[..., None, None] * torch.eye(D).double()
    return Evidence(
        {"the flow is on the curve": float(gap.abs().max()) < 1e-6 * m},
        {"largest_gap": float(gap.abs().max()), "last_share": float(curve[-1].min() / m)},
    )


@claim(
    "merged-escape",
    title="How long merged heads wait",
    box="prop-merged-escape",
    standing=Standing.PROVED,
    uses=("prop-linear-loss",),
    paper="Descent",
    number="Proposition",
    statement=r"From starts $\varepsilon$ times fixed weights merged heads leave the plateau after "
    r"$\frac1\rho\ln\frac1\varepsilon+O(1)$, $\rho=\|\Lambda^2\|_F$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"keys and queries apart": {"rank": 1}},
)
def merged_escape(rank: int | None = None) -> Evidence:
    """20 random starts of four heads at three sizes: when half of what can be learned is."""
    problem, half = turned(SPREAD), []
    model = LinearAttention(H=4, n=20, rank=rank)
    rho = torch.linalg.matrix_norm(model.landscape(problem).square)
    times = torch.linspace(0, 40, 8001).double()
    for size in (1e-2, 1e-3, 1e-4):
        start = model.init(problem, seed=10, runs=20, scale=size)
        left = model.loss(model.flow(start, problem, times), problem) - model.least(problem)
        half.append(times[(left < left[0] / 2).int().argmax(0)])
    slopes = torch.stack(half).diff(dim=0) * rho / np.log(10)
    off = (slopes - 1).abs()
    return Evidence(
        {
            "a tenth of the start costs ln(10)/ρ": float(off[1].max()) < 0.01,
            "to leading order": float(off[1].max()) < float(off[0].max()),
        },
        {"largest_error": float(off[1].max()), "median_wait_at_1e-4": float(half[2].median())},
    )


@claim(
    "one-drop",
    theorem="one-drop",
    paper="Descent",
    number="Theorem",
    statement=r"For balanced merged heads what is left of the loss falls at least as fast as a sigmoid "
    r"of rate $\kappa=2(\frac12\mathrm{tr}\,\Lambda-\min L)\,g_{\min}\lambda_{\min}/"
    r"\|\Lambda^2\|_F$, whatever the size of the start.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"keys and queries apart": {"rank": 1}, "a rate 2.1 times as large": {"times": 2.1}},
)
def one_drop(rank: int | None = None, times: float = 1.0) -> Evidence:
    """Aligned starts from 0.5 down to 0.0005 and 40 random ones, white and not."""
    of, outcomes = theorems.get("one-drop"), []
    t = torch.linspace(0, 120, 241).double()
    for spectrum in (WHITE, SPREAD):
        problem = turned(spectrum)
        model = LinearAttention(H=4, n=20, rank=rank)
        size = torch.tensor([0.5, 0.05, 0.005, 0.0005]).double()
        outcomes.append(of(model, problem, model.aligned(problem, size), t).against())
        drawn = model.init(problem, seed=5, runs=40, scale=0.3)
        report = of(model, problem, drawn, t)
        met = report.hypotheses[-1].met
        chosen = type(drawn)(*(W[met] for W in drawn))
        outcomes.append(of(model, problem, chosen, t).against())
    best = max(float(o.conclusions[0].sharpness.max()) for o in outcomes)
    return Evidence.of(
        outcomes,
        conclusions={"the rate can be so large": times * best <= 1},
        largest_theta=max(float(o.report["θ"].max()) for o in outcomes),
        largest_share_of_the_fall=best,
    )


# ---------------------------------------------------------------------------- separate


@claim(
    "long-plateau",
    theorem="long-plateau",
    paper="Descent",
    number="Theorem",
    statement=r"Separate heads that are no longer than $a$ stay below $A$ for a time of at least "
    r"$(\frac1a-\frac1A)/(\lambda_1^2+Hg_1\lambda_1A^3)$, and the loss meanwhile falls by "
    r"$H\lambda_1^2A^3$ at most.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"keys and queries merged": {"rank": None}},
)
def long_plateau(rank: int | None = 1) -> Evidence:
    """Aligned heads from 0.03 and 0.003 and ten random starts, of rank one and of rank two."""
    of, problem, outcomes = theorems.get("long-plateau"), turned(SPREAD), []
    for each in (rank,) if rank is None else (rank, 2):
        model = LinearAttention(H=3, n=20, rank=each)
        starts = {size: model.aligned(problem, size) for size in (0.03, 0.003)}
        starts[0.02] = model.init(problem, seed=6, runs=10, scale=0.02)
        for size, start in starts.items():
            times = torch.linspace(0, 1.05 / size, 200).double()
            outcomes.append(of(model, problem, start, times, 0.2).against())
    return Evidence.of(outcomes, shortest=min(float(o.report["plateau"].min()) for o in outcomes))


@cache
def climbed(longer: int, value: float) -> tuple[float, Tensor]:
    """How far aligned heads are from each share at the time of the formula; the times (size, share, D)."""
    problem, errors, due = turned(SPREAD), [], []
    model = LinearAttention(H=3, n=20, rank=1)
    for size in (0.1, 0.01):
        start = model.aligned(problem, size)
        start = start._replace(V=value * start.V)
        for share in (0.1, 0.5, 0.9):
            wanted = linear_attention.climbing_time(
                LinearAttention(3, 20 * longer, 1), problem, size, share
            )
            path = model.flow(start, problem, torch.cat([torch.zeros(1).double(), wanted]))
            learned = model.learned(path, problem)[1:].diagonal()
            errors.append(float((learned - share).abs().max()))
            due.append(wanted)
    return max(errors), torch.stack(due).unflatten(0, (2, 3))


@claim(
    "aligned-heads",
    title="Aligned heads climb one by one",
    box="prop-aligned",
    standing=Standing.PROVED,
    uses=("prop-linear-loss",),
    paper="Descent",
    number="Proposition",
    statement=r"Balanced heads of rank one, one along each eigenvector, follow $\dot s=\lambda_i^2s^2-"
    r"g_i\lambda_is^5$ each by itself; the time to any share of $m_i^*$ is known in closed form and "
    r"is $1/\lambda_i^2\varepsilon+O(1)$ from a start of size $\varepsilon$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "infinite prompts": {"longer": 10**9},
        "values that start longer": {"value": 1.05},
        "the eigenvalues for their squares": {"power": 1},
    },
)
def aligned_heads(longer: int = 1, value: float = 1.0, power: int = 2) -> Evidence:
    """Starts of size 0.1 and 0.01 in three dimensions; the shares 0.1, 0.5 and 0.9."""
    error, times = climbed(longer, value)
    size, spectrum = torch.tensor([[0.1], [0.01]]).double(), torch.tensor(SPREAD).double()
    leading = (1 / (size * spectrum**power))[:, None]
    # what is beyond the leading order is the same from both sizes
    drift = float((times - leading).diff(dim=0).abs().max())
    return Evidence(
        {
            "at the time of the formula the share is learned": error < 1e-5,
            "the time is 1/λ²ε up to a constant": drift < 0.03,
        },
        {"largest_error": error, "largest_change_of_the_constant": drift},
    )


@claim(
    "lone-head",
    title="A head on a plateau",
    box="prop-lone-head",
    standing=Standing.PROVED,
    paper="Descent",
    number="Proposition",
    statement=r"Under a constant pull $R$ a head of rank one moves by one equation, $\ddot\tau=k^\top "
    r"Rq$ with $\dot\tau=v$; in general it is infinite after a finite time, and what grows of "
    r"$k\pm q$ is then along the top eigenvector, with the others less by $|v|^{\rho_i/\rho_1-1}$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"the eigenvalues instead of their squares": {"power": 1}},
)
def lone_head(power: int = 2) -> Evidence:
    """20 random heads in three dimensions, integrated in all their seven numbers."""
    problem = linear_attention.inputs([x ** (power / 2) for x in SPREAD])
    model = LinearAttention(H=1, n=20, rank=1)
    heads = model.init(problem, seed=7, runs=20)
    predicted = linear_attention.stairs(model, heads, problem).time[:, 0]
    rho = np.array(SPREAD) ** 2
    ends = [by_hand(rho, *(W[r].flatten().numpy() for W in heads)) for r in range(20)]
    time = torch.tensor([end[0] for end in ends])
    slope = torch.tensor(np.array([end[1] for end in ends]))
    error = (time / predicted - 1).abs()
    wanted = torch.tensor(np.array(SPREAD[1:]) ** power - 1)  # the largest is one
    return Evidence(
        {
            "the time is that of the one equation": float(error.max()) < 1e-4,
            "the others fall back by the power": float((slope - wanted).abs().max()) < 0.01,
        },
        {"largest_error_of_time": float(error.max()), "median_time": float(time.median())},
    )


def by_hand(rho: np.ndarray, v: np.ndarray, k: np.ndarray, q: np.ndarray) -> tuple:
    """When the head is infinite, and the powers of |v| at which |k_i / k_1| falls, i > 1."""

    def slope(_: float, z: np.ndarray) -> np.ndarray:
        v, k, q = z[0], z[1:4], z[4:]
        return np.concatenate([[k @ (rho * q)], v * rho * q, v * rho * k])

    def reaches(size: float) -> Callable:
        def event(_: float, z: np.ndarray) -> float:
            return abs(z[0]) - size

        event.terminal = size > 1e5
        return event

    events = [reaches(1e3), reaches(1e6)]
    start = np.concatenate([v, k, q])
    run = solve_ivp(slope, (0, 1e4), start, "DOP853", events=events, rtol=1e-11, atol=1e-12)
    early, late = (run.y_events[j][-1] for j in (0, 1))
    time = run.t[-1] + 1 / (rho[0] * abs(late[0]))
    # k and q end alike, or opposite where the value is negative: their sum, or difference, grows
    sums = [z[1:4] + np.sign(z[0]) * z[4:] for z in (early, late)]
    early_ratio, late_ratio = (np.abs(z[1:] / z[0]) for z in sums)
    return time, np.log(late_ratio / early_ratio) / np.log(late[0] / early[0])


@claim(
    "zhang2025-saddle-to-saddle",
    title="From saddle to saddle",
    box="thm-saddles",
    standing=Standing.OBSERVED,
    paper=PAPER,
    number="Abstract",
    statement=r"From small random starts, as many heads of rank one as dimensions learn the "
    r"eigenvectors one by one in the order of the eigenvalues, pausing at the values of the saddles, "
    r"at times that the equations of lone heads predict.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "eigenvalues that nearly agree": {"spectrum": (1.0, 0.97, 0.94)},
        "large starts": {"sizes": (1.5, 0.5)},
        "fewer heads than dimensions": {"H": 2},
    },
)
def saddle_to_saddle(
    spectrum: tuple[float, ...] = SPREAD, sizes: tuple[float, ...] = (0.1, 0.03), H: int = 3
) -> Evidence:
    """30 random starts of two sizes, gradient descent; those that are predicted to be done in time."""
    problem, model = turned(spectrum), LinearAttention(H=H, n=20, rank=1)
    errors, orders, pauses, whole, counted = [], [], [], [], []
    saddle = silent(problem) - model.gains(problem)[0]
    for size in sizes:
        start = model.init(problem, seed=8, runs=30, scale=size)
        wanted = linear_attention.stairs(model, start, problem).time
        in_time = wanted[:, -1] < 30 / size
        start, wanted = type(start)(*(W[in_time] for W in start)), wanted[in_time]
        time, learned, loss = trained(model, problem, start, 40 / size)
        arrival = time[(learned > 0.5).int().argmax(0)]
        whole.append(share((learned[-1] > 0.99).all(-1)))
        orders.append(share((arrival.diff(dim=-1) > 0).all(-1)))
        error = (arrival.sort(-1).values[:, -wanted.shape[1] :] / wanted - 1).abs()
        errors.append(float(error.median()))
        # half way, in logarithms, between the first two arrivals
        half = torch.searchsorted(time, (arrival[:, 0] * arrival[:, 1]).sqrt())
        seen = loss[half.clamp_max(len(time) - 1), torch.arange(len(wanted))]
        pauses.append(float((seen / saddle - 1).abs().median()))
        counted.append(len(wanted))
    return Evidence(
        {
            "all directions are learned": min(whole) == 1,
            "in the order of the eigenvalues": min(orders) == 1,
            "the prediction gains as the start shrinks": errors[1] < 0.8 * errors[0],
            "and is right to two percent": errors[1] < 0.02,
            "the loss pauses at the first saddle": max(pauses) < 0.01,
        },
        {
            "runs": sum(counted),
            "median_error_large_start": errors[0],
            "median_error_small_start": errors[1],
            "loss_off_the_saddle": max(pauses),
        },
        {"most are done in time": min(counted) > 20},
    )


def share(true: Tensor) -> float:
    return float(true.double().mean())


def trained(
    model: LinearAttention, problem: Problem, start: Weights, horizon: float, step: float = 0.4
) -> tuple[Tensor, Tensor, Tensor]:
    """Times, shares learned and losses along gradient descent, at 600 times that grow by a factor."""
    steps = round(horizon / step)
    at = sorted({round(s) for s in np.geomspace(1, steps, 600)})
    run = descend(model, problem, start, step=step, steps=steps, watch=["weights"], at=at)
    return step * torch.tensor(at), model.learned(run.watched["weights"], problem), run.loss[at]
