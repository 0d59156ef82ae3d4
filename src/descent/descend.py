"""The loop: gradient descent on many runs at once."""

import os
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import trange

from . import _validate, span
from . import steps as rules
from .problems import Problem

#: A run whose loss exceeds this many times its start (or 1, if larger) is stopped as divergent.
BLOW_UP = 1e12


class DivergenceWarning(UserWarning):
    """Some runs of a `descend` diverged; see `Trajectory.diverged_at`."""


@dataclass(frozen=True)
class Trajectory:
    """What `descend` returns; ``*r`` are the run dimensions of the weights.

    loss : (T + 1, *r), the loss before each step and after the last; NaN after a divergence.
    weights : the last iterate of every run, the last finite one where it diverged.
    diverged_at : (*r), the step that blew the loss up (the index of its first NaN), -1 if none did.
    eta : (*r), the step size that was taken first.
    """

    loss: Float[Tensor, "steps *r"]
    weights: NamedTuple
    diverged_at: Int[Tensor, "*r"]
    eta: Float[Tensor, "*r"]

    @property
    def diverged(self) -> Tensor:
        """Which runs diverged, (*r) of bool."""
        return self.diverged_at >= 0

    def steps_to(self, fraction: float) -> Int[Tensor, "*r"]:
        """First step at which the loss is at most ``fraction`` of its start, -1 if never."""
        _validate.positive("fraction", fraction)
        hit = self.loss <= fraction * self.loss[0]
        first = hit.to(torch.int64).argmax(0)
        return torch.where(hit.any(0), first, -1)


def descend(
    model,
    problem: Problem,
    weights: NamedTuple,
    *,
    train: str = "QKV",
    step: float | str | Tensor | rules.Rule = "1/L",
    steps: int = 1000,
    reduce: bool = True,
    device: str | torch.device | None = None,
) -> Trajectory:
    r"""Run gradient descent :math:`W \leftarrow W - \eta \nabla_W f` on every run of ``weights``.

    Parameters
    ----------
    model : a model of `descent.models`.
    problem : the data.
    weights : starting point; leading dimensions are runs, trained side by side.
    train : which matrices move, some of the letters of ``model.trainable``.
    step : a positive number, a tensor of one step per run, ``"1/L"``, or a rule of `descent.steps`.
    steps : number of steps, at least 1.
    reduce : train in the span of the tokens (`descent.span`): same losses, cost independent of D.
    device : ``"cpu"``, ``"cuda"`` or ``"auto"``; by default where the problem is.

    Raises
    ------
    ValueError : for arguments that do not fit; the message says what would.

    Warns
    -----
    DivergenceWarning : if a run's loss blows up. The others are not disturbed.

    Memory: ``(steps + 1) * runs`` numbers for the losses, and the weights twice.
    See :doc:`/song2024/values`.
    """
    train = _trained(model, train)
    _validate.count("steps", steps)
    device = _validate.device(device)
    if device is not None:
        problem, weights = problem.to(device), type(weights)(*(W.to(device) for W in weights))
    model.check(weights, problem)
    if reduce and problem.N * problem.n < problem.D:
        reduction = span.reduce(problem, model.acts_on_tokens)
        small = _loop(model, reduction.problem, reduction.restrict(weights), train, step, steps)
        return _warn(Trajectory(small[0], reduction.lift(weights, small[1]), *small[2:]))
    return _warn(Trajectory(*_loop(model, problem, weights, train, step, steps)))


def _trained(model, train: str) -> str:
    if (
        not isinstance(train, str)
        or not train
        or set(train) - set(model.trainable)
        or len(set(train)) < len(train)
    ):
        raise ValueError(
            f"train must name some of the matrices {', '.join(model.trainable)}, "
            f"each once (as in train='V' or 'QKV'), got {train!r}"
        )
    return "".join(W for W in model.trainable if W in train)


def _loop(model, problem: Problem, weights: NamedTuple, train: str, step, steps: int) -> tuple:
    rule = rules.resolve(step, lambda: model.smoothness(weights, problem, train))
    objective = model.objective(weights, problem, train)
    moving = {W: getattr(weights, W) for W in train}
    loss, gradients = objective(moving)
    losses = loss.new_full((steps + 1, *loss.shape), torch.nan)
    losses[0] = loss
    ceiling = BLOW_UP * loss.clamp_min(1)
    alive = torch.ones_like(loss, dtype=torch.bool)
    diverged_at = torch.full_like(loss, -1, dtype=torch.int64)
    first = None
    for t in trange(
        steps, desc="descend", leave=False, delay=2, disable="DESCENT_BOOK" in os.environ
    ):
        square = sum(g.square().flatten(loss.ndim).sum(-1) for g in gradients.values())
        eta = rule(loss, square)
        first = eta if first is None else first
        proposed = {W: moving[W] - _per_run(eta, moving[W]) * gradients[W] for W in train}
        loss, gradients = objective(proposed)
        blown = alive & ~(loss <= ceiling)  # true for NaN as well
        diverged_at = torch.where(blown, t + 1, diverged_at)
        alive = alive & ~blown
        losses[t + 1] = torch.where(alive, loss, torch.nan)
        moving = {W: torch.where(_per_run(alive, moving[W]), proposed[W], moving[W]) for W in train}
        if t % 256 == 255 and not bool(alive.any()):
            break
    return losses, weights._replace(**moving), diverged_at, first


def _per_run(value: Tensor, W: Tensor) -> Tensor:
    return value.reshape(value.shape + (1,) * (W.ndim - value.ndim))


def _warn(run: Trajectory) -> Trajectory:
    lost = int(run.diverged.sum())
    if lost:
        first = int(run.diverged_at[run.diverged].min())
        warnings.warn(
            f"{lost} of {run.diverged.numel()} runs diverged, the first at step {first}: "
            f"the step is too large, try step='1/L' or a smaller number",
            DivergenceWarning,
            stacklevel=3,
        )
    return run
