"""A stretch of steps of gradient descent in one compiled call.

Runs go in groups, one to a lane. What moves of a group are columns, (columns, coordinates, lanes);
what its model reads is (columns, rows, lanes).
"""

import warnings
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import register_jitable

from . import _register, _surface
from ._register import (
    ROWS,
    add_multiples,
    all_as_lanes,
    as_lanes,
    empty_tile,
    load_tile,
    split,
    store_tile,
)
from ._surface import digest, where

#: Numbers of a matrix that stay in a near cache while all columns are multiplied by them.
BLOCK = 2**15


#: A group with this many times fewer runs than lanes is multiplied run by run.
FEW = 4


class Products(NamedTuple):
    """The matrices R (matrices, panels, coordinates, ROWS), and which column reads which.

    In the dual ``into`` holds R R^T, coordinates are rows, and there is no way back to go.
    """

    into: np.ndarray
    across: np.ndarray  # into with rows as lanes, (row blocks, coordinates, lanes), for few runs
    back: np.ndarray
    pairs: np.ndarray  # (pairs, 2), two moving columns of one matrix each
    matrix: np.ndarray  # of each moving column
    column: np.ndarray  # its place in the image
    coordinates: np.ndarray  # how many each matrix has
    rows: np.ndarray


class State(NamedTuple):
    """The numbers of all groups."""

    base: np.ndarray  # (groups, columns, rows, lanes)
    square: np.ndarray  # (groups, moving, lanes), |a|^2
    point: np.ndarray  # (2, groups, moving, coordinates, lanes)
    direction: np.ndarray  # (groups, moving, coordinates, lanes)
    eta: np.ndarray  # (groups, lanes)
    loss: np.ndarray  # (runs)


class Scratch(NamedTuple):
    """What one thread needs while it works at a group."""

    image: np.ndarray  # (columns, rows, lanes)
    pulled: np.ndarray  # (moving, rows, lanes)
    loss: np.ndarray  # (1, lanes)
    packed: np.ndarray  # (column panels, coordinates, ROWS), what moves of one run
    product: np.ndarray  # (row blocks, columns, lanes)
    own: tuple  # the step's


_inlined = register_jitable(error_model="numpy", forceinline=True)
_lock = Lock()


@cache
def _ready(function: Callable) -> None:
    """Let compiled functions call this one."""
    _inlined(function)


def compiled(step: Callable) -> Callable:
    """The function that takes steps with a model's; Numba compiles it at the first call."""
    with _lock:
        return _compiled(step)


@cache
def _compiled(step: Callable) -> Callable:
    parts = _surface.parts(step)
    for part in parts:
        _ready(part)
    sources = digest(_register, _surface, *parts)

    def advance(groups, start, stop, products, state, scratch, places, data, record):
        """Take the steps from ``start`` to ``stop`` of these groups, one after the other."""
        _ = sources  # Numba's cache asks what a function encloses: not what it calls, but this
        point, direction = as_lanes(state.point), as_lanes(state.direction)
        base, square, eta = as_lanes(state.base), as_lanes(state.square), as_lanes(state.eta)
        image, pulled = as_lanes(scratch.image), as_lanes(scratch.pulled)
        loss, own = as_lanes(scratch.loss), all_as_lanes(scratch.own)
        at, at_pulled, trained = places
        dual = len(products.back) == 0
        for g in range(groups[0], groups[1]):
            _copy(base[g], image, scratch.image.shape)
            if dual:
                pulled = direction[g]
            moves = _any_moves(record, state, g)
            few = _is_few(products, state, g)
            for t in range(start, stop):
                old, new = point[t % 2][g], point[1 - t % 2][g]
                if moves:
                    _move(old, new, direction[g], eta[g], square[g], products)
                    if few:
                        _read_few(products, state, scratch, g, 1 - t % 2)
                    else:
                        _read(products, new, base[g], image)
                    read, back = split(image, at), split(pulled, at_pulled)
                    loss[0] = step(read, back, trained, t == start, own, data)
                    if not dual:
                        _pull_back(products, pulled, direction[g])
                moves = _note(record, state, scratch.loss, g, t, moves)

    return _kept(advance)


def lengths() -> Callable:
    """The function that gives the squared length of each run's gradient."""
    with _lock:
        return _lengths()


@cache
def _lengths() -> Callable:
    sources = digest(_register, _surface)

    def squares(products, state, image, nothing, out):
        """Of g a^T it is |g|^2 |a|^2, and in the dual |R^T g|^2 = <g, R R^T g>."""
        _ = sources
        direction, square, total = as_lanes(state.direction), as_lanes(state.square), as_lanes(out)
        pairs, none = as_lanes(image), as_lanes(nothing)
        dual = len(products.back) == 0
        for g in range(len(state.direction)):
            if dual:
                _read(products, direction[g], none, pairs)
            here = 0.0
            for m in range(len(products.matrix)):
                norm = 0.0
                for s in range(products.coordinates[products.matrix[m]]):
                    z = direction[g, m, s]
                    norm += z * (pairs[products.column[m], s] if dual else z)
                here += norm * square[g, m]
            total[g] = here

    return _kept(squares)


def _kept(function: Callable) -> Callable:
    """The function for Numba to compile, and to keep where there is a folder for it."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:  # there is none
        warn_of_no_cache()
        return njit(function, **options)


def call(function: Callable, *arguments) -> None:
    """Call a compiled function; a disk that is too full to keep it costs the next process a wait."""
    try:
        function(*arguments)
    except OSError as error:  # raised when it was compiled, before it began
        warn_of_no_cache(str(error))
        function(*arguments)


def warn_of_no_cache(why: str = "no folder can be written") -> None:
    warnings.warn(
        f"compiled code cannot be kept ({why}), so each process compiles again, for some seconds: "
        "set NUMBA_CACHE_DIR to a folder with room",
        RuntimeWarning,
        stacklevel=2,
    )


@_inlined
def _move(old, new, direction, eta, square, products):
    """new = old - eta |a|^2 direction; a run without a step size stays, whatever its direction."""
    for m in range(len(products.matrix)):
        rate = eta * square[m]
        for s in range(products.coordinates[products.matrix[m]]):
            z = old[m, s]
            new[m, s] = where(rate, z - rate * direction[m, s], z)


@_inlined
def _read(products, z, base, image):
    """image = base + M z for what moves, in blocks of M that stay in a near cache."""
    panels = products.into.shape[1]
    block = max(1, BLOCK // (products.into.shape[2] * ROWS))
    for first in range(0, panels, block):
        last = min(first + block, panels)
        for i in range(len(products.pairs)):
            m, m2 = products.pairs[i, 0], products.pairs[i, 1]
            k, c, c2 = products.matrix[m], products.column[m], products.column[m2]
            size = products.coordinates[k]
            for p in range(first, last):
                row = p * ROWS
                tile, tile2 = load_tile(base[c], row), load_tile(base[c2], row)
                for s in range(size):
                    tile = add_multiples(tile, products.into, (k, p, s), z[m, s])
                    tile2 = add_multiples(tile2, products.into, (k, p, s), z[m2, s])
                store_tile(image[c], row, tile)
                store_tile(image[c2], row, tile2)


@_inlined
def _is_few(products, state, g):
    """Whether most lanes of a group are idle, and the matrix is there for it."""
    first, last = _runs(state, g)
    return len(products.across) > 0 and FEW * (last - first) <= state.eta.shape[1]


@_inlined
def _read_few(products, state, scratch, g, new):
    """image = base + M z, run by run: the lanes are rows of M, and `ROWS` columns a tile."""
    across, product = as_lanes(products.across), as_lanes(scratch.product)
    packed, image = scratch.packed, scratch.image
    lanes = state.eta.shape[1]
    first, last = _runs(state, g)
    for k in range(last - first):
        for m in range(len(products.matrix)):
            for s in range(products.coordinates[0]):
                packed[m // ROWS, s, m % ROWS] = state.point[new, g, m, s, k]
        for q in range(len(products.across)):
            for p in range(len(packed)):
                tile = empty_tile(across)
                for s in range(products.coordinates[0]):
                    tile = add_multiples(tile, packed, (p, s), across[q, s])
                store_tile(product[q], p * ROWS, tile)
            for m in range(len(products.matrix)):
                c = products.column[m]
                for row in range(q * lanes, min((q + 1) * lanes, products.rows[0])):
                    found = scratch.product[q, m, row - q * lanes]
                    image[c, row, k] = state.base[g, c, row, k] + found


@_inlined
def _pull_back(products, pulled, direction):
    """direction = R^T pulled."""
    for i in range(len(products.pairs)):
        m, m2 = products.pairs[i, 0], products.pairs[i, 1]
        k = products.matrix[m]
        for p in range(products.back.shape[1]):
            row = p * ROWS
            tile, tile2 = empty_tile(pulled), empty_tile(pulled)
            for s in range(products.rows[k]):
                tile = add_multiples(tile, products.back, (k, p, s), pulled[m, s])
                tile2 = add_multiples(tile2, products.back, (k, p, s), pulled[m2, s])
            store_tile(direction[m], row, tile)
            store_tile(direction[m2], row, tile2)


@_inlined
def _note(record, state, loss, g, t, moved):
    """Write down what step t led to in each run of a group; gives whether any moves on."""
    first, last = _runs(state, g)
    moves = False
    for run in range(first, last):
        f = record.last[run]
        if moved and record.moves[run]:
            f = state.loss[run] = loss[0, run - first]
            f = _judge(record, run, t, f)
            if not record.moves[run]:
                _keep(state, g, run - first, t, record.diverged_at[run] >= 0)
        moves = moves or record.moves[run]
        if (t + 1) % record.every == 0:
            record.losses[(t + 1) // record.every, run] = f
    return moves


@_inlined
def _judge(record, run, t, f):
    """Decide whether a run moves on; gives the loss that is to be written down."""
    if not f <= record.ceiling[run]:  # true of NaN as well
        record.diverged_at[run] = t + 1
        record.moves[run] = False
        return record.last[run]
    better = f < record.fallen * record.best[run]
    record.idle[run] = 0 if better else record.idle[run] + 1
    if better:
        record.best[run] = f
    if f <= record.target[run] or record.idle[run] >= record.patience[run]:
        record.last[run], record.stopped_at[run] = f, t + 1
        record.moves[run] = False
    return f


@_inlined
def _keep(state, g, k, t, diverged):
    """Let a run stand still from now on, where step t began if it diverged."""
    to, source = (1 - t % 2, t % 2) if diverged else (t % 2, 1 - t % 2)
    _, _, moving, coordinates, _ = state.point.shape
    for m in range(moving):
        for s in range(coordinates):
            state.point[to, g, m, s, k] = state.point[source, g, m, s, k]
    state.eta[g, k] = 0


@_inlined
def _copy(source, out, shape):
    for c in range(shape[0]):
        for row in range(shape[1]):
            out[c, row] = source[c, row]


@_inlined
def _any_moves(record, state, g):
    first, last = _runs(state, g)
    some = False
    for run in range(first, last):
        some = some or record.moves[run]
    return some


@_inlined
def _runs(state, g):
    """The first run of a group, and the first behind it."""
    lanes = state.eta.shape[1]
    return g * lanes, min((g + 1) * lanes, len(state.loss))
