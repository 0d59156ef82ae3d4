"""Claims of the chapter on the tangent kernel of an encoder."""

from functools import cache

import torch
from torch import Tensor

from ... import theorems
from ..._descend import descend
from ...models import Encoder
from ...models.encoder import limit_ntk
from ...problems import Problem
from ...statistics import interval, log_slopes
from ...theorems import Standing
from ...theorems.wu2023 import EncoderStart
from ...theorems.wu2023.tangent import hessian_bound, hessians
from .._record import Evidence, Verdict, claim
from ._shared import PAPER, stacked, unit_tokens

TANGENT = "wu2023/tangent"
WIDTHS = [64, 256, 1024, 4096]


@claim(
    "wu2023-ntk-limit",
    title="The tangent kernel of infinite width",
    box="thm-limit-ntk",
    standing=Standing.PROVED,
    uses=("prop-degeneration", "thm-finite-ntk"),
    paper=PAPER,
    number="Lemma 1",
    statement=r"At NTK initialisation and $\tau_0=d^{-1}$ the tangent kernel tends to "
    r"$\frac{n^2}{2\pi}\|\bar x_j\|\|\bar x_k\|(\sin\theta+2(\pi-\theta)\cos\theta)$, with an "
    r"error of order $d^{-1/2}$; the share of $W_Q$, $W_K$ is of order $d^{-1}$.",
    verdict=Verdict.HOLDS,
    chapter=TANGENT,
    mutations={
        "the scaling of practice": {"scaling": "d^-1/2"},
        "a limit two per cent too large": {"factor": 1.02},
    },
)
def ntk_limit(scaling: str = "d^-1", factor: float = 1.0) -> Evidence:
    """N = 4, n = 5, D = 8, widths to 16 384; 16 draws of the sequences and of weights."""
    tokens = stacked(unit_tokens(4, 5, 8, seed) for seed in range(16))
    error, share = [], []
    widths, limit = [*WIDTHS, 16384], factor * limit_ntk(tokens)
    for d in widths:
        encoder = Encoder(d, scaling, "ntk")
        parts = encoder.ntk_parts(encoder.init(tokens, runs=16, seed=1), tokens)
        K = sum(parts.values())
        error.append(_norm(K - limit) / _norm(limit))
        traces = {W: part.diagonal(dim1=1, dim2=2).sum(1) for W, part in parts.items()}
        share.append((traces["Q"] + traces["K"]) / sum(traces.values()))
    rate, half = interval(log_slopes(widths, torch.stack(error)))
    share_rate, share_half = interval(log_slopes(widths, torch.stack(share)))
    return Evidence(
        {
            "the error falls like d^(-1/2)": abs(rate + 0.5) + half < 0.07,
            "the share of W_Q and W_K falls like 1/d": abs(share_rate + 1) + share_half < 0.1,
            "at the largest width the error is below 2 %": float(error[-1].median()) < 0.02,
        },
        {
            "slope_of_error": rate,
            "half_interval_of_error": half,
            "slope_of_share": share_rate,
            "half_interval_of_share": share_half,
            "relative_error_at_16384": float(error[-1].median()),
        },
    )


def _norm(A: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(A)


@claim(
    "wu2023-finite-ntk",
    theorem="wu2023-ntk-limit",
    paper="Descent",
    number="Theorem",
    statement=r"At NTK initialisation, with the attention given, the parts of $w_O$ and $W_V$ are "
    r"within $3\sum_jU_j^2/\sqrt{\delta d}$ of their mean $H$ with probability $1-\delta$; $H$ is "
    r"within $\frac75$ times the distance of attention from uniform of $K^\infty$; and "
    r"$\operatorname{tr}K_{QK}$ is of order $\tau_0^2\tau_1^2d^2$.",
    verdict=Verdict.HOLDS,
    chapter=TANGENT,
    mutations={
        "values and read-out twice as large": {"scale": 2.0},
        "the bound of W_Q and W_K a two hundredth": {"part": 0.005},
    },
)
def finite_ntk(scale: float = 1.0, part: float = 1.0) -> Evidence:
    """N = 4, n = 5, D = 8, widths 64 to 16 384, both scalings, a chance of one in two.

    20 draws of the sequences and of weights.
    """
    tokens = stacked(unit_tokens(4, 5, 8, seed) for seed in range(20))
    outcomes, ratios = [], []
    for d in (64, 1024, 16384):
        for scaling in ("d^-1/2", "d^-1"):
            encoder = Encoder(d, scaling, "ntk")
            weights = encoder.init(tokens, runs=20, seed=1)
            weights = weights._replace(V=scale * weights.V, O=scale * weights.O)
            report = theorems.get("wu2023-ntk-limit")(encoder, tokens, weights, chance=0.5)
            outcomes.append(report.against())
            at = report.start
            scores = sum(at.parts[W].diagonal(dim1=1, dim2=2).sum(1) for W in "QK")
            ratios.append((scores / (part * at.of_scores)).mean())
    mean = float(torch.stack(ratios).max())
    return Evidence.of(
        outcomes,
        conclusions={"the mean of tr K_QK over the draws is within its bound": mean <= 1},
        largest_mean_over_bound=mean,
    )


def one_sequence(draws: int) -> Problem:
    """A sequence of its own in every draw."""
    return stacked(unit_tokens(1, 4, 8, seed) for seed in range(draws))


@claim(
    "wu2023-theorem-3",
    theorem="wu2023-theorem-3",
    paper=PAPER,
    number="Theorem 3",
    statement=r"Where it exists, $\|\nabla^2f(X_j)\|$ has an explicit bound by the norms of the "
    r"weights, of order $d^{-1/2}$ at NTK initialisation and $\tau_0=d^{-1}$, for any $D$. At "
    r"$\tau_0=d^{-1/2}$ the Hessian does not shrink, and the bound grows.",
    verdict=Verdict.HOLDS,
    chapter=TANGENT,
    mutations={
        "the two scalings exchanged": {"scalings": ("d^-1/2", "d^-1")},
        "a bound of a two hundredth": {"factor": 0.005},
    },
)
def theorem_3(scalings: tuple[str, str] = ("d^-1", "d^-1/2"), factor: float = 1.0) -> Evidence:
    """n = 4, D = 8, widths 64 to 4096, both scalings; 12 draws of a sequence and of weights."""
    found, ratios = {}, []
    for role, scaling in zip(("limit", "practice"), scalings, strict=True):
        norms, bounds = _hessians(scaling)
        ratios.append((norms / (factor * bounds)).flatten())
        for name, values in ((role, norms), (f"bound_{role}", bounds)):
            slope, half = interval(log_slopes(WIDTHS, values))
            found |= {f"slope_{name}": slope, f"half_interval_{name}": half}
    ratio, name = torch.cat(ratios), "the norm is within its bound"
    return Evidence(
        {
            "limit: the Hessian falls like d^(-1/2)": _near(found, "limit", -0.5, 0.05),
            "practice: it does not fall": _near(found, "practice", 0.0, 0.1),
            "limit: its bound falls at least as fast": found["slope_bound_limit"]
            + found["half_interval_bound_limit"]
            < -0.5,
            "practice: its bound grows": found["slope_bound_practice"]
            > found["half_interval_bound_practice"],
            name: bool((ratio <= 1).all()),
        },
        found,
        sharpness={name: (float(ratio.median()), float(ratio.max()))},
    )


@cache
def _hessians(scaling: str) -> tuple[Tensor, Tensor]:
    """Norms of the Hessians and their bounds, (widths, draws) each."""
    problem, norms, bounds = one_sequence(12), [], []
    for d in WIDTHS:
        encoder = Encoder(d, scaling, "ntk")
        start = EncoderStart(encoder, problem, encoder.init(problem, runs=12, seed=1))
        norms.append(hessians(start))
        bounds.append(hessian_bound(start))
    return torch.stack(norms), torch.stack(bounds)


def _near(found: dict[str, float], name: str, value: float, within: float) -> bool:
    """Whether the whole interval of a slope lies about a value."""
    return abs(found[f"slope_{name}"] - value) + found[f"half_interval_{name}"] < within


@claim(
    "wu2023-flips",
    title="What ReLU breaks",
    box="thm-hessian",
    standing=Standing.OBSERVED,
    paper=PAPER,
    number="Theorem 3, its consequence",
    statement=r"That the gradient changes by $O(d^{-1/2})$ within a fixed distance does not follow "
    r"for ReLU: flipping the neurons nearest to their kink within distance one changes it by "
    r"about $d^{-1/6}$ from width 1024 on, and falls more slowly before.",
    verdict=Verdict.GAP,
    chapter=TANGENT,
    mutations={"a smooth activation": {"activation": "tanh"}},
)
def flips(activation: str = "relu") -> Evidence:
    """n = 4, D = 8, widths 256 to 16 384; 16 draws of a sequence and of weights."""
    widths = [256, 1024, 4096, 16384]
    change = torch.stack([flipped(d, activation) for d in widths])
    slope, half = interval(log_slopes(widths[1:], change[1:]))
    before, half_before = interval(log_slopes(widths[:2], change[:2]))
    return Evidence(
        {
            "the slope is near -1/6": abs(slope + 1 / 6) + half < 0.06,
            "and far from -1/2": slope - 5 * half > -0.4,
            "from 256 to 1024 it falls more slowly": before - half_before > -1 / 6,
        },
        {"slope": slope, "half_interval": half, "change_at_16384": float(change[-1].median())}
        | {"slope_from_256_to_1024": before, "half_interval_from_256_to_1024": half_before},
    )


def flipped(d: int, activation: str, length: float = 1.0) -> Tensor:
    """Change of the output's gradient when the nearest neurons flip, within ``length``; (runs,)."""
    problem, encoder = one_sequence(16), Encoder(d, "d^-1", "ntk", activation)
    weights = encoder.init(problem, runs=16, seed=1)
    mean = torch.nn.functional.normalize(problem.X[:, 0].mean(1))[:, :, None]
    s = (mean.mT @ weights.V)[:, 0]
    nearest = s.abs().argsort(-1)
    cost = 4 * s.gather(-1, nearest).square().cumsum(-1)
    chosen = torch.zeros_like(s).scatter(-1, nearest, (cost <= length**2).to(s))
    V = weights.V - 2 * mean * (s * chosen)[:, None]
    c = s.new_ones(len(s), 1)
    before, after = (encoder.pullback(w, problem, c) for w in (weights, weights._replace(V=V)))
    return sum((before[W] - after[W]).flatten(1).square().sum(1) for W in before).sqrt()


@claim(
    "wu2023-lazy",
    title="Lazy or not",
    box="thm-limit-ntk",
    standing=Standing.OBSERVED,
    paper="Descent",
    number="Observation",
    statement=r"Trained to a ten-thousandth of the first loss at NTK initialisation, attention and "
    r"tangent kernel change the less the wider the encoder is if $\tau_0=d^{-1}$, with slopes "
    r"within $0.2$ of $-1$ and between $-1$ and $-\frac12$; if $\tau_0=d^{-1/2}$ both slopes are "
    r"within $0.2$ of zero.",
    verdict=Verdict.HOLDS,
    chapter=TANGENT,
    mutations={"the two scalings exchanged": {"scalings": ("d^-1/2", "d^-1")}},
)
def lazy(scalings: tuple[str, str] = ("d^-1", "d^-1/2")) -> Evidence:
    """N = 6, n = 4, D = 8, widths 32 to 512; 48 draws of the sequences, labels and weights."""
    found, arrived = {}, []
    for role, scaling in zip(("limit", "practice"), scalings, strict=True):
        changes, there = zip(*(_changes(d, scaling) for d in (32, 128, 512)), strict=True)
        arrived += there
        for k, what in enumerate(("kernel", "attention")):
            slope, half = interval(log_slopes((32, 128, 512), torch.stack(changes)[:, k]))
            found |= {f"slope_{what}_{role}": slope, f"half_interval_{what}_{role}": half}
    return Evidence(
        {
            "limit: attention freezes": _near(found, "attention_limit", -1.0, 0.2),
            "limit: the kernel freezes": _near(found, "kernel_limit", -0.75, 0.25),
            "practice: attention does not": _near(found, "attention_practice", 0.0, 0.2),
            "practice: the kernel does not": _near(found, "kernel_practice", 0.0, 0.2),
        },
        found,
        hypotheses={"every run arrives": all(arrived)},
    )


@cache
def _changes(d: int, scaling: str) -> tuple[Tensor, bool]:
    """Relative changes (2, draws) of tangent kernel and attention in training; do all arrive?"""
    problem = stacked(unit_tokens(6, 4, 8, seed) for seed in range(48))
    encoder = Encoder(d, scaling, "ntk")
    start = encoder.init(problem, runs=48, seed=1)
    K, S = encoder.ntk(start, problem), encoder.forward(start, problem).S
    step = 1 / torch.linalg.eigvalsh(K)[:, -1]
    options = {"train": "QKVO", "step": step, "steps": 250, "until": 1e-4}
    run = descend(encoder, problem, start, **options)
    changed = encoder.ntk(run.weights, problem) - K, encoder.forward(run.weights, problem).S - S
    shares = [
        torch.linalg.vector_norm(c.flatten(1), dim=1)
        / torch.linalg.vector_norm(whole.flatten(1), dim=1)
        for c, whole in zip(changed, (K, S), strict=True)
    ]
    return torch.stack(shares), bool((run.stopped_at >= 0).all())


@claim(
    "wu2023-lemma-19",
    title="More sequences, smaller eigenvalue",
    box="prop-trace",
    standing=Standing.PROVED,
    paper=PAPER,
    number="Lemma 19",
    statement=r"The smallest eigenvalue of the limiting kernel is claimed to grow like $N/D$. It is "
    r"at most $\frac1N\operatorname{tr}K=\frac{n^2}N\sum_j\|\bar x_j\|^2$, and tends to zero "
    r"on bounded data.",
    verdict=Verdict.COUNTEREXAMPLE,
    proof="prop-trace",
    chapter=TANGENT,
    mutations={"the eigenvalue of the D x D matrix instead": {"transposed": True}},
)
def lemma_19(transposed: bool = False) -> Evidence:
    """n = 3 tokens of length one, D = 4, N = 20 to 1280 (beyond D^4 = 256), nested draws."""
    least, ceiling, counts = [], [], [20, 80, 320, 1280]
    for N in counts:
        problem = unit_tokens(N, 3, 4)
        K = limit_ntk(problem)
        mean = problem.X.mean(1)
        matrix = problem.n**2 * mean.T @ mean / 4 if transposed else K
        least.append(float(torch.linalg.eigvalsh(matrix)[0]))
        ceiling.append(float(K.trace() / N))
    falls = all(a > b for a, b in zip(least, least[1:], strict=False))
    return Evidence(
        {
            "it falls at each step": falls,
            "it stays below tr K / N": all(a <= b for a, b in zip(least, ceiling, strict=True)),
        },
        {f"least_eigenvalue_at_N_{N}": value for N, value in zip(counts, least, strict=True)}
        | {"largest_trace_over_N": max(ceiling)},
    )
