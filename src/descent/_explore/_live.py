"""The explorer of a live notebook: ipywidgets, and a real run at each move."""

from __future__ import annotations

import html

import ipywidgets
import traitlets

from ..plots import figure
from ..plots._picture import describe
from ..plots._text import formulas, plain
from ._controls import Control, call


def live(
    run, controls: list[Control], alt: str, caption: str, question: str = ""
) -> ipywidgets.VBox:
    """Controls above a picture that is redrawn by calling ``run``.

    The first run raises what goes wrong, so that a broken notebook fails; later ones say it in
    place of the picture, since the reader may well move on to a point that works.
    """
    knobs = [_knob(control) for control in controls]
    picture, summary = ipywidgets.HTML(), ipywidgets.HTML()

    def values() -> dict:
        return {control.name: knob.value for control, knob in zip(controls, knobs, strict=True)}

    def show() -> None:
        drawn = call(run, values())
        picture.value = figure(drawn, alt=alt, caption=caption).html
        summary.value = _note("status", describe(drawn))

    def moved(_) -> None:
        summary.value = _note("status", "Running …")
        try:
            show()
        except Exception as failure:
            picture.value = ""
            summary.value = _note("alert", str(failure))

    show()
    for knob in knobs:
        knob.observe(moved, names="value")
    row = ipywidgets.HBox(knobs, layout=ipywidgets.Layout(flex_flow="row wrap"))
    asked = [ipywidgets.HTML(f"<p>{formulas(question)}</p>")] if question else []
    shown = [*asked, row, picture, summary]
    return ipywidgets.VBox(shown, layout=ipywidgets.Layout(max_width="46rem"))


class _Index(traitlets.Int):
    """A place in a list, of which some front ends say that it is 6.000000000000001."""

    def validate(self, obj, value):
        return super().validate(obj, round(value) if isinstance(value, float) else value)


class _Slider(ipywidgets.SelectionSlider):
    index = _Index(None, allow_none=True).tag(sync=True)


def _knob(control: Control):
    shared = {
        "options": list(zip(control.texts, control.values, strict=True)),
        "index": control.start,
        "description": plain(control.label),
        "style": {"description_width": "initial"},
        "layout": ipywidgets.Layout(width="22rem", max_width="98%"),
    }
    if control.numeric:
        return _Slider(continuous_update=False, **shared)
    return ipywidgets.Dropdown(**shared)


def _note(role: str, text: str) -> str:
    return f'<p role="{role}" style="line-height: 1.45">{html.escape(text, quote=False)}</p>'
