"""Claims of the chapter on two timescales."""

import math
from functools import cache

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ... import draws, theorems
from ...models import InContext, in_context
from ...models.in_context import Neurons, Population
from ...theorems import Standing
from .._record import Evidence, Verdict, claim
from .landscape import BOTH

PAPER, CHAPTER = "kim2024", "kim2024/timescales"
MODEL = InContext("tanh")


def taught() -> Population:
    """The chapter's population, in six dimensions with three features."""
    return in_context.planted(6, 3, 40, seed=0, r=(2.25, 1.0, 0.49))[0]


def cloud(population: Population, size: float, runs: int = 8, d: int = 20) -> Neurons:
    """Random neurons whose output weights have this standard deviation."""
    drawn = MODEL.init(population, d=d, seed=1, runs=runs)
    return drawn._replace(a=size * drawn.a)


@claim(
    "kim2024-lemma-3-1",
    theorem="kim2024-lemma-3-1",
    paper=PAPER,
    number="Lemma 3.1",
    statement=r"For fixed $\mu$ with $\Sigma\succ0$ the gradient flow of $W$ converges linearly, from "
    r"any $W_0$, to a minimiser with $CW=C\Sigma^{-1}$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "a clock that is slow": {"pace": 0.9},
        "a rate 1.02 times as large": {"faster": 1.02},
    },
)
def lemma(pace: float = 1.0, faster: float = 1.0) -> Evidence:
    """100 clouds from random W; C with one row for three features; W off along the slowest
    direction; and an integrator of the gradient beside the closed form."""
    of, population = theorems.get("kim2024-lemma-3-1"), taught()
    neurons = cloud(population, 8.0, runs=100)
    W = draws.normal(2, "W", (3, 3), 100)
    single = Population(population.X, population.F[:, :1])
    reports = [of(MODEL, neurons, each, W) for each in (population, single)]
    at = reports[0].start.at
    slow = torch.linalg.eigh(at.C.mT @ at.C)[1][..., :1]
    slow = slow * torch.linalg.eigh(at.Sigma)[1][..., None, :, 0]
    reports.append(of(MODEL, neurons, population, torch.linalg.inv(at.Sigma) + slow))
    one, rate = Neurons(neurons.a[0], neurons.w[0]), float(reports[0].start.rate[0])

    def gradient(_: float, flat) -> Tensor:
        where = torch.as_tensor(flat).reshape(3, 3)
        return MODEL.joint_velocities(one, where, population)[1].flatten()

    found = solve_ivp(
        gradient, (0, 1 / rate), W[0].flatten(), method="LSODA", rtol=1e-9, atol=1e-12
    )
    exact = MODEL.relax(one, W[0], population, pace / rate)
    error = float((torch.as_tensor(found.y[:, -1]).reshape(3, 3) - exact).abs().max())
    rates, off = reports[0].start.rate, reports[-1].start
    later = MODEL.relax(neurons, off.W, population, 1 / off.rate)
    left = (off.distance(later) / off.distance(off.W)).max()
    return Evidence.of(
        [report.against() for report in reports],
        conclusions={
            "the closed form is where an integrator arrives": error < 1e-5,
            "from the slowest direction e^-1 is left at 1/ρ": float(left)
            < math.exp(-faster) + 1e-4,
        },
        error_of_the_closed_form=error,
        smallest_rate=float(rates.min()),
        largest_rate=float(rates.max()),
    )


# ---------------------------------------------------------------------------- W beside the neurons


def together(
    population: Population, start: Neurons, ratios: tuple[float, ...], steps: int = 600
) -> dict[str, Tensor]:
    """Losses of the joint flow from W = 0, of its neurons at the best W, and of the limit, at every
    fourth step of 0.005, (.., ratios, runs)."""
    now, W, ratio = _beside(start, ratios)
    limit, eta = start, 0.005
    seen: dict[str, list[Tensor]] = {"joint": [], "least": [], "limit": []}
    for step in range(steps + 1):
        if step % 4 == 0:
            seen["joint"].append(MODEL.loss_with(now, W, population))
            seen["least"].append(MODEL.loss(now, population))
            seen["limit"].append(MODEL.loss(limit, population).repeat(len(ratios)))
        now, W = MODEL.joint_step(now, W, population, eta, ratio)
        flow = MODEL.velocities(limit, population)
        limit = Neurons(*(x + eta * v for x, v in zip(limit, flow, strict=True)))
    return {name: torch.stack(each).unflatten(1, (len(ratios), -1)) for name, each in seen.items()}


def _beside(start: Neurons, ratios: tuple[float, ...]) -> tuple[Neurons, Tensor, Tensor]:
    """The clouds once for each ratio, W = 0, and the ratio of each."""
    now = Neurons(*(part.repeat(len(ratios), 1, 1) for part in start))
    k = start.a.shape[-1]
    W = start.a.new_zeros(len(now.a), k, k)
    return now, W, start.a.new_tensor(ratios).repeat_interleave(len(start.a))


def lags(population: Population, start: Neurons, ratios: tuple[float, ...], bold: float) -> Tensor:
    """How far W is behind after each of 200 steps, over what the step allows it."""
    now, W, ratio = _beside(start, ratios)
    eta, shares = 0.005, []
    for _ in range(200):
        at, best = MODEL.moments(now, population), MODEL.best_attention(now, population)
        rate = torch.linalg.svdvals(at.C)[:, -1].square() * torch.linalg.eigvalsh(at.Sigma)[:, 0]
        fall = torch.exp(-bold * eta * ratio * rate) * torch.linalg.matrix_norm(W - best)
        now, W = MODEL.joint_step(now, W, population, eta, ratio)
        aim = MODEL.best_attention(now, population)
        allowed = fall + torch.linalg.matrix_norm(aim - best)
        shares.append(torch.linalg.matrix_norm(W - aim) / allowed)
    return torch.stack(shares)


@cache
def beside_the_limit(size: float, ratios: tuple[float, ...]) -> dict[str, Tensor]:
    """The same of eight clouds of that size."""
    population = taught()
    return together(population, cloud(population, size), ratios)


def difference(run: dict[str, Tensor]) -> Tensor:
    """The largest between the joint flow's loss and its limit's from the time 0.2 on."""
    return (run["joint"] - run["limit"])[10:].abs().amax(0)


def falling(run: dict[str, Tensor]) -> bool:
    """Whether no loss rises, as none does along a flow: the steps are short enough."""
    return all(bool((run[name].diff(dim=0) <= 1e-9).all()) for name in ("joint", "limit"))


@claim(
    "attention-follows",
    title="How far attention is behind",
    box="prop-lag",
    standing=Standing.PROVED,
    uses=("lem-relaxation",),
    paper="Descent",
    number="Proposition",
    statement=r"While $C$ is invertible, $\|W-\Sigma^{-1}\|$ falls at the rate $\kappa\varrho$ and rises "
    r"at most as fast as $\Sigma^{-1}$ moves; in the runs the loss at $\kappa=1000$ differs from its "
    r"limit by less than a fifth of what it does at $\kappa=10$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "neurons as fast as attention": {"ratios": (1.0, 1.0, 1.0)},
        "a rate ten times too good": {"bold": 10.0},
        "a tenth of the rate": {"bold": 0.1},
    },
)
def attention_follows(
    ratios: tuple[float, ...] = (10.0, 100.0, 1000.0), bold: float = 1.0
) -> Evidence:
    """Eight clouds of 20 neurons of size 8 from W = 0, ratios 10, 100 and 1000."""
    population = taught()
    start = cloud(population, 8.0)
    share, run = lags(population, start, ratios, bold), beside_the_limit(8.0, ratios)
    off = difference(run)
    gain = off[0] / off[2]
    return Evidence(
        {
            "no step leaves W farther behind than allowed": bool((share <= 1 + 1e-6).all()),
            "half of the steps come within five per cent": bool(share.median() > 0.95),
            "a hundred times the ratio, at most a fifth of the difference": bool((gain > 5).all()),
        },
        {
            "median_difference_at_10": float(off[0].median()),
            "median_difference_at_100": float(off[1].median()),
            "median_difference_at_1000": float(off[2].median()),
            "least_gain": float(gain.min()),
            "median_gain": float(gain.median()),
        },
        {"no loss rises": falling(run)},
        {"no step leaves W farther behind than allowed": (
            float(share.median()), float(share.max()))},
    )  # fmt: skip


def exponents(model: InContext, neurons: Neurons, population: Population, N: Tensor) -> Tensor:
    """Eigenvalues of the mean of cc^T ⊗ N + (∇c ∇c^T) ⊗ aa^T N over the cloud, rising."""
    Z, m, d = population.X @ neurons.w.mT, len(population.X), len(neurons.a)
    c = model.sigma.value(Z).mT @ population.F / m
    nabla = (model.sigma.derivative(Z).mT[:, None] * population.F.mT) @ population.X / m
    eye = torch.eye(N.shape[0], dtype=N.dtype)
    by_a = torch.einsum("di,dj,pq->ipjq", c, c, eye)
    by_w = torch.einsum("dix,djx,dp,dq->ipjq", nabla, nabla, neurons.a, neurons.a)
    size = c.shape[1] * N.shape[0]
    P = ((by_a + by_w) / d).reshape(size, size)
    values, vectors = torch.linalg.eigh(P)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.mT
    return torch.linalg.eigvalsh(
        root @ torch.kron(torch.eye(c.shape[1]).to(N), N.contiguous()) @ root
    )


def even_cloud(population: Population, seed: int = 1, mirror: float = -1.0) -> Neurons:
    """Fifteen pairs along w and -w, whose features are even."""
    a, w = draws.normal(seed, "a", (15, 3)), draws.normal(seed, "w", (15, 6))
    return Neurons(torch.cat([a, a]), torch.cat([w, mirror * w]))


@cache
def leaving(shares: tuple[float, ...], ratios: tuple[float, ...], steps: int) -> Tensor:
    """Losses (steps + 1, shares, ratios, 5) from five clouds at 1e-6 from the total saddle, with W
    a share of the best, by steps of 0.001."""
    population, model = taught(), InContext(BOTH)
    base = [even_cloud(population, seed) for seed in range(1, 6)]
    away = [
        1e-6 * draws.normal(7, name, shape, 5) for name, shape in (("a", (30, 3)), ("w", (30, 6)))
    ]
    near = [torch.stack(parts) + d for parts, d in zip(zip(*base, strict=True), away, strict=True)]
    now = Neurons(*(part.repeat(len(shares) * len(ratios), 1, 1) for part in near))
    share = torch.tensor(shares).double().repeat_interleave(5 * len(ratios))
    ratio = torch.tensor(ratios).double().repeat_interleave(5).repeat(len(shares))
    W, losses = share[:, None, None] * model.best_attention(now, population), []
    for _ in range(steps + 1):
        losses.append(model.loss_with(now, W, population))
        now, W = model.joint_step(now, W, population, 1e-3, ratio)
    return torch.stack(losses).unflatten(1, (len(shares), len(ratios), 5))


def departure(losses: Tensor) -> Tensor:
    """The number of steps after which the loss has fallen by a tenth."""
    return (losses < 0.9 * losses[0]).to(torch.int8).argmax(0).double()


@claim(
    "no-ratio-at-the-saddle",
    title="Where no ratio separates",
    box="prop-joint-saddle",
    standing=Standing.PROVED,
    uses=("prop-escape",),
    paper="Descent",
    number="Proposition",
    statement=r"Where $C=0$ the linearised joint flow does not depend on $\kappa$; its growth exponents "
    r"are those of the limit with $N=W+W^\top-W\Sigma W^\top$ for $\Sigma^{-1}$, and none is larger.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "W for N": {"plain": True},
        "features that are not even": {"mirror": 0.5},
        "nine tenths of the best W": {"part": 0.9},
    },
)
def joint_saddle(plain: bool = False, mirror: float = -1.0, part: float = 0.5) -> Evidence:
    """A cloud of 30 even neurons with five W, ratios 1 and 1000, Jacobians of 279 dimensions; and
    five clouds near the saddle that leave with the best W and with half of it."""
    population, model = taught(), InContext(BOTH)
    neurons = even_cloud(population, mirror=mirror)
    at = model.moments(neurons, population)
    best = torch.linalg.inv(at.Sigma)
    limit = exponents(model, neurons, population, best)
    errors, above, apart = [], [], []
    for seed in range(5):
        V = draws.normal(seed, "V", (3, 3))
        W = best @ (torch.eye(3, dtype=V.dtype) + 0.3 * V)
        N = (W + W.mT) / 2 if plain else W + W.mT - W @ at.Sigma @ W.mT
        found = exponents(model, neurons, population, N)
        spectra = [_jacobian(model, neurons, W, population, ratio) for ratio in (1.0, 1000.0)]
        top = max(1.0, float(found.abs().max()))
        errors += [float((s[-3:] - found[-3:]).abs().max()) / top for s in spectra]
        apart.append(float((spectra[0] - spectra[1]).abs().max()) / top)
        above.append(float((found - limit).max()) / top)
    left = departure(leaving((1.0, part), (10.0, 1000.0), 400))
    later = left[1] / left[0]  # N is three quarters of the inverse of Sigma
    return Evidence(
        {
            "half of the best W leaves a third later": bool(
                ((later > 1.25) & (later < 1.35)).all()
            ),
            "the exponents are those of N": max(errors) < 1e-6,
            "they do not depend on the ratio": max(apart) < 1e-6,
            "none is above the limit's": max(above) < 1e-9,
        },
        {
            "largest_error": max(errors),
            "largest_exponent_of_the_limit": float(limit[-1]),
            "least_delay": float(later.min()),
            "largest_delay": float(later.max()),
        },
        {"nothing is learned": float(at.C.abs().max()) < 1e-12},
    )


def _jacobian(
    model: InContext, neurons: Neurons, W: Tensor, population: Population, ratio: float
) -> Tensor:
    """The real parts of the joint flow's eigenvalues, rising."""
    cut, end = neurons.a.numel(), neurons.a.numel() + neurons.w.numel()

    def flow(v: Tensor) -> Tensor:
        now = Neurons(v[:cut].reshape(neurons.a.shape), v[cut:end].reshape(neurons.w.shape))
        at = model._moments(now, population)
        moved, by_W = model._joint(now, v[end:].reshape(W.shape), population, at)
        return torch.cat([moved.a.flatten(), moved.w.flatten(), ratio * by_W.flatten()])

    point = torch.cat([neurons.a.flatten(), neurons.w.flatten(), W.flatten()])
    return torch.linalg.eigvals(torch.func.jacfwd(flow)(point)).real.sort().values


@claim(
    "small-features-separate-late",
    title="What the size of the features does",
    box="prop-size",
    standing=Standing.PROVED,
    paper="Descent",
    number="Proposition",
    statement=r"With $a=c\alpha$, $W=c^{-2}V$ and the time $c^2\tau$ the joint flow is that of $(\alpha,V)$ "
    r"with the ratio $c^6\kappa$, input weights $c^2$ times as fast; in the runs at $\kappa=1000$ "
    r"features of a quarter of the size differ from the limit by ten times as much and more.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"the fourth power": {"power": 4}, "features of one size": {"sizes": (16.0, 16.0)}},
)
def small_features(power: int = 6, sizes: tuple[float, float] = (4.0, 16.0)) -> Evidence:
    """Velocities at eight clouds, c = 0.1 and 3; and runs from two sizes."""
    population, errors = taught(), []
    plain = cloud(population, 1.0)
    V = MODEL.best_attention(plain, population) + draws.normal(3, "V", (3, 3), 8)
    one, by_V = MODEL.joint_velocities(plain, V, population)
    for c in (0.1, 3.0):
        moved, by_W = MODEL.joint_velocities(plain._replace(a=c * plain.a), V / c**2, population)
        # in the time tau, with the ratio kappa = 1 and with c^power
        pairs = (
            (c * moved.a, one.a),
            (c**2 * moved.w, c**2 * one.w),
            (c**4 * by_W, c**power * by_V),
        )
        errors += [float((x - y).abs().max() / y.abs().max()) for x, y in pairs]
    runs = [beside_the_limit(size, (1000.0,)) for size in sizes]
    off = [difference(run) for run in runs]
    worse = off[0].median() / off[1].median()
    return Evidence(
        {
            "the velocities are those of the other scale": max(errors) < 1e-9,
            "small features differ by ten times as much": float(worse) > 10,
        },
        {"largest_error": max(errors), "small": float(off[0].median()),
         "large": float(off[1].median())},
        {"no loss rises": all(map(falling, runs))},
    )  # fmt: skip
