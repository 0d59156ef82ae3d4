"""The tables that the pages read are what their grids give."""

import sqlite3
from contextlib import closing
from importlib import resources
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import descent
from descent._sweep._cli import _apart, parse
from descent._sweep._grid import Grid
from descent._sweep._table import KEY, schema, table
from descent._sweep._task import run_task
from descent.claims.kim2024 import dynamics
from descent.claims.wu2023 import vision
from descent.models import Encoder
from descent.models.in_context import Neurons
from descent.problems import Problem
from descent.tables import RECORDS, TABLES


def grid_of(name):
    content = yaml.safe_load(descent.tables.grid(name))
    return Grid.of(**_apart({axis: parse(axis, values) for axis, values in content.items()}))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_was_made_from_the_grid_beside_it(name):
    with resources.as_file(resources.files("descent.tables") / f"{name}.parquet") as path:
        assert pq.read_schema(path).metadata[KEY].decode() == grid_of(name).record()
    assert len(descent.tables.read(name)) == grid_of(name).size


@pytest.mark.parametrize(
    ("name", "train"), [(name, train) for name in TABLES for train in grid_of(name).axes["train"]]
)
def test_a_few_cells_run_again_give_the_committed_numbers(name, train):
    """Another processor rounds otherwise, and a thousand steps make the most of it: hence 1e-5."""
    grid, kept = grid_of(name), descent.tables.read(name)
    tasks = [task for task in grid.tasks if task.cell["train"] == train]
    starts, row = {}, 0
    for task in grid.tasks:
        starts[task.index], row = row, row + len(task.runs)
    for task in (tasks[16], tasks[-23]):  # one of each kernel, and of each scaling
        again = table(schema(grid), run_task(task)).to_pandas()
        first = starts[task.index]
        rows = kept.iloc[first : first + len(again)].reset_index(drop=True)
        exact = list(dict.fromkeys(["N", "n", "D", *grid.axes]))
        pd.testing.assert_frame_equal(again[exact], rows[exact])
        for column, accuracy in (("first_loss", 1e-9), ("eta", 1e-6)):
            assert again[column].tolist() == pytest.approx(rows[column].tolist(), rel=accuracy)
        gap = (again["last_loss"] - rows["last_loss"]).abs() / rows["first_loss"]
        assert gap.max() < 1e-5
        arrival = f"steps_to_{grid.until:g}"
        assert (again[arrival].notna() == rows[arrival].notna()).mean() > 0.9


def test_an_unknown_table_is_refused():
    with pytest.raises(ValueError, match="unknown table 'nothing': expected one of 'converge'"):
        descent.tables.read("nothing")


def test_a_table_goes_into_sqlite_and_comes_back():
    """There N and n are one name, and so are D and d."""
    table = descent.tables.read("converge").head(20)
    with closing(sqlite3.connect(":memory:")) as connection:
        with pytest.raises(sqlite3.OperationalError, match="duplicate column name"):
            table.to_sql("runs", connection, index=False)
        descent.tables.caseless(table).to_sql("runs", connection, index=False)
        found = pd.read_sql("select N, n_2, D, d_2, last_loss from runs", connection)
    expected = table[["N", "n", "D", "d", "last_loss"]].set_axis(found.columns, axis=1)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    with pytest.raises(TypeError, match="table must be a table of pandas, got .*: give what desc"):
        descent.tables.caseless([1, 2])


@pytest.mark.parametrize("name", RECORDS)
def test_a_recorded_run_says_how_it_was_made(name):
    record = descent.tables.recorded(name)
    assert record["command"].startswith("python tools/record.py") and name in record["command"]
    assert record["date"] and record["machine"] and record["seconds"] > 0
    assert len({len(rows) for rows in record["rows"].values()}) == 1


def test_recorded_ends_of_few_neurons_come_again():
    """On another processor a run may end elsewhere: of six starts two thirds must come again."""
    rows = descent.tables.recorded("in-context-widths")["rows"]
    again = 0
    for k in (0, 51, 102, 203, 204, 205):
        end = dynamics.quasi_newton(rows["d"][k], rows["run"][k])
        assert end[:2] == (rows["d"][k], rows["run"][k])
        again += abs(end[2] - rows["loss"][k]) < 1e-3
    assert again >= 4


def test_recorded_pictures_come_again():
    """The narrowest runs of one seed; another processor rounds otherwise, in float32."""
    rows = descent.tables.recorded("vision")["rows"]
    known = vision.pictures()
    for k in (0, 1):
        assert (rows["d"][k], rows["seed"][k]) == (16, 0)
        again = vision.trained(known, 16, rows["scaling"][k], 0)
        assert abs(again.accuracy - rows["accuracy"][k]) < 0.03
        assert abs(again.moved / rows["moved"][k] - 1) < 0.1


def test_pictures_are_seen_as_the_encoder_sees_them():
    known = vision.pictures()
    problem = Problem(known.X[:20], known.X.new_zeros(20))
    encoder = Encoder(32, "d^-1/2", "he", pooling="mean")
    weights = encoder.init(problem, seed=0)
    S, numbers = vision._seen(encoder, (*weights[:3], weights.O[:, None]), problem.X)
    there = encoder.forward(weights, problem)
    assert torch.allclose(S, there.S, atol=1e-6)  # float32
    assert torch.allclose(numbers[:, 0], there.output, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_the_recorder_steps_down_the_gradient(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "tools"))
    import record

    size = record.Size(D=4, k=2, neurons=7, prompts=11, pairs=5, inputs=30)
    joint = record.Joint(size, 0, "cpu")
    a, w, W = (x.double().requires_grad_() for x in (*joint.neurons, joint.W))
    h = joint.model._features(Neurons(a, w), joint.population.X.double())
    context, asked = joint.read.to_dense().double() @ h, h[joint.query]
    loss = ((context @ W * asked).sum(1) - joint.answer).square().mean() / 2
    slopes = torch.autograd.grad(loss, (a, w, W))
    with_W = joint.model.loss_with(joint.neurons, joint.W, joint.population)
    best = joint.model.loss(joint.neurons, joint.population)
    found = joint.step()
    # single precision: seven digits, of sums over thirty inputs
    for name, value in (("prompts", loss), ("with_W", with_W), ("best_W", best)):
        assert found[name] == pytest.approx(float(value.detach()), rel=1e-5)
    before, scale = (a, w, W), (7, 7, 1)
    for x, new, slope, times in zip(before, (*joint.neurons, joint.W), slopes, scale, strict=True):
        moved = -size.dt * times * slope
        assert (new - x - moved).abs().max() < 1e-4 * moved.abs().max() + 1e-6
