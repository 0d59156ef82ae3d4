r"""Step-size rules.

A rule is a function of the loss (...,) and the squared gradient norm (...,) of each run, and
returns that run's step. A number is the constant step; ``"1/L"`` takes L from the model's own
`smoothness` at the start. Introduced in :doc:`/foundations/descent`.
"""

import math
import numbers
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import _validate
from ._errors import error

Rule = Callable[[Tensor, Tensor], Tensor]


#: What a step for each run may come in.
SEVERAL = (Tensor, np.ndarray, list, tuple)


def uses_gradient(rule: Rule) -> bool:
    """Whether the rule looks at the gradient's length, which costs a product to know."""
    return getattr(rule, "uses_gradient", True)


def is_constant(rule: Rule) -> bool:
    """Whether the rule gives the same step at all times, so that it need be asked only once."""
    return getattr(rule, "is_constant", False)


class Formula(NamedTuple):
    r"""A rule that compiled code can follow: :math:`\eta_t = a_t\,(f - f^*)_+\,/\,\|\nabla f\|^p`.

    power : p, 0, 1 or 2.
    optimum : :math:`f^*`, or None where the loss is no factor.

    The rule's method ``ahead(count, loss)`` gives the next :math:`a_t`, (count, ...).
    """

    power: int = 0
    optimum: float | None = None


def formula(rule: Rule | None) -> Formula | None:
    """What compiled code needs to know of a rule; None of one's own, which it must ask."""
    return getattr(rule, "formula", None)


# Rules are objects and no closures, so that they can be copied, compared and sent to a process.


@dataclass(frozen=True, eq=False)
class _Constant:
    eta: Tensor

    uses_gradient = False
    is_constant = True
    formula = Formula()

    def __call__(self, loss: Tensor, square: Tensor | None) -> Tensor:
        if not self.eta.ndim:
            return torch.full_like(loss, float(self.eta))  # made on the device: nothing to copy
        if self.eta.shape != loss.shape:
            raise error(
                ValueError,
                f"step has shape {tuple(self.eta.shape)}, but there are runs of shape {tuple(loss.shape)}",
                "give one number, or one for every run",
            )
        return self.eta.to(loss).expand_as(loss)


def constant(eta: float | Tensor) -> Rule:
    """The same step always; a tensor (...,) gives every run its own.

    Raises
    ------
    ValueError, TypeError : for a step that is not positive, or no number.
    """
    if not isinstance(eta, SEVERAL):
        eta = _validate.real("step", eta)
    eta = _validate.tensor("step", eta).detach().to(torch.float64)
    if not bool((torch.isfinite(eta) & (eta > 0)).all()):
        raise error(
            ValueError, f"step must be positive and finite, got {eta.tolist()}", "try step='1/L'"
        )
    return _Constant(eta)


@dataclass
class _Schedule:
    eta: Callable[[int], float | Tensor]
    t: int = 0

    uses_gradient = False
    formula = Formula()

    def __call__(self, loss: Tensor, square: Tensor | None) -> Tensor:
        self.t += 1
        return constant(self.eta(self.t - 1))(loss, square)

    def ahead(self, count: int, loss: Tensor) -> Tensor:
        return torch.stack([_Schedule.__call__(self, loss, None) for _ in range(count)])


def schedule(eta: Callable[[int], float | Tensor]) -> Rule:
    """The step ``eta(t)`` at step t = 0, 1, 2, ...: a number, or one for every run (...,).

    Every `descend` starts again at t = 0.

    Raises
    ------
    TypeError : for what is no function of the step.
    """
    if not callable(eta):
        raise error(
            TypeError,
            f"eta must be a function of the step number, got {eta!r}",
            "be a function of the step number",
        )
    return _Schedule(eta)


class PrecisionWarning(UserWarning):
    """A gradient so small that float64 does not hold its square: its length is not known."""


def normalised(eta: float | Callable[[int], float]) -> Rule:
    r"""Move a distance ``eta`` whatever the gradient's length: :math:`\eta / \|\nabla f\|`.

    A function of the step number t = 0, 1, 2, ... makes the distances change, as in
    ``normalised(lambda t: (t + 1) ** -0.5)``. Where the square of the length underflows, the run
    stands still and a `PrecisionWarning` says so.

    Raises
    ------
    ValueError, TypeError : for a step that is not positive, or no number.
    """
    if callable(eta):
        return _NormalisedSchedule(eta)
    return _Normalised(_validate.positive("eta", eta))


@dataclass(frozen=True)
class _Normalised:
    eta: float

    formula = Formula(power=1)

    def ahead(self, count: int, loss: Tensor) -> Tensor:
        return _the_same(self.eta, count, loss)

    def __call__(self, loss: Tensor, square: Tensor) -> Tensor:
        return _known(torch.full_like(square, self.eta), square, square.sqrt())


@dataclass
class _NormalisedSchedule(_Schedule):
    uses_gradient = True
    formula = Formula(power=1)

    def __call__(self, loss: Tensor, square: Tensor) -> Tensor:
        return _known(super().__call__(loss, square), square, square.sqrt())


def polyak(optimum: float = 0.0, factor: float = 1.0) -> Rule:
    r"""Polyak's step :math:`\lambda (f - f^*) / \|\nabla f\|^2`, for a known optimal value.

    Raises
    ------
    ValueError, TypeError : for an optimum that is not finite, or a factor that is not positive.

    Examples
    --------
    >>> from descent import descend, models, problems, steps
    >>> problem = problems.gaussian(N=2, n=2, D=8, seed=0)
    >>> layer = models.Attention(kernel="softmax", H=2, d=4)
    >>> weights = layer.init(problem, seed=1, runs=3)
    >>> run = descend(layer, problem, weights, step=steps.polyak(), steps=100)
    >>> bool((run.loss[-1] < run.loss[0]).all())
    True
    """
    optimum = _validate.real("optimum", optimum)
    if not math.isfinite(optimum):
        raise error(ValueError, f"optimum must be finite, got {optimum}", "be finite")
    return _Polyak(optimum, _validate.positive("factor", factor))


@dataclass(frozen=True)
class _Polyak:
    optimum: float
    factor: float

    @property
    def formula(self) -> Formula:
        return Formula(2, self.optimum)

    def ahead(self, count: int, loss: Tensor) -> Tensor:
        return _the_same(self.factor, count, loss)

    def __call__(self, loss: Tensor, square: Tensor) -> Tensor:
        limits = torch.finfo(square.dtype)
        step = self.factor * (loss - self.optimum).clamp_min(0) / square.clamp_min(limits.tiny)
        return step.clamp_max(limits.max)  # where the gradient is zero: infinity times it is NaN


def polyak_of_logarithm(factor: float = 1.0) -> Rule:
    r"""Polyak's step for f where :math:`F = \log(f - f^*)` descends: :math:`\lambda / \|\nabla F\|^2`.

    Since :math:`\nabla F = \nabla f / (f - f^*)`, it moves the weights exactly as `polyak` moves
    them on f, however small :math:`f - f^*` has become. See :doc:`/vasudeva2024/convergence`.

    Raises
    ------
    ValueError, TypeError : for a factor that is not positive.
    """
    return _PolyakOfLogarithm(_validate.positive("factor", factor))


@dataclass(frozen=True)
class _PolyakOfLogarithm:
    factor: float

    formula = Formula(power=2)

    def ahead(self, count: int, loss: Tensor) -> Tensor:
        return _the_same(self.factor, count, loss)

    def __call__(self, loss: Tensor, square: Tensor) -> Tensor:
        return _known(torch.full_like(square, self.factor), square, square)


def _known(step: Tensor, square: Tensor, divisor: Tensor) -> Tensor:
    """The step over the divisor; zero, with a warning, where float64 does not hold the square."""
    tiny = torch.finfo(square.dtype).tiny
    lost = square < tiny
    warn_of_lost(lost)
    return torch.where(lost, 0.0, step / torch.where(lost, 1.0, divisor))


def warn_of_lost(lost: Tensor) -> None:
    """Say how many runs stand still since their gradient is too short for its length to be known."""
    if bool(lost.any()):
        warnings.warn(
            f"the gradient of {int(lost.sum())} of {lost.numel()} runs is so small that float64 "
            "does not hold its square: they stand still, since where it points is not known. "
            "Let the logarithm of the loss descend, take shorter steps, or stop earlier",
            PrecisionWarning,
            stacklevel=5,
        )


def _the_same(scale: float, count: int, loss: Tensor) -> Tensor:
    return loss.new_full((1, *loss.shape), scale).expand(count, *loss.shape)


def check(eta: Tensor, loss: Tensor) -> None:
    """Refuse what a rule gave unless it is a step for each run.

    Raises
    ------
    TypeError : if it is no tensor of real numbers with a number for each run.
    """
    if not isinstance(eta, Tensor) or eta.shape != loss.shape:
        found = tuple(eta.shape) if isinstance(eta, Tensor) else repr(eta)
        remedy = f"return a tensor with one step for each run, of shape {tuple(loss.shape)}"
        raise error(TypeError, f"a rule must {remedy}, got {found}", remedy)


def resolve(step: float | str | Tensor | Rule, smoothness: Callable[[], Tensor]) -> Rule:
    """Turn what a user wrote into a rule; ``smoothness`` is asked only if the step needs it.

    Raises
    ------
    ValueError, TypeError : for what names no rule.
    """
    if isinstance(step, str):
        if step != "1/L":
            raise error(
                ValueError,
                f"unknown step {step!r}",
                "expected '1/L', a positive number or a rule of descent.steps",
            )
        return _Constant(_inverse(smoothness()))
    known = callable(step) or isinstance(step, (numbers.Real, *SEVERAL))
    if isinstance(step, bool) or not known:
        raise error(
            TypeError,
            f"step must be a positive number, '1/L' or a rule, got {step!r}",
            "be a positive number, '1/L' or a rule",
        )
    if isinstance(step, _Schedule):
        return replace(step, t=0)
    return step if callable(step) else constant(step)


def _inverse(L: Tensor) -> Tensor:
    """1/L, or no step at all for the runs that have none; an error if that is every one."""
    known = torch.isfinite(1 / L) & (L > 0)
    lost = int((~known).sum())
    if lost:
        found = "the loss is flat" if bool((L[~known] == 0).all()) else "the curvature is NaN"
        if lost == L.numel():
            raise error(
                ValueError,
                f"step '1/L' needs curvature, but {found} where every run starts",
                "give step a number, or choose another start",
            )
        warnings.warn(
            f"step '1/L' needs curvature, but {found} where {lost} of {L.numel()} runs start: "
            "they stay there; give step a number, or choose another start",
            stacklevel=2,
        )
    return torch.where(known, 1 / L, 0)
