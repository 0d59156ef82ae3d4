"""Theorems of :doc:`/vasudeva2024/sparsity`: how fast attention concentrates on one token."""

import math

import torch

from ... import steps
from ..._descend import Trajectory
from .._record import Standing, theorem
from .._report import Promise, Report
from .._selection import SelectionStart
from ._shared import feasible, path


@theorem(
    "vasudeva2024-sparsity",
    title="The margin is the rate of sparsity",
    box="thm-sparsity",
    standing=Standing.PROVED,
    start=SelectionStart,
)
def sparsity(at: SelectionStart) -> Report:
    r"""Theorem E, with :math:`\max_i(1 - \varphi_{i,opt})` as minus its logarithm on both sides."""

    def measured(run: Trajectory):
        W = path(run)
        # 1 - sigmoid(m) = sigmoid(-m), whose logarithm is known wherever m is
        decay = -torch.nn.functional.logsigmoid(-at.m(W).amin(-1))
        return W, torch.linalg.vector_norm(W, dim=(-2, -1)), decay

    def at_least(run: Trajectory):
        W, length, decay = measured(run)
        error = torch.where(length > 0, at.mm.error(W).nan_to_num(2.0), 2.0)
        promised = length * (1 / at.length - at.B * error) - math.log(at.problem.n - 1)
        return promised, decay, run.at

    def at_most(run: Trajectory):
        _, length, decay = measured(run)
        return decay, length / at.length + math.log(2), run.at

    return Report(
        hypotheses=(feasible(at),),
        promises=(
            Promise("max(1-φ) ≤ (T-1) exp(-‖W‖(1/‖W_mm‖ - B err))", at_least, ("weights",)),
            Promise("max(1-φ) ≥ ½ exp(-‖W‖/‖W_mm‖)", at_most, ("weights",)),
        ),
        constants={"‖W_mm‖": at.length, "B": at.B},
        train="W",
        largest_step=lambda: steps.normalised(at.eta),
    )
