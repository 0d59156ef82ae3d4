r"""Random numbers that stay: each is a function of a seed, a run, a name and a place.

``normal(seed=0, name="W_Q", shape=(4, 2), runs=16)`` draws the same numbers as with ``runs=1000``
for the first sixteen runs, whatever else has been drawn before and on whatever device. Nothing is
carried from one draw to the next: the words come from a counter (`descent._threefry`), and what
turns them into numbers uses additions, multiplications, divisions and square roots of IEEE double
precision alone, which are the same to the last bit on every machine and in every language.

The key is the seed, two words, and two words made from the name; the counter is (block, attempt,
run, upper half of the run). A block of four words makes two numbers of the array, in the order of
its memory.
Introduced in :doc:`/song2024/values`.
"""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import _memory, _validate
from ._errors import error
from ._threefry import WORD, threefry

#: Blocks that are worked on at a time: what they take stays in a processor's cache.
CHUNK = 2**13
#: How many runs, or the numbers of those that are wanted; None for run 0 without a dimension.
Runs = int | Iterable[int] | None


def normal(seed: int, name: str, shape: tuple[int, ...], runs: Runs = None) -> Float[Tensor, "..."]:
    """Independent standard normal numbers, float64: the inverse distribution of `uniform`.

    Parameters
    ----------
    seed : a whole number from 0 to 2^64 - 1.
    name : what is drawn, such as "W_Q": different names are independent.
    shape : the shape of one run. A longer first dimension keeps what was there.
    runs : how many runs, or a list of their numbers, as one more dimension in front; left out, it
        is run 0 alone.

    Raises
    ------
    ValueError, TypeError : for a seed or a count that does not fit.

    Examples
    --------
    >>> few, many = (normal(0, "W_Q", (4, 2), runs=runs) for runs in (3, 100))
    >>> bool((many[:3] == few).all())
    True
    >>> normal(2024, "W_Q", (2,), runs=[7])
    tensor([[1.7008, 0.1704]], dtype=torch.float64)
    """
    return _fill(_quantile, seed, name, shape, runs)


def uniform(
    seed: int, name: str, shape: tuple[int, ...], runs: Runs = None
) -> Float[Tensor, "..."]:
    """Independent uniform numbers strictly between 0 and 1: odd multiples of 2^-53.

    Raises
    ------
    ValueError, TypeError : for a seed or a count that does not fit.
    """
    return _fill(lambda u: u, seed, name, shape, runs)


def chi_square(
    seed: int, name: str, freedom: Int[Tensor, "*s"], runs: Runs = None
) -> Float[Tensor, "..."]:
    r"""Independent chi-square numbers with ``freedom`` degrees of freedom, however many.

    The gamma draw of Marsaglia and Tsang (2000): with :math:`a = \nu / 2 - 1/3` and a normal z,
    :math:`2 a (1 + z / \sqrt{9 a})^3` is accepted with a probability that makes it exact. One
    degree of freedom is the square of a normal number.

    Raises
    ------
    ValueError : for less than one degree of freedom, or a part of one.
    """
    freedom = _validate.tensor("freedom", freedom).detach()
    _validate.finite("freedom", freedom, "give finite degrees")
    if bool((freedom < 1).any()):
        found = f"freedom must be at least 1, got {int(freedom.min())}"
        raise error(ValueError, found, "be at least 1")
    if bool((freedom % 1 != 0).any()):
        raise error(ValueError, "freedom holds parts of a degree", "give whole numbers")
    numbers, shape = _runs(runs)
    degrees = np.tile(freedom.cpu().numpy().astype(np.float64).ravel(), len(numbers))
    block = np.tile(np.arange(freedom.numel()), len(numbers))
    run, key = np.repeat(numbers, freedom.numel()), _key(seed, name)
    drawn, waiting, attempt = np.empty(len(block)), np.arange(len(block)), 0
    while len(waiting):
        u = _uniforms(key, block[waiting], attempt, run[waiting])
        value, accepted = _marsaglia_tsang(degrees[waiting], _quantile(u[:, 0]), u[:, 1])
        drawn[waiting[accepted]] = value[accepted]
        waiting, attempt = waiting[~accepted], attempt + 1
    return torch.from_numpy(drawn.reshape((*shape, *freedom.shape)))


def permutation(seed: int, name: str, count: int) -> Int[Tensor, "count"]:
    """The numbers from 0 to ``count - 1`` in random order: the order of uniform numbers.

    Raises
    ------
    ValueError, TypeError : for a seed or a count that does not fit.
    """
    return torch.argsort(uniform(seed, name, (_validate.count("count", count),)), stable=True)


# ------------------------------------------------------------------------------ words to numbers


def _key(seed: int, name: str) -> np.ndarray:
    """The seed's two words, and the name's."""
    seed = _validate.seed("seed", seed)
    if not isinstance(name, str):
        found = f"name must be a text that says what is drawn, got {_validate.shown(name)}"
        raise error(TypeError, found, "a text that says what is drawn")
    return np.array([seed % 2**32, seed >> 32, *_digest(name)], WORD)


@lru_cache
def _digest(name: str) -> tuple[int, int]:
    """Two words for a name: its letters are encrypted, sixteen at a time, each result the next key."""
    key, letters = np.zeros(4, WORD), name.encode()
    for start in range(0, len(letters), 16):
        block = np.frombuffer(letters[start : start + 16].ljust(16, b"\0"), "<u4")
        key = threefry(key, block.astype(WORD)[:, None])[:, 0]
    return int(key[0]), int(key[1])


def _runs(runs: Runs) -> tuple[np.ndarray, tuple[int, ...]]:
    """The numbers of the runs, and the dimension that they make."""
    if runs is None:
        return np.zeros(1, np.int64), ()
    if isinstance(runs, Iterable):
        numbers = [
            _validate.count("runs", run, 0, 2**63) for run in _validate.several("runs", runs)
        ]
        return np.array(numbers, np.int64), (len(numbers),)
    _memory.room("the runs", _validate.count("runs", runs))
    return np.arange(runs), (int(runs),)


def _fill(
    turn: Callable[[np.ndarray], np.ndarray], seed: int, name: str, shape: tuple, runs: Runs
) -> Tensor:
    """An array of uniform numbers that ``turn`` makes into others, chunk by chunk."""
    shape = tuple(_validate.count("shape", k, 0) for k in _validate.several("shape", shape))
    numbers, front = _runs(runs)
    count = math.prod(shape)
    _memory.room(f"the numbers of {name}", len(numbers), *shape)
    blocks, key = (count + 1) // 2, _key(seed, name)
    drawn = np.empty((len(numbers) * blocks, 2))
    for start in range(0, len(drawn), CHUNK):
        place = np.arange(start, min(start + CHUNK, len(drawn)))
        run, block = np.divmod(place, blocks) if len(numbers) > 1 else (0 * place, place)
        drawn[place[0] : place[-1] + 1] = turn(_uniforms(key, block, 0, numbers[run]))
    wanted = drawn.reshape(len(numbers), 2 * blocks)[:, :count]
    return torch.from_numpy(np.ascontiguousarray(wanted).reshape((*front, *shape)))


def _uniforms(key: np.ndarray, block: np.ndarray, attempt: int, run: np.ndarray) -> np.ndarray:
    """Two numbers (m, 2) of each block: (k + 1/2) / 2^52, k of 52 bits, which is exact."""
    counter = np.empty((4, len(block)), WORD)
    counter[0], counter[1], counter[2], counter[3] = block, attempt, run & 0xFFFFFFFF, run >> 32
    words = threefry(key, counter)
    upper, lower = words[::2], words[1::2] >> WORD(12)
    return ((upper * 2.0**20 + lower + 0.5) * 2.0**-52).T


# ------------------------------------------------------------------------------ distributions

# Wichura (1988), algorithm AS 241: rational approximations of the normal quantile, to 1e-16
_CENTRE = (
    (
        2509.0809287301226727,
        33430.575583588128105,
        67265.770927008700853,
        45921.953931549871457,
        13731.693765509461125,
        1971.5909503065514427,
        133.14166789178437745,
        3.3871328727963666080,
    ),
    (
        5226.4952788528545610,
        28729.085735721942674,
        39307.895800092710610,
        21213.794301586595867,
        5394.1960214247511077,
        687.18700749205790830,
        42.313330701600911252,
        1.0,
    ),
)
_NEAR = (
    (
        7.74545014278341407640e-4,
        2.27238449892691845833e-2,
        2.41780725177450611770e-1,
        1.27045825245236838258,
        3.64784832476320460504,
        5.76949722146069140550,
        4.63033784615654529590,
        1.42343711074968357734,
    ),
    (
        1.05075007164441684324e-9,
        5.47593808499534494600e-4,
        1.51986665636164571966e-2,
        1.48103976427480074590e-1,
        6.89767334985100004550e-1,
        1.67638483018380384940,
        2.05319162663775882187,
        1.0,
    ),
)
_FAR = (
    (
        2.01033439929228813265e-7,
        2.71155556874348757815e-5,
        1.24266094738807843860e-3,
        2.65321895265761230930e-2,
        2.96560571828504891230e-1,
        1.78482653991729133580,
        5.46378491116411436990,
        6.65790464350110377720,
    ),
    (
        2.04426310338993978564e-15,
        1.42151175831644588870e-7,
        1.84631831751005468180e-5,
        7.86869131145613259100e-4,
        1.48753612908506148525e-2,
        1.36929880922735805310e-1,
        5.99832206555887937690e-1,
        1.0,
    ),
)


def _ratio(coefficients: tuple, x: np.ndarray) -> np.ndarray:
    """A quotient of two polynomials by Horner's rule, each step rounded by itself."""
    values = []
    for first, *others in coefficients:
        value = np.full_like(x, first)
        for coefficient in others:
            value *= x
            value += coefficient
        values.append(value)
    return values[0] / values[1]


def _quantile(u: np.ndarray) -> np.ndarray:
    """The number below which a standard normal one is with probability u."""
    q = u - 0.5
    z = q * _ratio(_CENTRE, 0.180625 - q * q)
    tail = np.abs(q) > 0.425
    if tail.any():
        outer = u[tail]
        r = np.sqrt(-_log(np.minimum(outer, 1 - outer)))
        far = _ratio(_FAR, r - 5) if (r > 5).any() else 0.0
        z[tail] = np.copysign(np.where(r <= 5, _ratio(_NEAR, r - 1.6), far), q[tail])
    return z


def _log(x: np.ndarray) -> np.ndarray:
    """The natural logarithm, to a unit or two in the last place, without a library's.

    Those of C, of JavaScript and of vectorised code differ in the last bit. With x = 2^e m and m
    around 1 it is e log 2 + 2 artanh s, s = (m - 1) / (m + 1), whose series ends soon.
    """
    m, e = np.frexp(x)
    low = m < math.sqrt(0.5)
    m, e = np.where(low, 2 * m, m), e - low
    s = (m - 1) / (m + 1)
    square, series = s * s, np.zeros_like(s)
    for k in range(23, 0, -2):
        series = series * square + 1 / k
    return e * 0.693147180559945309417 + 2 * s * series


def _marsaglia_tsang(
    freedom: np.ndarray, z: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Proposed chi-square numbers, and which of them are accepted."""
    a = np.maximum(freedom, 2) / 2 - 1 / 3
    v = 1 + z / np.sqrt(9 * a)
    v = v * v * v
    positive = np.where(v > 0, v, 1)
    accepted = (v > 0) & (_log(u) < z * z / 2 + a * (1 - v + _log(positive)))
    one = freedom == 1
    return np.where(one, z * z, 2 * a * v), accepted | one
