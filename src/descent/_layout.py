r"""Where the numbers of many runs lie in memory: the one place that is written for speed.

A step of a small layer is a dozen products of matrices with a handful of rows. What they cost is
the calls and the way to memory, not the arithmetic. There are three layouts. All of them offer
`descend` the same: ``set_step`` sets each run's step size, ``integrate`` takes a ``stretch`` of steps
within ``threads``, and says what share of it is done; there are each run's ``loss``, the ``square``
of its gradient's length and its ``weights``; and ``sizes``, how many runs each block has, for each of
which there is a monitor.

`Plain` is the textbook, each model's own ``objective`` and W <- W - eta dW, for whatever the others
do not know.

`Groups` is for models that state their step on lanes (`descent.lanes`), on a processor: a group of
runs fills the lanes of its vector registers, and a stretch of steps is one compiled call. It lives
in `lanes._groups`, and is loaded when it is needed.

`Blocks`, of `Innermost`, are for the attention layer elsewhere: on a GPU, with a kernel of one's
own, and where Numba does not run. They make a step of all runs few calls of torch on long arrays:

* Runs lie innermost: an array is (tokens, features, heads, runs). A score is then a sum of d
  products of long contiguous rows, and so is the way back: no product of tiny matrices is ever
  called. `_sums` takes these sums.
* What moves is kept in token space. Write W = W_0 + X^T Z. With G the gradient with respect to
  X W, the step W <- W - eta X^T G is Z <- Z - eta G, and X W = X W_0 + (X X^T) Z: one matrix
  product a step, for all matrices and all runs together. Where there are far more tokens than
  dimensions, W = W_0 + Z is the smaller array, and a step has two products.
* What the layer reads of a matrix are columns c = W a: the read-out W_V w_O, and those of W_Q and
  W_K over d^(1/4), so that their products are scores. The gradient with respect to W is g a^T, so
  a step moves c by -eta |a|^2 g: a step size of its own for each column, and no other factor.
* Blocks of runs are small enough for a processor's cache. Runs know nothing of each other, so a
  block takes a stretch of steps before the next one is fetched, and each core has its own blocks.

The last three hold for `Groups` as well.
"""

import importlib
import itertools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from threading import Lock
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from . import steps as rules
from ._memory import Need
from ._sums import Part, Sums
from .kernels import gaussian, softmax
from .models import _protocol
from .problems import Problem

#: Steps that a block of runs takes before the next one is fetched, where no rule is to be asked.
STRETCH = 16
#: Bytes that an array of a block may have on a processor (measured: with half or twice as many a
#: step is slower).
BLOCK = 2**20
#: Bytes that all runs must write into such an array in a stretch of steps before it is worth while
#: to wake a second thread for it (measured: about 60 runs of the bench's size).
ALONE = 2**23


def choose(model, weights: NamedTuple, problem: Problem, train: str, compact: bool) -> type:
    """The layout for these runs: `Plain` unless ``compact`` allows another that knows the model."""
    if not compact:
        return Plain
    if problem.X.device.type == "cpu" and hasattr(model, "on_lanes"):
        lanes = compiled()
        if lanes and lanes.Groups.knows(model, weights, problem, train):
            return lanes.Groups
    return Blocks if fits(model, problem) else Plain


def fits(model, problem: Problem) -> bool:
    """Whether `Innermost` knows the model, has one problem for all runs, and is the faster."""
    if not getattr(model, "innermost", False) or problem.X.ndim > 3:
        return False
    return problem.n**2 * model.d <= Sums.SMALL


@cache
def compiled() -> ModuleType | None:
    """The module `lanes._groups`; None where Numba is of no use.

    It is loaded at the first need: most who import the library do not train at once. Numba refuses
    a numpy that is newer than itself.
    """
    try:
        return importlib.import_module(".lanes._groups", __package__)
    except (ImportError, RuntimeError):
        return None


def silent(share: float) -> None:
    """Nobody wants to know what share of a stretch of steps is done."""


class Plain:
    """Leading dimensions are runs; the model's own ``objective`` gives loss and gradient."""

    def __init__(
        self,
        model,
        weights: NamedTuple,
        problem: Problem,
        train: str,
        rule: rules.Rule | None = None,
    ):
        self.start = weights
        self.objective = _protocol.objective(model, weights, problem, train)
        self.point = {W: getattr(weights, W) for W in train}
        self.loss, self.gradient = self.objective(self.point)
        self.sizes = [self.loss.numel()]
        self.stretch = STRETCH if rules.is_constant(rule) else 1
        self.threads = nullcontext  # torch's own do

    @staticmethod
    def needs(model, weights: NamedTuple, problem: Problem, train: str) -> Need:
        """Of each run start, point, the one before, gradient, and one on its way.

        Then there is what a gradient takes, as far as the model says.
        """
        runs = _protocol.runs_of(model, weights).numel()
        passing = model.memory(problem) if hasattr(model, "memory") else 0
        return Need(runs, 5 * sum(W.nbytes for W in weights) // runs + passing)

    def set_step(self, eta: Tensor) -> None:
        self.eta = eta

    def integrate(self, start: int, stop: int, monitors: list, done: Callable = silent) -> None:
        _integrate(self, start, stop, *monitors)
        done(1.0)

    def step(self) -> Tensor:
        self.before = self.point
        self.point = {
            W: value - self._per_run(self.eta, value) * self.gradient[W]
            for W, value in self.point.items()
        }
        self.loss, self.gradient = self.objective(self.point)
        return self.loss.flatten()

    def roll_back(self, moved: Tensor) -> None:
        moved = moved.reshape(self.loss.shape)
        self.point = {
            W: torch.where(self._per_run(moved, value), value, self.before[W])
            for W, value in self.point.items()
        }

    def square(self) -> Tensor:
        runs = self.loss.ndim
        return sum(g.square().reshape(*g.shape[:runs], -1).sum(-1) for g in self.gradient.values())

    def weights(self) -> NamedTuple:
        return self.start._replace(**self.point)

    @staticmethod
    def _per_run(value: Tensor, W: Tensor) -> Tensor:
        return value.reshape(value.shape + (1,) * (W.ndim - value.ndim))


class Blocks:
    """Runs of any leading dimensions as blocks of `Innermost`, shared out among the cores."""

    def __init__(
        self,
        layer,
        weights: NamedTuple,
        problem: Problem,
        train: str,
        rule: rules.Rule | None = None,
    ):
        self.shape, flat = flatten(weights)
        runs, array = len(flat.O), bytes_read(layer, problem, train)
        self.stretch = STRETCH if rules.is_constant(rule) else 1
        worth_while = self.stretch * runs * array >= ALONE
        self.workers = torch.get_num_threads() if worth_while else 1
        size, workers = runs, 1
        if problem.X.device.type == "cpu":
            workers = min(self.workers, runs)
            most = max(1, block_bytes(problem) // array)
            size = math.ceil(runs / (workers * math.ceil(runs / (workers * most))))
        parts = list(zip(*(W.split(size) for W in flat), strict=True))
        self.each = math.ceil(len(parts) / workers)  # blocks for each thread
        shared: list[dict] = [{} for _ in range(workers)]  # what the blocks of one thread share
        self.blocks = [
            Innermost(layer, type(flat)(*part), problem, train, shared[k // self.each])
            for k, part in enumerate(parts)
        ]
        self.sizes = [block.loss.numel() for block in self.blocks]
        self.map = map

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Have a thread for each share of the blocks, or all of torch's for a single one."""
        shares = len(self._shares(self.blocks))
        with torch_threads(self.workers if shares == 1 else 1):
            if shares == 1:
                yield
                return
            with ThreadPoolExecutor(shares, "descend") as pool:
                self.map = pool.map
                yield

    def _shares(self, of_blocks: list) -> list[list]:
        return [of_blocks[k : k + self.each] for k in range(0, len(of_blocks), self.each)]

    @staticmethod
    def needs(layer, weights: NamedTuple, problem: Problem, train: str) -> Need:
        """Of each run what lasts, the weights twice, and elsewhere the scratch too."""
        runs, array = weights.O.shape[:-2].numel(), bytes_read(layer, problem, train)
        moving = min(1, 2 * problem.D / (problem.N * problem.n))  # rows of a point, for each token
        attention = problem.N * problem.n**2 * layer.H * problem.X.element_size()
        # base or, of what is not trained, the image; point, the one before and direction; S, where only
        # the values are trained
        lasting = bytes_read(layer, problem, "QKV") + 3 * moving * array + attention
        if problem.X.device.type != "cpu":  # all runs are one block there
            # scores, their gradients, products on the way: of the first step, and of the recorded
            lasting += 2 * array + 16 * attention
        return Need(runs, int(lasting) + 3 * sum(W.nbytes for W in weights) // runs)

    def set_step(self, eta: Tensor) -> None:
        for block, part in zip(self.blocks, eta.reshape(-1).split(self.sizes), strict=True):
            block.set_step(part)

    def integrate(self, start: int, stop: int, monitors: list, done: Callable = silent) -> None:
        shares = self._shares(list(zip(self.blocks, monitors, strict=True)))
        for _ in self.map(partial(_take_turns, start, stop), shares):
            done(1 / len(shares))

    @property
    def loss(self) -> Tensor:
        return self._join([block.loss for block in self.blocks])

    def square(self) -> Tensor:
        return self._join([block.square() for block in self.blocks])

    def weights(self) -> NamedTuple:
        parts = [block.weights() for block in self.blocks]
        joined = (torch.cat(W) for W in zip(*parts, strict=True))
        return type(parts[0])(*(W.reshape(self.shape + W.shape[1:]) for W in joined))

    def _join(self, parts: list[Tensor]) -> Tensor:
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(self.shape)


def flatten(weights: NamedTuple) -> tuple[torch.Size, NamedTuple]:
    """The runs' shape, and the weights with it as one leading dimension."""
    runs = weights.O.ndim - 2
    return weights.O.shape[:runs], type(weights)(*(W.reshape(-1, *W.shape[runs:]) for W in weights))


def bytes_read(layer, problem: Problem, train: str) -> int:
    """Bytes a run of what all tokens read of the trained matrices, an array of `Innermost`."""
    columns = sum(layer.H if W == "V" else layer.H * layer.d for W in train)
    return problem.N * problem.n * columns * problem.X.element_size()


def block_bytes(problem: Problem) -> int:
    """What an array of a block may take: as much as the matrix that multiplies it always may.

    In a product with fewer columns than that the time would go into fetching the matrix.
    """
    tokens = problem.N * problem.n
    return max(BLOCK, tokens * min(tokens, problem.D) * problem.X.element_size())


def _take_turns(start: int, stop: int, tasks: list[tuple]) -> None:
    for block, monitor in tasks:
        _integrate(block, start, stop, monitor)


def _integrate(block, start: int, stop: int, monitor) -> None:
    """Take the steps from ``start`` to ``stop`` of one block while its numbers are at hand."""
    if monitor.finished:
        return
    for t in range(start, stop):
        moved = monitor.observe(t + 1, block.step())
        if moved is not None:
            block.roll_back(moved)


class _Inside:
    """How many are within `torch_threads` in this process, and the number that the first found."""

    lock, count, found = Lock(), 0, 0


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads, and leave it as it was.

    The number belongs to the thread, and to the process, which new threads begin with: so one that
    begins while another one is within here must not leave behind what it found.
    """
    with _Inside.lock:
        if not _Inside.count:
            _Inside.found = torch.get_num_threads()
        _Inside.count += 1
        torch.set_num_threads(count)
    try:
        yield
    finally:
        with _Inside.lock:
            _Inside.count -= 1
            torch.set_num_threads(_Inside.found)


def _in_a_fork() -> None:
    # The threads of torch's pool stay with the parent: a sum that is given to them never ends.
    torch.set_num_threads(1)
    _Inside.lock, _Inside.count = Lock(), 0


if hasattr(os, "register_at_fork"):  # no such thing on Windows
    os.register_at_fork(after_in_child=_in_a_fork)


@cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    """Where a GPU is shown a step, without taking it; one, since each keeps memory for itself."""
    return torch.cuda.Stream(device)


#: One thread at a time shows it a step.
_recording = Lock()


class Innermost:
    """A block of runs of one attention layer on one problem; see the module's docstring.

    Arrays have a row for each token (``base``, ``image``, ``pulled``) or for each coordinate of
    what moves (``point``, ``before``, ``direction``): each token (``dual``) or dimension. Their
    columns are those of the trained among W_Q and W_K, d features x H heads x runs each, and of
    the read-out, H x runs. All first tokens of the N sequences come before all second ones: with
    all its axes an image is (n, N, features, H runs), and an attention matrix
    (n queries, n keys, N, H runs).
    """

    def __init__(self, layer, weights: NamedTuple, problem: Problem, train: str, shared: dict):
        self.start, self.train = weights, train
        self.columns = (-1, layer.H, len(weights.O))
        self.dual = problem.N * problem.n <= 2 * problem.D
        if "tokens" not in shared:
            X = problem.X.transpose(0, 1).flatten(0, 1)
            shared["tokens"] = X, X @ X.mT if self.dual else X
        self.X, self.into = shared["tokens"]
        # the vectors a of the columns c = W a, and |a|^2, both (features, H, runs)
        output, shrink = weights.O.permute(2, 1, 0), layer.d**-0.25
        self.a = {W: output if W == "V" else torch.full_like(output, shrink) for W in train}
        self.metric = {W: a.square() for W, a in self.a.items()}
        if "V" in train:
            self.metric["V"] = self.metric["V"].sum(0, keepdim=True)
        c = {
            "Q": weights.Q * shrink,
            "K": weights.K * shrink,
            "V": weights.V @ weights.O[..., None],
        }
        images = {W: self.X @ part.permute(2, 3, 1, 0).flatten(1) for W, part in c.items()}
        self._make_arrays([images[W] for W in train], shared)
        whole = {W: Part(image, 0, image.shape[1]) for W, image in images.items()}
        self.sums = Sums(
            layer.kernel,
            problem.y.mT,
            layer.H,
            image=whole | self._parts(self.image),
            pulled=self._parts(self.pulled),
        )
        self.frozen = self.sums.attention() if train == "V" else None
        self.rate = self.base.new_empty(self.base.shape[1])
        self.loss = self._evaluate(self.point)
        # who knows what another kernel does: only what never asks a GPU for a number can be recorded
        known = layer.kernel in (softmax, gaussian)
        self.recorded = self._record() if self.base.is_cuda and known else None

    def set_step(self, eta: Tensor) -> None:
        self.rate.copy_(torch.cat([(eta * self.metric[W]).flatten() for W in self.train]))

    def _record(self) -> Iterator[tuple[torch.cuda.CUDAGraph, Tensor]]:
        """What a step launches on a GPU, to be launched by one call, and where its loss will be.

        A step leads from one of two arrays to the other and the next one back, so there are two.
        """
        graphs, stream = [], _aside(self.base.device)
        stream.wait_stream(torch.cuda.current_stream(self.base.device))
        with _recording, torch.cuda.stream(stream):
            self._evaluate(self.point)  # what is made at a first call must not be part of a graph
            shared = torch.cuda.graph_pool_handle()  # of memory: one runs after the other
            for graph in (torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()):
                graph.capture_begin(shared, capture_error_mode="thread_local")
                try:
                    graphs.append((graph, self._step()))
                finally:
                    graph.capture_end()
        torch.cuda.current_stream(self.base.device).wait_stream(stream)
        return itertools.cycle(graphs)

    def step(self) -> Tensor:
        if self.recorded is None:
            self.loss = self._step()
        else:
            graph, loss = next(self.recorded)
            graph.replay()
            self.loss = loss.clone()  # the one after the next overwrites it
            self.point, self.before = self.before, self.point
        return self.loss

    def _step(self) -> Tensor:
        torch.addcmul(self.point, self.direction, self.rate, value=-1, out=self.before)
        self.point, self.before = self.before, self.point
        return self._evaluate(self.point)

    def roll_back(self, moved: Tensor) -> None:
        new, old = (x.unflatten(1, self.columns) for x in (self.point, self.before))
        torch.where(moved, new, old, out=new)

    def square(self) -> Tensor:
        """|gradient|^2: of g a^T it is |g|^2 |a|^2, and in the dual |X^T g|^2 = <g, X X^T g>."""
        pairs = self.into @ self.direction if self.dual else self.direction
        parts = self._split((self.direction * pairs).sum(0))
        return sum((parts[W] * self.metric[W]).sum((0, 1)) for W in self.train)

    def weights(self) -> NamedTuple:
        """The start and, for each column, how far c has moved, times a^T / |a|^2."""
        after = {}
        for W, moved in self._split(self.X.mT @ self.point if self.dual else self.point).items():
            divisor = torch.where(self.metric[W] > 0, self.metric[W], 1)  # a = 0 does not move
            step = moved / divisor * self.a[W]
            after[W] = getattr(self.start, W) + step.permute(3, 2, 0, 1)
        return self.start._replace(**after)

    # -- arrays -----------------------------------------------------------------------------------

    def _make_arrays(self, base: list[Tensor], shared: dict) -> None:
        def scratch(name: str) -> Tensor:  # holds nothing between two steps
            if (name, self.base.shape) not in shared:
                shared[name, self.base.shape] = torch.empty_like(self.base)
            return shared[name, self.base.shape]

        self.base, self.widths = torch.cat(base, 1), [part.shape[1] for part in base]
        self.point = self.base.new_zeros(self.into.shape[1], self.base.shape[1])
        self.before, self.direction = (torch.empty_like(self.point) for _ in range(2))
        self.image = scratch("image")
        self.pulled = self.direction if self.dual else scratch("pulled")

    def _parts(self, array: Tensor) -> dict[str, Part]:
        """Which columns of an array are those of each trained matrix."""
        ends = itertools.accumulate(self.widths)
        return {
            W: Part(array, end - width, width)
            for W, end, width in zip(self.train, ends, self.widths, strict=True)
        }

    def _split(self, array: Tensor) -> dict[str, Tensor]:
        """Those columns, (..., features, H, runs)."""
        parts = zip(self.train, array.split(self.widths, -1), strict=True)
        return {W: part.unflatten(-1, self.columns) for W, part in parts}

    # -- a step -----------------------------------------------------------------------------------

    def _evaluate(self, point: Tensor) -> Tensor:
        """The loss (runs,) at a point; leaves the gradient there in ``direction``."""
        torch.addmm(self.base, self.into, point, out=self.image)
        attention = self.sums.attention() if self.frozen is None else self.frozen
        loss = self.sums.pull_back(attention)
        if not self.dual:
            torch.mm(self.X.mT, self.pulled, out=self.direction)
        return loss
