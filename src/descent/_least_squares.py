"""Least squares where a matrix may lack ranks."""

import torch
from jaxtyping import Float
from torch import Tensor


def least_norm(A: Float[Tensor, "*b p q"], B: Float[Tensor, "*b p k"]) -> Float[Tensor, "*b q k"]:
    """The shortest x with the least |A x - B|, on the device of B.

    It is found on the processor: what torch has on a GPU takes every rank for full.
    """
    return torch.linalg.lstsq(A.cpu(), B.cpu(), driver="gelsd").solution.to(B)
