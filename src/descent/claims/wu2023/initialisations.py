"""Claims of the chapter on initialisations."""

from functools import cache

import torch
from torch import Tensor

from ... import problems, spectra
from ..._descend import descend
from ...models import Encoder
from ...problems import Problem
from ...statistics import interval
from ...theorems import Standing
from ...theorems.wu2023.initialisations import least_loss
from .._record import Evidence, Verdict, claim
from ._shared import PAPER, stacked

PAGE = "wu2023/initialisations"


@claim(
    "wu2023-initialisations",
    title="What an equal step measures",
    box="eq-encoder",
    standing=Standing.OBSERVED,
    paper=PAPER,
    number="Section 4.4 and Appendix C.5",
    statement=r"At one step size He is first, LeCun second, NTK last. At the step "
    r"$1/\lambda_{\max}(K_0)$ of each and $\tau_0=d^{-1}$, NTK is first: the first order is one "
    r"of the sizes of kernels.",
    verdict=Verdict.CORRECTED,
    chapter=PAGE,
    mutations={
        "own steps for the equal one": {"equal": False},
        "the equal step for the own ones": {"own": False},
    },
)
def initialisations(equal: bool = True, own: bool = True) -> Evidence:
    """Ten sequences of three Gaussian tokens, D = 15, d = 256, 200 steps.

    24 draws of sequences, labels and weights, the same for each initialisation. What is compared is
    the decimal logarithm of the loss after 200 steps, paired, by Student's interval of the mean.
    """
    same, best = (1e-4 if equal else None), (None if own else 1e-4)
    gains = {
        "equal step: He before LeCun": _ahead("he", "lecun", same),
        "equal step: LeCun before NTK": _ahead("lecun", "ntk", same),
        "own step: NTK before LeCun by two decades": _ahead("ntk", "lecun", best),
        "own step: NTK before He by two decades": _ahead("ntk", "he", best),
    }
    least = {name: 2.0 if "two decades" in name else 0.0 for name in gains}
    numbers = ("he_lecun_equal", "lecun_ntk_equal", "ntk_lecun_own", "ntk_he_own")
    found = dict(zip(numbers, gains.values(), strict=True))
    return Evidence(
        {name: mean - half > least[name] for name, (mean, half) in gains.items()},
        {f"decades_{name}": mean for name, (mean, _) in found.items()}
        | {f"half_interval_{name}": half for name, (_, half) in found.items()},
    )


def _ahead(first: str, second: str, step: float | None) -> tuple[float, float]:
    """By how many decades the loss of the first is lower, with half its 95 % interval."""
    return interval((_after(second, step) / _after(first, step)).log10())


@cache
def _after(name: str, step: float | None) -> Tensor:
    """Loss after 200 steps over the first loss, 24 draws."""
    problem = stacked(problems.sequences(N=10, n=3, D=15, seed=seed) for seed in range(24))
    encoder = Encoder(256, "d^-1", name)
    weights = encoder.init(problem, runs=24, seed=1)
    if step is None:
        step = 1 / torch.linalg.eigvalsh(encoder.ntk(weights, problem))[:, -1]
    run = descend(encoder, problem, weights, train="QKVO", step=step, steps=200)
    return run.loss[-1] / run.loss[0]


@claim(
    "wu2023-corollary-1",
    theorem="wu2023-corollary-1",
    paper=PAPER,
    number="Corollary 1",
    statement=r"A vector fed as tokens of dimension one leaves an encoder three effective "
    r"parameters at every width: $\operatorname{rank}F\le2$, $\operatorname{rank}K\le3$, and the "
    r"loss has a positive floor for $N\ge4$ and almost all labels. As one token it is fitted.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={
        "the vector as one token": {"whole": True},
        "sixteen tokens for the one": {"apart": True},
        "labels that it can fit": {"fitted": True},
    },
)
def corollary_1(whole: bool = False, apart: bool = False, fitted: bool = False) -> Evidence:
    """N = 8 vectors of 16 numbers, widths 32 and 128, 8 draws, 1000 steps."""
    features, kernel, ends = _after_training(1 if whole else 16, fitted)
    _, _, as_one = _after_training(16 if apart else 1, fitted)
    eight = _eight(16, fitted)
    s = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    floor = float(least_loss(eight, s).min())
    return Evidence(
        {
            "the features have rank at most two": features <= 2,
            "the tangent kernel has rank at most three": kernel <= 3,
            "no run ends below the floor": float(ends.min()) >= floor - 1e-9,
            "the floor is positive": floor > 1,
            "as one token it is fitted": float(as_one.max()) < 1e-20,
        },
        {"rank_of_features": features, "rank_of_kernel": kernel, "floor": floor}
        | {"least_loss_after_descent": float(ends.min())}
        | {"largest_loss_as_one_token": float(as_one.max())},
    )


def _eight(n: int, fitted: bool) -> Problem:
    """The eight vectors as so many tokens each; ``fitted`` gives labels that sixteen tokens fit."""
    eight = problems.sequences(N=8, n=16, D=1, seed=1)
    S = torch.softmax(eight.X @ eight.X.mT, -1)
    # what three parameters compute at s = 1 with p = 1 and q = 0
    y = (S @ eight.X).clamp_min(0).sum((1, 2)) if fitted else eight.y
    return Problem(eight.X.reshape(8, n, 16 // n), y)


@cache
def _after_training(n: int, fitted: bool) -> tuple[int, int, Tensor]:
    """Largest rank of the features and of the tangent kernel at the start, and all last losses."""
    problem = _eight(n, fitted)
    ranks, kernels, ends = [], [], []
    for d in (32, 128):
        encoder = Encoder(d, "d^-1", "lecun")
        weights = encoder.init(problem, runs=8, seed=1)
        K = encoder.ntk(weights, problem)
        ranks.append(int(spectra.rank(encoder.features(weights, problem)).max()))
        kernels.append(int(spectra.rank(K, tolerance=1e-9).max()))
        step = 1 / torch.linalg.eigvalsh(K)[:, -1]
        run = descend(encoder, problem, weights, train="QKVO", step=step, steps=1000)
        ends.append(run.loss[-1])
    return max(ranks), max(kernels), torch.cat(ends)
