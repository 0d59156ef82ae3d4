"""The theorems on flows on random instances, and numbers of theirs by hand."""

import random

import pytest
import torch

from descent import draws, theorems
from descent.models import InContext
from descent.models.in_context import Neurons, Population
from descent.theorems.kim2024 import CloudStart

RUNS, ENOUGH = 10, 200


def drawn(seed):
    """Clouds of random masses that hold all teachers, on a random population."""
    pick = random.Random(seed)
    k, D, m = (pick.randint(*of) for of in ((1, 3), (2, 4), (20, 40)))
    model = InContext(pick.choice(["sigmoid", "tanh"]))
    X = draws.normal(seed, "X", (m, D))
    teachers = Neurons(draws.normal(seed, "a", (k + 1, k)), draws.normal(seed, "w", (k + 1, D)))
    population = Population(X, model.features(teachers, X))
    cloud = model.init(population, d=k + pick.randint(2, 6), seed=seed, runs=RUNS)
    cloud.a[:, : k + 1], cloud.w[:, : k + 1] = teachers
    mass = 0.05 + draws.uniform(seed, "mass", cloud.a.shape[1:-1], RUNS)
    return model, cloud, population, mass, teachers


def near(seed):
    """The same, with outer weights near such that make the true features: a small loss."""
    model, cloud, population, mass, teachers = drawn(seed)
    v = CloudStart(model, cloud, population, mass).representer
    noise = 0.1 * draws.normal(seed, "off", v.shape[1:], RUNS)
    return model, Neurons(v + noise * v.abs().amax(), cloud.w), population, mass, teachers


SERIES = {
    "conserved-second-moment": drawn,
    "improvement-rate": drawn,
    "improvement-by-birth": drawn,
    "frozen-rate": near,
}


@pytest.mark.parametrize("id", SERIES)
def test_no_conclusion_fails_where_the_hypotheses_are_met(id):
    met = 0
    for seed in range(200):
        outcome = theorems.get(id)(*SERIES[id](seed), dt=1e-3, steps=20).against()
        assert outcome.holds, f"seed {seed}\n{outcome}"
        met += int(outcome.met.sum())
        if met >= ENOUGH:
            return
    raise AssertionError(f"only {met}")


def test_every_theorem_of_the_chapter_is_tried():
    ours = {id for id, t in theorems.registry.items() if t.state.__module__.endswith(".dynamics")}
    assert ours == set(SERIES)


def test_one_neuron_that_teaches_half_of_the_mass():
    # k = 1, f° = σ: a teacher of mass 1/2 has density 2; the representer puts 2 on it alone
    # if its answers and the other's are orthogonal
    X = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).double()
    w = torch.eye(2).double()
    model, one = InContext("tanh"), torch.ones(2, 1).double()
    teachers = Neurons(one[:1], w[:1])
    population = Population(X, model.features(teachers, X))
    at = CloudStart(model, Neurons(one, w), population, None, teachers)
    assert abs(at.crowding - 2) < 1e-14
    assert (at.representer[:, 0] - torch.tensor([2.0, 0.0])).abs().max() < 1e-13
    assert abs(at.cost - 2) < 1e-13
    missing = at.__class__(model, Neurons(one, w + 1), population, None, teachers)
    assert missing.crowding == torch.inf
    report = theorems.get("improvement-by-birth")(
        model, Neurons(one, w + 1), population, None, teachers
    )
    assert not report.met.any()
