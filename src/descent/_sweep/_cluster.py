"""The same tasks on a Dask cluster: one that is there, or one of this machine's cores."""

from __future__ import annotations

import ast
import asyncio
import itertools
import logging
import pickle
import signal
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import current_process
from pathlib import Path

from .._errors import error
from ._grid import Task
from ._task import run_task

#: Seconds that an address has to answer: with what Python takes to start, ten are not to pass.
PATIENCE = 4
#: Tasks that are on the cluster at once: work for so many cores, and no more than fits here.
AHEAD = 4096
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
            ValueError, "cluster needs dask", "install it with pip install 'dask[distributed]'"
        ) from None
    if isinstance(cluster, Client):
        yield cluster
    elif isinstance(cluster, str) and cluster == "local":
        _require_guard()
        local = LocalCluster(**LOCAL)
        try:
            with Client(local) as client:
                client.run(_leave_ctrl_c_to_the_sweep)
                yield client
        finally:
            with suppress(TimeoutError):  # a worker was too busy to end, and was killed
                local.close()
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


def _require_guard() -> None:
    """Raise RuntimeError in a script that every worker would run again, since it imports it first."""
    main, frame = vars(sys.modules["__main__"]), sys._getframe()
    while frame and (frame.f_globals is not main or frame.f_code.co_name != "<module>"):
        frame = frame.f_back
    # multiprocessing marks a worker while it imports the script: then its parent saw nothing
    is_worker = getattr(current_process(), "_inheriting", False)
    if is_worker or (
        frame and "__file__" in main and not _guarded(main["__file__"], frame.f_lineno)
    ):
        found = "cluster='local' starts workers, each of which imports this script first"
        remedy = "put what is to run once under if __name__ == '__main__':"
        raise error(RuntimeError, found, remedy)


def _guarded(file: str, line: int) -> bool:
    """Whether a line of a script is under an if that asks for the module's name."""
    try:
        nodes = ast.walk(ast.parse(Path(file).read_bytes()))
    except (OSError, SyntaxError, ValueError):
        return True  # no script of Python, and no worker imports it
    conditions = [x for x in nodes if isinstance(x, ast.If) and "__name__" in ast.unparse(x.test)]
    return any(x.lineno <= line <= x.end_lineno for x in conditions)


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

    waiting, task_of = iter(tasks), {}

    def sent(most: int) -> list:
        """The next tasks, on their way."""
        some = list(itertools.islice(waiting, most))
        futures = client.map(pickle.loads, [_packed(task) for task in some], pure=False)
        task_of.update(zip(futures, some, strict=True))
        return futures

    try:
        results = as_completed(sent(AHEAD))
        for future in results:
            columns = _result(future)
            yield task_of.pop(future), columns
            results.update(sent(1))
    finally:
        client.cancel(list(task_of))


class _Call:
    """A task that is run where it is unpickled."""

    def __init__(self, task: Task):
        self.task = task

    def __reduce__(self):
        return run_task, (self.task,)


def _packed(task: Task) -> bytes:
    # A message that a worker cannot read breaks its connection, and the sweep would wait for ever.
    # As bytes every worker can read it; what it cannot do is then an error of the task.
    from distributed.protocol.pickle import dumps

    return dumps(_Call(task))


def _result(future) -> dict:
    try:
        return future.result()
    except ModuleNotFoundError as failure:
        found = f"a worker of the cluster lacks what the sweep needs ({failure})"
        remedy = "install descent there as it is here, and what your own model imports"
        raise error(RuntimeError, found, remedy) from None
