"""A Dask cluster makes the same table, even if it loses a worker, and a dead address is told."""

import os
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import metadata

import pandas as pd
import pytest
from distributed import Client, LocalCluster

import descent
from descent.__main__ import main
from descent._sweep import _cluster, _run
from descent._sweep._grid import Grid
from descent._sweep._task import run_task

distributed = pytest.importorskip("distributed")

GRID = {"N": 2, "n": 2, "D": [3, 4, 5, 6], "d": 2, "seed": range(3), "step": 0.01, "steps": 400}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The table as one process makes it, byte by byte."""
    out = tmp_path_factory.mktemp("alone") / "t.parquet"
    descent.sweep(out, **GRID, train=["V", "QKV"])
    return out.read_bytes()


@pytest.fixture(scope="module")
def client():
    """Two worker processes, each with a nanny that starts it again."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as cluster:
        with distributed.Client(cluster) as client:
            yield client


def test_two_processes_of_which_one_is_killed_make_the_same_table(
    tmp_path, client, expected, monkeypatch
):
    """The kill comes when the first result is there and the rest is on its way."""
    pids, finished = client.run(os.getpid), []
    run_on = _cluster.run_on

    def with_a_death(client, tasks):
        for result in run_on(client, tasks):
            if not finished:
                victim, tasks_of = next((w, t) for w, t in client.processing().items() if t)
                assert tasks_of, "it has something to lose"
                os.kill(pids[victim], signal.SIGKILL)
            finished.append(result[0].index)
            yield result

    monkeypatch.setattr(_cluster, "run_on", with_a_death)
    monkeypatch.setattr(_cluster, "run_task", slowly)
    out = tmp_path / "t.parquet"
    descent.sweep(out, cluster=client, **GRID, train=["V", "QKV"])
    assert out.read_bytes() == expected
    assert sorted(finished) == list(range(8)), "each task once"
    assert set(client.run(os.getpid).values()) != set(pids.values()), "the killed one was replaced"


def slowly(task):
    """So that both workers are at work when one dies."""
    time.sleep(0.2)
    return run_task(task)


def test_a_worker_without_the_library_is_told_in_one_line():
    """Hidden from one worker by what it loads at its start; the message must not break its tie."""
    hide = ["import sys; sys.modules['descent'] = None"]
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options, preload=hide, silence_logs="CRITICAL") as bare:
        with Client(bare) as client:
            said = "a worker of the cluster lacks what the sweep needs .*descent.*: install descent"
            with pytest.raises(RuntimeError, match=said):
                descent.sweep(**GRID, train="V", cluster=client)
            assert not client.futures


def test_a_cluster_never_has_more_than_so_many_tasks_at_once(client, monkeypatch):
    alive, run_on = [], _cluster.run_on

    def counted(client, tasks):
        for result in run_on(client, tasks):
            alive.append(len(client.futures))
            yield result

    monkeypatch.setattr(_cluster, "run_on", counted)
    monkeypatch.setattr(_cluster, "AHEAD", 2)
    table = descent.sweep(**GRID | {"D": range(3, 12)}, train="V", cluster=client)
    assert len(table) == 27 and len(alive) == 9 and max(alive) <= 2


UNGUARDED = "import descent\ndescent.sweep(N=2, n=2, D=3, step=0.1, steps=5, cluster='local')\n"


@pytest.mark.parametrize("beside", [False, True], ids=["script", "module"])
def test_a_script_without_a_guard_is_told_of_it_in_one_line(tmp_path, beside):
    """Each worker would import the script, and so start the cluster again."""
    script = tmp_path / "script.py"
    script.write_text("import work\n" if beside else UNGUARDED)
    (tmp_path / "work.py").write_text(UNGUARDED)
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    told = [line for line in run.stderr.splitlines() if not line.startswith(" ")]
    assert told == [
        "Traceback (most recent call last):",
        "RuntimeError: cluster='local' starts workers, each of which imports this script first: "
        "put what is to run once under if __name__ == '__main__':",
    ]


GUARDED = """sweep()
if __name__ == "__main__":
    try:
        sweep()
    except OSError:
        pass
if ready:
    sweep()
"""


@pytest.mark.parametrize(("line", "guarded"), [(1, False), (4, True), (8, False)])
def test_a_guard_is_an_if_that_asks_for_the_modules_name(tmp_path, line, guarded):
    (tmp_path / "script.py").write_text(GUARDED)
    assert _cluster._guarded(tmp_path / "script.py", line) is guarded


def test_an_address_will_do_and_what_is_done_is_not_done_again(
    tmp_path, client, expected, monkeypatch
):
    out, sent = tmp_path / "t.parquet", []
    store = _table_of(out)
    for task in store.missing()[:5]:
        store.add(task, run_task(task))
    run_on = _cluster.run_on
    monkeypatch.setattr(
        _cluster, "run_on", lambda client, tasks: sent.extend(tasks) or run_on(client, tasks)
    )
    address = client.scheduler.address
    descent.sweep(out, cluster=address, **GRID, train=["V", "QKV"])
    assert [task.index for task in sent] == [5, 6, 7]
    assert out.read_bytes() == expected


def _table_of(out):
    from descent._sweep._table import Store

    return Store(out, Grid.of({**GRID, "train": ["V", "QKV"]}))


def test_what_fails_on_a_worker_is_told_here(client):
    with pytest.raises(MemoryError, match="in the cell N=2, n=1, .*no runs fit at once"):
        descent.sweep(N=2, n=1, D=3, train="Q", steps=10**13, cluster=client)
    assert not client.futures, "nothing is left on the cluster"


def test_a_worker_with_several_threads_takes_one_task_at_a_time():
    # torch's forward mode, which 1/L needs, is one for the whole process
    grid = GRID | {"train": ["Q", "QK", "QKV"], "seed": range(8), "steps": 2}
    with Client(processes=False, n_workers=1, threads_per_worker=4, dashboard_address=None) as here:
        shared = descent.sweep(**grid, cluster=here)
    assert "DESCENT_BOOK" not in os.environ
    pd.testing.assert_frame_equal(shared, descent.sweep(**grid))


def test_a_cluster_without_workers_is_told_before_it_is_waited_for():
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        with pytest.warns(UserWarning, match="no worker has joined .*start some with `dask worker"):
            with _cluster.connected(address):
                pass


@pytest.fixture(params=["nobody", "somebody"])
def deaf(request):
    """An address where nobody listens, and one where somebody does who is no scheduler."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "somebody":
            listener.listen()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def test_an_address_that_does_not_answer_is_told_in_one_line(tmp_path, deaf, capsys, monkeypatch):
    assert _cluster.PATIENCE < 10
    monkeypatch.setattr(_cluster, "PATIENCE", 1)
    command = "sweep --N 2 --n 2 --D 3 --out".split()
    start = time.monotonic()
    assert main([*command, str(tmp_path / "t.parquet"), "--cluster", deaf]) == 2
    assert time.monotonic() - start < 6, "the patience of one second, and some for the machine"
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"descent: cluster: no Dask scheduler answers at '{deaf}'")
    assert error.endswith("start one with `dask scheduler`, which prints its address")
    assert "\n" not in error


def test_local_starts_workers_and_stops_them(monkeypatch):
    seen = []

    def note(client, tasks):
        seen.append(client)
        return ((task, run_task(task)) for task in tasks)

    monkeypatch.setattr(_cluster, "run_on", note)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    descent.sweep(N=2, n=2, D=3, step=0.1, steps=5, cluster="local")
    assert seen[0].status == "closed"


def test_a_worker_that_is_slow_to_end_costs_no_result(monkeypatch):
    close = LocalCluster.close

    def late(cluster):
        close(cluster)
        raise TimeoutError

    monkeypatch.setattr(LocalCluster, "close", late)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    table = descent.sweep(N=2, n=2, D=3, step=0.1, steps=5, cluster="local")
    assert len(table) == 1


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(
        ValueError, match=r"cluster needs dask: .*pip install 'dask\[distributed\]'"
    ):
        descent.sweep(N=2, n=2, D=3, cluster="local")
    assert "distributed" in metadata("dask").get_all("Provides-Extra"), "there is such a package"


def test_one_thread_does_the_sums_everywhere(monkeypatch):
    """Else the last bits would depend on the number of cores."""
    import torch

    threads = []
    monkeypatch.setattr(
        _run, "run_task", lambda task: (run_task(task), threads.append(torch.get_num_threads()))[0]
    )
    descent.sweep(**GRID, train="V")
    assert set(threads) == {1}
