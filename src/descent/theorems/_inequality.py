"""What a theorem assumes and what it promises are the same kind of thing: an inequality."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: Rounding that is forgiven, relative: a bound that is attained is met with equality.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Inequality:
    """``left <= right`` for each run, at one moment or along recorded steps.

    name : the statement, in words and symbols.
    left, right : (*r), or (len(at), *r) where it speaks of many steps.
    at : those steps; empty for a statement about one moment.
    strict : ``left < right`` is asked, without tolerance.
    """

    name: str
    left: Float[Tensor, "*t r"]
    right: Float[Tensor, "*t r"]
    at: tuple[int, ...] = ()
    strict: bool = False

    @property
    def _true(self) -> Bool[Tensor, "*t r"]:
        if self.strict:
            return self.left < self.right
        return self.left <= self.right + TOLERANCE * self.right.abs()

    @property
    def met(self) -> Bool[Tensor, "*r"]:
        """In which runs it holds, at every step."""
        return self._true.all(0) if self.at else self._true

    @property
    def sharpness(self) -> Float[Tensor, "*r"]:
        """The largest left / right over the steps: 1 is attained, more is violated."""
        left, right = torch.broadcast_tensors(self.left, self.right)
        ratio = torch.where(left <= 0, 0.0, left / right.clamp_min(0))
        ratio = ratio.nan_to_num(
            nan=torch.inf, posinf=torch.inf
        )  # a run that diverged keeps no promise
        return ratio.amax(0) if self.at else ratio

    @property
    def broken_at(self) -> Int[Tensor, "*r"]:
        """The first step at which it fails, -1 if none."""
        false = ~self._true
        if not self.at:
            return torch.where(false, 0, -1)
        steps = torch.tensor(self.at, device=false.device)
        return torch.where(false.any(0), steps[false.to(torch.int64).argmax(0)], -1)
