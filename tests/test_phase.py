"""A phase diagram shows each cell's share of runs, in the kernel's colour, on either ground."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from descent.plots import figure, phase
from descent.plots._draw import COLOURS
from descent.plots._phase import edges, strength


def table(**changes):
    """Two kernels, two sets, 2 x 3 cells of four runs; D of every four converge, after D steps."""
    rows = [
        {"kernel": kernel, "train": train, "N": N, "D": D, "seed": seed}
        | {"steps_to_0.01": D if seed < D else np.nan}
        for kernel in ("softmax", "gaussian")
        for train in ("V", "QKV")
        for N in (1, 2)
        for D in (1, 2, 4)
        for seed in range(4)
    ]
    return pd.DataFrame(rows).assign(n=2, H=2, steps=100, **changes)


def panels(drawing):
    return drawing.subfigs[0].axes


def filled(ax):
    """(x, y) of a cell's corner -> (colour, fullness)."""
    return {
        tuple(np.round(corner, 6)): (to_hex(p.get_facecolor()), p.get_alpha())
        for p in ax.patches
        if p.get_fill() and p.get_facecolor()[3] and to_hex(p.get_facecolor()) in COLOURS.values()
        for corner in p.get_path().vertices[::5]  # four corners and a closing one
    }


def test_there_is_a_panel_for_each_kernel_and_set_in_the_kernels_colour():
    axes = panels(phase(table()))
    assert [ax.get_title(loc="left") for ax in axes] == [
        "softmax, $V$",
        "$QKV$",
        "gaussian, $V$",
        "$QKV$",
    ]
    colours = [{colour for colour, _ in filled(ax).values()} for ax in axes]
    assert colours == [{COLOURS["softmax"]}] * 2 + [{COLOURS["gaussian"]}] * 2


def test_the_key_has_the_colours_of_the_panels():
    of_kernels, of_sets = (phase(table(), rows=rows, columns="n") for rows in ("kernel", "train"))
    keys = [filled(drawing.subfigs[1].axes[0]).values() for drawing in (of_kernels, of_sets)]
    colours = [{colour for colour, _ in key} for key in keys]
    assert colours == [{COLOURS["softmax"], COLOURS["gaussian"]}, {COLOURS["second"]}]


def test_a_cell_is_as_full_as_its_share_of_runs():
    for ax in panels(phase(table())):
        rows = sorted((y, fullness) for (_, y), (_, fullness) in filled(ax).items())
        assert [fullness for _, fullness in rows] == [0.25, 0.25, 0.5, 0.5, 1, 1]


def test_speed_counts_a_run_that_never_arrives_as_infinitely_slow():
    cell = pd.DataFrame({"hit": [1, 10, 10, np.nan], "steps": 100})
    assert strength(cell, "speed") == pytest.approx(0.5)
    assert strength(cell.assign(hit=[1, np.nan, np.nan, np.nan]), "speed") == 0


def test_the_cells_tile_a_logarithmic_axis():
    low, high = edges(np.array([1, 2, 8]))
    assert np.allclose(low[1:], high[:-1])
    assert np.allclose(low, [2**-0.5, 2**0.5, 4]) and np.allclose(high, [2**0.5, 4, 16])
    assert np.allclose(edges(np.array([3])), [[3 / 2**0.5], [3 * 2**0.5]])


def test_the_line_is_where_the_heads_have_as_many_columns_as_there_are_labels():
    (line,) = panels(phase(table()))[0].lines
    assert np.allclose(2 * line.get_ydata(), line.get_xdata()) and line.is_dashed()
    several = pd.concat([table(), table().assign(H=3)])
    assert not panels(phase(several))[0].lines


def test_other_columns_can_be_the_axes_and_the_panels():
    runs = table().drop(columns=["H", "n"]).assign(scaling="d^-1/2")
    wide = pd.concat([runs, runs.assign(scaling="d^-1")])
    axes = panels(phase(wide, x="N", y="D", rows="steps", columns="scaling"))
    assert [ax.get_title(loc="left") for ax in axes] == ["$d^{-1/2}$", "$d^{-1}$"]
    assert axes[0].get_xlabel() == "sequences $N$" and not axes[0].lines
    assert len(filled(axes[0])) == 6


def test_a_panel_without_runs_stays_empty():
    runs = table()
    axes = panels(phase(runs[(runs["kernel"] == "softmax") | (runs["train"] == "V")]))
    assert [len(filled(ax)) > 0 for ax in axes] == [True, True, True, False]


def test_it_becomes_a_figure_whose_colours_follow_the_page():
    html = figure(phase(table()), alt="a", caption="c").html
    for name in ("softmax", "gaussian"):
        assert f"var(--descent-{name}, {COLOURS[name]})" in html
    assert html == figure(phase(table()), alt="a", caption="c").html


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: phase(table().drop(columns="D")),
            "table has no column D: give what a sweep wrote",
        ),
        (lambda: phase(table(), fraction=0.5), "no column steps_to_0.5: fraction may be 0.01"),
        (lambda: phase(table().iloc[:0]), "table holds no run: select other rows"),
        (
            lambda: phase(table(), rows="train"),
            "rows and columns are both 'train': give one of them",
        ),
        (lambda: phase(table(), show="rate"), "show must be one of 'success', 'speed', got 'rate'"),
    ],
    ids=["column", "fraction", "empty", "twice", "show"],
)
def test_a_table_that_cannot_be_drawn_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
