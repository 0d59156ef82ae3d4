r"""Where the numbers of many runs lie in memory: the one place that is written for speed.

A step of a small layer is a dozen products of matrices with a handful of rows. What they cost is
the calls, not the arithmetic, so `Innermost` makes a step of all runs few calls on long arrays:

* Runs lie innermost: an array is (tokens, features, runs). Sums over keys or features are then
  sums of long contiguous rows, and no product of tiny matrices is ever called.
* What moves is kept in token space. Write W = W_0 + X^T Z. With G the gradient with respect to
  X W, the step W <- W - eta X^T G is Z <- Z - eta G, and X W = X W_0 + (X X^T) Z: one matrix
  product a step, for all matrices and all runs together. Where there are far more tokens than
  dimensions, W = W_0 + Z is the smaller array, and a step has two products.
* The values enter only through the read-out u = X W_V w_O, one number a token. The gradient of
  W_V is (...) w_O^T, so W_V moves along w_O, and one column a head stands for d.
* Arrays are made once, and runs are taken in blocks that stay in a processor's cache.

`Plain` is the textbook, each model's own ``objective`` and W <- W - eta dW, for whatever the other
does not know. Both offer `descend` the same: ``propose`` a step and give the loss there, ``accept``
it for some runs, the ``square`` of the gradient's length, and the ``weights``.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import _memory
from .problems import Problem

#: Above this many products of a query's and a key's entries, in one sequence and head, matrix
#: products are faster than sums (measured: 4 tokens of 64 features and 8 of 16 are below it).
SMALL = 1024
#: Bytes that the largest array of a block may have on a processor.
BLOCK = 2**21


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
        self.point = {W: getattr(weights, W) for W in train}
        self.loss, self.gradient = self.objective(self.point)

    @staticmethod
    def needs(model, weights: NamedTuple, problem: Problem, train: str) -> tuple[int, int]:
        """Runs, and bytes for each: start, point, proposal, gradient, and one on its way."""
        runs = model.loss(weights, problem).numel()
        return runs, 5 * sum(W.nbytes for W in weights) // runs

    def propose(self, eta: Tensor) -> Tensor:
        self.proposal = {
            W: value - self._per_run(eta, value) * self.gradient[W]
            for W, value in self.point.items()
        }
        self.loss, self.gradient = self.objective(self.proposal)
        return self.loss

    def accept(self, moves: Tensor) -> None:
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
        size = len(flat.O)
        if problem.X.device.type == "cpu":
            size = max(1, min(size, BLOCK // largest(layer, problem)))
        parts = zip(*(W.split(size) for W in flat), strict=True)
        shared: dict[tuple, Tensor] = {}  # arrays that hold nothing between two steps
        self.blocks = [
            Innermost(layer, type(flat)(*part), problem, train, shared) for part in parts
        ]
        self.sizes = [block.loss.numel() for block in self.blocks]
        self.loss = self._join([block.loss for block in self.blocks])

    @staticmethod
    def needs(layer, weights: NamedTuple, problem: Problem, train: str) -> tuple[int, int]:
        """Runs, and bytes for each: point, proposal, direction and base, the weights and a copy."""
        runs, tokens = flatten(weights)[0].numel(), problem.N * problem.n
        columns = sum(layer.H if W == "V" else layer.H * layer.d for W in train)
        lasting = (3 * min(tokens, 2 * problem.D) + tokens) * columns * problem.X.element_size()
        scratch = 0 if problem.X.device.type == "cpu" else 2 * largest(layer, problem)
        return runs, lasting + scratch + 3 * sum(W.nbytes for W in weights) // runs

    def propose(self, eta: Tensor) -> Tensor:
        parts = eta.reshape(-1).split(self.sizes)
        return self._join(
            [block.propose(part) for block, part in zip(self.blocks, parts, strict=True)]
        )

    def accept(self, moves: Tensor) -> None:
        for block, part in zip(self.blocks, moves.reshape(-1).split(self.sizes), strict=True):
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


def largest(layer, problem: Problem) -> int:
    """Bytes a run of the largest array: all products of a query's and a key's entries."""
    return problem.N * problem.n**2 * layer.H * layer.d * problem.X.element_size()


class Innermost:
    """A block of runs of one attention layer on one problem; see the module's docstring.

    Shapes: ``point``, ``proposal`` and ``direction`` are (k, columns, runs), where k counts tokens
    (``dual``) or dimensions; ``image`` and ``pulled`` are (m, columns, runs), in token space.
    Columns are those of the trained among W_Q, W_K (H d each) and of the read-out (H).
    """

    def __init__(self, layer, weights: NamedTuple, problem: Problem, train: str, shared: dict):
        self.layer, self.start, self.train, self.y = layer, weights, train, problem.y[..., None]
        X = self.X = problem.tokens
        self.dims = (problem.N, problem.n, layer.H, layer.d)
        self.output = weights.O.movedim(0, -1)  # (H, d, runs)
        self.length = self.output.square().sum(1)  # |w_O|^2, (H, runs)
        self.dual = len(X) <= 2 * problem.D
        self.into = X @ X.mT if self.dual else X
        columns = {"Q": weights.Q, "K": weights.K, "V": weights.V @ weights.O[..., None]}
        begin = {W: self._image_of(value) for W, value in columns.items()}
        self._make_arrays(begin, shared)
        self.frozen = {W: self._split(W, begin[W]) for W in "QKV" if W not in train}
        self.moving = {W: self._split(W, part) for W, part in self._parts(self.image).items()}
        self.back = {W: self._split(W, part) for W, part in self._parts(self.pulled).items()}
        if train == "V":
            self.S = self._attention(self.frozen["Q"], self.frozen["K"])[1]
        self.loss = self._evaluate(self.point)

    def propose(self, eta: Tensor) -> Tensor:
        torch.addcmul(self.point, self.direction, eta, value=-1, out=self.proposal)
        return self._evaluate(self.proposal)

    def accept(self, moves: Tensor) -> None:
        # a look at the runs is free on a processor; on a GPU it would wait for the device
        if moves.device.type == "cpu" and bool(moves.all()):
            self.point, self.proposal = self.proposal, self.point
            return
        torch.where(moves, self.proposal, self.point, out=self.point)

    def square(self) -> Tensor:
        """|gradient|^2: in the dual |X^T G|^2 = <G, X X^T G>, and the read-out counts 1/|w_O|^2."""
        pairs = self.direction
        if self.dual:
            pairs = (self.into @ self.direction.flatten(1)).view_as(self.direction)
        parts = self._parts((self.direction * pairs).sum(0, keepdim=True))
        if "V" in parts:
            parts["V"] = parts["V"] / self._divisor()
        return sum(part.sum((0, 1)) for part in parts.values())

    def weights(self) -> NamedTuple:
        moved = self.X.mT @ self.point.flatten(1) if self.dual else self.point
        parts = self._parts(moved.reshape(-1, *self.point.shape[1:]))
        return self.start._replace(**{W: self._weight(W, part) for W, part in parts.items()})

    # -- arrays -----------------------------------------------------------------------------------

    def _image_of(self, W: Tensor) -> Tensor:
        """X W for all heads and runs: (runs, H, D, c) to (m, H c, runs)."""
        flat = W.permute(2, 1, 3, 0)
        return (self.X @ flat.flatten(1)).view(len(self.X), -1, flat.shape[-1])

    def _make_arrays(self, begin: dict[str, Tensor], shared: dict[tuple, Tensor]) -> None:
        def scratch(*shape: int) -> Tensor:
            if shape not in shared:
                shared[shape] = self.base.new_empty(shape)
            return shared[shape]

        N, n, H, d = self.dims
        self.columns = [begin[W].shape[1] for W in self.train]
        self.base = torch.cat([begin[W] for W in self.train], 1)
        self.image = scratch(*self.base.shape)
        self.products = scratch(N, n, n, H, d, self.base.shape[-1])
        self.point = self.base.new_zeros(self.into.shape[1], *self.base.shape[1:])
        self.proposal, self.direction = (torch.empty_like(self.point) for _ in range(2))
        self.pulled = self.direction if self.dual else torch.empty_like(self.base)

    def _parts(self, array: Tensor) -> dict[str, Tensor]:
        """The columns (k, c, runs) of each trained matrix, as views."""
        return dict(zip(self.train, array.split(self.columns, 1), strict=True))

    def _split(self, W: str, part: Tensor) -> Tensor:
        """Columns (m, c, runs) as (N, n, H, d, runs), those of the read-out as (N, n, H, runs)."""
        N, n, H, d = self.dims
        part = part.unflatten(0, (N, n))
        return part if W == "V" else part.unflatten(2, (H, d))

    def _divisor(self) -> Tensor:
        return torch.where(self.length > 0, self.length, 1)  # where w_O = 0 nothing moves

    def _weight(self, W: str, moved: Tensor) -> Tensor:
        """A trained matrix (runs, H, D, d) from how its columns (D, c, runs) moved."""
        _, _, H, d = self.dims
        if W == "V":
            step = (moved / self._divisor())[:, :, None] * self.output
        else:
            step = moved.unflatten(1, (H, d))
        return getattr(self.start, W) + step.permute(3, 1, 0, 2)

    # -- a step -----------------------------------------------------------------------------------

    def _evaluate(self, point: Tensor) -> Tensor:
        """The loss (runs,) at a point; leaves the gradient there in ``direction``."""
        torch.addmm(
            self.base.flatten(1), self.into, point.flatten(1), out=self.image.view(len(self.X), -1)
        )
        at = self.frozen | self.moving
        C, S = (None, self.S) if self.train == "V" else self._attention(at["Q"], at["K"])
        u = at["V"][:, None]
        residual = (S * u).sum((2, 3)) - self.y
        self._pull_back(at, C, S, residual[:, :, None, None], u)
        if not self.dual:
            torch.mm(
                self.X.mT, self.pulled.flatten(1), out=self.direction.view(len(self.direction), -1)
            )
        return residual.square().sum((0, 1)) / 2

    def _attention(self, Q: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and attention matrices (N, n queries, n keys, H, runs)."""
        torch.mul(Q[:, :, None], K[:, None], out=self.products)
        C = self.products.sum(-2)
        if self.layer.kernel.score == "distance":
            C -= Q.square().sum(-2)[:, :, None] / 2
            C -= K.square().sum(-2)[:, None] / 2
        C *= self.layer.d**-0.5
        return C, self._in_place(self.layer.kernel.value, C)

    def _in_place(self, function: Callable, *arrays: Tensor) -> Tensor:
        """A kernel's function of arrays (N, n queries, n keys, H, runs), in that order."""
        if self.layer.kernel.takes_dim:
            return function(*arrays, dim=2)
        return _turned(function(*map(_turned, arrays))).contiguous()

    def _pull_back(self, at: dict, C: Tensor, S: Tensor, residual: Tensor, u: Tensor) -> None:
        """The gradient with respect to ``image``, into ``pulled``: Lemmas 1 and 6 of Song et al."""
        if "V" in self.train:
            torch.mul((S * residual).sum(1), self.length, out=self.back["V"])
        if self.train == "V":
            return
        kernel = self.layer.kernel
        dC = self._in_place(kernel.pullback, C, S, residual * u) * self.layer.d**-0.5
        for W, other, keys in (("Q", "K", 2), ("K", "Q", 1)):
            if W in self.train:
                # a query's gradient is a sum over keys, a key's a sum over queries
                partner = at[other].unsqueeze(3 - keys)
                torch.mul(dC.unsqueeze(-2), partner, out=self.products)
                torch.sum(self.products, keys, out=self.back[W])
                if kernel.score == "distance":
                    self.back[W].addcmul_(dC.sum(keys)[..., None, :], at[W], value=-1)


def _turned(C: Tensor) -> Tensor:
    """(N, n, n, H, runs) seen as (N, H, runs, n, n), as a kernel expects it, and back."""
    return C.permute(0, 3, 4, 1, 2)
