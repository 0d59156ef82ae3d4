"""Theorems of :doc:`/song2024/values`: W_V is trained, everything else stays."""

import torch
from torch import Tensor

from .._attention import AttentionStart
from .._record import Standing, theorem
from .._report import Promise, Report, along, blurred
from ._shared import full_rank, linear


def values_alone(at: AttentionStart, name: str, alpha: Tensor, power: int) -> Report:
    """Full rank of B_0, the rate ``alpha``, and steps up to the inverse of the largest curvature."""
    # a rank that is not full shows as an eigenvalue of the size of rounding, of either sign
    least = torch.where(at.sigma > at.noise, at.G[..., 0], 0).clamp_min(0)
    return Report(
        hypotheses=(full_rank(at),),
        promises=(linear(at, alpha, power),),
        constants={name: alpha, "κ(G)": at.G[..., -1] / least},
        train="V",
        largest_step=lambda: 1 / at.G[..., -1],
    )


@theorem(
    "song2024-theorem-1",
    title="Training the values",
    box="thm-heads",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("eq-recursion", "thm-values"),
)
def theorem_1(at: AttentionStart) -> Report:
    r"""Any number of heads: :math:`\min_h\|w_h\|^2` in the rate, and the rate twice."""
    alpha = (at.omega.amin(-1) * at.sigma).square()
    return values_alone(at, "μ = min ‖w_h‖² σ_min²(B_0)", alpha, power=2)


@theorem(
    "song2024-theorem-1-printed",
    title="Theorem 1 as printed",
    box="thm-values",
    standing=Standing.REFUTED,
    start=AttentionStart,
)
def theorem_1_printed(at: AttentionStart) -> Report:
    """The norm of all of W_O in the rate: right for one head, false for more."""
    return values_alone(at, "α = ‖W_O‖² σ_min²(B_0)", (at.output * at.sigma).square(), power=1)


@theorem(
    "song2024-plateau",
    title="What no values reach",
    box="thm-values",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("eq-recursion",),
)
def plateau(at: AttentionStart) -> Report:
    r"""The loss never falls below :math:`\frac12\|(I-BB^+)r_0\|^2` and falls to it linearly.

    The rate is twice the smallest eigenvalue of G that is not zero. B is made of the heads whose
    output weights are not zero: the others say nothing.
    """
    values, vectors = torch.linalg.eigh(at.model.gram(at.weights, at.problem))
    dead = values <= values.shape[-1] * torch.finfo(values.dtype).eps * values[..., -1:]
    squares = (vectors.mT @ at.residual[..., None]).squeeze(-1).square()
    floor = torch.where(dead, squares, 0).sum(-1) / 2
    rate = torch.where(dead, torch.inf, values).amin(-1)

    def steps(run):
        return tuple(run.every * t for t in range(len(run.loss)))

    def above(run):
        return floor.expand_as(run.loss), blurred(run.loss, at.rounding), steps(run)

    def below(run):
        t = along(run.every * torch.arange(1, len(run.loss)), run.eta)
        factor = torch.where(rate.isinf(), 0.0, 1 - run.eta * rate)  # of G = 0, which moves nothing
        left = factor ** (2 * t) * (run.loss[0] - floor)
        right = blurred(left + floor, at.rounding) - floor  # the floor is known to rounding too
        return run.loss[1:] - floor, right + 1e-12 * floor, steps(run)[1:]

    return Report(
        hypotheses=(),
        promises=(
            Promise("½‖(I - BB⁺)r_0‖² ≤ f_t", above),
            Promise("f_t - ½‖(I - BB⁺)r_0‖² falls linearly", below),
        ),
        constants={"½‖(I - BB⁺)r_0‖²": floor, "smallest λ(G) > 0": rate},
        train="V",
        largest_step=lambda: 1 / values[..., -1],
    )
