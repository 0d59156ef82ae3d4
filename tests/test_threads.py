"""The library beside other threads: it leaves the processor as it was, on each of them."""

import subprocess
import sys

FLUSHED = """
import torch
from descent import descend, models, problems

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
