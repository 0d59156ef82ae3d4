r"""Step-size rules.

A rule is a function of the loss (...,) and the squared gradient norm (...,) of each run, and
returns that run's step. A number is the constant step; ``"1/L"`` takes L from the model's own
`smoothness` at the start. Introduced in :doc:`/foundations/descent`.
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import _validate

Rule = Callable[[Tensor, Tensor], Tensor]


def uses_gradient(rule: Rule) -> bool:
    """Whether the rule looks at the gradient's length, which costs a product to know."""
    return getattr(rule, "uses_gradient", True)


def is_constant(rule: Rule) -> bool:
    """Whether the rule gives the same step at all times, so that it need be asked only once."""
    return getattr(rule, "is_constant", False)


# Rules are objects and no closures, so that they can be copied, compared and sent to a process.


@dataclass(frozen=True, eq=False)
class _Constant:
    eta: Tensor

    uses_gradient = False
    is_constant = True

    def __call__(self, loss: Tensor, square: Tensor | None) -> Tensor:
        if not self.eta.ndim:
            return torch.full_like(loss, float(self.eta))  # made on the device: nothing to copy
        if self.eta.shape != loss.shape:
            raise ValueError(
                f"step has shape {tuple(self.eta.shape)}, but there are runs of shape "
                f"{tuple(loss.shape)}: give one number, or one for every run"
            )
        return self.eta.to(loss).expand_as(loss)


def constant(eta: float | Tensor) -> Rule:
    """The same step always; a tensor (...,) gives every run its own."""
    eta = torch.as_tensor(eta, dtype=torch.float64)
    if not bool((torch.isfinite(eta) & (eta > 0)).all()):
        raise ValueError(f"step must be positive and finite, got {eta.tolist()}: try step='1/L'")
    return _Constant(eta)


@dataclass
class _Schedule:
    eta: Callable[[int], float | Tensor]
    t: int = 0

    uses_gradient = False

    def __call__(self, loss: Tensor, square: Tensor) -> Tensor:
        self.t += 1
        return constant(self.eta(self.t - 1))(loss, square)


def schedule(eta: Callable[[int], float | Tensor]) -> Rule:
    """The step ``eta(t)`` at step t = 0, 1, 2, ...: a number, or one for every run (...,).

    Every `descend` starts again at t = 0.
    """
    if not callable(eta):
        raise TypeError(f"eta must be a function of the step number, got {eta!r}")
    return _Schedule(eta)


def normalised(eta: float) -> Rule:
    r"""Move a distance ``eta`` whatever the gradient's length: :math:`\eta / \|\nabla f\|`."""
    return _Normalised(_validate.positive("eta", eta))


@dataclass(frozen=True)
class _Normalised:
    eta: float

    def __call__(self, loss: Tensor, square: Tensor) -> Tensor:
        return self.eta / square.sqrt().clamp_min(torch.finfo(square.dtype).tiny)


def polyak(optimum: float = 0.0) -> Rule:
    r"""Polyak's step :math:`(f - f^*) / \|\nabla f\|^2`, for a known optimal value."""
    if not math.isfinite(optimum):
        raise ValueError(f"optimum must be finite, got {optimum}")
    return _Polyak(optimum)


@dataclass(frozen=True)
class _Polyak:
    optimum: float

    def __call__(self, loss: Tensor, square: Tensor) -> Tensor:
        limits = torch.finfo(square.dtype)
        step = (loss - self.optimum).clamp_min(0) / square.clamp_min(limits.tiny)
        return step.clamp_max(limits.max)  # where the gradient is zero: infinity times it is NaN


def check(eta: Tensor, loss: Tensor) -> None:
    """Raise TypeError unless what a rule gave is a step for each run."""
    if not isinstance(eta, Tensor) or eta.shape != loss.shape:
        found = tuple(eta.shape) if isinstance(eta, Tensor) else repr(eta)
        raise TypeError(
            f"a rule must return a tensor with one step for each run, of shape "
            f"{tuple(loss.shape)}, got {found}"
        )


def resolve(step: float | str | Tensor | Rule, smoothness: Callable[[], Tensor]) -> Rule:
    """Turn what a user wrote into a rule; ``smoothness`` is asked only if the step needs it."""
    if isinstance(step, str):
        if step != "1/L":
            raise ValueError(
                f"unknown step {step!r}: expected '1/L', a positive number "
                "or a rule of descent.steps"
            )
        return constant(1 / _curved(smoothness()))
    if isinstance(step, bool) or not (callable(step) or isinstance(step, (numbers.Real, Tensor))):
        raise TypeError(f"step must be a positive number, '1/L' or a rule, got {step!r}")
    if isinstance(step, _Schedule):
        return replace(step, t=0)
    return step if callable(step) else constant(step)


def _curved(L: Tensor) -> Tensor:
    if not bool((torch.isfinite(L) & (L > 0)).all()):
        raise ValueError(
            "step '1/L' needs curvature, but the loss is flat where some run starts: "
            "give step a number"
        )
    return L
