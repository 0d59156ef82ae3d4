"""Theorems are on real numbers: they are computed in float64, and where that can decide them."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from ..problems import Problem
from ._inequality import Inequality

#: Bounds hold up to tenth powers of what is given, and these must neither overflow nor vanish.
DIGITS = 30.0


def widened(value: Any) -> Any:
    """Data and weights of float32 as float64, which holds each of their numbers; others as is."""
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    if isinstance(value, Problem):
        return Problem(widened(value.X), widened(value.y), value.ambient)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(widened, value))
    return type(value)(map(widened, value)) if isinstance(value, (tuple, list)) else value


def out_of_range(start: Any) -> tuple[Inequality, ...]:
    """A hypothesis that is not met, where the size of an array in a start is beyond 10^±30."""
    arrays = list(_arrays(start))
    sizes = torch.tensor([float(A.detach().abs().amax()) for A in arrays], dtype=torch.float64)
    digits = sizes[sizes > 0].log10().abs()
    if not bool((digits > DIGITS).any()):
        return ()
    worst = digits.amax().to(arrays[0].device)
    name = "|log10 of the largest entry| ≤ 30, or float64 cannot tell"
    return (Inequality(name, worst, worst.new_tensor(DIGITS)),)


def _arrays(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _arrays(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _arrays(getattr(value, field.name))
