"""Claims of the chapter on the landscape: what Fig. 4 of Song et al. 2024 shows, at our scale."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ... import landscape, problems
from ...models import Attention, AttentionWeights
from ...statistics import interval
from ...theorems import Standing
from .._record import Evidence, Verdict, claim
from ._shared import PAPER

LANDSCAPE = "song2024/landscape"


#: The paper's window reaches this far to each side, in units of the directions.
WINDOW = 0.5


def trained(
    stretch: float = 1.0,
    seeds: Iterable[int] = (0, 1),
    runs: int = 8,
    steps: tuple[int, int] = (1600, 400),
) -> Iterator[tuple[str, Attention, problems.Problem, AttentionWeights]]:
    """A problem a seed, some starts each: both kernels after stage two, the Gaussian alone."""
    for seed in seeds:
        problem = landscape.interaction(N=12, n=4, D=8, seed=seed)
        stages = landscape.two_stages(problem, H=2, d=4, runs=runs, seed=1, step=0.005, steps=steps)
        for name in ("softmax", "gaussian", "alone"):
            layer = Attention("softmax" if name == "softmax" else "gaussian", H=2, d=4)
            weights = getattr(stages, name)
            if name == "softmax":
                weights = weights._replace(Q=stretch * weights.Q, K=stretch * weights.K)
            yield name, layer, problem, weights


def minima(radius: float, stretch: float) -> dict[str, Tensor]:
    """How many minima each normalised slice of 31 x 31 points has, by trained model."""
    found: dict[str, list] = {}
    a = landscape.offsets(radius, 31)
    for name, layer, problem, weights in trained(stretch):
        along = landscape.directions(layer, weights, seed=3)
        f = landscape.surface(layer, problem, weights, along, a, a)
        found.setdefault(name, []).append(landscape.minima(f))
    return {name: torch.cat(counts).double() for name, counts in found.items()}


@claim(
    "song2024-landscape",
    title="Minima in slices",
    standing=Standing.OBSERVED,
    paper=PAPER,
    number="Section 5.2, Fig. 4",
    statement=r"That softmax's landscape around trained weights has more local minima than the "
    r"Gaussian's: at our scale slices of the paper's width have one minimum for both "
    r"kernels, and wider ones no more for softmax.",
    verdict=Verdict.NOT_REPRODUCED,
    chapter=LANDSCAPE,
    mutations={
        "a window eight times as wide": {"radius": 8 * WINDOW},
        "softmax's weights times four": {"stretch": 4.0},
    },
)
def landscapes(radius: float = WINDOW, stretch: float = 1.0) -> Evidence:
    """Two problems, eight seeds each, three trained models, normalised slices of 31 x 31."""
    narrow, wide = minima(radius, stretch), minima(4 * radius, stretch)
    one = {name: float((counts == 1).double().mean()) for name, counts in narrow.items()}
    many = {name: float(counts.mean()) for name, counts in wide.items()}
    return Evidence(
        {
            "slices of the paper's width have one minimum": min(one.values()) > 0.9,
            "wide slices have no more minima for softmax": many["softmax"] <= many["gaussian"],
        },
        {
            "softmax_share_with_one_minimum": one["softmax"],
            "gaussian_share_with_one_minimum": one["gaussian"],
            "softmax_minima_in_wide_slices": many["softmax"],
            "gaussian_minima_in_wide_slices": many["gaussian"],
            "gaussian_alone_minima_in_wide_slices": many["alone"],
            "slices": 96,
        },
    )


@claim(
    "song2024-landscape-curvature",
    title="Curvature of slices",
    standing=Standing.OBSERVED,
    paper=PAPER,
    number="Section 5.2, Fig. 4, flatness",
    statement=r"That the Gaussian's landscape is flatter: at our scale it depends on the directions. In "
    r"normalised ones slices around trained weights are more curved for softmax, by about a tenth "
    r"than for the paper's second-stage Gaussian and by nearly a half than for one trained alone; in "
    r"plain ones they are less curved, by about a tenth or more.",
    verdict=Verdict.HOLDS,
    chapter=LANDSCAPE,
    mutations={
        "the two kinds of directions exchanged": {"normalised": "plain", "budgets": 1},
        "too few problems to tell": {"seeds": range(200, 204), "budgets": 1},
    },
)
def curvatures(
    normalised: str = "normalised", seeds: Iterable[int] = range(200, 264), budgets: int = 2
) -> Evidence:
    """64 problems apart from those of the page, eight starts and eight slices each, two budgets.

    The unit is the problem: the mean over problems of the logarithm of a ratio of medians, and its
    95 % interval by Student's t.
    """
    ends, numbers = {}, {"problems": len(seeds)}
    for budget, steps in (("", (1600, 400)), ("_twice_the_steps", (3200, 800)))[:budgets]:
        for (kind, other), ratios in curvature_ratios(seeds, steps).items():
            middle, half = interval(torch.log(ratios))
            ends[budget, kind, other] = middle - half, middle + half
            name = f"{kind}_over_{other}{budget}"
            for end, value in (("", middle), ("_from", middle - half), ("_to", middle + half)):
                numbers[name + end] = math.exp(value)
    return Evidence(
        {
            "in normalised directions softmax is more curved": all(
                low > 0 for (_, kind, _), (low, _) in ends.items() if kind == normalised
            ),
            "in plain directions it is less curved": all(
                high < 0 for (_, kind, _), (_, high) in ends.items() if kind != normalised
            ),
        },
        numbers,
    )


def curvature_ratios(seeds: Iterable[int], steps: tuple[int, int]) -> dict[tuple[str, str], Tensor]:
    """Softmax's curvature over that of each other model, (problems,), by kind of directions.

    Of a model's curvature the median over eight slices is taken, and of that the median over starts.
    """
    found: dict[tuple[str, str], list] = {}
    a = landscape.offsets(WINDOW / 15, 3)
    for name, layer, problem, weights in trained(seeds=seeds, steps=steps):
        for kind in ("normalised", "plain"):
            parts = []
            for seed in range(8):
                along = landscape.directions(layer, weights, seed, normalise=kind == "normalised")
                f = landscape.surface(layer, problem, weights, along, a, a)
                parts.append(landscape.curvature(f, WINDOW / 15))
            found.setdefault((kind, name), []).append(torch.stack(parts).median(0).values.median())
    curved = {key: torch.stack(values) for key, values in found.items()}
    return {
        (kind, name): curved[kind, "softmax"] / values
        for (kind, name), values in curved.items()
        if name != "softmax"
    }
