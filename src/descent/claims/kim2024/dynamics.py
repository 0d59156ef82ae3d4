"""Claims of the chapter on the flow of learned features."""

import math

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from ... import draws, flows, tables, theorems
from ...models import InContext, in_context
from ...models.in_context import Neurons, Population
from ...theorems import Standing
from .._record import Evidence, Verdict, claim
from .landscape import BOTH

PAPER, CHAPTER = "kim2024", "kim2024/dynamics"
MODEL = InContext(BOTH)
TANH = InContext("tanh")


def taught(m: int = 100) -> tuple[Population, Neurons]:
    """The chapter's population, in six dimensions with three odd features, and its teachers."""
    return in_context.planted(6, 3, m, seed=0, r=(2.25, 1.0, 0.49))


def resting(pairs: int = 30) -> Neurons:
    """A cloud of pairs, at rest at the total saddle."""
    return flows.paired(MODEL.init(taught()[0], d=pairs, seed=1))


def at_sizes(start: Neurons, exponents: list[int], runs: int, length: float | None) -> Neurons:
    """The cloud perturbed by each size 10^-e with the same noise, (sizes, runs, ...)."""
    each = [flows.perturbed(start, 10.0**-e, 0, length=length, runs=runs) for e in exponents]
    return Neurons(*(torch.stack(part) for part in zip(*each, strict=True)))


def escapes(start: Neurons, dt: float, steps: int) -> Tensor:
    """When each cloud has lost a twentieth of its loss."""
    loss = flows.euler(MODEL, start, taught()[0], dt=dt, steps=steps, every=steps).loss
    gone = loss < 0.95 * loss[0]
    return torch.where(gone.any(0), gone.int().argmax(0) * dt, torch.nan)


def with_teachers(model: InContext, d: int, runs: int, steps: int, far: float = 0.0) -> Neurons:
    """Clouds whose first inner weights are those of the teachers, after steps with w frozen."""
    population, teachers = taught()
    drawn = model.init(population, d=d, seed=1, runs=runs)
    w = drawn.w.clone()
    w[:, :3] = teachers.w + far
    start = Neurons(drawn.a, w)
    flow = flows.euler(model, start, population, dt=0.02, steps=steps, train="a", every=steps)
    return Neurons(flow.neurons.a[-1], w)


@claim(
    "birth-dissipates",
    title="What the flow dissipates",
    box="prop-dissipation",
    standing=Standing.PROVED,
    paper="Descent",
    number="Proposition",
    statement=r"Along the flow with birth and death of mass at the rate $\gamma$, "
    r"$\dot{\mathcal L}=-\int\|\nabla V\|^2d\mu-\gamma\int V^2d\mu$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"mass left out": {"counted": 0.0}, "motion left out": {"moved": 0.0}},
)
def dissipates(counted: float = 1.0, moved: float = 1.0) -> Evidence:
    """Twenty clouds of 12 neurons of random masses, at rates 0, 1 and 10; one step of 10^-6."""
    population, _ = taught()
    cloud, dt, worst = MODEL.init(population, d=12, seed=1, runs=20), 1e-6, 0.0
    mass = 0.2 + draws.uniform(2, "mass", (12,), 20)
    for birth in (0.0, 1.0, 10.0):
        options = {"dt": dt, "steps": 1, "birth": birth, "mass": mass}
        loss = flows.euler(MODEL, cloud, population, **options).loss
        at = theorems.kim2024.CloudStart(MODEL, cloud, population, mass)
        speed = sum(v.square().sum(-1) for v in at.speed)
        rate = at.over(moved * speed + counted * birth * at.variation.square())
        fall = (loss[0] - loss[1]) / dt
        worst = max(worst, float((rate / fall - 1).abs().max()))
    return Evidence(
        {"the loss falls as fast as the identity says": worst < 1e-2},
        {"largest_relative_error": worst, "clouds": 20},
    )


@claim(
    "conserved-second-moment",
    theorem="conserved-second-moment",
    paper="Descent",
    number="Theorem",
    statement=r"The Wasserstein flow conserves $Q=\int aa^\top d\mu$ exactly, and "
    r"$\Sigma\preceq\sup\sigma^2\,Q$; a step of Euler's method of length $\tau$ adds "
    r"$\tau^2\int gg^\top d\mu$ to $Q$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"birth and death of mass": {"birth": 1.0}},
)
def conserved(birth: float = 0.0) -> Evidence:
    """Twenty clouds; and one cloud to time 1: by an integrator of high order, and by Euler."""
    population, _ = taught()
    cloud = MODEL.init(population, d=12, seed=1, runs=20)
    outcome = theorems.get("conserved-second-moment")(MODEL, cloud, population).against()
    one = Neurons(cloud.a[0], cloud.w[0])
    accurate, drift = drift_of_integrator(one, population, birth), []
    for steps in (50, 100, 200):
        options = {"dt": 1 / steps, "steps": steps, "every": steps, "birth": birth}
        flow = flows.euler(MODEL, one, population, **options)
        drift.append(float(second_moments(flow).diff(dim=0).abs().max()))
    orders = [math.log2(drift[i] / drift[i + 1]) for i in (0, 1)]
    added = second_moments(flows.euler(MODEL, cloud, population, dt=0.1, steps=1, birth=birth))
    g = MODEL.velocities(cloud, population).a
    wanted = 0.1**2 * g.mT @ g / g.shape[-2]
    off = (added[1] - added[0] - wanted).abs().amax((-2, -1)) / wanted.abs().amax((-2, -1))
    return Evidence.of(
        [outcome],
        conclusions={
            "an accurate integrator conserves it to eight digits": accurate < 1e-8,
            "Euler's drift is of first order": all(0.8 < order < 1.2 for order in orders),
            # Q, known to 1e-15 of itself, beside what a step adds
            "a step adds τ² ∫ g gᵀ dμ": float(off.max()) < 1e-9,
        },
        drift_of_integrator=accurate,
        largest_error_of_a_step=float(off.max()),
        **{f"drift_of_{s}_steps": d for s, d in zip((50, 100, 200), drift, strict=True)},
    )


def second_moments(flow: flows.Flow) -> Tensor:
    """The second moment of the outer weights at each look."""
    return flow.neurons.a.mT @ (flow.mass[..., None] * flow.neurons.a)


def drift_of_integrator(one: Neurons, population: Population, birth: float) -> float:
    """The largest change of the second moment until time 1, by Runge and Kutta of order 8."""
    d = len(one.a)

    def parts(x: np.ndarray) -> tuple[Tensor, Neurons]:
        x = torch.from_numpy(x)
        p, a, w = x.split([d, 3 * d, 6 * d])
        return p / p.sum(), Neurons(a.view(d, 3), w.view(d, 6))

    def speed(_: float, x: np.ndarray) -> np.ndarray:
        p, cloud = parts(x)
        at = theorems.kim2024.CloudStart(MODEL, cloud, population, p)
        born = -birth * p * at.variation
        return torch.cat([born, at.speed.a.flatten(), at.speed.w.flatten()]).numpy()

    start = torch.cat([torch.full((d,), 1 / d).to(one.a), one.a.flatten(), one.w.flatten()])
    found = solve_ivp(speed, (0, 1), start.numpy(), method="DOP853", rtol=1e-10, atol=1e-12)
    Q = [c.a.mT @ (p[:, None] * c.a) for p, c in map(parts, (found.y[:, 0], found.y[:, -1]))]
    return float((Q[1] - Q[0]).abs().max())


@claim(
    "escape-time",
    title="How long a saddle holds",
    box="prop-hold",
    standing=Standing.PROVED,
    paper="Descent",
    number="Proposition",
    statement=r"From a saddle of largest growth exponent $\lambda$, perturbed by $\varepsilon$, "
    r"Euler's steps of length $\tau$ escape after a time "
    r"$\frac{\tau}{\ln(1+\lambda\tau)}\ln\frac1\varepsilon+O(1)$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "the slope of the flow, for long steps": {"exact": False},
        "the second exponent": {"which": -2},
    },
)
def escape_time(exact: bool = True, which: int = -1) -> Evidence:
    """A total saddle of 60 neurons, both kinds of noise, eight draws each of sizes 10^-4 and 10^-10."""
    population, start = taught()[0], resting()
    rate = float(torch.linalg.eigvalsh(MODEL.escape_matrix(start, population))[which])
    worst, numbers = 0.0, {"exponent": rate}
    for dt, steps in ((0.004, 90), (0.02, 35)):
        slope = dt / math.log1p(rate * dt) if exact else 1 / rate
        for length in (None, 3.0):
            time = escapes(at_sizes(start, [4, 10], 8, length), dt, steps)
            found = float((time[1] - time[0]).mean()) / math.log(1e6)
            numbers[f"slope_{'smooth' if length else 'independent'}_{dt:g}"] = found
            worst = max(worst, abs(found / slope - 1))
        numbers[f"predicted_{dt:g}"] = slope
    return Evidence(
        {"the slope is the one predicted, to four percent": worst < 0.04},
        numbers | {"largest_relative_error": worst},
    )


def growing(start: Neurons) -> Neurons:
    """The mode at a saddle that grows fastest, of mean square one: by powers of the flow's derivative."""
    population = taught()[0]
    mode = Neurons(*(draws.normal(0, name, x.shape) for name, x in zip("aw", start, strict=True)))
    for _ in range(80):
        near = Neurons(*(x + 1e-6 * v for x, v in zip(start, mode, strict=True)))
        speed = MODEL.velocities(near, population)
        size = (sum(v.square().sum() for v in speed) / len(start.a)).sqrt()
        mode = Neurons(*(v / size for v in speed))
    return mode


def component(start: Neurons, noisy: Neurons, mode: Neurons) -> Tensor:
    """How much of the mode is in a disturbance."""
    parts = zip(start, noisy, mode, strict=True)
    return sum(((y - x) * v).sum((-2, -1)) for x, y, v in parts) / len(start.a)


def share(start: Neurons, mode: Neurons, length: float | None) -> float:
    """The standard deviation that noise of size one gives the mode: independent, or smooth."""
    theta, d = torch.cat(tuple(start), -1), len(start.a)
    apart = torch.cdist(theta, theta).square()
    K = torch.eye(d).to(theta) if length is None else torch.exp(-apart / (2 * length**2))
    return float(sum((v * (K @ v)).sum() for v in mode).sqrt()) / d


@claim(
    "smooth-noise-escapes-sooner",
    title="Smooth noise in wide clouds",
    box="prop-noise",
    standing=Standing.PROVED,
    uses=("prop-hold",),
    paper="Descent",
    number="Proposition",
    statement=r"Of independent noise the mode that grows gets the share $\varepsilon/\sqrt d$, of a "
    r"smooth field $\varepsilon s$ with an $s$ that does not vanish in wide clouds: from these the "
    r"smooth field escapes sooner, by $\frac1\lambda\ln(s\sqrt d)$ in the mean.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "independent noise twice": {"length": None},
        "the share of a mean": {"power": 1.0},
        "the mode's part not counted": {"counted": False},
    },
)
def smooth_noise(length: float | None = 3.0, power: float = 0.5, counted: bool = True) -> Evidence:
    """Clouds of 20 and 200 neurons: the mode's part in 4000 draws of each noise and of a field twice
    as smooth, and when six draws of size 10^-8 escape, in units of 1/λ and but for the logarithm of
    that part."""
    population, gains, errors, apart = taught()[0], [], [], []
    for pairs, dt, steps in ((10, 0.004, 120), (100, 0.001, 80)):
        start = resting(pairs)
        mode, d = growing(start), 2 * pairs
        rate = float(torch.linalg.eigvalsh(MODEL.escape_matrix(start, population))[-1])
        # at the length 3 the share is near its largest, and the same for lengths about it
        smoother = flows.perturbed(start, 1.0, 2, length=6.0, runs=4000)
        found = float(component(start, smoother, mode).std())
        errors.append(abs(found / share(start, mode, 6.0) - 1))
        shares, due = (d**-power, share(start, mode, length)), []
        for seed, (field, wanted) in enumerate(zip((None, length), shares, strict=True)):
            many = flows.perturbed(start, 1.0, seed, length=field, runs=4000)
            errors.append(abs(float(component(start, many, mode).std()) / wanted - 1))
            noisy = flows.perturbed(start, 1e-8, seed, length=field, runs=6)
            time = escapes(noisy, dt, steps) * math.log1p(rate * dt) / dt
            due.append(time + counted * component(start, noisy, mode).abs().log())
        gains.append(math.log(shares[1] / shares[0]))
        apart.append(abs(float(due[0].mean() - due[1].mean())))
    return Evidence(
        {
            "either noise gives the mode the share foreseen, to five per cent": max(errors) < 0.05,
            "both escape when the mode has grown to one size, to a quarter of 1/λ": max(apart)
            < 0.25,
            "in the wide cloud the smooth field is sooner, by more than a half": gains[1] > 0.5,
        },
        {
            "gain_20_neurons": gains[0],
            "gain_200_neurons": gains[1],
            "largest_error_of_a_share": max(errors),
            "largest_difference_of_times": max(apart),
        },
    )


@claim(
    "improvement-rate",
    theorem="improvement-rate",
    paper="Descent",
    number="Theorem",
    statement=r"$\dot{\mathcal L}\le-\|\Sigma_\zeta B\|_*^2/\|a^\circ\|^2$, with the outer weights "
    r"of least norm that make $f^\circ$ of the cloud's neurons.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"half the squared norm": {"share": 0.5}},
)
def improvement(share: float = 1.0) -> Evidence:
    """Forty clouds with the teachers' inner weights among theirs, before and after 200 steps."""
    outcomes, best, population = [], 0.0, taught()[0]
    for steps in (1, 200):
        for d in (4, 30):
            cloud = with_teachers(TANH, d, 20, steps)
            outcomes.append(theorems.get("improvement-rate")(TANH, cloud, population).against())
            best = max(best, float(outcomes[-1].conclusions[0].sharpness.max()))
    return Evidence.of(
        outcomes,
        conclusions={"the norm can be so small": best <= share},
        largest_share_of_the_dissipation=best,
    )


@claim(
    "improvement-by-birth",
    theorem="improvement-by-birth",
    paper="Descent",
    number="Theorem",
    statement=r"With birth and death at the rate $\gamma$, and $d\mu^\circ/d\mu\le\rho$, "
    r"$\dot{\mathcal L}\le-\frac\gamma\rho(\mathrm{tr}\,B\Sigma_\zeta)^2$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"half the density": {"times": 2.0}},
)
def by_birth(times: float = 1.0) -> Evidence:
    """Forty clouds that hold the three teachers among 4 and 30 neurons."""
    population, teachers = taught()
    outcomes, best = [], 0.0
    for d in (4, 30):
        cloud = TANH.init(population, d=d, seed=1, runs=20)
        a, w = cloud.a.clone(), cloud.w.clone()
        a[:, :3], w[:, :3] = teachers
        start = (TANH, Neurons(a, w), population, None, teachers)
        outcomes.append(theorems.get("improvement-by-birth")(*start).against())
        best = max(best, float(outcomes[-1].conclusions[0].sharpness.max()))
    return Evidence.of(
        outcomes,
        conclusions={"the density can be so small": times * best <= 1},
        largest_share_of_the_dissipation=best,
    )


def one_input_each(share: float = 0.99, d: int = 4) -> tuple[Neurons, Population]:
    """Neurons of which each answers to one input alone, and one feature, of which little is learned.

    The loss is this share of what it is where nothing is.
    """
    eye = torch.eye(d, dtype=torch.float64)
    true, other = d**0.5 * torch.linalg.qr(draws.normal(4, "true", (d, 2)))[0].mT[..., None]
    a = (1 - share) ** 0.5 * true + share**0.5 * other
    return Neurons(a, eye), Population(eye, true)


@claim(
    "frozen-rate",
    theorem="frozen-rate",
    paper="Descent",
    number="Theorem",
    statement=r"With $w$ frozen and $\mathcal L_0<\underline r/2$, while $\Sigma$ is invertible "
    r"$\mathcal L(t)\le[1/\mathcal L_0+4(\underline r-2\mathcal L_0)t/(\|a^\circ\|^2R_1^2)]^{-1}$, "
    r"and the factor $4$ cannot be larger.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"a rate 1.02 times as large": {"times": 1.02}},
)
def frozen(times: float = 1.0) -> Evidence:
    """Clouds of 4 neurons whose loss is below r/2, to time 30; and one to time 4 whose neurons answer
    to one input each."""
    of, population = theorems.get("frozen-rate"), taught()[0]
    drawn = with_teachers(TANH, 4, 24, 100)
    low = TANH.loss(drawn, population) < 0.24
    cloud = Neurons(*(part[low] for part in drawn))
    report = of(TANH, cloud, population, dt=0.02, steps=1500)
    sharp = of(TANH, *one_input_each(), dt=2e-3, steps=2000)
    outcomes = [each.against() for each in (report, sharp)]
    gained = [each.conclusions[0].right[-1] for each in outcomes]
    best = float(outcomes[1].conclusions[0].sharpness)
    slack = report["c"] * 30 / gained[0]
    return Evidence.of(
        outcomes,
        conclusions={"the rate can be so large": times * best <= 1 + 1e-9},
        hypotheses={
            "the loss falls to less than a tenth": all(
                bool((more * of["L_0"] > 9).all())
                for more, of in zip(gained, (report, sharp), strict=True)
            )
        },
        median_first_loss=float(report["L_0"].median()),
        median_last_loss=float((1 / (1 / report["L_0"] + gained[0])).median()),
        median_share_of_the_growth_promised=float(slack.median()),
    )


@claim(
    "kim2024-avoids-saddles",
    title="Almost always, saddles are avoided",
    box="eq-wasserstein",
    standing=Standing.CITED,
    paper=PAPER,
    number="Abstract",
    statement="Wasserstein gradient flow almost always avoids saddle points.",
    verdict=Verdict.OPEN,
    chapter=CHAPTER,
    mutations={"the saddle itself": {"size": 0.0}},
)
def avoids_saddles(size: float = 1e-4) -> Evidence:
    """What is checked: 64 perturbations of a total saddle, half of them smooth, all leave it."""
    start, left = resting(), []
    for length in (None, 3.0):
        noisy = flows.perturbed(start, size, 0, length=length, runs=32)
        left.append(escapes(noisy, 0.02, 16).isfinite())
    return Evidence(
        {"all 64 leave": bool(torch.cat(left).all())},
        {"left": float(torch.cat(left).sum()), "runs": 64},
    )


@claim(
    "no-long-plateaus",
    title="After the saddle, no plateaus",
    standing=Standing.OBSERVED,
    paper="Descent",
    number="Experiment",
    statement=r"From a perturbed total saddle the flow passes the other critical values "
    r"$\frac12\sum_{i\in S}r_i$ without a plateau as long as that at the start.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"the first plateau counted too": {"first": 0.999}},
)
def no_plateaus(first: float = 0.95) -> Evidence:
    """16 clouds of 60 neurons; the longest time that the loss is within a fiftieth of a level."""
    population, start = taught()[0], resting()
    noisy, dt = flows.perturbed(start, 1e-6, 0, runs=16), 0.004
    loss = flows.euler(MODEL, noisy, population, dt=dt, steps=200, every=200).loss
    top = loss[0].mean()
    held = dt * (loss > 0.95 * top).sum(0)
    levels = [L for L in critical_levels((2.25, 1.0, 0.49)) if 0 < L < first * top or first > 0.99]
    longest = torch.stack([dwell(loss, level, dt) for level in levels]).amax(0)
    return Evidence(
        {"no level holds half as long as the saddle": bool((longest < held / 2).all())},
        {
            "time_at_the_saddle": float(held.median()),
            "longest_at_a_level": float(longest.median()),
            "levels": len(levels),
        },
    )


def critical_levels(r: tuple[float, ...]) -> list[float]:
    """Half the sum over every subset."""
    chosen = range(2 ** len(r))
    return sorted({sum(x for i, x in enumerate(r) if s >> i & 1) / 2 for s in chosen})


def dwell(loss: Tensor, level: float, dt: float) -> Tensor:
    """For how long the loss is within a fiftieth of the level."""
    return dt * ((loss - level).abs() < 0.02 * level).sum(0)


def quasi_newton(d: int, run: int) -> tuple[int, int, float, float, int]:
    """A start of d neurons followed by BFGS: width, run, last loss, longest inner weight, steps."""
    population = taught()[0]
    end, found = followed(MODEL, MODEL.init(population, d=d, seed=1, runs=[run]), population)
    longest = torch.linalg.vector_norm(end.w, dim=1).max()
    return d, run, float(found.fun), float(longest), int(found.nit)


def followed(
    model: InContext, start: Neurons, population: Population
) -> tuple[Neurons, OptimizeResult]:
    """Where BFGS ends from the one cloud of the start, and what it says of its way."""
    d, k, D = *start.a.shape[-2:], start.w.shape[-1]

    def cloud(x: np.ndarray) -> Neurons:
        a, w = torch.from_numpy(x).split([d * k, d * D])
        return Neurons(a.view(d, k), w.view(d, D))

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        at = theorems.kim2024.CloudStart(model, cloud(x), population)
        slope = torch.cat([v.flatten() for v in at.speed])
        return float(at.loss), -slope.numpy() / d

    x = torch.cat([part.flatten() for part in start]).numpy()
    options = {"maxiter": 3000, "gtol": 1e-7}
    found = minimize(objective, x, jac=True, method="BFGS", options=options)
    return cloud(found.x), found


@claim(
    "finite-width",
    title="What few neurons cannot do, and where they are trapped",
    standing=Standing.OBSERVED,
    paper="Descent",
    number="Experiment",
    statement="Quasi-Newton descent from 50 starts for each width: three neurons end far above zero "
    "from all of them; six end at zero from some, and from others far above with an inner weight "
    "whose length is beyond ten, in most of them beyond a hundred.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "twelve neurons for six": {"six": 12},
        "twelve neurons for three": {"three": 12},
        "those that find zero for the trapped": {"free": True},
    },
)
def finite_width(three: int = 3, six: int = 6, free: bool = False) -> Evidence:
    """The recorded runs."""
    table = tables.recorded("in-context-widths")["rows"]
    d, loss, longest = (torch.tensor(table[name]) for name in ("d", "loss", "longest"))
    few, some = loss[d == three], loss[d == six]
    trapped = some > 1e-3
    long = longest[d == six][~trapped if free else trapped]
    return Evidence(
        {
            "three neurons never come near zero": bool((few > 0.3).all()),
            "six neurons find zero, and some do not": 0.1 < float(trapped.double().mean()) < 0.9,
            "the trapped have an inner weight beyond ten": bool((long > 10).all()),
            "most of them one beyond a hundred": bool((long > 100).double().mean() > 0.5),
        },
        {
            "best_of_three": float(few.min()),
            "trapped_of_six": int(trapped.sum()),
            "runs": len(some),
        },
    )
