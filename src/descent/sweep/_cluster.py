"""The same tasks on a Dask cluster: one that is there, or one of this machine's cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ._grid import Task
from ._task import run_task

#: Seconds that an address has to answer.
PATIENCE = 8


@contextmanager
def connected(cluster) -> Iterator:
    """A client of ``cluster``: a client as it is, an address, or ``"local"``."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError(
            "cluster needs dask: install it with pip install 'descent-book[cluster]'"
        ) from None
    if isinstance(cluster, Client):
        yield cluster
    elif cluster == "local":
        # a process for each core: the tasks are single-threaded
        with LocalCluster(threads_per_worker=1, dashboard_address=None) as local:
            with Client(local) as client:
                yield client
    elif isinstance(cluster, str):
        with _answering(Client, cluster) as client:
            yield client
    else:
        raise TypeError(
            f"cluster must be 'local', a scheduler's address or a dask.distributed.Client, "
            f"got {cluster!r}"
        )


def _answering(Client, address: str):
    try:
        return Client(address, timeout=PATIENCE)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise ValueError(
            f"cluster: no Dask scheduler answers at {address!r} "
            f"({type(error).__name__}): start one with `dask scheduler`, which prints its address"
        ) from None


def run_on(client, tasks: list[Task]) -> Iterator[tuple[Task, dict]]:
    """Run the tasks on the cluster's workers; what a lost worker had, another one does."""
    from distributed import as_completed

    futures = client.map(run_task, tasks, pure=False)
    task_of = {future.key: task for future, task in zip(futures, tasks, strict=True)}
    try:
        for future in as_completed(futures):
            yield task_of[future.key], future.result()
            future.release()
    finally:
        client.cancel(futures)
