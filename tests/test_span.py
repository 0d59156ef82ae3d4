import pytest
import torch
from strategies import relative_gap

from descent import descend, problems, span
from descent.models import Attention


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
@pytest.mark.parametrize("train", ["V", "QK", "QKV"])
def test_losses_and_lifted_weights_are_those_of_the_full_problem(kernel, train):
    problem = problems.gaussian(N=3, n=2, D=40, seed=0)
    layer = Attention(kernel, H=2, d=3)
    weights = layer.init(problem, runs=3, seed=1)
    small = descend(layer, problem, weights, train=train, step=2e-3, steps=200)
    full = descend(layer, problem, weights, train=train, step=2e-3, steps=200, reduce=False)
    assert relative_gap(small.loss, full.loss) < 1e-12
    for a, b in zip(small.weights, full.weights, strict=True):
        assert relative_gap(a, b) < 1e-12


def test_one_over_L_is_the_same_step_in_the_span():
    problem = problems.gaussian(N=2, n=2, D=30, seed=0)
    layer = Attention("gaussian", d=3)
    weights = layer.init(problem, runs=3, seed=1)
    reduction = span.reduce(problem)
    for train in ("V", "QKV"):
        full = layer.smoothness(weights, problem, train)
        small = layer.smoothness(reduction.restrict(weights), reduction.problem, train)
        assert relative_gap(small / full, torch.ones(3)) < 1e-9


def test_the_span_has_as_many_dimensions_as_tokens_at_most():
    assert span.reduce(problems.gaussian(N=3, n=2, D=40, seed=0)).problem.D == 6
    assert span.reduce(problems.gaussian(N=3, n=2, D=4, seed=0)).problem.D == 4


def test_weights_move_by_combinations_of_tokens_alone():
    problem = problems.gaussian(N=2, n=2, D=20, seed=0)
    layer = Attention(d=3)
    weights = layer.init(problem, seed=1)
    run = descend(layer, problem, weights, step=0.01, steps=20, reduce=False)
    outside = (
        torch.eye(20, dtype=torch.float64) - torch.linalg.pinv(problem.tokens) @ problem.tokens
    )
    for W in "QKV":
        moved = getattr(run.weights, W) - getattr(weights, W)
        assert moved.norm() > 1e-3 and (outside @ moved).norm() < 1e-13


def test_a_batch_of_problems_is_reduced_one_by_one():
    problem = problems.Problem(
        torch.stack([problems.gaussian(N=2, n=2, D=9, seed=s).X for s in range(3)]),
        torch.zeros(3, 2, 2).double(),
    )
    reduction = span.reduce(problem)
    for r in range(3):
        gram = problem.tokens[r] @ problem.tokens[r].mT
        assert (
            relative_gap(reduction.problem.tokens[r] @ reduction.problem.tokens[r].mT, gram) < 1e-13
        )
