r"""Gradient descent never leaves the span of the tokens.

Every input matrix W enters the loss through X W alone, so its gradient is
:math:`X^\top (\dots)`: each step adds a matrix whose columns are combinations of tokens. With the
thin factorisation :math:`X^\top = Q R`, replace the tokens by :math:`R^\top` and W by
:math:`Q^\top W`: products :math:`XW = R^\top Q^\top W` agree at the start, and stay equal since
:math:`Q^\top` times the update :math:`Q R G` is the update :math:`R G` of the small problem. ∎

Introduced in :doc:`/foundations/span`, Lemma "Descent stays in the span of the tokens".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from . import _validate
from .problems import Problem


@dataclass(frozen=True)
class Reduction:
    """A problem expressed in an orthonormal basis (..., D, r) of the span of its tokens."""

    problem: Problem
    basis: Float[Tensor, "*b D r"]
    names: str
    own: Mapping[str, int] | None = None  # three dimensions each, (H, D, d), unless it says so

    def restrict(self, weights: NamedTuple) -> NamedTuple:
        """The weights as the small problem sees them, ``Q.mT @ W`` (..., r, d)."""
        return weights._replace(**{W: self._beside(W).mT @ getattr(weights, W) for W in self.names})

    def lift(self, start: NamedTuple, small: NamedTuple) -> NamedTuple:
        """The full weights after training: ``start`` plus what moved, back in D dimensions."""
        begin = self.restrict(start)
        return small._replace(
            **{
                W: getattr(start, W) + self._beside(W) @ (getattr(small, W) - getattr(begin, W))
                for W in self.names
            }
        )

    def _beside(self, W: str) -> Float[Tensor, "..."]:
        """The basis with dimensions for what a weight has before its last two, such as heads."""
        heads = (1,) * ((3 if self.own is None else self.own[W]) - 2)
        return self.basis.reshape(*self.basis.shape[:-2], *heads, *self.basis.shape[-2:])


def reduce(problem: Problem, names: str = "QKV", own: Mapping[str, int] | None = None) -> Reduction:
    """Express the tokens in an orthonormal basis of their span.

    Gradient descent on any weight that acts as ``X @ W`` has the same losses on the small problem
    as on the full one, at a cost per step that does not depend on D.

    Parameters
    ----------
    problem : tokens (..., N, n, D).
    names : the weights that act on tokens, each as ``X @ W`` with W (..., D, d).
    own : how many trailing dimensions of each are its own and not runs; by default three, (H, D, d).

    Returns
    -------
    Reduction whose problem has tokens (..., N, n, r), ``r = min(N n, D)``.

    Raises
    ------
    ValueError, TypeError : for what is no problem, or for letters that name no weights.

    Examples
    --------
    >>> from descent import problems, span
    >>> reduction = span.reduce(problems.gaussian(N=2, n=3, D=1000, seed=0))
    >>> reduction.problem.X.shape
    torch.Size([2, 3, 6])
    """
    _validate.problem(problem)
    basis, R = torch.linalg.qr(problem.tokens.mT)
    X = R.mT.unflatten(-2, (problem.N, problem.n))
    return Reduction(Problem(X, problem.y, problem.ambient), basis, names, own)
