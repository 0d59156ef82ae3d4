r"""Small losses of a vector of parameters, to look at gradient descent itself.

Every loss of this book is half the square of a residual, and so are these: with
:math:`f(\theta) = \tfrac12\|r(\theta)\|^2` and the Jacobian :math:`J = \partial r/\partial\theta`,
the gradient is :math:`J^\top r`, hence :math:`\|\nabla f\|^2 \ge \sigma_{\min}(J)^2\, 2f`.
Introduced in :doc:`/foundations/descent`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import _memory, _validate, spectra
from .. import steps as rules
from .._errors import error
from ..problems import Problem


@dataclass(frozen=True)
class LeastSquares:
    r"""The loss :math:`f(\theta) = \tfrac12\|r(\theta)\|^2` of any differentiable residual.

    Parameters
    ----------
    residual : maps parameters (..., p) to residuals (..., m), each run by itself.
    """

    residual: Callable[[Float[Tensor, "*r p"]], Float[Tensor, "*r m"]]

    def loss(self, theta: Float[Tensor, "*r p"]) -> Float[Tensor, "*r"]:
        """Half the squared residual of every run."""
        return self.residual(theta).square().sum(-1) / 2

    def loss_and_gradient(
        self, theta: Float[Tensor, "*r p"]
    ) -> tuple[Float[Tensor, "*r"], Float[Tensor, "*r p"]]:
        r"""The loss, and its gradient :math:`J^\top r`."""
        r, pull = torch.func.vjp(self.residual, theta)
        return r.square().sum(-1) / 2, pull(r)[0]

    def jacobian(self, theta: Float[Tensor, "*r p"]) -> Float[Tensor, "*r m p"]:
        r"""The Jacobian :math:`J = \partial r/\partial\theta` of every run."""
        r, pull = torch.func.vjp(self.residual, theta)
        one_hot = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
        one_hot = one_hot.reshape(-1, *(1,) * (r.ndim - 1), r.shape[-1]).expand(-1, *r.shape)
        return torch.func.vmap(pull)(one_hot)[0].movedim(0, -2)

    def hessian(self, theta: Float[Tensor, "*r p"]) -> Float[Tensor, "*r p p"]:
        """All second derivatives, p products with the Hessian: for small p."""
        one_hot = torch.eye(theta.shape[-1], dtype=theta.dtype, device=theta.device)
        _, multiply = torch.func.vjp(lambda x: self.loss_and_gradient(x)[1], theta)
        return torch.stack([multiply(e.expand_as(theta))[0] for e in one_hot], -2)

    def smoothness(self, theta: Float[Tensor, "*r p"]) -> Float[Tensor, "*r"]:
        """Largest absolute eigenvalue of the Hessian at ``theta``: the L of the step 1/L there."""

        def objective(point: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            loss, gradient = self.loss_and_gradient(point["theta"])
            return loss, {"theta": gradient}

        return spectra.top_hessian_eigenvalue(objective, {"theta": theta}, theta.ndim - 1)

    def path(
        self,
        theta: Float[Tensor, "*r p"],
        *,
        step: float | str | Tensor | rules.Rule = "1/L",
        steps: int = 1000,
    ) -> Float[Tensor, "steps *r p"]:
        r"""Every iterate of gradient descent, (steps + 1, ..., p).

        `descend` trains layers and keeps the losses; this keeps the whole path of a small problem,
        so that its length and the curvature along it can be looked at. ``step`` is as there, and
        a path that diverges is returned as it is.
        """
        theta, steps = _start(self, theta, steps)
        rule = rules.resolve(step, lambda: self.smoothness(theta))
        iterates = [theta]
        for _ in range(steps):
            loss, gradient = self.loss_and_gradient(theta)
            theta = theta - rule(loss, gradient.square().sum(-1))[..., None] * gradient
            iterates.append(theta)
        return torch.stack(iterates)


def momentum_path(
    f: LeastSquares,
    theta: Float[Tensor, "*r p"],
    *,
    step: float,
    momentum: Callable[[int], float],
    ahead: bool = False,
    steps: int = 1000,
) -> Float[Tensor, "steps *r p"]:
    r"""Every iterate of descent with momentum, from rest, (steps + 1, ..., p).

    Heavy ball :math:`\theta_{t+1} = \theta_t + \beta_t(\theta_t - \theta_{t-1}) - \eta\nabla f`,
    the gradient taken at :math:`\theta_t`, or ``ahead``, where momentum leads (Nesterov).
    ``momentum`` gives :math:`\beta_t`. Introduced in :doc:`/foundations/momentum`.
    """
    step, ahead = _validate.positive("step", step), _validate.flag("ahead", ahead)
    _validate.function("momentum", momentum)
    if not isinstance(f, LeastSquares):
        found = f"f must be LeastSquares, got {_validate.shown(f)}"
        raise error(TypeError, found, "make one with elementary.linear(A, y)")
    theta, steps = _start(f, theta, steps)
    iterates = [theta]
    last = theta
    for t in range(steps):
        onward = theta + momentum(t) * (theta - last)
        gradient = f.loss_and_gradient(onward if ahead else theta)[1]
        last, theta = theta, onward - step * gradient
        iterates.append(theta)
    return torch.stack(iterates)


def _start(f: LeastSquares, theta: Tensor, steps: int) -> tuple[Tensor, int]:
    """Where a path begins and how long it is, if it has room."""
    theta, steps = _validate.matrix("theta", theta, least=1), _validate.count("steps", steps)
    _memory.room("the path", steps + 1, *theta.shape)
    _validate.finite("theta", theta, "choose another start")
    try:
        f.residual(theta)
    except RuntimeError as refusal:
        found = (
            f"theta has shape {tuple(theta.shape)}, which the residual does not take ({refusal})"
        )
        raise error(ValueError, found, "give it the parameters that it has") from None
    return theta, steps


def linear(A: Float[Tensor, "m p"], y: Float[Tensor, " m"]) -> LeastSquares:
    r"""Linear least squares, :math:`r(\theta) = A\theta - y`: the Jacobian is A everywhere."""
    A, y = _validate.matrix("A", A), _validate.tensor("y", y)
    _validate.shape("y", y, (A.shape[-2],), f"A has {A.shape[-2]} rows")
    _validate.like("y", y, A)
    return LeastSquares(partial(_linear, A, y))


def _linear(A: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    return theta @ A.mT - y


def chain(p: int) -> LeastSquares:
    r"""Nesterov's chain of p coordinates between 1 and 0: smooth with L = 1, and hard to descend.

    :math:`f = \frac18\big[(1-\theta_1)^2 + \sum_i(\theta_i-\theta_{i+1})^2 + \theta_p^2\big]` has
    the minimum :math:`\frac1{8(p+1)}`, at equal drops. Introduced in :doc:`/foundations/momentum`.
    """
    _memory.room("the parameters", _validate.count("p", p))

    def residual(theta: Tensor) -> Tensor:
        ends = theta.new_ones(*theta.shape[:-1], 1)
        return -torch.cat([ends, theta, 0 * ends], -1).diff(dim=-1) / 2

    return LeastSquares(residual)


def factorisation(M: Float[Tensor, "*r a b"], k: int) -> LeastSquares:
    r"""Matrix factorisation, :math:`r(U, V) = \mathrm{vec}(UV^\top - M)`.

    ``theta`` (..., (a + b) k) holds U (a, k) and then V (b, k), row by row. The squared singular
    values of the Jacobian are the sums of an eigenvalue of :math:`UU^\top` and one of
    :math:`VV^\top`.

    Examples
    --------
    >>> import torch
    >>> from descent import models
    >>> model = models.elementary.factorisation(torch.eye(3), k=2)
    >>> model.residual(torch.zeros(12)).shape
    torch.Size([9])
    """
    M = _validate.matrix("M", M)
    return LeastSquares(partial(_factorised, M, _validate.count("k", k)))


def _factorised(M: Tensor, k: int, theta: Tensor) -> Tensor:
    a, b = M.shape[-2:]
    U = theta[..., : a * k].unflatten(-1, (a, k))
    V = theta[..., a * k :].unflatten(-1, (b, k))
    return (U @ V.mT - M).flatten(-2)


def network(
    X: Float[Tensor, "m q"], y: Float[Tensor, " m"], a: Float[Tensor, " k"]
) -> LeastSquares:
    r"""One hidden layer with fixed output weights: :math:`r_i = \sum_j a_j\tanh(w_j\cdot x_i) - y_i`.

    ``theta`` (..., k q) holds the rows :math:`w_j`. The Jacobian is Lipschitz with the constant
    :math:`\frac{4}{3\sqrt3}\max_j|a_j|\,\max_i\|x_i\|\,\|X\|_2` in the spectral norm.
    """
    X = _validate.matrix("X", X)
    y, a = (_validate.like(k, _validate.tensor(k, v), X) for k, v in (("y", y), ("a", a)))
    _validate.shape("y", y, (X.shape[-2],), f"X has {X.shape[-2]} rows")
    _validate.matrix("a", a, least=1)
    return LeastSquares(partial(_network, X, y, a))


def _network(X: Tensor, y: Tensor, a: Tensor, theta: Tensor) -> Tensor:
    w = theta.unflatten(-1, (a.shape[-1], X.shape[-1]))
    return a @ torch.tanh(w @ X.mT) - y


def flattened(
    model, problem: Problem, weights: NamedTuple, train: str = "QKV"
) -> tuple[LeastSquares, Float[Tensor, "*r p"]]:
    """A layer's loss as a function of one vector, its trained matrices behind each other.

    Returns the loss and the vector that ``weights`` are; matrices not in ``train`` stay as they are.
    """
    _validate.letters("train", train, _validate.model(model, "predict").trainable)
    weights = _validate.weights(weights)
    batch = model.loss(weights, problem).ndim
    moving = {W: getattr(weights, W) for W in train}
    shapes = {W: part.shape[batch:] for W, part in moving.items()}
    residual = partial(_of_layer, model, problem, weights, shapes)
    return LeastSquares(residual), torch.cat([W.flatten(batch) for W in moving.values()], -1)


def _of_layer(model, problem: Problem, weights: NamedTuple, shapes: dict, theta: Tensor) -> Tensor:
    parts = theta.split([shape.numel() for shape in shapes.values()], -1)
    named = zip(shapes, parts, strict=True)
    placed = {W: part.unflatten(-1, shapes[W]) for W, part in named}
    # a path may leave the finite numbers, which `predict` would refuse
    predict = getattr(model, "_predict", model.predict)
    return (predict(weights._replace(**placed), problem) - problem.y).flatten(-2)
