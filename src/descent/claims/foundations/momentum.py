"""Claims of the chapter on momentum and rates."""

import math

import torch
from torch import Tensor

from ... import steps, theorems
from ...models import LeastSquares, elementary
from ...theorems import Standing
from .._record import Evidence, Verdict, claim
from .descent import normal, wavy

PAGE = "foundations/momentum"
#: Conclusions that have a sharpness.
LIMIT = "limit ≤ f_t - f*"
NESTEROV = "f_t - f* ≤ 2L ‖θ_0 - θ*‖² / t(t+2)"
HEAVY = "f_t - f* ≤ (2t+1)² β^t (f_0 - f*)"
FLOW = "‖θ_t - θ(ηt)‖ ≤ ½ η g_0 (e^{Lηt} - 1)"


def ratios(measured: Tensor, bound: Tensor) -> tuple[float, float]:
    """Measured over bound, in the median and at best."""
    each = (measured / bound).flatten()
    return float(each.median()), float(each.max())


def chains(steps: int, momentum: bool) -> list[tuple[LeastSquares, Tensor, Tensor, float]]:
    """Chains of 1 to 401 coordinates with the losses of descent: convex, and smooth with L = 1."""
    found = []
    for p in (1, 3, 21, 401):
        f, zero = elementary.chain(p), torch.zeros(p, dtype=torch.float64)
        best = 1 - torch.arange(1, p + 1, dtype=zero.dtype) / (p + 1)
        path = elementary.momentum_path(
            f,
            zero,
            step=1.0,
            momentum=lambda t: momentum * (t - 1) / (t + 2),
            ahead=True,
            steps=steps,
        )
        found.append((f, f.loss(path)[1:] - f.loss(best), best.square().sum(), p))
    return found


def flanks() -> LeastSquares:
    """The loss sqrt(1 + x^2) - 1: convex, smooth with L = 1, and far out nearly a straight line."""
    return LeastSquares(lambda x: 2**0.5 * x / (torch.sqrt(1 + x.square()) + 1).sqrt())


@claim(
    "convex-rate",
    theorem="convex-rate",
    paper="Descent",
    number="Theorem",
    statement=r"If $f$ is convex and $L$-smooth and $0<\eta\le1/L$, then for every $\theta^*$ gradient "
    r"descent has $f_t-f(\theta^*)\le\|\theta_0-\theta^*\|^2/(2\eta t)$.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    mutations={"a step above 2/L": {"share": 2.05}},
)
def convex_rate(share: float = 1.0) -> Evidence:
    """Four chains, against their minimisers and against points with equal drops over the first
    twelve beads alone; and sqrt(1 + x^2) - 1 from 64 far starts, whose slope is nearly constant."""
    reports = []
    for p in (1, 3, 21, 401):
        f, zero = elementary.chain(p), torch.zeros(1, p, dtype=torch.float64)
        for drops in (p + 1, 13):
            point = (1 - torch.arange(1, p + 1, dtype=zero.dtype) / drops).clamp_min(0)
            given = {"L": 1.0, "minimiser": point, "infimum": float(f.loss(point))}
            reports.append(theorems.foundations.convex(f, zero, **given))
    far = torch.linspace(3, 300, 64, dtype=torch.float64)[:, None]
    reports.append(theorems.foundations.convex(flanks(), far, L=1.0, minimiser=[0.0]))
    return Evidence.of(report.trial(300, share) for report in reports)


@claim(
    "first-order-limit",
    paper="Descent",
    number="Theorem",
    statement=r"On the chain of $p$ coordinates, $L = 1$, started at zero, every method that moves in "
    r"the span of its gradients has $f_t-f^*\ge\frac18(\frac1{t+1}-\frac1{p+1})$ for $t\le p$.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    title="A limit for every first-order method (Nesterov)",
    box="thm-lower",
    standing=Standing.PROVED,
    mutations={
        "a start in the middle": {"start": 0.5},
        "a limit 2 % higher": {"factor": 1.02},
    },
)
def first_order_limit(start: float = 0.0, factor: float = 1.0) -> Evidence:
    """Descent at three steps, heavy ball, Nesterov and conjugate gradients, which attain it."""
    p, steps = 61, 60
    f, begin = elementary.chain(p), torch.full((p,), start, dtype=torch.float64)
    t = torch.arange(1, steps + 1, dtype=begin.dtype)
    limit = factor * (1 / (t + 1) - 1 / (p + 1)) / 8
    ways = [
        elementary.momentum_path(f, begin, step=step, momentum=m, ahead=ahead, steps=steps)
        for step, m, ahead in (
            (0.5, lambda t: 0.0, False),
            (1.0, lambda t: 0.0, False),
            (1.9, lambda t: 0.0, False),
            (1.0, lambda t: 0.8, False),
            (1.0, lambda t: (t - 1) / (t + 2), True),
        )
    ]
    least = 1 / (8 * (p + 1))
    gaps = torch.stack([f.loss(path)[1:] - least for path in ways])
    attained = conjugate_gradients(f, begin, steps) - least
    sharp = ratios(limit.expand_as(gaps), gaps)
    return Evidence(
        {
            LIMIT: bool((gaps >= limit - 1e-15).all()),
            "conjugate gradients attain it": float((attained / limit - 1).abs().max()) < 1e-8,
        },
        {"methods": len(ways) + 1, "coordinates": p},
        sharpness={LIMIT: sharp},
    )


def conjugate_gradients(f: LeastSquares, theta: Tensor, steps: int) -> Tensor:
    """Losses of the best points in the span of all gradients seen, for a quadratic."""
    losses, slope = [], f.loss_and_gradient(theta)[1]
    way = -slope
    for _ in range(steps):
        turned = f.loss_and_gradient(theta + way)[1] - slope
        theta = theta + way * (slope @ slope) / (way @ turned)
        new = f.loss_and_gradient(theta)[1]
        way, slope = -new + way * (new @ new) / (slope @ slope), new
        losses.append(f.loss(theta))
    return torch.stack(losses)


@claim(
    "nesterov-momentum",
    paper="Descent",
    number="Theorem",
    statement=r"If $f$ is convex and $L$-smooth with a minimiser $\theta^*$, Nesterov's method with "
    r"$\eta = 1/L$ and momentum $(t-1)/(t+2)$ has $f_t-f^*\le2L\|\theta_0-\theta^*\|^2/(t(t+2))$.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    title="Nesterov's momentum",
    box="thm-nesterov",
    standing=Standing.PROVED,
    uses=("lem-descent",),
    mutations={
        "no momentum": {"momentum": False},
        "a fifth of the constant": {"constant": 0.2},
    },
)
def nesterov_momentum(momentum: bool = True, constant: float = 1.0) -> Evidence:
    """Four chains, 1000 steps each: for 401 coordinates a thousand are in the regime of t^2."""
    t = torch.arange(1, 1001, dtype=torch.float64)
    measured, promised = [], []
    for _, gap, far, _ in chains(1000, momentum):
        seen = gap > 1e-14
        measured.append(gap[seen]), promised.append((2 * constant * far / (t * (t + 2)))[seen])
    sharp = ratios(torch.cat(measured), torch.cat(promised))
    return Evidence(
        {NESTEROV: sharp[1] <= 1 + 1e-9},
        {"runs": 4},
        sharpness={NESTEROV: sharp},
    )


@claim(
    "heavy-ball-rate",
    paper="Descent",
    number="Theorem",
    statement=r"On a quadratic with nonzero curvatures in $[\mu,L]$ the heavy ball with "
    r"$\eta = 4/(\sqrt L+\sqrt\mu)^2$, $\sqrt\beta = (\sqrt\kappa-1)/(\sqrt\kappa+1)$ has "
    r"$f_t-f^*\le(2t+1)^2\beta^t(f_0-f^*)$.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    title="The heavy ball on a quadratic (Polyak)",
    box="thm-heavy-ball",
    standing=Standing.PROVED,
    mutations={
        "without the factor that grows": {"linear": 0.0},
        "a curvature outside of the interval": {"beyond": 1.3},
        "a function that is no quadratic": {"quadratic": False},
    },
)
def heavy_ball_rate(linear: float = 2.0, beyond: float = 1.0, quadratic: bool = True) -> Evidence:
    """Three condition numbers, 30 curvatures and the two ends, each started alone and together."""
    worst, t = [], torch.arange(301, dtype=torch.float64)
    for kappa in (4.0, 100.0, 2500.0):
        root = kappa**0.5
        beta, eta = ((root - 1) / (root + 1)) ** 2, 4 / (1 + kappa**-0.5) ** 2
        curved = torch.logspace(0, 1, 32, base=1 / kappa, dtype=torch.float64)
        curved[0] = curved[0] * beyond
        f = elementary.linear(curved.sqrt().diag(), 0 * curved)
        starts = torch.cat([torch.eye(32, dtype=torch.float64), normal(32, 32, seed=0)])
        if not quadratic:
            f, starts = kinked(kappa), torch.linspace(-4, 4, 81, dtype=torch.float64)[:, None]
        path = elementary.momentum_path(
            f, starts, step=eta, momentum=lambda t, b=beta: b, steps=300
        )
        bound = ((linear * t + 1).square() * beta**t)[:, None]
        losses = f.loss(path) / f.loss(starts).clamp_min(1e-300)
        seen = (bound > 1e-20).expand_as(losses)
        worst.append((losses / bound)[1:][seen[1:]])
    sharp = ratios(torch.cat(worst), torch.ones(()))
    return Evidence(
        {HEAVY: sharp[1] <= 1 + 1e-6},
        {"runs": 192},
        sharpness={HEAVY: sharp},
    )


def kinked(kappa: float) -> LeastSquares:
    """Curvature 1 but between 1 and 2, where it is 1/kappa (Lessard, Recht, Packard 2016)."""

    def residual(x: Tensor) -> Tensor:
        low, a = x.clamp_max(1), 1 / kappa
        middle, high = (x.clamp(1, 2) - 1), (x - 2).clamp_min(0)
        area = low.square() / 2 + middle + a * middle.square() / 2
        return (2 * (area + (1 + a) * high + high.square() / 2)).clamp_min(0).sqrt()

    return LeastSquares(residual)


@claim(
    "flow-limit",
    paper="Descent",
    number="Theorem",
    statement=r"If $f$ is $L$-smooth, gradient descent stays within $\frac12\eta g_0(e^{L\eta t}-1)$ of "
    r"the gradient flow at time $\eta t$, with $g_0 = \sqrt{2L(f_0-f^*)}$; the distance is of order $\eta$.",
    verdict=Verdict.HOLDS,
    chapter=PAGE,
    title="Gradient flow as the limit of descent",
    box="thm-flow",
    standing=Standing.PROVED,
    uses=("lem-descent",),
    mutations={
        "half of the constant": {"constant": 0.5},
        "an order more of the step": {"order": 2},
        "the flow a hundredth later": {"time": 0.51},
    },
)
def flow_limit(constant: float = 1.0, order: int = 1, time: float = 0.5) -> Evidence:
    """x^2 + 3 sin^2 x from 41 starts, at time 0.5; and x^2 / 2 at every step, sharp at the first."""
    etas = 0.5 / 2.0 ** torch.arange(1, 9)
    start = torch.linspace(-6, 6, 41, dtype=torch.float64)[:, None]
    f, L = wavy(), 8.0
    end, g0 = finely(f, start, time), (2 * L * f.loss(start)).sqrt()
    away = torch.stack(
        [
            (f.path(start, step=float(e), steps=round(0.5 / float(e)))[-1] - end).norm(dim=-1)
            for e in etas
        ]
    )
    seen = away[-1] > 1e-9
    bound = constant * etas[:, None].double() ** order * g0 / 2 * math.expm1(0.5 * L)
    worst = [(away / bound)[:, seen].flatten()]
    t = torch.arange(1, 101, dtype=torch.float64)
    for eta in (0.1, 0.01):
        gap = ((1 - eta) ** t - torch.exp(-eta * t)).abs()
        worst.append(gap / (constant * eta**order / 2 * torch.expm1(eta * t)))
    halves = (away[-1] / away[-2])[seen]
    sharp = ratios(torch.cat(worst), torch.ones(()))
    return Evidence(
        {
            FLOW: sharp[1] <= 1 + 1e-6,
            "half of the step, half of the distance": float((halves - 0.5).abs().max()) < 0.1,
        },
        {"runs": len(halves) + 2},
        sharpness={FLOW: sharp},
    )


def finely(f: LeastSquares, theta: Tensor, time: float, pieces: int = 500) -> Tensor:
    """The gradient flow at ``time`` by the classical Runge-Kutta method."""
    h = time / pieces
    for _ in range(pieces):
        a = -f.loss_and_gradient(theta)[1]
        b = -f.loss_and_gradient(theta + h / 2 * a)[1]
        c = -f.loss_and_gradient(theta + h / 2 * b)[1]
        d = -f.loss_and_gradient(theta + h * c)[1]
        theta = theta + h / 6 * (a + 2 * b + 2 * c + d)
    return theta


@claim(
    "polyak-step",
    theorem="polyak-step",
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
        "half of the step": {"factor": 0.5},
        "twice the step": {"factor": 2.0},
    },
)
def polyak_step(guess: float = 1.0, convex: bool = True, factor: float = 1.0) -> Evidence:
    """Least squares that no parameters fit, 64 starts, and one of a single curvature; or x^2 +
    3 sin^2 x, where it can cycle. And sqrt(1 + x^2) - 1 from 64 far starts: on least squares a
    step gains three times what is promised, there no more."""
    A, y = normal(8, 5, seed=0), normal(8, seed=1)
    f, values = elementary.linear(A, y), torch.linalg.svdvals(A).square()
    target = torch.linalg.lstsq(A, y[:, None]).solution[:, 0]
    start = target + normal(64, 5, seed=2)
    if not convex:
        f, target, values = wavy(), A.new_zeros(1), A.new_tensor([8, 1 / 32])
        start = normal(64, 1, seed=2) * 4
    optimum = float(f.loss(target))
    given = {"mu": values[-1], "L": values[0], "minimiser": target, "infimum": optimum}
    of, zero = theorems.foundations.polyak, 0 * y[:5]
    even = of(elementary.linear(torch.eye(5).to(A), zero), normal(8, 5, seed=3), mu=1.0, L=1.0,
              minimiser=zero)  # fmt: skip
    far = torch.linspace(3, 300, 64, dtype=A.dtype)[:, None]
    grows = 2 * flanks().loss(far[-1]) / far[-1].square().sum()  # least at the farthest
    distant = of(flanks(), far, mu=grows, L=1.0, minimiser=[0.0])
    rules = (guess * optimum, 300, of(f, start, **given)), (0.0, 20, even), (0.0, 20, distant)
    return Evidence.of(
        (
            report.against(report.start.descend(step=steps.polyak(least, factor), steps=count))
            for least, count, report in rules
        ),
        optimal_loss=optimum,
    )
