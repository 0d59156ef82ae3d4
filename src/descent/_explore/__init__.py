"""Figures that a reader moves: one call, two lives.

With a kernel (Jupyter, Binder, Colab) :func:`explore` shows ipywidgets, and each move of a
slider really calls ``run``. In the built book it runs the whole grid once and leaves a block of
HTML, JavaScript and SVG that answers at once, with no kernel and no network.

>>> import numpy as np
>>> from descent import explore
>>> from descent.plots import Curve, Picture
>>> def run(eta, steps):
...     t = np.arange(steps + 1)
...     return Picture([Curve("loss", t, (1 - eta) ** t)], "step $t$", "loss $f_t$", yscale="log")
>>> shown = explore(run, eta=[0.1, 0.2, 0.5], steps=[10, 20], start={"eta": 0.2},
...         alt="A straight line, steeper for a larger step size.", caption="Loss of one run.")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from ..plots import Picture
from ..plots._svg import require_words
from ._controls import controls_from

__all__ = ["explore"]


def explore(
    run: Callable[..., Picture],
    *,
    alt: str = "",
    caption: str = "",
    question: str = "",
    start: dict | None = None,
    labels: dict[str, str] | None = None,
    drag: dict[str, str] | None = None,
    **controls: Sequence[float] | Sequence[str],
):
    """Let the reader choose the arguments of ``run`` and see the picture that it returns.

    Parameters
    ----------
    run : called as ``run(name=value, ...)`` with one value of each control; returns a ``Picture``.
    alt : what one should see, for readers who don't; required.
    caption : what is plotted; may hold ``$...$``; required.
    question : what to look for; may hold ``$...$``. A picture that shows it has an ``answer``,
        which the reader is told on arriving there.
    start : the values shown first, ``{name: value}``; the first of the list where not given.
    labels : what to call a control on the page, ``{name: "embedding dimension $D$"}``.
    drag : controls whose value is a place in the picture, ``{name: "x"}`` or ``{name: "y"}``: in
        the built book the reader can take hold of it there, on that axis; or, of one control for
        each axis, of the point between the curves that the two are.
    **controls : the values of each argument: numbers become a slider, strings a menu.

    Returns
    -------
    An object that shows itself at the end of a cell.

    Raises
    ------
    ValueError : for a bad argument, naming it and what would do.
    RuntimeError : if ``run`` fails at a point of the grid, naming the point.

    See :doc:`/song2024/values` for one.
    """
    require_words(alt, caption)
    knobs = controls_from(controls, start or {}, labels or {}, drag or {})
    if os.environ.get("DESCENT_BOOK") == "1":
        from ._page import page

        return page(run, knobs, alt, caption, question)
    from ._live import live

    return live(run, knobs, alt, caption, question)
