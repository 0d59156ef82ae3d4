"""Instances that meet a theorem's hypotheses just so, for any theorem and any family of starts."""

from collections.abc import Callable

import torch
from torch import Tensor

from .. import _memory, _validate
from .._errors import error
from ..models import Attention, AttentionWeights
from ..problems import Problem
from ._record import Theorem

#: What a theorem is called with, given one number a run; larger is harder for its hypotheses.
Family = Callable[[Tensor], tuple]


def near(layer: Attention, problem: Problem, weights: AttentionWeights) -> Family:
    """Labels at e^s times the problem's own from the first outputs.

    Raises
    ------
    ValueError, TypeError : for what does not suit the layer or the problem.
    """
    output = _validate.model(layer, "predict").predict(weights, problem)
    X = problem.X.expand(*output.shape, problem.D)

    def instance(s: Tensor) -> tuple:
        return layer, Problem(X, output + torch.exp(s)[..., None, None] * problem.y), weights

    return instance


def loud(layer: Attention, problem: Problem, weights: AttentionWeights) -> Family:
    """W_O times e^-s; where W_V = 0 the first residual does not change.

    Raises
    ------
    ValueError, TypeError : for what does not suit the layer or the problem.
    """
    weights = _validate.weights(weights)
    _validate.model(layer, "check").check(weights, problem)
    return lambda s: (
        layer,
        problem,
        weights._replace(O=weights.O * torch.exp(-s)[..., None, None]),
    )


def meet(theorem: Theorem, family: Family, runs: int, share: float | Tensor = 1.0) -> tuple:
    """The hardest member, run by run, at which no hypothesis has more than ``share`` of its right side.

    Found by bisection between e^-80 and e^20. Strict hypotheses (a rank) do not count: no member
    of a family changes them. ``share`` above 1 gives starts that miss the hypotheses by as much.

    Raises
    ------
    ValueError, TypeError : for what does not suit the layer or the problem.
    """
    _validate.function("theorem", theorem)
    _validate.function("family", family)
    _memory.room("the runs", _validate.count("runs", runs))
    share = _validate.tensor("share", share)
    _validate.shape("share", share, (runs,) if share.ndim else ())
    low, high = (torch.full((runs,), end, dtype=torch.float64) for end in (-80.0, 20.0))
    for _ in range(32):
        middle = (low + high) / 2
        asked = [h.sharpness for h in theorem(*family(middle)).hypotheses if not h.strict]
        if not asked:
            found = "theorem has no hypothesis that a family can come near"
            raise error(ValueError, found, "take one with an inequality that is not strict")
        fits = torch.stack(torch.broadcast_tensors(*asked)).amax(0) <= share
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return family(low)
