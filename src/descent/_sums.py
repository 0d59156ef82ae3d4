"""The sums of a step over features, keys and queries, in torch: for any device.

`_layout.Innermost` lays the arrays out and asks for these sums. Products are added where the sum
lies: no matrix product of a handful of rows is called, and the products are never all written.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .kernels import Kernel


class Part(NamedTuple):
    """The columns of one matrix: the ``width`` from ``at`` on of an array (n N tokens, columns)."""

    array: Tensor
    at: int
    width: int


class Sums:
    """The sums of one block of runs; attention matrices are (n queries, n keys, N, H runs).

    Parameters
    ----------
    kernel : the attention kernel.
    y : (n, N), the targets.
    heads : H.
    image : for each of "QKV" the columns that hold what the tokens read of it.
    pulled : for each matrix that is trained the columns for the gradient with respect to that.
    """

    #: Above this many products of a query's and a key's entries, in one sequence and head, matrix
    #: products are faster (measured: at this size for one run they are, for eight not).
    SMALL = 4096

    def __init__(self, kernel: Kernel, y: Tensor, heads: int, image: dict, pulled: dict):
        self.kernel, self.distance = kernel, kernel.score == "distance"
        self.y, self.heads = y[..., None], (heads, -1)
        across = image["V"].width  # heads and runs

        def axes(part: Part) -> Tensor:  # (n, N, features, H runs)
            view = part.array[:, part.at : part.at + part.width]
            return view.unflatten(1, (-1, across)).unflatten(0, y.shape)

        # All views are made here: to look at an array in another way takes as long as to work on
        # a short one.
        self.Q, self.K, self.u = (axes(image[W]) for W in "QKV")
        self.u = self.u.squeeze(2).unflatten(2, self.heads)
        self.features = list(zip(self.Q[:, None].unbind(3), self.K.unbind(2), strict=True))
        self.back = {W: axes(part) for W, part in pulled.items()}
        if "V" in self.back:
            self.back["V"] = self.back["V"].squeeze(2).unflatten(2, self.heads)

    def attention(self) -> tuple[Tensor, Tensor]:
        """Scores and attention matrices, to be handed to `pull_back`."""
        C = _sum_of_products(self.features)
        if self.distance:
            C -= self.Q.square().sum(2)[:, None] / 2
            C -= self.K.square().sum(2) / 2
        return C, self._call(self.kernel.value, C)

    def pull_back(self, attention: tuple[Tensor, Tensor]) -> Tensor:
        """The loss (runs,); leaves its gradient in ``pulled`` (Song et al. 2024, Lemmas 1 and 6)."""
        C, S = attention
        by_head = S.unflatten(3, self.heads)
        # one sum at a time: torch is slow at sums over axes that do not lie side by side
        residual = (by_head * self.u).sum(1).sum(2) - self.y
        r = residual[:, None, :, None]  # the same for every key and head
        if "V" in self.back:
            torch.sum(by_head * r, 0, out=self.back["V"])
        if "Q" in self.back or "K" in self.back:
            self._pull_back_scores(self._call(self.kernel.pullback, C, S, (r * self.u).flatten(3)))
        return residual.square().sum((0, 1)) / 2

    def _pull_back_scores(self, dC: Tensor) -> None:
        """A query's gradient is a sum over keys, a key's a sum over queries."""
        dC = dC.unsqueeze(3)
        for W, own, other, keys in (("Q", self.Q, self.K, 1), ("K", self.K, self.Q, 0)):
            if W in self.back:
                pairs = zip(dC.unbind(keys), other.unbind(0), strict=True)
                _sum_of_products(pairs, out=self.back[W])
                if self.distance:
                    self.back[W].addcmul_(dC.sum(keys), own, value=-1)

    def _call(self, function: Callable, *arrays: Tensor) -> Tensor:
        """A kernel's function of arrays (n queries, n keys, N, H runs), in that order."""
        if self.kernel.takes_dim:
            return function(*arrays, dim=1)
        turned = function(*(array.permute(2, 3, 0, 1) for array in arrays))
        return turned.permute(2, 3, 0, 1).contiguous()


def _sum_of_products(pairs: Iterable[tuple[Tensor, Tensor]], out: Tensor | None = None) -> Tensor:
    """a_1 b_1 + a_2 b_2 + ..., each product added where it lies."""
    (a, b), *rest = pairs
    out = torch.mul(a, b, out=out)
    for a, b in rest:
        out.addcmul_(a, b)
    return out
