"""Numbers and arrays on their way between the judge and a student's process, and how they compare.

Whatever comes from there is checked before it is believed to be a number. There are three types of
entries, bounded sizes, no names, no code, no objects.
"""

import base64
import hashlib
import hmac

import numpy as np

ENTRIES = 500_000  # of an array or a list
TYPES = {"b": "|b1", "i": "<i8", "f": "<f8"}


class Refused(Exception):
    """There is no usable answer. The text is one of ours and holds nothing of the student's."""


def generator(seed: str, *label: str) -> np.random.Generator:
    """A stream for each label: none tells of another, or of the seed."""
    digest = hmac.new(seed.encode(), "\0".join(label).encode(), hashlib.sha256).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def pack(value):
    """An argument for a student's function, as JSON."""
    if isinstance(value, np.ndarray):
        value = np.asarray(value, TYPES[value.dtype.kind], order="C")
        data = base64.b64encode(value.tobytes()).decode()
        return {"dtype": value.dtype.str, "shape": value.shape, "data": data}
    if isinstance(value, (list, tuple)):
        return [pack(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def unpack(value, depth: int = 0):
    """What a student's function returned: None, a number, an array, or lists of these."""
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int and abs(value) < 2**63:
        return value
    if type(value) is list and depth < 5 and len(value) <= ENTRIES:
        return [unpack(one, depth + 1) for one in value]
    if type(value) is dict and value.keys() == {"dtype", "shape", "data"}:
        return _array(**value)
    raise Refused("returned something that is neither a number nor an array")


def _array(dtype, shape, data) -> np.ndarray:
    sizes = type(shape) is list and len(shape) <= 6 and all(type(s) is int for s in shape)
    if not (sizes and all(0 <= s <= ENTRIES for s in shape)):
        raise Refused("returned an array that is too large")
    try:
        raw = base64.b64decode(data, validate=True)
    except (TypeError, ValueError):
        raise Refused("returned a broken array") from None
    count = int(np.prod(shape, dtype=object))
    if dtype not in TYPES.values() or len(raw) != np.dtype(dtype).itemsize * count:
        raise Refused("returned a broken array")
    return np.frombuffer(raw, dtype).reshape(shape)


# ------------------------------------------------------------------ what the judges of problems use


def array(value, shape) -> np.ndarray:
    """The answer as an array of this shape, None for any length.

    A wrong shape isn't told: it could carry inputs.
    """
    if value is None:  # printed, as like as not
        raise Refused("returned None")
    try:
        value = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise Refused("returned something that is not an array of numbers") from None
    if shape == () and value.size == 1:  # r.T @ r of a column is a number to whoever wrote it
        return value.reshape(())
    fits = [want in (None, have) for have, want in zip(value.shape, shape, strict=False)]
    if value.ndim != len(shape) or not all(fits):
        raise Refused("returned an array of the wrong shape")
    return value


def number(value) -> float:
    """The answer as one number."""
    return float(array(value, ()))


def several(value, count: int) -> list:
    """The answer as a tuple of so many things."""
    rows = list(value) if isinstance(value, np.ndarray) and value.ndim else value
    if type(rows) is not list or len(rows) != count:
        raise Refused(f"did not return {count} things")
    return rows


def close(found, truth, rtol: float = 1e-4, atol: float = 1e-8) -> bool:
    """Relative to the largest entry: generous to float32 and to another order of summation."""
    found, truth = np.asarray(found), np.asarray(truth)
    return bool(np.abs(found - truth).max() <= rtol * np.abs(truth).max() + atol)


def cosine(found, truth) -> float:
    """One for arrays that differ by a positive factor."""
    lengths = np.sqrt((found**2).sum() * (truth**2).sum())
    return float((found * truth).sum() / lengths) if lengths > 0 else 0.0
