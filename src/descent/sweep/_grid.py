"""A grid: what its axes may hold, and how it falls into tasks of runs that train side by side."""

from __future__ import annotations

import itertools
import json
import math
import numbers
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from .. import _validate, kernels
from .._errors import error
from ..models import Attention

#: The axes in the order of the table's columns, and the value of those that need not be given.
DEFAULTS = {
    "N": None,
    "n": None,
    "D": None,
    "d": 8,
    "H": 1,
    "kernel": "softmax",
    "train": "QKV",
    "steps": 1000,
    "scale": 1.0,
    "step": "1/L",
    "seed": 0,
    "start": 0,
}
#: What the runs of one task may differ in: none of these changes a shape or the loop.
WITHIN = ("scale", "step", "seed", "start")
LEAST = {"seed": 0, "start": 0}
MOST = 2**63
THRESHOLDS = (1e-2, 1e-4, 1e-6)
#: Runs in a task, at most: enough for the batch to pay, few enough to lose little when interrupted.
RUNS = 256
#: Numbers that a task may hold at once, at most (8 bytes each).
NUMBERS = 2**24


@dataclass(frozen=True)
class Task:
    """Runs that train side by side: one cell of shapes, kernel, trained matrices and rule."""

    index: int
    cell: dict  # N, n, D, d, H, kernel, train, steps
    runs: tuple[tuple, ...]  # (scale, step, seed, start) of each
    thresholds: tuple[float, ...]
    until: float | None

    def __str__(self) -> str:
        return ", ".join(f"{axis}={value}" for axis, value in self.cell.items())


@dataclass(frozen=True)
class Grid:
    """Every combination of the values of its axes, a tuple each, in canonical form."""

    axes: dict[str, tuple]
    thresholds: tuple[float, ...] = THRESHOLDS
    until: float | None = None

    @classmethod
    def of(cls, axes: dict, thresholds: Iterable[float] = THRESHOLDS, until: float | None = None):
        """Check what a user wrote and bring it into canonical form.

        Raises
        ------
        ValueError, TypeError : for an unknown, missing or empty axis, or a value that does not fit.
        """
        for axis in axes:
            _validate.one_of("axis", axis, DEFAULTS)
        missing = [axis for axis, value in DEFAULTS.items() if value is None and axis not in axes]
        if missing:
            raise error(
                ValueError, f"the grid lacks {', '.join(missing)}", "give each a value or a list"
            )
        full = {axis: _values(axis, axes.get(axis, DEFAULTS[axis])) for axis in DEFAULTS}
        marks = tuple(
            sorted({_validate.fraction("thresholds", x) for x in thresholds}, reverse=True)
        )
        return cls(full, marks, None if until is None else _validate.fraction("until", until))

    @property
    def size(self) -> int:
        """The number of runs."""
        return math.prod(map(len, self.axes.values()))

    @cached_property
    def tasks(self) -> list[Task]:
        """The grid cut into tasks, by the grid alone: the same on every machine, every time."""
        across = [axis for axis in DEFAULTS if axis not in WITHIN]
        tasks: list[Task] = []
        for values in itertools.product(*(self.axes[axis] for axis in across)):
            cell = dict(zip(across, values, strict=True))
            for runs in self._batches(cell):
                tasks.append(Task(len(tasks), cell, runs, self.thresholds, self.until))
        return tasks

    def _batches(self, cell: dict) -> Iterable[tuple]:
        runs = list(itertools.product(*(self.axes[axis] for axis in WITHIN)))
        most = batch_size(cell)
        for _, alike in itertools.groupby(sorted(runs, key=_rule), key=_rule):
            yield from _cut(list(alike), most)

    def record(self) -> str:
        """The grid as one line of JSON: two sweeps are the same if their records are."""
        content = {"axes": self.axes, "thresholds": self.thresholds, "until": self.until}
        return json.dumps(content, sort_keys=True)


def batch_size(cell: dict) -> int:
    """How many runs of a cell go into one task, by the numbers that each run keeps."""
    m, H, r = cell["N"] * cell["n"], cell["H"], min(cell["N"] * cell["n"], cell["D"])
    kept = 2 * cell["steps"] + H * m * (3 * cell["d"] + 4 * cell["n"] + r) + 9 * H * r * cell["d"]
    return max(1, min(RUNS, NUMBERS // kept))


def _cut(runs: list, most: int) -> Iterable[tuple]:
    for first in range(0, len(runs), most):
        yield tuple(runs[first : first + most])


def _rule(run: tuple) -> str:
    """Runs with numbers for steps train side by side; each rule has tasks of its own."""
    step = run[WITHIN.index("step")]
    return step if isinstance(step, str) else ""


# ------------------------------------------------------------------------------ values


def _values(axis: str, given) -> tuple:
    """The values of an axis, from one value or several."""
    several = isinstance(given, Iterable) and not isinstance(given, str)
    values = tuple(_value(axis, value) for value in (given if several else [given]))
    if not values:
        raise error(
            ValueError, f"axis {axis} is empty", "give it at least one value, or leave it out"
        )
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise error(ValueError, f"axis {axis} holds {twice[0]!r} twice", "name each once")
    return values


def _value(axis: str, value):
    if hasattr(value, "item"):  # a number of numpy or torch
        value = value.item()
    if axis == "kernel":
        return _kernel(value)
    if axis == "train":
        return _train(value)
    if axis == "step":
        return _step(value)
    if axis == "scale":
        return _validate.positive("scale", value)
    if _validate.count(axis, value, LEAST.get(axis, 1)) >= MOST:
        raise error(
            ValueError,
            f"{axis} must be below 2^63, as a table keeps it, got {value}",
            "be below 2^63, as a table keeps it",
        )
    return int(value)


def _kernel(value) -> str:
    """The name by which a task finds the kernel again, in whatever process."""
    kernel = kernels.get(value)
    if kernels.get(kernel.name) != kernel:
        raise error(
            ValueError, f"kernel {kernel.name!r} is not the registered one", "give it another name"
        )
    return kernel.name


def _train(value) -> str:
    letters = Attention.trainable
    if not isinstance(value, str) or not value or Counter(value) - Counter(letters):
        raise error(
            ValueError,
            f"train must name some of {', '.join(letters)}, each once, as in 'V' or 'QKV', got {value!r}",
            f"name some of {', '.join(letters)}, each once, as in 'V' or 'QKV'",
        )
    return "".join(W for W in letters if W in value)


def _step(value):
    if isinstance(value, numbers.Real):
        return _validate.positive("step", value)
    return _validate.one_of("step", value, ("1/L", "polyak"))
