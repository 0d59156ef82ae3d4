"""Every picture of an explorer's grid, thinned and rounded for the page."""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .._errors import error
from ..plots import Picture
from ..plots._picture import describe, drawable, tones
from ..plots._text import runs
from ._controls import Control, call

POINTS = 80  # a curve on a page: more than the eye can tell apart
TOLERANCE = 0.001  # of the height of the plot: a third of a pixel
BELOW, ABOVE = -0.1, 1.1  # the frame, of height 1, cuts off what is further away


def pictures(run: Callable[..., Picture], controls: list[Control]) -> list[Picture]:
    """``run`` at every point of the grid, the last control varying fastest."""
    drawn = []
    for values in itertools.product(*(control.values for control in controls)):
        point = {c.name: value for c, value in zip(controls, values, strict=True)}
        drawn.append(call(run, point))
        if _axes(drawn[-1]) != _axes(drawn[0]):
            raise error(
                ValueError,
                f"the picture of run at {point} has other axis labels, scales, ylim or maps than the first",
                "keep one pair of axes",
            )
    return drawn


def grid_data(drawn: list[Picture], controls: Sequence[Control] = ()) -> dict:
    """The grid as plain data for the page; what can be dragged stands within its axes.

    ``xs`` holds each distinct list of x once; a curve is ``[line, place in xs, y]`` where ``line``
    points into ``lines``, the distinct (label, role, colour); y is null where there is a gap.

    Of two ways the shorter one: each curve with the points that it needs, or with those of a list
    of x that it shares with others.
    """
    limits = _limits(drawn, [v for c in controls if c.drag == "x" for v in c.values])
    ways = [_data(drawn, *limits, few) for few in (0, POINTS)]
    return min(ways, key=lambda data: len(zlib.compress(written(data).encode())))


def written(data: dict) -> str:
    """As it stands on the page."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _data(drawn: list[Picture], xlim, ylim, few: int) -> dict:
    xs, lines = _Table(), _Table()
    shown = [_picture_data(p, thinned(p, xlim, ylim, few), xlim, xs, lines) for p in drawn]
    first = drawn[0]
    return {
        "x": {"label": runs(first.xlabel), "scale": first.xscale, "limits": xlim},
        "y": {"label": runs(first.ylabel), "scale": first.yscale, "limits": ylim},
        "lines": [{"label": runs(name), "role": role, "tone": tone} for name, role, tone in lines],
        "xs": list(xs),
        "maps": [runs(label) for label in first.maps],
        "pictures": shown,
    }


class _Table(dict):
    """Distinct keys in order of appearance; ``table(key)`` is the key's place."""

    def __call__(self, key) -> int:
        return self.setdefault(key, len(self))


def thinned(picture: Picture, xlim, ylim, few: int = 0) -> Picture:
    """The picture with at most ``POINTS`` points a curve, on axes of these ranges.

    Curves of up to ``few`` points keep them all.
    """
    curves = list(picture.curves)
    for members in _sharing_x(picture):
        x = curves[members[0]].x
        if len(x) <= few:
            continue
        heights = np.stack([_height(picture, curves[k], ylim) for k in members])
        keep = thin(_scaled(x, picture.xscale, xlim), heights)
        for k in members:
            curves[k] = replace(curves[k], x=x[keep], y=curves[k].y[keep])
    return replace(picture, curves=curves, ylim=tuple(ylim))


def _picture_data(picture: Picture, small: Picture, xlim, xs: _Table, lines: _Table) -> dict:
    curves = []
    for curve, tone in zip(small.curves, tones(small), strict=True):
        y = np.where(drawable(small, curve), curve.y, np.nan)
        place = xs(tuple(discernible(curve.x, small.xscale, xlim)))
        y = _level_outside(y, _height(small, curve, small.ylim))
        heights = discernible(y, small.yscale, small.ylim)
        curves.append([lines((curve.label, curve.role, tone)), place, heights])
    maps = [significant(row, 3) for row in picture.maps.values()]
    return {"curves": curves, "summary": describe(picture)} | ({"maps": maps} if maps else {})


def _level_outside(y: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Leave out how a curve moves where nobody sees it: it is level between points outside."""
    for outside in (heights <= BELOW, heights >= ABOVE):
        before, after = np.append(True, outside[:-1]), np.append(outside[1:], True)
        y = np.where(outside & before & after, y[outside.argmax()], y)
    return y


def _sharing_x(picture: Picture) -> list[list[int]]:
    groups: dict[bytes, list[int]] = {}
    for k, curve in enumerate(picture.curves):
        groups.setdefault(curve.x.tobytes(), []).append(k)
    return list(groups.values())


def thin(x: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Choose at most ``POINTS`` indices whose straight lines keep the curves' shape.

    From the two ends on, the point furthest from the lines so far is added until none is further
    than ``TOLERANCE`` (the algorithm of Ramer, Douglas and Peucker). The ends of gaps come first,
    and where a curve leaves the frame: what is outside may be much further than ``heights`` say.

    Parameters
    ----------
    x : (points,) positions on the page, in widths of the plot.
    heights : (curves, points) positions on the page, in heights of the plot; NaN in a gap.
    """
    where = np.select([np.isnan(heights), heights <= BELOW, heights >= ABOVE], [1, 2, 3])
    edges = np.flatnonzero((where[:, 1:] != where[:, :-1]).any(axis=0))
    keep = sorted({0, len(x) - 1, *edges[: POINTS // 3], *(edges[: POINTS // 3] + 1)})
    spans = [_furthest(x, heights, a, b) for a, b in itertools.pairwise(keep)]
    while len(keep) < POINTS:
        error, point, a, b = worst = max(spans)
        if error <= TOLERANCE:
            break
        keep.append(point)
        spans.remove(worst)
        spans += [_furthest(x, heights, a, point), _furthest(x, heights, point, b)]
    return np.sort(keep)


def _furthest(x: np.ndarray, heights: np.ndarray, a: int, b: int) -> tuple[float, int, int, int]:
    """How far the curves stray from their chord over ``a..b``, and where.

    Above and below it, and beyond its ends, where a path turns back.
    """
    if b - a < 2:
        return 0.0, a, a, b
    between, width = x[a + 1 : b] - x[a], x[b] - x[a]
    along = np.clip(between / width, 0, 1) if width else np.zeros(len(between))
    chord = heights[:, a, None] + along * (heights[:, b] - heights[:, a])[:, None]
    stray = np.nan_to_num(np.abs(heights[:, a + 1 : b] - chord)).max(axis=0)
    stray += np.abs(between - along * width)
    k = int(stray.argmax())
    return float(stray[k]), a + 1 + k, a, b


def discernible(values: np.ndarray, scale: str, limits) -> list[float | int | None]:
    """Round to what can be told apart on an axis of this range: within half of ``TOLERANCE``."""
    low, high = limits
    if scale == "log":
        return significant(values, math.ceil(1 - math.log10(TOLERANCE * math.log(high / low))))
    places = -math.floor(math.log10(TOLERANCE * (high - low)))
    digits = places + math.ceil(math.log10(max(-low, high)))  # of the longest number in the frame
    return significant(np.round(values, places), digits)


def significant(values: np.ndarray, digits: int) -> list[float | int | None]:
    """Round to ``digits`` significant digits; null for what is not there."""
    rounded = (float(f"{v:.{digits - 1}e}") if np.isfinite(v) else None for v in values)
    return [int(v) if v is not None and v.is_integer() and abs(v) < 1e15 else v for v in rounded]


def _scaled(values: np.ndarray, scale: str, limits) -> np.ndarray:
    """Values as fractions of the axis."""
    low, high = limits
    if scale == "log":
        with np.errstate(divide="ignore", invalid="ignore"):
            values, (low, high) = np.log(values), np.log(limits)
    return (values - low) / (high - low)


def _height(picture: Picture, curve, ylim) -> np.ndarray:
    shown = np.where(drawable(picture, curve), curve.y, np.nan)
    # don't spend points on what lies outside
    return np.clip(_scaled(shown, picture.yscale, ylim), BELOW, ABOVE)


def _axes(picture: Picture) -> tuple:
    shape = {label: len(row) for label, row in picture.maps.items()}
    return picture.xlabel, picture.ylabel, picture.xscale, picture.yscale, picture.ylim, shape


def _limits(drawn: list[Picture], places: Sequence[float]) -> tuple[list[float], list[float]]:
    """One pair of ranges for the whole grid, so that the eye can compare its pictures."""
    shown = [(c.x[ok], c.y[ok]) for p in drawn for c in p.curves for ok in [drawable(p, c)]]
    x, y = (np.concatenate(parts) for parts in zip(*shown, strict=True))
    first = drawn[0]
    xlim = _range(np.append(x, places), first.xscale, margin=0)
    return xlim, list(first.ylim) if first.ylim else _range(y, first.yscale, margin=0.04)


def _range(values: np.ndarray, scale: str, margin: float) -> list[float]:
    low, high = float(values.min()), float(values.max())
    if scale == "log":
        low, high = np.log10([low, high])
    if low == high:  # a constant: put it in the middle
        low, high = low - 1, high + 1
    room = margin * (high - low)
    low, high = low - room, high + room
    ends = np.array([low, high])
    return [float(f"{v:.6g}") for v in (10.0**ends if scale == "log" else ends)]
