r"""The gradients of the attention layer at fifty digits: the referee when float64 is in question.

The closed forms of `descent.models` and autograd do the same arithmetic in the same precision, so
their agreement says nothing about rounding. Here the theorem of :doc:`/foundations/gradients` is
evaluated in multiple precision, from the same float64 weights, and without the subtraction that
cancels: the pullback of softmax is written as :math:`s_j \sum_l s_l (a_j - a_l)`.
"""

import mpmath
from jaxtyping import Float
from torch import Tensor

from . import _validate, kernels
from ._errors import error
from .models import Attention, AttentionWeights
from .problems import Problem

DIGITS = 50


def pullback(kernel: str, C: Float[Tensor, "n"], dS: Float[Tensor, "n"]) -> list[mpmath.mpf]:
    """One row of dC from one row of scores and of dS, as ``mpf`` of fifty digits.

    Raises
    ------
    ValueError : for another kernel, or rows that are not finite or of different lengths.

    Examples
    --------
    >>> import torch
    >>> len(pullback("softmax", torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])))
    2
    """
    _validate.one_of("kernel", kernel, ("softmax", "gaussian"))
    C, dS = (_validate.tensor(name, row) for name, row in (("C", C), ("dS", dS)))
    if C.ndim != 1 or C.shape != dS.shape or not len(C):
        found = f"C has shape {tuple(C.shape)} and dS {tuple(dS.shape)}"
        raise error(ValueError, found, "give one row of each, of one length")
    for name, row in (("C", C), ("dS", dS)):
        _validate.finite(name, row, "give finite numbers")
    with mpmath.workdps(DIGITS):
        return _pullback(kernel, [mpmath.mpf(c) for c in C.tolist()], _row(dS))


def gradient(
    layer: Attention, weights: AttentionWeights, problem: Problem
) -> dict[str, mpmath.matrix]:
    """The gradient by W_Q, W_K and W_V (D, d) of a layer with one head, for one run.

    Raises
    ------
    ValueError : for several heads or several runs: one is worked out at a time.
    """
    weights = _validate.weights(weights)
    _validate.model(layer, "check", "kernel", "H", "d").check(weights, problem)
    if layer.H != 1:
        found = f"H must be 1, got {layer.H}: one head is what is worked out here"
        raise error(ValueError, found, "H must be 1")
    if weights.Q.ndim > 3 or problem.X.ndim > 3:
        found = f"weights hold runs, {tuple(weights.Q.shape[:-3])}, and one is worked out at a time"
        raise error(ValueError, found, "take one of them")
    with mpmath.workdps(DIGITS):
        W = {name: mpmath.matrix(getattr(weights, name)[0].tolist()) for name in "QKV"}
        w_O = mpmath.matrix(weights.O[0].tolist())
        total = {name: mpmath.zeros(problem.D, layer.d) for name in "QKV"}
        for X, y in zip(problem.X, problem.y, strict=True):
            one = _of_sequence(layer, W, w_O, mpmath.matrix(X.tolist()), _row(y))
            total = {name: total[name] + one[name] for name in "QKV"}
        return total


def relative_error(found: Tensor, exact: mpmath.matrix | list) -> float:
    """Largest error of any entry, in units of the largest entry; 1 if nothing is left of it.

    Raises
    ------
    ValueError : unless both have as many numbers, and one of them is not zero.
    """
    found, truth = _validate.tensor("found", found), _validate.several("exact", exact)
    numbers = all(isinstance(b, (int, float, mpmath.mpf)) for b in truth)
    if not numbers or len(truth) != found.numel() or not any(truth):
        remedy = f"give the {found.numel()} numbers that are exact, not all of them zero"
        raise error(ValueError, f"exact is {_validate.shown(exact)}", remedy)
    with mpmath.workdps(DIGITS):
        gap = max(
            abs(mpmath.mpf(a) - b) for a, b in zip(found.flatten().tolist(), truth, strict=True)
        )
        return float(gap / max(abs(b) for b in truth))


def _of_sequence(layer, W, w_O, X, y) -> dict[str, mpmath.matrix]:
    n, root = X.rows, mpmath.sqrt(layer.d)
    Q, K, u = X * W["Q"], X * W["K"], X * W["V"] * w_O
    kernel = kernels.require(layer.kernel, kernels.softmax, kernels.gaussian).name
    C = [[_score(kernel, Q[k, :], K[j, :]) / root for j in range(n)] for k in range(n)]
    S = mpmath.matrix([_attend(kernel, row) for row in C])
    r = S * u - mpmath.matrix(y)
    Gamma = mpmath.matrix(
        [_pullback(kernel, C[k], [r[k] * u[j] for j in range(n)]) for k in range(n)]
    )
    by_Q, by_K = Gamma * K, Gamma.T * Q
    if kernel == "gaussian":
        by_Q -= mpmath.diag(list(Gamma * mpmath.ones(n, 1))) * Q
        by_K -= mpmath.diag(list(Gamma.T * mpmath.ones(n, 1))) * K
    return {"Q": X.T * by_Q / root, "K": X.T * by_K / root, "V": X.T * (S.T * r) * w_O.T}


def _score(kernel: str, q: mpmath.matrix, k: mpmath.matrix) -> mpmath.mpf:
    if kernel == "softmax":
        return sum(a * b for a, b in zip(q, k, strict=True))
    return -sum((a - b) ** 2 for a, b in zip(q, k, strict=True)) / 2


def _attend(kernel: str, scores: list[mpmath.mpf]) -> list[mpmath.mpf]:
    E = [mpmath.exp(c) for c in scores]
    return [e / sum(E) for e in E] if kernel == "softmax" else E


def _pullback(kernel: str, scores: list, a: list) -> list[mpmath.mpf]:
    s = _attend(kernel, scores)
    if kernel == "gaussian":
        return [p * x for p, x in zip(s, a, strict=True)]
    return [
        p * sum(w * (x - z) for w, z in zip(s, a, strict=True)) for p, x in zip(s, a, strict=True)
    ]


def _row(values: Tensor) -> list[mpmath.mpf]:
    return [mpmath.mpf(value) for value in values.tolist()]
