"""Theorems of :doc:`/vasudeva2024/everywhere`: data on which every start leads to the margin."""

import torch
from torch import Tensor

from ... import steps
from ..._descend import Trajectory
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report
from .._selection import SelectionStart
from ._shared import heard, path, selectable, steep, taken


def arrived(at: SelectionStart) -> Promise:
    """No sequence is on its way back when the run ends, as the proof says that all are.

    With Q the least distance of a lost soft margin from zero, and P the least of the others, Q - P
    falls until it is zero, and then Q does.
    """

    def last(run: Trajectory):
        before, after = at.m(path(run))[-2:][[0, -1]]
        (Q, apart), (Q_then, apart_then) = (
            _distances(after, after < 0),
            _distances(before, after < 0),
        )
        further = torch.where(apart > 0, apart - apart_then, Q - Q_then)
        known = 1e-12 * (1 + after.abs().amax(-1))  # short steps may be lost in rounding
        back = ((after < 0).any(-1) & (further <= known)).to(after.dtype)
        return back, torch.full_like(back, 0.5), ()

    return Promise("no sequence is still on its way back at the end", last, ("weights",))


def _distances(m: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
    """Q and Q - P of soft margins (*r, N)."""
    Q = torch.where(lost, -m, torch.inf).amin(-1)
    return Q, Q - torch.where(lost, torch.inf, m).amin(-1)


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
        hypotheses=(
            *selectable(at),
            steep(at),
            Inequality("2eκ_max < aκ_min", pushed, own, strict=True),
        ),
        promises=(Promise("all φ_opt ≥ 1/2 at the end", selected, ("weights",)),),
        constants={"a": at.pull, "e": at.push, "κ_max/κ_min": at.kappa_max / at.kappa_min},
        along=(taken(at), heard(at), arrived(at)),
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

    short = Inequality(
        "η < the threshold", at.everywhere_eta.new_tensor(at.eta), at.everywhere_eta, strict=True
    )
    return Report(
        hypotheses=(*selectable(at), steep(at), short),
        promises=(
            Promise("no soft margin falls below zero again", kept, ("weights",)),
            Promise("all φ_opt ≥ 1/2 at the end", selected, ("weights",)),
        ),
        constants={"threshold": at.everywhere_eta, "a": at.pull, "e": at.push},
        along=(taken(at), heard(at), arrived(at)),
        train="W",
        largest_step=lambda: steps.normalised(at.eta),
    )
