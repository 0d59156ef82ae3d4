"""Tables of sweeps that are too long for a page to run, kept with the grids that made them.

They are part of the package, since that is all that a notebook on Colab has of this book.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from .. import _validate

if TYPE_CHECKING:
    import pandas

#: name -> the page that shows it; ``<name>.yaml`` is its grid, ``<name>.parquet`` the table.
TABLES = {"converge": "intro", "encoder": "wu2023/width"}


def read(name: str) -> pandas.DataFrame:
    """The table of that name, as `descent.sweep` returned it."""
    import pandas

    with resources.as_file(_file(name, "parquet")) as path:
        return pandas.read_parquet(path)


def grid(name: str) -> str:
    """The grid that made the table, as text for ``python -m descent sweep``."""
    return _file(name, "yaml").read_text("utf-8")


def _file(name: str, suffix: str):
    _validate.one_of("table", name, TABLES)
    return resources.files("descent.tables").joinpath(f"{name}.{suffix}")
