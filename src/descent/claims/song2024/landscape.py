"""Claim of the chapter on the landscape: what Fig. 4 of Song et al. 2024 shows, at our scale."""

import torch

from ... import landscape
from ...models import Attention
from .._record import Evidence, Verdict, claim
from ._shared import PAPER

LANDSCAPE = "song2024/landscape"


@claim(
    "song2024-landscape",
    paper=PAPER,
    number="Section 5.2, Fig. 4",
    statement=r"That softmax's landscape around trained weights has more local minima than the "
    r"Gaussian's: at our scale slices of the paper's width have one minimum for both "
    r"kernels, wider ones more for the Gaussian, and the curvatures agree within a factor of three.",
    verdict=Verdict.NOT_REPRODUCED,
    chapter=LANDSCAPE,
    mutations={
        "a window eight times as wide": {"radius": 4.0},
        "softmax's weights times four": {"stretch": 4.0},
    },
)
def landscapes(radius: float = 0.5, stretch: float = 1.0) -> Evidence:
    """Two problems, eight seeds each, three trained models, normalised slices of 31 x 31."""
    found: dict[str, list] = {"softmax": [], "gaussian": [], "alone": []}
    for seed in (0, 1):
        problem = landscape.interaction(N=12, n=4, D=8, seed=seed)
        stages = landscape.two_stages(
            problem, H=2, d=4, runs=8, seed=1, step=0.005, steps=(1600, 400)
        )
        for name in found:
            layer = Attention("softmax" if name == "softmax" else "gaussian", H=2, d=4)
            weights = getattr(stages, name)
            if name == "softmax":
                weights = weights._replace(Q=stretch * weights.Q, K=stretch * weights.K)
            along, measures = landscape.directions(weights, seed=3), []
            for width in (radius, 4 * radius):
                a = landscape.offsets(width, 31)
                f = landscape.surface(layer, problem, weights, along, a, a)
                measures += [landscape.minima(f), landscape.curvature(f, 2 * width / 30)]
            found[name].append(torch.stack(measures[:3]))
    one, curved, many = {}, {}, {}
    for name, parts in found.items():
        measures = torch.cat(parts, -1)
        one[name] = float((measures[0] == 1).double().mean())
        curved[name], many[name] = float(measures[1].median()), float(measures[2].mean())
    return Evidence(
        {
            "slices of the paper's width have one minimum": min(one.values()) > 0.9,
            "curvatures agree within a factor of three": max(curved.values())
            < 3 * min(curved.values()),
            "wide slices have no more minima for softmax": many["softmax"] <= many["gaussian"],
        },
        {
            "softmax_share_with_one_minimum": one["softmax"],
            "gaussian_share_with_one_minimum": one["gaussian"],
            "softmax_median_curvature": curved["softmax"],
            "gaussian_median_curvature": curved["gaussian"],
            "softmax_minima_in_wide_slices": many["softmax"],
            "gaussian_minima_in_wide_slices": many["gaussian"],
            "gaussian_alone_minima_in_wide_slices": many["alone"],
            "slices": 96,
        },
    )
