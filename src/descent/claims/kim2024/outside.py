"""Claims of the chapter on what the theory leaves out."""

import math
from statistics import median

import torch
from scipy.special import betainc
from torch import Tensor

from ... import draws, tables
from ...models import InContext, in_context
from ...models.in_context import Neurons, Population
from ...theorems import Standing
from .._record import Evidence, Verdict, claim
from .dynamics import taught

CHAPTER = "kim2024/outside"
MODEL = InContext()


def whitened(population: Population, d: int, runs: int | None = None) -> Neurons:
    """Random neurons whose features are mixed so that they are uncorrelated."""
    a, w = MODEL.init(population, d=d, seed=1, runs=runs)
    values, vectors = torch.linalg.eigh(MODEL.moments(Neurons(a, w), population).Sigma)
    return Neurons(a @ (vectors / values.sqrt()[..., None, :]) @ vectors.mT, w)


def joint(
    population: Population, N: int, n: int, d: int, steps: int, dt: float = 0.003
) -> tuple[Tensor, Tensor]:
    """Losses of N prompts on which neurons and W are trained, and of all prompts of this length."""
    prompts = in_context.prompts(population, N, n, seed=1)
    a, w = whitened(population, d)
    parts, speeds = [a, w, torch.eye(a.shape[-1]).to(a)], (d, d, 1)
    trained, fresh = [], []
    for _ in range(steps + 1):
        parts = [part.detach().requires_grad_() for part in parts]
        cloud, W = Neurons(*parts[:2]), parts[2]
        loss = (MODEL.predict(cloud, W, prompts) - prompts.answer).square().mean() / 2
        slopes = torch.autograd.grad(loss, parts)
        trained.append(loss.detach())
        with torch.no_grad():
            fresh.append(MODEL.finite_loss(cloud, W, population, n))
        parts = [x - dt * c * g for x, c, g in zip(parts, speeds, slopes, strict=True)]
    return torch.stack(trained), torch.stack(fresh)


def at_speed(
    population: Population, start: Neurons, kappa: float | None, steps: int, dt: float = 0.003
) -> Tensor:
    """The least loss of the neurons after steps with W at kappa times their speed, or at its best."""
    cloud, W = start, torch.eye(start.a.shape[-1]).to(start.a).expand(len(start.a), -1, -1)
    for _ in range(steps):
        if kappa is None:
            speed = MODEL.velocities(cloud, population)
        else:
            speed, turn = MODEL.joint_velocities(cloud, W, population)
            W = W + dt * kappa * turn
        cloud = Neurons(*(x + dt * v for x, v in zip(cloud, speed, strict=True)))
    return MODEL.loss(cloud, population)


def short(h: Tensor, F: Tensor, n: int) -> Tensor:
    """The least loss of prompts of n pairs with features h (m, k), labels without noise."""
    Sigma, C = h.mT @ h / len(F), F.mT @ h / len(F)
    square = C.mT @ C
    fourth = (F.square().sum(1, keepdim=True) * h).mT @ h / len(F)
    gain = square @ torch.linalg.solve((1 - 1 / n) * square + fourth / n, square)
    whole = F.square().sum() / len(F)
    return (whole - torch.linalg.solve(Sigma, gain).diagonal().sum()) / 2


def slope(F: Tensor, delta: Tensor) -> Tensor:
    """n times the slope of the proposition along a change of the features."""
    best = torch.linalg.solve(F.mT @ F / len(F), delta.mT).mT
    return (F.square().sum(1, keepdim=True) * F * best).sum() / len(F)


def direction(population: Population, name: str) -> Tensor:
    """A change of the features orthogonal to the true ones: of random neurons, or "lighter tails"."""
    F = population.F
    if name == "lighter tails":
        raw = -F.square().sum(1, keepdim=True) * F
    else:
        seed = int(name.split()[-1])
        raw = torch.tanh(
            population.X @ draws.normal(seed, "u", (population.X.shape[1], F.shape[1]))
        )
    delta = raw - F @ torch.linalg.lstsq(F, raw).solution
    return delta / delta.square().sum(1).mean().sqrt()


def nearest(D: int, neurons: int, seed: int) -> float:
    """The angle in degrees from a direction to the nearest of so many random ones."""
    w = draws.normal(seed, "w", (neurons, D))
    cosine = w[:, 0] / torch.linalg.vector_norm(w, dim=1)
    return math.degrees(math.acos(float(cosine.max())))


@claim(
    "full-size-run",
    title="A run at the size of the paper's",
    standing=Standing.OBSERVED,
    paper="Descent",
    number="Experiment",
    statement="Five hundred neurons in twenty dimensions and ten thousand prompts of a thousand pairs: "
    "$W$ at the speed of the neurons stays within three per cent of its best, the prompts trained on "
    "come to less than a fifth of the loss of infinite ones, and the flow with the best $W$ to less "
    "than a third.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "before it has trained": {"last": 0},
        "the other flow's neurons at their best": {"beside": "alone"},
    },
)
def full_size(last: int = -1, beside: str = "best_W") -> Evidence:
    """The recorded run."""
    rows = {k: torch.tensor(v) for k, v in tables.recorded("in-context-prompts")["rows"].items()}
    lag = float((rows["with_W"] / rows[beside] - 1).max())
    return Evidence(
        {
            "W stays near its best": lag < 0.03,
            "the prompts are fitted": bool(rows["prompts"][last] < rows["with_W"][last] / 5),
            "the flow with the best W is ahead": bool(
                rows["alone"][last] < rows["best_W"][last] / 3
            ),
        },
        {name: float(row[last]) for name, row in rows.items()} | {"largest_lag_of_W": lag},
    )


@claim(
    "overfit-prompts",
    title="Finitely many prompts are fitted",
    standing=Standing.OBSERVED,
    paper="Descent",
    number="Experiment",
    statement="On fifty prompts the loss of new prompts rises while that of the old ones falls; on "
    "eight hundred both fall.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "eight hundred prompts for fifty": {"few": 800},
        "fifty prompts for eight hundred": {"more": 50},
    },
)
def overfit(few: int = 50, more: int = 800) -> Evidence:
    """Sixty neurons, prompts of twenty pairs, 200 steps."""
    population, _ = in_context.planted(6, 3, 200, seed=0, r=(1.0, 1.0, 1.0), steepness=3.0)
    old, new = joint(population, few, 20, 60, 200)
    many = joint(population, more, 20, 60, 200)
    return Evidence(
        {
            "few prompts are fitted": bool(old[-1] < 0.2 * old[0]),
            "new prompts get worse": bool(new[-1] > new.min() + 0.1),
            "of many prompts both fall": all(bool(x[-1] < 0.9 * x[0]) for x in many),
        },
        {"old": float(old[-1]), "new": float(new[-1]), "new_of_many": float(many[1][-1])},
    )


@claim(
    "short-prompts-move-the-minimum",
    title="Short prompts want other features",
    box="prop-short",
    standing=Standing.PROVED,
    uses=("prop-best-attention", "prop-finite-loss"),
    paper="Descent",
    number="Proposition",
    statement=r"At the true features $\mathcal L^n$ has the slope $\frac1n\mathbb E\|f^\circ\|^2"
    r"f^{\circ\top}(\Sigma^\circ)^{-1}\delta+O(n^{-2})$ along a change $\delta$ orthogonal to them.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"twice the slope": {"times": 2.0}, "features of constant length": {"flat": True}},
)
def short_prompts(times: float = 1.0, flat: bool = False) -> Evidence:
    """Twenty random directions, and that of lighter tails, n = 10^3 and 10^4."""
    population, _ = taught()
    if flat:
        size = torch.linalg.vector_norm(population.F, dim=1, keepdim=True)
        population = population._replace(F=population.F / size)
    F, errors, step = population.F, [], 1e-4
    names = [f"random {seed}" for seed in range(20)] + ["lighter tails"] * (not flat)
    for n in (10**3, 10**4):
        gaps = []
        for name in names:
            delta = direction(population, name)
            found = short(F + step * delta, F, n) - short(F - step * delta, F, n)
            gaps.append(n * found / (2 * step) - times * slope(F, delta))
        errors.append(torch.stack(gaps).abs())
    tails = direction(population, names[-1])
    ten = [float(short(F + s * tails, F, 10)) for s in (0.0, 0.1)]
    return Evidence(
        {
            "n times the slope tends to the formula": bool((errors[1] < 0.02).all()),
            "its error is of order 1/n": bool((errors[1] < 0.2 * errors[0] + 1e-6).all()),
            "lighter tails are better for ten pairs": ten[1] < ten[0] - 1e-3,
        },
        {"largest_error_at_10000": float(errors[1].max()), "gain_at_ten_pairs": ten[0] - ten[1]},
    )


@claim(
    "density-costs-dimension",
    title="What a density costs",
    box="prop-density",
    standing=Standing.PROVED,
    paper="Descent",
    number="Proposition",
    statement=r"With uniform directions a density of $k$ teachers smeared over angles of $\varphi$ is "
    r"at least $1/(kp)$, $p=\frac12I_{\sin^2\varphi}(\frac{D-1}2,\frac12)\le\frac12\sin^{D-1}\varphi$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"the area of two caps": {"caps": 2.0}, "one dimension more": {"more": 1}},
)
def density(caps: float = 1.0, more: int = 0) -> Evidence:
    """A million directions each in 2 to 8 dimensions, and the bound for angles up to 85 degrees."""
    scores, shares = [], []
    for D in (2, 3, 5, 8):
        w = draws.normal(D, "w", (10**6, D))
        cosine = w[:, 0] / torch.linalg.vector_norm(w, dim=1)
        for degrees in (30, 60, 85):
            angle = math.radians(degrees)
            p = caps * area(D + more, angle)
            found = float((cosine > math.cos(angle)).double().mean())
            scores.append(abs(found - p) / (p * (1 - min(p, 0.99)) / 10**6) ** 0.5)
            shares.append(2 * area(D, angle) / math.sin(angle) ** (D - 1))
    return Evidence(
        {
            "the area is measured to five standard errors": max(scores) < 5,
            "the bound holds": max(shares) <= 1,
        },
        {
            "largest_distance_in_standard_errors": max(scores),
            "density_20": 1 / (5 * area(20, 0.5236)),
        },
        sharpness={"the bound holds": (median(shares), max(shares))},
    )


def area(D: int, angle: float) -> float:
    """The share of directions within an angle below 90 degrees of one."""
    return float(0.5 * betainc((D - 1) / 2, 0.5, math.sin(angle) ** 2))
