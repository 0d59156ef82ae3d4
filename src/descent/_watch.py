"""What `descend` looks at on the way, besides the loss."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import _validate, spectra
from ._errors import error


def _attention(model, problem, train: str, weights: NamedTuple) -> Tensor:
    return model.attention(weights, problem)


def _sigma_min(model, problem, train: str, weights: NamedTuple) -> Tensor:
    return spectra.sigma_min(spectra.concat(model.features(weights, problem)))


def _gradient_norm(model, problem, train: str, weights: NamedTuple) -> Tensor:
    loss, gradient = model.loss_and_gradient(weights, problem, train)
    return sum(g.square().reshape(*loss.shape, -1).sum(-1) for g in gradient.values()).sqrt()


#: What can be asked for by name; none of these changes when the problem is seen in its span.
USUAL = {"attention": _attention, "sigma_min": _sigma_min, "gradient_norm": _gradient_norm}
#: The method of a model that a name needs, besides those that every model has.
NEEDS = {"attention": "attention", "sigma_min": "features"}


class Watch:
    """What to look at, and the steps at which to look.

    watch : names ("weights" or one of `USUAL`), or a mapping of names to functions of the weights.
    at : steps, 0 for the start.
    """

    def __init__(
        self, watch: Mapping[str, Callable] | Iterable[str], at: Iterable[int], steps: int
    ):
        if not isinstance(watch, Mapping):
            names = [watch] if isinstance(watch, str) else _validate.several("watch", watch)
            watch = {_validate.one_of("watch", name, ["weights", *USUAL]): name for name in names}
        for name, function in watch.items():
            if not (callable(function) or function is name):
                raise error(
                    TypeError,
                    f"watch[{name!r}] must be a function of the weights, got {function!r}",
                    "be a function of the weights",
                )
        self.at = tuple(
            sorted({_validate.count("at", t, least=0) for t in _validate.several("at", at)})
        )
        if bool(self.at) != bool(watch):
            raise error(
                ValueError, "watch and at go together", "say what to watch and at which steps"
            )
        if self.at and self.at[-1] > steps:
            found = f"at asks for step {self.at[-1]}, but there are {steps} steps"
            raise error(ValueError, found, "take more steps or look earlier")
        self.functions, self.wanted = dict(watch), frozenset(self.at)
        self.seen: dict[str, list] = {name: [] for name in watch}

    def bind(self, model, problem, train: str, lift: Callable[[NamedTuple], NamedTuple]) -> None:
        """Say how the loop's weights are to be seen: the usual as they are, the rest lifted."""

        def view(name: str, function) -> Callable:
            if not hasattr(model, NEEDS.get(function, "loss_and_gradient")):
                lacks = f"which {type(model).__name__} lacks"
                found = f"watch={function!r} needs a method {NEEDS[function]!r}, {lacks}"
                raise error(TypeError, found, "give the model that method, or watch something else")
            if function in USUAL:
                return partial(USUAL[function], model, problem, train)
            if function == "weights":
                return lambda small: _copy(name, lift(small))
            return lambda small: _copy(name, function(lift(small)))

        self.views = {name: view(name, function) for name, function in self.functions.items()}

    def look(self, t: int, weights: Callable[[], NamedTuple]) -> None:
        """Record step t, if it is one of those asked for."""
        if t in self.wanted:
            now = weights()
            for name, view in self.views.items():
                self.seen[name].append(view(now))

    def rest(self, weights: Callable[[], NamedTuple]) -> None:
        """Record the steps that are left: no run moves any more, all see what is there now."""
        taken = min(map(len, self.seen.values()), default=0)
        for t in self.at[taken:]:
            self.look(t, weights)

    def values(self) -> dict:
        """name -> (len(at), ...); what is a tuple of tensors stays one."""
        return {name: _stack(seen) for name, seen in self.seen.items()}


def _copy(name: str, value):
    """What is seen, in memory of its own: it must not move with the weights."""
    if hasattr(value, "_fields"):
        return type(value)(*(_copy(name, W) for W in value))
    if isinstance(value, Tensor):
        return value.clone()
    try:
        return torch.from_numpy(np.array(value))  # which takes Python's floats for float64
    except (ValueError, TypeError, RuntimeError):
        found = f"watch[{name!r}] gave {_validate.shown(value)}"
        remedy = "return numbers, a tensor, or a NamedTuple of tensors"
        raise error(TypeError, found, remedy) from None


def _stack(seen: list):
    if isinstance(seen[0], tuple):
        return type(seen[0])(*(torch.stack(W) for W in zip(*seen, strict=True)))
    return torch.stack(seen)
