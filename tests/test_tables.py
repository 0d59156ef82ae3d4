"""The tables that the pages read are what their grids give."""

import sqlite3
from contextlib import closing
from importlib import resources

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

import descent
from descent._sweep._cli import _apart, parse
from descent._sweep._grid import Grid
from descent._sweep._table import KEY, schema, table
from descent._sweep._task import run_task
from descent.tables import TABLES


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
