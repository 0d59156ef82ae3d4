"""Theorems of :doc:`/foundations/rank`: ranks and eigenvalues at a start, for any layer."""

import torch
from jaxtyping import Float
from torch import Tensor

from ... import _validate, spectra
from .._attention import AttentionStart
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report

#: Singular values above this share of the largest are far from rounding, and so are products.
VISIBLE = 1e-7


@theorem(
    "rank-threshold",
    title="The rank of the features",
    box="thm-rank-heads",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("thm-rank-one-head",),
)
def rank_threshold(at: AttentionStart) -> Report:
    """At most min(HD, tokens distinct within their sequence), and that for almost all draws.

    Softmax attention of one token is 1 whatever the weights, and that of one token repeated as
    good as that: all heads then see the same, and of such sequences at most D count.
    """
    X, layer = at.problem.X, at.model
    same = (X.unsqueeze(-2) == X.unsqueeze(-3)).all(-1)
    each = (~same.tril(-1).any(-1)).sum(-1)
    distinct, softmax = each.sum(-1).double(), layer.kernel.name == "softmax"
    spare = softmax * ((each == 1).sum(-1) - at.problem.D).clamp_min(0)
    heads = 1 if at.problem.n == 1 and softmax else layer.H
    most = (distinct - spare).clamp_max(heads * at.problem.D)
    rank = spectra.rank(at.B).double()
    return Report(
        hypotheses=(
            _no_token_is_special(at, distinct),
            _decided(rank == most, _general_position(at, same, heads)),
        ),
        promises=(
            Promise("rank B_0 ≤ min(HD, distinct tokens)", lambda _: (rank, most, ())),
            Promise("rank B_0 ≥ that, for almost all draws", lambda _: (most, rank, ())),
        ),
        constants={
            "rank B_0": rank,
            "HD": most.new_tensor(heads * at.problem.D),
            "distinct": distinct,
        },
    )


def _no_token_is_special(at: AttentionStart, distinct: Tensor) -> Inequality:
    """None is zero or in two sequences: what almost all tokens fulfil, and data may not."""
    X = at.problem.tokens
    same = (X.unsqueeze(-2) == X.unsqueeze(-3)).all(-1)
    first = ~same.tril(-1).any(-1) & (X != 0).any(-1)
    special = distinct - first.sum(-1)
    return Inequality("no token is zero or in two sequences", special, 0 * special)


def _decided(reached: Tensor, position: Tensor) -> Inequality:
    """A rank that is reached is seen; that one is missed, only far from where float64 rounds."""
    name = "the rank is reached, or float64 sees tokens, attention and heads in general position"
    right = torch.where(reached, 1.0, position)
    return Inequality(name, torch.full_like(right, VISIBLE), right)


def _general_position(at: AttentionStart, same: Tensor, heads: int) -> Float[Tensor, "*r"]:
    """What is above zero for almost all tokens and weights, by how much.

    The tokens, the attention matrices and the heads have the ranks that their numbers allow, and
    no attention matrix is lost beside the others, as where it underflows.
    """
    first = ~same.tril(-1).any(-1)  # (*b, N, n): not seen before in its sequence
    count = first.sum((-2, -1))
    S = at.forward.S
    own = torch.linalg.svdvals(S)
    lost = torch.arange(at.problem.n, device=S.device) >= first.sum(-1)[..., None, :, None]
    of_S = torch.where(lost, torch.inf, own).amin((-3, -2, -1)) / own.amax((-3, -2, -1))
    of_X = _last(torch.linalg.svdvals(at.problem.tokens), count.clamp_max(at.problem.D))
    between = torch.linalg.svdvals(S[..., :heads, :, :, :].flatten(-3))
    of_heads = _last(between, count.clamp_max(heads))
    return torch.minimum(torch.minimum(of_S, of_X), of_heads)


def _last(values: Tensor, count: Tensor) -> Tensor:
    """The singular value of that number over the largest; zero where there are not so many."""
    last = values.gather(
        -1, (count - 1).clamp_max(values.shape[-1] - 1)[..., None].expand(*values.shape[:-1], 1)
    )
    return torch.where(values[..., 0] > 0, last.squeeze(-1) / values[..., 0], 0)


def most(kernel: str, N: int, n: int, D: int, d: int) -> int:
    """The largest rank that the theorem allows, whatever the tokens and weights are."""
    if kernel == "softmax":
        return min(N * n * min(n - 1, d), D * min(D, d))
    return min(N * n * min(n, d), D * d, D * (3 * D + 1) // 2)


@theorem(
    "jacobian-ranks",
    title="The rank of the derivative of attention",
    box="thm-jacobian",
    standing=Standing.PROVED,
    start=AttentionStart,
)
def jacobian_rank(at: AttentionStart) -> Report:
    """What W_Q can move in the attention matrices of one head; the head of the largest rank."""
    kernel = _validate.one_of("kernel", at.model.kernel.name, ("softmax", "gaussian"))
    J = at.model.attention_jacobian(at.weights, at.problem)
    top = torch.linalg.matrix_norm(J, 2)
    # a saturated head moves so little that its smallest directions drown in rounding
    rank = torch.where(top > 0, spectra.rank(J, 1e-9), 0).amax(-1).double()
    bound = most(kernel, at.problem.N, at.problem.n, at.problem.D, at.model.d)
    bound = torch.full_like(rank, bound)
    return Report(
        hypotheses=(),
        promises=(Promise("rank ∂S/∂W_Q ≤ its bound", lambda _: (rank, bound, ())),),
        constants={"rank ∂S/∂W_Q": rank, "bound": bound},
    )


@theorem(
    "ntk-layer",
    title="The tangent kernel of the layer",
    box="prop-ntk",
    standing=Standing.PROVED,
    start=AttentionStart,
)
def tangent_kernel(at: AttentionStart) -> Report:
    """All three matrices trained: its smallest eigenvalue is at least that of the values alone."""
    least = torch.linalg.eigvalsh(at.model.ntk(at.weights, at.problem))
    blur = 1e-13 * least[..., -1]
    promised = (at.omega.amin(-1) * at.sigma).square()
    return Report(
        hypotheses=(),
        promises=(
            Promise("min ‖w_h‖² σ_min²(B) ≤ λ_min(Θ)", lambda _: (promised, least[..., 0] + blur, ())),
        ),
        constants={"λ_min(Θ)": least[..., 0], "min ‖w_h‖² σ_min²(B)": promised},
    )  # fmt: skip
