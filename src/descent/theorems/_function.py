"""A loss that is a function of one vector, and where descent on it begins."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import _validate, spectra
from .. import steps as rules
from .._descend import Trajectory
from .._errors import error
from .._trajectory import told
from ..models import LeastSquares
from ._report import blurred


class Parameters(NamedTuple):
    """All parameters as one vector (..., p)."""

    theta: Tensor


@dataclass(frozen=True)
class FunctionStart:
    r"""Half the square of a residual, starts, and what is known of it; ``*r`` are runs.

    Constants that hold on a whole region cannot be read off a start: whoever holds a theorem
    against a function gives those that it asks for. Arrays of numpy will do.

    f : the loss, `descent.models.LeastSquares` of any residual.
    theta : the starts, (*r, p).
    L : its smoothness.
    mu : a constant below which it does not grow: of the PL inequality, or of quadratic growth.
    Lambda : the Lipschitz constant of the Jacobian.
    minimiser : a point (p,) of least loss.
    infimum : the least loss, zero for a residual that can vanish.
    """

    f: LeastSquares
    theta: Float[Tensor, "*r p"]
    L: float | None = None
    mu: float | None = None
    Lambda: float | None = None
    minimiser: Float[Tensor, " p"] | None = None
    infimum: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.f, LeastSquares):
            found = f"f must be LeastSquares, got {_validate.shown(self.f)}"
            raise error(TypeError, found, "give LeastSquares(residual)")
        theta = _validate.matrix("theta", self.theta, least=1)
        known = {"theta": _validate.finite("theta", theta, "start elsewhere")}
        for name in ("L", "mu", "Lambda"):
            if getattr(self, name) is not None:
                value = _validate.positive(name, getattr(self, name))
                known[name] = torch.tensor(value, dtype=torch.float64).to(theta)
        try:
            self.f.residual(known["theta"])
        except RuntimeError as failure:
            found = f"f cannot be computed at theta ({str(failure).splitlines()[0]})"
            remedy = "give a residual of float64 vectors (..., p), p as many as theta has"
            raise error(ValueError, found, remedy) from None
        if self.minimiser is not None:
            point = _validate.matrix("minimiser", self.minimiser, least=1).to(theta)
            known["minimiser"] = _validate.shape(
                "minimiser", point, theta.shape[-1:], f"theta has {theta.shape[-1]} parameters"
            )
        known["infimum"] = _validate.real("infimum", self.infimum)
        for name, value in known.items():
            object.__setattr__(self, name, value)

    def known(self, name: str) -> Tensor:
        """A constant that was given, one a run; ValueError if it was not."""
        value = getattr(self, name)
        if value is None:
            raise error(ValueError, f"this theorem speaks of {name}", f"give {name}=")
        return value if name == "minimiser" else value.expand_as(self.r)

    @cached_property
    def first(self) -> Float[Tensor, "*r"]:
        """The loss of the starts."""
        return self.f.loss(self.theta)

    @cached_property
    def r(self) -> Float[Tensor, "*r"]:
        """Norm of the residual."""
        return torch.linalg.vector_norm(self.f.residual(self.theta), dim=-1)

    @cached_property
    def J(self) -> Float[Tensor, "*r m p"]:
        """The Jacobian."""
        return self.f.jacobian(self.theta)

    @cached_property
    def steepest(self) -> Float[Tensor, "*r"]:
        """Its norm."""
        return torch.linalg.matrix_norm(self.J, 2)

    @cached_property
    def sigma(self) -> Float[Tensor, "*r"]:
        """The smallest of its m singular values."""
        return spectra.sigma_min(self.J)

    @cached_property
    def rounding(self) -> Float[Tensor, "*r"]:
        """What a residual is off by if the parameters are known to one rounding."""
        moved = self.steepest * torch.linalg.vector_norm(self.theta, dim=-1)
        return torch.finfo(self.theta.dtype).eps * (self.r + moved)

    # -- along a run --------------------------------------------------------------------------------

    def descend(self, *, step, steps: int, **_: object) -> Trajectory:
        """Gradient descent that keeps every iterate, watched as ``weights``, whatever is asked for."""
        rule = rules.resolve(step, lambda: self.f.smoothness(self.theta))
        path = self.f.path(self.theta, step=rule, steps=steps)
        return replace(self.seen(path, self._first(rule)), rule=told(rule))

    def seen(self, path: Float[Tensor, "t *r p"], eta: float | Tensor) -> Trajectory:
        """Iterates of one's own, from ``theta`` on, as a run that theorems can be held against."""
        loss = self.f.loss(path)
        lost = ~loss.isfinite()
        diverged = torch.where(lost.any(0), lost.to(torch.int64).argmax(0), -1)
        eta = torch.as_tensor(eta).to(loss).expand_as(loss[0])
        watched = {"weights": Parameters(path)}
        return Trajectory(
            loss, Parameters(path[-1]), diverged, eta, 0 * diverged - 1, watched, tuple(range(len(path)))
        )  # fmt: skip

    def _first(self, rule: rules.Rule) -> Tensor:
        """The size of the first step."""
        loss, slope = self.f.loss_and_gradient(self.theta)
        rule = rules.resolve(rule, lambda: None)  # from its own beginning
        return rule(loss, slope.square().sum(-1))

    def gap(self, run: Trajectory) -> Float[Tensor, "t *r"]:
        """The loss above the infimum."""
        return run.loss - self.infimum

    def visible(self, run: Trajectory) -> Float[Tensor, "*r"]:
        """The share of the first gap down to which later ones can be told from rounding."""
        known = 1e-12 if self.infimum == 0 else 1e-9 * run.loss[0] / self.gap(run)[0]
        known = torch.as_tensor(known).to(run.loss).expand_as(run.loss[0])
        return known + torch.where(
            self.least > 0, self.least / self.gap(run)[0].clamp_min(1e-300), 0
        )

    @cached_property
    def least(self) -> Float[Tensor, "*r"]:
        """What a loss is off by near the infimum, where the parameters are known to a rounding."""
        bottom = torch.as_tensor(self.infimum).to(self.r).clamp_min(0)
        return blurred(bottom, self.rounding) - bottom

    def slopes(self, run: Trajectory) -> tuple[Float[Tensor, "t *r p"], Float[Tensor, "t *r"]]:
        """Gradients along the run, and their squared norms."""
        gradient = self.f.loss_and_gradient(run.watched["weights"].theta)[1]
        return gradient, gradient.square().sum(-1)
