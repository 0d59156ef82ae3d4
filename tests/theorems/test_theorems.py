"""Theorems as objects: inequalities, promises, reports, and what they say of a run."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from descent import descend, models, problems, steps, theorems
from descent.models import LeastSquares
from descent.theorems import Inequality, Linear, Promise, Report, Standing, theorem

F = torch.float64


def numbers(*values):
    return torch.tensor(values, dtype=F)


def test_an_inequality_knows_where_it_fails_and_by_how_much():
    left, right = numbers([1.0, 1.0], [2.0, 5.0]), numbers([2.0, 2.0], [2.0, 2.0])
    along = Inequality("a ≤ b", left, right, at=(3, 7))
    assert along.met.tolist() == [True, False]
    assert along.sharpness.tolist() == [1.0, 2.5]
    assert along.broken_at.tolist() == [-1, 7]


def test_a_strict_inequality_of_zeros_is_not_met():
    zero = numbers(0.0)
    assert not Inequality("0 < 0", zero, zero, strict=True).met
    assert Inequality("0 ≤ 0", zero, zero).met


def test_nan_meets_nothing():
    nan = Inequality("a ≤ b", numbers(float("nan")), numbers(1.0))
    assert not nan.met and nan.sharpness == torch.inf and nan.broken_at == 0


def run_of(loss, eta):
    return SimpleNamespace(loss=loss[:, None], eta=numbers(eta), every=1)


@pytest.mark.parametrize("power", [1, 2])
def test_a_rate_that_is_attained_has_sharpness_one(power):
    t = torch.arange(200, dtype=F)
    promise = Linear(mu=numbers(0.3), rounding=numbers(1e-16), power=power)
    found = promise.check(run_of((1 - 0.1 * 0.3) ** (power * t), 0.1))
    assert found.met.all() and found.sharpness == pytest.approx(1, abs=1e-9)
    slower = promise.check(run_of((1 - 0.1 * 0.299) ** (power * t), 0.1))
    assert not slower.met.any()


def test_a_rate_is_not_held_against_a_loss_that_is_rounding():
    t = torch.arange(2000, dtype=F)
    loss = 0.9**t + 1e-31  # where it stops falling, it is the square of a rounded residual
    assert Linear(numbers(0.1), numbers(1e-16)).check(run_of(loss, 1.0)).met.all()


@pytest.fixture
def layer():
    return models.Attention(H=2, d=2)


@pytest.fixture
def instance(layer):
    problem = problems.gaussian(N=2, n=2, D=4, seed=0)
    return layer, problem, layer.init(problem, runs=8, seed=1)


def test_the_bound_is_that_of_the_theorem(instance):
    layer, problem, weights = instance
    report = theorems.song2024.theorem_1(layer, problem, weights)
    assert report.theorem is theorems.get("song2024-theorem-1")
    mu = weights.O.square().sum(-1).amin(-1) * report.start.sigma**2
    expected = (1 - mu / report.start.G[:, -1]) ** (2 * torch.arange(5)[:, None])
    assert torch.allclose(report.bound(range(5)), expected, rtol=1e-12)
    half = (1 - mu / report.start.G[:, -1] / 2) ** 6
    assert torch.allclose(report.bound(3, report.step / 2)[0], half, rtol=1e-12)
    every = (1 - 0.1 * mu) ** (2 * torch.arange(8)[:, None])  # as many steps as runs
    assert torch.allclose(report.bound(range(8), 0.1), every, rtol=1e-12)


def test_a_run_of_ones_own_is_held_against_the_report(instance):
    report = theorems.song2024.theorem_1(*instance)
    run = descend(*instance, train=report.train, step=report.step, steps=200)
    assert report.against(run).holds and report.against(run).met.all()
    far = descend(*instance, train="V", step=1.9 * report.step, steps=50)
    assert not report.against(far).met.any()
    assert "η ≤ the largest step" in repr(report.against(far))


def test_a_run_that_began_elsewhere_is_refused(instance):
    layer, problem, weights = instance
    report, own = theorems.song2024.theorem_1(*instance), {"train": "V", "steps": 5}
    others = {
        "shape": (problem, layer.init(problem, runs=len(report.met) + 1, seed=9)),
        "another loss": (problem, layer.init(problem, runs=len(report.met), seed=9)),
        "loss than": (replace(problem, y=2 * problem.y), weights),
    }
    for said, other in others.items():
        with pytest.raises(
            ValueError, match=f"{said}.*: train from the model, problem and weights"
        ):
            report.against(descend(layer, *other, step=report.step.amin(), **own))
    one = weights._replace(**{W: getattr(weights, W)[:1] for W in weights._fields})
    alone = theorems.song2024.theorem_1(layer, problem, type(one)(*(W[0] for W in one)))
    steps = alone.step * torch.tensor([0.5, 1.0], dtype=torch.float64)  # two runs of one start
    both = type(one)(*(W.expand(2, *W.shape[1:]) for W in one))
    assert alone.against(descend(layer, problem, both, step=steps, **own)).holds


def test_a_run_that_stopped_early_breaks_no_promise(instance):
    """The bound goes on to fall where the run stands still."""
    report = theorems.song2024.theorem_1(*instance)
    outcome = report.trial(400, until=0.5)
    stopped = outcome.run.stopped_at >= 0
    assert stopped.any() and (outcome.conclusions[0].broken_at >= 0).any()
    assert outcome.holds and torch.equal(outcome.met, ~stopped)
    assert "the run goes on to the end" in repr(outcome)


SHARES = {"shorter": lambda t: 1 / (1 + t), "too long": lambda t: 1.9 if t else 1.0}


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_a_run_whose_steps_change_is_none_of_one_step_size(instance, share):
    report = theorems.song2024.theorem_1(*instance)
    rule = steps.schedule(lambda t: share(t) * report.step)
    outcome = report.against(descend(*instance, train="V", step=rule, steps=100))
    assert not outcome.met.any() and outcome.holds
    assert "the steps are those of the theorem" in repr(outcome)


def test_a_rule_of_a_theorem_is_asked_for_and_has_no_share():
    problem, u = problems.orthonormal_tokens(N=2, n=3, D=8, seed=1)
    layer = models.Selection()
    weights = layer.init(problem, seed=1, runs=2, scale=3.0, u=u)
    report = theorems.get("vasudeva2024-progress")(layer, problem, weights)
    seen = {"train": "W", "steps": 10, "watch": report.watch, "at": range(11)}
    for step, met in ((0.1, False), (steps.normalised(0.4), False), (report.step, True)):
        outcome = report.against(descend(layer, problem, weights, step=step, **seen))
        assert bool(outcome.met.all()) == bool(outcome.met.any()) == met
    with pytest.raises(ValueError, match="by a rule, of which there is no share: leave share out"):
        report.trial(10, share=0.5)


def test_a_run_of_other_weights_is_refused(instance):
    report = theorems.song2024.theorem_1(*instance)
    run = descend(*instance, train="QKV", step=report.step, steps=3)
    with pytest.raises(ValueError, match="the run trained QKV, but .* speaks of V: give a run of"):
        report.against(run)


def test_a_path_of_ones_own_begins_at_the_start():
    f = LeastSquares(lambda x: torch.tanh(x) - 0.5)
    report = theorems.foundations.near_start(f, [[0.1]], Lambda=0.8)
    path = torch.tensor([[[0.2]], [[0.3]]], dtype=torch.float64)
    with pytest.raises(ValueError, match="another loss than the report's start"):
        report.against(report.start.seen(path, 0.01))


def test_the_printed_rate_fails_for_two_heads_and_the_corrected_does_not(instance):
    printed = theorems.song2024.theorem_1_printed(*instance).trial(500)
    assert not printed.holds and "FAILS in" in repr(printed)
    assert theorems.song2024.theorem_1(*instance).trial(500).holds


def test_arrays_of_numpy_do_as_well(instance):
    layer, problem, weights = instance
    arrays = (problem.X.numpy(), problem.y.numpy()), tuple(W.numpy() for W in weights)
    report = theorems.song2024.theorem_1(layer, *arrays)
    assert report.met.all() and report.trial(100).holds


def test_weights_that_lack_runs_are_spread(layer):
    problem = problems.gaussian(N=2, n=2, D=4, seed=0)
    one = layer.init(problem, seed=1)
    many = problems.Problem(problem.X.expand(5, 2, 2, 4), problem.y.expand(5, 2, 2))
    assert theorems.song2024.theorem_1(layer, many, one).met.shape == (5,)


def test_a_report_shows_each_hypothesis_with_its_value(instance):
    report = theorems.song2024.theorem_1(*instance)
    shown = repr(report)
    assert "met in 8 of 8" in shown and "a millionth of f_0 after" in shown
    assert "<td>0 &lt; σ<sub>min</sub>(B<sub>0</sub>)</td>" in report._repr_html_()


@pytest.fixture
def entered(monkeypatch):
    monkeypatch.setattr("descent.theorems._record.registry", {})


def test_a_theorem_need_not_be_about_attention(entered):
    """A start is any object; a statement about it alone needs no run."""

    @theorem("square", title="Squares", box="b", standing=Standing.PROVED, start=np.asarray)
    def square(at):
        x = torch.as_tensor(at, dtype=F)
        return Report((), (Promise("0 ≤ x²", lambda _: (0 * x, x * x, ())),), {"x": x})

    outcome = square([1.0, -2.0]).trial()
    assert outcome.holds and outcome.conclusions[0].met.tolist() == [True, True]
    with pytest.raises(ValueError, match="square bounds no loss over time"):
        square([1.0]).bound(3)


def test_an_id_is_given_once():
    with pytest.raises(ValueError, match="theorem 'song2024-theorem-1' exists already"):
        theorem("song2024-theorem-1", title="", box="", standing=Standing.PROVED, start=None)


def test_a_report_that_speaks_of_descent_wants_a_run(instance):
    report = theorems.song2024.theorem_1(*instance)
    with pytest.raises(ValueError, match="speaks of descent: give a run of train='V'"):
        report.against()


def test_a_run_must_have_watched_what_a_promise_speaks_of(entered, instance):
    @theorem("w", title="t", box="b", standing=Standing.PROVED, start=theorems.AttentionStart)
    def watching(at):
        promise = Promise("moves", lambda run: None, watches=("weights",))
        return Report((), (promise,), train="V")

    report, run = watching(*instance), descend(*instance, train="V", steps=3)
    with pytest.raises(ValueError, match="the run must watch weights"):
        report.against(run)
