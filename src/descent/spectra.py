"""Singular values, ranks and curvatures: the numbers that hypotheses are made of.

Introduced in :doc:`/song2024/values`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import _validate


def rank(A: Float[Tensor, "*b p q"], tolerance: float = 1e-10) -> Int[Tensor, "*b"]:
    """Number of singular values above ``tolerance`` times the largest one."""
    values = torch.linalg.svdvals(_validate.finite("A", A, "rank needs finite entries"))
    return (values > tolerance * values[..., :1]).sum(-1)


def sigma_min(A: Float[Tensor, "*b p q"]) -> Float[Tensor, "*b"]:
    """The smallest of the ``p`` singular values on the side of the rows.

    That is zero for a matrix with more rows than columns, whose rows are always dependent: what
    the papers write as the smallest singular value (or eigenvalue) of ``B_0``.
    """
    if A.shape[-2] > A.shape[-1]:
        return A.new_zeros(A.shape[:-2])
    return torch.linalg.svdvals(A)[..., -1]


def beside(blocks: Float[Tensor, "*b H m D"]) -> Float[Tensor, "*b m HD"]:
    """Put the heads' blocks side by side: (B_1, ..., B_H) as one matrix."""
    return blocks.movedim(-3, -2).flatten(-2)


def top_hessian_eigenvalue(
    objective: Callable, point: dict[str, Tensor], batch: int, iterations: int = 60
) -> Float[Tensor, "*r"]:
    """Largest absolute eigenvalue of the Hessian at ``point``, by power iteration.

    ``objective`` maps matrices to (loss, gradients) and ``batch`` is the number of leading run
    dimensions; every run gets its own value. The iteration starts from the point plus its
    gradient: both are the same in every basis, so the span reduction does not change the answer.
    """

    def norm(v: dict[str, Tensor]) -> Tensor:
        return torch.sqrt(sum(x.square().flatten(batch).sum(-1) for x in v.values()))

    def unit(v: dict[str, Tensor], length: Tensor) -> dict[str, Tensor]:
        divisor = length.clamp_min(
            torch.finfo(length.dtype).tiny
        )  # a flat loss has curvature 0, not NaN
        return {
            k: x / divisor.reshape(length.shape + (1,) * (x.ndim - batch)) for k, x in v.items()
        }

    def gradient(p: dict[str, Tensor]) -> dict[str, Tensor]:
        return objective(p)[1]

    v = {k: point[k] + g for k, g in gradient(point).items()}
    length = norm(v)
    for _ in range(iterations):
        v = torch.func.jvp(gradient, (point,), (unit(v, length),))[1]
        length = norm(v)
    return length
