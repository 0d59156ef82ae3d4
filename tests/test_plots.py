"""Figures say what they show, in the page's ink, and leave nothing out silently."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import descent
from descent.plots import Box, Curve, Picture, diagram, draw, figure, number, style
from descent.plots._draw import COLOURS, spread
from descent.plots._picture import describe
from descent.plots._svg import stepwise
from descent.plots._text import formulas, markup, plain, runs

t = np.arange(101)
LOSS = Curve("measured", t, 0.9**t, kernel="softmax")
BOUND = Curve("bound", t, 1.5 * 0.92**t, "bound", "softmax")
PICTURE = Picture([LOSS, BOUND], "step $t$", "loss $f_t$", yscale="log")
WORDS = {"alt": "The loss stays below the bound.", "caption": "Loss $f_t$ & bound."}


def lines(ax):
    return [line for line in ax.lines if len(line.get_xdata()) and line.get_marker() == "None"]


# ---- what a picture is ------------------------------------------------------------------------


def test_measured_is_solid_and_bound_is_dashed_in_the_kernels_colour():
    measured, bound = lines(draw(PICTURE))
    assert measured.get_linestyle() == "-" and bound.get_linestyle() == "--"
    assert measured.get_color() == bound.get_color() == COLOURS["softmax"] != COLOURS["gaussian"]


def test_curves_without_a_kernel_are_told_apart_by_colour():
    curves = [Curve(name, t, t + k) for k, name in enumerate("abcdef")]
    assert len({line.get_color() for line in lines(draw(Picture(curves, "x", "y")))}) == 6


def test_every_colour_of_a_curve_is_in_the_style_of_figures_and_of_explorers():
    figures, explorers = (
        (Path(descent.__file__).parent / sheet).read_text("utf8")
        for sheet in ("plots/figure.css", "_explore/explorer.css")
    )
    for name in set(COLOURS) - {"ink"}:
        assert figures.count(f"--descent-{name}:") == 3  # light, dark, and dark by the system
        assert f".descent-plot .{name} {{ --d-tone: var(--descent-{name}); }}" in explorers


def test_a_map_is_a_row_of_cells_below_the_axes_the_darker_the_larger():
    maps = {"attention": [0.1, 0.9]}
    ax = draw(Picture([LOSS], "step $t$", "loss $f_t$", maps=maps))
    label, small, large = ax.texts[-3:]
    assert [t.get_text() for t in (label, small, large)] == ["attention", "0.10", "0.90"]
    assert small.get_bbox_patch().get_facecolor()[3] < large.get_bbox_patch().get_facecolor()[3]
    assert "0.90" in figure(Picture([LOSS], "t", "f", maps=maps), **WORDS).html


def test_tensors_may_be_drawn():
    torch = pytest.importorskip("torch")
    curve = Curve("f", torch.arange(3), torch.ones(3, requires_grad=True))
    assert curve.y.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Curve("f", [1, 2], [1]), "curve 'f' has 2 x and 1 y: give one y for each x"),
        (lambda: Curve("f", [], []), r"x of curve 'f' has shape \(0,\): give a non-empty sequence"),
        (lambda: Curve("f", [1, np.nan], [1, 2]), "x of curve 'f' is not finite everywhere"),
        (
            lambda: Curve("f", [1], [1], "guess"),
            "role must be one of 'measured', 'bound', got 'guess'",
        ),
        (lambda: Curve("f", [1], [1], kernel="relu"), "kernel must be one of .*, got 'relu'"),
        (
            lambda: Picture([Curve(name, [1], [1]) for name in "abcdefg"], "x", "y"),
            "7 measured curves want a colour each, and there are 6: draw fewer, or give one label",
        ),
        (lambda: Picture([], "x", "y"), "curves is empty: give at least one Curve"),
        (
            lambda: Picture([LOSS], "x", "y", maps={"phi": [0.5, 1.5]}),
            "the map 'phi' holds 0.5 to 1.5: give shares between 0 and 1",
        ),
        (lambda: Picture([LOSS], "x", "y", yscale="sqrt"), "yscale must be one of 'linear', 'log'"),
        (
            lambda: Picture([LOSS], "x", "y", ylim=(1, 0)),
            "ylim must be two finite numbers, the lower",
        ),
        (
            lambda: Picture([LOSS], "x", "y", yscale="log", ylim=(0, 1)),
            "ylim must be two finite positive",
        ),
        (lambda: Picture([Curve("f", [1], [0])], "x", "y", yscale="log"), "curve 'f' has no point"),
        (lambda: figure(PICTURE, caption="c"), "alt is missing: say in a sentence"),
        (lambda: figure(PICTURE, alt=" ", caption="c"), "alt is missing"),
        (lambda: figure(PICTURE, alt="a"), "caption is missing"),
    ],
)
def test_bad_input_is_refused_in_one_line_that_says_what_would_do(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_figure_is_made_of_a_picture_or_a_drawing_only():
    with pytest.raises(
        TypeError, match="picture is a list: give a plots.Picture or a matplotlib Figure"
    ):
        figure([LOSS], **WORDS)
    with pytest.raises(TypeError, match="curves holds a int"):
        Picture([3], "x", "y")


# ---- nothing is left out silently ---------------------------------------------------------------


def test_values_that_are_not_finite_break_the_line_and_are_told():
    y = np.where(t < 40, 2.0**t, np.inf)
    picture = Picture([Curve("loss", t, y)], "t", "f", yscale="log")
    (line,) = lines(draw(picture))
    assert np.isnan(line.get_ydata()[40:]).all() and np.isfinite(line.get_ydata()[:40]).all()
    note = "loss: values from 40 on that are not finite are left out."
    assert note in describe(picture)
    assert note in figure(picture, **WORDS).alt
    assert draw(picture).get_title("left") == note


def test_a_cross_marks_the_last_point_before_a_gap():
    picture = Picture([Curve("loss", [0, 1, 2, 3], [1, 2, np.nan, 4])], "t", "f")
    cross = next(line for line in draw(picture).lines if line.get_marker() == "x")
    assert (cross.get_xdata(), cross.get_ydata()) == ([1], [2])


def test_zero_on_a_log_axis_leaves_a_gap_and_is_told():
    picture = Picture([Curve("loss", [0, 1, 2], [1, 0.1, 0])], "t", "f", yscale="log")
    assert "values from 2 on that are not positive (log axis) are left out." in describe(picture)


def test_without_a_summary_the_picture_says_where_curves_end():
    assert describe(PICTURE) == "measured ends at 2.656·10⁻⁵; bound ends at 3.588·10⁻⁴."
    assert describe(Picture([LOSS], "x", "y", summary="It falls.")) == "It falls."
    summary = "From 3.0e+00 to 5.4e-18, by -1e-05; D = 12."
    spoken = "From 3 to 5.4·10⁻¹⁸, by −10⁻⁵; D = 12."
    assert describe(Picture([LOSS], "x", "y", summary=summary)) == spoken
    summary, spoken = (
        "$A_2$ = (-1.4, n - 1), a well-known 2-d case.",
        "A₂ = (−1.4, n − 1), a well-known 2-d case.",
    )
    assert describe(Picture([LOSS], "x", "y", summary=summary)) == spoken


# ---- labels --------------------------------------------------------------------------------------


def test_labels_stand_at_the_curves_ends_where_there_is_room():
    ax = draw(PICTURE)
    assert [text.get_text() for text in ax.texts] == [
        "measured",
        "bound",
    ] and ax.get_legend() is None


def test_labels_go_into_a_legend_where_they_would_take_half_of_the_room():
    ax = draw(
        Picture(
            [Curve("a name of more than half the width", t, t), Curve("short", t, -t)], "t", "f"
        )
    )
    assert not ax.texts and len(ax.get_legend().get_texts()) == 2


def test_labels_go_into_a_legend_where_curves_end_together():
    roles = ("measured", "bound") * 4
    curves = [Curve(f"run {k}", t, 0.9**t + 1e-3 * k, role) for k, role in enumerate(roles)]
    ax = draw(Picture(curves, "t", "f"))
    assert not ax.texts and len(ax.get_legend().get_texts()) == 8


def test_a_legend_is_no_wider_than_the_axes():
    curves = [Curve(f"a curve with a long name {k}", t[: 40 + k], t[: 40 + k]) for k in range(3)]
    ax = draw(Picture([*curves, Curve("short", t, t)], "$x$", "$y$"))
    ax.figure.draw_without_rendering()
    boxes = [each.get_window_extent().width for each in (ax.get_legend(), ax)]
    assert boxes[0] <= boxes[1]


def test_curves_of_one_name_are_labelled_once():
    ax = draw(Picture([Curve("seeds", t, 0.9**t * k) for k in (1, 2, 3)], "t", "f"))
    assert [text.get_text() for text in ax.texts] == ["seeds"]


def test_labels_are_moved_apart_and_no_further_than_needed():
    wanted = np.array([5.0, 0.0, 5.5, 40.0])
    placed = spread(wanted, 10)
    assert np.diff(np.sort(placed)).min() >= 10 - 1e-9
    assert placed[3] == 40 and placed[:3].mean() == pytest.approx(wanted[:3].mean())
    assert np.array_equal(np.argsort(placed), np.argsort(wanted))


def test_labels_of_curves_that_leave_below_stay_above_the_numbers_of_the_axis():
    curves = [Curve(f"run {k}", t, 0.1 ** (t * k)) for k in (1, 2, 3)]
    ax = draw(Picture(curves, "t", "f", yscale="log", ylim=(1e-8, 1)))
    ax.figure.draw_without_rendering()
    middles = [text.get_window_extent().y0 + text.get_window_extent().y1 for text in ax.texts]
    assert len(middles) == 3
    assert min(middles) / 2 >= ax.get_window_extent().y0 - 1


@pytest.mark.parametrize(
    "value, text",
    [
        (48, "48"),
        (0.05, "0.05"),
        (1e-5, "10⁻⁵"),
        (3.21456e-9, "3.215·10⁻⁹"),
        (1e9, "10⁹"),
        (-2.5, "−2.5"),
        (99999.9, "10⁵"),
        (0, "0"),
        (float("nan"), "NaN"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers_are_written_as_people_write_them(value, text):
    assert number(value) == text


def test_an_apostrophe_of_a_caption_is_curled_and_a_prime_is_not():
    assert formulas("The keys' length, a theorem's bound, f'") == (
        "The keys’ length, a theorem’s bound, f'"
    )
    assert formulas("$g' < 1$").count("’") == 0


def test_formulas_become_runs_of_text():
    assert runs(r"loss $f_t$") == [("loss ", ""), ("f", "i"), ("t", "is")]
    assert markup(r"$\|W^O\|^2$ & $\sigma_{\min}$") == (
        "‖<i>W</i><sup><i>O</i></sup>‖<sup>2</sup> &amp; <i>σ</i><sub>min</sub>"
    )
    assert plain(r"$HD = 10^{-5}$, $f_t$, $W_V$") == "HD = 10⁻⁵, fₜ, W_V"
    assert runs(r"$v^\top f^\circ$") == [("v", "i"), ("⊤", "p"), ("f", "i"), ("∘", "p")]
    assert runs(r"$\Lambda\varepsilon$") == [("Λε", "i")]
    assert runs(r"$\ln\,\hat w$") == [("ln\u2009", ""), ("ŵ", "i")]
    with pytest.raises(ValueError, match=r"uses \\oint, which a figure that moves can't show"):
        runs(r"$\oint$")


# ---- the SVG -------------------------------------------------------------------------------------


def svg_of(html):
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", html, re.S)[0])


def test_a_figure_is_svg_with_words_and_a_caption():
    html = figure(PICTURE, **WORDS)._repr_html_()
    svg = svg_of(html)
    assert svg.get("role") == "img" and svg.get("aria-label") == WORDS["alt"]
    assert svg.get("viewBox") == "0 0 374.4 237.6"
    caption = re.search("<figcaption>(.*?)</figcaption>", html)[1]
    assert re.sub("<math>.*</math>", "(formula)", caption) == "Loss (formula) &amp; bound."
    assert repr(figure(PICTURE, **WORDS)) == WORDS["alt"]


def test_ink_follows_the_page_and_no_other_ink_is_left():
    html = figure(PICTURE, **WORDS).html
    paint = set(
        re.findall(r"(?:fill|stroke): ([^;\"]+)", re.search(r"<svg.*</svg>", html, re.S)[0])
    )
    assert paint == {"none", "currentColor", "var(--descent-softmax, #0f62b5)"}


def test_a_figure_styles_nothing_but_itself():
    html = figure(PICTURE, **WORDS).html
    sheet = "".join(re.findall(r"<style[^>]*>(.*?)</style>", html, re.S))
    selectors = re.findall(r"([^{}]+)\{[^{}]*\}", re.sub(r"/\*.*?\*/", "", sheet, flags=re.S))
    assert selectors and all(".descent-" in selector for selector in selectors)


def test_ids_are_unique_to_a_figure_and_every_reference_resolves():
    htmls = [figure(PICTURE, alt=alt, caption="c").html for alt in ("one", "two")]
    ids = [set(re.findall(r' id="([^"]+)"', html)) for html in htmls]
    assert ids[0] and not ids[0] & ids[1]
    for html, own in zip(htmls, ids, strict=True):
        used = re.findall(r'href="#([^"]+)"', html) + re.findall(r"url\(#([^)]+)\)", html)
        assert used and set(used) <= own


def test_two_colour_bars_that_look_the_same_do_not_share_an_id():
    with style():
        drawing, axes = plt.subplots(1, 2)
        for ax in axes:
            drawing.colorbar(ax.pcolormesh(np.eye(2)), ax=ax)
    html = figure(drawing, alt="a", caption="c").html
    ids = re.findall(r' id="([^"]+)"', html)
    assert html.count("<image") == 2 and len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("lines", "steps"),
    [
        (
            "M 1 2\nL 3.5 2\nL 3.5 -1.2\nL 0 0\nz\nM 5 5\nL 6 5\nz\n",
            "M1 2h2.5v-3.2l-3.5 1.2zM5 5h1z",
        ),
        ("M 0.1 0.2\nL 0.3 0.5", "M0.1 0.2l0.2 0.3"),
        ("M 1 2\nC 1 2 3 4 5 6", "M 1 2\nC 1 2 3 4 5 6"),
    ],
)
def test_a_path_of_lines_is_told_by_its_steps(lines, steps):
    assert stepwise(f'<path d="{lines}"/>') == f'<path d="{steps}"/>'


def test_the_same_figure_is_the_same_bytes_in_another_process():
    code = (
        "from descent.plots import Curve, Picture, figure;"
        "picture = Picture([Curve('f', [1, 2], [1, 2])], 'x', 'y');"
        "html = figure(picture, alt='a', caption='c').html"
    )
    here: dict = {}
    exec(code, here)
    there = subprocess.check_output([sys.executable, "-c", f"{code};print(html)"], text=True)
    assert there.strip() == here["html"]


def test_small_multiples_drawn_in_the_style_become_a_figure_shown_once():
    with style():
        fig, axes = plt.subplots(1, 2)
        for ax in axes:
            draw(PICTURE, ax)
    html = figure(fig, **WORDS).html
    assert html.count("softmax, #0f62b5") >= 4
    assert fig.number not in plt.get_fignums()


def test_the_style_does_not_leak():
    before = dict(plt.rcParams)
    with style():
        plt.Figure()
    draw(PICTURE)
    assert dict(plt.rcParams) == before


# ---- diagrams ---------------------------------------------------------------------------------


def test_an_arrow_ends_at_the_frames_and_not_at_the_centres():
    drawing = diagram(
        {"a": Box("one", 0.2, 0.5), "b": Box("$W$", 0.8, 0.5, "trained")}, [("a", "b")]
    )
    drawing.draw_without_rendering()
    first, second, arrow = drawing.axes[0].texts
    path = arrow.arrow_patch.get_path().transformed(arrow.arrow_patch.get_transform())
    x = path.vertices[path.codes != path.CLOSEPOLY, 0]
    assert x.min() >= first.get_bbox_patch().get_window_extent().x1
    assert x.max() <= second.get_bbox_patch().get_window_extent().x0


def test_frames_at_the_edges_are_drawn_whole():
    drawing = diagram({"a": Box("$X$", 0, 0), "b": Box("two\nlines", 1, 1, "trained")}, [])
    drawing.draw_without_rendering()
    for text in drawing.axes[0].texts:
        frame = text.get_bbox_patch().get_window_extent()
        assert frame.x0 > 0 and frame.y0 > 0
        assert frame.x1 < drawing.bbox.x1 and frame.y1 < drawing.bbox.y1


def test_trained_and_fixed_weights_look_different_without_colour():
    boxes = {"a": Box("a", 0, 0, "trained"), "b": Box("b", 1, 0, "fixed")}
    drawing = diagram(boxes, [])
    trained, fixed = (text.get_bbox_patch() for text in drawing.axes[0].texts)
    assert trained.get_linestyle() != fixed.get_linestyle()
    assert trained.get_linewidth() > fixed.get_linewidth()


def test_an_arrow_to_no_box_is_refused():
    with pytest.raises(ValueError, match="arrows lead to b, which is no box"):
        diagram({"a": Box("a", 0, 0)}, [("a", "b")])
