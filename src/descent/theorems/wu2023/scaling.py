"""Theorems of :doc:`/wu2023/scaling`: what width does to attention, and what uniform attention hides."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report
from ._encoder import EncoderStart


@theorem(
    "wu2023-softmax-degeneration",
    title="What width does to attention",
    box="prop-degeneration",
    standing=Standing.PROVED,
    start=EncoderStart,
)
def softmax_degeneration(at: EncoderStart) -> Report:
    """Attention is as near to uniform as scores are to zero, and scores are as small as drawn ones."""
    run, tau_0 = at.forward, at.model.tau_0
    scores = (tau_0 * run.Q @ run.K.mT).abs().amax((-3, -2, -1))
    s = (at.variance("Q") * at.variance("K")) ** 0.5
    squares = torch.linalg.vector_norm(at.problem.X, dim=(-2, -1)).pow(4).sum(-1).sqrt()
    typical = (tau_0 * at.model.d**0.5 * s / 2 * squares).expand_as(at.far)
    blur = torch.finfo(at.far.dtype).eps  # a weight of attention is known to its last digit
    return Report(
        hypotheses=(at.drawn,),
        promises=(
            Promise("max |β - 1/n| ≤ max |score| / 2", lambda _: (at.far, scores / 2 + blur, ())),
            Promise(
                "max |β - 1/n| ≤ typical / √chance",
                lambda _: (at.far, typical / at.chance**0.5 + blur, ()),
            ),
        ),
        constants={"max |β - 1/n|": at.far, "typical": typical},
    )


@theorem(
    "wu2023-equal-means",
    title="Equal means cannot be told apart",
    box="prop-missing",
    standing=Standing.PROVED,
    start=EncoderStart,
)
def equal_means(at: EncoderStart) -> Report:
    r"""Sequences of one mean: their features differ only by what attention makes of it."""
    mean = at.problem.X.mean(-2)
    common = mean.mean(-2, keepdim=True)
    apart = torch.linalg.vector_norm(mean - common, dim=-1).amax(-1)
    length = torch.linalg.vector_norm(common, dim=-1).amax(-1)
    away = torch.linalg.vector_norm(at.attended - mean[..., None, :], dim=-1).sum(-1)
    V, o = torch.linalg.matrix_norm(at.weights.V, 2), torch.linalg.vector_norm(at.weights.O, dim=-1)
    reach = (at.model.tau_1(at.problem) * V)[..., None, None] * _pairs(away, torch.add)
    equal = 1e-12 * length  # so far apart are means that count as equal
    off = 2 * at.problem.n * torch.minimum(apart, equal)
    reach = reach + (at.model.tau_1(at.problem) * V * off)[..., None, None]
    F = at.forward.features
    between = torch.linalg.vector_norm(F[..., :, None, :] - F[..., None, :, :], dim=-1)
    outputs = _pairs(at.forward.output, torch.sub).abs()
    nearest = _distinct(reach).amin((-2, -1)) / 2**0.5  # infinite for one sequence
    blur = 1e-13 * torch.linalg.matrix_norm(F)
    wide = reach + blur[..., None, None]
    ones = torch.ones_like(blur)
    return Report(
        hypotheses=(Inequality("all mean tokens are equal", apart, equal),),
        promises=(
            Promise(
                "‖F_j - F_k‖ ≤ what attention adds",
                lambda _: (_most(between, wide), ones, ()),
            ),
            Promise(
                "|f_j - f_k| ≤ ‖w_O‖ times that",
                lambda _: (_most(outputs, o[..., None, None] * wide), ones, ()),
            ),
            Promise("α ≤ the least of that over √2", lambda _: (at.alpha, nearest + blur, ())),
        ),
        constants={"α": at.alpha, "the least of that over √2": nearest},
    )


def _pairs(x: Float[Tensor, "*r N"], combine: Callable) -> Float[Tensor, "*r N N"]:
    """Sums or differences of all pairs."""
    return combine(x[..., :, None], x[..., None, :])


def _most(differences: Float[Tensor, "*r N N"], allowed: Float[Tensor, "*r N N"]) -> Tensor:
    """The largest share that a difference takes of what is allowed; none takes none of nothing."""
    return torch.where(differences == 0, 0, differences / allowed).amax((-2, -1))


def _distinct(x: Float[Tensor, "*r N N"]) -> Float[Tensor, "*r N N"]:
    """Infinity on the diagonal."""
    return torch.where(torch.eye(x.shape[-1], device=x.device).bool(), torch.inf, x)
