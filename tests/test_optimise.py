import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances, relative_gap

from descent import descend, problems
from descent._optimise import optimise
from descent.models import Attention


@settings(max_examples=10)
@given(instances(runs=st.just(2)), st.sampled_from(["V", "QK", "QKV"]))
def test_plain_sgd_is_gradient_descent(instance, train):
    layer, problem, weights = instance
    ours = descend(layer, problem, weights, train=train, step=1e-3, steps=20)
    loss, last = optimise(layer, problem, weights, torch.optim.SGD, train=train, steps=20, lr=1e-3)
    assert relative_gap(loss, ours.loss) < 1e-12
    assert all(relative_gap(a, b) < 1e-12 for a, b in zip(last, ours.weights, strict=True))


def test_runs_side_by_side_are_runs_one_by_one():
    problem, layer = problems.gaussian(N=2, n=3, D=5, seed=0), Attention(H=2, d=3)
    weights = layer.init(problem, runs=3, seed=1)
    loss, _ = optimise(layer, problem, weights, torch.optim.Adam, steps=15, lr=0.01)
    for r in range(3):
        one = type(weights)(*(W[r] for W in weights))
        alone, _ = optimise(layer, problem, one, torch.optim.Adam, steps=15, lr=0.01)
        assert relative_gap(loss[:, r], alone) < 1e-12


def test_batches_are_taken_in_turn_and_the_start_is_left_alone():
    problem, layer = problems.gaussian(N=2, n=2, D=4, seed=0), Attention(d=3)
    weights = layer.init(problem, seed=1)
    before = weights.V.clone()
    loss, last = optimise(
        layer, problem, weights, torch.optim.SGD, train="V", steps=2, batches=[[0], [1]], lr=0.01
    )
    by_hand = weights
    for i in (0, 1):
        part = problems.Problem(problem.X[[i]], problem.y[[i]])
        gradient = layer.loss_and_gradient(by_hand, part, "V")[1]["V"]
        by_hand = by_hand._replace(V=by_hand.V - 0.01 * gradient)
    assert relative_gap(last.V, by_hand.V) < 1e-14
    assert loss.shape == (3,) and torch.equal(weights.V, before)
