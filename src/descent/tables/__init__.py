"""Tables of sweeps that are too long for a page to run, kept with the grids that made them.

They are part of the package, since that is all that a notebook on Colab has of this book.
See :doc:`/sweeps`.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING

from .. import _validate
from .._errors import error

if TYPE_CHECKING:
    import pandas

#: name -> the page that shows it; ``<name>.yaml`` is its grid, ``<name>.parquet`` the table.
TABLES = {"converge": "intro", "encoder": "wu2023/width"}

#: name -> the page that shows it; ``tools/record.py`` makes them.
RECORDS = {
    "in-context-widths": "kim2024/dynamics",
    "in-context-prompts": "kim2024/outside",
    "in-context-prompts-few": "kim2024/outside",
    "vision": "wu2023/initialisations",
}


def read(name: str) -> pandas.DataFrame:
    """The table of that name, as `descent.sweep` returned it.

    Examples
    --------
    >>> from descent import tables
    >>> "last_loss" in tables.read("converge")
    True
    """
    import pandas

    with resources.as_file(_file(name, "parquet")) as path:
        return pandas.read_parquet(path)


def grid(name: str) -> str:
    """The grid that made the table, as text for ``python -m descent sweep``."""
    return _file(name, "yaml").read_text("utf-8")


def recorded(name: str) -> dict:
    """A run that no sweep makes: its rows by name, and the command, seed, machine and date.

    Introduced in :doc:`/kim2024/dynamics`.

    Raises
    ------
    ValueError : for an unknown name.

    Examples
    --------
    >>> from descent import tables
    >>> tables.recorded("in-context-widths")["command"].split()[:2]
    ['python', 'tools/record.py']
    """
    _validate.one_of("record", name, RECORDS)
    file = resources.files("descent.tables").joinpath(f"{name}.json")
    return json.loads(file.read_text("utf-8"))


def caseless(table: pandas.DataFrame) -> pandas.DataFrame:
    """A sweep's table for a place that takes N and n for one name, as SQLite does.

    Of columns whose names differ in their case alone, the second gets a 2: N and n_2, D and d_2.
    ``caseless(table).to_sql("runs", connection)`` then works. Introduced in :doc:`/sweeps`.

    Raises
    ------
    TypeError : if it is given no table.
    """
    if not hasattr(table, "columns"):
        found = f"table must be a table of pandas, got {_validate.shown(table)}"
        raise error(TypeError, found, "give what descent.sweep returned")
    lower = [str(name).lower() for name in table.columns]
    before = [lower[:place].count(name) for place, name in enumerate(lower)]
    names = zip(table.columns, before, strict=True)
    return table.set_axis([f"{name}_{k + 1}" if k else name for name, k in names], axis=1)


def _file(name: str, suffix: str):
    _validate.one_of("table", name, TABLES)
    return resources.files("descent.tables").joinpath(f"{name}.{suffix}")
