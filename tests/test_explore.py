"""The explorer of the built book, in a real browser with the network cut, against fresh runs."""

import contextlib
import gzip
import json
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from descent._explore import _page, explore
from descent._explore._grid import POINTS, TOLERANCE, _data, grid_data, thin
from descent.plots import Curve, Picture
from descent.plots._picture import describe

WORDS = {"alt": "A line that falls faster for a larger step.", "caption": "Loss $f_t$."}
GRID = {"eta": [1e-5, 0.1, 0.5], "kernel": ["softmax", "gaussian"], "steps": [50, 100, 200]}
START = {"eta": 0.1, "kernel": "softmax", "steps": 100}
LABELS = {"eta": r"step size $\eta$", "steps": "steps $T$"}


def run(eta, kernel, steps):
    """A toy: gradient descent on a parabola, twice as steep for the Gaussian kernel."""
    t = np.arange(steps + 1)
    rate = 1 - eta * (0.2 if kernel == "gaussian" else 0.1)
    curves = [
        Curve("measured", t, rate ** (2 * t), kernel=kernel),
        Curve("bound $(1 - \\eta)^t$", t, 1.5 * rate**t, "bound", kernel),
    ]
    return Picture(curves, "step $t$", "loss $f_t$", yscale="log")


@pytest.fixture
def in_book(monkeypatch):
    monkeypatch.setenv("DESCENT_BOOK", "1")


@pytest.fixture
def block(in_book):
    return explore(run, **WORDS, start=START, labels=LABELS, **GRID)._repr_html_()


# ---- the data ----------------------------------------------------------------------------------


def test_the_page_holds_every_point_of_the_grid_to_a_fraction_of_a_pixel(block):
    data = data_of(block)
    points = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    assert len(data["pictures"]) == len(points) == 18
    for point, stored in zip(points, data["pictures"], strict=True):
        fresh = run(**point)
        assert stored["summary"] == describe(fresh)
        for (_, k, y), curve in zip(stored["curves"], fresh.curves, strict=True):
            exact = curve.y[np.searchsorted(curve.x, data["xs"][k])]
            low, high = np.log(data["y"]["limits"])
            assert (np.abs(np.log(y) - np.log(exact)) <= TOLERANCE / 2 * (high - low)).all()


@pytest.mark.parametrize("span", [1e-3, 1.0, 1e9])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_what_is_stored_cannot_be_told_from_the_curve(scale, span):
    share = np.random.default_rng(0).random(60)
    y = 7 + span * share if scale == "linear" else 7 * (1 + span) ** share
    axis = np.log if scale == "log" else np.asarray
    data = grid_data([Picture([Curve("f", range(60), y)], "t", "f", yscale=scale)])
    low, high = axis(data["y"]["limits"])
    stored = data["pictures"][0]["curves"][0][2]
    strays = np.abs(axis(stored) - axis(y)) / (high - low)
    assert 0 < strays.max() <= TOLERANCE / 2


def test_thinning_keeps_the_ends_and_the_shape():
    t = np.arange(8001)
    fall = np.stack([np.exp(-t / 40), 0.3 + 0.1 * np.sin(t / 900)])
    keep = thin(t / 8000, fall)
    assert keep[0] == 0 and keep[-1] == 8000 and len(keep) <= POINTS
    for curve in fall:
        assert np.abs(np.interp(t, keep, curve[keep]) - curve).max() <= 0.002


def test_a_straight_line_needs_two_points():
    t = np.linspace(0, 1, 5001)
    assert thin(t, t[None]).tolist() == [0, 5000]


def test_thinning_keeps_every_edge_of_a_gap():
    heights = np.linspace(0, 1, 1000)
    heights[400:500] = np.nan
    keep = thin(np.linspace(0, 1, 1000), heights[None])
    assert {399, 400, 499, 500} <= set(keep.tolist())


def test_thinning_keeps_where_a_path_turns_back():
    there_and_back = np.array([0, 0.3, 0.6, 0.9, 0.8, 0.7, 0.65])
    assert thin(there_and_back, np.full((1, 7), 0.5)).tolist() == [0, 3, 6]


def test_thinning_keeps_where_a_curve_leaves_the_frame():
    y = [*np.arange(11) / 10, 1e6]  # and not the straight line to 1.1 that is drawn of it
    data = grid_data([Picture([Curve("f", range(12), y)], "t", "f", ylim=(0, 1))])
    assert data["xs"] == [(0, 10, 11)]


def test_a_list_of_x_is_thinned_or_shared_whichever_is_shorter():
    t = np.arange(60.0)
    lines = [Picture([Curve("f", t + k, t)], "t", "f") for k in range(9)]
    assert {len(x) for x in grid_data(lines)["xs"]} == {2}
    bends = [Picture([Curve("f", t, np.minimum(t, k))], "t", "f") for k in range(9, 50)]
    assert len(grid_data(bends)["xs"]) > 1  # three points each
    noise = np.random.default_rng(0).normal(size=(9, 60)).cumsum(1)
    data = grid_data([Picture([Curve("f", t, y)], "t", "f") for y in np.round(noise)])
    assert len(data["xs"]) == 1


def test_a_curve_is_level_where_nobody_sees_it():
    y = np.array([1e-9, 1e-8, 0.1, 5.0, 0.2, 1e-4, 1e-5, 1e-6, 0.3, np.nan, 1e-7])
    curves = [Curve("a run", np.arange(len(y)), y)]
    picture = Picture(curves, "t", "f", yscale="log", ylim=(1e-2, 1.0))
    data = _data([picture], [0, 10], [1e-2, 1.0], few=POINTS)
    ((_, _, stored),) = data["pictures"][0]["curves"]
    # the ends of a way outside stay, or the line from the last point inside would lean otherwise
    assert stored == [1e-9, 1e-8, 0.1, 5, 0.2, 1e-4, 1e-9, 1e-6, 0.3, None, 1e-7]


def test_curves_that_share_x_store_it_once():
    t = np.arange(50)
    noise = np.random.default_rng(0).random((2, 50))
    data = grid_data([Picture([Curve("a", t, a), Curve("b", t, 2 * a)], "t", "f") for a in noise])
    assert len(data["xs"]) == 1 and len(data["lines"]) == 2


def test_all_pictures_share_their_axes_so_that_the_eye_can_compare():
    low, high = (Picture([Curve("f", [0, t], [1, y])], "t", "f") for t, y in ((5, 3), (9, -1)))
    data = grid_data([low, high])
    assert data["x"]["limits"] == [0, 9]
    assert data["y"]["limits"][0] < -1 and data["y"]["limits"][1] > 3
    framed = Picture([Curve("f", [1, 2], [1, 1e200])], "t", "f", yscale="log", ylim=(0.1, 10))
    assert grid_data([framed])["y"]["limits"] == [0.1, 10]


def test_a_gap_is_null_and_is_told(in_book):
    def diverges(eta):
        with np.errstate(over="ignore"):
            y = np.array([1.0, 10.0, np.inf, np.nan]) if eta > 1 else np.array([4.0, 3, 2, 1])
        return Picture([Curve("loss", range(4), y)], "t", "f")

    data = data_of(explore(diverges, **WORDS, eta=[1, 3])._repr_html_())
    assert data["pictures"][1]["curves"][0][2] == [1, 10, None, None]
    assert "values from 2 on that are not finite are left out." in data["pictures"][1]["summary"]


def test_the_largest_grid_of_the_book_stays_within_its_budget(in_book):
    """150 points, two curves, 80 values each, of the worst kind: no two digits alike."""

    def noise(a, b):
        y = np.random.default_rng([a, b]).random((2, POINTS)) ** 9
        t = np.arange(POINTS)
        curves = [Curve("measured", t, y[0], kernel="softmax"), Curve("bound", t, y[1], "bound")]
        return Picture(curves, "step $t$", "loss", yscale="log")

    html = explore(noise, **WORDS, a=list(range(15)), b=list(range(10)))._repr_html_()
    assert len(gzip.compress(html.encode())) <= _page.BUDGET == 100_000


def test_a_grid_too_large_for_a_train_is_refused(in_book, monkeypatch):
    monkeypatch.setattr(_page, "BUDGET", 1000)
    with pytest.raises(ValueError, match="18 pictures and takes .* give the controls fewer values"):
        explore(run, **WORDS, **GRID)


def test_no_string_can_end_the_script(in_book):
    def sly(word):
        return Picture([Curve("f", [0, 1], [0, 1])], "</script><b>", "f", summary="</script> & <i>")

    html = explore(sly, **WORDS, word=["</option>", "&"])._repr_html_()
    assert html.count("</script>") == 2
    assert data_of(html)["x"]["label"][0][0] == "</script><b>"
    assert "&lt;/option&gt;</option>" in html


def test_the_same_call_gives_the_same_bytes(block):
    assert explore(run, **WORDS, start=START, labels=LABELS, **GRID)._repr_html_() == block
    assert repr(explore(run, **WORDS, **GRID)) == WORDS["alt"]


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("life", ["1", "0"])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"alt": ""}, "alt is missing: say in a sentence what one should see"),
        ({"caption": ""}, "caption is missing: say"),
        ({"eta": []}, "eta has no values: give a list of at least one"),
        ({"kernel": "softmax"}, "kernel has no values: give a list"),
        ({"eta": [1, "two"]}, "eta mixes numbers and strings: give a list of one kind"),
        ({"eta": [1, float("nan")]}, "eta holds nan: give finite numbers or strings"),
        ({"eta": [1, True]}, "eta holds True: give finite numbers"),
        ({"eta": [1, 2, 1]}, "eta repeats a value"),
        ({"start": {"D": 3}}, "start names 'D', which is no control: give one of eta, kernel"),
        ({"labels": {"D": "d"}}, "labels names 'D', which is no control"),
        ({"labels": {"eta": r"$\oint$"}}, r"uses \\oint"),
        ({"drag": {"D": "x"}}, "drag names 'D', which is no control"),
        ({"drag": {"eta": "z"}}, r"drag\['eta'\] is 'z': give 'x' or 'y' for a control of numbers"),
        (
            {"drag": {"kernel": "x"}},
            r"drag\['kernel'\] is 'x': give 'x' or 'y' for a control of num",
        ),
        ({"start": {"eta": 7}}, r"start\['eta'\] is 7, not in its list: give one of \[1e-05, 0.1"),
    ],
)
def test_bad_arguments_are_refused_in_one_line_in_both_lives(monkeypatch, life, change, message):
    monkeypatch.setenv("DESCENT_BOOK", life)
    arguments = {**WORDS, "start": START, "labels": LABELS, **GRID, **change}
    with pytest.raises(ValueError, match=message) as error:
        explore(run, **arguments)
    assert "\n" not in str(error.value)


def test_an_explorer_without_controls_is_refused():
    with pytest.raises(ValueError, match="explore has no control: give a list of values by name"):
        explore(run, **WORDS)


@pytest.mark.parametrize("life", ["1", "0"])
def test_what_goes_wrong_in_run_names_the_grid_point(monkeypatch, life):
    monkeypatch.setenv("DESCENT_BOOK", life)

    def breaks(D, kernel):
        raise ZeroDivisionError("no\nwidth")

    with pytest.raises(RuntimeError) as error:
        explore(breaks, **WORDS, D=[3], kernel=["softmax"])
    assert str(error.value) == (
        "run(D=3, kernel='softmax') failed: ZeroDivisionError: no width: "
        "mend run, or leave that value out"
    )
    with pytest.raises(ValueError, match=r"run\(D=3\) returned a float: return a .*Picture"):
        explore(lambda D: 1.0, **WORDS, D=[3])


def test_pictures_with_other_axes_are_refused(in_book):
    def drifts(D):
        return Picture([Curve("f", [1], [1])], f"step for D = {D}", "f")

    with pytest.raises(
        ValueError, match=r"\{'D': 2\} has other axis labels.* keep one pair of axes"
    ):
        explore(drifts, **WORDS, D=[1, 2])


# ---- in the browser ------------------------------------------------------------------------------


@pytest.fixture
def open_page(browser):
    """Open HTML as a page with the network cut; at the end nothing may have gone wrong in it."""
    with contextlib.ExitStack() as stack:
        trouble = []

        def opened(body, theme="", **options):
            context = stack.enter_context(contextlib.closing(browser.new_context(**options)))
            page = context.new_page()
            page.on("request", lambda request: trouble.append(request.url))
            page.on("pageerror", lambda error: trouble.append(str(error)))
            page.on("console", lambda message: trouble.append(message.text))
            context.set_offline(True)
            head = '<meta name="viewport" content="width=device-width">'
            page.set_content(f"<!doctype html><html {theme}><head>{head}</head><body>{body}</body>")
            return page

        yield opened
        assert not trouble


def data_of(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])


def drawn(section):
    """What the reader sees: the plotted paths, the summary, and the values of the controls."""
    return {
        "paths": section.locator("path.curve").evaluate_all("all => all.map(p => p.outerHTML)"),
        "summary": section.locator(".descent-summary").inner_text(),
        "values": section.locator(".descent-control").evaluate_all(
            "all => all.map(c => (c.querySelector('output') ?? c.querySelector('select')).value)"
        ),
    }


def plotted(section):
    """The plotted curves in the units of the axes, read off the drawing: [(x, y), ...]."""
    frame = section.locator(".descent-plot svg").get_attribute("data-frame")
    left, top, right, bottom = map(float, frame.split())
    data = json.loads(section.locator('script[type="application/json"]').text_content())
    curves = []
    for d in section.locator("path.curve").evaluate_all("all => all.map(p => p.getAttribute('d'))"):
        at = np.array(re.findall(r"[ML]([\d.-]+) ([\d.-]+)", d), dtype=float)
        x = axis_value(data["x"], (at[:, 0] - left) / (right - left))
        curves.append((x, axis_value(data["y"], (bottom - at[:, 1]) / (bottom - top))))
    return curves


def axis_value(axis, fraction):
    low, high = np.log(axis["limits"]) if axis["scale"] == "log" else axis["limits"]
    value = low + fraction * (high - low)
    return np.exp(value) if axis["scale"] == "log" else value


def assert_shows(section, picture):
    """The section shows this picture: its words, and its curves to a fiftieth of a pixel."""
    assert section.locator(".descent-summary").inner_text() == describe(picture)
    for (x, y), curve in zip(plotted(section), picture.curves, strict=True):
        assert x[-1] == pytest.approx(curve.x[-1], rel=1e-3)
        fresh = np.interp(x, curve.x, np.log(curve.y))
        # an axis of about six decades is 200 pixels high or more: 0.02 pixels are 2e-3 in log
        assert np.abs(np.log(y) - fresh).max() < 4e-3


def assert_alive(section):
    """Every control, moved one down by keyboard, changes picture, summary and shown value."""
    knobs = section.locator(".descent-control :is(input, select)")
    assert knobs.count() > 0
    for knob in knobs.all():
        assert knob.is_visible(), "a control is hidden"
        before = drawn(section)
        slider = knob.evaluate("k => k.type === 'range'")
        knob.press("ArrowLeft" if slider else "ArrowDown")
        after = drawn(section)
        assert all(before[key] != after[key] for key in before), "a control is dead"


def test_the_first_picture_is_that_of_start(open_page, block):
    section = open_page(block).locator("section.descent-explorer")
    assert drawn(section)["values"] == ["0.1", "softmax", "100"]
    assert_shows(section, run(**START))


def test_every_control_moves_the_picture_by_keyboard(open_page, block):
    page = open_page(block)
    section = page.locator("section.descent-explorer")
    assert_alive(section)
    assert drawn(section)["values"] == ["10⁻⁵", "gaussian", "50"]
    assert_shows(section, run(1e-5, "gaussian", 50))
    page.get_by_label("step size").press("End")
    page.get_by_label("steps").press("End")
    assert_shows(section, run(0.5, "gaussian", 200))


def test_a_slider_moves_by_mouse_drag(open_page, block):
    page = open_page(block)
    slider = page.get_by_label("step size")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert_shows(page.locator("section.descent-explorer"), run(0.5, "softmax", 100))


def test_a_phone_shows_it_whole_and_a_tap_moves_it(open_page, block):
    page = open_page(block, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    section = page.locator("section.descent-explorer")
    for knob in section.locator(".descent-control :is(input, select)").all():
        box = knob.bounding_box()
        assert box["height"] >= 44 and box["width"] >= 44
    box = page.get_by_label("steps").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] - 6, box["y"] + 8)
    assert_shows(section, run(0.1, "softmax", 200))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    edges = section.locator(".descent-plot text, .descent-plot path").evaluate_all(
        "all => all.map(e => e.getBoundingClientRect()).flatMap(r => [r.left, r.right])"
    )
    assert min(edges) >= 0 and max(edges) <= 390


def test_a_menu_changes_the_colour_of_the_curves(open_page, block):
    page = open_page(block)
    section = page.locator("section.descent-explorer")
    stroke = "p => getComputedStyle(p).stroke"
    before = section.locator("path.curve").first.evaluate(stroke)
    page.get_by_label("kernel").select_option("gaussian")
    assert section.locator("path.curve").first.evaluate(stroke) != before
    assert_shows(section, run(0.1, "gaussian", 100))


def test_bounds_are_dashed_and_measurements_solid(open_page, block):
    section = open_page(block).locator("section.descent-explorer")
    dashes = section.locator("path.curve").evaluate_all(
        "all => all.map(p => getComputedStyle(p).strokeDasharray)"
    )
    assert dashes[0] == "none" and dashes[1] != "none"


def test_axes_are_labelled_as_in_the_text(open_page, block):
    section = open_page(block).locator("section.descent-explorer")
    texts = section.locator(".descent-plot text").all_text_contents()
    assert {"step t", "loss ft", "measured", "1", "10−4"} <= set(texts)
    assert section.locator("label").all_inner_texts() == ["step size η", "kernel", "steps T"]
    assert section.locator(".descent-plot svg").get_attribute("aria-label") == WORDS["alt"]


def test_two_explorers_on_a_page_do_not_disturb_each_other(open_page, block, in_book):
    words = {**WORDS, "caption": "Another."}
    other = explore(run, **words, start=START, **GRID)._repr_html_()
    page = open_page(block + other)
    first, second = page.locator("section.descent-explorer").all()
    still = drawn(second)
    assert_alive(first)
    assert drawn(second) == still
    still = drawn(first)
    assert_alive(second)
    assert drawn(first) == still
    ids = page.locator("[id]").evaluate_all("all => all.map(e => e.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "theme, options, dark",
    [
        ('data-theme="light"', {}, False),
        ('data-theme="dark"', {}, True),
        ("", {"color_scheme": "dark"}, True),
        ('data-theme="light"', {"color_scheme": "dark"}, False),
    ],
)
def test_ink_can_be_read_in_light_and_in_dark(open_page, block, theme, options, dark):
    page = open_page(block, theme, **options)
    page.get_by_label("kernel").focus()
    grounds, inks = page.locator("section.descent-explorer").evaluate(
        """section => {
          const css = (query, name) => getComputedStyle(section.querySelector(query))[name];
          const grounds = ["card", "controls"].map(c => css(`.descent-${c}`, "backgroundColor"));
          return [grounds, [
            [0, css(".tick", "fill")], [0, css(".name", "fill")], [0, css("path.curve", "stroke")],
            [0, css(".descent-summary", "color")], [1, css("label", "color")],
            [1, css(".descent-ends", "color")], [1, css("output", "color")],
          ]];
        }"""
    )
    assert (luminance(grounds[0]) < 0.1) == dark
    for ground, ink in inks:
        assert contrast(grounds[ground], ink) >= 4.5


def luminance(colour):
    channels = np.array(re.findall(r"[\d.]+", colour)[:3], dtype=float) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_without_javascript_the_first_picture_stands_and_no_dead_control(open_page, block):
    page = open_page(block, java_script_enabled=False)
    assert page.locator(".descent-plot svg[role=img]").is_visible()
    assert not page.get_by_label("step size").is_visible()
    assert page.locator(".descent-summary").inner_text() == describe(run(**START))


def test_a_folded_explorer_draws_itself_when_it_is_opened(open_page, block):
    page = open_page(f"<details><summary>more</summary>{block}</details>")
    page.get_by_text("more").click()
    section = page.locator("section.descent-explorer")
    section.locator("path.curve").first.wait_for()
    assert_shows(section, run(**START))


def test_one_place_alone_tells_what_changed(open_page, block):
    """To a screen reader, which hears an output as well as what is marked as live."""
    page = open_page(block)
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    live = {"name": "live", "value": {"type": "token", "value": "polite"}}
    told = [node["role"]["value"] for node in nodes if live in node.get("properties", [])]
    assert told == ["paragraph"]
    assert page.get_by_label("step size").get_attribute("aria-valuetext") == "0.1"


def test_what_changed_is_told_once_when_the_hand_rests(open_page, block):
    page = open_page(block)
    told = page.locator("[aria-live]")
    assert told.inner_text() == ""
    page.evaluate("window.told = 0")
    page.evaluate(
        "new MutationObserver(() => window.told++)"
        ".observe(document.querySelector('[aria-live]'), {childList: true})"
    )
    for _ in range(2):
        page.get_by_label("step size").press("ArrowLeft")
    page.wait_for_function("window.told > 0")
    assert told.inner_text() == describe(run(1e-5, "softmax", 100))
    assert page.evaluate("window.told") == 1


def asked(at):
    """Which step is the largest? The picture of ``at`` answers."""

    def ask(eta):
        picture = run(eta, "softmax", 50)
        return replace(picture, answer="No step here is larger." if eta == at else "")

    return ask


def test_a_reader_who_finds_what_was_asked_is_told(open_page, in_book):
    made = explore(asked(0.5), eta=[1e-5, 0.1, 0.5], question="Which $\\eta$ is largest?", **WORDS)
    page = open_page(made._repr_html_())
    assert page.locator(".descent-question").inner_text().startswith("Which")
    summary, slider = page.locator(".descent-summary"), page.get_by_role("slider")
    for words, answered in (("", False), ("", False), (" ✓ No step here is larger.", True)):
        assert summary.inner_text().endswith(words) and ("✓" in summary.inner_text()) == answered
        assert summary.evaluate("e => e.classList.contains('answered')") == answered
        slider.press("ArrowRight")


@pytest.mark.parametrize(
    ("at", "question", "message"),
    [
        (None, "Which?", "no picture answers the question"),
        (1e-5, "Which?", "the first picture answers the question: start elsewhere"),
        (0.5, "", "pictures have answers and no question is asked"),
    ],
)
def test_a_question_has_an_answer_that_is_not_there_from_the_start(in_book, at, question, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        explore(asked(at), eta=[1e-5, 0.1, 0.5], question=question, **WORDS)


def test_reset_brings_the_first_picture_back(open_page, block):
    page = open_page(block)
    section = page.locator("section.descent-explorer")
    first = drawn(section)
    assert_alive(section)
    page.get_by_role("button", name="Reset").click()
    assert drawn(section) == first


def test_play_draws_the_curves_from_left_to_right_where_the_axis_is_time(open_page, block, in_book):
    page = open_page(block)
    width = "() => Number(document.querySelector('clipPath rect').getAttribute('width'))"
    whole = page.evaluate(width)
    # A frame is told when it began, which may be before the click.
    early = "requestAnimationFrame = (draw) => raf((begun) => draw(begun - 50))"
    page.evaluate(f"() => {{ const raf = requestAnimationFrame; {early}; }}")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(f"({width})() < {whole} / 2")
    page.wait_for_function(f"({width})() === {whole}")
    still = explore(lambda a: Picture([Curve("f", [0, a], [0, 1])], "x", "f"), **WORDS, a=[1, 2])
    assert "Play" not in still._repr_html_()


def test_a_mark_in_the_picture_can_be_dragged(open_page, in_book):
    def bump(centre):
        x = np.linspace(-2, 2, 81)
        return Picture([Curve("bump", x, np.exp(-((x - centre) ** 2)))], "place $x$", "height")

    places = [-1.0, 0.0, 1.0]
    block = explore(bump, **WORDS, centre=places, start={"centre": 0.0}, drag={"centre": "x"})
    page = open_page(block._repr_html_())
    box = page.locator(".grip").bounding_box()
    frame = page.locator(".descent-plot svg").get_attribute("data-frame")
    unit = (float(frame.split()[2]) - float(frame.split()[0])) / 4
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 0.9 * unit, box["y"], steps=4)
    page.mouse.up()
    section = page.locator("section.descent-explorer")
    assert drawn(section)["values"] == ["1"]
    assert drawn(section)["summary"] == describe(bump(1.0))
    page.mouse.move(box["x"], box["y"])
    assert drawn(section)["values"] == ["1"], "let go"


def planar(along, across):
    """A path from a point of the plane, and the shares of its coordinates."""
    shares = {"where it begins": [abs(along) / 4, abs(across) / 4]}
    return Picture(
        [Curve("path", [along, 2], [across, 2])], "$x$", "$y$", ylim=(-2, 2), maps=shares
    )


PLANE = {"along": [-2.0, -1.0, 0.0, 1.0], "across": [-1.0, 0.0, 1.0]}
POINT = {"start": {"along": 0.0, "across": 0.0}, "drag": {"along": "x", "across": "y"}}


def test_a_point_between_the_axes_is_dragged_by_both_its_controls(open_page, in_book):
    page = open_page(explore(planar, **WORDS, **PLANE, **POINT)._repr_html_())
    section = page.locator("section.descent-explorer")
    (grip,) = section.locator(".grip").all()
    box = grip.bounding_box()
    frame = section.locator("svg").get_attribute("data-frame").split()
    left, top, right, bottom = map(float, frame)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - (right - left) / 4, y - (bottom - top) / 4, steps=4)
    page.mouse.up()
    assert drawn(section)["values"] == ["−1", "1"]
    assert drawn(section)["summary"] == describe(planar(-1.0, 1.0))


def test_a_finger_drags_a_point_through_many_pictures(open_page, in_book):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = open_page(explore(planar, **WORDS, **PLANE, **POINT)._repr_html_(), **phone)
    box = page.locator(".grip").bounding_box()
    frame = page.locator(".descent-plot svg").get_attribute("data-frame").split()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    far = (float(frame[2]) - float(frame[0])) / 2
    touch = page.context.new_cdp_session(page)

    def finger(kind, *points):
        where = [{"x": x, "y": y} for x, y in points]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": where})

    finger("touchStart", (x, y))
    for k in range(1, 9):
        finger("touchMove", (x - k * far / 8, y))
        page.wait_for_timeout(30)  # a frame, in which the mark is drawn anew
    finger("touchEnd")
    assert drawn(page.locator("section.descent-explorer"))["values"] == ["−2", "0"]


def test_a_place_to_drag_to_lies_within_the_axes(in_book):
    def short(far):
        return Picture([Curve("f", [0, 1], [0, 1])], "x", "f", summary=f"{far}")

    block = explore(short, **WORDS, far=[0.5, 3.0], drag={"far": "x"})._repr_html_()
    assert data_of(block)["x"]["limits"] == [0, 3]


def test_a_map_is_a_row_of_cells_that_follow_the_controls(open_page, in_book):
    page = open_page(explore(planar, **WORDS, **PLANE, **POINT)._repr_html_())
    cells = (
        "() => [...document.querySelectorAll('.cell')].map(e => +e.getAttribute('fill-opacity'))"
    )
    assert page.evaluate(cells) == [0, 0]
    page.get_by_label("along").press("ArrowRight")
    assert page.evaluate(cells) == pytest.approx([0.3 / 4, 0])


def test_maps_stay_in_one_shape_over_the_grid(in_book):
    def growing(n):
        return Picture([Curve("f", [0, 1], [0, 1])], "x", "f", maps={"row": [1 / n] * n})

    with pytest.raises(ValueError, match="ylim or maps than the first"):
        explore(growing, **WORDS, n=[2, 3])


@pytest.mark.parametrize(
    "working, broken",
    [
        ("<script>", "<script type='text/plain'>"),
        ('knob.addEventListener("input", moved)', "void 0"),
        ("if (width) draw(plot, data, picture", "draw(plot, data, data.pictures[0]"),
        ("= picture.summary;", "= data.pictures[0].summary;"),
    ],
)
def test_the_checker_notices_a_dead_slider(open_page, block, working, broken):
    mutant = block.replace(working, broken)
    assert mutant != block
    with pytest.raises(AssertionError, match="a control is"):
        assert_alive(open_page(mutant).locator("section.descent-explorer"))
