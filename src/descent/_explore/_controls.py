"""The controls of an explorer, checked, and the one way to call ``run`` with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .._errors import error
from ..plots import Picture, number
from ..plots._text import markup, plain


@dataclass(frozen=True)
class Control:
    """One argument of ``run``: its values and the index of the one shown first."""

    name: str
    label: str
    values: tuple
    start: int
    drag: str = ""  # the axis of the picture, x or y, along which its value can be dragged

    @property
    def numeric(self) -> bool:
        """A slider if true, a menu otherwise."""
        return not isinstance(self.values[0], str)

    @property
    def texts(self) -> list[str]:
        """The values as the reader sees them."""
        return [number(v) if self.numeric else v for v in self.values]


def controls_from(
    controls: Mapping, start: Mapping, labels: Mapping, drag: Mapping
) -> list[Control]:
    """Check what the author wrote and return the controls in that order."""
    if not controls:
        raise error(
            ValueError, "explore has no control", "give a list of values by name, as D=[8, 16, 32]"
        )
    for what, given in (("start", start), ("labels", labels), ("drag", drag)):
        if unknown := [name for name in given if name not in controls]:
            choices = ", ".join(controls)
            raise error(
                ValueError,
                f"{what} names {unknown[0]!r}, which is no control",
                f"give one of {choices}",
            )
    return [
        _control(name, controls[name], start, labels.get(name, name), drag.get(name, ""))
        for name in controls
    ]


def _control(name: str, values, start: Mapping, label: str, drag: str) -> Control:
    values = () if isinstance(values, str) else tuple(values)
    if not values:
        raise error(
            ValueError, f"{name} has no values", "give a list of at least one number or string"
        )
    strings = [isinstance(v, str) for v in values]
    if any(strings) != all(strings):
        raise error(ValueError, f"{name} mixes numbers and strings", "give a list of one kind")
    if not all(strings):
        values = tuple(_number(name, v) for v in values)
    if len(set(values)) < len(values):
        raise error(ValueError, f"{name} repeats a value", f"give each of {list(values)} once")
    first = start.get(name, values[0])
    if first not in values:
        raise error(
            ValueError,
            f"start[{name!r}] is {first!r}, not in its list",
            f"give one of {list(values)}",
        )
    markup(label)  # raises for a formula that the page can't show
    if drag not in ("", "x", "y") or (drag and any(strings)):
        raise error(
            ValueError,
            f"drag[{name!r}] is {drag!r}",
            "give 'x' or 'y' for a control of numbers",
        )
    return Control(name, label, values, values.index(first), drag)


def _number(name: str, value):
    """A plain int or float, so that ``run`` gets the same type in both lives."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise error(ValueError, f"{name} holds {value!r}", "give finite numbers or strings")
    return value


def call(run: Callable[..., Picture], values: Mapping) -> Picture:
    """``run(**values)``; what goes wrong is told in one line that names the values."""
    point = ", ".join(f"{name}={value!r}" for name, value in values.items())
    try:
        picture = run(**values)
    except Exception as failure:
        reason = " ".join(str(failure).split())
        raise error(
            RuntimeError,
            f"run({point}) failed: {type(failure).__name__}: {reason}",
            "mend run, or leave that value out",
        ) from failure
    if not isinstance(picture, Picture):
        kind = type(picture).__name__
        raise error(ValueError, f"run({point}) returned a {kind}", "return a descent.plots.Picture")
    for label in (
        picture.xlabel,
        picture.ylabel,
        *(c.label for c in picture.curves),
        *picture.maps,
    ):
        plain(label)
    return picture
