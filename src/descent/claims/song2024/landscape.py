"""Claims of the chapter on the landscape: what Fig. 4 of Song et al. 2024 shows, at our scale."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ... import landscape, problems
from ...models import Attention, AttentionWeights
from ...theorems import Standing
from .._record import Evidence, Verdict, claim
from ._shared import PAPER

LANDSCAPE = "song2024/landscape"


#: The paper's window reaches this far to each side, in units of the directions.
WINDOW = 0.5


def trained(
    stretch: float = 1.0, seeds: Iterable[int] = (0, 1)
) -> Iterator[tuple[str, Attention, problems.Problem, AttentionWeights]]:
    """A problem a seed, eight starts each: both kernels after stage two, the Gaussian alone."""
    for seed in seeds:
        problem = landscape.interaction(N=12, n=4, D=8, seed=seed)
        stages = landscape.two_stages(
            problem, H=2, d=4, runs=8, seed=1, step=0.005, steps=(1600, 400)
        )
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
    statement=r"That the Gaussian's landscape is flatter: around trained weights, in normalised "
    r"directions, slices are more curved for softmax than for a Gaussian trained alone in 30 of "
    r"40 runs, and than for the paper's second-stage Gaussian in 26 of 40, which decides nothing.",
    verdict=Verdict.OPEN,
    chapter=LANDSCAPE,
    mutations={"directions of one length for both": {"normalise": False}},
)
def curvatures(normalise: bool = True) -> Evidence:
    """Five problems, the median of sixteen slices for each model; the sign test over forty runs."""
    found: dict[str, list] = {}
    a = landscape.offsets(WINDOW / 15, 3)
    for name, layer, problem, weights in trained(seeds=range(5)):
        parts = []
        for seed in range(16):
            along = landscape.directions(layer, weights, seed=seed, normalise=normalise)
            f = landscape.surface(layer, problem, weights, along, a, a)
            parts.append(landscape.curvature(f, WINDOW / 15))
        found.setdefault(name, []).append(torch.stack(parts).median(0).values)
    curved = {name: torch.cat(parts) for name, parts in found.items()}
    numbers, more = {"runs": 40, "slices": 1920}, {}
    for name in ("gaussian", "alone"):
        ratio = curved["softmax"] / curved[name]
        more[name] = int((ratio > 1).sum())
        numbers[f"median_ratio_to_{name}"] = float(ratio.median())
        numbers[f"more_curved_than_{name}_of_40"] = more[name]
    # of forty fair coins twenty-eight or more fall alike in 2 % of all throws, two-sided
    return Evidence(
        {
            "than the Gaussian trained alone: by the sign test": more["alone"] >= 28,
            "than the second-stage Gaussian: undecided": 12 < more["gaussian"] < 28,
        },
        numbers,
    )
