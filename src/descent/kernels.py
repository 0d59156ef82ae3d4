r"""Attention kernels: how queries and keys become an attention matrix, and the way back.

A kernel first *scores* each query against each key,

* ``"dot"``: :math:`C_{kj} = q_k \cdot k_j / \sqrt d`,
* ``"distance"``: :math:`C_{kj} = -\|q_k - k_j\|^2 / (2\sqrt d)`,

and then turns the scores into the attention matrix :math:`S` by its ``value``. Its ``pullback``
takes :math:`\partial f/\partial S` back to :math:`\partial f/\partial C`. The attention layer does
not know which kernel it is working with, but for its compiled step, which has the book's two.
What is true of one of them or derived for it (theorems, exact and symbolic arithmetic) asks.

Introduced in :doc:`/foundations/kernels`; the pullbacks are derived in
:doc:`/foundations/gradients`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from . import _validate, draws
from ._errors import error

Scores = Float[Tensor, "*b n n"]

# If the first exp of a process runs in two threads at once, MKL can hand one of them a variant
# that is good to 3e-9 only (seen in 2 of 75 processes, torch 2.13; in 0 of 150 after this line).
torch.exp(torch.zeros(1, dtype=torch.float64))


@dataclass(frozen=True)
class Kernel:
    """An attention kernel: a score, its value ``C -> S`` and pullback ``(C, S, dS) -> dC``.

    Two kernels are the same if all of this is: a copy, and what comes back from another process,
    is equal to the original though it is not the same object. Always compare with ``==``.
    With ``takes_dim`` both also take ``dim=``, the axis of the keys where that is not the last:
    sums over an axis are then taken where the scores lie in memory.
    """

    name: str
    score: str
    value: Callable[[Scores], Scores] = field(repr=False)  # an address says nothing
    pullback: Callable[[Scores, Scores, Scores], Scores] = field(repr=False)
    takes_dim: bool = False

    def scores(self, Q: Float[Tensor, "*b n d"], K: Float[Tensor, "*b n d"]) -> Scores:
        """Score every query (..., n, d) against every key (..., n, d)."""
        dot = Q @ K.mT
        if self.score == "distance":
            # |q - k|^2 / 2 expanded, so that one matrix product does the work
            dot = dot - Q.square().sum(-1)[..., :, None] / 2 - K.square().sum(-1)[..., None, :] / 2
        return dot / Q.shape[-1] ** 0.5

    def attention(self, Q: Float[Tensor, "*b n d"], K: Float[Tensor, "*b n d"]) -> Scores:
        """The attention matrix S (..., n, n) of queries and keys (..., n, d)."""
        return self.value(self.scores(Q, K))

    def scores_pullback(
        self, Q: Float[Tensor, "*b n d"], K: Float[Tensor, "*b n d"], dC: Scores
    ) -> tuple[Float[Tensor, "*b n d"], Float[Tensor, "*b n d"]]:
        """Gradients with respect to queries and keys from the one with respect to scores."""
        dQ, dK = dC @ K, dC.mT @ Q
        if self.score == "distance":
            dQ = dQ - dC.sum(-1)[..., None] * Q
            dK = dK - dC.sum(-2)[..., None] * K
        return dQ / Q.shape[-1] ** 0.5, dK / Q.shape[-1] ** 0.5


def _softmax(C: Scores, dim: int = -1) -> Scores:
    return torch.softmax(C, dim)


def _softmax_pullback(C: Scores, S: Scores, dS: Scores, dim: int = -1) -> Scores:
    # (diag(s) - s s^T) dS row by row, without forming the Jacobian. It kills constants, so the mean
    # may go first: without that, a row whose largest weight is nearly one would lose its digits.
    weighted = S * (dS - (S * dS).sum(dim, keepdim=True))
    return weighted - S * weighted.sum(dim, keepdim=True)


softmax = Kernel("softmax", "dot", _softmax, _softmax_pullback, takes_dim=True)
r"""Row-wise softmax of :math:`q\cdot k/\sqrt d` (Song et al. 2024, Eq. 3): rows sum to one."""


def _gaussian_pullback(C: Scores, S: Scores, dS: Scores) -> Scores:
    return S * dS


gaussian = Kernel("gaussian", "distance", torch.exp, _gaussian_pullback)
r""":math:`\exp(-\|q-k\|^2/(2\sqrt d))`, not normalised: the form that every proof of
Song et al. 2024 uses; their Eq. (11) prints :math:`1/\sqrt d`, for which the factorisation
:math:`S^{soft} = D_1 S^{gauss} D_2` would not hold."""

_registry: dict[str, Kernel] = {"softmax": softmax, "gaussian": gaussian}
#: The names that stay what they are.
BUILT_IN = tuple(_registry)


def register(
    name: str,
    value: Callable[[Scores], Scores],
    *,
    score: str = "dot",
    pullback: Callable[[Scores, Scores, Scores], Scores] | None = None,
    overwrite: bool = False,
) -> Kernel:
    """Add a kernel of your own, and return it.

    Parameters
    ----------
    name : how models will ask for it.
    value : scores C (..., n, n) to attention matrix S of the same shape.
    score : ``"dot"`` or ``"distance"``, see the module's docstring.
    pullback : ``(C, S, dS) -> dC``; left out, autograd derives it from ``value``.
    overwrite : replace a kernel of your own that has this name, as when a cell is run again.

    Raises
    ------
    ValueError : if the name is taken, the score unknown, if ``value`` changes the shape or the
        precision, gives no finite number, writes into the scores or mixes matrices of several
        runs, or if ``pullback`` is not the derivative of ``value``. All of it is tried on a few
        scores.

    Examples
    --------
    >>> from descent import kernels, models
    >>> cauchy = kernels.register(
    ...     "cauchy", lambda C: 1 / (1 - C), score="distance", overwrite=True
    ... )
    >>> models.Attention(kernel="cauchy", H=2, d=4).kernel == cauchy
    True
    """
    if not isinstance(name, str) or not name:
        found = f"name must be a text that models can ask for, got {_validate.shown(name)}"
        raise error(TypeError, found, "a text that models can ask for")
    _validate.function("value", value)
    if pullback is not None:
        _validate.function("pullback", pullback)
    _validate.flag("overwrite", overwrite)
    if name in BUILT_IN or (name in _registry and not overwrite):
        way_out = "" if name in BUILT_IN else ", or say overwrite=True"
        raise error(
            ValueError, f"kernel {name!r} is registered already", f"choose another name{way_out}"
        )
    _validate.one_of("score", score, ("dot", "distance"))
    kernel = Kernel(name, score, value, pullback or _ByAutograd(value))
    _try(kernel)
    _registry[name] = kernel
    return kernel


def _try(kernel: Kernel) -> None:
    """Look at a kernel's value, and its pullback beside autograd's, on a few scores."""
    C, dS = draws.normal(0, "C dS", (2, 2, 3, 3))
    C = -C.square() if kernel.score == "distance" else C
    given = C.clone()
    S = kernel.value(given)
    found = tuple(S.shape) if isinstance(S, Tensor) else type(S).__name__
    if found != (2, 3, 3):
        found = f"value must keep the shape of the scores, but turned (2, 3, 3) into {found}"
        raise error(ValueError, found, "keep the shape of the scores")
    _validate.finite("value", S, "it must be defined for all scores of this kind")
    if S.dtype != C.dtype:
        found = f"value turned scores of {C.dtype} into {S.dtype}"
        raise error(ValueError, found, "keep their precision")
    if not torch.equal(given, C):
        found = "value writes into the scores, which the way back needs"
        raise error(ValueError, found, "return a new tensor, as C.exp() and not C.exp_()")
    alone = kernel.value(C[:1].clone())
    if not torch.allclose(alone, S[:1], rtol=1e-9, atol=0):
        found = "value makes a matrix depend on the other ones, or on chance"
        raise error(ValueError, found, "take sums over the last two dimensions alone")
    if isinstance(kernel.pullback, _ByAutograd):
        return
    expected, answer = _ByAutograd(kernel.value)(C, S, dS), kernel.pullback(C, S, dS)
    found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if found != (2, 3, 3):
        found = f"pullback must keep the shape of the scores, but turned (2, 3, 3) into {found}"
        raise error(ValueError, found, "keep the shape of the scores")
    gap = float((answer - expected).abs().max())
    if not gap <= 1e-8 * max(1.0, float(expected.abs().max())):
        found = f"pullback is not the derivative of value: it differs from autograd's by {gap:.2g}"
        remedy = "leave it out, or make a descent.kernels.Kernel if that is what you want"
        raise error(ValueError, found, remedy)


@dataclass(frozen=True)
class _ByAutograd:
    """The pullback of ``value`` that autograd takes; as easily copied and pickled as that is."""

    value: Callable[[Scores], Scores]

    def __call__(self, C: Scores, S: Scores, dS: Scores) -> Scores:
        return torch.func.vjp(self.value, C)[1](dS)[0]


def get(kernel: str | Kernel) -> Kernel:
    """The kernel of that name (a `Kernel` is returned as it is).

    Raises
    ------
    ValueError : if no kernel has that name; the message lists those there are.
    """
    if isinstance(kernel, Kernel):
        return kernel
    if not isinstance(kernel, str):
        found = f"kernel must be a name or a Kernel, got {_validate.shown(kernel)}"
        raise error(TypeError, found, "a name or a Kernel")
    return _registry[_validate.one_of("kernel", kernel, _registry)]


def require(kernel: Kernel, *known: Kernel) -> Kernel:
    """Return ``kernel`` if it is one of ``known``, else raise ValueError.

    What is true of a kernel of the book need not be of another one that bears its name.

    Raises
    ------
    ValueError : if it is another kernel.
    TypeError : if it is none.
    """
    if not isinstance(kernel, Kernel):
        found = f"kernel must be a Kernel, got {_validate.shown(kernel)}"
        raise error(TypeError, found, "take one of descent.kernels")
    if kernel not in known:
        names = " or ".join(repr(k.name) for k in known)
        other = " of another definition" if kernel.name in {k.name for k in known} else ""
        raise error(
            ValueError, f"kernel must be {names}, got {kernel.name!r}{other}", "use the book's own"
        )
    return kernel
