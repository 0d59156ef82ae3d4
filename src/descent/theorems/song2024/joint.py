"""Theorems of :doc:`/song2024/joint`: queries, keys and values are trained together."""

import math

import torch
from torch import Tensor

from ... import _validate
from .._attention import AttentionStart
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Report
from ._shared import features_move, full_rank, linear, weights_move


@theorem(
    "song2024-theorem-2-printed",
    title="Theorem 2 as printed",
    box="eq-eight",
    standing=Standing.REFUTED,
    start=AttentionStart,
)
def theorem_2_printed(at: AttentionStart) -> Report:
    """Condition (8), with 5 for the power of the Frobenius norm and 1/54 for the right side.

    The paper takes some step; here it is half of 1/L with the curvature L at the start.
    """
    n, N, H = at.problem.n, at.problem.N, at.model.H
    least = torch.minimum(torch.minimum(at.q, at.k).amin(-1), at.sigma)
    shape = n**2 * math.sqrt(N * H) * at.X_F**5 * (at.q.square() + at.k.square()).sum(-1)
    values = 2 * (1 + at.v.amax(-1)) / 3
    left = shape * values * at.r / (at.output * at.sigma.square() * least)
    beta = (at.output * at.sigma).square()
    return Report(
        hypotheses=(
            full_rank(at),
            Inequality("condition (8)", left, torch.full_like(left, 1 / 54)),
        ),
        promises=(linear(at, beta),),
        constants={"β = ‖W_O‖² σ_min²(B_0)": beta},
        train="QKV",
        largest_step=lambda: 0.5 / at.model.smoothness(at.weights, at.problem, "QKV"),
    )


@theorem(
    "song2024-theorem-2",
    title="Training everything",
    box="thm-joint",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("eq-pl", "eq-one-step", "eq-budget", "thm-queries", "prop-softmax"),
)
def theorem_2(at: AttentionStart) -> Report:
    """Any number of heads: budgets for what the values, queries, keys and features may move."""
    return lazily(at, kept=0.5, steps=1.0, rate="μ = min ‖w_h‖² σ_min²(B_0)/4")


@theorem(
    "song2024-theorem-2-rate",
    title="The printed rate, for one head",
    box="prop-printed",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("thm-joint", "eq-budget", "eq-one-step"),
)
def theorem_2_rate(at: AttentionStart) -> Report:
    r"""Four times the rate, and features that move a quarter as far, for steps up to 2/(3L).

    Every budget is proportional to 1 over the rate, so with the whole rate the features move by
    :math:`\frac18\sigma`, and :math:`(2 - \eta L)(\frac78)^2 \ge \frac{49}{48}`. With several heads
    the rate is that of the weakest, which for one head is the printed one.
    """
    return lazily(at, kept=7 / 8, steps=2 / 3, rate="β = min ‖w_h‖² σ_min²(B_0)")


def lazily(at: AttentionStart, kept: float, steps: float, rate: str) -> Report:
    r"""The induction of the chapter, with :math:`\sigma_{\min}(B_t) \ge` ``kept`` times the start.

    The hypotheses are those of ``kept`` = 1/2; with the larger rate, all budgets are a quarter.
    """
    kernel = _validate.one_of("kernel", at.model.kernel.name, ("softmax", "gaussian"))
    slow = (at.omega.amin(-1) * at.sigma).square() / 4
    spent = softmax_budget if kernel == "softmax" else gaussian_budget
    queries, keys, features, L = spent(at, (2 * at.r / slow)[..., None])
    one = torch.ones_like(at.r)
    asked = [full_rank(at), Inequality("features' budget ≤ σ/2", features, at.sigma / 2)]
    room = 1 - kept
    promised = [
        linear(at, slow if kept == 0.5 else 4 * slow),
        features_move(at, room * at.sigma, f"‖B_t - B_0‖ ≤ {room:g} σ"),
    ]
    for letter, budget, size in (("Q", queries, at.q), ("K", keys, at.k)):
        if kernel == "softmax":  # a Gaussian's entries move no faster where these are long
            used = torch.where(budget > 0, budget / size, 0).amax(-1)  # zero may stay zero
            asked.append(Inequality(f"budget of W_{letter} ≤ ‖W_{letter}‖/2", used, one / 2))
        part = "its budget" if kept == 0.5 else "a quarter of its budget"
        name = f"W_{letter} moves by {part} at most"
        promised.append(weights_move(at, letter, 2 * room * budget, name))
    return Report(
        hypotheses=tuple(asked),
        promises=tuple(promised),
        constants={rate: slow if kept == 0.5 else 4 * slow, "L": L},
        train="QKV",
        largest_step=lambda: steps / L,
    )


def softmax_budget(at: AttentionStart, time: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""How far W_Q and W_K (*r, H) and the features (*r) may move, and the curvature up to there.

    ``time`` bounds :math:`\eta\sum_t\|r_t\|`. The curvature is that of
    :math:`J^\top J + \sum r\,\nabla^2F` where W_Q and W_K are within half of their norm, W_V within
    its budget and the loss no larger than at the start.
    """
    d, n, X, q, k, w = at.model.d, at.problem.n, at.X[..., None], at.q, at.k, at.omega
    v = at.v + n**0.5 * X * w * time
    pull = 3 / 4 * X**3 * v * w * time / d**0.5
    queries, keys = pull * k, pull * q
    features = X**3 * (3 / 2 * k * queries + q * keys) / (2 * d**0.5)
    both = (q.square() + k.square()) / d
    first = n * X**2 + 9 / 16 * X**6 * v**2 * both
    second = 3 / 4 * both.sqrt() + 45 * 2**0.5 / 16 * X**2 * v * both + v / (2 * d**0.5)
    L = (w**2 * first).sum(-1) + at.r * (w * X**3 * second).amax(-1)
    return queries, keys, torch.linalg.vector_norm(features, dim=-1), L


def gaussian_budget(at: AttentionStart, time: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same; what an entry of S can move by does not depend on queries and keys."""
    d, n, X, w = at.model.d, at.problem.n, at.X[..., None], at.omega
    c = n**0.5 * math.exp(-0.5) * d**-0.25
    v = at.v + n * X * w * time
    moved = c * X**2 * v * w * time
    first = n**2 * X**2 + 2 * c**2 * X**4 * v**2
    second = 2**0.5 * c * X**2 + 2 * n**0.5 * X**3 * v / d**0.5
    L = (w**2 * first).sum(-1) + at.r * (w * second).amax(-1)
    return moved, moved, torch.linalg.vector_norm(2 * c * X**2 * moved, dim=-1), L
