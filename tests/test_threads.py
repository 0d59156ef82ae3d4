"""The library beside other threads and in other processes, each of them left as it was."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest
import torch
from build import by_socket_files, short_folder
from distributed import Client
from nbclient import NotebookClient

from descent import _layout, descend, landscape, models, optimise, problems, queries

FLUSHED = """
import torch
from descent import _layout, descend, models, problems

torch.set_num_threads(2)  # and no second one has been started yet
problem = problems.gaussian(N=8, n=8, D=64, seed=0)
layer = models.Attention("gaussian", H=4, d=32)
weights = layer.init(problem, runs=runs, seed=1)
descend(layer, problem, weights, step=1e-3, steps=3, reduce=reduce)
assert torch.get_num_threads() == 2
tiny = torch.full((2_000_000,), 1e-310, dtype=torch.float64)
print(int((tiny * 0.5 == 0).sum()))
"""


def test_no_thread_of_torch_is_left_with_denormals_flushed():
    # in a process of its own: the threads that torch has started stay for good
    for setting in ("runs, reduce = 8, False", "runs, reduce = 40, True", "runs, reduce = 1, True"):
        run = subprocess.run(
            [sys.executable, "-c", setting + FLUSHED], capture_output=True, text=True, check=True
        )
        assert run.stdout == "0\n", setting


def work(seed):
    """What a user does, with the defaults, on data of one's own."""
    problem = problems.gaussian(N=2, n=3, D=8, seed=seed)
    layer = models.Attention("softmax", H=2, d=3)
    weights = layer.init(problem, runs=3, seed=seed)
    run = descend(layer, problem, weights, steps=60)
    plain = descend(layer, problem, weights, steps=20, reduce=False)
    loss, _ = optimise(layer, problem, weights, torch.optim.Adam, steps=5, lr=0.01)
    along, line = landscape.directions(layer, weights, seed=0), landscape.offsets(1.0, 3)
    surface = landscape.surface(layer, problem, weights, along, line, line)
    bound = queries.softmax_smoothness(layer, weights, problem)
    return [run.loss, run.eta, plain.loss, loss, surface, bound, layer.ntk(weights, problem)]


def test_four_threads_get_what_one_gets_and_leave_torch_as_it_was():
    alone = [work(seed) for seed in range(12)]
    before = torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(12)))
    for one, other in zip(alone, together, strict=True):
        assert all(map(torch.equal, one, other))
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:  # what a new thread begins with is the process's number
        assert pool.submit(torch.get_num_threads).result() == before


def test_a_thread_that_begins_amid_another_leaves_no_number_behind():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1) as pool:
            outer, inner = _layout.torch_threads(1), _layout.torch_threads(1)
            outer.__enter__()
            pool.submit(inner.__enter__).result()
            outer.__exit__(None, None, None)
            pool.submit(inner.__exit__, None, None, None).result()
            assert pool.submit(torch.get_num_threads).result() == 2
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


FORKED = """
import os, signal
import torch
from descent import descend, models, problems

def losses():
    problem = problems.gaussian(N=8, n=8, D=64, seed=0)
    layer = models.Attention("softmax", H=4, d=32)  # large enough for torch to share out its sums
    weights = layer.init(problem, runs=8, seed=1)
    runs = [descend(layer, problem, weights, step=1e-3, steps=2, reduce=r) for r in (True, False)]
    return torch.cat([run.loss for run in runs])

torch.set_num_threads(2)
before = losses()
child = os.fork()
if not child:
    signal.alarm(60)  # where it waits for a thread that only the parent has
    os._exit(0 if torch.allclose(losses(), before, rtol=1e-12) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_trains_like_its_parent():
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "0\n", "minus the signal that ended it"


def test_a_dask_worker_with_four_threads_trains_what_this_one_does():
    alone = [work(seed) for seed in range(4)]
    with Client(processes=False, n_workers=1, threads_per_worker=4, dashboard_address=None) as here:
        together = here.gather(here.map(work, range(4)))
    for one, other in zip(alone, together, strict=True):
        assert all(map(torch.equal, one, other))


IN_A_NOTEBOOK = """
from descent import descend, models, problems, sweep
problem = problems.gaussian(N=2, n=3, D=8, seed=0)
layer = models.Attention(H=2, d=3)
loss = descend(layer, problem, layer.init(problem, seed=1), steps=5).loss
table = sweep(N=2, n=2, D=3, d=2, step=0.1, steps=5)
print(loss.tolist(), len(table))
"""


def test_a_kernel_of_jupyter_trains_what_a_script_does():
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(IN_A_NOTEBOOK)])
    with short_folder() as sockets:
        NotebookClient(page, config=by_socket_files(sockets), timeout=300).execute()
    command = [sys.executable, "-c", IN_A_NOTEBOOK]
    script = subprocess.run(command, capture_output=True, text=True, check=True)
    said = [x.text for x in page.cells[0].outputs if x.get("name") == "stdout"]
    assert "".join(said) == script.stdout and said
