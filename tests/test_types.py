"""A type checker reads the public surface: right uses pass, and wrong ones are told."""

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"
USES = """\
import torch

import descent
from descent.models import Model
from descent.problems import Problem

problem: Problem = descent.problems.gaussian(N=2, n=3, D=4, seed=0)
layer = descent.models.Attention(kernel="softmax", H=2, d=3)
model: Model = layer
weights = layer.init(problem, seed=1, runs=3)
run: descent.Trajectory = descent.descend(layer, problem, weights, steps=5, step=0.1)
reached: torch.Tensor = run.steps_to(0.5)
again: descent.Trajectory = descent.Trajectory.load("run.npz")
numbers: torch.Tensor = descent.draws.normal(0, "W", (2, 3), runs=[1, 2])
descent.descend(layer, problem, weights, steps="many")  # wrong
descent.draws.normal(0, 7, (2, 3))  # wrong
layer.init(problem, seed="x")  # wrong
"""


def test_right_uses_pass_and_wrong_ones_are_told(tmp_path):
    assert (SOURCE / "descent" / "py.typed").exists(), "or installed types are not read"
    (tmp_path / "uses.py").write_text(USES)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--follow-imports=silent",
        "--cache-dir=cache",
        "uses.py",
    ]
    environment = {**os.environ, "MYPYPATH": str(SOURCE)}
    environment.pop("PYTHONPATH", None)
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    told = {int(line.split(":")[1]) for line in said.stdout.splitlines() if ": error:" in line}
    lines = enumerate(USES.splitlines(), 1)
    assert told == {k for k, line in lines if line.endswith("# wrong")}, said.stdout + said.stderr
