"""What several chapters of the part on Song et al. 2024 measure with."""

import torch
from torch import Tensor

from ...models import Attention, AttentionWeights
from ...problems import Problem

PAPER = "song2024"

#: A residual is known to about 1e-16, its square relative to a bound b to about 1e-16 / sqrt(b):
#: bounds below this share of the first loss cannot be told from rounding at a tolerance of 1e-6.
VISIBLE = 1e-16


def along_bottom(layer: Attention, problem: Problem, weights: AttentionWeights) -> Problem:
    """The same tokens, with labels that put the first residual on G's bottom eigenvector.

    The bound of Theorem 1 is attained there: the slowest start that the weights allow.
    """
    return along_eigenvector(layer, problem, weights, 0)


def along_eigenvector(
    layer: Attention, problem: Problem, weights: AttentionWeights, index: int
) -> Problem:
    """The same tokens, with labels that put the first residual on an eigenvector of G."""
    vector = torch.linalg.eigh(layer.gram(weights, problem))[1][..., index]
    return Problem(
        problem.X.expand(*vector.shape[:-1], *problem.X.shape),
        layer.predict(weights, problem) - vector.unflatten(-1, (problem.N, problem.n)),
    )


def predicted_loss(G: Tensor, residual: Tensor, eta: Tensor, steps: int) -> Tensor:
    r"""The loss of :math:`r_{t+1} = (I - \eta G) r_t` in closed form, (steps + 1, runs).

    G (runs, m, m), first residual (runs, m), eta (runs,).
    """
    values, vectors = torch.linalg.eigh(G)
    coordinates = (vectors.mT @ residual[..., None]).squeeze(-1)
    t = torch.arange(steps + 1, dtype=G.dtype)[:, None, None]
    return ((1 - eta[:, None] * values) ** (2 * t) * coordinates.square()).sum(-1) / 2


def first_residual(layer: Attention, problem: Problem, weights: AttentionWeights) -> Tensor:
    """The stacked residual (..., m) before training."""
    return (layer.predict(weights, problem) - problem.y).flatten(-2)


def promised_decay(losses: Tensor, factor: Tensor) -> Tensor:
    """The decay that a ``factor`` a step promises over that measured, at best in each run.

    Losses (T + 1, runs), from the first step on and where the bound is visible; 1 is attained.
    """
    bound = factor.clamp_min(0).log() * torch.arange(1, len(losses), dtype=factor.dtype)[:, None]
    share = bound / torch.log(losses[1:] / losses[0])
    share = torch.where(losses[1:] < losses[0], share, torch.inf)  # no decay keeps no promise
    return torch.where(bound.exp() > VISIBLE, share, 0).amax(0)


def ends(shares: Tensor) -> tuple[float, float]:
    """Measured over bound in the median and at best."""
    return float(shares.median()), float(shares.max())
