"""What the library asks of a model, and what it works out itself where a model says no more."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from .. import _validate, draws, spectra
from .._errors import error
from ..problems import Problem

ASKED = ("trainable", "acts_on_tokens", "own", "init", "loss_and_gradient")


@runtime_checkable
class Model(Protocol):
    """Five members make a model that `descend`, `optimise`, sweeps and slices can work with.

    Weights are a ``NamedTuple`` of tensors whose names are single letters. Each has run dimensions
    first, the same for all (or none), and then its own.

    trainable : the letters of the weights that may move, in one string.
    acts_on_tokens : those of them that enter as X @ W alone, the rows of W being dimensions of the
        tokens, so that `descent.span` may reduce them; empty where none does.
    own : letter -> how many trailing dimensions are the weight's own; the others are runs.
    init : draw a start for each run.
    loss_and_gradient : the loss of each run, (*r), and for each letter of ``train`` a gradient in
        the shape of the weight.

    A model may have more, and what it has is used. ``check(weights, problem)`` raises where data
    and weights do not suit it, ``warn(weights, problem)`` warns of a start from which descent means
    nothing. ``loss(weights, problem)`` is cheaper than the gradient, and lets run dimensions
    broadcast. ``objective(weights, problem, train)`` maps the trained weights to loss and gradients
    and has computed once what the others fix. ``smoothness(weights, problem, train)`` is a better L
    for the step 1/L than the curvature at the start. ``memory(problem)`` are the bytes a run that a
    gradient takes on its way. ``attention`` and ``features`` of (weights, problem) are what
    `descend` watches by these names.

    ``on_lanes(weights, problem, train)`` states the step for the compiled engine, `descent.lanes`;
    without it a model is trained in the layout that its gradient is written in.
    Introduced in :doc:`/own`.
    """

    @property
    def trainable(self) -> str: ...

    @property
    def acts_on_tokens(self) -> str: ...

    @property
    def own(self) -> Mapping[str, int]: ...

    def init(
        self, problem: Problem, *, seed: int, runs: draws.Runs = None, scale: float = 1.0
    ) -> Any: ...

    def loss_and_gradient(
        self, weights: Any, problem: Problem, train: str
    ) -> tuple[Tensor, dict[str, Tensor]]: ...


def require(model) -> None:
    """Raise TypeError, with the name of what is missing, unless this is a model."""
    if isinstance(model, type):
        found = f"model is the class {model.__name__}, and no model of it"
        raise error(TypeError, found, f"make one with {model.__name__}(...)")
    missing = [name for name in ASKED if not hasattr(model, name)]
    if missing:
        found = f"{type(model).__name__} is no model: it lacks {', '.join(missing)}"
        raise error(TypeError, found, "see descent.models.Model")
    narrow = [W for W in model.acts_on_tokens if model.own.get(W, 0) < 2]
    if narrow:
        found = f"acts_on_tokens names {', '.join(narrow)} of fewer than two own dimensions"
        raise error(TypeError, found, "X @ W needs (D, columns)")


def detached(problem: Problem) -> Problem:
    """The problem, for a loop that asks for no gradient with respect to its data."""
    if not (problem.X.requires_grad or problem.y.requires_grad):
        return problem
    numbers = problem.X.detach(), problem.y.detach()
    own = isinstance(problem, Problem)
    return Problem(*numbers, problem.ambient) if own else type(problem)(*numbers)


def require_weights(model, weights: NamedTuple) -> None:
    """Raise TypeError unless the model knows each of these weights."""
    unknown = (set(weights._fields) - set(model.own)) | (
        set(model.trainable) - set(weights._fields)
    )
    if unknown:
        found = (
            f"{type(model).__name__} and the weights {type(weights).__name__} do not name the same "
            f"letters: {', '.join(sorted(unknown))} are in one alone"
        )
        raise error(TypeError, found, "draw some with model.init(...)")


def trained(model, train: str | None) -> str:
    """The letters of the weights that are to move, in the model's order; all of them for None."""
    if train is None:
        return model.trainable
    _validate.letters("train", train, model.trainable)
    return "".join(W for W in model.trainable if W in train)


def runs_of(model, weights: NamedTuple) -> torch.Size:
    """The run dimensions of spread weights."""
    return weights[0].shape[: weights[0].ndim - model.own[weights._fields[0]]]


def check(model, weights: NamedTuple, problem: Problem) -> None:
    """Raise where weights and problem do not go together, as far as that shows from outside."""
    if hasattr(model, "check"):
        model.check(weights, problem)
        return
    for name, W in zip(weights._fields, weights, strict=True):
        _validate.finite(name, W, "initialise it again")
        _validate.like(name, W, problem.X)


def spread(model, weights: NamedTuple, problem: Problem) -> NamedTuple:
    """The weights with all run dimensions each; nothing is copied.

    Raises
    ------
    ValueError : where the dimensions do not go together.
    """
    own = [model.own[name] for name in weights._fields]
    shapes = [W.shape[: W.ndim - k] for W, k in zip(weights, own, strict=True)]
    try:
        runs = np.broadcast_shapes(problem.X.shape[:-3], *shapes)
    except ValueError:
        pairs = zip(weights._fields, shapes, strict=True)
        found = ", ".join(f"{name} {tuple(shape)}" for name, shape in pairs)
        found = f"the problem has {tuple(problem.X.shape[:-3])}, {found}"
        remedy = "give each the same leading dimensions, or none"
        raise error(ValueError, f"runs do not go together: {found}", remedy) from None
    return type(weights)(
        *(W.expand((*runs, *W.shape[W.ndim - k :])) for W, k in zip(weights, own, strict=True))
    )


def objective(model, weights: NamedTuple, problem: Problem, train: str) -> Callable:
    """Trained weights to loss and gradients, what `descend` calls at every step."""
    if hasattr(model, "objective"):
        return model.objective(weights, problem, train)
    return partial(_of_right_shapes, model, weights, problem, train)


def _of_right_shapes(model, weights: NamedTuple, problem: Problem, train: str, moving: dict):
    """What the model gives; raises where it would be spread over runs or entries without a word."""
    loss, gradients = model.loss_and_gradient(weights._replace(**moving), problem, train)
    runs, who = runs_of(model, weights), f"{type(model).__name__}.loss_and_gradient"
    if loss.shape != runs:
        found = f"{who} gives a loss of shape {tuple(loss.shape)}, but the runs are {tuple(runs)}"
        raise error(TypeError, found, "return one number for each run")
    for W, value in moving.items():
        shape = tuple(gradients[W].shape) if W in gradients else None
        if shape != tuple(value.shape):
            found = f"{who} gives {W} a gradient of shape {shape}, but {W} is {tuple(value.shape)}"
            raise error(TypeError, found, "return one of the weight's own shape for each letter")
    return loss, gradients


def smoothness(model, weights: NamedTuple, problem: Problem, train: str) -> Tensor:
    """The curvature L for the step 1/L: the model's own, or that of the Hessian at the start."""
    if hasattr(model, "smoothness"):
        return model.smoothness(weights, problem, train)
    # forward mode cannot write into a view that runs share (weights that were `expand`ed)
    point = {W: getattr(weights, W).contiguous() for W in train}
    runs, gradient = len(runs_of(model, weights)), objective(model, weights, problem, train)
    gradient(point)  # what fails here is the model's own
    try:
        return spectra.top_hessian_eigenvalue(gradient, point, runs)
    except RuntimeError as refusal:
        found = f"the gradient of {type(model).__name__} cannot be differentiated ({refusal})"
        remedy = "give step a number, take gradients by torch.func, or state the model's smoothness"
        raise error(ValueError, found, remedy) from refusal


def loss(model, weights: NamedTuple, problem: Problem) -> Tensor:
    """The loss of each run; weights may have different run dimensions that broadcast."""
    if hasattr(model, "loss"):
        return model.loss(weights, problem)
    return model.loss_and_gradient(spread(model, weights, problem), problem, "")[0]
