"""Where the runs of a sweep come from: models, problems and optimisers, with axes of their own."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import models, problems
from .._errors import error
from ..models import Model, _protocol
from ..problems import Problem

#: Arguments that are no axis of their own: how numbers are kept, and the seed that all runs have.
NO_AXES = ("dtype", "device", "seed")
#: The usual value of an axis that has none.
REQUIRED = object()
#: What trains where no optimiser is named.
DESCENT = "descent"


class Instance(NamedTuple):
    """One run: what is trained, on what, from where."""

    model: Model
    problem: Problem
    weights: NamedTuple


@dataclass(frozen=True)
class Family:
    """What a sweep varies over, by name.

    models : name -> a model, or what makes one of keyword arguments.
    problems : name -> a problem, or what makes one of keyword arguments and a seed.
    optimisers : name -> None for gradient descent, or what makes an optimiser of tensors.
    named : which of the three are columns of the table; the others have one value, the usual.
    """

    models: dict[str, Callable | Model]
    problems: dict[str, Callable | Problem]
    optimisers: dict[str, Callable | None]
    named: tuple[str, ...]

    @classmethod
    def of(cls, model=models.Attention, problem=problems.gaussian_in_span, optimiser=None):
        """Names for what a user gave: one thing, several by name, a file, or "module:name"."""
        named = {
            "problem": problem is not problems.gaussian_in_span,
            "model": model is not models.Attention,
            "optimiser": optimiser is not None,
        }
        return cls(
            _by_name("model", model, partial(_found, models)),
            _by_name("problem", problem, _problem),
            _by_name(
                "optimiser", optimiser, partial(_found, importlib.import_module("torch.optim"))
            ),
            tuple(name for name, given in named.items() if given),
        )

    @property
    def axes(self) -> dict[str, object]:
        """The arguments of the problems and the models, with their usual values."""
        own = _shared("problems", self.problems)
        clash = set(own) & set(self.model_axes)
        if clash:
            found = f"problem and model both take {', '.join(sorted(clash))}"
            raise error(ValueError, found, "give one of them another name")
        return {**own, **self.model_axes}

    @property
    def model_axes(self) -> dict[str, object]:
        """Those of the models alone."""
        return _shared("models", self.models)

    @property
    def letters(self) -> str | None:
        """What the models can train, where they say so before they are made."""
        known = {getattr(model, "trainable", None) for model in self.models.values()}
        letters = known.pop()
        return letters if not known and isinstance(letters, str) else None

    def model(self, cell: Mapping) -> Model:
        made = _made(self.models[cell.get("model", next(iter(self.models)))], cell)
        _protocol.require(made)
        return made

    def problem(self, cell: Mapping, seed: int) -> Problem:
        made = _made(self.problems[cell.get("problem", next(iter(self.problems)))], cell, seed=seed)
        if not isinstance(made, Problem):
            found = f"problem gave a {type(made).__name__}"
            raise error(TypeError, found, "return a descent.problems.Problem")
        return made

    def optimiser(self, cell: Mapping) -> Callable | None:
        return self.optimisers[cell.get("optimiser", next(iter(self.optimisers)))]

    def instance(self, cell: Mapping, seed: int, start: int, scale: float) -> Instance:
        """The run of that number, the same in every cell of its shape."""
        model, problem = self.model(cell), self.problem(cell, seed)
        weights = model.init(problem, seed=seed, runs=[start], scale=scale)
        return Instance(model, problem, weights._make(W[0] for W in weights))

    def record(self) -> dict[str, dict[str, str]]:
        """What the names stand for, so that other contents under one name are another sweep."""
        kinds = {"model": self.models, "problem": self.problems, "optimiser": self.optimisers}
        return {
            kind: {name: _identity(thing) for name, thing in kinds[kind].items()}
            for kind in self.named
        }


def _by_name(kind: str, given, read: Callable) -> dict:
    if isinstance(given, Mapping):
        if not given:
            raise error(ValueError, f"{kind} is empty", "name at least one")
        return {str(name): read(thing) for name, thing in given.items()}
    several = given if isinstance(given, list) else [given]
    things = [(thing, read(thing)) for thing in several]
    return {_name(thing) if not isinstance(thing, str) else thing: made for thing, made in things}


def _name(thing) -> str:
    if thing is None:
        return DESCENT
    if isinstance(thing, (Problem, Path)):
        return _identity(thing) if isinstance(thing, Problem) else str(thing)
    return getattr(thing, "__name__", None) or _identity(thing)


def _problem(given):
    """A problem: as it is, from a file with X and y, or of `descent.problems`."""
    if not isinstance(given, (str, Path)):
        return given
    if Path(given).suffix != ".npz":
        return _found(problems, given)
    try:
        with np.load(given, allow_pickle=False) as file:
            return Problem(file["X"], file["y"])
    except (OSError, KeyError, ValueError) as refusal:
        found = f"problem {str(given)!r} cannot be read ({type(refusal).__name__}: {refusal})"
        raise error(ValueError, found, "save it with numpy.savez(file, X=..., y=...)") from None


def _found(module, given):
    """What a text names, in the module or as "module:name"; anything else as it is."""
    if not isinstance(given, str):
        return given
    if given == DESCENT:
        return None
    place, colon, name = given.rpartition(":")
    try:
        return getattr(importlib.import_module(place) if colon else module, name)
    except (ImportError, AttributeError):
        remedy = f"give a name of {module.__name__}, or module:name"
        raise error(ValueError, f"unknown {given!r}", remedy) from None


def _made(thing, cell: Mapping, **more):
    """A model or problem as it is, or made of those of the cell's values that it takes."""
    if isinstance(thing, (Problem, Model)) and not isinstance(thing, type):
        return thing
    taken = inspect.signature(thing).parameters
    return thing(**{name: value for name, value in {**cell, **more}.items() if name in taken})


def _own(thing) -> dict[str, object]:
    if isinstance(thing, (Problem, Model)) and not isinstance(thing, type):
        return {}
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: REQUIRED if p.default is inspect.Parameter.empty else p.default
        for name, p in inspect.signature(thing).parameters.items()
        if p.kind in plain and name not in NO_AXES
    }


def _shared(kind: str, things: dict) -> dict[str, object]:
    """The arguments that all take; numbers before names, as a table shows them."""
    each = {name: _own(thing) for name, thing in things.items()}
    first = next(iter(each.values()))
    for name, own in each.items():
        if own.keys() != first.keys():
            found = f"{kind} of one sweep must take the same arguments, but {name} takes others"
            raise error(ValueError, found, "make a sweep for each")
    return dict(sorted(first.items(), key=lambda item: isinstance(item[1], str)))


def _identity(thing) -> str:
    """A text that is the same in every process, and another one for another thing."""
    if isinstance(thing, Problem):
        numbers = b"".join(A.detach().cpu().numpy().tobytes() for A in (thing.X, thing.y))
        shape = "x".join(map(str, thing.X.shape))
        return f"{shape}-{hashlib.sha256(numbers).hexdigest()[:8]}"
    if isinstance(thing, partial):
        return f"{_identity(thing.func)}{thing.args}{sorted(thing.keywords.items())}"
    if hasattr(thing, "__qualname__"):
        return f"{thing.__module__}:{thing.__qualname__}"
    text = repr(thing)
    return f"{type(thing).__module__}:{type(thing).__qualname__}" if " at 0x" in text else text
