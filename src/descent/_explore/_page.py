"""The explorer of the built book: one block of HTML that needs nothing else."""

from __future__ import annotations

import gzip
import hashlib
import html
import json
from importlib import resources

from .._errors import error
from ..plots import Picture, draw
from ..plots._picture import describe
from ..plots._svg import Figure, css, svg
from ..plots._text import formulas, markup, plain
from ._controls import Control
from ._grid import grid_data, pictures, thinned, written

BUDGET = 100_000  # bytes after gzip, what a reader on a train is asked to load


def page(run, controls: list[Control], alt: str, caption: str, question: str = "") -> Figure:
    """Run the whole grid and write it into one block of HTML."""
    drawn = pictures(run, controls)
    _check_answers(question, drawn, _first(drawn, controls))
    data = {"alt": alt, "counts": [len(c.values) for c in controls], **grid_data(drawn, controls)}
    text = written(data)
    key = "descent-" + hashlib.sha256((text + caption).encode()).hexdigest()[:8]
    first = _first(drawn, controls)
    small = thinned(first, data["x"]["limits"], data["y"]["limits"])
    words = (alt, caption, describe(first), question)
    time = plain(first.xlabel).startswith(("step", "time"))
    block = _block(key, controls, text, svg(draw(small).figure, alt), time, *words)
    size = len(gzip.compress(block.encode()))
    if size > BUDGET:
        raise error(
            ValueError,
            f"the grid has {len(drawn)} pictures and takes {size} bytes compressed, "
            f"more than the {BUDGET} of a figure",
            "give the controls fewer values",
        )
    return Figure(block, alt)


def _check_answers(question: str, drawn: list[Picture], first: Picture) -> None:
    """A question has an answer among the pictures that is not there from the start, and else none."""
    answers = [picture for picture in drawn if picture.answer]
    if question and not answers:
        raise error(
            ValueError, "no picture answers the question", "give one an answer, or leave it out"
        )
    if question and first.answer:
        found = "the first picture answers the question"
        raise error(ValueError, found, "start elsewhere")
    if answers and not question:
        raise error(ValueError, "pictures have answers and no question is asked", "give question")


def _block(key, controls: list[Control], data, still, time, alt, caption, summary, question) -> str:
    knobs = "\n".join(_knob(control, f"{key}-{control.name}") for control in controls)
    data = data.replace("<", "\\u003c")  # a "</script>" inside a string would end the script
    return f"""\
<section class="descent-explorer" id="{key}" role="group" aria-label="{html.escape(alt)}">
<style>{css()}{_asset("explorer.css")}</style>
<div class="descent-card">
{_question(question)}<div class="descent-plot">{still}</div>
<div class="descent-controls" style="--d-columns: {_columns(len(controls))}" hidden>
{knobs}
</div>
<p class="descent-summary">{html.escape(summary, quote=False)}</p>
<p class="descent-spoken" aria-live="polite"></p>
<p class="descent-buttons" hidden>{_buttons(time)}</p>
</div>
<p class="descent-caption">{formulas(caption)}</p>
<script type="application/json">{data}</script>
<script>{_asset("explorer.js")}</script>
</section>"""


def _question(words: str) -> str:
    return f'<p class="descent-question">{formulas(words)}</p>\n' if words else ""


def _buttons(time: bool) -> str:
    """Back to the first picture; and where the axis is time, the picture as it comes about."""
    play = '<button type="button" data-does="play">Play</button>' if time else ""
    return f'{play}<button type="button" data-does="reset">Reset</button>'


def _columns(count: int) -> int:
    """Four controls stand two by two."""
    return 2 if count == 4 else min(count, 3)


def _knob(control: Control, key: str) -> str:
    label = f'<label for="{key}">{markup(control.label)}</label>'
    inside = _slider(control, key) if control.numeric else _menu(control, key)
    drag = f' data-drag="{control.drag}"' if control.drag else ""
    return f'<div class="descent-control" data-name="{control.name}"{drag}>{label}{inside}</div>'


def _menu(control: Control, key: str) -> str:
    options = [
        f"<option{' selected' * (k == control.start)}>{html.escape(text)}</option>"
        for k, text in enumerate(control.texts)
    ]
    return f'<select id="{key}" autocomplete="off">{"".join(options)}</select>'


def _slider(control: Control, key: str) -> str:
    """A range over the list's places; its texts stand beside it.

    They are read out as the range's own. An output would be read a second time, and those of all
    ranges at each change of one.
    """
    texts, last = control.texts, len(control.texts) - 1
    return (
        f'<output for="{key}" aria-hidden="true">{texts[control.start]}</output>'
        f'<input type="range" id="{key}" min="0" max="{last}" step="1" value="{control.start}"'
        f' autocomplete="off" aria-valuetext="{texts[control.start]}"'
        f' data-texts="{html.escape(json.dumps(texts))}"'
        f" data-values='{json.dumps(control.values)}'>"
        '<span class="descent-ends" aria-hidden="true">'
        f"<span>{texts[0]}</span><span>{texts[-1]}</span></span>"
    )


def _first(drawn: list[Picture], controls: list[Control]) -> Picture:
    place = 0
    for control in controls:
        place = place * len(control.values) + control.start
    return drawn[place]


def _asset(name: str) -> str:
    return resources.files("descent._explore").joinpath(name).read_text(encoding="utf-8")
