"""What the chapters on convergence and on sparsity measure with."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ... import problems
from ..._descend import Trajectory, descend
from ...models import Selection, SelectionWeights
from ...problems import Problem
from ...theorems import Outcome, SelectionStart
from ...theorems._inequality import TOLERANCE

PAPER = "vasudeva2024"
#: The logarithm of the excess: its gradient does not underflow.
LAYER = Selection(goal="log excess")


def planted(
    seed: int, N: int = 6, n: int = 4, D: int = 60, runs: int = 4, scale: float = 3.0
) -> tuple[Problem, SelectionWeights]:
    """The part's data with equal other scores, and Gaussian starts of length ``scale``."""
    problem, u = problems.planted(N=N, n=n, D=D, seed=seed)
    return problem, LAYER.init(problem, seed=seed + 1, runs=runs, scale=scale, u=u)


def along_first(problem: Problem, u: Tensor, lengths: Sequence[float]) -> SelectionWeights:
    """Starts along A_1 of a problem of `problems.pairs`, whose query is the last coordinate."""
    direction = torch.zeros(problem.D, problem.D, dtype=torch.float64)
    direction[:, -1] = problem.X[0, 1] - problem.X[0, 0]
    W = torch.tensor(lengths, dtype=torch.float64)[:, None, None] * direction
    return SelectionWeights(W, u)


def norm(W: Tensor) -> Tensor:
    """Frobenius norms (...) of matrices (..., D, D)."""
    return torch.linalg.vector_norm(W, dim=(-2, -1))


def seen(
    problem: Problem,
    weights: SelectionWeights,
    step: object,
    at: Iterable[int],
    layer: Selection = LAYER,
) -> tuple[Tensor, Trajectory]:
    """W at the given steps, (steps, runs, D, D), and the run."""
    at = list(at)
    run = descend(
        layer, problem, weights, train="W", step=step, steps=at[-1], watch=("weights",), at=at
    )
    return run.watched["weights"].W, run


def scaled(start: SelectionStart, W: Tensor) -> Tensor:
    """The error of the direction times the length: what the sharp law is about."""
    return start.mm.error(W) * norm(W)


def bolder(outcomes: list[Outcome], times: float) -> dict[str, bool]:
    """Every promise with its left side ``times`` as large, and whether it still holds in all runs."""
    held: dict[str, bool] = {}
    for c in (c for outcome in outcomes for c in outcome.conclusions):
        held[c.name] = held.get(c.name, True) and float(c.sharpness.max()) * times <= 1 + TOLERANCE
    return held


def slopes(t: Tensor, y: Tensor) -> Tensor:
    """Least-squares slopes of log y (len(t), runs) against log t."""
    x = (t.log() - t.log().mean()).reshape(-1, *[1] * (y.ndim - 1))
    return (x * y.log()).sum(0) / x.square().sum()
