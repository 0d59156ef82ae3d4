"""The theorems on flows on random instances, and numbers of theirs by hand."""

import itertools
import random

import pytest
import torch

from descent import draws, theorems
from descent.models import InContext, LinearAttention, linear_attention
from descent.models.encoder import Activation
from descent.models.in_context import Neurons, Population
from descent.steps import PrecisionWarning
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
    twice = Neurons(*(part.repeat(2, 1) for part in teachers))  # the same distribution
    for taught in (teachers, twice):
        crowding = CloudStart(model, Neurons(one, w), population, None, taught).crowding
        assert abs(crowding - 2) < 1e-14
    assert (at.representer[:, 0] - torch.tensor([2.0, 0.0])).abs().max() < 1e-13
    assert abs(at.cost - 2) < 1e-13
    missing = at.__class__(model, Neurons(one, w + 1), population, None, teachers)
    assert missing.crowding == torch.inf
    report = theorems.get("improvement-by-birth")(
        model, Neurons(one, w + 1), population, None, teachers
    )
    assert not report.met.any()


def small(k, D, m, d, seed, scale):
    """A population of m inputs only, true features of very different sizes, and a cloud."""
    F = draws.normal(seed, "F", (m, k)) * scale ** torch.arange(k).double()
    population, model = Population(draws.normal(seed, "X", (m, D)), F), InContext("relu")
    return model, model.init(population, d=d, seed=seed), population


@pytest.mark.filterwarnings("ignore::descent.steps.PrecisionWarning")
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("shape", [(3, 1, 3, 6), (2, 2, 2, 5), (2, 3, 7, 2), (3, 2, 6, 3)])
def test_rounding_refutes_no_theorem(seed, shape):
    # as many inputs as features leave no loss, as many neurons no pull: both are rounding
    model, cloud, population = small(*shape, seed, scale=20.0)
    k = shape[0]
    for id, start in (
        ("conserved-second-moment", (model, cloud, population)),
        ("frozen-rate", (model, cloud, population)),
        ("kim2024-lemma-3-1", (model, cloud, population, draws.normal(seed, "W", (k, k)))),
        ("homotopy-slope", (draws.normal(seed, "h", population.F.shape), population)),
    ):
        outcome = theorems.get(id)(*start).against()
        assert outcome.holds or not outcome.met.all(), str(outcome)


@pytest.mark.parametrize("sizes", list(itertools.product([1e-8, 1, 1e8], repeat=3)))
def test_nor_does_it_where_numbers_are_of_very_different_sizes(sizes):
    of_cloud, of_truth, of_W = sizes
    for seed in range(3):
        model, cloud, population = small(2, 3, 7, 4, seed, scale=1.0)
        cloud = cloud._replace(a=of_cloud * cloud.a)
        population = Population(population.X, of_truth * population.F)
        W = of_W * draws.normal(seed, "W", (2, 2))
        h = of_cloud * draws.normal(seed, "h", population.F.shape)
        for id, start in (
            ("kim2024-lemma-3-1", (model, cloud, population, W)),
            ("homotopy-slope", (h, population)),
        ):
            outcome = theorems.get(id)(*start).against()
            assert outcome.holds and outcome.met.all(), str(outcome)


@pytest.mark.parametrize("size", [1e-8, 1, 1e8])
@pytest.mark.parametrize("n", [10**6, 10**15])
def test_nor_does_it_where_prompts_cost_less_than_a_rounding(size, n):
    for seed in range(6):
        model, cloud, population = small(2, 3, 9, 5, seed, scale=1.0)
        mixed = model.features(cloud, population.X) @ draws.normal(seed, "mix", (2, 2))
        population = Population(population.X, size * mixed)
        outcome = theorems.get("kim2024-finite-prompts")(model, cloud, population, n).against()
        assert outcome.holds and outcome.met.all(), str(outcome)


def test_singular_features_are_a_hypothesis_that_is_not_met():
    model, cloud, population = small(2, 2, 6, 4, 0, 1.0)
    dead = Neurons(0 * cloud.a, cloud.w)
    for id, more in (("conserved-second-moment", ()), ("kim2024-lemma-3-1", (torch.eye(2),))):
        more = tuple(each.double() for each in more)
        assert not theorems.get(id)(model, dead, population, *more).against().met.any()
    for id in ("monotone-homotopy", "accelerated-phase", "critical-values"):
        h = model.features(dead, population.X)
        assert not theorems.get(id)(h, population).against().met.any()
    with pytest.raises(ValueError, match="Sigma is singular"):
        theorems.get("saddles-of-the-flow")(model, dead, population)
    # where the loss has no second derivative there is no index either
    for id in ("morse-index", "global-minima", "kim2024-theorem-3-3", "homotopy-slope"):
        with pytest.raises(ValueError, match="Sigma is singular.*linearly independent"):
            theorems.get(id)(h, population)


def test_what_is_learned_by_rounding_alone_is_not_learned():
    # at a total saddle C and B are zero but for rounding: neither is invertible
    bump = InContext("tanh")
    X = draws.normal(0, "X", (20, 2))
    population = Population(torch.cat([X, -X]), torch.tanh(torch.cat([X, -X])))
    even = population.X.square()
    assert not theorems.get("monotone-homotopy")(even, population).against().met
    one = torch.ones(1, 1).double()
    odd = Population(population.X, population.F[:, :1])
    neurons = Neurons(torch.cat([one, one]), torch.tensor([[0.5, 1.0], [-0.5, -1.0]]).double())
    square = InContext(Activation(lambda Z: Z * Z, lambda Z: 2 * Z))
    for model, met in ((square, False), (bump, True)):
        cloud = neurons if model is square else Neurons(neurons.a, neurons.w.abs())
        assert theorems.get("kim2024-lemma-3-1")(model, cloud, odd, one).against().met == met


def test_no_true_features_promise_no_improvement():
    model, cloud, population = small(2, 2, 6, 4, 0, 1.0)
    silent = population._replace(F=0 * population.F)
    outcome = theorems.get("improvement-rate")(model, cloud, silent).against()
    assert not outcome.met.any()


def test_bad_starts_are_named():
    model, cloud, population = small(2, 2, 6, 4, 0, 1.0)
    h, eye = model.features(cloud, population.X), torch.eye(3).double()
    with pytest.raises(ValueError, match=r"R has shape \(3, 3\).*expected \(2, 2\)"):
        theorems.get("homotopy-slope")(h, population, eye)
    with pytest.raises(ValueError, match="R has 4 entries that are NaN"):
        theorems.get("monotone-homotopy")(h, population, eye[:2, :2] * torch.nan)
    with pytest.raises(ValueError, match=r"W has shape \(3, 3\)"):
        theorems.get("kim2024-lemma-3-1")(model, cloud, population, eye)
    with pytest.raises(ValueError, match="teachers were left out"):
        theorems.get("improvement-by-birth")(model, cloud, population)
    wrong = Neurons(cloud.a[:, :1], cloud.w)
    with pytest.raises(ValueError, match=r"teachers.a has shape \(4, 1\).*expected \(4, 2\)"):
        theorems.get("improvement-by-birth")(model, cloud, population, None, wrong)
    with pytest.raises(ValueError, match="size must be positive and finite, got nan"):
        theorems.get("saddles-of-the-flow")(model, cloud, population, size=float("nan"))


def test_training_from_a_critical_point_warns():
    model, cloud, population = small(2, 2, 6, 4, 0, 1.0)
    with pytest.warns(PrecisionWarning, match="start at a critical point"):
        model.train(Neurons(0 * cloud.a, cloud.w), population, 2)


def test_one_drop_is_a_theorem_on_merged_heads():
    problem = linear_attention.inputs([1.0, 0.5])
    for rank in (None, 1):
        model = LinearAttention(H=2, n=20, rank=rank)
        start = model.aligned(problem, torch.tensor([0.3]).double())
        of = theorems.get("one-drop")(model, problem, start, torch.linspace(0, 40, 9).double())
        assert bool(of.against().met.all()) == (rank is None)


@pytest.mark.filterwarnings("ignore")
def test_steps_that_do_not_follow_the_flow_refute_no_rate():
    of = theorems.get("frozen-rate")
    for dt, short in ((1e-3, True), (1e4, False)):
        outcome = of(*near(0), dt=dt, steps=20).against()
        step = next(h for h in outcome.hypotheses if h.name == "τ times the curvature ≤ 1")
        assert bool(step.met.all()) == bool(step.met.any()) == short
        assert outcome.holds
