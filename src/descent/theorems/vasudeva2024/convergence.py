"""Theorems of :doc:`/vasudeva2024/convergence`: W turns into the direction of maximal margin."""

import torch
from torch import Tensor

from ... import steps
from ..._descend import Trajectory
from ..._errors import error
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report
from .._selection import SelectionStart
from ._shared import alike, correlation, depth, heard, no_push, path, selectable, steep, taken


@theorem(
    "vasudeva2024-progress",
    title="Every step makes progress",
    box="thm-progress",
    standing=Standing.PROVED,
    start=SelectionStart,
)
def progress(at: SelectionStart) -> Report:
    """Theorem A: the way down has a component along W_mm, of a size that does not shrink."""
    bound = 1 / (at.B * at.length)

    def along(run: Trajectory):
        component = (at.downhill(path(run)) * at.mm.direction).sum((-2, -1))
        return bound.expand_as(component), component, run.at

    return Report(
        hypotheses=selectable(at),
        promises=(Promise("⟨-∇/‖∇‖, W̄_mm⟩ ≥ 1/(B‖W_mm‖)", along, ("weights",)),),
        constants={"B": at.B, "‖W_mm‖": at.length},
        along=(heard(at),),
        train="W",
        largest_step=lambda: steps.normalised(at.eta),
    )


@theorem(
    "vasudeva2024-domination",
    title="No direction is much steeper than that of the margin",
    box="thm-domination",
    standing=Standing.PROVED,
    start=SelectionStart,
    uses=("thm-progress",),
)
def domination(at: SelectionStart) -> Report:
    """Theorem B, at the given W: the pull along W itself against the pull along W_mm."""
    W = at.weights.W
    R, down = at.R(W), at.downhill(W)

    def here(run: None):
        length = torch.linalg.vector_norm(W, dim=(-2, -1))
        own = (down * W).sum((-2, -1)) / length.where(length > 0, 1)  # W = 0 has R = 0
        along = (down * at.mm.direction).sum((-2, -1))
        # C is zero for one sequence of two tokens, where only rounding is left
        return R * (own / along - 1), at.C + 1e-12 * R / along.abs(), ()

    cone = Inequality("-R ≤ min m_i", -at.m(W).amin(-1), R)
    return Report(
        hypotheses=(*selectable(at), steep(at), cone, alike(at, W)),
        promises=(Promise("R (⟨∇, W̄⟩/⟨∇, W̄_mm⟩ - 1) ≤ C", here),),
        constants={"C": at.C, "R": R},
    )


@theorem(
    "vasudeva2024-rate",
    title="Normalised descent converges to the margin",
    box="thm-rate",
    standing=Standing.PROVED,
    start=SelectionStart,
    uses=("thm-progress", "thm-domination"),
)
def rate(at: SelectionStart) -> Report:
    """Theorem C where no A_it point against each other, so that W stays in the cone by itself."""
    grown = at.constant(depth(at)) * at.length

    def bounded(run: Trajectory):
        return along(at, run, at.eta, at.eta, grown)

    def longer(run: Trajectory):
        return lengths(at, run, at.eta)

    return Report(
        hypotheses=(*selectable(at), steep(at), no_push(at)),
        promises=(
            Promise("ηt/(B‖W_mm‖) ≤ ‖W_t‖ + ‖W_0‖", longer, ("weights",)),
            Promise("1 - corr_t ≤ the theorem's sum over ‖W_t‖, at the end", bounded, ("weights",)),
        ),
        constants={"C_M ‖W_mm‖": grown},
        along=(taken(at), heard(at)),
        train="W",
        largest_step=lambda: steps.normalised(at.eta),
    )


def lengths(at: SelectionStart, run: Trajectory, shortest: Tensor | float):
    """W grows at least as fast as the sum of the steps times their least component along W_mm."""
    length = torch.linalg.vector_norm(path(run), dim=(-2, -1))
    t = torch.tensor(run.at).to(length).reshape(-1, *[1] * (length.ndim - 1))
    return shortest * t / (at.B * at.length), length + length[0], run.at


def along(at: SelectionStart, run: Trajectory, shortest, longest, grown: Tensor):
    r"""Theorem C's sum from the first look at which W is not zero, its terms bounded from above.

    Between two looks :math:`\|W_t\|` is only known to be at least what Theorem A gives, or what the
    earlier look and the steps since leave of it.
    """
    W = path(run)
    length, corr = torch.linalg.vector_norm(W, dim=(-2, -1)), correlation(at, W)
    first = 1 if bool((length[0] == 0).any()) else 0
    missing = length * (1 - corr)
    total = torch.zeros_like(missing[0])
    forward = shortest / (at.B * at.length)
    inner = corr * length
    for k in range(first, len(run.at) - 1):
        s = torch.arange(run.at[k + 1] - run.at[k]).to(W)
        s = s.reshape(-1, *[1] * total.ndim)
        least = torch.maximum(length[k] - s * longest, inner[k] + s * forward)
        total = total + (1 / least.clamp_min(1e-300)).sum(0)
    grown_by = (longest * grown + longest**2 / 2) * total
    right = (missing[first] + grown_by) / length[-1]
    right = torch.where(right.isnan(), torch.inf, right)  # constants beyond float64 bound nothing
    return missing[-1] / length[-1], right + 1e-14, ()  # a cosine is known to rounding


@theorem(
    "vasudeva2024-polyak",
    title="Polyak's steps are normalised steps",
    box="thm-polyak-margin",
    standing=Standing.PROVED,
    start=SelectionStart,
    uses=("thm-progress", "thm-rate"),
)
def polyak(at: SelectionStart) -> Report:
    r"""Theorem D with :math:`\lambda = \frac12`: the length of a step lies between two constants.

    So Theorem C holds, with the lower one in the growth of W and the upper one in the sum.
    """
    rho = (at.slope(at.others.mean(-1)) / at.slope(at.best)).amax()
    shortest, longest = polyak_lengths(at, rho, depth(at))
    grown = at.constant(depth(at)) * at.length

    def lower(run: Trajectory):
        taken = step_lengths(at, run)
        return shortest.expand_as(taken), taken, run.at

    def upper(run: Trajectory):
        taken = step_lengths(at, run)
        return taken, longest.expand_as(taken), run.at

    def longer(run: Trajectory):
        return lengths(at, run, shortest)

    def bounded(run: Trajectory):
        return along(at, run, shortest, longest, grown)

    return Report(
        hypotheses=(*selectable(at), steep(at), no_push(at)),
        promises=(
            Promise("λ/(ρB) ≤ step length", lower, ("weights",)),
            Promise("step length ≤ λρ‖W_mm‖/σ(-M)", upper, ("weights",)),
            Promise("λt/(ρB²‖W_mm‖) ≤ ‖W_t‖ + ‖W_0‖", longer, ("weights",)),
            Promise("1 - corr_t ≤ the theorem's sum over ‖W_t‖, at the end", bounded, ("weights",)),
        ),
        constants={"ρ": rho, "M": depth(at)},
        along=(taken(at), heard(at)),
        train="W",
        largest_step=lambda: steps.polyak_of_logarithm(0.5),
    )


def polyak_lengths(at: SelectionStart, rho: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
    """The two constants between which Polyak's steps of factor 1/2 lie."""
    return 0.5 / (rho * at.B), 0.5 * rho * at.length / torch.sigmoid(-M)


def step_lengths(at: SelectionStart, run: Trajectory) -> Tensor:
    """The length of Polyak's step of factor 1/2 from each W that was seen."""
    if at.model.goal != "log excess":
        found = f"the goal is {at.model.goal!r}, whose gradient may underflow"
        raise error(ValueError, found, "train Selection(goal='log excess')")
    gradient = at.model.loss_and_gradient(at.weights._replace(W=path(run)), at.problem, "W")[1]
    return 0.5 / torch.linalg.vector_norm(gradient["W"], dim=(-2, -1))


@theorem(
    "vasudeva2024-sharp-law",
    title="The sharp law",
    box="thm-sharp-law",
    standing=Standing.PROVED,
    start=SelectionStart,
    uses=("thm-rate",),
)
def sharp_law(at: SelectionStart) -> Report:
    """The error times the length tends to K; proved for the flow, run with the steps ``eta``.

    At finite length the measured number is off by what the softmax adds and the start has left:
    it is asked to be within 1 % at the end of a run that is long beside `SelectionStart.settling`.
    """
    dependent = torch.linalg.cond(at.gram)

    def last(run: Trajectory):
        W = path(run)[-1]
        length = torch.linalg.vector_norm(W, dim=(-2, -1))
        # a direction is known to rounding, and K is zero for one difference of tokens from zero
        return (at.mm.error(W) * length - at.K).abs(), 0.01 * at.K + 1e-13 * length, ()

    def far(run: Trajectory):
        length = torch.linalg.vector_norm(path(run)[-1], dim=(-2, -1))
        return 10 * at.K, length, ()  # the angle is then 0.1, its sine less by 0.2 %

    def decided(run: Trajectory):
        length = torch.linalg.vector_norm(path(run)[-1], dim=(-2, -1))
        return (8 * at.length).expand_as(length), length, ()  # what the softmax adds is e^-8

    def settled(run: Trajectory):
        W = path(run)[[0, -1]]
        first, length = torch.linalg.vector_norm(W, dim=(-2, -1))
        return (8 * at.settling).expand_as(length), length - first, ()

    settles = Inequality(
        "η < the threshold", at.largest_eta.new_tensor(at.eta), at.largest_eta, strict=True
    )
    active = (at.alpha > 0).all().to(at.alpha.dtype)
    return Report(
        hypotheses=(
            *selectable(at),
            steep(at),
            Inequality("all duals are positive", 1 - active, torch.tensor(0.5)),
            Inequality("the A_it are independent", dependent, torch.tensor(1e9)),
            settles,
        ),
        promises=(Promise("|err ‖W‖ - K| ≤ K/100 at the end", last, ("weights",)),),
        constants={"K": at.K, "‖W_0^⊥‖": at.unseen, "threshold": at.largest_eta},
        along=(
            taken(at),
            heard(at),
            Promise("10 K ≤ ‖W‖ at the end", far, ("weights",)),
            Promise("8 ‖W_mm‖ ≤ ‖W‖ at the end", decided, ("weights",)),
            Promise("gaps have settled to e^-8 at the end", settled, ("weights",)),
        ),
        train="W",
        largest_step=lambda: steps.normalised(at.eta),
    )
