"""What a figure says, before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from descent.plots._text import number, plain, spoken

from .._errors import error

ROLES = ("measured", "bound")
KERNELS = ("softmax", "gaussian", None)
#: Colours of curves without a kernel, in the order in which they are given out.
TONES = ("ink", "second", "third", "fourth", "fifth", "sixth")
SCALES = ("linear", "log")


@dataclass(frozen=True, eq=False)
class Curve:
    """One line of a picture.

    Parameters
    ----------
    label : what the line is; may hold ``$...$``. Curves with one label are labelled once.
    x, y : (points,) numbers; tensors are fine. Values that can't be drawn leave a gap.
    role : ``"measured"`` is drawn solid, ``"bound"`` dashed.
    kernel : gives the line the colour of that attention kernel.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    role: Literal["measured", "bound"] = "measured"
    kernel: Literal["softmax", "gaussian"] | None = None

    def __post_init__(self):
        _one_of("role", self.role, ROLES)
        _one_of("kernel", self.kernel, KERNELS)
        for name in ("x", "y"):
            numbers = _numbers(f"{name} of curve {self.label!r}", getattr(self, name))
            object.__setattr__(self, name, numbers)
        if len(self.x) != len(self.y):
            raise error(
                ValueError,
                f"curve {self.label!r} has {len(self.x)} x and {len(self.y)} y",
                "give one y for each x",
            )
        if not np.isfinite(self.x).all():
            raise error(
                ValueError,
                f"x of curve {self.label!r} is not finite everywhere",
                "leave these points out, since only y may have gaps",
            )


@dataclass(frozen=True, eq=False)
class Picture:
    """Curves on one pair of axes, and a sentence that says what they show.

    Parameters
    ----------
    curves : at least one :class:`Curve`.
    xlabel, ylabel : the symbol and the words, e.g. ``"step $t$"``.
    xscale, yscale : ``"linear"`` or ``"log"``. A log axis leaves out what is not positive.
    summary : what the picture shows, in words and numbers; if empty, where each curve ends.
    ylim : (low, high), where the curves' own range would hide what matters (a run that diverges).
    maps : rows of shares between 0 and 1 by what they are, ``{"attention of sequence 1": phi}``;
        each is drawn below the curves as a row of cells, the darker the larger.
    answer : where an explorer asks the reader to find something and this picture shows it, what
        has been found.
    """

    curves: Sequence[Curve]
    xlabel: str
    ylabel: str
    xscale: Literal["linear", "log"] = "linear"
    yscale: Literal["linear", "log"] = "linear"
    summary: str = ""
    ylim: tuple[float, float] | None = None
    maps: Mapping[str, Sequence[float]] = field(default_factory=dict)
    answer: str = ""

    def __post_init__(self):
        object.__setattr__(self, "curves", tuple(self.curves))
        maps = {label: _shares(label, row) for label, row in self.maps.items()}
        object.__setattr__(self, "maps", maps)
        _one_of("xscale", self.xscale, SCALES)
        _one_of("yscale", self.yscale, SCALES)
        if not self.curves:
            raise error(ValueError, "curves is empty", "give at least one Curve")
        _check_limits(self.ylim, self.yscale)
        for curve in self.curves:
            if not isinstance(curve, Curve):
                raise error(
                    TypeError,
                    f"curves holds a {type(curve).__name__}",
                    "give descent.plots.Curve objects",
                )
            if not drawable(self, curve).any():
                raise error(
                    ValueError,
                    f"curve {curve.label!r} has no point that its axes can show",
                    "give finite numbers, and positive ones where an axis is log",
                )
        _check_colours(self.curves)


def drawable(picture: Picture, curve: Curve) -> np.ndarray:
    """(points,) whether the axes can show the point: finite, and positive where an axis is log."""
    shown = np.isfinite(curve.y)
    if picture.xscale == "log":
        shown &= curve.x > 0
    if picture.yscale == "log":
        shown &= curve.y > 0
    return shown


def breaks(picture: Picture, curve: Curve) -> np.ndarray:
    """Indices of the last point before each gap: these are marked with a cross."""
    shown = drawable(picture, curve)
    return np.flatnonzero(shown[:-1] & ~shown[1:])


def gaps(picture: Picture) -> list[str]:
    """A sentence for each curve that is not drawn whole."""
    notes = []
    for curve in picture.curves:
        missing = ~drawable(picture, curve)
        if missing.any():
            finite = np.isfinite(curve.y[missing]).all()
            why = "positive (log axis)" if finite else "finite"
            first = number(curve.x[np.argmax(missing)])
            notes.append(
                f"{plain(curve.label)}: values from {first} on that are not {why} are left out."
            )
    return notes


def describe(picture: Picture) -> str:
    """The picture in words: its summary, or where each curve ends, and what could not be drawn.

    Last, after a tick, what has been found.
    """
    last = {plain(c.label): c.y[drawable(picture, c)][-1] for c in picture.curves}
    ends = "; ".join(f"{label} ends at {number(y)}" for label, y in last.items())
    found = [f"✓ {spoken(picture.answer)}"] if picture.answer else []
    return " ".join([spoken(picture.summary) or f"{ends}.", *gaps(picture), *found])


def tones(picture: Picture) -> list[str]:
    """The colour of each curve by name: its kernel's, or one of `TONES` for each label in turn.

    The first bound without a kernel takes the ink of the first measurement without one: the dash
    already tells them apart, and equal colour says that they belong together.
    """
    seen: dict[str, list[str]] = {role: [] for role in ROLES}
    names = []
    for curve in picture.curves:
        labels = seen[curve.role]
        if curve.kernel is None and curve.label not in labels:
            labels.append(curve.label)
        names.append(curve.kernel or TONES[labels.index(curve.label)])
    return names


def _check_colours(curves: Sequence[Curve]) -> None:
    """No two labels of one role may have to share a colour."""
    for role in ROLES:
        labels = {c.label for c in curves if c.role == role and c.kernel is None}
        if len(labels) > len(TONES):
            raise error(
                ValueError,
                f"{len(labels)} {role} curves want a colour each, and there are {len(TONES)}",
                "draw fewer, or give one label to those that belong together",
            )


def _numbers(what: str, values) -> np.ndarray:
    if hasattr(values, "detach"):  # a tensor, perhaps with a gradient or on another device
        values = values.detach().cpu().numpy()
    array = np.array(values, dtype=float)
    if array.ndim != 1 or array.size == 0:
        raise error(
            ValueError, f"{what} has shape {array.shape}", "give a non-empty sequence of numbers"
        )
    array.flags.writeable = False
    return array


def _shares(label: str, row) -> np.ndarray:
    shares = _numbers(f"the map {label!r}", row)
    if not ((shares >= 0) & (shares <= 1)).all():
        raise error(
            ValueError,
            f"the map {label!r} holds {shares.min():g} to {shares.max():g}",
            "give shares between 0 and 1",
        )
    return shares


def _one_of(name: str, value, choices: tuple) -> None:
    if value not in choices:
        raise error(
            ValueError,
            f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}",
            f"be one of {', '.join(map(repr, choices))}",
        )


def _check_limits(ylim, yscale: str) -> None:
    if ylim is None:
        return
    low, high = ylim
    bad = not (np.isfinite([low, high]).all() and low < high)
    if bad or (yscale == "log" and low <= 0):
        kind = " positive" if yscale == "log" else ""
        raise error(
            ValueError,
            f"ylim must be two finite{kind} numbers, the lower first, got {ylim!r}",
            f"be two finite{kind} numbers, the lower first",
        )
