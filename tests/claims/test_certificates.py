"""Counterexamples are proved: enclosed with all rounding accounted for, or on paper."""

from dataclasses import replace

import flint
import pytest

from descent import claims, theorems
from descent.claims import Evidence, Verdict
from descent.claims._certificate import Certain
from descent.claims._record import claim
from descent.claims.song2024 import certificates, joint, queries, values
from descent.problems import Problem

CERTIFIED = [c for c in claims.registry.values() if c.certificate]


def test_what_is_called_a_counterexample_is_certified_or_names_its_proof():
    refuted = {c.id for c in claims.registry.values() if c.verdict is Verdict.COUNTEREXAMPLE}
    assert refuted == {c.id for c in claims.registry.values() if c.certificate or c.proof}
    assert refuted >= {
        "song2024-theorem-1-heads",
        "song2024-theorem-2-heads",
        "song2024-theorem-3-12",
    }


@pytest.mark.parametrize("each", CERTIFIED, ids=lambda c: c.id)
def test_every_inequality_is_certain(each):
    assert each.certified() and all(inequality.holds for inequality in each.certified())


def widened(inequality):
    """The same with an error as large as the gap, on the left."""
    gap = (inequality.right - inequality.left).mid()
    return replace(inequality, left=inequality.left + flint.arb(0, gap))


@pytest.mark.parametrize("each", CERTIFIED, ids=lambda c: c.id)
def test_an_enclosure_as_wide_as_the_violation_fails_the_claim(each):
    """One inequality at a time: no one of them is there for show."""
    supported = Evidence({"fine": True})
    for k in range(len(each.certified())):

        def certificate(k=k):
            found = each.certificate()
            return [*found[:k], widened(found[k]), *found[k + 1 :]]

        wide = replace(each, check=lambda: supported, certificate=certificate)
        assert [name[:11] for name in wide.run().failed] == ["certified: "]
    assert replace(each, check=lambda: supported).run().supports


def test_too_few_bits_certify_nothing():
    each = claims.get("song2024-theorem-2-heads")
    with pytest.raises(ValueError):  # no eigenvalue can be told from the next
        each.certified(bits=4)


def test_touching_balls_decide_nothing():
    wide = flint.arb(1, 0.5)
    assert not Certain("", wide, flint.arb(1.4)).holds
    assert Certain("", wide, flint.arb(1.6)).holds


REFUTED = [next(values.heads(((1.0, 0.05),))), joint.slow_heads((1.0, 0.05))]


@pytest.mark.parametrize("instance", REFUTED)
def test_the_balls_enclose_what_the_theorems_compute(instance):
    """The certificates write the formulas down a second time: both must say the same."""
    layer, problem, weights = instance
    printed = theorems.song2024.theorem_2_printed(layer, problem, weights)
    start = certificates.first_run(layer, problem, weights)
    for ball, number in (
        (start.least.sqrt(), printed.start.sigma),
        (start.slope, printed.start.slope),
        (start.rate, printed.promises[0].mu),
        (start.condition_8(), printed["condition (8)"].left),
    ):
        assert float(ball.mid()) == pytest.approx(float(number[0]), rel=1e-9)


@pytest.mark.parametrize("instance", REFUTED)
def test_the_certified_slope_is_what_a_small_step_gains_of_the_loss(instance):
    """In first order, for a residual of any length: the squared gradient by the values over f."""
    layer, problem, weights = instance
    output = layer.predict(weights, problem)
    far = Problem(problem.X, output + 3 * (problem.y - output))
    loss, gradient = layer.loss_and_gradient(weights, far, "V")
    gained = gradient["V"][0].square().sum() / loss[0]
    slope = certificates.too_flat(certificates.first_run(layer, far, weights), "α")[1]
    printed = theorems.song2024.theorem_1_printed(layer, far, weights)
    assert float(slope.left.mid()) == pytest.approx(float(gained), rel=1e-9)
    assert float(slope.right.mid()) == pytest.approx(float(printed.promises[0].mu[0]), rel=1e-9)


def test_so_does_condition_12():
    report = theorems.song2024.theorem_3_12(*queries.one_token())
    delta, left, *_ = certificates.condition_12(*queries.one_token())
    assert float(delta.right.mid()) == pytest.approx(float(report.start.delta), rel=1e-12)
    assert float(left.left.mid()) == pytest.approx(float(report["condition (12)"].left), rel=1e-12)


def test_a_counterexample_without_a_proof_is_refused():
    record = {
        "paper": "p",
        "number": "1",
        "statement": "s.",
        "chapter": "c",
        "mutations": {"m": {}},
    }
    with pytest.raises(ValueError, match="a counterexample, and nothing else, has a certificate"):
        claim("new", verdict=Verdict.COUNTEREXAMPLE, **record)
    with pytest.raises(ValueError, match="a counterexample, and nothing else, has a certificate"):
        claim("new", verdict=Verdict.HOLDS, certificate=list, **record)
