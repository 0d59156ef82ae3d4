"""The sweep itself: which tasks are missing, who does them, where their rows go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from tqdm.auto import tqdm

from .. import _memory, _validate, models, problems, steps
from .._descend import descend
from .._errors import error
from .._optimise import optimise
from .._trajectory import Trajectory
from ._family import Family
from ._grid import THRESHOLDS, Grid, Task
from ._task import as_descended, run_task

if TYPE_CHECKING:
    import pandas


def sweep(
    out: str | os.PathLike | None = None,
    *,
    cluster=None,
    thresholds: Iterable[float] = THRESHOLDS,
    until: float | None = None,
    problem=problems.gaussian_in_span,
    model=models.Attention,
    optimiser=None,
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
    problem : a `descent.problems.Problem`; a function that makes one, whose arguments are then
        axes (N, n and D of the usual one); a ``.npz`` file with X and y; or a mapping of names to
        several of these, which is an axis itself.
    model : likewise a model or a class of models, whose arguments are axes (d, H and kernel).
    optimiser : a class of `torch.optim`, or several by name; None or ``"descent"`` is `descend`.
    **axes : one value or several of each: the arguments of problem and model, and train, steps,
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

    Examples
    --------
    >>> from descent import sweep
    >>> table = sweep(N=2, n=2, D=[4, 10**9], d=2, seed=range(3), steps=50)
    >>> table.groupby("D").size().to_dict()
    {4: 3, 1000000000: 3}
    >>> bool((table["last_loss"] < table["first_loss"]).all())
    True
    """
    from ._table import Memory, Store

    family = {"problem": problem, "model": model, "optimiser": optimiser}
    _require_family(**family)
    grid = Grid.of(axes, thresholds, until, **family)
    _memory.room("the rows of all runs", grid.size, len(grid.axes) + len(grid.thresholds))
    store = Memory(grid) if out is None else Store(out, grid)
    with store.alone():
        missing = store.missing()
        if missing:
            _work(grid, missing, store, cluster)
        return store.finish().to_pandas()


def _require_family(**family) -> None:
    """Raise TypeError for what can make no problem, no model or no optimiser."""
    for name, given in family.items():
        _family_of(name, given)


def _family_of(name: str, given) -> None:
    made = callable(given) or isinstance(given, (str, Mapping))
    made = made or (name == "optimiser" and given is None)
    if not (
        made
        or (name == "problem" and isinstance(given, problems.Problem))
        or (name == "model" and hasattr(given, "loss_and_gradient"))
    ):
        found = f"{name} must be one, or a function that makes one, got {_validate.shown(given)}"
        raise error(TypeError, found, "a function that makes one")


class Rerun(NamedTuple):
    """One run of a table, done again."""

    model: models.Model
    problem: problems.Problem
    weights: NamedTuple
    run: Trajectory


def rerun(
    row: pandas.Series,
    *,
    problem=problems.gaussian_in_span,
    model=models.Attention,
    optimiser=None,
    **options: object,
) -> Rerun:
    """Do one run of a sweep's table again: what was trained, on what, from where, and how it went.

    Parameters
    ----------
    row : of the table that `sweep` returned, such as ``table.iloc[3]``.
    problem, model, optimiser : what the sweep was given.
    **options : for `descend`, such as ``watch`` and ``at``; not with an optimiser.

    Raises
    ------
    ValueError : if the row lacks an axis of the sweep, or names what is not given.
    TypeError : if it is no row.

    Introduced in :doc:`/own`.

    Examples
    --------
    >>> from descent import rerun, sweep
    >>> table = sweep(N=2, n=2, D=4, d=2, seed=range(3), steps=50)
    >>> again = rerun(table.iloc[2], watch=("attention",), at=[0, 50])
    >>> bool(abs(again.run.loss[-1] - table["last_loss"][2]) < 1e-9)
    True
    >>> again.run.watched["attention"].shape
    torch.Size([2, 1, 2, 2, 2])
    """
    _require_family(problem=problem, model=model, optimiser=optimiser)
    family = Family.of(model, problem, optimiser)
    if not hasattr(row, "keys"):
        found = f"row must be a row of the table, got {_validate.shown(row)}"
        raise error(TypeError, found, "give table.iloc[0] or another")
    needed = [*family.named, *family.axes, "train", "steps", "scale", "step", "seed", "start"]
    missing = [axis for axis in needed if axis not in row]
    if missing:
        found = f"row lacks {', '.join(missing)}"
        raise error(ValueError, found, "give a row of the table, and what the sweep was given")
    given = ("problem", "model", "optimiser")
    forgotten = [
        f"{kind} {row[kind]!r}" for kind in given if kind in row and kind not in family.named
    ]
    if forgotten:
        found = f"row was run with {', '.join(forgotten)}"
        raise error(ValueError, found, "give rerun the names that the sweep was given")
    cell = {axis: _scalar(row[axis]) for axis in needed}
    made, data, weights = family.instance(cell, cell["seed"], cell["start"], cell["scale"])
    step = cell["step"] if cell["step"] == "1/L" else _rule(cell["step"])
    how = {"train": cell["train"], "steps": cell["steps"]}
    if family.optimiser(cell) is None:
        run = descend(made, data, weights, step=step, **how, **options)
    else:
        losses, last = optimise(made, data, weights, family.optimiser(cell), lr=step, **how)
        run = as_descended(losses, last, step)
    return Rerun(made, data, weights, run)


def _scalar(value):
    return value.item() if hasattr(value, "item") else value


def _rule(step: str) -> float | Callable:
    return steps.polyak() if step == "polyak" else float(step)


def _work(grid: Grid, missing: list[Task], store, cluster) -> None:
    done = grid.size - sum(len(task.runs) for task in missing)
    with _done(missing, cluster) as results, _progress(grid.size, done) as bar:
        try:
            for task, columns in results:
                store.add(task, columns)
                done += len(task.runs)  # counted here, since a silent bar counts nothing
                bar.update(len(task.runs))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept(done, grid, store)) from None


def _kept(done: int, grid: Grid, store) -> str:
    folder = getattr(store, "folder", None)
    if folder is None:
        return f"interrupted after {done} of {grid.size} runs; with out= they would have been kept"
    return (
        f"interrupted: {done} of {grid.size} runs are kept in {folder}; "
        "give the same command again to go on"
    )


def _progress(runs: int, done: int) -> tqdm:
    silent = "DESCENT_BOOK" in os.environ
    return tqdm(total=runs, initial=done, unit="run", desc="sweep", disable=silent)


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
