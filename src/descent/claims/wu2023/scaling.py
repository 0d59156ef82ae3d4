"""Claims of the chapter on scaling."""

import math
from functools import cache

import torch
from torch import Tensor

from ... import draws, problems, theorems
from ..._descend import descend
from ...models import Encoder
from ...problems import Problem
from ...statistics import interval, log_slopes, mcnemar
from ...theorems import Standing
from .._record import Evidence, Verdict, claim
from ..vasudeva2024.text import Sentences, sentences
from ._shared import PAPER, spectrum, stacked, unit_tokens

SCALING = "wu2023/scaling"
WIDTHS = [64, 256, 1024, 4096]


@claim(
    "wu2023-softmax-degeneration",
    theorem="wu2023-softmax-degeneration",
    paper=PAPER,
    number="Section 4.4",
    statement=r"At initialisation, scores divided by $d$ make attention uniform at the rate "
    r"$d^{-1/2}$: $\mathbb E\max|\beta-\frac1n|\le\frac{s}{2\sqrt d}(\sum_j\|X_j\|_F^4)^{1/2}$. "
    r"Scores divided by $\sqrt d$ leave it as it is.",
    verdict=Verdict.HOLDS,
    chapter=SCALING,
    mutations={
        "the two scalings exchanged": {"scalings": ("d^-1/2", "d^-1")},
        "a bound of a thirtieth": {"constant": 1 / 30},
    },
)
def softmax_degeneration(
    scalings: tuple[str, str] = ("d^-1", "d^-1/2"), constant: float = 1.0
) -> Evidence:
    """Two initialisations, four widths, 40 draws each; slopes with 95 % intervals."""
    tokens, conclusions, numbers, ratios = unit_tokens(4, 5, 8), {}, {}, []
    squares = torch.linalg.vector_norm(tokens.X, dim=(1, 2)).pow(4).sum().sqrt()
    for name, s in (("ntk", 1.0), ("lecun", 1 / tokens.D)):
        for role, scaling in zip(("limit", "practice"), scalings, strict=True):
            far = torch.stack([from_uniform(tokens, d, scaling, name) for d in WIDTHS])
            slope, half = interval(log_slopes(WIDTHS, far))
            expected = -0.5 if role == "limit" else 0.0
            conclusions[f"{name}, {role}: slope {expected:g}"] = abs(slope - expected) < 0.05
            numbers |= {f"slope_{role}_{name}": slope, f"half_interval_{role}_{name}": half}
            if role == "limit":
                bound = constant * s / 2 * squares / torch.tensor(WIDTHS) ** 0.5
                ratios.append(far.mean(1) / bound)
    ratio, name = torch.cat(ratios), "the mean distance stays below the bound"
    conclusions[name] = bool((ratio <= 1).all())
    sharpness = {name: (float(ratio.median()), float(ratio.max()))}
    return Evidence(conclusions, numbers, sharpness=sharpness)


def from_uniform(tokens: Problem, d: int, scaling: str, name: str) -> Tensor:
    """The largest distance of an attention weight from 1/n, 40 draws."""
    encoder = Encoder(d, scaling, name)
    S = encoder.forward(encoder.init(tokens, runs=40, seed=1), tokens).S
    return (S - 1 / tokens.n).abs().amax((1, 2, 3))


@claim(
    "wu2023-dimension-missing",
    title="Equal means cannot be told apart",
    box="prop-missing",
    standing=Standing.OBSERVED,
    paper=PAPER,
    number="Section 4.4",
    statement=r"On sequences with one mean token, width slows descent at the step "
    r"$1/\lambda_{\max}(K_0)$ down if $\tau_0=d^{-1}$, and not if $\tau_0=d^{-1/2}$: the smallest "
    r"eigenvalue of the first tangent kernel falls, or stays.",
    verdict=Verdict.HOLDS,
    chapter=SCALING,
    mutations={
        "the two scalings exchanged": {"scalings": ("d^-1/2", "d^-1")},
        "sequences whose means differ": {"equal": False},
    },
)
def dimension_missing(
    scalings: tuple[str, str] = ("d^-1", "d^-1/2"), equal: bool = True
) -> Evidence:
    """40 draws of six sequences and of weights: kernels at three widths, descent at 32 and 512.

    What width costs is the decimal logarithm of the loss after 300 steps at the larger width over
    that at the smaller; its mean has Student's 95 % interval. In pairs of one draw: where the wide
    encoder is behind at one scaling alone (McNemar).
    """
    found, low, high, behind = {}, {}, {}, []
    for role, scaling in zip(("limit", "practice"), scalings, strict=True):
        slopes, cost = _least_slopes(equal, scaling), _cost_of_width(equal, scaling)
        for name, each in ((f"slope_{role}", slopes), (f"decades_{role}", cost)):
            found[name], half = interval(each)
            found[f"half_interval_of_{name}"] = half
            low[name], high[name] = found[name] - half, found[name] + half
        found[f"median_decades_{role}"] = float(cost.median())
        behind.append(cost > 0)
    found["mcnemar_z"] = mcnemar(*behind)
    return Evidence(
        {
            "limit: the smallest eigenvalue falls": high["slope_limit"] < -0.4,
            "practice: it does not": max(-low["slope_practice"], high["slope_practice"]) < 0.2,
            "limit: width costs two decades in the median": found["median_decades_limit"] > 2,
            "limit: and more than one in the mean": low["decades_limit"] > 1,
            "practice: it costs nothing in the median": found["median_decades_practice"] < 0.5,
            "practice: and less than one in the mean": high["decades_practice"] < 1,
            "draw by draw, width is behind more often at the limit": found["mcnemar_z"] > 2,
        },
        found,
    )


@cache
def _forty(equal: bool) -> Problem:
    """40 draws of six sequences of two tokens, with one mean or with different ones."""
    if equal:
        return stacked(problems.equal_means(N=6, D=8, seed=seed) for seed in range(40))
    return stacked(problems.sequences(N=6, n=2, D=8, seed=seed) for seed in range(40))


@cache
def _least_slopes(equal: bool, scaling: str) -> Tensor:
    """Slopes of the smallest eigenvalue of the first tangent kernel over the width, (40)."""
    widths, problem = [64, 256, 1024], _forty(equal)
    least = [spectrum(problem, d, scaling, runs=40)[:, 0] for d in widths]
    return log_slopes(widths, torch.stack(least))


@cache
def _cost_of_width(equal: bool, scaling: str) -> Tensor:
    """By how many decades the loss after 300 steps is larger at the width 512 than at 32, (40)."""
    problem, after = _forty(equal), []
    for d in (32, 512):
        encoder = Encoder(d, scaling, "ntk")
        weights = encoder.init(problem, runs=40, seed=1)
        top = torch.linalg.eigvalsh(encoder.ntk(weights, problem))[:, -1]
        run = descend(encoder, problem, weights, train="QKVO", step=1 / top, steps=300)
        after.append(run.loss[-1] / run.loss[0])
    return (after[1] / after[0]).log10()


@claim(
    "wu2023-equal-means",
    theorem="wu2023-equal-means",
    paper=PAPER,
    number="Section 4.4",
    statement=r"For sequences of one mean token "
    r"$\|F_j-F_k\|\le\tau_1\|W_V\|(\Delta_j+\Delta_k)$ with "
    r"$\Delta_j=\sum_i\|u_{ji}-\bar x_j\|$, and $\alpha$ is at most that over $\sqrt2$: of order "
    r"$d^{-1/2}$ at NTK initialisation and $\tau_0=d^{-1}$.",
    verdict=Verdict.HOLDS,
    chapter=SCALING,
    mutations={
        "sequences of different means": {"equal": False},
        "the scaling of practice": {"scaling": "d^-1/2"},
    },
)
def nearly_equal(equal: bool = True, scaling: str = "d^-1") -> Evidence:
    """Six sequences, widths 64 to 4096, NTK initialisation, 20 draws each."""
    problem = problems.equal_means(N=6, D=8, seed=0)
    if not equal:
        problem = problems.sequences(N=6, n=2, D=8, seed=0)
    of, outcomes = theorems.get("wu2023-equal-means"), []
    for d in WIDTHS:
        encoder = Encoder(d, scaling, "ntk")
        outcomes.append(of(encoder, problem, encoder.init(problem, runs=20, seed=1)).against())
    alphas = torch.stack([outcome.report["α"] for outcome in outcomes])
    bounds = torch.stack([outcome.report["the least of that over √2"] for outcome in outcomes])
    slopes = {
        name: interval(log_slopes(WIDTHS, values))
        for name, values in (("alpha", alphas), ("its bound", bounds))
    }
    return Evidence.of(
        outcomes,
        conclusions={
            f"{name} falls like d^(-1/2)": abs(slope + 0.5) < 0.1
            for name, (slope, _) in slopes.items()
        },
        slope_of_alpha=slopes["alpha"][0],
        half_interval=slopes["alpha"][1],
    )


@claim(
    "wu2023-generic-data",
    title="Where forgetting helps",
    box="prop-missing",
    standing=Standing.OBSERVED,
    paper=PAPER,
    number="Section 4.4",
    statement=r"At large width $\tau_0=d^{-1/2}$ is said to be the faster. On generic sequences "
    r"the condition number of the first tangent kernel is better for $\tau_0=d^{-1}$ in each of "
    r"20 draws; its smallest eigenvalue is larger for $\tau_0=d^{-1/2}$ at NTK initialisation.",
    verdict=Verdict.CORRECTED,
    chapter=SCALING,
    mutations={"sequences with one mean token": {"generic": False}},
)
def generic_data(generic: bool = True) -> Evidence:
    """Twenty sequences of five Gaussian tokens, D = 30, d = 1000; 20 draws of tokens and weights."""
    problem = stacked(problems.sequences(N=20, n=5, D=30, seed=seed) for seed in range(20))
    if not generic:
        problem = stacked(problems.equal_means(N=20, D=30, seed=seed) for seed in range(20))
    conclusions, numbers = {}, {}
    for name in ("lecun", "ntk"):
        practice, limit = (spectrum(problem, 1000, s, name) for s in ("d^-1/2", "d^-1"))
        kappa = [values[:, -1] / values[:, 0] for values in (practice, limit)]
        better, larger = kappa[1] < kappa[0], practice[:, 0] > limit[:, 0]
        conclusions[f"{name}: the limit is better conditioned in all draws"] = bool(better.all())
        numbers |= {
            f"condition_practice_{name}": float(kappa[0].median()),
            f"condition_limit_{name}": float(kappa[1].median()),
            f"draws_with_larger_least_eigenvalue_practice_{name}": int(larger.sum()),
            **_named(f"log_least_practice_over_limit_{name}", practice[:, 0] / limit[:, 0]),
        }
    conclusions["ntk: the practice has the larger smallest eigenvalue in all draws"] = bool(
        larger.all()
    )
    return Evidence(conclusions, numbers)


def _named(name: str, ratios: Tensor) -> dict[str, float]:
    """The mean logarithm of ratios and half its 95 % interval."""
    mean, half = interval(ratios.log())
    return {name: mean, f"half_interval_of_{name}": half}


@claim(
    "wu2023-assumption-3",
    title="Assumption 3 on data",
    box="eq-assumption-3",
    standing=Standing.OBSERVED,
    paper=PAPER,
    number="Assumption 3",
    statement=r"At $t=1$ the assumption allows $\|X_jX_{j'}^\top\|_F^2\ge1$ for a share $e^{-1}$ of "
    r"all pairs. Gaussian tokens, as in the paper's synthetic data, film reviews and digits "
    r"violate it. Scaled to length one, the same sequences pass this test.",
    verdict=Verdict.OPEN,
    chapter=SCALING,
    mutations={
        "every sequence scaled to length one": {"scaled": True},
        "sequences scaled to length two": {"length": 2.0},
    },
)
def assumption_3(scaled: bool = False, length: float = 1.0) -> Evidence:
    """A hundred sequences of the paper's size, sentences and digits: 4950 pairs, ten draws each."""
    known, found = sentences(), {}
    for seed in range(10):
        for name, X in _sequences(known, seed).items():
            one = length * _of_length_one(X)
            shares = share_above_one(one if scaled else X), share_above_one(one)
            found.setdefault(name, []).append(shares)
    least = {name: min(share for share, _ in each) for name, each in found.items()}
    largest = max(ones for each in found.values() for _, ones in each)
    conclusions = {f"{name} violate it": share > math.exp(-1) for name, share in least.items()}
    conclusions["sequences of length one pass at t = 1"] = largest <= math.exp(-1)
    return Evidence(
        conclusions,
        {f"least share of {name}": share for name, share in least.items()}
        | {"largest share of sequences of length one": largest},
    )


def _sequences(known: Sentences, seed: int) -> dict[str, Tensor]:
    """A hundred sequences of each kind, and for the sentences other words' vectors too."""
    vectors = draws.normal(seed, "words", (len(known.words), 100))
    rows = draws.permutation(seed, "reviews", len(known.ids))[:100]
    sizes = {"N": 100, "n": 10, "D": 100, "seed": seed}
    return {
        "Gaussian tokens": problems.sequences(**sizes).X,
        "tokens of length one": problems.sequences(**sizes, length=1.0).X,
        "film reviews": vectors[known.ids[rows]],
        "digits": problems.digits(N=100, seed=seed, patch=4).X,
    }


def _of_length_one(X: Tensor) -> Tensor:
    return X / torch.linalg.vector_norm(X, dim=(1, 2))[:, None, None]


def share_above_one(X: Tensor) -> float:
    """The share of pairs of sequences with squared norm of X_j X_k^T at least one."""
    squares = torch.einsum("ind,jmd->ijnm", X, X).square().sum((2, 3))
    i, j = torch.triu_indices(len(X), len(X), 1)
    return float((squares[i, j] >= 1).double().mean())
