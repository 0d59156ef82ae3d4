"""Theorems of :doc:`/song2024/values`: W_V is trained, everything else stays."""

from torch import Tensor

from .._attention import AttentionStart
from .._record import Standing, theorem
from .._report import Report
from ._shared import full_rank, linear


def values_alone(at: AttentionStart, name: str, alpha: Tensor, power: int) -> Report:
    """Full rank of B_0, the rate ``alpha``, and steps up to the inverse of the largest curvature."""
    return Report(
        hypotheses=(full_rank(at),),
        promises=(linear(at, alpha, power),),
        constants={name: alpha, "κ(G)": at.G[..., -1] / at.G[..., 0]},
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
