"""Claims of the chapter on convergence to the margin."""

import itertools
import math
from collections.abc import Iterator

import torch
from flint import arb
from torch import Tensor

from ... import margin, problems, steps, theorems
from ...models import Selection, SelectionWeights
from ...problems import Problem
from ...statistics import interval
from ...theorems import SelectionStart, Standing
from .._certificate import Certain, certify
from .._record import Evidence, Verdict, claim
from ._shared import (
    LAYER,
    along_first,
    bolder,
    norm,
    planted,
    scaled,
    seen,
    slopes,
)

CONVERGENCE = "vasudeva2024/convergence"


@claim(
    "vasudeva2024-progress",
    theorem="vasudeva2024-progress",
    paper="Descent",
    number="Theorem",
    statement=r"With equal non-optimal scores the unit vector $-\nabla\widehat L/\|\nabla\widehat "
    r"L\|$ has a component of at least $1/(B\|W_{mm}\|)$ along $W_{mm}$, at every $W$.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={"2 % more": {"times": 1.02}},
)
def progress(times: float = 1.0) -> Evidence:
    """Four draws of six sequences; and two where it is attained: one sequence of two tokens, and
    two whose differences are 1 and 3 long, of which only the longer one is still heard."""
    sizes = [{"seed": s} for s in range(4)] + [{"seed": 0, "N": 1, "n": 2, "D": 8}]
    problem, u = problems.pairs(torch.diag(torch.tensor([1.0, 3.0])))
    drawn = [*(planted(**size) for size in sizes), (problem, along_first(problem, u, [20.0]))]
    theorem = theorems.get("vasudeva2024-progress")
    outcomes = [theorem(LAYER, *each).trial(300) for each in drawn]
    return Evidence.of(outcomes, conclusions=bolder(outcomes, times))


@claim(
    "vasudeva2024-domination",
    theorem="vasudeva2024-domination",
    paper="Descent",
    number="Theorem",
    statement=r"Where $\min_i m_i \ge -R$, $R = \|W\|/\|W_{mm}\|$, the loss is at most $1 + C/R$ "
    r"times as steep along $W$ as along $W_{mm}$; elsewhere it need not be.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={"beyond the cone": {"inside": False}},
)
def domination(inside: bool = True) -> Evidence:
    """A grid in the plane of each of five pairs of sequences, lengths up to 100; and one sequence
    of twelve tokens, ten of them alike."""
    theorem, outcomes = theorems.get("vasudeva2024-domination"), []
    pairs = [in_the_plane(angle) for angle in (30, 60, 100, 130, 160)]
    for problem, start in [*pairs, crowd(12)] if inside else pairs:
        at = SelectionStart(LAYER, problem, start)
        kept = (-at.m(start.W).amin(-1) <= at.R(start.W)) == inside
        outcomes.append(theorem(LAYER, problem, start._replace(W=start.W[kept])).against())
    return Evidence.of(outcomes)


def in_the_plane(angle: float) -> tuple[Problem, SelectionWeights]:
    """A_1 = (1, 0), A_2 of length 1.5 at ``angle``; W on 12 circles, all around and near W_mm."""
    a = math.radians(angle)
    problem, u = problems.pairs(
        torch.tensor([[1, 0], [1.5 * math.cos(a), 1.5 * math.sin(a)]], dtype=torch.float64)
    )
    mm = margin.svm(problem, u).W[:2, 2]
    around = torch.arange(90, dtype=torch.float64) * 2 * torch.pi / 90
    radius = torch.logspace(-1, 2, 12, dtype=torch.float64)[:, None]
    near = torch.atan2(mm[1], mm[0]) + torch.linspace(-4, 4, 81, dtype=torch.float64) / radius
    phi = torch.cat([around.expand(12, 90), near], 1)
    W = torch.zeros(12, 171, 3, 3, dtype=torch.float64)
    W[..., 0, 2], W[..., 1, 2] = radius * phi.cos(), radius * phi.sin()
    return problem, LAYER.init(problem, seed=0, u=u)._replace(W=W.flatten(0, 1))


def crowd(n: int) -> tuple[Problem, SelectionWeights]:
    """One sequence with A_1 = (1, 0) and n - 2 times (1, 1), and W near the multiples of W_mm = A_1.

    There log(n - 1) counts: beside W_mm all those tokens are further from being chosen.
    """
    X = torch.tensor([[0, 0, 1], [1, 0, 1], [0, -1, 1]], dtype=torch.float64)
    problem = Problem(X[[0, 1] + [2] * (n - 2)][None], torch.ones(1, dtype=torch.float64))
    far, beside = torch.logspace(0, 3, 20), torch.linspace(0, 6, 13)
    W = torch.zeros(20 * 13, 3, 3, dtype=torch.float64)
    W[:, :2, 2] = torch.cartesian_prod(far, beside).to(W)
    return problem, SelectionWeights(W, torch.eye(3, dtype=torch.float64)[0])


@claim(
    "vasudeva2024-rate",
    theorem="vasudeva2024-rate",
    paper="Descent",
    number="Theorem",
    statement=r"Normalised descent with a constant length of step, if it stays in the cone, has "
    r"$\|W_t\|$ growing linearly and $1 - \mathrm{corr}_t = O(\log t/t)$, with the constant; "
    r"where no two $A_{it}$ point against each other it stays there from every start.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={"two sequences that push each other, from far along one": {"push": True}},
)
def rate(push: bool = False) -> Evidence:
    """Orthonormal tokens, three draws of four sequences, eight starts each of lengths 3 and 15."""
    theorem, outcomes, falls = theorems.get("vasudeva2024-rate"), [], []
    for seed in range(3):
        problem, u = problems.trap() if push else problems.orthonormal_tokens(4, 3, 14, seed)
        for scale in (3.0, 15.0):
            start = LAYER.init(problem, seed=seed, runs=8, scale=scale, u=u)
            start = along_first(problem, u, [10.0]) if push else start
            outcomes.append(theorem(LAYER, problem, start).trial(600))
            W = outcomes[-1].run.watched["weights"].W[20:]
            t = torch.tensor(outcomes[-1].run.at[20:], dtype=torch.float64)
            missing = 1 - outcomes[-1].report.start.mm.correlation(W)
            falls.append(float(slopes(t, missing).max()))
    return Evidence.of(
        outcomes,
        conclusions={"1 - corr falls at least like 1/t, from 150 to 600 steps": max(falls) < -0.9},
        slowest_exponent=max(falls),
    )


@claim(
    "vasudeva2024-monotone",
    title="Gaps that never fall",
    box="lem-monotone",
    standing=Standing.PROVED,
    paper="Descent",
    number="Lemma",
    statement=r"If $\langle A_{it}, A_{j\tau}\rangle \ge 0$ for all pairs and non-optimal scores are "
    r"equal, no gap ever decreases, from any start and with any steps.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={"Gaussian tokens in twelve dimensions": {"orthonormal": False}},
)
def monotone(orthonormal: bool = True) -> Evidence:
    """Three draws, eight starts of length 10, normalised and plain descent, every step looked at."""
    falls, pushes = [], []
    for seed in range(3):
        if orthonormal:
            problem, u = problems.orthonormal_tokens(4, 3, 14, seed)
        else:
            problem, u = problems.planted(4, 3, 12, seed)
        start = LAYER.init(problem, seed=seed, runs=8, scale=10.0, u=u)
        at = SelectionStart(LAYER, problem, start)
        pushes.append(float(-at.gram.amin()))
        for step, layer in ((steps.normalised(0.3), LAYER), (5.0, Selection())):
            W, _ = seen(problem, start, step, range(201), layer)
            falls.append(float(-at.gaps(W).diff(dim=0).amin()))
    return Evidence(
        conclusions={"no gap falls": max(falls) < 1e-12},
        numbers={"largest_fall_of_a_gap": max(falls), "runs": 48},
        hypotheses={"no two point against each other": max(pushes) < 1e-12},
    )


@claim(
    "vasudeva2024-polyak",
    theorem="vasudeva2024-polyak",
    paper="Descent",
    number="Theorem",
    statement=r"Where all $m_i \ge -M$, Polyak's step has a length between $\lambda/(\rho B)$ and "
    r"$\lambda\rho\|W_{mm}\|/\sigma(-M)$, so that normalised descent's rate holds for it.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={"M taken for zero": {"M": 0.0}},
)
def polyak(M: float | None = None) -> Evidence:
    """Orthonormal tokens, three draws, eight starts each of lengths 3 and 15, 300 steps."""
    from ...theorems.vasudeva2024.convergence import polyak_lengths, step_lengths

    theorem, outcomes, over = theorems.get("vasudeva2024-polyak"), [], 0.0
    for seed in range(3):
        problem, u = problems.orthonormal_tokens(4, 3, 14, seed)
        for scale in (3.0, 15.0):
            start = LAYER.init(problem, seed=seed, runs=8, scale=scale, u=u)
            outcomes.append(theorem(LAYER, problem, start).trial(300))
            report = outcomes[-1].report
            deep = report.constants["M"] if M is None else torch.tensor(M, dtype=torch.float64)
            _, longest = polyak_lengths(report.start, report.constants["ρ"], deep)
            over = max(over, float((step_lengths(report.start, outcomes[-1].run) / longest).max()))
    return Evidence.of(
        outcomes,
        conclusions={"no step is longer than the constant": over <= 1 + 1e-6},
        longest_step_over_constant=over,
    )


@claim(
    "vasudeva2024-polyak-jump",
    title="Polyak's step needs more than the cone",
    box="eq-jump",
    standing=Standing.PROVED,
    paper="Descent",
    number="Theorem, its hypothesis",
    statement=r"From $W_0 = 20A_1$, on the boundary of the cone of $A_1 = (1, 0)$ and $A_2 = "
    r"(-\frac12, \frac{\sqrt3}2)$, one step of Polyak's with $\lambda = \frac12$ goes to a length "
    r"between 8 358 and 8 359, where both maps are saturated, one at the wrong token, and the next "
    r"is longer than $e^{4162}$.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={"from 2 A_1": {"length": 2.0}, "from 21 A_1": {"length": 21.0}},
)
def polyak_jump(length: float = 20.0) -> Evidence:
    """One start: two Polyak steps in ball arithmetic, one in float64, 4000 normalised ones."""
    a = torch.tensor([[1, 0], [-0.5, 0.75**0.5]], dtype=torch.float64)
    problem, u = problems.pairs(a)
    start = along_first(problem, u, [length])
    at = SelectionStart(LAYER, problem, start)
    jumped = seen(problem, start, steps.polyak_of_logarithm(0.5), [1])[0][0]
    calm = seen(problem, start, steps.normalised(0.2), [4000])[0][0]
    far = float(norm(jumped))
    return Evidence(
        conclusions={each.name: each.holds for each in jump(length)}
        | {"float64 goes to the same length": 8358 < far < 8359},
        numbers={
            "length_after_one_step": far,
            "correlation_then": float(at.mm.correlation(jumped)),
            "correlation_of_normalised_descent": float(at.mm.correlation(calm)),
        },
        hypotheses={
            "the start is in the cone": float(-at.m(start.W).amin()) <= float(at.R(start.W))
        },
    )


def jump(length: float) -> list[Certain]:
    """What is said of two of Polyak's steps from a start along A_1, in ball arithmetic."""

    def found() -> list[Certain]:
        (along, across), _ = polyak_step(arb(length), arb(0))
        _, second = polyak_step(along, across)
        reached = (along**2 + across**2).sqrt()
        return [
            Certain("the first step goes beyond 8 358", arb(8358), reached),
            Certain("and not to 8 359", reached, arb(8359)),
            Certain("one soft margin is then below -4 000", along, arb(-4000)),
            Certain("the other above 8 000", arb(8000), across * arb(3).sqrt() / 2 - along / 2),
            Certain("the second step is longer than e^4162", arb(4162), second.log()),
        ]

    return certify(found)


def polyak_step(along: arb, across: arb) -> tuple[tuple[arb, arb], arb]:
    """Where Polyak's step of factor 1/2 leads from this point of the plane, and its length.

    Two sequences of two tokens with the differences A_1 = (1, 0) and A_2 = (-1, sqrt 3)/2 and the
    scores 0 and 1, logistic loss.
    """
    A = ((arb(1), arb(0)), (-arb(1) / 2, arb(3).sqrt() / 2))
    gaps = [x * along + y * across for x, y in A]
    limit = (1 + arb(-1).exp()).log()
    excess = sum(((1 + (-sigmoid(g)).exp()).log() - limit for g in gaps), arb(0)) / 2
    pulls = [sigmoid(-sigmoid(g)) * sigmoid(g) * sigmoid(-g) / 2 for g in gaps]
    down = [sum((c * a[k] for c, a in zip(pulls, A, strict=True)), arb(0)) for k in (0, 1)]
    size = (down[0] ** 2 + down[1] ** 2).sqrt()
    step = excess / 2 / size**2
    return (along + step * down[0], across + step * down[1]), step * size


def sigmoid(x: arb) -> arb:
    """The logistic sigmoid."""
    return 1 / (1 + (-x).exp())


@claim(
    "vasudeva2024-polyak-length",
    title="The length of Polyak's step in the limit",
    standing=Standing.OBSERVED,
    uses=("thm-sharp-law",),
    paper="Descent",
    number="Exercise",
    statement=r"Where the sharp law holds and $\lambda\,\lambda_{\max}(H) < 2$, Polyak's step with the "
    r"factor $\lambda$ has a length that tends to $\lambda\|W_{mm}\|$.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={"2 % more": {"times": 1.02}, "factors beyond the threshold": {"factors": (2.0,)}},
)
def polyak_length(times: float = 1.0, factors: tuple[float, ...] = (0.5, 1.0)) -> Evidence:
    """Four draws, four starts each, the factors 1/2 and 1, after 300 steps."""
    off, below = 0.0, True
    for seed in range(4):
        problem, start = planted(seed)
        at = SelectionStart(LAYER, problem, start)
        length, below = at.length, below and max(factors) * float(at.length) < at.largest_eta
        for factor in factors:
            W, _ = seen(problem, start, steps.polyak_of_logarithm(factor), [300, 301])
            off = max(off, float((norm(W[1] - W[0]) / (times * factor * length) - 1).abs().max()))
    return Evidence(
        conclusions={"to 0.1 %": off < 1e-3},
        numbers={"largest_deviation": off, "runs": 32},
        hypotheses={"the factors are below the threshold": bool(below)},
    )


def all_active(count: int) -> Iterator[tuple[Problem, SelectionWeights]]:
    """The first draws whose constraints are all active, as the sharp law asks, four starts each."""
    drawn = map(planted, itertools.count())
    met = (each for each in drawn if bool((SelectionStart(LAYER, *each).alpha > 0).all()))
    return itertools.islice(met, count)


def uneven(count: int, spread: float = 1.0) -> Iterator[tuple[Problem, SelectionWeights]]:
    """Orthonormal tokens whose optimal scores are 1, -1 and 4, four starts each.

    ``spread`` multiplies what the scores of the sequences differ by.
    """
    for seed in range(count):
        problem, _ = problems.orthonormal_tokens(3, 3, 14, seed)
        u = with_scores(problem, spread * torch.tensor([0.0, -2.0, 3.0], dtype=torch.float64))
        yield problem, LAYER.init(problem, seed=seed + 1, runs=4, scale=3.0, u=u)


@claim(
    "vasudeva2024-sharp-law",
    theorem="vasudeva2024-sharp-law",
    paper="Descent",
    number="Theorem",
    statement=r"If all $A_{it}$ are linearly independent and active with positive duals, "
    r"$\|\overline W - \overline W_{mm}\|\,\|W\| \to K$ along every flow with all $m_i \to \infty$, "
    r"with $K$ computed from the start and the data; normalised and Polyak steps below their "
    r"threshold are seen to agree.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={
        "2 % more": {"times": 1.02},
        "without what the start leaves": {"start": False},
        "without the data's part": {"data": False},
        "slopes of equal scores": {"spread": 0.0},
    },
)
def sharp_law(
    times: float = 1.0, start: bool = True, data: bool = True, spread: float = 1.0
) -> Evidence:
    """Three draws and two of orthonormal tokens whose scores differ between sequences, four
    Gaussian starts each, normalised steps of 0.3 and Polyak's."""
    theorem, outcomes, off = theorems.get("vasudeva2024-sharp-law"), [], 0.0
    given = [*all_active(3), *uneven(2)]
    for (problem, weights), judged in zip(given, [*given[:3], *uneven(2, spread)], strict=True):
        outcomes.append(theorem(LAYER, problem, weights, eta=0.3).trial(1500))
        W = seen(problem, weights, steps.polyak_of_logarithm(0.5), [600])[0][-1]
        at = SelectionStart(LAYER, *judged)
        rest = (at.K.square() - at.unseen.square()).clamp_min(0)
        K = times * (start * at.unseen.square() + data * rest).sqrt()
        both = torch.stack([scaled(at, outcomes[-1].run.weights.W), scaled(at, W)])
        off = max(off, float((both / K - 1).abs().max()))
    return Evidence.of(
        outcomes,
        conclusions={"both rules meet K within half a per cent": off < 5e-3},
        largest_deviation_from_K=off,
    )


@claim(
    "vasudeva2024-threshold",
    title="How long a normalised step may be",
    box="eq-threshold",
    standing=Standing.OBSERVED,
    uses=("thm-sharp-law",),
    paper="Descent",
    number="Equation, to first order",
    statement=r"The limit of the sharp law is stable under normalised descent if and only if "
    r"$\eta\,\lambda_{\max}(H) < 2\|W_{mm}\|$; just above, the error times the length alternates.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={
        "half the threshold": {"times": 0.5},
        "twice the threshold": {"times": 2.0},
        "just below for just above": {"above": 0.98},
    },
)
def threshold(times: float = 1.0, above: float = 1.03) -> Evidence:
    """Six pairs of sequences at acute angles, five lengths of step from half to 1.5 of it."""
    shares = torch.tensor([0.5, 0.9, 0.97, above, 1.5], dtype=torch.float64)
    settled, expected, cycles, swings = [], [], [], []
    for length, angle in ((0.7, 60), (0.6, 65), (0.8, 45), (1.1, 60), (1.3, 50), (1.5, 70)):
        a = math.radians(angle)
        second = [length * math.cos(a), length * math.sin(a)]
        problem, u = problems.pairs(torch.tensor([[1, 0], second], dtype=torch.float64))
        start = along_first(problem, u, [0.1] * 5)
        at = SelectionStart(LAYER, problem, start)
        eta = shares * at.largest_eta
        W, _ = seen(problem, start, steps.normalised(lambda t, e=eta: e), [1998, 1999, 2000])
        last = scaled(at, W)
        settled.append((last / at.K - 1).abs().amax(0) < 1e-4)
        cycles.append(float((last[2, 3] / last[0, 3] - 1).abs()))
        swings.append(float((last[1, 3] / last[0, 3] - 1).abs()))
        expected.append(eta < times * at.largest_eta)
    wrong = int((torch.stack(settled) != torch.stack(expected)).sum())
    return Evidence(
        conclusions={
            "runs settle on K below the threshold, and only there": wrong == 0,
            "just above they alternate between two values": max(cycles) < 1e-6 < 0.1 < min(swings),
        },
        numbers={"runs_on_the_wrong_side": wrong, "least_swing": min(swings), "runs": 30},
    )


@claim(
    "vasudeva2024-exponents",
    title="What a rule's steps buy",
    box="thm-sharp-law",
    standing=Standing.OBSERVED,
    uses=("thm-sharp-law",),
    paper="Descent",
    number="Figure",
    statement=r"The error of the direction falls like $t^{-1}$ for normalised steps of constant "
    r"length and for Polyak's, and like $t^{p-1}$ for lengths $t^{-p}$: exponents within 0.05.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={"three quarters of the exponent": {"times": 0.75}},
)
def exponents(times: float = 1.0) -> Evidence:
    """Eight draws, Gaussian starts, the last decade of 2 000 steps of each rule."""
    start = [planted(seed, runs=1) for seed in range(8)]
    problem = Problem(*(torch.stack([getattr(p, name) for p, _ in start]) for name in "Xy"))
    mm = torch.stack([SelectionStart(LAYER, *each).mm.direction for each in start])
    weights = start[0][1]._replace(W=torch.cat([w.W for _, w in start]), u=start[0][1].u[0])
    at = [round(200 * 10 ** (k / 15)) for k in range(16)]
    rules = {
        1.0: [steps.normalised(0.5), steps.polyak_of_logarithm(0.5)],
        0.5: [steps.normalised(lambda t: 2 * (t + 1) ** -0.5)],
        1 / 3: [steps.normalised(lambda t: 2 * (t + 1) ** (-2 / 3))],
    }
    off, wide = [], []
    for exponent, each in rules.items():
        for rule in each:
            W, _ = seen(problem, weights, rule, at)
            error = norm(W / norm(W)[..., None, None] - mm)
            fits = slopes(torch.tensor(at, dtype=torch.float64), error)
            off.append(float((fits.mean() + times * exponent).abs()))
            wide.append(interval(fits)[1])
    return Evidence(
        conclusions={"all exponents within 0.05": max(off) < 0.05},
        numbers={"largest_deviation": max(off), "widest_interval": max(wide), "runs": 32},
    )


@claim(
    "vasudeva2024-floor",
    title="What no step removes",
    box="prop-floor",
    standing=Standing.PROVED,
    paper="Descent",
    number="Proposition",
    statement=r"Under every rule the error of the direction is at least $\|W_0^\perp\|/\|W_t\|$, "
    r"with $W_0^\perp$ the part of the start orthogonal to all $A_{it}$; for any scores.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={"all of the start": {"whole": True}},
)
def floor(whole: bool = False) -> Evidence:
    """Equal scores and unequal ones, four draws each, two rules, eight looks."""
    least, runs = math.inf, 0
    for seed in range(4):
        for draw in (problems.planted, problems.unit_tokens):
            problem, u = draw(4, 3, 5, seed)
            start = LAYER.init(problem, seed=seed, runs=4, scale=3.0, u=u)
            at = SelectionStart(LAYER, problem, start)
            part = norm(start.W) if whole else at.unseen
            for step in (steps.normalised(0.3), 0.1):
                W, _ = seen(problem, start, step, range(25, 201, 25))
                least, runs = min(least, float((scaled(at, W) / part).min())), runs + 4
    return Evidence(
        conclusions={"the error times the length never falls below": least > 1 - 1e-9},
        numbers={"least_over_bound": least, "runs": runs},
    )


@claim(
    "vasudeva2024-log-time",
    title="Descent in logarithmic time",
    box="thm-sharp-law",
    standing=Standing.PROVED,
    uses=("thm-sharp-law",),
    paper="Descent",
    number="in the proof of the sharp law",
    statement=r"Where the sharp law holds, $\|W\|/\log t \to \|W_{mm}\|$ in the time of gradient "
    r"flow, and the error of the direction times $\log t$ tends to $K/\|W_{mm}\|$.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={"a tenth more": {"times": 1.1}},
)
def log_time(times: float = 1.0) -> Evidence:
    """Three draws, four starts each, steps of 0.2 on the logarithm of the excess, its clock added up."""
    growth, law, clocks = 0.0, 0.0, []
    for problem, weights in all_active(3):
        at = SelectionStart(LAYER, problem, weights)
        W, run = seen(problem, weights, 0.2, [2500])
        clock = (math.log(0.2) - run.loss[:-1]).logsumexp(0)
        length = times * at.length
        growth = max(growth, float((norm(W[-1]) / clock / length - 1).abs().max()))
        error = at.mm.error(W[-1]) * clock * length / at.K
        law, clocks = max(law, float((error - 1).abs().max())), [*clocks, float(clock.min())]
    return Evidence(
        conclusions={
            "the length over log t is that of W_mm, to 2 %": growth < 0.02,
            "the error times log t is K over it, to 2 %": law < 0.02,
        },
        numbers={"log_of_time": min(clocks), "deviation_of_length": growth, "runs": 12},
    )


@claim(
    "vasudeva2024-aligned",
    title="Aligned from the first step",
    standing=Standing.OBSERVED,
    paper="Descent",
    number="Exercise",
    statement=r"For orthonormal tokens with the same two scores in every sequence, descent from "
    r"$W_0 = 0$ has the direction of $W_{mm}$ after every step; equal gaps alone do not suffice.",
    verdict=Verdict.HOLDS,
    chapter=CONVERGENCE,
    mutations={"other scores that differ between sequences": {"base": (0.0, -2.0, 3.0)}},
)
def aligned(base: tuple[float, ...] = (0.5, 0.5, 0.5)) -> Evidence:
    """Five draws of three sequences of three tokens, normalised and plain descent, 30 steps."""
    least = 1.0
    for seed in range(5):
        problem, _ = problems.orthonormal_tokens(3, 3, 9, seed)
        u = with_scores(problem, torch.tensor(base, dtype=torch.float64))
        start = LAYER.init(problem, seed=0, scale=0, u=u)
        at = SelectionStart(LAYER, problem, start)
        for step, layer in ((steps.normalised(0.3), LAYER), (1.0, Selection())):
            W, _ = seen(problem, start, step, range(1, 31), layer)
            least = min(least, float(at.mm.correlation(W).min()))
    return Evidence(
        conclusions={"aligned after every step, to 1e-12": least > 1 - 1e-12},
        numbers={"one_minus_least_correlation": 1 - least, "runs": 10},
    )


def with_scores(problem: Problem, base: Tensor) -> Tensor:
    """The decoder by which orthonormal tokens score ``base`` (N), the second of each one more."""
    gamma = base[:, None] + (torch.arange(problem.n) == 1)
    return ((problem.y[:, None] * gamma)[..., None] * problem.X).sum((0, 1))
