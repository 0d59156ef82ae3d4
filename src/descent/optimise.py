"""Optimisers of `torch.optim` on the book's models, to set beside plain gradient descent.

`descend` is the loop to use where it can be used. This one is for rules that remember more than
the last gradient or that move each entry at its own pace: momentum, weight decay, Adam.
Introduced in :doc:`/foundations/span`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from . import _validate
from .problems import Problem


def optimise(
    model,
    problem: Problem,
    weights: NamedTuple,
    optimiser: Callable[..., torch.optim.Optimizer],
    *,
    train: str = "QKV",
    steps: int,
    batches: Sequence[Sequence[int]] | None = None,
    **options: object,
) -> tuple[Float[Tensor, "steps *r"], NamedTuple]:
    """Train every run of ``weights`` by ``optimiser(parameters, **options)``.

    Runs are trained side by side, which is the same as one by one for every optimiser that works
    entry by entry (SGD with momentum and decay, Adam, RMSprop, Adagrad).

    Parameters
    ----------
    optimiser : a class of `torch.optim`, or what makes one from a list of tensors.
    batches : lists of sequences to take the gradient on, one a step, in turn; all if left out.

    Returns
    -------
    The losses (steps + 1, ...) on all sequences, and the last weights.
    """
    _validate.count("steps", steps)
    moving = {W: getattr(weights, W).clone() for W in train}
    rule = optimiser(list(moving.values()), **options)
    losses = []
    for t in range(steps):
        here = weights._replace(**moving)
        losses.append(model.loss(here, problem))
        seen = problem if batches is None else _part(problem, batches[t % len(batches)])
        for W, gradient in model.loss_and_gradient(here, seen, train)[1].items():
            moving[W].grad = gradient
        rule.step()
    last = weights._replace(**moving)
    return torch.stack([*losses, model.loss(last, problem)]), last


def _part(problem: Problem, sequences: Sequence[int]) -> Problem:
    chosen = list(sequences)
    return Problem(problem.X[..., chosen, :, :], problem.y[..., chosen, :])
