"""Phase diagrams: where in a grid of runs descent converges, as small multiples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, NullLocator

from descent.plots._draw import COLOURS, DASHES, INK, SMALL, Shown, style
from descent.plots._text import number

from .._errors import error

if TYPE_CHECKING:
    import pandas

#: What an axis of the figure is called; others bear their column's name.
LABELS = {"Nn": "labels $Nn$", "D": "dimension $D$", "N": "sequences $N$", "d": "width $d$"}
FRAME = {"edgecolor": INK, "linewidth": 0.3}


def phase(
    table: pandas.DataFrame,
    *,
    fraction: float = 0.01,
    show: Literal["success", "speed"] = "success",
    x: str = "Nn",
    y: str = "D",
    rows: str = "kernel",
    columns: str = "train",
) -> Figure:
    """Draw a sweep's runs over two of its columns, a panel for each value of two others.

    A cell pools all runs with its x, y and panel, as they come Nn, D, kernel and trained matrices;
    select rows beforehand to keep other axes apart. The fuller a cell's colour the better its runs
    do; it is the kernel's own where rows are kernels, and shows through to the ground, which may be
    light or dark. Over Nn and D, where all runs have the same number of heads, a dashed line marks
    HD = Nn, the rank that training V needs.

    Parameters
    ----------
    table : what `descent.sweep` returns, with a column ``steps_to_<fraction>``.
    fraction : a run has converged when its loss is at most this fraction of its first loss.
    show : ``"success"``, the share of runs that converge; or ``"speed"``, the median number of
        steps that this takes, on a logarithmic scale.
    x, y : columns of positive numbers; ``"Nn"`` is the product of N and n.
    rows, columns : columns of the table whose values tell the panels apart.

    Raises
    ------
    ValueError : if a column is missing, if rows and columns are the same, or there is no run.

    Introduced in :doc:`/sweeps`.
    """
    column = f"steps_to_{fraction:g}"
    _check(table, column, show, (x, y, rows, columns))
    runs = table.assign(hit=table[column], **({"Nn": table["N"] * table["n"]} if x == "Nn" else {}))
    down, across = runs[rows].unique(), runs[columns].unique()
    colours = [COLOURS.get(one, COLOURS["second"]) for one in down]
    with style():
        figure = Shown(figsize=(1.2 + 1.35 * max(3, len(across)), 0.9 + 1.55 * len(down)))
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
        panels, key = figure.subfigures(2, 1, height_ratios=[1.55 * len(down) + 0.4, 0.5])
        axes = panels.subplots(len(down), len(across), sharex=True, sharey=True, squeeze=False)
        for (row, one), (k, other) in _product(down, across):
            panel = runs[(runs[rows] == one) & (runs[columns] == other)]
            _panel(axes[row, k], panel, (x, y), colours[row], show)
            named = k == 0 and (rows == "kernel" or len(down) > 1)
            axes[row, k].set_title(f"{one}, {_formula(other)}" if named else _formula(other))
        _frame(axes, runs, (x, y))
        _key(key.subplots(), list(dict.fromkeys(colours)), fraction, int(runs["steps"].max()), show)
    return figure


def _formula(value: str) -> str:
    """QKV as letters of a formula, d^-1/2 with all of its exponent raised."""
    base, _, exponent = str(value).partition("^")
    return f"${base}^{{{exponent}}}$" if exponent else f"${base}$"


def _check(table: pandas.DataFrame, column: str, show: str, named: tuple[str, ...]) -> None:
    if show not in ("success", "speed"):
        raise error(
            ValueError,
            f"show must be one of 'success', 'speed', got {show!r}",
            "be one of 'success', 'speed'",
        )
    needed = [part for name in named for part in (("N", "n") if name == "Nn" else (name,))]
    missing = [name for name in (*needed, "steps", column) if name not in table]
    if missing:
        counted = [name.removeprefix("steps_to_") for name in table if "steps_to_" in str(name)]
        found, remedy = f"table has no column {', '.join(missing)}", "give what a sweep wrote"
        if missing == [column] and counted:
            remedy = f"fraction may be {' or '.join(counted)}"
        raise error(ValueError, found, remedy)
    if table.empty:
        raise error(ValueError, "table holds no run", "select other rows")
    if named[2] == named[3]:
        found = f"rows and columns are both {named[2]!r}"
        raise error(ValueError, found, "give one of them another column, such as 'train'")


def _product(down, across):
    return [(a, b) for a in enumerate(down) for b in enumerate(across)]


def _panel(ax: Axes, panel: pandas.DataFrame, over: tuple, colour: str, show: str) -> None:
    if panel.empty:
        return
    x, y = (np.sort(panel[name].unique()) for name in over)
    left, low = (dict(zip(v, zip(*edges(v), strict=True), strict=True)) for v in (x, y))
    boxes = [
        (left[at_x], low[at_y], strength(cell, show))
        for (at_x, at_y), cell in panel.groupby(list(over))
    ]
    _squares(ax, boxes, colour)


def _squares(ax: Axes, boxes: list[tuple], colour: str) -> None:
    """Draw boxes (sides in x, sides in y, how full): one shape for all of a shade, one for frames."""
    for shade in sorted({alpha for *_, alpha in boxes if alpha > 0}):
        filled = _path([(x, y) for x, y, alpha in boxes if alpha == shade])
        ax.add_patch(PathPatch(filled, facecolor=colour, linewidth=0, alpha=shade))
    # apart from the filling: a frame is to stay where that is faint
    every = _path([(x, y) for x, y, _ in boxes])
    ax.add_patch(PathPatch(every, facecolor="none", alpha=0.35, **FRAME))


def _path(boxes: list[tuple]) -> Path:
    corners = [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for (x0, x1), (y0, y1) in boxes]
    return Path.make_compound_path(*(Path([*c, c[0]], closed=True) for c in corners))


def strength(cell: pandas.DataFrame, show: str) -> float:
    """How full a cell's colour is: 0 where no run converges (or not half of them), at most 1."""
    if show == "success":
        return float(cell["hit"].notna().mean())
    median = cell["hit"].fillna(np.inf).median()
    return float(np.clip(1 - np.log(max(median, 1)) / np.log(cell["steps"].max()), 0, 1))


def edges(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge of the cell of each value, half-way to its neighbours on a log scale."""
    logs = np.log(values.astype(float))
    if len(logs) == 1:
        return values / 2**0.5, values * 2**0.5
    middle = (logs[1:] + logs[:-1]) / 2
    ends = 2 * logs[0] - middle[0], 2 * logs[-1] - middle[-1]
    every = np.exp([ends[0], *middle, ends[1]])
    return every[:-1], every[1:]


def _frame(axes: np.ndarray, runs: pandas.DataFrame, over: tuple) -> None:
    x, y = (np.sort(runs[name].unique()) for name in over)
    for ax in axes.flat:
        ax.set(xscale="log", yscale="log")
        ax.set(xlim=(edges(x)[0][0], edges(x)[1][-1]), ylim=(edges(y)[0][0], edges(y)[1][-1]))
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        for axis, values in ((ax.xaxis, x), (ax.yaxis, y)):
            axis.set_major_locator(FixedLocator(_sparse(values)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(lambda value, _: number(value))
        if over == ("Nn", "D") and "H" in runs and runs["H"].nunique() == 1:
            edge = x[[0, -1]] * np.array([0.5, 2])
            ax.plot(edge, edge / runs["H"].iloc[0], color=INK, linestyle=DASHES, linewidth=1.3)
    for ax in axes[-1]:
        ax.set_xlabel(LABELS.get(over[0], over[0]))
    for ax in axes[:, 0]:
        ax.set_ylabel(LABELS.get(over[1], over[1]))


def _sparse(values: np.ndarray, apart: float = 1.9) -> list[float]:
    """The values that leave room for each other's labels on a log scale."""
    kept: list[float] = []
    for value in values:
        if not kept or value >= apart * kept[-1]:
            kept.append(float(value))
    return kept


def _key(ax: Axes, colours: list[str], fraction: float, steps: int, show: str) -> None:
    """A strip that says what a full colour means, in each colour of the panels."""
    shades = np.linspace(0, 1, 5)
    heights = np.linspace(1, 0, len(colours) + 1)
    for colour, side in zip(colours, zip(heights[1:], heights, strict=False), strict=True):
        _squares(ax, [((k, k + 1), side, alpha) for k, alpha in enumerate(shades)], colour)
    if show == "success":
        labels = ["0", "", "50 %", "", "100 %"]
        words = f"of the runs get to {number(fraction)}", f"of their first loss in {steps} steps"
    else:
        labels = [number(round(steps ** (1 - alpha))) for alpha in shades]
        words = f"steps to {number(fraction)}", "of the first loss (median)"
    ax.set_xticks(np.arange(5) + 0.5, labels)
    ax.set(xlim=(0, 16), ylim=(0, 1), yticks=[])
    for line, y, side in zip(words, (0.65, 0.35), ("bottom", "top"), strict=True):
        ax.text(5.3, y, line, va=side, fontsize=SMALL)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
