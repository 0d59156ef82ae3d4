"""Argument checks whose messages name the argument, what it was and what would do."""

import math
import numbers
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._errors import error

#: What the library computes with, and what is turned into float64 on the way in.
FLOATS = (torch.float32, torch.float64)
WHOLE = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
#: Options that an error lists, at most.
MANY = 40


def shown(value: object) -> str:
    """A value as it fits into a line."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def count(name: str, value: int, least: int = 1, below: int | None = None) -> int:
    """Return ``value`` if it is an integer of at least ``least`` (and below ``below``), else raise."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        found = f"{name} must be an integer, got {shown(value)} ({type(value).__name__})"
        raise error(TypeError, found, "be an integer")
    if value < least:
        raise error(
            ValueError, f"{name} must be at least {least}, got {value}", f"at least {least}"
        )
    if below is not None and value >= below:
        raise error(ValueError, f"{name} must be below {below}, got {value}", f"below {below}")
    return int(value)


def seed(name: str, value: int) -> int:
    """Return ``value`` if it is a whole number of at most 64 bits, as every generator takes it."""
    return count(name, value, least=0, below=2**64)


def real(name: str, value: float, wanted: str = "a number") -> float:
    """Return ``value`` if it is one real number, also as an array without dimensions; else raise."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0:
        value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        found = f"{name} must be {wanted}, got {shown(value)} ({type(value).__name__})"
        raise error(TypeError, found, f"be {wanted}")
    return float(value)


def positive(name: str, value: float) -> float:
    """Return ``value`` if it is a finite positive number, else raise."""
    number = real(name, value, "a positive number")
    if not (number > 0 and math.isfinite(number)):
        found = f"{name} must be positive and finite, got {value}"
        raise error(ValueError, found, "positive and finite")
    return number


def not_negative(name: str, value: float) -> float:
    """Return ``value`` if it is a finite number from zero on, else raise."""
    number = real(name, value, "a number from zero on")
    if not (number >= 0 and math.isfinite(number)):
        found = f"{name} must be zero or more, and finite, got {value}"
        raise error(ValueError, found, "zero or more")
    return number


def fraction(name: str, value: float) -> float:
    """Return ``value`` if it lies strictly between 0 and 1, else raise."""
    if not positive(name, value) < 1:
        found = f"{name} must lie between 0 and 1 (a part of the whole), got {value}"
        raise error(ValueError, found, "between 0 and 1")
    return float(value)


def flag(name: str, value: bool) -> bool:
    """Return ``value`` if it is True or False, else raise."""
    if not isinstance(value, (bool, np.bool_)):
        raise error(TypeError, f"{name} must be True or False, got {shown(value)}", "True or False")
    return bool(value)


def several(name: str, value: Iterable, size: int | None = None) -> list:
    """The items of ``value``, ``size`` of them if that is said; else raise."""
    wanted = "a list" if size is None else f"{size} values"
    one = isinstance(value, (str, bytes, dict))
    try:
        items = None if one else list(value)
    except TypeError:
        items = None
    if items is None:
        raise error(TypeError, f"{name} must be {wanted}, got {shown(value)}", wanted)
    if size not in (None, len(items)):
        raise error(ValueError, f"{name} must be {wanted}, got {shown(value)}", wanted)
    return items


def one_of(name: str, value: str, options: Iterable[str]) -> str:
    """Return ``value`` if it is among ``options``, else raise with the list of them.

    A list longer than `MANY` nobody reads: then the nearest are named.
    """
    options = list(options)
    if not any(type(value) is type(option) and value == option for option in options):
        expected = f"expected one of {', '.join(map(repr, options))}"
        if len(options) > MANY:
            nearest = get_close_matches(str(value), map(str, options), n=5, cutoff=0)
            expected = f"expected one of {len(options)}, such as {', '.join(map(repr, nearest))}"
        raise error(ValueError, f"unknown {name} {shown(value)}", expected)
    return value


def function(name: str, value: Callable) -> Callable:
    """Return ``value`` if it can be called, else raise."""
    if not callable(value):
        raise error(TypeError, f"{name} must be a function, got {shown(value)}", "be a function")
    return value


def tensor(name: str, value: object) -> Tensor:
    """Real numbers as a tensor: float32 and float64 as they are, the rest becomes float64.

    That is lists, arrays of numpy, and whole numbers. Raises TypeError for what is no array of
    numbers, and for complex, half precision and truth values, which could be meant in many ways.
    """
    if isinstance(value, Tensor) and value.dtype in FLOATS and value.layout == torch.strided:
        return value
    if not isinstance(value, Tensor):
        return _from_numpy(name, value)
    if value.dtype in WHOLE and value.layout == torch.strided:
        return value.to(torch.float64)
    kind = value.dtype if value.layout == torch.strided else value.layout
    remedy = "convert it with .to_dense()" if kind is value.layout else "convert it with .double()"
    raise error(TypeError, f"{name} must hold float32 or float64, got {kind}", remedy)


def dense(name: str, value: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Return ``value`` unless it is a sparse tensor."""
    if isinstance(value, Tensor) and value.layout != torch.strided:
        raise error(TypeError, f"{name} is {value.layout}", "convert it with .to_dense()")
    return value


def _from_numpy(name: str, value: object) -> Tensor:
    if np.ma.is_masked(value):
        raise error(ValueError, f"{name} has masked entries", "fill them, or drop their rows")
    remedy = "give a tensor, an array or nested lists of one shape, of real numbers"
    try:
        if isinstance(value, (list, tuple)):
            value = [x.detach().cpu().numpy() if isinstance(x, Tensor) else x for x in value]
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        raise error(TypeError, f"{name} is no array of numbers: {shown(value)}", remedy) from None
    if array.dtype.kind not in "iuf" or array.dtype == np.float16:
        found = f"{name} must be an array of real numbers, got {shown(value)} ({array.dtype})"
        raise error(TypeError, found, remedy)
    return torch.from_numpy(np.array(array, dtype=np.float64))


def matrix(name: str, value: object, least: int = 2) -> Tensor:
    """Numbers as by `tensor`, with ``least`` dimensions or more, none of them empty."""
    value = tensor(name, value)
    if value.ndim < least:
        found = f"{name} must have at least {least} dimensions, got shape {tuple(value.shape)}"
        raise error(ValueError, found, f"at least {least} dimensions")
    if not value.numel():
        raise error(ValueError, f"{name} is empty, {tuple(value.shape)}", "give it some entries")
    return value


def problem(value):
    """Return ``value`` if it is a `descent.problems.Problem`, or is made like one; else raise."""
    if not all(hasattr(value, name) for name in ("X", "y", "tokens", "N", "n", "D")):
        found = f"problem must be a Problem, got {shown(value)}"
        raise error(TypeError, found, "make one with descent.problems.Problem(X, y)")
    return value


def one_problem(value: object) -> object:
    """Return ``value`` if it is one problem, without batch dimensions, else raise."""
    if problem(value).X.ndim != 3:
        found = f"X has shape {tuple(value.X.shape)}, more than one problem"
        raise error(ValueError, found, "give one problem, (N, n, D)")
    return value


def model(value, *members: str):
    """Return ``value`` if it has what a model has, and the ``members``; else raise."""
    needed = ("loss_and_gradient", "trainable", *members)
    if isinstance(value, (type, Tensor)) or not all(hasattr(value, name) for name in needed):
        found = f"model must be a model, got {shown(value)}"
        raise error(TypeError, found, "make one with descent.models, as Attention(H=1, d=8)")
    return value


def letters(name: str, value: str, options: str) -> str:
    """Return ``value`` if it is made of some of the letters ``options``, each once, else raise."""
    if (
        not isinstance(value, str)
        or not value
        or set(value) - set(options)
        or len(set(value)) < len(value)
    ):
        examples = " or ".join(dict.fromkeys((repr(options[-1]), repr(options))))
        found = (
            f"{name} must name some of the matrices {', '.join(options)}, "
            f"each once (as in {name}={examples}), got {shown(value)}"
        )
        raise error(ValueError, found, "each once")
    return value


def weights(value: NamedTuple) -> NamedTuple:
    """A container of weights with a tensor for each, converted as by `tensor`; else raise."""
    if not (isinstance(value, tuple) and hasattr(value, "_fields")):
        found = f"weights must be a NamedTuple of arrays, got {shown(value)}"
        raise error(TypeError, found, "draw some with model.init(problem, seed=0)")
    named = zip(value._fields, value, strict=True)
    return type(value)(*(tensor(f"W_{name}", W) for name, W in named))


def finite(name: str, value: Tensor, remedy: str) -> Tensor:
    """Return ``value`` if every entry is finite, else raise and say what to do."""
    try:
        ends = torch.stack(torch.aminmax(value.detach()))  # no copy of what may be large
        sound = bool(torch.isfinite(ends).all())
    except RuntimeError:  # nothing there, or within torch.func.vmap, where nobody can look
        return value
    if not sound:
        bad = int((~torch.isfinite(value)).sum())
        raise error(ValueError, f"{name} has {bad} entries that are NaN or infinite", remedy)
    return value


def shape(name: str, value: Tensor, expected: tuple[int, ...], because: str = "") -> Tensor:
    """Return ``value`` if its trailing dimensions are ``expected``, else raise."""
    found = tuple(value.shape[-len(expected) :])
    if found != tuple(expected):
        reason = f", but {because}" if because else ""
        remedy = f"expected {tuple(expected)}"
        raise error(ValueError, f"{name} has shape {found}{reason}", remedy)
    return value


def like(name: str, value: Tensor, X: Tensor) -> Tensor:
    """Return ``value`` if it has the precision and the device of the tokens ``X``, else raise."""
    if (value.dtype, value.device) != (X.dtype, X.device):
        found = (
            f"{name} is {value.dtype} on {value.device}, but the tokens are {X.dtype} on {X.device}"
        )
        raise error(ValueError, found, "convert one with .to(...)")
    return value


def dtype(value: torch.dtype) -> torch.dtype:
    """Return ``value`` if it is a precision that the library computes in, else raise."""
    if not isinstance(value, torch.dtype) or value not in FLOATS:
        found = f"dtype must be torch.float32 or torch.float64, got {shown(value)}"
        raise error(TypeError, found, "torch.float32 or torch.float64")
    return value


def indices(name: str, value: object, size: int, below: int) -> Tensor:
    """A line of ``size`` whole numbers from 0 to less than ``below``, else raise."""
    if isinstance(value, Tensor) and value.dtype == torch.int64 and value.layout == torch.strided:
        items = value.tolist() if value.ndim == 1 else [None]
    else:
        items = several(name, value)
    good = [
        isinstance(i, numbers.Integral) and not isinstance(i, bool) and 0 <= i < below
        for i in items
    ]
    if len(items) != size or not all(good):
        remedy = f"hold {size} of the numbers 0 to {below - 1}"
        raise error(ValueError, f"{name} must {remedy}, got {shown(value)}", remedy)
    return torch.tensor([int(i) for i in items])


def truths(name: str, value: object) -> Tensor:
    """A line of truth values as a tensor, else raise."""
    if not isinstance(value, Tensor):
        items = several(name, value)
        known = all(isinstance(x, (bool, np.bool_)) for x in items)
        value = torch.tensor([bool(x) for x in items], dtype=torch.bool) if known else value
    if (
        not isinstance(value, Tensor)
        or value.dtype != torch.bool
        or value.layout != torch.strided
        or value.ndim != 1
    ):
        found = f"{name} must be a line of truth values, got {shown(value)}"
        raise error(TypeError, found, "a line of truth values")
    return value


def device(name: str | torch.device | None) -> torch.device | None:
    """Resolve ``"auto"`` to a GPU where there is one; refuse ``"cuda"`` without one."""
    if name is None:
        return None
    if isinstance(name, str) and name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    remedy = "use 'auto', 'cpu' or 'cuda'"
    if not isinstance(name, (str, torch.device)):
        raise error(TypeError, f"device must be a name, got {shown(name)}", remedy)
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise error(ValueError, f"unknown device {name!r}", remedy) from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        found = "device='cuda' was asked for, but torch sees no GPU"
        raise error(ValueError, found, "use device='auto' or 'cpu'")
    return chosen
