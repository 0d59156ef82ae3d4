"""Theorems of :doc:`/foundations/momentum` that speak of plain descent on a convex loss."""

import torch
from torch import Tensor

from ... import steps
from ..._descend import Trajectory
from .._function import FunctionStart
from .._record import Standing, theorem
from .._report import Promise, Report, along
from .descent import gain

WATCH = ("weights",)


def away(at: FunctionStart, run: Trajectory) -> tuple[Tensor, Tensor]:
    """From the minimiser to each iterate, and the squared length of that."""
    here = run.watched["weights"].theta - at.known("minimiser")
    return here, here.square().sum(-1)


def noise(at: FunctionStart, run: Trajectory) -> Tensor:
    """What a gap may be off by."""
    return at.visible(run) * at.gap(run)[0]


def flat(at: FunctionStart, run: Trajectory) -> tuple:
    """Both sides of what convexity says between an iterate and the minimiser."""
    inner = (at.slopes(run)[0] * away(at, run)[0]).sum(-1)
    return at.gap(run), inner + noise(at, run), run.at


def smooth(at: FunctionStart, run: Trajectory) -> tuple:
    """Both sides of the descent lemma at 1/L."""
    return at.slopes(run)[1], 2 * at.known("L") * (at.gap(run) + noise(at, run)), run.at


@theorem(
    "convex-rate",
    title="Gradient descent on a convex loss",
    box="thm-convex",
    standing=Standing.PROVED,
    start=FunctionStart,
    uses=("lem-descent",),
)
def convex(at: FunctionStart) -> Report:
    r"""With L and a minimiser given: :math:`f_t-f^* \le \|\theta_0-\theta^*\|^2/(2\eta t)`.

    Any other point will do for the minimiser, with its loss for the infimum.
    """
    L = at.known("L")

    def gap(run):
        t = along(torch.arange(1, len(run.loss)), run.eta)
        bound = away(at, run)[1][0] / (2 * run.eta * t)
        return at.gap(run)[1:], bound + noise(at, run), run.at[1:]

    return Report(
        hypotheses=(),
        along=(
            Promise("f - f* ≤ ⟨∇f, θ - θ*⟩", lambda run: flat(at, run), WATCH),
            Promise("η(1 - ηL/2)‖∇f‖² ≤ f_t - f_{t+1}", lambda run: gain(at, run), WATCH),
        ),
        promises=(Promise("f_t - f* ≤ ‖θ_0 - θ*‖² / 2ηt", gap, WATCH),),
        train="theta",
        largest_step=lambda: 1 / L,
    )


@theorem(
    "polyak-step",
    title="Polyak's step",
    box="thm-polyak",
    standing=Standing.PROVED,
    start=FunctionStart,
    uses=("eq-polyak", "lem-descent"),
)
def polyak(at: FunctionStart) -> Report:
    """With L, mu and a minimiser given, none of which the step uses."""
    mu, L = at.known("mu"), at.known("L")

    def grows(run):
        return mu / 2 * away(at, run)[1], at.gap(run) + noise(at, run), run.at

    def each(run):
        square = away(at, run)[1]
        spent = (at.gap(run).square() / at.slopes(run)[1].clamp_min(1e-300))[:-1]
        early = at.gap(run)[:-1] > noise(at, run)
        right = square[:-1] - spent + 1e-9 * square[0]
        return torch.where(early, square[1:], 0), torch.where(early, right, 0), run.at[1:]

    def falls(run):
        square = away(at, run)[1]
        t = along(torch.arange(1, len(square)), run.eta)
        measured = -torch.log(square[1:] / square[0])
        # down to there a distance can be told from rounding
        seen = (measured < 50) & (square[:-1].cummin(0).values > 2 * at.least / mu)
        promised = torch.where(seen, -torch.log1p(-mu / (4 * L)) * t, 0)
        return promised, torch.where(seen, measured, 0), run.at[1:]

    return Report(
        hypotheses=(),
        along=(
            Promise("f - f* ≤ ⟨∇f, θ - θ*⟩", lambda run: flat(at, run), WATCH),
            Promise("‖∇f‖² ≤ 2L(f - f*)", lambda run: smooth(at, run), WATCH),
            Promise("μ/2 ‖θ - θ*‖² ≤ f - f*", grows, WATCH),
        ),
        promises=(
            Promise("a step gains (f - f*)²/‖∇f‖² in distance²", each, WATCH),
            Promise("‖θ_t - θ*‖² ≤ (1 - μ/4L)^t ‖θ_0 - θ*‖²", falls, WATCH),
        ),
        constants={"1 - μ/4L": 1 - mu / (4 * L)},
        train="theta",
        largest_step=lambda: steps.polyak(at.infimum),
    )
