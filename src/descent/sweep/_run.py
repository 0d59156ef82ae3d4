"""The sweep itself: which tasks are missing, who does them, where their rows go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from ._grid import THRESHOLDS, Grid, Task
from ._task import run_task

if TYPE_CHECKING:
    import pandas


def sweep(
    out: str | os.PathLike | None = None,
    *,
    cluster=None,
    thresholds: Iterable[float] = THRESHOLDS,
    until: float | None = None,
    **axes,
) -> pandas.DataFrame:
    """Train every combination of the axes' values and return one row a run.

    Parameters
    ----------
    out : a ``.parquet`` file. Finished tasks are kept beside it: call again with the same
        arguments after an interruption, and only the rest is done. Without it nothing is kept.
    cluster : by default the tasks run in this process, one after another, on one core. ``"local"``
        starts a worker for each core; the address of a Dask scheduler (``"tcp://host:8786"``)
        or a ``dask.distributed.Client`` runs them there.
    thresholds : fractions of the first loss; a column each counts the steps to it.
    until : stop a run at this fraction of its first loss.
    axes : one value or several of each. N, n and D must be given; also d, H, kernel, train, steps,
        scale, step (numbers, ``"1/L"`` or ``"polyak"``), seed (draws tokens, labels and weights)
        and start (another draw of the weights for the same tokens and labels).

    Returns
    -------
    DataFrame with a column for each axis, then eta, first_loss, last_loss, diverged_at, steps_to_…
    and, where V is trained alone, rank (of the features) and kappa (of the Gram matrix). A step
    count that was not reached is missing, and so are the last loss of a run that diverged and the
    step 1/L of one that starts where the loss is flat.

    Raises
    ------
    ValueError : for a grid that does not fit, something else at ``out``, or a cluster that does
        not answer.
    KeyboardInterrupt : on Ctrl-C; the message says what is kept and how to go on.

    One run is the same whatever else is in the grid, up to rounding; one grid gives the same table
    to the last bit, here or on a cluster of the same machines, interrupted or not.
    Introduced in :doc:`/sweeps`.
    """
    from ._table import Memory, Store

    grid = Grid.of(axes, thresholds, until)
    store = Memory(grid) if out is None else Store(out, grid)
    missing = store.missing()
    if missing:
        _work(grid, missing, store, cluster)
    return store.finish().to_pandas()


def _work(grid: Grid, missing: list[Task], store, cluster) -> None:
    with _done(missing, cluster) as results, _progress(grid, missing) as bar:
        try:
            for task, columns in results:
                store.add(task, columns)
                bar.update(len(task.runs))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept(bar.n, grid, store)) from None


def _kept(done: int, grid: Grid, store) -> str:
    folder = getattr(store, "folder", None)
    if folder is None:
        return f"interrupted after {done} of {grid.size} runs; with out= they would have been kept"
    return (
        f"interrupted: {done} of {grid.size} runs are kept in {folder}; "
        "give the same command again to go on"
    )


def _progress(grid: Grid, missing: list[Task]) -> tqdm:
    done = grid.size - sum(len(task.runs) for task in missing)
    silent = "DESCENT_BOOK" in os.environ
    return tqdm(total=grid.size, initial=done, unit="run", desc="sweep", disable=silent)


@contextmanager
def _done(tasks: list[Task], cluster) -> Iterator[Iterator[tuple[Task, dict]]]:
    """The tasks with their columns, in whatever order they get done."""
    threads = torch.get_num_threads()
    try:
        if cluster is None:
            yield ((task, run_task(task)) for task in tasks)
        else:
            from ._cluster import connected, run_on

            # closed before the client is: what was not begun is called off
            with connected(cluster) as client, closing(run_on(client, tasks)) as results:
                yield results
    finally:
        torch.set_num_threads(threads)
