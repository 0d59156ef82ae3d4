"""The loop: gradient descent on many runs at once."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import _layout, _memory, _validate, span
from . import steps as rules
from ._errors import error
from ._monitor import Monitor
from ._trajectory import Trajectory, told
from ._watch import Watch
from .models import _protocol
from .problems import Problem

#: Steps between two looks whether any run still moves.
LOOK = 256


class DivergenceWarning(UserWarning):
    """Some runs of a `descend` diverged; see `Trajectory.diverged_at` and :doc:`/song2024/values`."""


def descend(
    model,
    problem: Problem,
    weights: NamedTuple,
    *,
    train: str | None = None,
    step: float | str | Tensor | rules.Rule = "1/L",
    steps: int = 1000,
    until: float | None = None,
    stall: int | None = None,
    watch: Mapping[str, Callable] | Iterable[str] = (),
    at: Iterable[int] = (),
    every: int = 1,
    reduce: bool = True,
    device: str | torch.device | None = None,
) -> Trajectory:
    r"""Run gradient descent :math:`W \leftarrow W - \eta \nabla_W f` on every run of ``weights``.

    Parameters
    ----------
    model : a model of `descent.models`, or one of your own: see `descent.models.Model`.
    problem : the data.
    weights : starting point; leading dimensions are runs, trained side by side.
    train : which weights move, some of the letters of ``model.trainable``; by default all.
    step : a positive number, a tensor of one step per run, ``"1/L"``, or a rule of `descent.steps`.
    steps : number of steps, at least 1.
    until : stop a run when its loss is at most this fraction of its first loss.
    stall : stop a run when in this many steps its loss has not fallen by a millionth.
    watch : what else to record: some of the names "weights", "attention", "sigma_min" (of the
        features B_t) and "gradient_norm", or a mapping from names to functions of the weights.
    at : the steps at which to record it, 0 for the start.
    every : record the loss after every this many steps; more than 1 for very long runs.
    reduce : train in the span of the tokens (`descent.span`): same losses, cost independent of D.
        False takes every step as it is written, in D dimensions.
    device : ``"cpu"``, ``"cuda"`` or ``"auto"``; by default where the problem is.

    Raises
    ------
    ValueError : for arguments that do not fit; the message says what would.
    MemoryError : if the runs do not fit; the message says how many would.

    Warns
    -----
    DivergenceWarning : if a run's loss blows up, or is no number to begin with.
    UserWarning : if some runs have no step 1/L, because the loss is flat where they start.
        The others are not disturbed by any of them.

    A run that diverged or stopped stays where it is, and the loop ends when no run is left.

    Memory: ``(steps // every + 1) * runs`` numbers for the losses, ``len(at)`` times what is
    watched, about five times the weights, 256 step sizes where a rule changes them, and twice
    ``(N n)**2`` numbers a run where each has a problem of its own, whatever the number of steps.
    See :doc:`/song2024/values`.

    Examples
    --------
    >>> from descent import descend, models, problems
    >>> problem = problems.gaussian(N=2, n=2, D=8, seed=0)
    >>> layer = models.Attention(kernel="softmax", H=2, d=4)
    >>> weights = layer.init(problem, seed=1, runs=3)
    >>> run = descend(layer, problem, weights, steps=200)
    >>> run.loss.shape
    torch.Size([201, 3])
    >>> bool((run.loss[-1] < run.loss[0] / 10).all())
    True
    """
    # What is asked for, and whether it can be meant.
    _protocol.require(model)
    train, reduce = _protocol.trained(model, train), _validate.flag("reduce", reduce)
    plan = Plan(steps, until, stall, every, Watch(watch, at, steps))
    problem, weights = _checked(model, problem, weights, device)
    if hasattr(model, "warn"):
        model.warn(weights, problem)
    return _warn(carry_out(plan, model, problem, weights, train, step, reduce))


def carry_out(
    plan: "Plan", model, problem: Problem, weights: NamedTuple, train: str, step, reduce: bool
) -> Trajectory:
    """What `descend` does with arguments that were looked at; of what diverges nothing is said."""
    extra = _extra_bytes(model, problem, weights, train, step, plan)
    # Where it is done: in the span of the tokens, if that is smaller.
    lift = _unchanged
    if reduce and model.acts_on_tokens and problem.N * problem.n < problem.D:
        reduction = span.reduce(problem, model.acts_on_tokens, model.own)
        lift = partial(reduction.lift, weights)
        problem, weights = reduction.problem, reduction.restrict(weights)
    # How the numbers lie in memory, and whether they fit.
    layout = _layout.choose(model, weights, problem, train, reduce)
    need = layout.needs(model, weights, problem, train)
    _memory.require(need._replace(per_run=need.per_run + extra), problem.X.device)
    # The steps.
    rule = rules.resolve(step, lambda: _protocol.smoothness(model, weights, problem, train))
    plan.watch.bind(model, problem, train, lift)
    runs = layout(model, weights, problem, train, rule)
    with runs.threads(), _without_denormals():
        outcome = _walk(runs, rule, plan)
    return Trajectory(
        weights=lift(runs.weights()),
        watched=plan.watch.values(),
        at=plan.watch.at,
        every=plan.every,
        train=train,
        rule=told(rule),
        **outcome,
    )


def _checked(model, problem: Problem, weights: NamedTuple, device) -> tuple[Problem, NamedTuple]:
    """Problem and weights where they are to be trained, with all dimensions of runs each."""
    device, weights = _validate.device(device), _validate.weights(weights)
    _protocol.require_weights(model, weights)
    _validate.problem(problem)
    if device is not None:
        problem, weights = problem.to(device), type(weights)(*(W.to(device) for W in weights))
    _protocol.check(model, weights, problem)
    weights = type(weights)(*(W.detach() for W in _protocol.spread(model, weights, problem)))
    if not all(W.numel() for W in weights):
        raise error(ValueError, "weights hold no run", "draw some with model.init(..., runs=...)")
    return _protocol.detached(problem), weights


def _unchanged(weights: NamedTuple) -> NamedTuple:
    return weights


@dataclass
class Plan:
    """How long to go on, and what to write down on the way."""

    steps: int
    until: float | None
    stall: int | None
    every: int
    watch: Watch

    def __post_init__(self) -> None:
        _validate.count("steps", self.steps)
        _validate.count("every", self.every)
        if self.until is not None:
            _validate.fraction("until", self.until)
        if self.stall is not None:
            _validate.count("stall", self.stall, below=2**63)

    @property
    def records(self) -> int:
        return self.steps // self.every + 1

    def stretches(self, longest: int) -> Iterator[tuple[int, int]]:
        """The steps in pieces, each with an end where something is to be seen or looked at."""
        start = 0
        for stop in range(1, self.steps + 1):
            if stop % longest == 0 or stop in self.watch.wanted or stop == self.steps:
                yield start, stop
                start = stop


def _extra_bytes(model, problem: Problem, weights: NamedTuple, train: str, step, plan: Plan) -> int:
    """Bytes a run of what is neither the layout's nor there already.

    The losses; the weights in D dimensions, after training twice and once for each look at them;
    for the step 1/L of the values the features of all heads, twice, and their Gram matrix.
    """
    runs, tokens = _protocol.runs_of(model, weights).numel(), problem.N * problem.n
    looks = len(plan.watch.at) if "weights" in plan.watch.functions else 0
    full = sum(getattr(weights, W).nbytes for W in train) // max(1, runs)
    numbers = plan.records
    if train == "V" and isinstance(step, str) and hasattr(model, "gram"):
        numbers += tokens * (tokens + 2 * model.H * min(tokens, problem.D))
    return numbers * problem.X.element_size() + (2 + looks) * full


def _walk(runs, rule: rules.Rule, plan: Plan) -> dict[str, Tensor]:
    """Take the steps. Where a GPU does, nothing here waits for it but a look every `LOOK` steps."""
    first, begun = None, runs.loss.flatten()
    below = 0 if plan.until is None else int((begun < 0).sum())
    if below:
        found = (
            f"until is a part of the first loss, and {below} of {len(begun)} runs start below zero"
        )
        raise error(ValueError, found, "give stall, or a number of steps")
    losses = begun.new_full((plan.records, len(begun)), torch.nan)
    parts = zip(begun.split(runs.sizes), losses.split(runs.sizes, 1), strict=True)
    monitors = [
        Monitor(loss, rows, every=plan.every, until=plan.until, stall=plan.stall)
        for loss, rows in parts
    ]
    plan.watch.look(0, runs.weights)
    with _progress(plan.steps) as bar:
        for start, stop in plan.stretches(runs.stretch):
            if first is None or not rules.is_constant(rule):
                eta = _tell(runs, rule, stop - start)
                first = eta if first is None else first
            runs.integrate(start, stop, monitors, partial(_advance, bar, stop - start))
            plan.watch.look(stop, runs.weights)
            looks = stop // LOOK > start // LOOK
            if looks and all([monitor.finish(stop) for monitor in monitors]):
                plan.watch.rest(runs.weights)
                break
    return {
        "loss": losses.reshape(-1, *first.shape),
        "diverged_at": torch.cat([m.diverged_at for m in monitors]).reshape(first.shape),
        "eta": first,
        "stopped_at": torch.cat([m.stopped_at for m in monitors]).reshape(first.shape),
    }


def _tell(runs, rule: rules.Rule, count: int) -> Tensor:
    """Tell the runs the sizes of the next ``count`` steps; gives that of the first."""
    eta = rule(runs.loss, runs.square() if rules.uses_gradient(rule) else None)
    rules.check(eta, runs.loss)
    runs.set_step(eta)
    if count > 1 and not rules.is_constant(rule):
        runs.set_later(rule.ahead(count - 1, runs.loss))
    return eta


def _advance(bar: tqdm, steps: int, share: float) -> None:
    bar.update(min(steps * share, bar.total - bar.n))  # shares may add up to more, by rounding


def _progress(steps: int) -> tqdm:
    """A bar of steps, of which there may be parts: those of some of the runs."""
    return tqdm(
        total=steps,
        desc="descend",
        leave=False,
        delay=2,
        disable="DESCENT_BOOK" in os.environ,
        bar_format="{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]",
    )


@contextmanager
def _without_denormals() -> Iterator[None]:
    """Take numbers below the smallest normal one for zero, and leave every thread as it was.

    Gaussian attention of distant tokens underflows; processors are slow at what then remains.
    A thread is born with what holds in the one that starts it, and torch starts its own when it
    first needs them and keeps them: so nothing is done here where torch may need others than this.
    """
    if torch.get_num_threads() > 1:
        yield
        return
    before = bool(torch.tensor(1e-308, dtype=torch.float64) * 0.1 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _warn(run: Trajectory) -> Trajectory:
    runs, dead = run.diverged.numel(), int((run.diverged_at == 0).sum())
    if dead:
        warnings.warn(
            f"{dead} of {runs} runs start with a loss that is NaN or infinite, and stay there: "
            "look for a row of scores without a finite one, for a kernel that gives NaN, or for "
            "numbers too large for their squares",
            DivergenceWarning,
            stacklevel=3,
        )
    lost = run.diverged_at[run.diverged_at > 0]
    if len(lost):
        warnings.warn(
            f"{len(lost)} of {runs} runs diverged, the first at step {int(lost.min())}: "
            f"the step is too large, try step='1/L' or a smaller number",
            DivergenceWarning,
            stacklevel=3,
        )
    return run
