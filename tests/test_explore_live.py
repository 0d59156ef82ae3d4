"""With a kernel, the same call gives widgets, and a move really runs: a kernel's comm drives it."""

import inspect
import re
import time

import ipywidgets
import numpy as np
import pytest
from jupyter_client.manager import start_new_kernel

from descent._explore import explore
from descent.plots import Curve, Picture, figure
from descent.plots._picture import describe

WORDS = {"alt": "A falling line.", "caption": "Loss $f_t$."}
GRID = {"eta": [1e-5, 0.1, 0.5], "kernel": ["softmax", "gaussian", "broken"]}
CELL = """explore(run, **WORDS, start={"eta": 0.1}, labels={"eta": r"step $\\eta$"}, **GRID)"""


def run(eta, kernel):
    if kernel == "broken":
        raise ArithmeticError("no such kernel")
    t = np.arange(51)
    return Picture([Curve("loss", t, (1 - eta) ** t, kernel=kernel)], "step $t$", "loss $f_t$")


# the kernel gets the very same functions, so that its pictures can be compared with fresh runs
SOURCE = f"""
import numpy as np
from descent._explore import explore
from descent.plots import Curve, Picture
WORDS = {WORDS}
GRID = {GRID}
{inspect.getsource(run)}
"""


# ---- in this process -----------------------------------------------------------------------------


def parts(box):
    row, picture, summary = box.children
    return row.children, picture, summary


@pytest.fixture
def box(monkeypatch):
    monkeypatch.delenv("DESCENT_BOOK", raising=False)
    return eval(CELL)


def test_numbers_become_a_slider_and_strings_a_menu(box):
    (eta, kernel), _, _ = parts(box)
    assert isinstance(eta, ipywidgets.SelectionSlider) and not eta.continuous_update
    assert isinstance(kernel, ipywidgets.Dropdown)
    assert (eta.value, kernel.value) == (0.1, "softmax")
    assert eta.description == "step η" and eta._options_labels[0] == "10⁻⁵"


def test_a_move_redraws_by_a_fresh_run(box):
    (eta, kernel), picture, summary = parts(box)
    eta.value, kernel.value = 0.5, "gaussian"
    fresh = run(0.5, "gaussian")
    assert picture.value == figure(fresh, **WORDS).html
    assert describe(fresh) in summary.value


def test_a_failing_run_says_so_in_one_line_and_the_next_move_recovers(box):
    (_, kernel), picture, summary = parts(box)
    kernel.value = "broken"
    told = re.fullmatch(r'<p role="alert"[^>]*>(.*)</p>', summary.value)[1]
    assert told.startswith(
        "run(eta=0.1, kernel='broken') failed: ArithmeticError: no such kernel: mend"
    )
    assert picture.value == ""
    kernel.value = "softmax"
    assert "<svg" in picture.value and "alert" not in summary.value


def test_a_slow_run_shows_that_it_is_working(monkeypatch):
    monkeypatch.delenv("DESCENT_BOOK", raising=False)
    seen = []

    def slow(D):
        if boxes:
            seen.append(parts(boxes[0])[2].value)
        return Picture([Curve("f", [0, 1], [0, D])], "t", "f")

    boxes = []
    boxes.append(explore(slow, **WORDS, D=[1, 2]))
    parts(boxes[0])[0][0].value = 2
    assert "Running" in seen[0] and "Running" not in parts(boxes[0])[2].value


def test_both_lives_start_alike(box, monkeypatch):
    monkeypatch.setenv("DESCENT_BOOK", "1")
    grid = {**GRID, "kernel": ["softmax", "gaussian"]}
    html = explore(run, **WORDS, start={"eta": 0.1}, **grid)._repr_html_()
    assert (
        describe(run(0.1, "softmax")) in html
        and describe(run(0.1, "softmax")) in parts(box)[2].value
    )


# ---- through a kernel ----------------------------------------------------------------------------


class Front:
    """A front end reduced to what a browser's widgets do: hold their state and send changes."""

    def __init__(self, client):
        self.client, self.models, self.shown = client, {}, []

    def execute(self, code):
        return self.until_idle(self.client.execute(code))

    def move(self, comm_id, **state):
        content = {"comm_id": comm_id, "data": {"method": "update", "state": state}}
        message = self.client.session.msg("comm_msg", content)
        self.client.shell_channel.send(message)
        return self.until_idle(message["header"]["msg_id"])

    def until_idle(self, msg_id, seconds=60):
        end = time.monotonic() + seconds
        errors = []
        while time.monotonic() < end:
            message = self.client.get_iopub_msg(timeout=seconds)
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind in ("comm_open", "comm_msg"):
                model = self.models.setdefault(content["comm_id"], {})
                model.update(content["data"].get("state", {}))
            elif kind == "execute_result":
                self.shown.append(content["data"])
            elif kind in ("error", "stream"):
                errors.append(content)
            elif kind == "status" and content["execution_state"] == "idle":
                return errors
        raise TimeoutError(f"the kernel was not done after {seconds} s")

    def of(self, model_name):
        return [key for key, model in self.models.items() if model.get("_model_name") == model_name]


@pytest.fixture(scope="module")
def client():
    manager, client = start_new_kernel(kernel_name="python3")
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_moving_the_slider_through_the_kernels_comm_redraws_the_figure(client):
    front = Front(client)
    assert front.execute(SOURCE + CELL) == []
    assert "application/vnd.jupyter.widget-view+json" in front.shown[0]
    (slider,) = front.of("SelectionSliderModel")
    (menu,) = front.of("DropdownModel")
    picture, summary = front.of("HTMLModel")
    assert front.models[picture]["value"] == figure(run(0.1, "softmax"), **WORDS).html

    assert front.move(slider, index=2) == []
    assert front.models[picture]["value"] == figure(run(0.5, "softmax"), **WORDS).html
    assert describe(run(0.5, "softmax")) in front.models[summary]["value"]

    assert front.move(slider, index=0.9999999999) == [], "as old front ends put it"
    assert front.models[picture]["value"] == figure(run(0.1, "softmax"), **WORDS).html
    assert front.move(slider, index=2) == []

    assert front.move(menu, index=1) == []
    assert front.models[picture]["value"] == figure(run(0.5, "gaussian"), **WORDS).html


def test_a_question_stands_above_the_controls():
    box = explore(run, question="Which $\\eta$?", eta=[0.1], kernel=["softmax"], **WORDS)
    assert "Which <math" in box.children[0].value
    assert len(box.children) == 4


def test_a_deaf_slider_would_be_noticed(client):
    front = Front(client)
    deaf = "box = " + CELL + "\nbox.children[0].children[0].unobserve_all()\nbox"
    assert front.execute(SOURCE + deaf) == []
    picture = front.of("HTMLModel")[0]
    before = front.models[picture]["value"]
    front.move(front.of("SelectionSliderModel")[0], index=2)
    assert front.models[picture]["value"] == before
