"""The library beside other threads: it leaves the processor as it was, on each of them."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

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
