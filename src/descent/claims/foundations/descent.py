"""Claims of the chapter on gradient descent, the PL inequality, and where descent leads."""

import torch
from torch import Tensor

from ... import draws, theorems
from ...models import LeastSquares, elementary
from ...theorems import Outcome, Report, Standing
from .._record import Evidence, Verdict, claim

PAGE = "foundations/descent"


def normal(*shape: int, seed: int) -> Tensor:
    """Independent standard normal entries, float64."""
    return draws.normal(seed, "normal", shape)


def wavy() -> LeastSquares:
    """x^2 + 3 sin^2 x (Karimi, Nutini, Schmidt 2016): not convex, yet PL; L = 8, optimum 0."""
    return LeastSquares(
        lambda x: torch.cat([2**0.5 * x, 6**0.5 * torch.sin(x)], -1)  # half of the square is f
    )


@claim(
    "pl-linear-rate",
    theorem="pl-linear-rate",
    paper="Descent",
    number="Theorem",
    statement=r"If $f$ is $L$-smooth and $\|\nabla f\|^2 \ge 2\mu(f-f^*)$, gradient descent with "
    r"$0 < \eta < 2/L$ satisfies $f_t - f^* \le (1-\eta\mu(2-\eta L))^t (f_0-f^*)$; neither "
    r"convexity nor a unique minimiser is needed.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={"a step above 2/L": {"shares": (1.025,)}},
)
def pl_linear_rate(shares: tuple = (0.025, 0.25, 0.5, 0.75)) -> Evidence:
    """Wide least squares, where minimisers fill a plane, and x^2 + 3 sin^2 x from 201 starts."""
    A = normal(6, 10, seed=0)
    values = torch.linalg.svdvals(A).square()
    slowest = torch.linalg.svd(A)[2][5]  # the right singular vector of the smallest singular value
    quadratic = elementary.linear(A, torch.zeros(6, dtype=A.dtype))
    starts = torch.cat([normal(200, 10, seed=1), slowest[None]])
    # where the slope is least against the loss; beyond 10 it is larger
    line = torch.linspace(-10, 10, 20_000, dtype=A.dtype)[:, None]
    loss, slope = wavy().loss_and_gradient(line)
    ratio = slope[:, 0].square() / (2 * loss)
    line = torch.cat([line[::100], line[ratio.argmin()][None]])
    reports = (
        theorems.foundations.under_pl(quadratic, starts, mu=values[-1], L=values[0]),
        theorems.foundations.under_pl(wavy(), line, mu=ratio.min(), L=8.0),
    )
    bent = float(wavy().hessian(line).min())
    flat = float(torch.linalg.eigvalsh(quadratic.hessian(starts[0]))[0].abs())
    return Evidence.of(
        [report.trial(200, share) for report in reports for share in shares],
        hypotheses={
            "one of the losses is not convex": bent < 0,
            "the other is not strongly convex": flat < 1e-12,
        },
        mu_of_the_wavy_loss=float(ratio.min()),
        lowest_curvature=bent,
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
    theorem="factorisation-pl",
    paper="Descent",
    number="Proposition",
    statement=r"For $f = \frac12\|UV^\top-M\|_F^2$ the PL constant at $(U, V)$ is "
    r"$\lambda_{\min}(UU^\top)+\lambda_{\min}(VV^\top)$, attained by some $M$; at the origin PL fails.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={
        "the larger of the two eigenvalues twice": {"larger": True},
        "fewer columns than either matrix has rows": {"k": 1},
        "points that are not near the origin": {"near": 1.0},
    },
)
def factorisation_pl(larger: bool = False, k: int = 4, near: float = 1e-4) -> Evidence:
    """200 pairs of a 3 x k and a 2 x k matrix, with a random M and with the M of least slope."""
    theta = normal(200, 5 * k, seed=0)
    U, V = theta[:, : 3 * k].unflatten(-1, (3, k)), theta[:, 3 * k :].unflatten(-1, (2, k))
    (low_u, left), (low_v, right) = (torch.linalg.eigh(W @ W.mT) for W in (U, V))
    slowest = U @ V.mT - left[:, :, :1] @ right[:, :, :1].mT
    M = normal(3, 2, seed=1).expand(200, 3, 2)
    outcomes = [theorems.foundations.factorised(A, U, V).against() for A in (M, slowest)]
    mu = outcomes[0].report["μ"]
    share = 2 * torch.maximum(low_u[:, 0], low_v[:, 0]) / mu if larger else mu / mu
    attained = float((share * outcomes[1].conclusions[0].sharpness - 1).abs().max())
    loss, gradient = elementary.factorisation(M, k).loss_and_gradient(near * theta)
    flat = float((gradient.square().sum(-1) / loss).max())
    return Evidence.of(
        outcomes,
        conclusions={
            "the constant is attained": attained < 1e-6,
            "near the origin it is as good as zero": flat < 1e-6,
        },
        hypotheses={"the constant is positive": float(mu.min()) > 1e-6},
        smallest_constant=float(mu.min()),
        largest_ratio_near_origin=flat,
    )


@claim(
    "pl-near-start",
    theorem="pl-near-start",
    paper="Descent",
    number="Theorem",
    statement=r"Let $J$ be $\Lambda$-Lipschitz within $\rho = \sigma_0/2\Lambda$ of the start, "
    r"$\sigma_0 = \sigma_{\min}(J_0)$, and $8\Lambda\|r_0\| < \sigma_0^2$. With "
    r"$\eta \le 1/(4\|J_0\|^2)$ the path is no longer than $4\|r_0\|/\sigma_0 < \rho$, all the way "
    r"$\sigma_{\min}(J_t) \ge \sigma_0/2$, and $f_t \le (1-\eta\sigma_0^2/4)^t f_0$.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={"few units and labels out of their reach": {"k": 4, "scale": 4.0}},
)
def pl_near_start(k: int = 512, scale: float = 1.0) -> Evidence:
    """Networks of k hidden units on five labels, eight starts on each of four problems."""
    outcomes = []
    for seed in (0, 10, 20, 30):
        f, theta, Lambda = balanced_network(k, scale, seed)
        outcomes.append(theorems.foundations.near_start(f, theta, Lambda=Lambda).trial(100))
    return Evidence.of(outcomes)


@claim(
    "least-squares-nearest",
    theorem="least-squares-nearest",
    paper="Descent",
    number="Theorem",
    statement=r"Gradient descent on $\frac12\|A\theta-y\|^2$ with $0<\eta<2/\sigma_{\max}(A)^2$ converges "
    r"to the minimiser nearest to $\theta_0$, $A^+y+(I-A^+A)\theta_0$.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={
        "the sign of the gradient": {"rule": torch.sign},
        "a step of 2.02/L": {"share": 1.01},
    },
)
def least_squares_nearest(rule=None, share: float = 0.75) -> Evidence:
    """A wide matrix, a tall one and one of rank 3, 32 starts each."""
    wide, tall = normal(6, 12, seed=0), normal(8, 4, seed=1)
    low = normal(6, 3, seed=2) @ normal(3, 7, seed=3)
    outcomes = []
    for A in (wide, tall, low):
        f, theta = elementary.linear(A, normal(len(A), seed=4)), normal(32, A.shape[1], seed=5)
        report = theorems.foundations.least_squares(f, theta)
        outcomes.append(report.trial(1000, share) if rule is None else steered(report, rule))
    return Evidence.of(outcomes)


def steered(report: Report, rule) -> Outcome:
    """The report against a thousand shrinking steps along ``rule`` of the gradient."""
    path = [report.start.theta]
    for t in range(1000):
        slope = report.start.f.loss_and_gradient(path[-1])[1]
        path.append(path[-1] - 0.1 * 0.99**t * rule(slope))
    return report.against(report.start.seen(torch.stack(path), report.step / 2))


@claim(
    "saddles-are-avoided",
    paper="Descent",
    number="Theorem",
    statement=r"For analytic $f$ the starts from which gradient descent converges to a strict saddle at "
    r"which $1/\eta$ is no eigenvalue of the Hessian have measure zero.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    title="Almost every start avoids a strict saddle",
    box="thm-saddle",
    standing=Standing.CITED,
    mutations={"starts on the line that leads into it": {"line": True}},
)
def saddles_are_avoided(line: bool = False) -> Evidence:
    """Half of (uv - 1)^2 from 5000 starts in a square, and 5000 within 1e-3 of the line v = -u."""
    f = elementary.factorisation(torch.ones(1, 1, dtype=torch.float64), k=1)
    drawn = 2 * draws.uniform(0, "theta", (5000, 2)) - 1
    along = drawn[:, :1] * torch.tensor([1.0, -1.0], dtype=torch.float64)
    close = along if line else along + 1e-3 * drawn.flip(0)
    theta = torch.cat([2 * drawn, close])
    nearest = theta.norm(dim=-1)
    for _ in range(600):
        theta = theta - 0.1 * f.loss_and_gradient(theta)[1]
        nearest = torch.minimum(nearest, theta.norm(dim=-1))
    saddle = float(torch.linalg.eigvalsh(f.hessian(0 * theta[0])).min())
    return Evidence(
        {"every start arrives at zero loss": float(f.loss(theta).max()) < 1e-9},
        {"pass_within_a_hundredth": int((nearest < 0.01).sum()), "lowest_curvature": saddle},
        hypotheses={"the origin is a strict saddle": saddle < -0.5},
    )
