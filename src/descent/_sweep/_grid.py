"""A grid: what its axes may hold, and how it falls into tasks of runs that train side by side."""

from __future__ import annotations

import itertools
import json
import math
import numbers
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from torch import Tensor

from .. import _validate, kernels
from .._errors import error
from ..models import _protocol
from ._family import REQUIRED, Family

#: The axes that belong to training; those of the problem and the model come before them.
TRAINING = {"train": None, "steps": 1000, "scale": 1.0, "step": "1/L", "seed": 0, "start": 0}
#: What the runs of one task may differ in: none of these changes a shape or the loop.
WITHIN = ("scale", "step", "seed", "start")
#: Axes that count something, and from where on.
COUNTS = {"N": 1, "n": 1, "D": 1, "d": 1, "H": 1, "steps": 1, "seed": 0, "start": 0}
MOST = 2**63
THRESHOLDS = (1e-2, 1e-4, 1e-6)
#: Runs in a task, at most: enough for the batch to pay, few enough to lose little when interrupted.
RUNS = 256
#: Numbers that a task may hold at once, at most (8 bytes each).
NUMBERS = 2**24
#: Axes that may be long: numbers that follow each other are kept as their ends.
LONG = ("seed", "start")


class Runs(Sequence):
    """Combinations ``first`` to ``last`` of some axes' values, each made when it is asked for.

    Ten million seeds are two numbers here, and what is sent to a worker is its own runs alone.
    """

    def __init__(self, axes: tuple[Sequence, ...], first: int, last: int):
        self.axes, self.first, self.last = axes, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple:
        place, run = range(self.first, self.last)[index], []
        for values in reversed(self.axes):
            place, digit = divmod(place, len(values))
            run.append(values[digit])
        return tuple(reversed(run))

    def __reduce__(self):
        return tuple, (tuple(self),)


@dataclass(frozen=True)
class Task:
    """Runs that train side by side: one cell of shapes, kernel, trained matrices and rule."""

    family: Family
    index: int
    cell: dict  # the axes of the problem and the model, train, steps
    runs: Sequence[tuple]  # (scale, step, seed, start) of each
    thresholds: tuple[float, ...]
    until: float | None

    def __str__(self) -> str:
        return written(self.cell)


@dataclass(frozen=True)
class Grid:
    """Every combination of the values of its axes, a tuple each, in canonical form."""

    axes: dict[str, tuple]
    thresholds: tuple[float, ...] = THRESHOLDS
    until: float | None = None
    family: Family = field(default_factory=Family.of)

    @classmethod
    def of(
        cls,
        axes: dict,
        thresholds: Iterable[float] = THRESHOLDS,
        until: float | None = None,
        **family: object,
    ):
        """Check what a user wrote and bring it into canonical form.

        Raises
        ------
        ValueError, TypeError : for an unknown, missing or empty axis, or a value that does not fit.
        """
        kin = Family.of(**family)
        usual = {**kin.axes, **TRAINING, "train": kin.letters}
        for axis in axes:
            _validate.one_of("axis", axis, usual)
        missing = [axis for axis, value in usual.items() if value is REQUIRED and axis not in axes]
        if missing:
            raise error(
                ValueError, f"the grid lacks {', '.join(missing)}", "give each a value or a list"
            )
        full = {kind: tuple(getattr(kin, f"{kind}s")) for kind in kin.named}
        full |= {axis: _values(axis, axes.get(axis, usual[axis])) for axis in usual}
        marks = tuple(
            sorted(
                {
                    _validate.fraction("thresholds", x)
                    for x in _validate.several("thresholds", thresholds)
                },
                reverse=True,
            )
        )
        names = Counter(f"{x:g}" for x in marks)
        if max(names.values(), default=0) > 1:
            found = f"thresholds {marks} give two columns one name"
            raise error(ValueError, found, "let them differ in their first six digits")
        until = None if until is None else _validate.fraction("until", until)
        grid = cls(full, marks, until, kin)
        grid._require_rates()
        return replace(grid, axes={**full, "train": grid._trained()})

    def _trained(self) -> tuple[str, ...]:
        """The letters to train in the order of the models, each of which must have them."""
        found = set()
        for cell in self._cells(self.family.model_axes):
            model = self.family.model(cell)
            found.add(tuple(_protocol.trained(model, letters) for letters in self.axes["train"]))
        if len(found) > 1:
            raise error(ValueError, "the models have different weights", "say which to train")
        return _once("train", found.pop())

    def _require_rates(self) -> None:
        """An optimiser needs a number for its rate, and does not stop before the end."""
        if all(optimiser is None for optimiser in self.family.optimisers.values()):
            return
        rules = [step for step in self.axes["step"] if isinstance(step, str)]
        if rules or self.until is not None:
            found = f"step {rules[0]!r}" if rules else "until"
            remedy = "give numbers for step" if rules else "leave it out"
            raise error(ValueError, f"{found} is for gradient descent, not for optimisers", remedy)

    def _cells(self, axes: Iterable[str]) -> Iterable[dict]:
        names = [*self.family.named, *axes]
        for values in itertools.product(*(self.axes[axis] for axis in names)):
            yield dict(zip(names, values, strict=True))

    @property
    def size(self) -> int:
        """The number of runs."""
        return math.prod(map(len, self.axes.values()))

    @cached_property
    def tasks(self) -> list[Task]:
        """The grid cut into tasks, by the grid alone: the same on every machine, every time."""
        tasks: list[Task] = []
        for cell in self._cells([*self.family.axes, "train", "steps"]):
            for runs in self._batches(cell):
                tasks.append(Task(self.family, len(tasks), cell, runs, self.thresholds, self.until))
        return tasks

    def _batches(self, cell: dict) -> Iterable[Runs]:
        alike_by = _rule if self.family.optimiser(cell) is None else repr
        most = batch_size(self.family, cell)
        for _, steps in itertools.groupby(sorted(self.axes["step"], key=alike_by), key=alike_by):
            alike = {**self.axes, "step": tuple(steps)}
            axes = tuple(alike[axis] for axis in WITHIN)
            count = math.prod(map(len, axes))
            for first in range(0, count, most):
                yield Runs(axes, first, min(first + most, count))

    def record(self) -> str:
        """The grid as one line of JSON: two sweeps are the same if their records are."""
        axes = {axis: _short(values) for axis, values in self.axes.items()}
        content = {"axes": axes, "thresholds": self.thresholds, "until": self.until}
        if self.family.named:
            content["family"] = self.family.record()
        return json.dumps(content, sort_keys=True)


def batch_size(family: Family, cell: dict) -> int:
    """How many runs of a cell go into one task, by the numbers that each run keeps."""
    try:
        model, problem, weights = family.instance(cell, seed=0, start=0, scale=1.0)
    except (ValueError, TypeError, MemoryError) as refusal:
        remedy = getattr(refusal, "remedy", "choose other values")
        raise error(type(refusal), f"in the cell {written(cell)}: {refusal}", remedy) from refusal
    passing = model.memory(problem) // 8 if hasattr(model, "memory") else problem.X.numel()
    kept = 2 * cell["steps"] + problem.X.numel() + 9 * sum(W.numel() for W in weights) + passing
    return max(1, min(RUNS, NUMBERS // kept))


def written(cell: dict) -> str:
    """A cell as it is told to a reader."""
    return ", ".join(f"{axis}={value}" for axis, value in cell.items())


def _short(values: Sequence) -> str | list:
    """Values as a record keeps them: many numbers in a row by their ends, the rest one by one."""
    if isinstance(values, range) and len(values) > RUNS:
        return f"{values[0]}..{values[-1]}"
    return list(values)


def _rule(step: float | str) -> str:
    """Runs with numbers for steps train side by side; each rule has tasks of its own."""
    return step if isinstance(step, str) else ""


# ------------------------------------------------------------------------------ values


def _values(axis: str, given) -> Sequence:
    """The values of an axis, from one value or several."""
    row = _row(given) if axis in LONG else None
    if row is not None:
        for end in (row[0], row[-1]):
            _value(axis, end)
        return row
    if isinstance(given, (Tensor, np.ndarray)):
        given = _validate.dense(axis, given).tolist()
    several = isinstance(given, Iterable) and not isinstance(given, (str, bytes))
    values = tuple(_value(axis, value) for value in (given if several else [given]))
    if not values:
        raise error(
            ValueError, f"axis {axis} is empty", "give it at least one value, or leave it out"
        )
    return _once(axis, values)


def _row(given) -> range | None:
    """Whole numbers of which each is one more than the last, as a range; None for anything else."""
    if isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype.kind in "iu":
        if len(given) < 2 or not bool((given[1:] == given[:-1] + 1).all()):
            return None
        row = range(int(given[0]), int(given[-1]) + 1)
        return row if len(row) == len(given) else None  # 255 and one more may be 0 there
    if not isinstance(given, (range, list, tuple)) or len(given) < 2 or type(given[0]) is not int:
        return None
    row = range(given[0], given[0] + len(given))
    same = given == row if isinstance(given, range) else all(map(_is, given, row))
    return row if same else None


def _is(one: object, number: int) -> bool:
    return type(one) is int and one == number


def _once(axis: str, values: tuple) -> tuple:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise error(ValueError, f"axis {axis} holds {twice[0]!r} twice", "name each once")
    return values


def _value(axis: str, value):
    if isinstance(value, (Tensor, np.generic)) and value.ndim == 0:
        value = value.item()
    if axis == "kernel":
        return _kernel(value)
    if axis == "train" and not (value is None or isinstance(value, str)):
        found = f"train must name matrices, as in 'V' or 'QKV', got {_validate.shown(value)}"
        raise error(TypeError, found, "name matrices")
    if axis == "train" or (value is None and axis not in ("steps", "step")):
        return value
    if axis == "step":
        return _step(value)
    if axis == "scale":
        return _validate.positive("scale", value)
    if axis not in COUNTS:
        return _plain(axis, value)
    if _validate.count(axis, value, COUNTS[axis]) >= MOST:
        raise error(
            ValueError,
            f"{axis} must be below 2^63, as a table keeps it, got {value}",
            "be below 2^63, as a table keeps it",
        )
    return int(value)


def _plain(axis: str, value):
    if not isinstance(value, (bool, int, float, str)):
        raise error(
            TypeError, f"{axis} must hold numbers or names, got {value!r}", "numbers or names"
        )
    return value


def _kernel(value) -> str:
    """The name by which a task finds the kernel again, in whatever process."""
    kernel = kernels.get(value)
    if kernels.get(kernel.name) != kernel:
        raise error(
            ValueError, f"kernel {kernel.name!r} is not the registered one", "give it another name"
        )
    return kernel.name


def _step(value):
    if isinstance(value, numbers.Real):
        return _validate.positive("step", value)
    return _validate.one_of("step", value, ("1/L", "polyak"))
