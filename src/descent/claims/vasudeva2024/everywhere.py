"""Claims of the chapter on data whose every start leads to the margin."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from ... import margin, problems, theorems
from ...models import Selection, SelectionWeights
from ...problems import Problem
from ...theorems import SelectionStart, Standing
from .._record import Evidence, Verdict, claim
from ._shared import LAYER, along_first, norm, planted, seen

EVERYWHERE = "vasudeva2024/everywhere"


@claim(
    "vasudeva2024-everywhere",
    theorem="vasudeva2024-everywhere",
    paper="Descent",
    number="Theorem; of the type that the abstract announces",
    statement=r"If $a\,\kappa_{\min} > 2e\,\kappa_{\max}$, the flow from every start attends to all "
    r"optimal tokens in the end, and its direction tends to that of $W_{mm}$; without a condition "
    r"of this kind it need not.",
    verdict=Verdict.HOLDS,
    chapter=EVERYWHERE,
    mutations={"data that violate it": {"push": True}},
)
def everywhere(push: bool = False) -> Evidence:
    """Two Gaussian data sets that meet it, eight starts of length 30 each, the worst among them."""
    theorem, outcomes, errors = theorems.get("vasudeva2024-everywhere"), [], []
    for problem, start in [trapped()] if push else adversarial(2):
        outcomes.append(theorem(LAYER, problem, start, eta=0.1).trial(1500))
        at, W = outcomes[-1].report.start, outcomes[-1].run.watched["weights"].W
        errors.append(at.mm.error(W[20:]))  # from step 375 on
    last = max(float(error[-1].max()) for error in errors)
    return Evidence.of(
        outcomes,
        conclusions={
            "the error of the direction ends below 0.25": last < 0.25,
            "and has fallen since a quarter of the steps": all(
                bool((error[-1] < 0.8 * error[0]).all()) for error in errors
            ),
        },
        largest_error=last,
    )


def adversarial(count: int, scale: float = 30.0) -> Iterator[tuple[Problem, SelectionWeights]]:
    """The first draws that meet the condition, with eight starts of this length each.

    One is against the margin, five are against one sequence each, two are Gaussian.
    """
    theorem, seeds = theorems.get("vasudeva2024-everywhere"), itertools.count()
    drawn = (planted(seed, runs=8, scale=scale) for seed in seeds)
    met = (each for each in drawn if bool(theorem(LAYER, *each).met))
    for problem, start in itertools.islice(met, count):
        at = SelectionStart(LAYER, problem, start)
        against = [-margin.combine(w, at.a, at.z) for w in torch.eye(6)[:, :, None] * at.mm.duals]
        W = torch.stack([-at.mm.W, *against[:5]])
        W = scale * W / norm(W)[:, None, None]
        yield problem, start._replace(W=torch.cat([W, start.W[6:]]))


def trapped() -> tuple[Problem, SelectionWeights]:
    """The trap, from far along A_1."""
    problem, u = problems.trap()
    return problem, along_first(problem, u, [5.0, 10.0])


@claim(
    "tarzanagh2023-one-sequence",
    title="One sequence converges from every start",
    box="thm-everywhere",
    standing=Standing.CITED,
    paper="tarzanagh2023margin",
    number="Theorem 2 of Max-Margin Token Selection, for W in place of p",
    statement=r"For one sequence with equal non-optimal scores descent converges to the direction "
    r"of the margin from every start; for two sequences it need not.",
    verdict=Verdict.HOLDS,
    chapter=EVERYWHERE,
    mutations={"two sequences": {"push": True}},
)
def one_sequence(push: bool = False) -> Evidence:
    """Five draws of one sequence of five tokens, starts against the margin and at random."""
    theorem, outcomes, corr = theorems.get("vasudeva2024-everywhere"), [], 1.0
    for seed in range(1 if push else 5):
        problem, start = planted(seed, N=1, n=5, D=6, runs=8, scale=10.0)
        if push:
            problem, start = trapped()
        else:
            mm = SelectionStart(LAYER, problem, start).mm
            start = start._replace(W=torch.cat([-10 * mm.direction[None], start.W[1:]]))
        outcomes.append(theorem(LAYER, problem, start, eta=0.2).trial(1200 if push else 2500))
        last = outcomes[-1].run.weights.W
        corr = min(corr, float(outcomes[-1].report.start.mm.correlation(last).min()))
    return Evidence.of(
        outcomes,
        conclusions={"the direction is that of the margin, to 0.999": corr > 0.999},
        least_correlation=corr,
    )


@claim(
    "vasudeva2024-steps",
    theorem="vasudeva2024-steps",
    paper="Descent",
    number="Theorem; of the type that the abstract announces",
    statement=r"If $nB^3\kappa_{\max}\eta < a\,\kappa_{\min}e^{-2\eta B} - 2e\,\kappa_{\max}$, "
    r"normalised descent with steps of length $\eta$ from every start attends to all optimal tokens "
    r"in the end and never loses one again, and so does plain descent with the step "
    r"$4\eta/(nB\kappa_{\max})$; with steps that are far longer a sequence can be lost.",
    verdict=Verdict.HOLDS,
    chapter=EVERYWHERE,
    mutations={
        "data that violate the condition, from far out": {"push": True, "near": 1.0},
        "steps a thousand times as long": {"times": 1e3},
    },
)
def in_steps(push: bool = False, near: float = 0.1, times: float = 1.0) -> Evidence:
    """Orthonormal, Gaussian and two nearly forbidden data sets, steps of 0.99 of the threshold."""
    theorem, outcomes, served = theorems.get("vasudeva2024-steps"), [], 1.0
    drawn = [trapped()] if push else [*tidy(2), *near_pairs(), *list(adversarial(2, scale=8.0))[1:]]
    for problem, start in drawn:
        at = SelectionStart(LAYER, problem, start)
        eta = 0.1 if push else 0.99 * float(at.everywhere_eta)
        length = 6 * float(norm(start.W).max()) + 4
        count = max(20, int(length / (times * eta)))
        outcomes.append(theorem(LAYER, problem, start, eta=times * eta).trial(count, looks=400))
        nearby = start._replace(W=near * start.W)  # further out it is slow
        W = plainly(at, problem, nearby, eta, 40_000)
        served = min(served, float(at.m(W).sigmoid().min()))
    return Evidence.of(
        outcomes,
        conclusions={"plain descent serves all as well": served >= 0.5},
        least_attention_under_plain_descent=served,
    )


def plainly(
    at: SelectionStart, problem: Problem, start: SelectionWeights, eta: float, count: int
) -> Tensor:
    """W after so many steps of plain descent that are no longer than ``eta``."""
    step = 4 * eta / float(problem.N * at.B * at.kappa_max)
    return seen(problem, start, step, [count], Selection())[0][-1]


def tidy(count: int) -> Iterator[tuple[Problem, SelectionWeights]]:
    """Orthonormal tokens, eight starts of length 8."""
    for seed in range(count):
        problem, u = problems.orthonormal_tokens(4, 3, 14, seed)
        yield problem, LAYER.init(problem, seed=seed, runs=8, scale=8.0, u=u)


def near_pairs() -> Iterator[tuple[Problem, SelectionWeights]]:
    """Two sequences that contradict each other nearly as much as the condition allows."""
    for q in (0.2, 0.25):
        second = [-q, (1 - q * q) ** 0.5]
        problem, u = problems.pairs(torch.tensor([[1, 0], second], dtype=torch.float64))
        yield problem, along_first(problem, u, [0.0, 3.0, 8.0])
