"""A stretch of steps of gradient descent in one compiled call.

Runs go in groups, one to a lane. What moves of a group are columns, (columns, coordinates, lanes);
what its model reads is (columns, rows, lanes).
"""

import math
import warnings
from collections.abc import Callable
from functools import cache
from pickle import UnpicklingError
from threading import Lock
from typing import NamedTuple

import numpy as np
from numba import config, njit
from numba.extending import register_jitable

from .._errors import error
from . import _register, _surface
from ._register import (
    ROWS,
    ByRun,
    add_multiples,
    all_as_lanes,
    all_of_group,
    as_lanes,
    empty_tile,
    load_tile,
    of_group,
    split,
    store_tile,
)
from ._surface import digest, where

if config.DISABLE_JIT:  # then what is made of lanes cannot run, and the steps are torch's
    raise error(ImportError, "NUMBA_DISABLE_JIT is set", "unset it for compiled steps")

#: Numbers of a matrix that stay in a near cache while all columns are multiplied by them.
BLOCK = 2**15


#: A group with this many times fewer runs than lanes is multiplied run by run.
FEW = 4


class Products(NamedTuple):
    """The matrices R, all panels of (coordinates, ROWS) one below the other, and which column reads which.

    In the dual ``into`` holds R R^T, coordinates are rows, and there is no way back to go.
    """

    dual: bool
    into: np.ndarray | ByRun
    across: np.ndarray  # into with rows as lanes, (row blocks, coordinates, lanes), for few runs
    back: np.ndarray | ByRun
    into_at: np.ndarray  # where each matrix begins in into
    back_at: np.ndarray  # and in back
    panels: int  # the most that a matrix has in into
    block: int  # so many stay in a near cache while all columns are multiplied by them
    pairs: np.ndarray  # (pairs, 2), two moving columns of one matrix each
    matrix: np.ndarray  # of each moving column
    column: np.ndarray  # its place in the image
    own: np.ndarray  # and among those that move
    coordinates: np.ndarray  # how many each matrix has
    rows: np.ndarray


class State(NamedTuple):
    """The numbers of all groups."""

    base: np.ndarray  # (groups, columns, rows, lanes)
    square: np.ndarray  # (groups, moving, lanes), |a|^2
    point: np.ndarray  # (2, groups, moving, coordinates, lanes)
    direction: np.ndarray  # (groups, moving, coordinates, lanes)
    eta: np.ndarray  # (groups, lanes)
    length: np.ndarray  # (groups, lanes), |gradient|^2
    loss: np.ndarray  # (runs)


class Scratch(NamedTuple):
    """What one thread needs while it works at a group."""

    image: np.ndarray  # (columns, rows, lanes)
    pulled: np.ndarray  # (moving, rows, lanes)
    turned: np.ndarray  # (moving, rows, lanes), R R^T times the direction, in the dual
    loss: np.ndarray  # (1, lanes)
    length: np.ndarray  # (1, lanes), |gradient|^2
    packed: np.ndarray  # (column panels, coordinates, ROWS), what moves of one run
    product: np.ndarray  # (row blocks, columns, lanes)
    own: tuple  # the step's


class StepSize(NamedTuple):
    """The step sizes of a stretch but for its first: see `descent.steps.Formula`.

    scale : (steps, runs), or none where the first step size is that of all.
    lost : (runs), set where the gradient is too short for its length to be known.
    """

    scale: np.ndarray
    power: int
    relative: bool
    optimum: float
    tiny: float
    most: float
    lost: np.ndarray


_inlined = register_jitable(error_model="numpy", forceinline=True)
_lock = Lock()


@cache
def _ready(function: Callable) -> None:
    """Let compiled functions call this one."""
    _inlined(function)


def compiled(step: Callable, kinds: object) -> Callable:
    """The function that takes steps with a model's; Numba compiles it at the first call.

    One for each of the types of what a run keeps, ``kinds``, so that Numba is left no choice between
    what a function was compiled to: its version 0.60 takes now and then the code for arrays of
    another layout, which reads elsewhere in memory.
    """
    with _lock:
        return _compiled(step, kinds)


@cache
def _compiled(step: Callable, kinds: object) -> Callable:
    parts = _surface.parts(step)
    for part in parts:
        _ready(part)
    sources = digest(_register, _surface, *parts)

    def take_steps(groups, scratch, start, stop, products, state, places, data, record, step_size):
        """Take the steps from ``start`` to ``stop`` of these groups, one after the other.

        Where the gradient's length is asked for, R R^T times the direction is known before the step
        is taken. The image then moves by that: there is one product a step all the same, and the
        first step of each stretch puts the image right again.
        """
        _ = sources  # Numba's cache asks what a function encloses: not what it calls, but this
        point, direction = as_lanes(state.point), as_lanes(state.direction)
        base, square, eta = as_lanes(state.base), as_lanes(state.square), as_lanes(state.eta)
        image, pulled = as_lanes(scratch.image), as_lanes(scratch.pulled)
        turned, length = as_lanes(scratch.turned), as_lanes(scratch.length)
        loss, own = as_lanes(scratch.loss), all_as_lanes(scratch.own)
        at, at_pulled, trained = places
        dual = products.dual
        for g in range(groups[0], groups[1]):
            _copy(base[g], image, scratch.image.shape)
            given = all_of_group(data, g)
            if dual:
                pulled = direction[g]
            moves = _any_moves(record, state, g)
            few, runs = _is_few(products, state, g), _runs_in(state, g)
            for t in range(start, stop):
                old, new = point[t % 2][g], point[1 - t % 2][g]
                follows = t > start and len(step_size.scale) > 0
                shifts = follows and dual and step_size.power > 0
                if moves:
                    if shifts:
                        _turn(products, state, scratch, g, few)
                    if follows:
                        if step_size.power > 0:
                            length[0] = _length(products, direction[g], turned, square[g], dual)
                        _set_step_size(record, state, scratch.length, step_size, g, t - start - 1)
                    _move(old, new, direction[g], eta[g], square[g], products)
                    if shifts:
                        _shift(image, turned, eta[g], square[g], products)
                    elif few:
                        z, out = state.point[1 - t % 2, g], scratch.image
                        _read_few(products, scratch, products.column, z, state.base[g], out, runs)
                    else:
                        _read(products, g, products.column, new, base[g], image, False)
                    read, back = split(image, at), split(pulled, at_pulled)
                    loss[0] = step(read, back, trained, t == start, own, given)
                    if not dual:
                        _pull_back(products, g, pulled, direction[g])
                moves = _note(record, state, scratch.loss, g, t, moves)

    return _kept(take_steps)


def lengths(kinds: object) -> Callable:
    """The function that gives the squared length of each run's gradient; see `compiled`."""
    with _lock:
        return _lengths(kinds)


@cache
def _lengths(kinds: object) -> Callable:
    sources = digest(_register, _surface)

    def squares(groups, scratch, products, state):
        """Of all runs of these groups."""
        _ = sources
        direction, square = as_lanes(state.direction), as_lanes(state.square)
        turned, out = as_lanes(scratch.turned), as_lanes(state.length)
        dual = products.dual
        for g in range(groups[0], groups[1]):
            if dual:
                _turn(products, state, scratch, g, _is_few(products, state, g))
            out[g] = _length(products, direction[g], turned, square[g], dual)

    return _kept(squares)


def _kept(function: Callable) -> Callable:
    """The function for Numba to compile, and to keep where there is a folder for it."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        kept = njit(function, cache=True, **options)
    except RuntimeError:  # there is none
        warn_of_no_cache()
        return njit(function, **options)
    kept._cache._cache_file = _Signed(kept._cache._cache_file)
    return kept


class _Signed(NamedTuple):
    """Numba's files of what a function was compiled to, where each entry says which it is.

    Numba numbers the entries and notes the numbers in an index. Two processes that compile at once
    take the same number, and the index of one may lead to the code of the other, for another model.
    """

    files: object

    def save(self, key, data):
        self.files.save(key, (key, data))

    def load(self, key):
        found = self.files.load(key)
        return found[1] if found and found[0] == key else None

    def flush(self):
        self.files.flush()


def call(function: Callable, *arguments) -> None:
    """Call a compiled function; a disk that is too full to keep it costs the next process a wait."""
    try:
        function(*arguments)
    except OSError as error:  # raised when it was compiled, before it began
        warn_of_no_cache(str(error))
        function(*arguments)
    except (EOFError, UnpicklingError):  # what was kept is damaged: begin to keep anew
        function._cache.flush()
        function(*arguments)


@cache
def warn_of_no_cache(why: str = "no folder can be written") -> None:
    """Say it, once in a process for each reason, however many functions are compiled."""
    warnings.warn(
        f"compiled code cannot be kept ({why}), so each process compiles again, for some seconds: "
        "set NUMBA_CACHE_DIR to a folder with room",
        RuntimeWarning,
        stacklevel=2,
    )


@_inlined
def _move(old, new, direction, eta, square, products):
    """new = old - eta |a|^2 direction; a run without a step size stays, whatever its direction."""
    moves = max(eta, -eta)
    for m in range(len(products.matrix)):
        rate = eta * square[m]
        for s in range(products.coordinates[products.matrix[m]]):
            z = old[m, s]
            new[m, s] = where(moves, z - rate * direction[m, s], z)


@_inlined
def _shift(image, turned, eta, square, products):
    """The same for what is read: image -= eta |a|^2 R R^T direction."""
    moves = max(eta, -eta)
    for m in range(len(products.matrix)):
        rate, c = eta * square[m], products.column[m]
        for row in range(products.rows[products.matrix[m]]):
            x = image[c, row]
            image[c, row] = where(moves, x - rate * turned[m, row], x)


@_inlined
def _turn(products, state, scratch, g, few):
    """turned = R R^T direction, of which that is the dual's matrix."""
    if few:
        z, out = state.direction[g], scratch.turned
        _read_few(products, scratch, products.own, z, out[:0], out, _runs_in(state, g))
    else:
        turned = as_lanes(scratch.turned)
        _read(products, g, products.own, as_lanes(state.direction)[g], turned, turned, True)


@_inlined
def _length(products, direction, turned, square, dual):
    """|g a^T|^2 = |g|^2 |a|^2, and in the dual |R^T g|^2 = <g, R R^T g>."""
    total = 0.0
    for m in range(len(products.matrix)):
        norm = 0.0
        for s in range(products.coordinates[products.matrix[m]]):
            z = direction[m, s]
            norm += z * (turned[m, s] if dual else z)
        total += norm * square[m]
    return total


@_inlined
def _set_step_size(record, state, length, step_size, g, row):
    """The step sizes of those runs of a group that move."""
    first, last = _runs(state, g)
    for run in range(first, last):
        if record.moves[run]:
            k = run - first
            eta = step_size.scale[row, run]
            if step_size.relative:
                eta *= max(state.loss[run] - step_size.optimum, 0.0)
            if step_size.power > 0:
                eta = _over_length(step_size, eta, length[0, k], run)
            state.eta[g, k] = eta


@_inlined
def _over_length(step_size, eta, square, run):
    """As the rules of `descent.steps` do it, what is too short included."""
    if step_size.relative:
        return min(eta / max(square, step_size.tiny), step_size.most)
    if square < step_size.tiny:
        step_size.lost[run] = True
        return 0.0
    if not square == square:
        return math.inf  # that no number follows shows in the next loss
    return eta / (math.sqrt(square) if step_size.power == 1 else square)


@_inlined
def _read(products, g, place, z, base, out, alone):
    """out = M z for what moves, plus ``base`` unless ``alone``; in blocks that stay in a near cache."""
    into = of_group(products.into, g)
    for first in range(0, products.panels, products.block):
        last = min(first + products.block, products.panels)
        for i in range(len(products.pairs)):
            m, m2 = products.pairs[i, 0], products.pairs[i, 1]
            k, c, c2 = products.matrix[m], place[m], place[m2]
            size, end = products.coordinates[k], (products.rows[k] + ROWS - 1) // ROWS
            for p in range(first, min(last, end)):
                row, at = p * ROWS, products.into_at[k] + p * size
                tile, tile2 = empty_tile(out), empty_tile(out)
                if not alone:
                    tile, tile2 = load_tile(base[c], row), load_tile(base[c2], row)
                for s in range(size):
                    tile = add_multiples(tile, into, (at + s,), z[m, s])
                    tile2 = add_multiples(tile2, into, (at + s,), z[m2, s])
                store_tile(out[c], row, tile)
                store_tile(out[c2], row, tile2)


@_inlined
def _is_few(products, state, g):
    """Whether most lanes of a group are idle, and the matrix is there for it."""
    return len(products.across) > 0 and FEW * _runs_in(state, g) <= state.eta.shape[1]


@_inlined
def _read_few(products, scratch, place, z, base, out, runs):
    """The same run by run, added to ``base`` if there is one: the lanes are rows of M."""
    across, product = as_lanes(products.across), as_lanes(scratch.product)
    packed, lanes = scratch.packed, out.shape[2]
    for k in range(runs):
        for m in range(len(products.matrix)):
            for s in range(products.coordinates[0]):
                packed[m // ROWS, s, m % ROWS] = z[m, s, k]
        for q in range(len(products.across)):
            for p in range(len(packed)):
                tile = empty_tile(across)
                for s in range(products.coordinates[0]):
                    tile = add_multiples(tile, packed, (p, s), across[q, s])
                store_tile(product[q], p * ROWS, tile)
            for m in range(len(products.matrix)):
                c = place[m]
                for row in range(q * lanes, min((q + 1) * lanes, products.rows[0])):
                    found = scratch.product[q, m, row - q * lanes]
                    out[c, row, k] = found + base[c, row, k] if len(base) > 0 else found


@_inlined
def _pull_back(products, g, pulled, direction):
    """direction = R^T pulled."""
    back = of_group(products.back, g)
    for i in range(len(products.pairs)):
        m, m2 = products.pairs[i, 0], products.pairs[i, 1]
        k = products.matrix[m]
        for p in range((products.coordinates[k] + ROWS - 1) // ROWS):
            row, at = p * ROWS, products.back_at[k] + p * products.rows[k]
            tile, tile2 = empty_tile(pulled), empty_tile(pulled)
            for s in range(products.rows[k]):
                tile = add_multiples(tile, back, (at + s,), pulled[m, s])
                tile2 = add_multiples(tile2, back, (at + s,), pulled[m2, s])
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
    better = f < record.best[run] - record.fall * abs(record.best[run])
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
def _runs_in(state, g):
    first, last = _runs(state, g)
    return last - first


@_inlined
def _runs(state, g):
    """The first run of a group, and the first behind it."""
    lanes = state.eta.shape[1]
    return g * lanes, min((g + 1) * lanes, len(state.loss))
