import itertools

import pytest
import torch
from hypothesis import given, settings
from strategies import KERNELS, instances

from descent import models, problems, queries
from descent.claims.foundations.kernels import attaining


@settings(max_examples=20)
@given(instances())
def test_the_derivative_of_the_scores_is_that_of_autograd(instance):
    layer, problem, weights = instance
    for h in range(layer.H):

        def scores(W, h=h):
            Q = torch.cat([weights.Q[:h], W[None], weights.Q[h + 1 :]])
            return layer.forward(weights._replace(Q=Q), problem).C[h].flatten()

        J = torch.func.jacrev(scores)(weights.Q[h]).flatten(-2)
        ours = queries.scores_jacobian(layer, weights, problem)[h]
        assert torch.allclose(J, ours, rtol=1e-10, atol=1e-12)


@given(instances(kernels=["gaussian"]))
def test_the_gradient_is_at_least_what_each_constant_says(instance):
    layer, problem, weights = instance
    loss, gradient = layer.loss_and_gradient(weights, problem, "Q")
    constants = queries.pl(layer, weights, problem)
    # eigenvalues of J J^T are known to 1e-16 of the largest
    slack = 1e-12 * (1 + float(loss)) * (1 + float(gradient["Q"].square().sum()))
    chain = [0, constants.mu, constants.rows, constants.tangent]
    chain.append(gradient["Q"].square().sum() / (2 * loss))
    pairs = itertools.pairwise(map(float, chain))
    assert all(a <= b * (1 + 1e-9) + slack for a, b in pairs)


@given(instances())
def test_no_queries_and_keys_leave_the_interval(instance):
    layer, problem, weights = instance
    low, high = queries.interval(layer, weights, problem)
    floor = queries.floor(layer, weights, problem)
    for scale in (0.1, 1.0, 10.0):
        other = layer.init(problem, seed=7, scale=scale)
        moved = weights._replace(Q=other.Q, K=other.K)
        output = layer.predict(moved, problem)
        assert (output >= low - 1e-12).all() and (output <= high + 1e-12).all()
        assert layer.loss(moved, problem) >= floor - 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
def test_some_queries_and_keys_come_to_the_floor(kernel):
    """So no interval is wider than it must be: the weights are those of the proofs on the hull."""
    for seed in range(10):
        layer, problem = models.Attention(kernel, d=1), problems.gaussian(2, 3, 8, seed)
        problem = problems.Problem(problem.X, 3 * problem.y)
        weights = layer.init(problem, seed=seed, runs=4)
        floor = queries.floor(layer, weights, problem)
        best = layer.loss(attaining(kernel, problem, weights), problem)
        assert floor.max() > 0.1 and torch.allclose(best, floor, rtol=0, atol=1e-6)


@settings(max_examples=20)
@given(instances())
def test_the_intervals_of_heads_add_up(instance):
    layer, problem, weights = instance
    alone = models.Attention(layer.kernel, d=layer.d)
    each = [
        queries.interval(alone, type(weights)(*(W[h : h + 1] for W in weights)), problem)
        for h in range(layer.H)
    ]
    for whole, parts in zip(
        queries.interval(layer, weights, problem), zip(*each, strict=True), strict=True
    ):
        assert torch.allclose(whole, sum(parts))


def test_the_floor_of_the_example_of_the_paper():
    layer = models.Attention("softmax", H=1, d=2)
    example, weights = queries.two_by_two(layer, u=(3, 3), y=(3.05, 2.92), runs=1, seed=0)
    assert weights.V.tolist() == [[[[2, 1], [1, 2]]]] and weights.O.tolist() == [[[1, 1]]]
    assert float(queries.floor(layer, weights, example)) == pytest.approx(0.5 * (0.05**2 + 0.08**2))
    gaussian = models.Attention("gaussian", H=1, d=2)
    assert queries.floor(gaussian, weights, example) == 0


@settings(max_examples=10)
@given(instances(kernels=["softmax"]))
def test_the_curvature_bound_of_softmax_holds_far_away_too(instance):
    layer, problem, weights = instance
    bound = queries.softmax_smoothness(layer, weights, problem)
    for scale in (0.1, 1.0, 10.0):
        moved = weights._replace(Q=layer.init(problem, seed=7, scale=scale).Q)
        assert layer.smoothness(moved, problem, "Q") <= bound * (1 + 1e-9) + 1e-12


def test_constants_are_refused_for_the_other_kernel():
    problem = problems.gaussian(N=1, n=2, D=2, seed=0)
    soft, gauss = models.Attention("softmax", d=2), models.Attention("gaussian", d=2)
    weights = soft.init(problem, seed=0)
    with pytest.raises(ValueError, match="kernel must be 'gaussian', got 'softmax'"):
        queries.pl(soft, weights, problem)
    with pytest.raises(ValueError, match="kernel must be 'softmax', got 'gaussian'"):
        queries.softmax_smoothness(gauss, weights, problem)
