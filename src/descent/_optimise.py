"""Optimisers of `torch.optim` on the book's models, to set beside plain gradient descent.

`descend` is the loop to use where it can be used. This one is for rules that remember more than
the last gradient or that move each entry at its own pace: momentum, weight decay, Adam.
Introduced in :doc:`/foundations/span`.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from . import _memory, _validate
from ._descend import DivergenceWarning
from ._errors import error
from .models import _protocol
from .problems import Problem


def optimise(
    model,
    problem: Problem,
    weights: NamedTuple,
    optimiser: Callable[..., torch.optim.Optimizer],
    *,
    train: str | None = None,
    steps: int,
    batches: Sequence[Sequence[int]] | None = None,
    **options: object,
) -> tuple[Float[Tensor, "steps *r"], NamedTuple]:
    """Train every run of ``weights`` by ``optimiser(parameters, **options)``.

    Runs are trained side by side, which is the same as one by one for every optimiser that works
    entry by entry (SGD with momentum and decay, Adam, RMSprop, Adagrad).

    Parameters
    ----------
    model, problem, weights : as for `descend`: weights with a dimension (*r) of runs in front.
    optimiser : a class of `torch.optim`, or what makes one from a list of tensors.
    train : which weights move, some of the letters of ``model.trainable``; by default all.
    steps : number of steps, at least 1.
    batches : lists of sequences to take the gradient on, one a step, in turn; all if left out.
    **options : for the optimiser, such as ``lr=0.01``.

    Returns
    -------
    The losses (steps + 1, ...) on all sequences, and the last weights.

    Raises
    ------
    ValueError, TypeError : for what `descend` refuses too, for batches that name no sequences, and
        for what is no optimiser, does not take the options, or asks for more than gradients.

    Warns
    -----
    DivergenceWarning : if a run's loss is no number any more.

    Examples
    --------
    >>> from descent import optimise, models, problems
    >>> problem = problems.gaussian(N=2, n=2, D=8, seed=0)
    >>> layer = models.Attention(kernel="softmax", H=2, d=4)
    >>> weights = layer.init(problem, seed=1, runs=3)
    >>> import torch
    >>> losses, last = optimise(layer, problem, weights, torch.optim.Adam, steps=100, lr=0.01)
    >>> bool((losses[-1] < losses[0]).all())
    True
    """
    _protocol.require(model)
    train = _protocol.trained(model, train)
    _validate.count("steps", steps)
    weights = _validate.weights(weights)
    _protocol.require_weights(model, weights)
    _protocol.check(model, weights, problem)
    if hasattr(model, "warn"):
        model.warn(weights, problem)
    weights = type(weights)(*(W.detach() for W in _protocol.spread(model, weights, problem)))
    problem = _protocol.detached(problem)
    whole = _protocol.objective(model, weights, problem, train)
    parts = [_protocol.objective(model, weights, x, train) for x in _parts(problem, batches)]
    moving = {W: getattr(weights, W).clone() for W in train}
    rule = _made(optimiser, list(moving.values()), options)
    _memory.room("the losses", steps, *whole(moving)[0].shape)
    losses = []
    for t in range(steps):
        loss, gradients = whole(moving)
        losses.append(loss)
        if parts:
            gradients = parts[t % len(parts)](moving)[1]
        for W, gradient in gradients.items():
            moving[W].grad = gradient
        rule.step()
    losses = torch.stack([*losses, whole(moving)[0]])
    lost = ~torch.isfinite(losses[-1])
    if lost.any():
        found = f"the losses of {int(lost.sum())} of {lost.numel()} runs are no numbers any more"
        warnings.warn(f"{found}: try a smaller lr", DivergenceWarning, stacklevel=2)
    return losses, weights._replace(**moving)


def _made(optimiser: Callable, moving: list[Tensor], options: dict) -> torch.optim.Optimizer:
    """The optimiser, after a look at whether a step of gradients alone is all that it needs."""
    _validate.function("optimiser", optimiser)
    name, remedy = getattr(optimiser, "__name__", "optimiser"), "see its page in torch.optim"
    try:
        trial = [torch.zeros_like(W) for W in moving]
        for W in trial:
            W.grad = torch.zeros_like(W)
        optimiser(trial, **options).step()
        return optimiser(moving, **options)
    except (TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as refusal:
        kind = type(refusal) if isinstance(refusal, (TypeError, ValueError)) else ValueError
        found = f"{name}({', '.join(options)}) does not work on gradients alone: {refusal}"
        raise error(kind, found, remedy) from None


def _parts(problem: Problem, batches: Sequence[Sequence[int]] | None) -> list[Problem]:
    if batches is None:
        return []
    if not isinstance(problem, Problem):
        found = f"batches are of the sequences of a Problem, got {_validate.shown(problem)}"
        raise error(TypeError, found, "leave batches out")
    chosen = [
        [_validate.count("batches", i, least=0) for i in _validate.several("batches", batch)]
        for batch in _validate.several("batches", batches)
    ]
    if not chosen or not all(chosen) or max(map(max, chosen)) >= problem.N:
        found = f"batches must hold some of the {problem.N} sequences each, got {chosen}"
        raise error(ValueError, found, f"number them from 0 to {problem.N - 1}")
    labels = (slice(None),) * (problem.y.ndim - problem.X.ndim + 2)
    return [
        Problem(problem.X[..., batch, :, :], problem.y[..., batch, *labels], problem.ambient)
        for batch in chosen
    ]
