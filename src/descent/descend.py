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

from . import _layout, _validate, span
from . import steps as rules
from ._errors import error
from ._trajectory import Trajectory
from ._watch import Watch
from .models import _protocol
from .problems import Problem

#: A run whose loss exceeds this many times its start (or 1, if larger) is stopped as divergent.
BLOW_UP = 1e12
#: Steps that a block of runs takes before the next one is fetched, where no rule is to be asked.
STRETCH = 16
#: Steps between two looks whether any run still moves.
LOOK = 16 * STRETCH


class DivergenceWarning(UserWarning):
    """Some runs of a `descend` diverged; see `Trajectory.diverged_at`."""


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
    watched, and about five times the weights, whatever the number of steps.
    See :doc:`/song2024/values`.
    """
    _protocol.require(model)
    train = _protocol.trained(model, train)
    plan = _Plan(steps, until, stall, every, Watch(watch, at, steps))
    device, weights = _validate.device(device), _validate.weights(weights)
    _protocol.require_weights(model, weights)
    _validate.problem(problem)
    if device is not None:
        problem, weights = problem.to(device), type(weights)(*(W.to(device) for W in weights))
    _protocol.check(model, weights, problem)
    weights = type(weights)(*(W.detach() for W in _protocol.spread(model, weights, problem)))
    if not all(W.numel() for W in weights):
        raise error(ValueError, "weights hold no run", "draw some with model.init(..., runs=...)")
    beside = _beside(model, problem, weights, train, step, plan)
    lift = _unchanged
    if reduce and model.acts_on_tokens and problem.N * problem.n < problem.D:
        reduction = span.reduce(problem, model.acts_on_tokens, model.own)
        lift = partial(reduction.lift, weights)
        problem, weights = reduction.problem, reduction.restrict(weights)
    _layout.require(model, weights, problem, train, reduce, beside)
    return _warn(_loop(model, problem, weights, train, step, plan, reduce, lift))


def _unchanged(weights: NamedTuple) -> NamedTuple:
    return weights


@dataclass
class _Plan:
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
            _validate.count("stall", self.stall)

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

    def stopping(self, loss: Tensor) -> Callable[[Tensor], Tensor] | None:
        """A function of the loss that says which runs are done; None if none ever is."""
        tests = []
        if self.until is not None:
            tests.append(lambda now, target=self.until * loss: now <= target)
        if self.stall is not None:
            tests.append(_Stalled(self.stall, loss))
        if not tests:
            return None
        return lambda now: torch.stack([test(now) for test in tests]).any(0)


class _Stalled:
    """Which runs have gone ``patience`` steps without falling by a millionth of their loss."""

    def __init__(self, patience: int, loss: Tensor):
        self.patience, self.best = patience, loss
        self.idle = torch.zeros_like(loss, dtype=torch.int64)

    def __call__(self, loss: Tensor) -> Tensor:
        better = loss < (1 - 1e-6) * self.best
        self.best = torch.where(better, loss, self.best)
        self.idle = torch.where(better, 0, self.idle + 1)
        return self.idle >= self.patience


def _beside(model, problem: Problem, weights: NamedTuple, train: str, step, plan: _Plan) -> int:
    """Bytes a run of what is neither the layout's nor there already.

    The losses; the weights in D dimensions, after training twice and once for each look at them;
    for the step 1/L of the values the features of all heads, twice, and their Gram matrix.
    """
    runs, tokens = _protocol.runs_of(model, weights).numel(), problem.N * problem.n
    looks = len(plan.watch.at) if "weights" in plan.watch.functions else 0
    full = sum(getattr(weights, W).nbytes for W in train) // max(1, runs)
    numbers = plan.records
    if train == "V" and isinstance(step, str) and hasattr(model, "features"):
        numbers += tokens * (tokens + 2 * model.H * min(tokens, problem.D))
    return numbers * problem.X.element_size() + (2 + looks) * full


def _loop(
    model,
    problem: Problem,
    weights: NamedTuple,
    train: str,
    step,
    plan: _Plan,
    compact: bool,
    lift: Callable,
) -> Trajectory:
    rule = rules.resolve(step, lambda: _protocol.smoothness(model, weights, problem, train))
    plan.watch.bind(model, problem, train, lift)
    stretch = STRETCH if rules.is_constant(rule) else 1
    course = _layout.course(model, weights, problem, train, compact, stretch)
    with course.at_work(), _without_denormals():
        record = _walk(course, rule, plan, stretch)
    return Trajectory(
        weights=lift(course.weights()),
        watched=plan.watch.values(),
        at=plan.watch.at,
        every=plan.every,
        **record,
    )


def _walk(course, rule: rules.Rule, plan: _Plan, stretch: int) -> dict[str, Tensor]:
    """Take the steps. Where a GPU does, nothing here waits for it but a look every `LOOK` steps."""
    first, begun = None, course.loss.flatten()
    losses = begun.new_full((plan.records, len(begun)), torch.nan)
    parts = zip(begun.split(course.sizes), losses.split(course.sizes, 1), strict=True)
    books = [_Book(loss, rows, plan) for loss, rows in parts]
    plan.watch.look(0, course.weights)
    with _progress(plan.steps) as bar:
        for start, stop in plan.stretches(stretch):
            if first is None or not rules.is_constant(rule):
                eta = rule(course.loss, course.square() if rules.uses_gradient(rule) else None)
                rules.check(eta, course.loss)
                first = eta if first is None else first
                course.pace(eta)
            course.advance(start, stop, books)
            plan.watch.look(stop, course.weights)
            bar.update(stop - start)
            if stop % LOOK == 0 and all([book.close(stop) for book in books]):
                plan.watch.rest(course.weights)
                break
    return {
        "loss": losses.reshape(-1, *first.shape),
        "diverged_at": torch.cat([book.diverged_at for book in books]).reshape(first.shape),
        "eta": first,
        "stopped_at": torch.cat([book.stopped_at for book in books]).reshape(first.shape),
    }


class _Book:
    """The losses of a block of runs, and which of them still move.

    On a processor a look at the numbers costs nothing, and while every run moves there is nothing
    else to do; elsewhere it would wait for the device, and every step is treated alike.
    """

    def __init__(self, loss: Tensor, losses: Tensor, plan: _Plan):
        self.every, self.done, self.losses = plan.every, plan.stopping(loss), losses
        sound = torch.isfinite(loss)
        self.losses[0] = torch.where(sound, loss, torch.nan)
        self.ceiling = BLOW_UP * loss.clamp_min(1)
        self.last = torch.full_like(loss, torch.nan)  # the losses of runs that no longer move
        self.moves = sound
        self.stopped_at = torch.full_like(loss, -1, dtype=torch.int64)
        self.diverged_at = self.stopped_at.where(sound, 0)
        self.all_move = loss.device.type == "cpu" and bool(sound.all())  # as far as is known
        self.closed = False

    def enter(self, t: int, loss: Tensor) -> Tensor | None:
        """Record the loss that step t leads to; give the runs that take it, None for all."""
        sound = loss <= self.ceiling  # false for NaN as well
        done = None if self.done is None else self.done(loss)
        self.all_move = (
            self.all_move and bool(sound.all()) and (done is None or not bool(done.any()))
        )
        if self.all_move:
            self._write(t, loss)
            return None
        moved = self.moves & sound
        self.diverged_at = torch.where(self.moves & ~sound, t, self.diverged_at)
        self._write(t, torch.where(moved, loss, self.last))
        self.moves = moved
        if done is not None:
            now = moved & done
            self.last = torch.where(now, loss, self.last)
            self.stopped_at = torch.where(now, t, self.stopped_at)
            self.moves = moved & ~now
        return moved

    def close(self, t: int) -> bool:
        """Whether no run moves any more; their losses after step t are then those they stopped at."""
        if not self.closed and not bool(self.moves.any()):
            self.losses[t // self.every + 1 :] = self.last
            self.closed = True
        return self.closed

    def _write(self, t: int, loss: Tensor) -> None:
        if t % self.every == 0:
            self.losses[t // self.every] = loss


def _progress(steps: int) -> tqdm:
    return tqdm(
        total=steps, desc="descend", leave=False, delay=2, disable="DESCENT_BOOK" in os.environ
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
