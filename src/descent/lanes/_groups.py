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
from numba import typeof
from torch import Tensor
from torch.nn.functional import pad

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
        self.runs, self.start, problem = _flat(model, weights, problem)
        step = model.on_lanes(self.start, problem, train)
        self.train, self.shape = train, _Shape(step, train)
        self.count, lanes = len(self.start[0]), self.shape.lanes
        self.groups = math.ceil(self.count / lanes)
        self.data = tuple(self._by_run(x) if torch.is_tensor(x) else x for x in step.data)
        few = _stretch.FEW * ((self.count - 1) % lanes + 1) <= lanes
        self.products, self.state = self.shape.products(few), self._state(step)
        self.formula = rules.formula(rule)
        longest = 1 if self.formula is None else LONGEST
        threads = torch.get_num_threads()
        self.stretch, self.shares, self.parts = plan(self.groups, self.shape.work, longest, threads)
        self.scratch, self.spare = [self.shape.scratch() for _ in range(self.shares)], SimpleQueue()
        for one in self.scratch:
            self.spare.put(one)
        kept = self.products, self.state, self.shape.places, self.data, self.scratch[0]
        self.kinds = typeof(kept)
        self.take_steps = _stretch.compiled(step.function, self.kinds)
        self.map, self.sizes, self.t = map, [self.count], 0
        self._evaluate()

    @staticmethod
    def knows(model, weights: NamedTuple, problem: Problem, train: str) -> bool:
        """Whether the model states its step for this problem; see `Step` for those by run."""
        by_run = problem.X.ndim > 3
        if by_run and not isinstance(problem, Problem):
            return False
        _, some, shown = _flat(model, weights, problem, SHOWN)
        step = model.on_lanes(some, shown, train)
        return step is not None and (not by_run or _differs(step))

    @staticmethod
    def needs(model, weights: NamedTuple, problem: Problem, train: str) -> Need:
        """Of each run what lasts, as much on the way in or out, and the weights three times."""
        runs, some, shown = _flat(model, weights, problem, SHOWN)
        step = model.on_lanes(some, shown, train)
        shape = _Shape(step, train)
        per_run = shape.bytes_per_lane + 3 * sum(W[0].nbytes for W in some)
        per_run += 2 * sum(x[0].nbytes for x in step.data if torch.is_tensor(x))
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
        # contiguous, whatever the rule's: see `_stretch.compiled`
        self.step_size = self._step_size(scale.reshape(len(scale), -1).contiguous().numpy())

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
        self._call(_stretch.lengths(self.kinds), self.products, self.state)
        found = self.state.length.reshape(-1)[: self.count]
        return torch.from_numpy(found.copy()).reshape(self.runs)

    def weights(self) -> NamedTuple:
        """The start and, for each column, how far c has moved, over |a|^2."""
        after = {}
        parts = self._by_weight(self.state.point[self.t % 2])
        for W, read, (Z, square, size) in zip(self.train, self.shape.moving, parts, strict=True):
            moved = Z[..., :size] / torch.where(square > 0, square, 1)[..., None]
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
            _fill(part[:, :, : x.shape[2]], x)
        return out.numpy()

    def _by_run(self, x: Tensor) -> _register.ByRun:
        """What each run has of its own, (runs, ...), in lanes."""
        out = x.new_zeros(self.groups, *x.shape[1:], self.shape.lanes)
        _fill(out, x)
        return _register.ByRun(out.numpy())

    def _by_weight(self, array: np.ndarray) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Of each weight its part (runs, columns, coordinates) of an array, |a|^2, and how many
        coordinates it has.
        """
        runs = torch.from_numpy(array).permute(0, 3, 1, 2).flatten(0, 1)[: self.count]
        widths = self.shape.widths
        sizes = (self.shape.sizes[k] for k in self.shape.matrix)
        return zip(runs.split(widths, 1), self.square_of.split(widths, 1), sizes, strict=True)

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
    """How large the arrays of a group are, and the matrices, shared by all runs or each run's own."""

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
        self.by_run = _differs(step)
        self.sizes = [R.shape[-2 if self.dual else -1] for R in self.through]
        self.rows = _padded(max(read.through.shape[-2] for read in reads.values()))
        self.coordinates = _padded(max(self.sizes))
        self.dtype = self.moving[0].square.numpy().dtype
        self.lanes = _register.width(self.dtype)
        self.zeros = partial(np.zeros, dtype=self.dtype)
        self.work = (self._cost(self.dual) + step.work) * self.lanes

    def _cost(self, dual: bool) -> int:
        """Products of a step of one run."""
        return sum(
            width * rows * (rows if dual else 2 * coordinates)
            for width, read in zip(self.widths, self.moving, strict=True)
            for rows, coordinates in [read.through.shape[-2:]]
        )

    def products(self, few: bool) -> _stretch.Products:
        """``few`` : whether some group leaves most of its lanes idle."""
        rows = [R.shape[-2] for R in self.through]
        at_once = max(self.sizes) * _register.ROWS * (self.lanes if self.by_run else 1)
        return _stretch.Products(
            dual=self.dual,
            into=self._matrices(self._into),
            across=self._across() if few else self.zeros((0, 0, self.lanes)),
            back=self._matrices(self._back),
            into_at=self._begins(rows, self.sizes),
            back_at=self._begins(self.sizes, rows),
            panels=math.ceil(max(rows) / _register.ROWS),
            block=max(1, _stretch.BLOCK // at_once),
            pairs=_pairs(self.widths),
            matrix=np.repeat(self.matrix, self.widths),
            column=self.column,
            own=np.arange(len(self.column)),
            coordinates=np.array(self.sizes),
            rows=np.array(rows),
        )

    def _into(self, R: Tensor) -> Tensor:
        return R @ R.mT if self.dual else R

    def _back(self, R: Tensor) -> Tensor:
        return R.mT[..., :0, :0] if self.dual else R.mT

    @staticmethod
    def _begins(rows: list[int], columns: list[int]) -> np.ndarray:
        """Where each matrix of these sizes begins among the panels of all."""
        panels = (math.ceil(r / _register.ROWS) * k for r, k in zip(rows, columns, strict=True))
        return np.array([*itertools.accumulate(panels, initial=0)][:-1])

    def _matrices(self, make: Callable[[Tensor], Tensor]) -> np.ndarray | _register.ByRun:
        """All of them in panels, those of each run in its lane if it has its own."""
        if not self.by_run:
            return _panels([make(R) for R in self.through])
        count = len(self.moving[0].square)
        through = [R.expand(count, *R.shape[-2:]) for R in self.through]
        entries = len(_panels([make(R[0]) for R in through]))
        out = self.zeros((math.ceil(count / self.lanes), entries, _register.ROWS, self.lanes))
        used = min(count, self.lanes)
        for lane in range(used):  # one at a time: together they take as much again
            here = _panels([make(R[lane :: self.lanes]) for R in through])
            out[: len(here), ..., lane] = here
        return _register.ByRun(out)

    def _across(self) -> np.ndarray:
        """The matrix with its rows as lanes, if there is one that all columns are multiplied by."""
        if self.by_run or len(self.through) > 1:
            return self.zeros((0, 0, self.lanes))
        panels = _panels([self._into(self.through[0])], self.lanes)
        return panels.reshape(-1, self.sizes[0], self.lanes)

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
        own = 2 * self._entries() * _register.ROWS if self.by_run else 0
        return (own + base + 3 * moving + max(base, 2 * moving)) * self.dtype.itemsize

    def _entries(self) -> int:
        """Of all panels of a run's matrices."""
        sizes = [(R.shape[-2], k) for R, k in zip(self.through, self.sizes, strict=True)]
        sizes += [] if self.dual else [(k, rows) for rows, k in sizes]
        return sum(math.ceil(rows / _register.ROWS) * k for rows, k in sizes)

    def bytes_shared(self, threads: int) -> int:
        """The matrices, as they are and in panels, and the scratch of each thread."""
        matrices = 0
        if not self.by_run:
            matrices = self._entries() * _register.ROWS * self.dtype.itemsize
            matrices += sum(R.nbytes for R in self.through)
        own = sum(map(math.prod, self.own))
        scratch = (self.columns + len(self.column)) * self.rows + own
        packed = (len(self.column) + _register.ROWS) * (self.coordinates + self.rows + self.lanes)
        scratch += math.ceil(packed / self.lanes)
        return 3 * matrices + threads * scratch * self.lanes * self.dtype.itemsize


def _flat(
    model, weights: NamedTuple, problem: Problem, most: int | None = None
) -> tuple[torch.Size, NamedTuple, Problem]:
    """The runs' shape, and weights and problems with it as one leading dimension.

    No more than the first ``most`` of them; a problem that all runs share stays as it is.
    """
    runs = _protocol.runs_of(model, weights)

    def first(x: Tensor, own: int) -> Tensor:
        own = x.shape[x.ndim - own :]
        return x.expand(*runs, *own).reshape(-1, *own)[:most]

    flat = type(weights)(*(first(W, W.ndim - len(runs)) for W in weights))
    if problem.X.ndim > 3:
        y = first(problem.y, problem.y.ndim - problem.X.ndim + 3)
        problem = Problem(first(problem.X, 3), y, problem.ambient)
    return runs, flat, problem


def _differs(step: Step) -> bool:
    """Whether each run has data, and matrices, of its own."""
    return any(map(torch.is_tensor, step.data))


def _fill(lanes: Tensor, x: Tensor) -> None:
    """Give each of the runs x (runs, ...) a lane of (groups, ..., lanes)."""
    for lane in range(lanes.shape[-1]):
        here = x[lane :: lanes.shape[-1]]
        lanes[: len(here), ..., lane] = here


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
    """(..., rows, k) each as (..., entries, height), panels of k entries one below the other.

    That is the order in which a product reads them.
    """
    padded = (pad(M, (0, 0, 0, -M.shape[-2] % height)) for M in matrices)
    panels = [M.unflatten(-2, (-1, height)).mT.flatten(-3, -2) for M in padded]
    return torch.cat(panels, -2).numpy()
