"""The same tasks on a Dask cluster: one that is there, or one of this machine's cores."""

from __future__ import annotations

import asyncio
import logging
import signal
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from .._errors import error
from ._grid import Task
from ._task import run_task

#: Seconds that an address has to answer: with what Python takes to start, ten are not to pass.
PATIENCE = 4
#: A process for each core, since the tasks are single-threaded, and no word when Ctrl-C ends them.
LOCAL = {
    "threads_per_worker": 1,
    "dashboard_address": "127.0.0.1:0",
    "silence_logs": logging.ERROR,
}


@contextmanager
def connected(cluster) -> Iterator:
    """A client of ``cluster``: a client as it is, an address, or ``"local"``."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise error(
            ValueError, "cluster needs dask", "install it with pip install 'descent-book[cluster]'"
        ) from None
    if isinstance(cluster, Client):
        yield cluster
    elif isinstance(cluster, str) and cluster == "local":
        with LocalCluster(**LOCAL) as local:
            with Client(local) as client:
                client.run(_leave_ctrl_c_to_the_sweep)
                yield client
    elif isinstance(cluster, str):
        with _answering(Client, cluster) as client:
            if not client.nthreads():
                warnings.warn(
                    f"no worker has joined {cluster} yet, and the sweep waits for one: "
                    f"start some with `dask worker {cluster}`",
                    stacklevel=2,
                )
            yield client
    else:
        raise error(
            TypeError,
            f"cluster must be 'local', a scheduler's address or a dask.distributed.Client, got {cluster!r}",
            "be 'local', a scheduler's address or a dask.distributed.Client",
        )


def _leave_ctrl_c_to_the_sweep() -> None:
    # a terminal sends it to every process that was started from it
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _answering(Client, address: str):
    # Dask's own time limit does not reach the handshake: with somebody who listens and stays
    # silent it waits for ever. In a thread, since a notebook has an event loop of its own.
    with ThreadPoolExecutor(1) as thread:
        kind = thread.submit(asyncio.run, _kind(address)).result()
    if kind != "Scheduler":
        raise error(
            ValueError,
            f"cluster: no Dask scheduler answers at {address!r} ({kind})",
            "start one with `dask scheduler`, which prints its address",
        )
    return Client(address, timeout=PATIENCE)


async def _kind(address: str) -> str:
    """What answers at an address: "Scheduler", or what went wrong."""
    from distributed import Security
    from distributed.core import rpc

    arguments = Security().get_connection_args("client")
    try:
        async with asyncio.timeout(PATIENCE):
            there = rpc(address, timeout=PATIENCE, connection_args=arguments)
            try:
                return (await there.identity())["type"]
            finally:
                await there.close_rpc()
    except (Exception, asyncio.CancelledError) as failure:  # whatever it is, it is no scheduler
        return "silent" if isinstance(failure, TimeoutError) else type(failure).__name__


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
