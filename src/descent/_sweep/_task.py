"""One task of a sweep: draw its runs, train them side by side, describe each in a row."""

from __future__ import annotations

import os
import threading
import warnings
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from .. import spectra, steps
from .._descend import DivergenceWarning, Trajectory, descend
from .._errors import error
from .._optimise import optimise
from ..models import _protocol
from ..problems import Problem
from ._family import Instance
from ._grid import WITHIN, Task

# A worker may have several threads. The level of torch's forward mode, the environment and the filter
# of warnings belong to the process, so one task runs in it at a time.
_alone = threading.Lock()


def run_task(task: Task) -> dict[str, list]:
    """Train the runs of a task; return the columns of their rows.

    It depends on nothing but the task: each run has its own seeds, and one thread does the sums,
    in an order that no other machine's number of cores can change.
    """
    torch.set_num_threads(1)
    try:
        # the sweep has a bar of its own, and those of its tasks would write over it
        with _alone, patch.dict(os.environ, {"DESCENT_BOOK": "1"}):
            return _columns(task)
    except (ValueError, MemoryError) as failure:
        remedy = getattr(failure, "remedy", "choose other values")
        raise error(type(failure), f"in the cell {task}: {failure}", remedy) from failure


def _columns(task: Task) -> dict[str, list]:
    model, problem, weights = draw(task)
    run, known = _trained(task, model, problem, weights)
    same = {axis: [value] * len(task.runs) for axis, value in task.cell.items()}
    each = dict(zip(WITHIN, map(list, zip(*task.runs, strict=True)), strict=True))
    sizes = {"N": problem.N, "n": problem.n, "D": problem.ambient}
    return {
        **{axis: [size] * len(task.runs) for axis, size in sizes.items()},
        **same,
        **each,
        **_results(task, run, known),
        **_conditioning(model, problem, weights, task),
    }


def draw(task: Task) -> Instance:
    """The model, the problems and the starting points of a task's runs."""
    drawn = [
        task.family.instance(task.cell, seed=seed, start=start, scale=scale)
        for scale, _, seed, start in task.runs
    ]
    model, problem, weights = drawn[0]
    if any(other.problem is not problem for other in drawn):
        parts = ([getattr(other.problem, part) for other in drawn] for part in "Xy")
        problem = Problem(*map(torch.stack, parts), problem.ambient)
    every = zip(*(other.weights for other in drawn), strict=True)
    return Instance(model, problem, weights._make(map(torch.stack, every)))


def _trained(task: Task, model, problem: Problem, weights: NamedTuple) -> tuple:
    """What became of the runs, and for which there was a step to take."""
    cell, optimiser = task.cell, task.family.optimiser(task.cell)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # the table says it, run by run
        if optimiser is not None:
            return _optimised(task, optimiser, model, problem, weights)
        step, known = _step(task, model, problem, weights)
        options = {} if task.until is None else {"until": task.until}
        options |= {"train": cell["train"], "steps": cell["steps"]}
        return descend(model, problem, weights, step=step, **options), known


def _optimised(task: Task, optimiser, model, problem: Problem, weights: NamedTuple) -> tuple:
    rate, options = task.runs[0][WITHIN.index("step")], {"train": task.cell["train"]}
    losses, last = optimise(
        model, problem, weights, optimiser, steps=task.cell["steps"], lr=rate, **options
    )
    return as_descended(losses, last, rate), torch.ones(len(task.runs), dtype=torch.bool)


def as_descended(losses: Tensor, last: NamedTuple, rate: float) -> Trajectory:
    """What an optimiser left, as `descend` tells of its runs."""
    lost = ~torch.isfinite(losses)
    diverged_at = torch.where(lost.any(0), lost.int().argmax(0), -1)
    eta, never = torch.full_like(losses[0], rate), torch.full_like(diverged_at, -1)
    return Trajectory(losses, last, diverged_at, eta, never)


def _step(task: Task, model, problem: Problem, weights: NamedTuple):
    """The rule, and for which runs it gives a step.

    Where the loss is flat at the start there is no 1/L, nor where the curvature is no number. Such
    a run stays: its step is too small for any gradient.
    """
    given = [run[WITHIN.index("step")] for run in task.runs]
    known = torch.ones(len(given), dtype=torch.bool)
    if given[0] == "polyak":
        return steps.polyak(), known
    if given[0] != "1/L":
        return torch.tensor(given, dtype=torch.float64), known
    L = _protocol.smoothness(model, weights, problem, task.cell["train"])
    known = torch.isfinite(L) & (L > 0)
    return torch.where(known, 1 / L, torch.finfo(L.dtype).tiny), known


def _results(task: Task, run: Trajectory, known: Tensor) -> dict[str, list]:
    last = run.loss[-1]
    return {
        "eta": _known(run.eta, known),
        "first_loss": run.loss[0].tolist(),
        "last_loss": _known(last, torch.isfinite(last)),
        "diverged_at": _known(run.diverged_at, run.diverged),
        **{steps_to(x): _known(run.steps_to(x), run.steps_to(x) >= 0) for x in task.thresholds},
    }


def _conditioning(model, problem: Problem, weights: NamedTuple, task: Task) -> dict:
    """Rank of the features and condition number of the Gram matrix, which rule training V alone."""
    if task.cell["train"] != "V" or not hasattr(model, "gram"):
        return {name: [None] * len(task.runs) for name in ("rank", "kappa")}
    rank = spectra.rank(spectra.concat(model.features(weights, problem)))
    values = torch.linalg.eigvalsh(model.gram(weights, problem))
    full = rank == problem.N * problem.n
    return {"rank": rank.tolist(), "kappa": _known(values[:, -1] / values[:, 0], full)}


def _known(values: Tensor, known: Tensor) -> list:
    """The values, None where there is none."""
    pairs = zip(values.tolist(), known.tolist(), strict=True)
    return [value if is_known else None for value, is_known in pairs]


def steps_to(fraction: float) -> str:
    """The column that counts the steps to a fraction of the first loss: steps_to_0.01."""
    return f"steps_to_{fraction:g}"
