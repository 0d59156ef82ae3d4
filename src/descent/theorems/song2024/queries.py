"""Theorems of :doc:`/song2024/queries`: W_Q is trained, everything else stays."""

import math

import torch
from torch import Tensor

from ... import queries
from ..._errors import error
from .._attention import AttentionStart
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report, blurred
from ._shared import linear, path


def gaussian(at: AttentionStart) -> None:
    """Raise ValueError for any other kernel."""
    if at.model.kernel.name != "gaussian":
        raise error(
            ValueError, f"kernel must be 'gaussian', got {at.model.kernel.name!r}", "be 'gaussian'"
        )


def curvature(at: AttentionStart) -> Tensor:
    r"""Largest curvature in W_Q wherever the residual is no longer than at the start.

    :math:`L = \frac{\|X\|^2}{\sqrt d}(\frac1e\sum_h U_h^2 + \|r_0\|\max_h U_h)` with
    :math:`U_h = \max_i\|u_{ih}\|_1`.
    """
    U = at.u.abs().sum(-1).amax(-1)  # (*r, H)
    return at.X**2 / at.model.d**0.5 * (U.square().sum(-1) / math.e + at.r * U.amax(-1))


def jacobian_moves(at: AttentionStart) -> Promise:
    """The scores' derivative stays within δ/2 of its start, so that half of δ is kept."""

    def measure(run):
        moved = torch.linalg.matrix_norm(at.now(run).scores_jacobian - at.scores_jacobian, 2)
        used = torch.where(at.delta > 0, 2 * moved / at.delta, 0).amax(-1)
        return used, torch.ones_like(used), run.at

    return Promise("∂C/∂W_Q moves by δ/2 at most", measure, watches=("weights",))


@theorem(
    "song2024-pl-constant",
    title="A PL inequality for Gaussian queries",
    box="thm-queries-pl",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("eq-dfdc",),
)
def pl_constant(at: AttentionStart) -> Report:
    r"""At one point: :math:`\|\nabla_{W_Q}f\|^2 \ge 2\mu f`, and two sharper constants beside."""
    gaussian(at)
    loss, gradient = at.model.loss_and_gradient(at.weights, at.problem, "Q")
    square = gradient["Q"].square().sum((-3, -2, -1))
    c = queries.pl(at.model, at.weights, at.problem)
    return Report(
        hypotheses=(Inequality("0 < δ_h min|u_h| for a head", 0 * c.mu, c.mu, strict=True),),
        promises=(Promise("2μf ≤ ‖∇f‖²", lambda _: (2 * c.mu * loss, square, ())),),
        constants={"μ": c.mu, "μ by rows": c.rows, "λ_min(JJᵀ)": c.tangent, "δ": c.delta},
    )


@theorem(
    "song2024-theorem-3",
    title="Training the queries of Gaussian attention",
    box="thm-queries",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("lem-descent", "thm-queries-pl", "eq-dfdc"),
)
def theorem_3(at: AttentionStart) -> Report:
    r"""Theorem 3(1) in the form that is proved, for any number of heads.

    With :math:`\rho_h = \delta_h\sqrt d/(2\sqrt n\,\bar x\|X\|)`, :math:`\kappa_h =
    \exp(-(\max\|q_{ik}-k_{ij}\| + \bar x\rho_h)^2/(2\sqrt d))` and :math:`\mu = \frac n4\sum_h
    \delta_h^2\kappa_h^2m_h^2` it asks for :math:`\|r_0\| \le \frac12\sqrt\mu\min_h\rho_h`. Heads with
    :math:`\delta_hm_h = 0` are left out of both.
    """
    gaussian(at)
    n, root, longest = at.problem.n, at.model.d**0.5, at.longest[..., None]
    radius = at.delta * root / (2 * n**0.5 * longest * at.X[..., None])
    kappa = torch.exp(-(at.furthest + longest * radius).square() / (2 * root))
    slopes = at.delta * kappa * at.least_u
    mu = n / 4 * slopes.square().sum(-1)
    ball = torch.where(slopes > 0, radius, torch.inf).amin(-1).nan_to_num(posinf=0)
    return Report(
        hypotheses=(
            Inequality("0 < δ_h min|u_h| for a head", 0 * mu, mu, strict=True),
            Inequality("‖r_0‖ ≤ √μ ρ/2", at.r, mu.sqrt() * ball / 2),
        ),
        promises=(
            linear(at, mu),
            path(at, "Q", 2 * at.r / mu.sqrt(), "‖W_Q(t) - W_Q(0)‖ ≤ 2‖r_0‖/√μ"),
            jacobian_moves(at),
        ),
        constants={"μ": mu, "ρ": ball, "δ": at.delta, "κ": kappa},
        train="Q",
        largest_step=lambda: 1 / curvature(at),
    )


@theorem(
    "song2024-theorem-3-tangent",
    title="Training the queries of Gaussian attention, by the tangent kernel",
    box="thm-queries-tangent",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("thm-queries",),
)
def theorem_3_tangent(at: AttentionStart) -> Report:
    r"""Sharper and simpler: :math:`s_0`, the smallest singular value of the outputs' derivative.

    It asks for :math:`\|r_0\| \le s_0^2\sqrt d/(8\max_hU_h\,\bar x\|X\|)` and promises the rate
    :math:`s_0^2/4`. No δ and no κ, and :math:`Dd \ge Nn^2` is not needed.
    """
    gaussian(at)
    J = at.model.jacobian(at.weights, at.problem, "Q")["Q"].flatten(-3)
    values = torch.linalg.svdvals(J)
    noise = max(J.shape[-2:]) * torch.finfo(J.dtype).eps * values[..., 0]
    s0 = values[..., -1] if J.shape[-2] <= J.shape[-1] else 0 * values[..., 0]
    U = at.u.abs().sum(-1).amax((-2, -1))
    allowed = s0.square() * at.model.d**0.5 / (8 * U * at.longest * at.X)
    mu = s0.square() / 4
    return Report(
        hypotheses=(
            Inequality("0 < s_0", noise, s0, strict=True),
            Inequality("‖r_0‖ ≤ s_0² √d / (8 U x̄ ‖X‖)", at.r, allowed),
        ),
        promises=(
            linear(at, mu),
            path(at, "Q", 2 * at.r / mu.sqrt(), "‖W_Q(t) - W_Q(0)‖ ≤ 2‖r_0‖/√μ"),
        ),
        constants={"μ = s_0²/4": mu, "s_0": s0},
        train="Q",
        largest_step=lambda: 1 / curvature(at),
    )


def printed_condition(at: AttentionStart, power: int) -> Tensor:
    r"""Left side of (12), or of (53) with ``power`` = 2 more factors δ in the denominator, (*r).

    The largest over heads of :math:`n\|X\|_F^5(q+k)e^{\frac94\|X\|_F^2(q^2+k^2)}
    v\|W_O\|\|r_0\| / (\min|u|^2\,\min(\delta,q)\,\delta^{power})`; the right side is 1/8.
    """
    X = at.X_F[..., None]
    left = at.problem.n * X**5 * (at.q + at.k) * torch.exp(exponent(at))
    left = left / (torch.minimum(at.delta, at.q) * at.delta**power)
    least = at.least_u.amin(-1)
    return left.amax(-1) * at.v.amax(-1) * at.output * at.r / least.square()


def exponent(at: AttentionStart) -> Tensor:
    """Minus the logarithm of what the paper takes for κ, for each head."""
    return 9 / 4 * at.X_F[..., None] ** 2 * (at.q.square() + at.k.square())


def printed(at: AttentionStart, name: str, power: int) -> Report:
    r"""The paper's condition and its rate :math:`\gamma = \frac12\delta^2\kappa^2\min|u|^2`."""
    gaussian(at)
    left = printed_condition(at, power)
    gamma = (at.delta * torch.exp(-exponent(at))).amin(-1).square()
    gamma = gamma * at.least_u.amin(-1).square() / 2
    return Report(
        hypotheses=(
            Inequality("0 < δ_h", 0 * at.r, at.delta.amin(-1), strict=True),
            Inequality(name, left, torch.full_like(left, 1 / 8)),
        ),
        promises=(linear(at, gamma), jacobian_moves(at)),
        constants={"γ = δ² κ² min|u|²/2": gamma, "δ": at.delta},
        train="Q",
        largest_step=lambda: 1 / curvature(at),
    )


@theorem(
    "song2024-theorem-3-12",
    title="Theorem 3(1) as printed, condition (12)",
    box="eq-twelve",
    standing=Standing.REFUTED,
    start=AttentionStart,
)
def theorem_3_12(at: AttentionStart) -> Report:
    """The left side depends on the units of the tokens, and can be met for any labels."""
    return printed(at, "condition (12)", power=0)


@theorem(
    "song2024-theorem-3-53",
    title="Theorem 3(1) with condition (53) of the appendix",
    box="cor-queries-printed",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("thm-queries",),
)
def theorem_3_53(at: AttentionStart) -> Report:
    r"""(53) implies the condition of `theorem_3` with a factor :math:`Nn^2d` to spare.

    For :math:`\min|u| \le \|X\|_Fv\|W_O\|`, :math:`\delta \le \|X\|_F^2(q+k)/(Nn\sqrt d)`, and
    :math:`\kappa` of `theorem_3` is at least that of the paper. So :math:`\delta` keeps
    :math:`1 - 1/(2Nn^2d)` of itself, and the rate is at least the printed one; where
    :math:`N = n = d = H = 1` the loss itself bounds how far :math:`\delta` and :math:`\kappa` move.
    """
    return printed(at, "condition (53)", power=2)


@theorem(
    "song2024-hull-bound",
    title="The hull",
    box="prop-hull",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("thm-hull", "thm-gaussian-bound"),
)
def hull_bound(at: AttentionStart) -> Report:
    """Whatever the queries and keys: no output leaves its interval, no loss goes below the floor."""
    floor = queries.floor(at.model, at.weights, at.problem)
    low, high = queries.interval(at.model, at.weights, at.problem)

    def along(run):
        steps = tuple(run.every * k for k in range(len(run.loss)))
        return floor.expand_as(run.loss), blurred(run.loss, at.rounding), steps

    return Report(
        hypotheses=(),
        promises=(Promise("floor ≤ f_t", along),),
        constants={"floor": floor, "lowest output": low, "highest output": high},
        train="QK",
    )


@theorem(
    "song2024-theorem-3-softmax",
    title="Softmax queries come to rest",
    box="prop-softmax",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("prop-hull", "lem-descent"),
)
def softmax_rests(at: AttentionStart) -> Report:
    r"""From every start :math:`\frac\eta2\sum_{t<T}\|\nabla f_t\|^2 \le f_0 - f_T`."""
    L = queries.softmax_smoothness(at.model, at.weights, at.problem)

    def gains(run):
        norms = run.watched["gradient_norm"].square()
        steps = [b - a for a, b in zip(run.at[:-1], run.at[1:], strict=True)]
        if set(steps) != {1} or run.every != 1:
            raise error(
                ValueError,
                "the run must watch gradient_norm at every step",
                "give descend at=range(steps + 1)",
            )
        spent = run.eta / 2 * norms[:-1].cumsum(0)
        gained = run.loss[:1] - run.loss[1 : len(norms)]
        lost = blurred(run.loss[0], at.rounding) - run.loss[0]  # both losses are known to that
        return spent, gained + 2 * lost, run.at[1:]

    return Report(
        hypotheses=(),
        promises=(Promise("η/2 Σ‖∇f‖² ≤ f_0 - f_T", gains, watches=("gradient_norm",)),),
        constants={"L": L},
        train="Q",
        largest_step=lambda: 1 / L,
    )
