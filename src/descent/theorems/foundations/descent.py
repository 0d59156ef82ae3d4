"""Theorems of :doc:`/foundations/descent`: of a loss, its starts, and constants that are given."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ... import _validate
from ..._descend import Trajectory
from ...models import elementary
from .._function import FunctionStart
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import BLUR, Linear, Promise, Report, along, blurred


@dataclass(frozen=True)
class UnderPL(Linear):
    r"""The promise :math:`f_t - f^* \le (1 - \eta\mu(2 - \eta L))^t (f_0 - f^*)`."""

    at: FunctionStart | None = None

    @property
    def name(self) -> str:
        return "f_t - f* ≤ (1 - ημ(2 - ηL))^t (f_0 - f*)"

    def decay(self, t: Tensor, eta: Tensor) -> Tensor:
        return super().decay(t, eta * (2 - eta * self.at.known("L")))

    def check(self, run: Trajectory) -> Inequality:
        t = torch.arange(1, len(run.loss))
        gap = self.at.gap(run)
        known = torch.where(gap[0] > 0, self.at.visible(run), torch.inf)  # else nothing is to gain
        most = -torch.log(known)
        left = torch.minimum(self.decay(along(t, run.eta), run.eta), most)
        off = blurred(run.loss, self.rounding) - run.loss
        doubt = known + (off[1:] + off[0] * gap[1:] / gap[0]) / gap[0]
        share = torch.where(known < 1, gap[1:] / gap[0] - doubt, 0)
        return Inequality(self.name, left, -torch.log(share.clamp_min(0)), tuple(t.tolist()))


@theorem(
    "pl-linear-rate",
    title="Linear convergence under PL",
    box="thm-pl",
    standing=Standing.PROVED,
    start=FunctionStart,
    uses=("lem-descent",),
)
def under_pl(at: FunctionStart) -> Report:
    """With mu and L given; whether PL and the descent lemma hold with them is seen along the run."""
    mu, L = at.known("mu"), at.known("L")
    return Report(
        hypotheses=(),
        along=(
            Promise("2μ(f - f*) ≤ ‖∇f‖²", lambda run: slope(at, run), ("weights",)),
            Promise("η(1 - ηL/2)‖∇f‖² ≤ f_t - f_{t+1}", lambda run: gain(at, run), ("weights",)),
        ),
        promises=(UnderPL(mu, at.rounding, at=at),),
        constants={"κ = L/μ": L / mu},
        train="theta",
        largest_step=lambda: 2 / L,
    )


def slope(at: FunctionStart, run: Trajectory) -> tuple:
    """Both sides of PL, where the loss is above rounding."""
    gap = at.gap(run)
    seen = gap > at.visible(run) * gap[0]
    return torch.where(seen, 2 * at.known("mu") * gap, 0), at.slopes(run)[1], run.at


def gain(at: FunctionStart, run: Trajectory) -> tuple:
    """Both sides of the descent lemma, at every step."""
    promised = run.eta * (1 - run.eta * at.known("L") / 2) * at.slopes(run)[1][:-1]
    noise = 1e-12 * run.loss[0] + 2 * (blurred(run.loss[0], at.rounding) - run.loss[0])
    return promised, run.loss[:-1] - run.loss[1:] + noise, run.at[:-1]


@theorem(
    "pl-near-start",
    title="Descent from a good start",
    box="thm-near",
    standing=Standing.PROVED,
    start=FunctionStart,
    uses=("lem-descent", "thm-pl", "eq-pl-jacobian", "eq-weyl", "eq-short"),
)
def near_start(at: FunctionStart) -> Report:
    r"""The Jacobian is :math:`\Lambda`-Lipschitz, and the residual small against :math:`\sigma_0^2`."""
    bend, sigma = at.known("Lambda"), at.sigma
    mu = sigma.square() / 4
    watch = ("weights",)
    return Report(
        hypotheses=(
            Inequality("0 < σ_0", 1e-14 * at.steepest, sigma, strict=True),
            Inequality("8Λ‖r_0‖ < σ_0²", 8 * bend * at.r, sigma.square(), strict=True),
        ),
        promises=(
            Linear(mu, at.rounding),
            Promise("path ≤ 4‖r_0‖/σ_0", lambda run: length(at, run), watch),
            Promise("‖J_t - J_0‖ ≤ σ_0/2", lambda run: turned(at, run), watch),
        ),
        along=(Promise("‖J_t - J_0‖ ≤ Λ‖θ_t - θ_0‖", lambda run: bent(at, run), watch),),
        constants={"μ = σ_0²/4": mu, "σ_0": sigma, "radius σ_0/2Λ": sigma / (2 * bend)},
        train="theta",
        largest_step=lambda: 1 / (4 * at.steepest.square()),
    )


def length(at: FunctionStart, run: Trajectory) -> tuple:
    """How far the run has travelled, and what the theorem allows."""
    moves = torch.linalg.vector_norm(run.watched["weights"].theta.diff(dim=0), dim=-1)
    return moves.cumsum(0), 4 * at.r / at.sigma, run.at[1:]


def turned(at: FunctionStart, run: Trajectory) -> tuple:
    """How far the Jacobian has moved at some forty points of the run."""
    every = max(1, len(run.at) // 40)
    moved = at.f.jacobian(run.watched["weights"].theta[::every]) - at.J
    return torch.linalg.matrix_norm(moved, 2), at.sigma / 2, run.at[::every]


def bent(at: FunctionStart, run: Trajectory) -> tuple:
    """The same, and what the Lipschitz constant allows."""
    moved, _, steps = turned(at, run)
    way = run.watched["weights"].theta[:: max(1, len(run.at) // 40)] - at.theta
    far = torch.linalg.vector_norm(way, dim=-1)
    return moved, at.known("Lambda") * far + 1e-12 * at.steepest, steps


@theorem(
    "least-squares-nearest",
    title="Descent on least squares finds the nearest solution",
    box="thm-min-norm",
    standing=Standing.PROVED,
    start=FunctionStart,
)
def least_squares(at: FunctionStart) -> Report:
    r"""Linear residuals: :math:`\|\theta_t-\theta_\infty\|` falls by :math:`\max|1-\eta\sigma_i^2|`
    a step, over the singular values that are not zero, with
    :math:`\theta_\infty = \theta_0 - J^+r_0`."""
    U, S, Vh = torch.linalg.svd(at.J, full_matrices=False)
    zero = S <= max(at.J.shape[-2:]) * torch.finfo(S.dtype).eps * S[..., :1]
    inverse = torch.where(zero, 0, 1 / S)
    r = (U.mT @ at.f.residual(at.theta)[..., None]).squeeze(-1)
    goal = at.theta - (Vh.mT @ (inverse * r)[..., None]).squeeze(-1)
    again = torch.linalg.matrix_norm(at.f.jacobian(goal) - at.J, 2)
    noise = 1e-12 * (torch.linalg.vector_norm(goal, dim=-1) + at.r / S[..., 0])
    noise = noise + BLUR * at.rounding * inverse.amax(-1)  # a residual is known to its rounding

    def away(run):
        return torch.linalg.vector_norm(run.watched["weights"].theta - goal, dim=-1)

    def nears(run):
        far = away(run)
        factor = torch.where(zero, 0, (1 - run.eta[..., None] * S.square()).abs()).amax(-1)
        t = along(torch.arange(1, len(far)), run.eta)
        return far[1:], factor**t * far[0] + noise, run.at[1:]

    def never_back(run):
        far = away(run)
        return far[1:], far[:-1] + noise, run.at[1:]

    return Report(
        hypotheses=(Inequality("J is the same at the end", again, 1e-12 * at.steepest),),
        promises=(
            Promise("‖θ_t - θ_∞‖ ≤ max|1 - ησ²|^t ‖θ_0 - θ_∞‖", nears, ("weights",)),
            Promise("‖θ_t - θ_∞‖ never grows", never_back, ("weights",)),
        ),
        constants={"‖θ_∞ - θ_0‖": torch.linalg.vector_norm(goal - at.theta, dim=-1)},
        train="theta",
        largest_step=lambda: 2 / S[..., 0].square(),
    )


@dataclass(frozen=True)
class Factors:
    """A matrix M (*r, a, b) and factors U (*r, a, k), V (*r, b, k) of it; arrays of numpy will do."""

    M: Tensor
    U: Tensor
    V: Tensor

    def __post_init__(self) -> None:
        for name in "MUV":
            value = _validate.matrix(name, getattr(self, name))
            value = _validate.finite(name, value, "give numbers")
            object.__setattr__(self, name, value)
        (a, b), k = self.M.shape[-2:], self.U.shape[-1]
        _validate.shape("U", self.U, (a, k), f"M has {a} rows")
        _validate.shape("V", self.V, (b, k), f"M has {b} columns and U {k}")

    @cached_property
    def theta(self) -> Tensor:
        """Both factors as one vector."""
        return torch.cat([self.U.flatten(-2), self.V.flatten(-2)], -1)

    @cached_property
    def loss(self):
        """Half the squared distance of U V^T from M."""
        return elementary.factorisation(self.M, self.U.shape[-1])


@theorem(
    "factorisation-pl",
    title="PL for matrix factorisation",
    box="prop-factorised",
    standing=Standing.PROVED,
    start=Factors,
    uses=("eq-pl-jacobian",),
)
def factorised(at: Factors) -> Report:
    """At one point: the singular values of the Jacobian, and the slope against the loss."""
    u, v = (torch.linalg.eigvalsh(W @ W.mT) for W in (at.U, at.V))
    sums = (u[..., :, None] + v[..., None, :]).flatten(-2).sort(-1).values
    J = at.loss.jacobian(at.theta)
    off = (torch.linalg.eigvalsh(J @ J.mT) - sums).abs().amax(-1)
    loss, gradient = at.loss.loss_and_gradient(at.theta)
    # one that is zero shows as a rounding of the largest
    mu = sum((w[..., 0] - 1e-14 * w[..., -1]).clamp_min(0) for w in (u, v))
    return Report(
        hypotheses=(),
        promises=(
            Promise("2μf ≤ ‖∇f‖²", lambda _: (2 * mu * loss, gradient.square().sum(-1), ())),
            Promise("σ²(J) = λ_i(UUᵀ) + λ_j(VVᵀ)", lambda _: (off, 1e-12 * sums[..., -1], ())),
        ),
        constants={"μ": mu, "σ_max²(J)": sums[..., -1]},
    )
