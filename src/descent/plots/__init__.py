"""One way to draw, for every figure of the book.

A figure is a :class:`Picture`, a handful of :class:`Curve`. The measured loss is solid and a
theorem's bound is dashed; softmax attention and Gaussian attention keep the same two colours
on every page. The same ``Picture`` feeds the printed figures (:func:`figure`) and the ones
that a reader moves (:func:`descent.explore`).

>>> import numpy as np
>>> from descent.plots import Curve, Picture, figure
>>> t = np.arange(20)
>>> loss = Curve("loss", t, 0.8**t, kernel="softmax")
>>> picture = Picture([loss], "step $t$", "loss $f_t$", yscale="log")
>>> shown = figure(
...     picture, alt="The loss falls along a straight line.", caption="Loss $f_t$ of one run."
... )
>>> "<svg" in shown.html
True

A model is drawn with :func:`diagram`, boxes and arrows in the same style.
The first figure of a run is in :doc:`/song2024/values`.
"""

from descent.plots._diagram import Box, diagram
from descent.plots._draw import draw, style
from descent.plots._phase import phase
from descent.plots._picture import Curve, Picture
from descent.plots._svg import Figure, figure
from descent.plots._text import number

__all__ = [
    "Box",
    "Curve",
    "Figure",
    "Picture",
    "diagram",
    "draw",
    "figure",
    "number",
    "phase",
    "style",
]
