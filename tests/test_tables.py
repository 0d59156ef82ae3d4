"""The tables that the pages read are what their grids give."""

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
