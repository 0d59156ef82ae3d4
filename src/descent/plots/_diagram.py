"""Boxes and arrows: a model drawn with every symbol where it acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from descent.plots._draw import COLOURS, DASHES, INK, style

from .._errors import error


@dataclass(frozen=True)
class Box:
    """A box of a diagram.

    label : what stands in it; lines are separated by ``\\n``, formulas stand in ``$...$``.
    x, y : its centre, from 0 (left, bottom) to 1 (right, top).
    kind : ``"trained"`` weights have the accent colour, ``"fixed"`` ones a dashed frame; a
        ``"value"`` is computed, and ``"text"`` has no frame.
    """

    label: str
    x: float
    y: float
    kind: Literal["trained", "fixed", "value", "text"] = "value"


def diagram(
    boxes: Mapping[str, Box],
    arrows: Sequence[tuple[str, str]],
    *,
    size: tuple[float, float] = (5.2, 4.2),
) -> Figure:
    """Draw boxes and the arrows between them; hand the result to `figure`.

    Raises
    ------
    ValueError : if an arrow begins or ends at no box.
    """
    unknown = {name for arrow in arrows for name in arrow} - set(boxes)
    if unknown:
        found = f"arrows lead to {', '.join(sorted(map(str, unknown)))}, which is no box"
        raise error(ValueError, found, "draw a box of that name, or leave the arrow out")
    with style():
        drawing = Figure(figsize=size)
        # inches; the frame of a text is no part of it to the layout
        drawing.get_layout_engine().set(w_pad=0.09, h_pad=0.09)
        ax = drawing.add_subplot()
        ax.set_axis_off()
        ax.set(xlim=(0, 1), ylim=(0, 1))
        placed = {name: _place(ax, box) for name, box in boxes.items()}
        for start, end in arrows:
            _connect(ax, placed[start], placed[end])
    return drawing


def _place(ax: Axes, box: Box):
    colour = COLOURS["second"] if box.kind == "trained" else INK
    frame = {
        "boxstyle": "round,pad=0.45",
        "facecolor": "none",
        "edgecolor": "none" if box.kind == "text" else colour,
        "linestyle": DASHES if box.kind == "fixed" else "-",
        "linewidth": 1.4 if box.kind == "trained" else 0.9,
    }
    return ax.text(
        box.x,
        box.y,
        box.label,
        ha="center",
        va="center",
        color=colour,
        bbox=frame,
        linespacing=1.35,
    )


def _connect(ax: Axes, start, end) -> None:
    ax.annotate(
        "",
        end.get_position(),
        start.get_position(),
        arrowprops={
            "arrowstyle": "-|>",
            "color": INK,
            "linewidth": 0.9,
            "patchA": start.get_bbox_patch(),
            "patchB": end.get_bbox_patch(),
            "shrinkA": 1,
            "shrinkB": 1,
        },
    )
