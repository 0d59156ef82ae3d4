"""Pictures drawn with matplotlib, in the book's one style."""

from __future__ import annotations

import io
from contextlib import contextmanager

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from descent.plots._picture import TONES, Picture, breaks, drawable, gaps, tones
from descent.plots._text import number

INK = "#222832"
# Blue and orange stay apart for every kind of colour vision, and the blue is darker, so that
# they stay apart in grey print too. All have a contrast of 4.5 or more with white.
COLOURS = {
    "softmax": "#0f62b5",
    "gaussian": "#b8500a",
    "ink": INK,
    "second": "#1f7a5c",
    "third": "#8a4fb0",
    "fourth": "#a8285a",
    "fifth": "#6f6a00",
    "sixth": "#5c6b7a",
}
DASHES = (0, (4.5, 2.5))
ROW, CELL = 20, 34  # a row of a map and one of its cells, points
SHADE = 0.3  # of the ink at most, so that a number on it can be read
SIZE = (5.2, 3.3)  # inches
LETTERS, SMALL = 12, 11  # points of labels and of numbers; figure.css sets their size on a screen

_STYLE = {
    "figure.figsize": SIZE,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": LETTERS,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "mathtext.fontset": "cm",  # the letters of the formulas on the page
    "figure.labelsize": LETTERS,
    "axes.titlesize": LETTERS,
    "axes.titlelocation": "left",
    "axes.labelsize": LETTERS,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.xmargin": 0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "grid.alpha": 0.18,
    "lines.linewidth": 1.9,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "axes.prop_cycle": matplotlib.cycler(color=[COLOURS[k] for k in TONES]),
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "grid.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def style():
    """The book's matplotlib style; make small multiples inside it and hand them to ``figure``."""
    with matplotlib.rc_context(_STYLE):
        yield


class Shown(Figure):
    """A matplotlib figure that the last line of a cell shows, with or without ``pyplot``."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=144, facecolor="white")
        return buffer.getvalue()


class ShownAxes(Axes):
    """Axes that the last line of a cell shows, with the figure that they stand in."""

    def _repr_png_(self) -> bytes:
        return self.figure._repr_png_()


def draw(picture: Picture, ax: Axes | None = None) -> Axes:
    """Draw ``picture`` on ``ax`` (new axes if none is given) and return the axes.

    Each curve is labelled at its end where the labels have room there, in a small legend above
    otherwise. Points that the axes can't show leave a gap after a cross, and a note above says so.
    """
    with style():
        ax = ax or _room(picture).add_subplot(axes_class=ShownAxes)
        ax.set(xlabel=picture.xlabel, xscale=picture.xscale)
        ax.set(ylabel=picture.ylabel, yscale=picture.yscale)
        handles = _lines(picture, ax)
        if picture.ylim:
            ax.set_ylim(picture.ylim)
        ax.minorticks_off()
        _short_log_axes(ax)
        notes = gaps(picture)
        if notes:
            ax.set_title("\n".join(notes), fontsize=SMALL, wrap=True)
        _label(ax, handles, crowded=bool(notes))
        _cells(picture, ax)
    return ax


def _room(picture: Picture) -> Shown:
    """A figure that is taller by a row for each map."""
    width, height = SIZE
    return Shown(figsize=(width, height + len(picture.maps) * ROW / 72))


def _cells(picture: Picture, ax: Axes) -> None:
    """Each map as a label and a row of cells below the axes, from the right."""
    for k, (label, row) in enumerate(picture.maps.items()):
        height = -40 - ROW * (k + 1)
        place = {"textcoords": "offset points", "annotation_clip": False, "fontsize": SMALL}
        ax.annotate(label, (0, 0), (0, height), xycoords="axes fraction", **place)
        for j, share in enumerate(row):
            fill = {"boxstyle": "square", "facecolor": (INK, SHADE * share), "edgecolor": INK}
            right = -CELL * (len(row) - 1 - j)
            ax.annotate(
                f"{share:.2f}", (1, 0), (right, height), xycoords="axes fraction", ha="right",
                bbox=fill | {"linewidth": 0.6}, **place,
            )  # fmt: skip


def _short_log_axes(ax: Axes) -> None:
    """Where a log axis spans less than two decades, its powers of ten alone say too little."""
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        if axis.get_scale() == "log" and high < 100 * low:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(lambda value, _: number(value))


def _lines(picture: Picture, ax: Axes) -> dict:
    """Draw the curves; return one line for each label that wants to be shown."""
    handles: dict = {}
    for curve, tone in zip(picture.curves, tones(picture), strict=True):
        y = np.where(drawable(picture, curve), curve.y, np.nan)
        dashes = DASHES if curve.role == "bound" else "-"
        (line,) = ax.plot(curve.x, y, color=COLOURS[tone], linestyle=dashes)
        cuts = breaks(picture, curve)
        ax.plot(curve.x[cuts], y[cuts], "x", color=COLOURS[tone], markersize=6)
        handles.setdefault((curve.label, curve.role, tone), []).append(line)
    for lines in handles.values():
        for line in lines[1:] and lines:  # many runs under one name: let them show through
            line.set(linewidth=1, alpha=0.6)
    return {key[0]: lines[-1] for key, lines in handles.items() if key[0]}


def _label(ax: Axes, handles: dict, crowded: bool) -> None:
    if not handles:
        return
    places = None if crowded else _places(ax, list(handles.values()))
    if crowded:
        ax.legend(handles.values(), handles.keys(), loc="best")
        return
    if places is None or not _fit_at_ends(ax, handles, places):
        _legend_above(ax, handles)


def _fit_at_ends(ax: Axes, handles: dict, places: list) -> bool:
    """Label each curve at its end, unless a name would take half of the room of the curves."""
    names = [
        ax.annotate(
            label,
            end,
            (6, shift),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color=line.get_color(),
            annotation_clip=False,
        )
        for (label, line), (end, shift) in zip(handles.items(), places, strict=True)
    ]
    widest = max(name.get_window_extent().width for name in names)
    fit = widest < ax.get_window_extent().width / 2
    for name in [] if fit else names:
        name.remove()
    return fit


def _legend_above(ax: Axes, handles: dict) -> None:
    """A legend over the axes, in as many columns, up to three, as are not wider than they are."""
    for columns in range(min(3, len(handles)), 0, -1):
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": columns}
        legend = ax.legend(handles.values(), handles.keys(), **above)
        legend.set_in_layout(columns == 1)  # or one that is too wide would leave no axes
        ax.figure.draw_without_rendering()
        if legend.get_window_extent().width <= ax.get_window_extent().width:
            legend.set_in_layout(True)
            return


def _places(ax: Axes, lines: list, height: float = 14) -> list | None:
    """Where each line ends and how far to move its label up, in points; None if there is no room.

    ``height`` is a label's height in points. A label that would have to go further than three
    lines from its curve would point at another one.
    """
    ax.figure.draw_without_rendering()
    points = [_end(ax, line) for line in lines]
    pixels = ax.transData.transform(points)
    left, right = ax.get_window_extent().intervalx
    if (pixels[:, 0] < right - 0.03 * (right - left)).any():
        return None
    ends, bottom = (y * 72 / ax.figure.dpi for y in (pixels[:, 1], ax.get_window_extent().y0))
    shifts = spread(ends, height, bottom) - ends  # the axis' own numbers stand below
    return None if np.abs(shifts).max() > 3 * height else list(zip(points, shifts, strict=True))


def _end(ax: Axes, line) -> tuple[float, float]:
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    last = np.flatnonzero(np.isfinite(y))[-1]
    return x[last], np.clip(y[last], *sorted(ax.get_ylim()))


def spread(wanted: np.ndarray, height: float, floor: float = -np.inf) -> np.ndarray:
    """Move heights apart to at least ``height``, none below ``floor``, each as little as it takes.

    Labels that touch form a block; a block sits where its labels' mean wants it. (This is
    isotonic regression: pool adjacent violators.)
    """
    order = np.argsort(wanted, kind="stable")
    blocks: list[list[float]] = []  # [sum of (wanted - rank * height), count]
    for rank, k in enumerate(order):
        blocks.append([wanted[k] - rank * height, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count]
    means = np.concatenate([[total / count] * count for total, count in blocks])
    means = np.maximum(means, floor)  # a block of labels at the axis stands on it
    placed = np.empty(len(wanted))
    placed[order] = means + height * np.arange(len(wanted))
    return placed
