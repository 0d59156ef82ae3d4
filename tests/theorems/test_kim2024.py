"""The theorem on finite prompts on random instances, and the numbers that it is made of."""

import random

import pytest
import torch

from descent import draws, theorems
from descent.models import InContext
from descent.models.in_context import Neurons, Population
from descent.theorems.kim2024 import InContextStart

RUNS, ENOUGH = 10, 200


def drawn(seed):
    """A random population with heavy tails, and ten clouds of enough neurons."""
    pick = random.Random(seed)
    k, D, m, n = (pick.randint(*of) for of in ((1, 4), (1, 5), (20, 60), (1, 50)))
    X, F = (draws.normal(seed, *of) for of in (("X", (m, D)), ("F", (m, k))))
    population = Population(X, F.sign() * F.abs() ** pick.uniform(0.5, 4))
    model = InContext(pick.choice(["sigmoid", "tanh", "relu"]))
    cloud = model.init(population, d=k + pick.randint(2, 6), seed=seed + 1, runs=RUNS)
    return model, cloud, population, n, pick.choice([0.0, 1.0])


def test_no_conclusion_fails_where_the_hypotheses_are_met():
    met = 0
    for seed in range(60):
        report = theorems.get("kim2024-finite-prompts")(*drawn(seed))
        outcome = report.against()
        assert outcome.holds, f"seed {seed}\n{outcome}"
        met += int(outcome.met.expand(RUNS).sum())
    assert met >= ENOUGH


def test_every_theorem_of_the_part_is_tried():
    assert {id for id in theorems.registry if id.startswith("kim2024")} == {
        "kim2024-finite-prompts"
    }


@pytest.mark.parametrize(("p", "n"), [(0.01, 1000), (0.25, 8), (0.5, 1)])
def test_a_feature_that_is_one_with_probability_p_by_hand(p, n):
    # E f^4 = E f^2 = p: the excess at the inverse is (1 - p) / 2n, and the ceiling 1 / 2n;
    # with x = (1/p - 1) / n the least loss is (p / 2) x / (1 + x)
    X = torch.zeros(400, 1, dtype=torch.float64)
    X[: round(400 * p)] = 1
    one = torch.ones(1, 1, dtype=torch.float64)
    at = InContextStart(InContext("relu"), Neurons(one, one), Population(X, X), n)
    x = (1 / p - 1) / n
    assert abs(float(at.infinite)) < 1e-15
    assert abs(float(at.inverse) - (1 - p) / (2 * n)) < 1e-14
    assert abs(float(at.finite) - p / 2 * x / (1 + x)) < 1e-14
    assert abs(float(at.ceiling) - 1 / (2 * n)) < 1e-15
