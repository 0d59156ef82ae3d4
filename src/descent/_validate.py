"""Argument checks whose messages name the argument, what it was and what would do."""

import math
import numbers
from collections.abc import Iterable

import torch
from torch import Tensor


def count(name: str, value: int, least: int = 1) -> int:
    """Return ``value`` if it is an integer of at least ``least``, else raise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def positive(name: str, value: float) -> float:
    """Return ``value`` if it is a finite positive number, else raise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a positive number, got {value!r} ({type(value).__name__})")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return float(value)


def fraction(name: str, value: float) -> float:
    """Return ``value`` if it lies strictly between 0 and 1, else raise."""
    if not positive(name, value) < 1:
        raise ValueError(f"{name} must lie between 0 and 1 (a part of the first loss), got {value}")
    return float(value)


def one_of(name: str, value: str, options: Iterable[str]) -> str:
    """Return ``value`` if it is among ``options``, else raise with the list of them."""
    options = list(options)
    if value not in options:
        raise ValueError(
            f"unknown {name} {value!r}: expected one of {', '.join(map(repr, options))}"
        )
    return value


def finite(name: str, value: Tensor, remedy: str) -> Tensor:
    """Return ``value`` if every entry is finite, else raise and say what to do."""
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise ValueError(f"{name} has {bad} entries that are NaN or infinite: {remedy}")
    return value


def shape(name: str, value: Tensor, expected: tuple[int, ...], because: str = "") -> Tensor:
    """Return ``value`` if its trailing dimensions are ``expected``, else raise."""
    found = tuple(value.shape[-len(expected) :])
    if found != tuple(expected):
        reason = f", but {because}" if because else ""
        raise ValueError(f"{name} has shape {found}{reason}: expected {tuple(expected)}")
    return value


def device(name: str | torch.device | None) -> torch.device | None:
    """Resolve ``"auto"`` to a GPU where there is one; refuse ``"cuda"`` without one."""
    if name is None:
        return None
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f"unknown device {name!r}: use 'auto', 'cpu' or 'cuda'") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device='cuda' was asked for, but torch sees no GPU: use device='auto' or 'cpu'"
        )
    return chosen
