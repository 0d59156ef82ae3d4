"""Theorems of :doc:`/vasudeva2024/everywhere`: data on which every start leads to the margin."""

import torch

from ... import steps
from ..._descend import Trajectory
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report
from .._selection import SelectionStart
from ._shared import path, selectable, taken


@theorem(
    "vasudeva2024-everywhere",
    title="From every start",
    box="thm-everywhere",
    standing=Standing.PROVED,
    start=SelectionStart,
    uses=("thm-progress", "thm-rate"),
)
def everywhere(at: SelectionStart) -> Report:
    """Convergence from every start; proved for the flow, run with the steps ``eta``, small ones."""
    own, pushed = at.pull * at.kappa_min, 2 * at.push * at.kappa_max

    def selected(run: Trajectory):
        m = at.m(path(run)[-1]).amin(-1)
        return 1.0 - torch.sigmoid(m), torch.full_like(m, 0.5), ()

    return Report(
        hypotheses=(*selectable(at), Inequality("2eκ_max < aκ_min", pushed, own, strict=True)),
        promises=(Promise("all φ_opt ≥ 1/2 at the end", selected, ("weights",)),),
        constants={"a": at.pull, "e": at.push, "κ_max/κ_min": at.kappa_max / at.kappa_min},
        along=(taken(at),),
        train="W",
        largest_step=lambda: steps.normalised(at.eta),
    )


@theorem(
    "vasudeva2024-steps",
    title="From every start, in steps",
    box="thm-steps",
    standing=Standing.PROVED,
    start=SelectionStart,
    uses=("thm-progress", "thm-rate", "thm-everywhere"),
)
def in_steps(at: SelectionStart) -> Report:
    """The same for normalised steps of the length ``eta``, if that is below a threshold."""

    def selected(run: Trajectory):
        m = at.m(path(run)[-1]).amin(-1)
        return 1.0 - torch.sigmoid(m), torch.full_like(m, 0.5), ()

    def kept(run: Trajectory):
        served = at.m(path(run)) >= 0
        lost = (served.cummax(0).values & ~served).sum(-1).to(at.B.dtype)
        return lost, torch.full_like(lost, 0.5), run.at

    short = Inequality("η < the threshold", torch.tensor(at.eta), at.everywhere_eta, strict=True)
    return Report(
        hypotheses=(*selectable(at), short),
        promises=(
            Promise("no soft margin falls below zero again", kept, ("weights",)),
            Promise("all φ_opt ≥ 1/2 at the end", selected, ("weights",)),
        ),
        constants={"threshold": at.everywhere_eta, "a": at.pull, "e": at.push},
        along=(taken(at),),
        train="W",
        largest_step=lambda: steps.normalised(at.eta),
    )
