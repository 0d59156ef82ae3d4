"""The table of a sweep on disk: parts while it runs, one Parquet file when it is done.

A part is written beside its place and then renamed into it, and so is the table. A rename happens
or does not, so whatever kills the process and whenever, what is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .._errors import error
from ._grid import Grid, Task
from ._task import steps_to

try:
    import fcntl
except ImportError:  # no such thing on Windows
    fcntl = None

KEY = b"descent.sweep"
WHOLE = ("diverged_at", "rank")
RESULTS = ("eta", "first_loss", "last_loss", "diverged_at")


def schema(grid: Grid) -> pa.Schema:
    """Name and type of each column."""
    counts = [steps_to(x) for x in grid.thresholds]
    sizes = [name for name in ("N", "n", "D") if name not in grid.axes]
    axes = {name: _type(name, values) for name, values in grid.axes.items()}
    types = {
        **dict.fromkeys(sizes, pa.int64()),
        **axes,
        **dict.fromkeys([*RESULTS, *counts, "rank", "kappa"], pa.float64()),
        **dict.fromkeys([*WHOLE, *counts], pa.int64()),
    }
    return pa.schema(list(types.items()))


def _type(axis: str, values: Sequence) -> pa.DataType:
    if isinstance(values, range):
        return pa.int64()
    if axis == "step" or any(isinstance(value, str) for value in values):
        return pa.string()
    if all(isinstance(value, bool) for value in values):
        return pa.bool_()
    whole = all(isinstance(value, int) for value in values) and axis != "scale"
    return pa.int64() if whole else pa.float64()


def table(schema: pa.Schema, columns: dict[str, list]) -> pa.Table:
    """The rows of a task as a table; steps are written out, since some of them are rules."""
    steps = [step if isinstance(step, str) else repr(step) for step in columns["step"]]
    return pa.Table.from_pydict({**columns, "step": steps}, schema=schema)


class Memory:
    """Where a sweep without a file keeps its rows."""

    def __init__(self, grid: Grid):
        self.grid, self.schema, self.parts = grid, schema(grid), {}

    def alone(self) -> AbstractContextManager:
        return nullcontext()  # there is nothing that another one could want

    def missing(self) -> list[Task]:
        return self.grid.tasks

    def add(self, task: Task, columns: dict[str, list]) -> None:
        self.parts[task.index] = table(self.schema, columns)

    def finish(self) -> pa.Table:
        return pa.concat_tables(self.parts[task.index] for task in self.grid.tasks)


class Store:
    """The file ``out`` of a sweep and, until that is there, the folder of its parts.

    Raises
    ------
    ValueError : if something else is in either place; nothing is ever overwritten.
    """

    def __init__(self, out: str | os.PathLike, grid: Grid):
        if not isinstance(out, (str, os.PathLike)) or not str(out):
            found = f"out must be the path of a .parquet file, got {out!r:.60}"
            raise error(TypeError, found, "the path of a .parquet file")
        self.grid, self.out, self.record = grid, Path(out), grid.record()
        # a part names its grid by this, since a grid may be longer than the part
        self.mark = hashlib.sha256(self.record.encode()).hexdigest().encode()
        self.schema = schema(grid).with_metadata({KEY: self.mark})
        if self.out.suffix != ".parquet":
            raise error(
                ValueError, f"out must end in .parquet, got {str(out)!r}", "end in .parquet"
            )
        self.folder = self.out.with_name(self.out.name + ".parts")
        if not self.out.parent.is_dir():
            raise error(
                ValueError, f"out is in {self.out.parent}, which is no folder", "create it first"
            )
        if self.out.exists():
            self._check(self.out, _grid_of(self.out))
        if self.folder.exists():
            self._check(self.folder, self._begun())

    def missing(self) -> list[Task]:
        """The tasks that are still to do; makes the folder that keeps the others."""
        if self.out.exists():
            shutil.rmtree(self.folder, ignore_errors=True)  # killed between table and tidying up
            return []
        self.folder.mkdir(exist_ok=True)
        self._write(self.folder / "grid.json", lambda path: path.write_text(self.record))
        there = {path.name for path in self.folder.iterdir()}
        return [task for task in self.grid.tasks if self._part(task).name not in there]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other sweeps from the folder; the system lets go of it however the process ends."""
        if fcntl is None or self.out.exists():
            yield
            return
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "lock.tmp").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                found = f"another sweep is at work on {self.out}"
                raise error(ValueError, found, "wait for it, or choose another out") from None
            yield

    def add(self, task: Task, columns: dict[str, list]) -> None:
        """Keep the rows of a task, for good."""
        rows = table(self.schema, columns)
        self._write(self._part(task), lambda path: pq.write_table(rows, path, compression="zstd"))

    def finish(self) -> pa.Table:
        """Make one table of the parts, if that is not done yet, and return it."""
        if not self.out.exists():
            parts = [_readable(self._part(task), self.mark) for task in self.grid.tasks]
            # one row group, whatever the parts: the bytes depend on the rows alone
            whole = pa.concat_tables(parts).combine_chunks()
            whole = whole.replace_schema_metadata({KEY: self.record.encode()})
            self._write(self.out, lambda path: pq.write_table(whole, path, compression="zstd"))
            shutil.rmtree(self.folder)
        return pq.read_table(self.out)

    def _part(self, task: Task) -> Path:
        return self.folder / f"{task.index:06d}.parquet"

    def _begun(self) -> str:
        """The grid of the parts that are there."""
        note, foreign = self.folder / "grid.json", f"{self.folder} is no sweep's"
        if note.exists():
            found = note.read_text(errors="replace")
            if _is_record(found):
                return found
            if any(_mark_of(part) == self.mark for part in self.folder.glob("*.parquet")):
                return self.record  # each part says as well what it is of
            foreign = f"{note} is damaged"
        elif self.folder.is_dir() and all(x.name.endswith(".tmp") for x in self.folder.iterdir()):
            return self.record  # killed before the first line
        raise error(ValueError, foreign, "choose another out, or remove it")

    def _write(self, path: Path, write: Callable[[Path], object]) -> None:
        """Write into the folder, then rename: no reader ever sees half a file."""
        beside = self.folder / (path.name + ".tmp")
        try:
            write(beside)
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
        except OSError as failure:
            reason = os.strerror(failure.errno) if failure.errno else str(failure)
            found = f"out {self.out} cannot be written ({reason})"
            remedy = "make room or give rights, then call again: what is done is kept"
            raise error(OSError, found, remedy) from None

    def _check(self, path: Path, found: str) -> None:
        if found == self.record:
            return
        old, new = json.loads(found), json.loads(self.record)
        axes = [axis for axis in new["axes"] if old["axes"].get(axis) != new["axes"][axis]]
        axes += [name for name in ("thresholds", "until") if old.get(name) != new[name]]
        raise error(
            ValueError,
            f"{path} holds a sweep over another grid ({', '.join(axes)} differ)",
            "to resume, give that grid; to replace it, remove it; or choose another out",
        )


def _grid_of(path: Path) -> str:
    """The grid that a finished table was made from."""
    remedy = "it is left as it is: choose another out, or remove it"
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        raise error(
            ValueError, f"{path} is no readable Parquet table (half written?)", remedy
        ) from None
    if KEY not in metadata:
        raise error(ValueError, f"{path} was not written by a sweep", remedy)
    return metadata[KEY].decode()


def _readable(part: Path, mark: bytes) -> pa.Table:
    try:
        rows = pq.read_table(part)
    except (OSError, pa.ArrowInvalid):
        raise error(
            ValueError,
            f"{part} is damaged",
            "remove it and give the same command again, which does its runs anew and keeps the others",
        ) from None
    if (rows.schema.metadata or {}).get(KEY) != mark:
        found = f"{part} is a part of another sweep"
        raise error(ValueError, found, "remove it and give the same command again")
    return rows


def _mark_of(part: Path) -> bytes | None:
    """What a part says about its grid; None if it says nothing."""
    try:
        return (pq.read_schema(part).metadata or {}).get(KEY)
    except (OSError, pa.ArrowInvalid):
        return None


def _is_record(text: str) -> bool:
    """Whether a text is what `Grid.record` writes."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and isinstance(found.get("axes"), dict)
