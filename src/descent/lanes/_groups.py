"""Runs in groups, one to a lane of a vector register: the arrays that `_stretch` works on.

Everything linear is done here, for any model. It reads R c of columns c = W a (`Read`). What moves
is kept as Z in c = c_0 + |a|^2 R^T Z, so that an image is R c_0 + (R R^T) Z: one product a step.
Where there are far more rows than coordinates it is c that is kept, and a step has two products.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import _layout
from .. import steps as rules
from .._memory import Need
from .._monitor import Monitor, Record
from ..models import _protocol
from ..problems import Problem
from . import _register, _stretch
from ._surface import Step

#: Products that all runs must add up in a stretch of steps before it is worth while to wake a
#: second thread for it.
ALONE = 2**20
#: A model is shown at most as many runs when it is asked whether it states its step for them.
SHOWN = 8
#: Products that may be added up in one call, a few hundredths of a second: a progress bar moves
#: between two of them. And the most steps that a call may take.
CALL, LONGEST = 2**31, 256


class Groups:
    """Runs of any leading dimensions of a model that states its step; see `_layout`."""

    def __init__(
        self,
        model,
        weights: NamedTuple,
        problem: Problem,
        train: str,
        rule: rules.Rule | None = None,
    ):
        self.runs, self.start = _flat(model, weights)
        step = model.on_lanes(self.start, problem, train)
        self.train, self.shape, self.data = train, _Shape(step, train), step.data
        self.count, lanes = len(self.start[0]), self.shape.lanes
        self.groups = math.ceil(self.count / lanes)
        few = _stretch.FEW * ((self.count - 1) % lanes + 1) <= lanes
        self.products, self.state = self.shape.products(few), self._state(step)
        self.formula = rules.formula(rule)
        longest = 1 if self.formula is None else LONGEST
        threads = torch.get_num_threads()
        self.stretch, self.shares, self.parts = plan(self.groups, self.shape.work, longest, threads)
        self.scratch, self.spare = [self.shape.scratch() for _ in range(self.shares)], SimpleQueue()
        for one in self.scratch:
            self.spare.put(one)
        self.take_steps = _stretch.compiled(step.function)
        self.map, self.sizes, self.t = map, [self.count], 0
        self._evaluate()

    @staticmethod
    def knows(model, weights: NamedTuple, problem: Problem, train: str) -> bool:
        """Whether the model states its step for this problem."""
        return model.on_lanes(_flat(model, weights, SHOWN)[1], problem, train) is not None

    @staticmethod
    def needs(model, weights: NamedTuple, problem: Problem, train: str) -> Need:
        """Of each run what lasts, as much on the way in or out, and the weights three times."""
        runs, some = _flat(model, weights, SHOWN)
        shape = _Shape(model.on_lanes(some, problem, train), train)
        per_run = shape.bytes_per_lane + 3 * sum(W[0].nbytes for W in some)
        per_run += LONGEST * shape.dtype.itemsize  # step sizes, where a rule gives them
        spare = (shape.lanes - 1) * shape.bytes_per_lane
        return Need(runs.numel(), per_run, shape.bytes_shared(torch.get_num_threads()) + spare)

    # -- what `descend` asks for ------------------------------------------------------------------

    def set_step(self, eta: Tensor) -> None:
        infinite = {"nan": math.inf, "posinf": math.inf, "neginf": -math.inf}
        eta = torch.where(self.moves, eta.flatten().nan_to_num(**infinite), 0)
        self.state.eta[:] = self._to_lanes([eta[:, None, None]], 1)[:, 0, 0]
        self.step_size = self._step_size()

    def set_later(self, scale: Tensor) -> None:
        """What the rule's formula takes (steps, ...) from the step after the next one on."""
        self.step_size = self._step_size(scale.reshape(len(scale), -1).numpy())

    def integrate(
        self, start: int, stop: int, monitors: list[Monitor], done: Callable = _layout.silent
    ) -> None:
        (monitor,) = monitors
        self.moves = monitor.moves
        if not monitor.finished:
            self._integrate(start, stop, monitor.record(), done)
            rules.warn_of_lost(torch.from_numpy(self.step_size.lost))

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Have one for each share of the groups; torch has nothing to do that needs others."""
        with _layout.torch_threads(1):
            if self.shares == 1:
                yield
                return
            with ThreadPoolExecutor(self.shares, "descend") as pool:
                self.map = pool.map
                yield
            self.map = map

    @property
    def loss(self) -> Tensor:
        return torch.from_numpy(self.state.loss.copy()).reshape(self.runs)

    def square(self) -> Tensor:
        """The squared length of each run's gradient."""
        self._call(_stretch.lengths(), self.products, self.state)
        found = self.state.length.reshape(-1)[: self.count]
        return torch.from_numpy(found.copy()).reshape(self.runs)

    def weights(self) -> NamedTuple:
        """The start and, for each column, how far c has moved, over |a|^2."""
        after = {}
        parts = self._by_weight(self.state.point[self.t % 2])
        for W, read, (Z, square, M) in zip(self.train, self.shape.moving, parts, strict=True):
            moved = Z[..., : len(M)] / torch.where(square > 0, square, 1)[..., None]
            c = moved @ read.through if self.shape.dual else moved
            after[W] = getattr(self.start, W) + read.write(c)
        joined = self.start._replace(**after)
        return type(joined)(*(W.reshape(self.runs + W.shape[1:]) for W in joined))

    # -- arrays -----------------------------------------------------------------------------------

    def _state(self, step: Step) -> _stretch.State:
        shape = self.shape
        self.square_of = torch.cat([read.square for read in shape.moving], 1)
        images = [read.columns @ read.through.mT for read in step.reads.values()]
        moving = (self.groups, sum(shape.widths), shape.coordinates, shape.lanes)
        return _stretch.State(
            base=self._to_lanes(images, shape.rows),
            square=self._to_lanes([self.square_of[..., None]], 1)[:, :, 0],
            point=shape.zeros((2, *moving)),
            direction=shape.zeros(moving),
            eta=shape.zeros((self.groups, shape.lanes)),
            length=shape.zeros((self.groups, shape.lanes)),
            loss=shape.zeros(self.count),
        )

    def _to_lanes(self, arrays: list[Tensor], rows: int) -> np.ndarray:
        """(runs, columns, rows) each to (groups, all columns, rows, lanes), zeros elsewhere."""
        lanes, columns = self.shape.lanes, sum(x.shape[1] for x in arrays)
        out = arrays[0].new_zeros(self.groups, columns, rows, lanes)
        for x, part in zip(arrays, out.split([x.shape[1] for x in arrays], 1), strict=True):
            for lane in range(lanes):
                here = x[lane::lanes]
                part[: len(here), :, : x.shape[2], lane] = here
        return out.numpy()

    def _by_weight(self, array: np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each weight its part of an array, (runs, columns, coordinates), |a|^2 and R R^T."""
        runs = torch.from_numpy(array).permute(0, 3, 1, 2).flatten(0, 1)[: self.count]
        widths = self.shape.widths
        matrices = (self.shape.matrices[k] for k in self.shape.matrix)
        return zip(runs.split(widths, 1), self.square_of.split(widths, 1), matrices, strict=True)

    # -- steps ------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Loss and direction at the start: a step without a length, of which nothing is noted."""
        zero = self.square_of.new_zeros(1, self.count)
        record, self.step_size = Monitor(zero[0], zero).record(), self._step_size()
        self._integrate(-1, 0, record, _layout.silent)
        self.moves = torch.isfinite(self.loss.flatten())

    def _step_size(self, scale: np.ndarray | None = None) -> _stretch.StepSize:
        of, limits = self.formula or rules.Formula(), np.finfo(self.shape.dtype)
        return _stretch.StepSize(
            scale=self.shape.zeros((0, 0)) if scale is None else scale,
            power=of.power,
            relative=of.optimum is not None,
            optimum=of.optimum or 0.0,
            tiny=float(limits.tiny),
            most=float(limits.max),
            lost=np.zeros(self.count, bool),
        )

    def _integrate(self, start: int, stop: int, record: Record, done: Callable) -> None:
        arrays = self.products, self.state, self.shape.places, self.data, record, self.step_size
        self._call(self.take_steps, start, stop, *arrays, done=done)
        self.t = stop

    def _call(self, function: Callable, *arrays, done: Callable = _layout.silent) -> None:
        """A compiled function of all groups, as many in one call as are planned to be."""
        for groups in self.map(partial(self._share, function, arrays), self.parts):
            done((groups[1] - groups[0]) / self.groups)

    def _share(self, function: Callable, arrays: tuple, groups: tuple[int, int]) -> tuple:
        scratch = self.spare.get()
        try:
            _stretch.call(function, groups, scratch, *arrays)
        finally:
            self.spare.put(scratch)
        return groups


def plan(groups: int, work: int, longest: int, threads: int) -> tuple[int, int, list[tuple]]:
    """How many steps a stretch has, in how many threads, and which groups go into one call.

    ``work`` are the products of one step of one group, the model's own included. A call adds up
    `CALL` of them at most, unless one step of one group does alone.
    """
    stretch = max(1, min(longest, CALL // work))
    alone = stretch * groups * work < ALONE
    shares = 1 if alone else min(threads, groups)
    size = max(1, min(math.ceil(groups / shares), CALL // (stretch * work)))
    parts = [(k, min(k + size, groups)) for k in range(0, groups, size)]
    return stretch, min(shares, len(parts)), parts


class _Shape:
    """How large the arrays of a group are, and what all groups share."""

    def __init__(self, step: Step, train: str):
        reads, self.own = step.reads, step.scratch
        widths = {W: read.square.shape[1] for W, read in reads.items()}
        first = dict(zip(reads, itertools.accumulate(widths.values(), initial=0), strict=False))
        self.moving, self.widths = [reads[W] for W in train], [widths[W] for W in train]
        pulled = dict(zip(train, itertools.accumulate(self.widths, initial=0), strict=False))
        #: Where each weight's columns begin in an image, and among those that move, if they do.
        self.places = (
            tuple(first.values()),
            tuple(pulled.get(W, 0) for W in reads),
            tuple(W in train for W in reads),
        )
        self.column = np.concatenate([first[W] + np.arange(widths[W]) for W in train])
        self.columns = sum(widths.values())
        self.dual = self._cost(True) <= self._cost(False)
        #: Weights that are read through one matrix share it.
        self.through = list({id(read.through): read.through for read in self.moving}.values())
        self.matrix = [
            [R is read.through for R in self.through].index(True) for read in self.moving
        ]
        self.matrices = [
            R @ R.mT if self.dual else R.new_empty(R.shape[1], 0) for R in self.through
        ]
        self.rows = _padded(max(len(read.through) for read in reads.values()))
        self.coordinates = _padded(max(map(len, self.matrices)))
        self.dtype = self.moving[0].square.numpy().dtype
        self.lanes = _register.width(self.dtype)
        self.zeros = partial(np.zeros, dtype=self.dtype)
        self.work = (self._cost(self.dual) + step.work) * self.lanes

    def _cost(self, dual: bool) -> int:
        """Products of a step of one run."""
        return sum(
            width * len(R) * (len(R) if dual else 2 * R.shape[1])
            for width, R in zip(self.widths, (read.through for read in self.moving), strict=True)
        )

    def products(self, few: bool) -> _stretch.Products:
        """``few`` : whether some group leaves most of its lanes idle."""
        back = [] if self.dual else [R.mT for R in self.through]
        into = self.matrices if self.dual else self.through
        return _stretch.Products(
            into=_panels(into),
            across=self._across(into) if few else self.zeros((0, 0, self.lanes)),
            back=_panels(back) if back else self.zeros((0, 0, 0, _register.ROWS)),
            pairs=_pairs(self.widths),
            matrix=np.repeat(self.matrix, self.widths),
            column=self.column,
            own=np.arange(len(self.column)),
            coordinates=np.array([R.shape[1] for R in into]),
            rows=np.array([len(R) for R in into]),
        )

    def _across(self, into: list[Tensor]) -> np.ndarray:
        """The matrix with its rows as lanes, if there is one that all columns are multiplied by."""
        if len(into) > 1:
            return self.zeros((0, 0, self.lanes))
        return _panels(into, self.lanes)[0]

    def scratch(self) -> _stretch.Scratch:
        pulled = 0 if self.dual else len(self.column)
        panels, blocks = (
            math.ceil(len(self.column) / _register.ROWS),
            math.ceil(self.rows / self.lanes),
        )
        return _stretch.Scratch(
            image=self.zeros((self.columns, self.rows, self.lanes)),
            pulled=self.zeros((pulled, self.rows, self.lanes)),
            turned=self.zeros((len(self.column) - pulled, self.rows, self.lanes)),
            loss=self.zeros((1, self.lanes)),
            length=self.zeros((1, self.lanes)),
            packed=self.zeros((panels, self.coordinates, _register.ROWS)),
            product=self.zeros((blocks, panels * _register.ROWS, self.lanes)),
            own=tuple(self.zeros((*shape, self.lanes)) for shape in self.own),
        )

    @property
    def bytes_per_lane(self) -> int:
        base, moving = self.columns * self.rows, len(self.column) * self.coordinates
        return (base + 3 * moving + max(base, 2 * moving)) * self.dtype.itemsize

    def bytes_shared(self, threads: int) -> int:
        """The matrices, as they are and in panels, and the scratch of each thread."""
        matrices = sum(x.nbytes for x in (*self.through, *self.matrices))
        own = sum(map(math.prod, self.own))
        scratch = (self.columns + len(self.column)) * self.rows + own
        packed = (len(self.column) + _register.ROWS) * (self.coordinates + self.rows + self.lanes)
        scratch += math.ceil(packed / self.lanes)
        return 3 * matrices + threads * scratch * self.lanes * self.dtype.itemsize


def _flat(model, weights: NamedTuple, most: int | None = None) -> tuple[torch.Size, NamedTuple]:
    """The runs' shape, and the weights with it as one leading dimension, or the first of them."""
    runs = _protocol.runs_of(model, weights)
    flat = (W.reshape(-1, *W.shape[len(runs) :]) for W in weights)
    return runs, type(weights)(*(W[:most] for W in flat))


def _pairs(widths: list[int]) -> np.ndarray:
    """Two columns of one weight each, (pairs, 2); where one is left over, it is beside itself."""
    first = itertools.accumulate(widths, initial=0)
    return np.array(
        [
            (k + at, min(k + 1, width - 1) + at)
            for at, width in zip(first, widths, strict=False)
            for k in range(0, width, 2)
        ]
    )


def _padded(count: int) -> int:
    """A multiple of `ROWS`, and one more: columns then differ in their place in a cache."""
    return math.ceil(count / _register.ROWS) * _register.ROWS + 1


def _panels(matrices: list[Tensor], height: int = _register.ROWS) -> np.ndarray:
    """(rows, k) each as (matrices, panels, k, height): in the order in which a product reads it."""
    panels = math.ceil(max(map(len, matrices)) / height)
    size = panels * height, max(M.shape[1] for M in matrices)
    out = matrices[0].new_zeros(len(matrices), *size)
    for whole, M in zip(out, matrices, strict=True):
        whole[: len(M), : M.shape[1]] = M
    return out.unflatten(1, (panels, -1)).mT.contiguous().numpy()
