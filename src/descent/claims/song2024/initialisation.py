"""Claims of the chapter on where to start."""

import itertools
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ... import problems, spectra, theorems
from ..._descend import descend
from ...models import Attention, AttentionWeights
from ...problems import Problem
from ...theorems import Standing
from .._record import Evidence, Verdict, claim
from ._shared import PAPER

INITIALISATION = "song2024/initialisation"


def at_scales(
    weights: AttentionWeights,
    *,
    QK: float | Tensor = 1.0,
    V: float | Tensor = 1.0,
    O: float | Tensor = 1.0,  # noqa: E741
) -> AttentionWeights:
    """The same draws (runs, ...) times given numbers; those of shape (points) lead, a start each.

    ``QK`` multiplies both W_Q and W_K.
    """
    sizes = torch.broadcast_tensors(*(torch.as_tensor(s, dtype=torch.float64) for s in (QK, V, O)))
    scores, values, output = (s.reshape(*s.shape, 1, 1, 1) for s in sizes)
    return AttentionWeights(
        scores[..., None] * weights.Q,
        scores[..., None] * weights.K,
        values[..., None] * weights.V,
        output * weights.O,
    )


class Outcome(NamedTuple):
    """What a start promises and what came of it, (points, runs)."""

    sigma: Tensor  #: sigma_min(B_0)
    excess: Tensor  #: left over right side of condition (8)
    loss: Tensor  #: f_T / f_0


def outcome(layer: Attention, problem: Problem, weights: AttentionWeights, steps: int) -> Outcome:
    """Train all three matrices from every start at 1/(2L)."""
    step = 0.5 / layer.smoothness(weights, problem, "QKV")
    run = descend(layer, problem, weights, step=step, steps=steps, every=steps)
    report = theorems.get("song2024-theorem-2-printed")(layer, problem, weights)
    excess = report["condition (8)"].sharpness
    return Outcome(report.start.sigma, excess, run.loss[-1] / run.loss[0])


@claim(
    "song2024-initialisation-small",
    theorem="song2024-initialisation-small",
    paper=PAPER,
    number="Remark 3, small weights",
    statement=r"For $n \ge 2$, $\sigma_{\min}(B_0) \le \|X\|^3\|W_Q\|\|W_K\|/\sqrt{2d}$ with "
    r"softmax and $n\|X\|^3(\|W_Q\|^2+\|W_K\|^2)/\sqrt d$ with the Gaussian kernel: it falls at "
    r"least as the square of the scale of queries and keys, and here as the square.",
    verdict=Verdict.HOLDS,
    chapter=INITIALISATION,
    mutations={"scales that are not small": {"smallest": 0.1}},
)
def small(smallest: float = 1e-4) -> Evidence:
    """Both kernels, 64 draws, a large problem and the smallest, six scales up to 10; two tokens apart."""
    scales = [smallest, 10 * smallest, 0.01, 0.1, 1.0, 10.0]
    outcomes, slopes = [], []
    shapes = ((4, 3, 48, 8), (1, 2, 2, 1))
    for (N, n, D, d), kernel in itertools.product(shapes, ("softmax", "gaussian")):
        problem, layer = problems.gaussian(N=N, n=n, D=D, seed=0), Attention(kernel, H=1, d=d)
        weights = layer.init(problem, runs=64, seed=1)
        weights = at_scales(weights, QK=torch.tensor(scales, dtype=torch.float64))
        report = theorems.get("song2024-initialisation-small")(layer, problem, weights)
        outcomes.append(report.against())
        slopes.append(torch.log10(report.start.sigma[1] / report.start.sigma[0]))
    for kernel in ("softmax", "gaussian"):
        report = theorems.get("song2024-initialisation-small")(*opposite(kernel, size=0.01))
        outcomes.append(report.against())
    slopes = torch.stack(slopes)
    square = float((slopes - 2).abs().max()) < 0.05
    return Evidence.of(
        outcomes,
        conclusions={"ten times the scale is a hundred times sigma_min": square},
        least_slope=float(slopes.min()),
        largest_slope=float(slopes.max()),
    )


def opposite(kernel: str, size: float) -> tuple[Attention, Problem, AttentionWeights]:
    """Two orthogonal tokens of length 10 whose queries and keys are ``size`` and -``size`` alike.

    There the bound for softmax is within a factor of 1.5, and shows which power of the tokens it has.
    """
    eye = torch.eye(2, dtype=torch.float64)
    W, V = size / 10 * torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64), torch.zeros(1, 2, 1)
    weights = AttentionWeights(W, W, V.to(W), torch.ones(1, 1).to(W))
    return Attention(kernel, H=1, d=1), Problem(10 * eye[None], eye[:1]), weights


@claim(
    "song2024-initialisation-tied",
    title="Tie the queries to the keys",
    box="prop-tied",
    standing=Standing.PROVED,
    uses=("thm-joint",),
    paper=PAPER,
    number="Remark 3, tied queries and keys",
    statement=r"With $W_Q = W_K$ scaled up and distinct projected tokens, Gaussian attention tends "
    r"to the identity and $\sigma_{\min}(B_0)$ to $\sigma_{\min}(X)$; the chapter's condition is "
    r"then met from $W_V = 0$ by a $\|W_O\|$ that depends on the tokens and labels alone.",
    verdict=Verdict.HOLDS,
    chapter=INITIALISATION,
    mutations={
        "queries and keys drawn apart": {"tied": False},
        "not scaled up": {"scale": 1.0},
        "scaled up too little": {"scale": 2.5},
        "fifty times the largest step": {"share": 50.0},
    },
)
def tied(tied: bool = True, scale: float = 10.0, share: float = 1.0) -> Evidence:
    """N = 4, n = 3, D = 48: scale 10, 64 draws; then W_O as the condition asks, and a run."""
    problem, layer = problems.gaussian(N=4, n=3, D=48, seed=0), Attention("gaussian", H=1, d=8)
    weights = at_scales(layer.init(problem, runs=64, seed=1), QK=scale, V=0.0)
    weights = weights._replace(K=weights.Q if tied else weights.K)
    found = spectra.sigma_min(spectra.concat(layer.features(weights, problem)))
    error = float((found / spectra.sigma_min(problem.tokens) - 1).abs().max())
    conclusions = {"sigma_min is that of the tokens": error < 1e-3}
    if error > 0.1:  # sigma_min underflows, and no W_O is large enough
        return Evidence(conclusions, {"largest_error": error})
    family = theorems.loud(layer, problem, weights)
    start = theorems.meet(theorems.get("song2024-theorem-2"), family, 64)
    outcome = theorems.get("song2024-theorem-2")(*start).trial(1000, share)
    norms, ratio = outcome.report.start.output, outcome.run.loss[-1] / outcome.run.loss[0]
    ratio = ratio.nan_to_num(1e9)  # where descent diverges
    conclusions |= {
        "every draw needs the same W_O": float(norms.max() / norms.min()) < 1.01,
        "every run converges": float(ratio.max()) < 1e-6,
    }
    return Evidence.of(
        [outcome],
        conclusions=conclusions,
        largest_error=error,
        norm_of_W_O=float(norms.max()),
        largest_final_loss=float(ratio.max()),
    )


@cache
def row_of_map(kernel: str, QK: float, output: float) -> Outcome:
    """Three starts at one scale of W_Q and W_K, W_O at ``output`` times 0.1, 1 and 10, 16 draws."""
    problem, layer = problems.gaussian(N=4, n=3, D=48, seed=0), Attention(kernel, H=1, d=8)
    O = output * torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)  # noqa: E741
    weights = at_scales(layer.init(problem, runs=16, seed=1), QK=QK, V=0.0, O=O)
    return outcome(layer, problem, weights, steps=1000)


@claim(
    "song2024-initialisation-map",
    title="A map of starts",
    box="thm-joint",
    standing=Standing.OBSERVED,
    paper=PAPER,
    number="Remark 3, the map",
    statement=r"From $W_V = 0$, over three decades of the scale of $W_Q, W_K$ and two of $W_O$, "
    r"condition (8) fails by ten orders or more everywhere. Yet at the usual scale of $W_O$ "
    r"softmax descent succeeds whenever queries and keys are of the usual scale or smaller; what "
    r"fails is large queries and keys, the Gaussian kernel most of all.",
    verdict=Verdict.HOLDS,
    chapter=INITIALISATION,
    mutations={
        "W_O far off the map": {"output": 1e14},
        "the usual queries too large": {"usual": 10.0},
        "the large queries as usual": {"large": 1.0},
    },
)
def initialisation_map(output: float = 1.0, usual: float = 1.0, large: float = 10.0) -> Evidence:
    """N = 4, n = 3, D = 48, d = 8: twelve starts of 16 draws each, both kernels, 1000 steps."""
    seen = {
        kernel: [row_of_map(kernel, QK, output) for QK in (0.01, 0.1, usual, large)]
        for kernel in ("softmax", "gaussian")
    }
    least = min(float(row.excess.min()) for rows in seen.values() for row in rows)
    success = {
        kernel: torch.stack([(row.loss < 1e-4).double().mean(-1) for row in rows])
        for kernel, rows in seen.items()
    }
    return Evidence(
        {
            "(8) fails by ten orders everywhere": least > 1e10,
            "softmax succeeds at the usual scale and below": float(success["softmax"][:3, 1].min())
            > 0.7,
            "large queries and keys fail with softmax": float(success["softmax"][3].max()) < 0.3,
            "and with the Gaussian kernel": float(success["gaussian"][3].max()) == 0,
        },
        {
            "least_excess_over_8": least,
            "softmax_success_at_usual_scale": float(success["softmax"][2, 1]),
            "gaussian_success_at_usual_scale": float(success["gaussian"][2, 1]),
            "softmax_success_small": float(success["softmax"][0, 1]),
            "softmax_success_large": float(success["softmax"][3, 1]),
            "gaussian_success_large": float(success["gaussian"][3, 1]),
            "runs": 384,
        },
    )
