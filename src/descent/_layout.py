r"""Where the numbers of many runs lie in memory: the one place that is written for speed.

A step of a small layer is a dozen products of matrices with a handful of rows. What they cost is
the calls and the way to memory, not the arithmetic, so `Innermost` makes a step of all runs few
calls on long arrays:

* Runs lie innermost: an array is (tokens, features, heads, runs). A score is then a sum of d
  products of long contiguous rows, each added where it lies, and so is the way back: no product of
  tiny matrices is ever called, and the products of their entries are never all written.
* What moves is kept in token space. Write W = W_0 + X^T Z. With G the gradient with respect to
  X W, the step W <- W - eta X^T G is Z <- Z - eta G, and X W = X W_0 + (X X^T) Z: one matrix
  product a step, for all matrices and all runs together. Where there are far more tokens than
  dimensions, W = W_0 + Z is the smaller array, and a step has two products.
* What the layer reads of a matrix are columns c = W a: the read-out W_V w_O, and those of W_Q and
  W_K over d^(1/4), so that their products are scores. The gradient with respect to W is g a^T, so
  a step moves c by -eta |a|^2 g: a step size of its own for each column, and no other factor.
* Arrays and the ways to look at them are made once, and runs are taken in blocks small enough for
  a processor's cache.

`Plain` is the textbook, each model's own ``objective`` and W <- W - eta dW, for whatever the other
does not know. Both offer `descend` the same: ``pace`` sets each run's step size, ``propose`` takes
a step and gives the loss there, ``accept`` keeps it for some runs or for all; and there are the
``square`` of the gradient's length, the ``weights``, and how many ``threads`` to use.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from . import _memory
from .problems import Problem

#: Above this many products of a query's and a key's entries, in one sequence and head, matrix
#: products are faster than sums (measured at this size: for one run they are, for eight not).
SMALL = 4096
#: Bytes that an array of a block may have on a processor, for each thread (measured: with half or
#: twice as many a step is slower).
BLOCK = 2**20
#: Below so many bytes of such an array a second thread makes a step no faster, and waits at each
#: product for the first: harmful where another process wants its core.
ALONE = 2**19


def course(model, weights: NamedTuple, problem: Problem, train: str, compact: bool, losses: int):
    """Lay the runs out: `Innermost` where it applies and ``compact`` allows, else `Plain`.

    Raises MemoryError if they do not fit, ``losses`` being how many of each will be recorded.
    """
    laid_out = Blocks if compact and fits(model, problem) else Plain
    runs, per_run = laid_out.needs(model, weights, problem, train)
    per_run += losses * problem.X.element_size()
    _memory.require(runs, per_run, problem.X.device)
    return laid_out(model, weights, problem, train)


def fits(model, problem: Problem) -> bool:
    """Whether `Innermost` knows the model, has one problem for all runs, and is the faster."""
    known = getattr(model, "innermost", False) and problem.X.ndim == 3
    return known and problem.n**2 * model.d <= SMALL


class Plain:
    """Leading dimensions are runs; the model's own ``objective`` gives loss and gradient."""

    def __init__(self, model, weights: NamedTuple, problem: Problem, train: str):
        self.start, self.objective = weights, model.objective(weights, problem, train)
        self.threads = torch.get_num_threads()
        self.point = {W: getattr(weights, W) for W in train}
        self.loss, self.gradient = self.objective(self.point)

    @staticmethod
    def needs(model, weights: NamedTuple, problem: Problem, train: str) -> tuple[int, int]:
        """Runs, and bytes for each: start, point, proposal, gradient, and one on its way."""
        runs = model.loss(weights, problem).numel()
        return runs, 5 * sum(W.nbytes for W in weights) // runs

    def pace(self, eta: Tensor) -> None:
        self.eta = eta

    def propose(self) -> Tensor:
        self.proposal = {
            W: value - self._per_run(self.eta, value) * self.gradient[W]
            for W, value in self.point.items()
        }
        self.loss, self.gradient = self.objective(self.proposal)
        return self.loss

    def accept(self, moves: Tensor | None) -> None:
        if moves is None:
            self.point = self.proposal
            return
        self.point = {
            W: torch.where(self._per_run(moves, value), self.proposal[W], value)
            for W, value in self.point.items()
        }

    def square(self) -> Tensor:
        runs = self.loss.ndim
        return sum(g.square().flatten(runs).sum(-1) for g in self.gradient.values())

    def weights(self) -> NamedTuple:
        return self.start._replace(**self.point)

    @staticmethod
    def _per_run(value: Tensor, W: Tensor) -> Tensor:
        return value.reshape(value.shape + (1,) * (W.ndim - value.ndim))


class Blocks:
    """Runs of any leading dimensions as blocks of `Innermost`, one after the other at each step."""

    def __init__(self, layer, weights: NamedTuple, problem: Problem, train: str):
        self.shape, flat = flatten(weights)
        runs, array = len(flat.O), bytes_read(layer, problem, train)
        self.threads = 1 if runs * array < ALONE else torch.get_num_threads()
        size = runs
        if problem.X.device.type == "cpu":
            most = max(1, BLOCK * self.threads // array)
            size = math.ceil(runs / math.ceil(runs / most))  # all of about the same size
        parts = zip(*(W.split(size) for W in flat), strict=True)
        shared: dict[tuple, Tensor] = {}  # arrays that hold nothing between two steps
        self.blocks = [
            Innermost(layer, type(flat)(*part), problem, train, shared) for part in parts
        ]
        self.sizes = [block.loss.numel() for block in self.blocks]
        self.loss = self._join([block.loss for block in self.blocks])

    @staticmethod
    def needs(layer, weights: NamedTuple, problem: Problem, train: str) -> tuple[int, int]:
        """Runs, and bytes for each: what lasts, the weights twice, and elsewhere the scratch too."""
        runs, array = flatten(weights)[0].numel(), bytes_read(layer, problem, train)
        moving = min(1, 2 * problem.D / (problem.N * problem.n))  # rows of a point, for each token
        attention = problem.N * problem.n**2 * layer.H * problem.X.element_size()
        # base or, of what is not trained, the image; point, proposal and direction; S, where only
        # the values are trained
        lasting = bytes_read(layer, problem, "QKV") + 3 * moving * array + attention
        if problem.X.device.type != "cpu":  # all runs are one block there
            lasting += 2 * array + 8 * attention  # scores, their gradients, products on the way
        return runs, int(lasting) + 3 * sum(W.nbytes for W in weights) // runs

    def pace(self, eta: Tensor) -> None:
        for block, part in zip(self.blocks, eta.reshape(-1).split(self.sizes), strict=True):
            block.pace(part)

    def propose(self) -> Tensor:
        return self._join([block.propose() for block in self.blocks])

    def accept(self, moves: Tensor | None) -> None:
        parts = [None] * len(self.blocks) if moves is None else moves.reshape(-1).split(self.sizes)
        for block, part in zip(self.blocks, parts, strict=True):
            block.accept(part)

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
    own = (3, 3, 3, 2)  # dimensions of W_Q, W_K, W_V, W_O without runs
    shape = torch.broadcast_shapes(*(W.shape[:-k] for W, k in zip(weights, own, strict=True)))
    expanded = (W.expand(*shape, *W.shape[-k:]) for W, k in zip(weights, own, strict=True))
    return shape, type(weights)(
        *(W.reshape(-1, *W.shape[-k:]) for W, k in zip(expanded, own, strict=True))
    )


def bytes_read(layer, problem: Problem, train: str) -> int:
    """Bytes a run of what all tokens read of the trained matrices, an array of `Innermost`."""
    columns = sum(layer.H if W == "V" else layer.H * layer.d for W in train)
    return problem.N * problem.n * columns * problem.X.element_size()


class Innermost:
    """A block of runs of one attention layer on one problem; see the module's docstring.

    Arrays have a row for each token (``base``, ``image``, ``pulled``) or for each coordinate of
    what moves (``point``, ``proposal``, ``direction``): each token (``dual``) or dimension. Their
    columns are those of the trained among W_Q and W_K, d features x H heads x runs each, and of
    the read-out, H x runs. All first tokens of the N sequences come before all second ones: with
    all its axes an image is (n, N, features, H, runs), and an attention matrix
    (n queries, n keys, N, H, runs).
    """

    def __init__(self, layer, weights: NamedTuple, problem: Problem, train: str, shared: dict):
        self.layer, self.start, self.train = layer, weights, train
        self.X, self.y = problem.X.transpose(0, 1).flatten(0, 1), problem.y.mT[..., None]
        self.tokens, self.columns = (problem.n, problem.N), (-1, layer.H, len(weights.O))
        self.dual = len(self.X) <= 2 * problem.D
        self.into = self.X @ self.X.mT if self.dual else self.X
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
        self._make_views(images | self._parts(self.image), self._parts(self.pulled))
        self.S = self._attention()[1] if train == "V" else None
        self.loss = self._evaluate(self.point)

    def pace(self, eta: Tensor) -> None:
        self.rate = torch.cat([(eta * self.metric[W]).flatten() for W in self.train])

    def propose(self) -> Tensor:
        torch.addcmul(self.point, self.direction, self.rate, value=-1, out=self.proposal)
        return self._evaluate(self.proposal)

    def accept(self, moves: Tensor | None) -> None:
        if moves is None:
            self.point, self.proposal = self.proposal, self.point
            return
        old, new = (x.unflatten(1, self.columns) for x in (self.point, self.proposal))
        torch.where(moves, new, old, out=old)

    def square(self) -> Tensor:
        """|gradient|^2: of g a^T it is |g|^2 |a|^2, and in the dual |X^T g|^2 = <g, X X^T g>."""
        pairs = self.into @ self.direction if self.dual else self.direction
        parts = self._parts((self.direction * pairs).sum(0))
        return sum(
            (part.unflatten(0, self.columns) * self.metric[W]).sum((0, 1))
            for W, part in parts.items()
        )

    def weights(self) -> NamedTuple:
        """The start and, for each column, how far c has moved, times a^T / |a|^2."""
        moved = self.X.mT @ self.point if self.dual else self.point
        after = {}
        for W, part in self._parts(moved).items():
            divisor = torch.where(self.metric[W] > 0, self.metric[W], 1)  # a = 0 does not move
            step = part.unflatten(1, self.columns) / divisor * self.a[W]
            after[W] = getattr(self.start, W) + step.permute(3, 2, 0, 1)
        return self.start._replace(**after)

    # -- arrays -----------------------------------------------------------------------------------

    def _make_arrays(self, base: list[Tensor], shared: dict[tuple, Tensor]) -> None:
        def scratch(name: str, *shape: int) -> Tensor:
            if (name, shape) not in shared:
                shared[name, shape] = self.base.new_empty(shape)
            return shared[name, shape]

        (n, N), (_, H, runs) = self.tokens, self.columns
        self.base, self.widths = torch.cat(base, 1), [part.shape[1] for part in base]
        self.point = self.base.new_zeros(self.into.shape[1], self.base.shape[1])
        self.proposal, self.direction = (torch.empty_like(self.point) for _ in range(2))
        self.image = scratch("image", *self.base.shape)
        self.pulled = self.direction if self.dual else scratch("pulled", *self.base.shape)
        self.residual = scratch("residual", n, N, runs)
        self.dC = scratch("dC", n, n, N, H, runs)

    def _make_views(self, image: dict[str, Tensor], pulled: dict[str, Tensor]) -> None:
        """To look at an array in another way takes as long as to work on a short one."""
        self.Q, self.K, readout = (self._axes(image[W]) for W in "QKV")
        self.u = readout.squeeze(2)
        self.features = list(zip(self.Q[:, None].unbind(3), self.K.unbind(2), strict=True))
        self.back = {W: self._axes(part) for W, part in pulled.items()}
        if "V" in self.back:
            self.back["V"] = self.back["V"].squeeze(2)
        self.residuals = self.residual[:, None, :, None]  # for every key and head
        # a query's gradient is a sum over keys, a key's a sum over queries
        dC = self.dC.unsqueeze(3)
        self.weighted = {
            "Q": list(zip(dC.unbind(1), self.K.unbind(0), strict=True)),
            "K": list(zip(dC.unbind(0), self.Q.unbind(0), strict=True)),
        }

    def _parts(self, array: Tensor) -> dict[str, Tensor]:
        """The columns of each trained matrix, as views."""
        return dict(zip(self.train, array.split(self.widths, -1), strict=True))

    def _axes(self, image: Tensor) -> Tensor:
        """What all tokens read of one matrix, (n N, columns), as (n, N, features, H, runs)."""
        return image.unflatten(1, self.columns).unflatten(0, self.tokens)

    # -- a step -----------------------------------------------------------------------------------

    def _evaluate(self, point: Tensor) -> Tensor:
        """The loss (runs,) at a point; leaves the gradient there in ``direction``."""
        torch.addmm(self.base, self.into, point, out=self.image)
        C, S = (None, self.S) if self.train == "V" else self._attention()
        # one sum at a time: torch is slow at sums over axes that do not lie side by side
        torch.sub((S * self.u).sum(1).sum(2), self.y, out=self.residual)
        self._pull_back(C, S)
        if not self.dual:
            torch.mm(self.X.mT, self.pulled, out=self.direction)
        return self.residual.square().sum((0, 1)).div_(2)

    def _attention(self) -> tuple[Tensor, Tensor]:
        """Scores and attention matrices (n queries, n keys, N, H, runs)."""
        C = _sum_of_products(self.features)
        if self.layer.kernel.score == "distance":
            C -= self.Q.square().sum(2)[:, None] / 2
            C -= self.K.square().sum(2) / 2
        return C, self._in_place(self.layer.kernel.value, C)

    def _in_place(self, function: Callable, *arrays: Tensor) -> Tensor:
        """A kernel's function of arrays (n queries, n keys, N, H, runs), in that order."""
        if self.layer.kernel.takes_dim:
            return function(*arrays, dim=1)
        turned = function(*(array.permute(2, 3, 4, 0, 1) for array in arrays))
        return turned.permute(3, 4, 0, 1, 2).contiguous()

    def _pull_back(self, C: Tensor, S: Tensor) -> None:
        """The gradient with respect to ``image``, into ``pulled``: Lemmas 1 and 6 of Song et al."""
        if "V" in self.train:
            torch.sum(S * self.residuals, 0, out=self.back["V"])
        if self.train == "V":
            return
        kernel = self.layer.kernel
        self.dC.copy_(self._in_place(kernel.pullback, C, S, self.residuals * self.u))
        for W, at, summed in (("Q", self.Q, 1), ("K", self.K, 0)):
            if W in self.train:
                _sum_of_products(self.weighted[W], out=self.back[W])
                if kernel.score == "distance":
                    self.back[W].addcmul_(self.dC.sum(summed).unsqueeze(2), at, value=-1)


def _sum_of_products(pairs: Iterable[tuple[Tensor, Tensor]], out: Tensor | None = None) -> Tensor:
    """a_1 b_1 + a_2 b_2 + ..., each product added where it lies."""
    (a, b), *rest = pairs
    out = torch.mul(a, b, out=out)
    for a, b in rest:
        out.addcmul_(a, b)
    return out
