"""What is copied, pickled or sent to another process does what the original does."""

import copy
import dataclasses
import multiprocessing
import pickle

import pytest
import torch
from strategies import relative_gap

from descent import descend, kernels, models, problems, span, steps, theorems
from descent.models import elementary


def there_and_back(value):
    return pickle.loads(pickle.dumps(value))


def equal_but_new(layer):
    kernel = dataclasses.replace(layer.kernel)
    assert kernel is not layer.kernel and kernel == layer.kernel
    return dataclasses.replace(layer, kernel=kernel)


COPIES = {"copied": copy.deepcopy, "pickled": there_and_back, "rebuilt": equal_but_new}


def instance(kernel):
    problem = problems.gaussian(N=2, n=3, D=4, seed=0)
    layer = models.Attention(kernel, H=2, d=3)
    return layer, problem, layer.init(problem, runs=3, seed=1)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
@pytest.mark.parametrize("reduce", [True, False])
def test_a_copied_layer_trains_as_the_original(kernel, copied, reduce):
    layer, problem, weights = instance(kernel)
    options = {"step": 0.05, "steps": 40, "reduce": reduce}
    theirs = descend(copied(layer), problem, weights, **options)
    assert torch.equal(theirs.loss, descend(layer, problem, weights, **options).loss)
    # against the textbook too, lest both be wrong alike
    last = torch.stack(
        [layer.loss(type(weights)(*W), problem) for W in zip(*theirs.weights, strict=True)]
    )
    assert relative_gap(theirs.loss[-1], last) < 1e-12


def _train(layer, problem, weights, rule):
    return descend(layer, problem, weights, step=rule, steps=20).loss


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
def test_a_trajectory_in_another_process_is_that_of_this_one(kernel):
    arguments = (*instance(kernel), steps.normalised(0.01))
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        there = pool.apply(_train, arguments)
    assert torch.equal(there, _train(*arguments))


def _decreasing(t):
    return 1 / (1 + t)


def _objects():
    """One of every kind of object that the library hands out, and the numbers that it gives."""
    layer, problem, weights = instance("gaussian")
    scores, A, y = torch.zeros(2, 3, 3), problem.X[0], problem.y[0]
    theta = torch.linspace(0, 1, 14, dtype=torch.float64)
    flattened, start = elementary.flattened(layer, problem, weights)
    theorem = theorems.get("song2024-theorem-1")
    report = theorem(layer, problem, weights)
    mine = kernels.Kernel("mine", "dot", torch.exp, kernels._ByAutograd(torch.exp))

    def rate(rule):
        return rule(torch.tensor([2.0, 3.0]), torch.tensor([4.0, 5.0]))

    return {
        "kernel": (kernels.softmax, lambda k: k.pullback(scores, k.value(scores), scores)),
        "derived kernel": (mine, lambda k: k.pullback(scores, k.value(scores), scores)),
        "layer": (layer, lambda layer: layer.loss(weights, problem)),
        "problem": (problem, lambda problem: layer.loss(weights, problem)),
        "weights": (weights, lambda weights: layer.loss(weights, problem)),
        "reduction": (span.reduce(problem), lambda small: small.problem.X),
        "trajectory": (descend(layer, problem, weights, steps=2), lambda run: run.loss),
        "constant": (steps.constant(0.1), rate),
        "a step for each run": (steps.constant(torch.tensor([0.1, 0.2])), rate),
        "normalised": (steps.normalised(0.1), rate),
        "polyak": (steps.polyak(), rate),
        "schedule": (steps.schedule(_decreasing), rate),
        "linear": (elementary.linear(A, y), lambda f: f.loss(theta[:4])),
        "factorisation": (elementary.factorisation(A, 2), lambda f: f.loss(theta)),
        "network": (elementary.network(A, y, y[:2]), lambda f: f.loss(theta[:8])),
        "flattened": (flattened, lambda f: f.loss(start)),
        "theorem": (theorem, lambda theorem: theorem(layer, problem, weights).step),
        "report": (report, lambda report: report.step),
        "outcome": (report.trial(5), lambda outcome: outcome.conclusions[0].right),
    }


@pytest.mark.parametrize("copied", [copy.deepcopy, there_and_back], ids=["copied", "pickled"])
@pytest.mark.parametrize("name", _objects())
def test_every_object_survives_the_journey(name, copied):
    before, numbers = _objects()[name]
    after = copied(before)
    assert type(after) is type(before)
    assert torch.equal(numbers(after), numbers(before))
