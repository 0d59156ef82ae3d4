"""Both sides of the part's inequalities, computed again in plain numbers.

Every neuron answers to one input of its own, and each feature has inputs of its own, so that all
matrices are diagonal and every number is a sum of a few products.
"""

import math

import pytest
import torch

from descent import theorems
from descent.models import InContext, LinearAttention, linear_attention
from descent.models.encoder import Activation
from descent.models.in_context import Neurons, Population
from descent.models.linear_attention import SeparateWeights
from descent.theorems.kim2024 import CloudStart

LINEAR = InContext(Activation(lambda Z: Z, torch.ones_like))
#: Of the four neurons: mass, answer, and outer weight; those of the first feature are even ones.
MASS, ANSWER, OUTER = (0.1, 0.2, 0.3, 0.4), (1.5, 0.5, 2.0, 1.0), (1.0, 3.0, -0.5, 2.0)
#: The true feature at each input.
TRUE = (-1.0, 1.4, 1.0, 1.9)
FEATURES = ((0, 2), (1, 3))


def double(values):
    """In float64 from the start: by way of float32 a tenth is not one."""
    return torch.tensor(values, dtype=torch.float64)


def diagonal(values):
    """A row for each neuron or input, its number in the column of its feature."""
    rows = torch.zeros(4, 2, dtype=torch.float64)
    for j, value in enumerate(values):
        rows[j, j % 2] = value
    return rows


def cloud(outer=OUTER, answer=ANSWER, true=TRUE):
    eye = torch.eye(4, dtype=torch.float64)
    w = double(answer)[:, None] * eye
    return LINEAR, Neurons(diagonal(outer), w), Population(eye, diagonal(true))


def plain(mass=MASS, outer=OUTER, answer=ANSWER, true=TRUE):
    """Sigma, C, B and the residual's second moment of each feature; zeta and the pull of each neuron."""
    h = [p * s * a for p, s, a in zip(mass, answer, outer, strict=True)]
    Sigma = [sum(h[j] ** 2 for j in of) / 4 for of in FEATURES]
    C = [sum(h[j] * true[j] for j in of) / 4 for of in FEATURES]
    B = [c / s for c, s in zip(C, Sigma, strict=True)]
    zeta = [true[j] - B[j % 2] * h[j] for j in range(4)]
    left = [sum(zeta[j] ** 2 for j in of) / 4 for of in FEATURES]
    pull = [answer[j] * B[j % 2] * zeta[j] / 4 for j in range(4)]
    return h, Sigma, C, B, left, pull


def sides(id, *start):
    """Left and right of every conclusion."""
    outcome = theorems.get(id)(*start).against()
    assert outcome.met.all() and outcome.holds, str(outcome)
    return [
        [x.squeeze().tolist() for x in torch.broadcast_tensors(c.left, c.right)]
        for c in outcome.conclusions
    ]


def near(*values, rel=1e-9):
    return [pytest.approx(value, rel=rel) for value in values]


def test_the_bound_by_what_the_flow_conserves_in_plain_numbers():
    _, Sigma, *_ = plain()
    Q = [sum(MASS[j] * OUTER[j] ** 2 for j in of) for of in FEATURES]
    _, bound = sides("conserved-second-moment", *cloud(), double(MASS))
    assert bound == near(max(x / q for x, q in zip(Sigma, Q, strict=True)), max(ANSWER) ** 2)
    report = theorems.get("conserved-second-moment")(*cloud(), double(MASS))
    assert float(report["λ_max(Q)"]) == pytest.approx(max(Q))


def test_one_neuron_of_constant_answer_attains_that_bound():
    one = torch.ones(1, 1, dtype=torch.float64)
    X = torch.ones(3, 1, dtype=torch.float64)
    start = (
        LINEAR,
        Neurons(3 * one, 0.7 * one),
        Population(X, double([[1.0], [2], [4]])),
    )
    _, (left, right) = sides("conserved-second-moment", *start)
    assert [left, right] == near(0.49, 0.49)


def test_both_sides_of_the_improvement_in_plain_numbers():
    *_, B, left, pull = plain()
    assert B[0] < 0 < B[1] and min(left) > 0.01  # the nuclear norm is no trace
    cost = sum(f**2 / (p * s**2) for f, p, s in zip(TRUE, MASS, ANSWER, strict=True))
    norm = sum(abs(b) * z for b, z in zip(B, left, strict=True))
    (found,) = sides("improvement-rate", *cloud(), double(MASS))
    moving = sum(p * g**2 for p, g in zip(MASS, pull, strict=True))
    assert found == near(norm**2 / cost, moving)


def test_both_sides_of_birth_and_death_in_plain_numbers():
    # the first two neurons teach, each with half of the mass
    true = [a * s / 2 for a, s in zip(OUTER[:2], ANSWER, strict=False)] + [0.0, 0.0]
    model, neurons, population = cloud(true=true)
    *_, B, left, pull = plain(true=true)
    trace = sum(b * z for b, z in zip(B, left, strict=True))
    teachers = Neurons(neurons.a[:2], neurons.w[:2])
    given = model, neurons, population, double(MASS), teachers
    (found,) = sides("improvement-by-birth", *given)
    born = sum(p * (g * a) ** 2 for p, g, a in zip(MASS, pull, OUTER, strict=True))
    assert found == near(trace**2 * 2 * 0.1, born)


def test_the_constants_of_the_explicit_rate_in_plain_numbers():
    # a true feature that is little but learned enough: the loss is below r/2
    true = tuple(x + 0.1 * (-1) ** (j // 2) for j, x in enumerate(plain()[0]))
    h, _, _, B, left, _ = plain(true=true)
    loss, r = sum(left) / 2, min(sum(true[j] ** 2 for j in of) / 4 for of in FEATURES)
    assert loss < r / 2
    Q = max(sum(MASS[j] * OUTER[j] ** 2 for j in of) for of in FEATURES)
    loud = [p * s**2 / 4 for p, s in zip(MASS, ANSWER, strict=True)]
    cost = sum(f**2 / (p * s**2) for f, p, s in zip(true, MASS, ANSWER, strict=True))
    # across h = (h_i, h_j) a feature's answers vary along (h_j, -h_i)
    across = max(
        (loud[i] * h[j] ** 2 + loud[j] * h[i] ** 2) / (h[i] ** 2 + h[j] ** 2) for i, j in FEATURES
    )
    given = *cloud(true=true), double(MASS), None, 0.01, 5
    report, at = theorems.get("frozen-rate")(*given), CloudStart(*given)
    found = [float(report[name]) for name in ("c", "‖a°‖²", "R_1²", "L_0")]
    rate = 4 * (r - 2 * loss) / (cost * max(loud) * Q)
    assert found == near(rate, cost, max(loud) * Q, loss)
    assert float(at.stride) == pytest.approx(0.01 * across * max(b**2 for b in B))
    (grown,) = sides("frozen-rate", *given)
    assert grown[0] == near(*(rate * 0.01 * step for step in range(1, 6)))


def bases(*columns):
    """Features on eight inputs whose coefficients in eight orthonormal functions are given."""
    return torch.stack([double(c) for c in columns], 1) * 8**0.5


def unit(j, size):
    return [size * (i == j) for i in range(8)]


@pytest.mark.parametrize("learned", [0.2, 5.0])
def test_the_curvature_at_a_saddle_in_plain_numbers(learned):
    # two features of second moments 3 and 1 are missing, two others of size 2 idle in their place
    F = bases(unit(0, 3**0.5), unit(1, 1.0), unit(2, 0.5))
    h = bases(unit(3, 2**0.5), unit(4, 2**0.5), unit(2, learned**0.5))
    start = h, Population(F[:, :1], F)
    level, _, bent = sides("kim2024-theorem-3-3", *start)
    assert level == near(0.125, 2.0)
    assert bent == near((3 + 1) ** 2 / (2 * max(2, learned)), (9 + 1) / 2)
    report = theorems.get("critical-values")(*start)
    assert float(report["L"]) == pytest.approx(2.0) and report["|S|"] == 2


@pytest.mark.parametrize("sizes", [(2.0, 4.0), (4.0, 2.0)])
def test_the_largest_missing_feature_takes_the_place_of_the_shortest_idle_one(sizes):
    F = bases(unit(0, 3**0.5), unit(1, 1.0), unit(2, 0.5))
    h = bases(unit(3, sizes[0] ** 0.5), unit(4, sizes[1] ** 0.5), unit(2, 1.0))
    *_, bent = sides("kim2024-theorem-3-3", h, Population(F[:, :1], F))
    assert bent[1] == pytest.approx(9 / 2 + 1 / 4)


def turned():
    """Two features, each turned off the true one by an angle: second moments, sizes and angles."""
    r, size, angle = (1.0, 2.25), (3.0, 0.5), (0.4, 0.3)
    F = bases(*(unit(c, r[c] ** 0.5) for c in (0, 1)))
    h = bases(
        *(
            [
                size[c] ** 0.5 * (math.cos(angle[c]) * (i == c) + math.sin(angle[c]) * (i == c + 2))
                for i in range(8)
            ]
            for c in (0, 1)
        )
    )
    return r, size, angle, (h, Population(F[:, :1], F))


def test_both_bounds_below_the_lowest_saddle_in_plain_numbers():
    r, size, angle, start = turned()
    left = [x * math.sin(t) ** 2 for x, t in zip(r, angle, strict=True)]
    B = [(x / s) ** 0.5 * math.cos(t) for x, s, t in zip(r, size, angle, strict=True)]
    loss = sum(left) / 2
    low = (min(r) - 2 * loss) ** 0.5 / max(size) ** 0.5
    steep = sum(b * z for b, z in zip(B, left, strict=True))
    smallest, slope = sides("accelerated-phase", *start)
    assert smallest == near(low, min(B)) and slope == near(2 * low * loss, steep)


def test_the_loss_along_the_homotopy_that_falls_in_plain_numbers():
    r, _, angle, start = turned()
    losses, bound = sides("monotone-homotopy", *start)[0]
    for i in (0, 30, 90):
        s, d = i / 100, [math.tan(t) ** 2 for t in angle]
        terms = [x * math.sin(t) ** 2 for x, t in zip(r, angle, strict=True)]
        along = sum(x * (1 - s) ** 2 / (1 + s**2 * y) for x, y in zip(terms, d, strict=True)) / 2
        assert [losses[i], bound[i]] == near(along, (1 - s) ** 2 * sum(terms) / 2, rel=1e-8)


def test_the_exponents_of_a_saddle_in_plain_numbers():
    # f° is across h in each feature: nothing is learned
    even = (0.25,) * 4
    h, Sigma, *_ = plain(mass=even)
    true = (h[2], -2 * h[3], -h[0], 2 * h[1])
    model, neurons, population = cloud(true=true)
    r = [sum(true[j] ** 2 for j in of) / 4 for of in FEATURES]
    Q = [sum(0.25 * OUTER[j] ** 2 for j in of) for of in FEATURES]
    # c = f° s / 4 at the input of each neuron, and its slope is f° / 4 at every input
    by_a = [sum(0.25 * (true[j] * ANSWER[j] / 4) ** 2 for j in of) for of in FEATURES]
    known = sorted(
        (x + f / 4 * q) / s
        for x, f in zip(by_a, r, strict=True)
        for q, s in zip(Q, Sigma, strict=True)
    )
    at = theorems.get("escape-spectrum")(model, neurons, population)
    assert at.start.exponents[-4:].tolist() == near(*known, rel=1e-8)
    cost = sum(f**2 / (0.25 * s**2) for f, s in zip(true, ANSWER, strict=True))
    ((promised, largest),) = sides("saddles-of-the-flow", model, neurons, population)
    assert [promised, largest] == near(sum(r) ** 2 / (2 * max(Sigma) * cost), known[-1], rel=1e-8)


def test_the_rates_of_attention_are_attained_along_the_slowest_direction():
    _, Sigma, C, *_ = plain((0.25,) * 4)
    rate = min(abs(c) for c in C) ** 2 * min(Sigma)
    W = torch.diag(1 / double(Sigma))
    row, column = (min((0, 1), key=lambda i, x=x: abs(x[i])) for x in (C, Sigma))
    W[row, column] += 2.0
    start = *cloud(), W
    assert float(theorems.get("kim2024-lemma-3-1")(*start)["ρ"]) == pytest.approx(rate)
    distance, excess, _ = sides("kim2024-lemma-3-1", *start)
    times = torch.linspace(0.2, 5, 25, dtype=torch.float64)
    for found in distance:
        assert found == near(*(2 * torch.exp(-times)).tolist(), rel=1e-5)
    for found in excess:
        assert found == near(*(2 * rate * torch.exp(-2 * times)).tolist(), rel=1e-5)


@pytest.mark.parametrize(("n", "noise"), [(1, 0.0), (7, 3.0)])
def test_the_price_of_a_prompt_for_two_features_in_plain_numbers(n, noise):
    h, Sigma, C, B, left, _ = plain((0.25,) * 4)
    fourth = [sum(TRUE[j] ** 2 * h[j] ** 2 for j in of) / 4 for of in FEATURES]
    ceiling = 2 * (max(f**2 for f in TRUE) + noise**2) / (2 * n)
    at_inverse = [f / s - b * c + noise**2 for f, s, b, c in zip(fourth, Sigma, B, C, strict=True)]
    G = [
        (1 - 1 / n) * c**2 + (f + noise**2 * s) / n
        for c, f, s in zip(C, fourth, Sigma, strict=True)
    ]
    r = [z + b * c for z, b, c in zip(left, B, C, strict=True)]
    least = sum(x - c**4 / (g * s) for x, c, g, s in zip(r, C, G, Sigma, strict=True)) / 2
    infinite, at_best, price = sides("kim2024-finite-prompts", *cloud(), n, noise)
    assert infinite == near(sum(left) / 2, least)
    excess = sum(at_inverse) / (2 * n)
    assert at_best == near(least, sum(left) / 2 + excess)
    assert price == near(excess, ceiling)


def test_both_sides_of_the_plateau_in_plain_numbers():
    # one of two heads along the first axis, the other silent
    lam, n = [1.5, 0.6], 5
    problem, zero = linear_attention.inputs(lam), torch.zeros(2, 2, 1).double()
    K, Q, V = zero.clone(), zero.clone(), double([0.05, 0.0])
    K[0, 0, 0], Q[0, 0, 0] = 0.2, 0.1
    start = (
        LinearAttention(2, n, 1),
        problem,
        SeparateWeights(V, K, Q),
        double([0.0, 1.0]),
        0.3,
    )
    g, M = (1 + 1 / n) * lam[0] ** 2 + sum(lam) * lam[0] / n, 0.05 * 0.2 * 0.1
    slow, flat = sides("long-plateau", *start)
    assert float(theorems.get("long-plateau")(*start)["a(0)"]) == pytest.approx(0.2)
    assert [side[0] for side in flat] == near(
        lam[0] ** 2 * M - g * lam[0] * M**2 / 2, 2 * lam[0] ** 2 * 0.2**3
    )


@pytest.mark.parametrize("id", ["critical-values", "morse-index", "kim2024-theorem-3-3"])
def test_true_features_that_depend_on_one_another_are_a_hypothesis_that_is_not_met(id):
    one = unit(0, 1.0)
    for F in (bases(unit(0, 0.0), unit(1, 0.0)), bases(one, one)):
        outcome = theorems.get(id)(bases(unit(2, 1.0), unit(3, 1.0)), Population(F, F)).against()
        assert not outcome.met.any() and "FAILS" not in repr(outcome)
