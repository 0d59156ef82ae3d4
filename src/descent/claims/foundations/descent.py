"""Claims of the chapter on gradient descent and the PL inequality."""

import math

import torch
from torch import Tensor

from ... import draws, spectra, steps
from ...models import LeastSquares, elementary
from ...theorems import Inequality, Outcome, Standing
from .._record import Evidence, Verdict, claim

PAGE = "foundations/descent"

#: Losses are known to about 1e-16 of the first: bounds are compared only well above that.
VISIBLE = 1e-12


def normal(*shape: int, seed: int) -> Tensor:
    """Independent standard normal entries, float64."""
    return draws.normal(seed, "normal", shape)


def wavy() -> LeastSquares:
    """x^2 + 3 sin^2 x (Karimi, Nutini, Schmidt 2016): not convex, yet PL; L = 8, optimum 0."""
    return LeastSquares(
        lambda x: torch.cat([2**0.5 * x, 6**0.5 * torch.sin(x)], -1)  # half of the square is f
    )


def excess(gap: Tensor, factor: Tensor) -> float:
    """Largest of gap_t / gap_0 (T + 1, runs) over factor^t (factor one or (runs,)), where visible."""
    t = torch.arange(len(gap), dtype=gap.dtype)[:, None]
    bound = (factor.clamp_min(0) ** t).expand_as(gap)[1:]  # at t = 0 it holds with equality
    return float((gap[1:] / gap[0] / bound)[bound > VISIBLE].max())


@claim(
    "pl-linear-rate",
    title="Linear convergence under PL",
    box="thm-pl",
    standing=Standing.PROVED,
    uses=("lem-descent",),
    paper="Descent",
    number="Theorem",
    statement=r"If $f$ is $L$-smooth and $\|\nabla f\|^2 \ge 2\mu(f-f^*)$, gradient descent with "
    r"$0 < \eta < 2/L$ satisfies $f_t - f^* \le (1-\eta\mu(2-\eta L))^t (f_0-f^*)$; neither "
    r"convexity nor a unique minimiser is needed.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={"a step above 2/L": {"steps_in_L": (2.05,)}},
)
def pl_linear_rate(steps_in_L: tuple = (0.05, 0.5, 1.0, 1.5)) -> Evidence:
    """Wide least squares, where minimisers fill a plane, and x^2 + 3 sin^2 x from 201 starts."""
    A = normal(6, 10, seed=0)
    values = torch.linalg.svdvals(A).square()
    slowest = torch.linalg.svd(A)[2][5]  # the right singular vector of the smallest singular value
    quadratic = elementary.linear(A, torch.zeros(6, dtype=A.dtype))
    starts = torch.cat([normal(200, 10, seed=1), slowest[None]])
    # where the slope is least against the loss; beyond 10 it is larger
    loss, slope = wavy().loss_and_gradient(
        line := torch.linspace(-10, 10, 20_001).double()[:, None]
    )
    ratio = slope[:, 0].square() / (2 * loss).clamp_min(1e-300)
    flattest = ratio[loss > 1e-6].argmin()
    line = torch.cat([line[::100], line[loss > 1e-6][flattest][None]])
    cases = {
        "least squares stays below the bound": (quadratic, starts, values[0], values[-1]),
        "x² + 3 sin² x stays below the bound": (
            wavy(), line[line[:, 0] != 0], values.new_tensor(8), ratio[loss > 1e-6].min(),
        ),
    }  # fmt: skip
    found = []
    for name, (f, theta, L, mu) in cases.items():
        for step in steps_in_L:
            losses = f.loss(f.path(theta, step=float(step / L), steps=200))
            found.append(decay(name, losses, 1 - step * mu / L * (2 - step)))
    bent = float(wavy().hessian(line).min())
    flat = float(torch.linalg.eigvalsh(quadratic.hessian(starts[0]))[0].abs())
    return Evidence.of(
        [Outcome(None, (), tuple(found))],
        hypotheses={
            "one of the losses is not convex": bent < 0,
            "the other is not strongly convex": flat < 1e-12,
        },
        mu_of_the_wavy_loss=float(cases["x² + 3 sin² x stays below the bound"][3]),
        lowest_curvature=bent,
    )


def decay(name: str, gap: Tensor, factor: Tensor) -> Inequality:
    """The promise that gap_t <= factor^t gap_0, (T + 1, runs): decay promised against measured."""
    t = torch.arange(1, len(gap))
    promised = -torch.log(factor) * t[:, None].to(gap)
    promised = promised.clamp_max(-math.log(VISIBLE)).expand_as(gap[1:])
    return Inequality(name, promised, -torch.log(gap[1:] / gap[0]), tuple(t.tolist()))


@claim(
    "polyak-step",
    title="Polyak's step",
    box="thm-polyak",
    standing=Standing.PROVED,
    paper="Descent",
    number="Theorem",
    statement=r"If $f$ is convex, $L$-smooth and $f - f^* \ge \frac\mu2\operatorname{dist}^2$, "
    r"Polyak's step $(f_t-f^*)/\|\nabla f_t\|^2$, which knows neither constant, brings the squared distance "
    r"to the minimisers below $(1-\mu/4L)^t$ of its start.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={
        "an optimum that is guessed too low": {"guess": 0.5},
        "a loss that is not convex": {"convex": False},
    },
)
def polyak_step(guess: float = 1.0, convex: bool = True) -> Evidence:
    """Least squares that no parameters fit, 64 starts; or x^2 + 3 sin^2 x, where it can cycle."""
    A, y = normal(8, 5, seed=0), normal(8, seed=1)
    f = elementary.linear(A, y)
    target = torch.linalg.lstsq(A, y[:, None]).solution[:, 0]
    values, start = torch.linalg.svdvals(A).square(), target + normal(64, 5, seed=2)
    if not convex:
        f, target = wavy(), A.new_zeros(1)
        values, start = A.new_tensor([8.0, 1 / 32]), normal(64, 1, seed=2) * 4
    optimum = float(f.loss(target))
    path = f.path(start, step=steps.polyak(guess * optimum), steps=300)
    distance = (path - target).square().sum(-1)
    gap, square = f.loss(path) - optimum, f.loss_and_gradient(path)[1].square().sum(-1)
    # one step's promise, as long as f - f* can be told from rounding
    promised = distance[:-1] - (gap**2 / square.clamp_min(1e-300))[:-1]
    early = gap[:-1] > 1e-9 * gap[0]
    broken = float((distance[1:] - promised)[early].max() / distance[0].max())
    factor = 1 - values[-1] / (4 * values[0])
    far = excess(distance, factor)
    return Evidence(
        {
            "every step keeps its promise": broken < 1e-9,
            "the distance obeys the rate": far < 1 + 1e-6,
        },
        {
            "largest_breach_of_a_step": broken,
            "largest_distance_over_bound": far,
            "optimal_loss": optimum,
            "runs": 64,
        },
    )


def balanced_network(k: int, scale: float, seed: int) -> tuple[LeastSquares, Tensor, float]:
    r"""Five orthonormal inputs, labels of norm ``scale``, k units in pairs that cancel at first.

    Returns the loss, eight starts (8, 5 k), and the Lipschitz constant of the Jacobian.
    """
    X = torch.linalg.qr(normal(5, 5, seed=seed))[0]
    y = normal(5, seed=seed + 1)
    half = normal(8, k // 2, 5, seed=seed + 2)
    signs = torch.tensor([1.0, -1.0], dtype=X.dtype).repeat_interleave(k // 2)
    loss = elementary.network(X, scale * y / y.norm(), signs / k**0.5)
    return loss, torch.cat([half, half], -2).flatten(-2), 4 / 27**0.5 / k**0.5


@claim(
    "factorisation-pl",
    title="PL for matrix factorisation",
    box="prop-factorised",
    standing=Standing.PROVED,
    uses=("eq-pl-jacobian",),
    paper="Descent",
    number="Proposition",
    statement=r"For $f = \frac12\|UV^\top-M\|_F^2$ the PL constant at $(U, V)$ is "
    r"$\lambda_{\min}(UU^\top)+\lambda_{\min}(VV^\top)$, attained by some $M$; at the origin PL fails.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={
        "the larger of the two eigenvalues twice": {
            "combine": lambda u, v: 2 * torch.maximum(u, v)
        },
        "fewer columns than either matrix has rows": {"k": 1},
    },
)
def factorisation_pl(combine=torch.add, k: int = 4) -> Evidence:
    """200 pairs of a 3 x k and a 2 x k matrix, with a random M and with the M of least slope."""
    theta = normal(200, 5 * k, seed=0)
    U, V = theta[:, : 3 * k].unflatten(-1, (3, k)), theta[:, 3 * k :].unflatten(-1, (2, k))
    (low_u, left), (low_v, right) = (torch.linalg.eigh(W @ W.mT) for W in (U, V))
    mu = combine(low_u[:, 0], low_v[:, 0])
    slowest = left[:, :, :1] @ right[:, :, :1].mT
    ratios = []
    for M in (normal(3, 2, seed=1), U @ V.mT - slowest):
        loss, gradient = elementary.factorisation(M, k).loss_and_gradient(theta)
        ratios.append(gradient.square().sum(-1) / (2 * loss) / mu)
    f = elementary.factorisation(normal(3, 2, seed=1), k)
    loss, gradient = f.loss_and_gradient(1e-4 * theta)
    flat = float((gradient.square().sum(-1) / loss).max())
    least, attained = float(torch.stack(ratios).min()), float((ratios[1] - 1).abs().max())
    return Evidence(
        conclusions={
            "the gradient is as large as PL asks": least > 1 - 1e-9,
            "the constant is attained": attained < 1e-6,
            "near the origin it is as good as zero": flat < 1e-4,
        },
        numbers={
            "smallest_constant": float(mu.min()),
            "least_ratio_to_pl": least,
            "largest_ratio_near_origin": flat,
            "instances": 400,
        },
        hypotheses={"the constant is positive": float(mu.min()) > 1e-6},
        sharpness={
            "the gradient is as large as PL asks": (
                1 / float(torch.stack(ratios).median()),
                1 / least,
            )
        },
    )


@claim(
    "pl-near-start",
    title="Convergence near the start",
    box="thm-near",
    standing=Standing.PROVED,
    uses=("lem-descent", "thm-pl", "eq-pl-jacobian"),
    paper="Descent",
    number="Theorem",
    statement=r"Let $J$ be $\beta$-Lipschitz within $R = \sigma_0/2\beta$ of the start, "
    r"$\sigma_0 = \sigma_{\min}(J_0)$, and $8\beta\|r_0\| < \sigma_0^2$. With "
    r"$\eta \le 1/(4\|J_0\|^2)$ the path is no longer than $4\|r_0\|/\sigma_0 < R$, all the way "
    r"$\sigma_{\min}(J_t) \ge \sigma_0/2$, and $f_t \le (1-\eta\sigma_0^2/4)^t f_0$.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={
        "few units and labels out of their reach": {"k": 4, "scale": 4.0},
        "a path bound five times shorter": {"path_bound": 0.8},
    },
)
def pl_near_start(k: int = 512, scale: float = 1.0, path_bound: float = 4.0) -> Evidence:
    """Networks of k hidden units on five labels, eight starts on each of four problems."""
    near, length, sigma, over = 0.0, 0.0, float("inf"), 0.0
    for seed in (0, 10, 20, 30):
        f, theta, beta = balanced_network(k, scale, seed)
        J, r0 = f.jacobian(theta), f.residual(theta).norm(dim=-1)
        sigma_0, eta = spectra.sigma_min(J), 1 / (4 * torch.linalg.matrix_norm(J, 2) ** 2)
        path = f.path(theta, step=eta, steps=100)
        travelled = (path[1:] - path[:-1]).norm(dim=-1).sum(0)
        along = spectra.sigma_min(f.jacobian(path[::10])) / sigma_0
        near = max(near, float((8 * beta * r0 / sigma_0**2).max()))
        length = max(length, float((travelled * sigma_0 / r0 / path_bound).max()))
        sigma = min(sigma, float(along.min()))
        over = max(over, excess(f.loss(path), 1 - eta * sigma_0**2 / 4))
    return Evidence(
        conclusions={
            "the path is as short as promised": length <= 1,
            "sigma_min stays above half": sigma >= 0.5,
            "the loss stays below the bound": over < 1 + 1e-6,
        },
        hypotheses={"the start is near": near < 1},
        sharpness={"the path is as short as promised": (length, length)},
        numbers={
            "largest_8_beta_r_over_sigma_squared": near,
            "least_sigma_over_its_start": sigma,
            "largest_loss_over_bound": over,
            "runs": 32,
        },
    )
