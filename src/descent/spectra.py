"""Singular values, ranks and curvatures: the numbers that hypotheses are made of.

Introduced in :doc:`/song2024/values`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import _validate, draws
from ._errors import error

#: Of Lanczos; for the layers of the book half of them give the curvature to 1e-12.
ITERATIONS = 40


def resolution(A: Float[Tensor, "*b p q"]) -> float:
    """Below this part of the largest singular value another one may be zero: max(p, q) epsilon.

    So much do the roundings move that went into the entries, in the precision that they have.

    Raises
    ------
    ValueError, TypeError : for what is no array of numbers with two dimensions at least.
    """
    A = _validate.matrix("A", A)
    return max(A.shape[-2:]) * torch.finfo(A.dtype).eps


def rank(A: Float[Tensor, "*b p q"], tolerance: float | None = None) -> Int[Tensor, "*b"]:
    """Number of singular values above ``tolerance`` times the largest one; else `resolution`.

    Raises
    ------
    ValueError, TypeError : for what is no array of finite numbers with two dimensions at least.

    Examples
    --------
    >>> import torch
    >>> rank(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
    tensor(1)
    """
    A = _matrix(A, "rank needs finite entries")
    largest = A.abs().amax((-2, -1), keepdim=True)
    values = torch.linalg.svdvals(A / largest.where(largest > 0, 1))  # their squares may overflow
    least = resolution(A) if tolerance is None else _validate.fraction("tolerance", tolerance)
    return (values > least * values[..., :1]).sum(-1)


def sigma_min(A: Float[Tensor, "*b p q"]) -> Float[Tensor, "*b"]:
    r"""The smallest of the ``p`` singular values on the side of the rows.

    That is the root of the smallest eigenvalue of :math:`AA^\top`, and so *zero* for a matrix with
    more rows than columns, whose rows are always dependent: what the papers write as the smallest
    singular value of ``B_0``. The smallest of the q values on the other side is
    ``sigma_min(A.mT)``. A value below `resolution` times the largest says no more than zero does.
    """
    A = _matrix(A, "a singular value needs finite entries")
    if A.shape[-2] > A.shape[-1]:
        return A.new_zeros(A.shape[:-2])
    return torch.linalg.svdvals(A)[..., -1]


def _matrix(A: Tensor, remedy: str) -> Tensor:
    return _validate.finite("A", _validate.matrix("A", A), remedy)


def concat(blocks: Float[Tensor, "*b H m D"]) -> Float[Tensor, "*b m HD"]:
    """Put the heads' blocks side by side: (B_1, ..., B_H) as one matrix.

    Raises
    ------
    ValueError, TypeError : for what is no array of numbers with three dimensions at least.
    """
    return _validate.matrix("blocks", blocks, least=3).movedim(-3, -2).flatten(-2)


def eigenvalues(A: Float[Tensor, "*b p p"]) -> Float[Tensor, "*b p"]:
    """Those of symmetric matrices, in rising order; NaN where an entry is NaN or infinite.

    Raises
    ------
    ValueError, TypeError : for what is no array of numbers whose last two dimensions are equal.
    """
    A = _validate.matrix("A", A)
    if A.shape[-1] != A.shape[-2]:
        found = f"A has shape {tuple(A.shape)}, and is no square"
        raise error(ValueError, found, "give square matrices")
    sound = torch.isfinite(A).flatten(-2).all(-1)[..., None]
    return torch.linalg.eigvalsh(A.where(sound[..., None], 0)).where(sound, torch.nan)


def top_hessian_eigenvalue(
    objective: Callable, point: dict[str, Tensor], batch: int
) -> Float[Tensor, "*r"]:
    r"""Largest *absolute* eigenvalue of the Hessian at ``point``: its spectral norm.

    ``objective`` maps matrices to (loss, gradients) and ``batch`` is the number of leading run
    dimensions; every run gets its own value, NaN if anything is. The iteration is that of Lanczos:
    in the basis that comes of v, Hv, H(Hv), ... the Hessian H is tridiagonal, and no more than the
    last two vectors of it are kept.

    Raises
    ------
    TypeError : if the objective is no function, or the point no dict of arrays.
    """

    _validate.function("objective", objective)
    if not isinstance(point, dict) or not point:
        found = f"point must be a dict of arrays, got {_validate.shown(point)}"
        raise error(TypeError, found, "a dict of arrays")
    point = {k: _validate.tensor(f"point {k}", x) for k, x in point.items()}
    least = min(x.ndim for x in point.values())
    if _validate.count("batch", batch, least=0) > least:
        found = f"batch must be at most {least}, got {batch}"
        raise error(ValueError, found, f"at most {least}")

    def dot(v: dict, w: dict) -> Tensor:
        return sum((v[k] * w[k]).reshape(*v[k].shape[:batch], -1).sum(-1) for k in v)

    def times(factor: Tensor, v: dict) -> dict:
        return {k: factor.reshape(factor.shape + (1,) * (x.ndim - batch)) * x for k, x in v.items()}

    def less(v: dict, w: dict) -> dict:
        return {k: v[k] - w[k] for k in v}

    def unit(v: dict) -> tuple[Tensor, dict]:
        length = dot(v, v).sqrt()  # a flat loss has curvature 0, not NaN
        return length, times(1 / length.clamp_min(torch.finfo(length.dtype).tiny), v)

    # H is symmetric, so the way back through the gradient multiplies with it. (Forward mode would
    # too, but its levels belong to the process: two threads cannot use it at the same time.)
    gradient, multiply = torch.func.vjp(lambda p: objective(p)[1], point)
    beta, v = unit(_mixed(point, gradient, batch))
    before, alphas, betas = times(0 * beta, v), [], []
    for _ in range(ITERATIONS):
        w = multiply(v)[0]
        alphas.append(dot(v, w))
        rest = less(less(w, times(alphas[-1], v)), times(beta, before))
        before, (beta, v) = v, unit(rest)
        betas.append(beta)
    T = torch.diag_embed(torch.stack(alphas, -1))
    T = T + torch.diag_embed(torch.stack(betas[:-1], -1), -1)  # the lower half is what is read
    return eigenvalues(T).abs().amax(-1)


def _mixed(point: dict[str, Tensor], gradient: dict[str, Tensor], batch: int) -> dict[str, Tensor]:
    """A vector with a part in every direction that the loss knows of, to begin a power series with.

    A sum of the matrices and their gradients with a random factor for each head and column: point
    and gradient may both be blind to a direction (queries and keys that are zero, heads that are
    equal). Rows have no factors of their own, for then it is the same vector in every basis of the
    tokens' space, and `descent.span` does not change what comes of it.
    """

    def factors(name: str, x: Tensor) -> Tensor:
        shape = list(x.shape[batch:])
        if len(shape) > 1:
            shape[-2] = 1
        return draws.normal(0, name, tuple(shape)).to(x)

    parts = [*point.values(), *gradient.values()]
    return {
        k: sum(
            factors(f"{k} {j}", x) * x
            for j, x in enumerate(parts)
            if x.shape[batch:] == W.shape[batch:]
        )
        for k, W in point.items()
    }
