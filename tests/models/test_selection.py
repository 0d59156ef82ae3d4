import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import differentiable, relative_gap

from descent import descend, margin, problems, steps
from descent.models import Selection
from descent.models.selection import LOSSES, optimal, scores


@st.composite
def instances(draw, goals=("loss", "log loss", "log excess"), runs=None):
    """A layer of either loss, whole or factored, with Gaussian tokens and any query."""
    N, n, D, d = (draw(st.integers(*sizes)) for sizes in ((1, 4), (2, 5), (2, 6), (1, 4)))
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(N, n, D, generator=generator, dtype=torch.float64)
    y = 2.0 * torch.randint(0, 2, (N,), generator=generator).double() - 1
    problem = problems.Problem(X, y)
    layer = Selection(
        draw(st.sampled_from(LOSSES)),
        d=draw(st.sampled_from([None, d])),
        query=draw(st.integers(0, n - 1)),
        goal=draw(st.sampled_from(goals)),
    )
    batch = None if runs is None else draw(runs)
    return layer, problem, layer.init(problem, seed=seed + 1, runs=batch, scale=2.0)


def moving(layer):
    return layer.trainable if layer.goal != "log excess" else layer.trainable[:-1]


@given(instances(goals=["loss"]))
def test_the_output_is_the_papers_formula(instance):
    layer, problem, weights = instance
    W = weights.W if layer.d is None else weights.K @ weights.Q.mT
    for X, out in zip(problem.X, layer.predict(weights, problem), strict=True):
        by_hand = weights.u @ X.mT @ torch.softmax(X @ W @ X[layer.query], 0)
        assert relative_gap(out, by_hand) < 1e-13


@given(instances())
def test_closed_form_gradient_equals_autograd(instance):
    layer, problem, weights = instance
    train = moving(layer)
    leaves = differentiable(weights)
    expected = torch.autograd.grad(layer.loss(leaves, problem), [getattr(leaves, W) for W in train])
    loss, gradient = layer.loss_and_gradient(weights, problem, train)
    assert relative_gap(loss, layer.loss(weights, problem)) < 1e-14
    for W, true in zip(train, expected, strict=True):
        assert relative_gap(gradient[W], true) < 1e-11


@given(instances(), st.data())
def test_closed_form_gradient_equals_finite_differences(instance, data):
    # central differences with h = 1e-5 err by h^2 times the third derivative plus 1e-16 / h
    layer, problem, weights = instance
    W = data.draw(st.sampled_from(moving(layer)))
    value = getattr(weights, W)
    direction = torch.sin(torch.arange(value.numel(), dtype=torch.float64)).reshape(value.shape)
    ends = [
        layer.loss(weights._replace(**{W: value + h * direction}), problem) for h in (1e-5, -1e-5)
    ]
    slope = (ends[0] - ends[1]) / 2e-5
    gradient = layer.loss_and_gradient(weights, problem, W)[1][W]
    assert relative_gap((gradient * direction).sum(), slope) < 1e-6


@given(instances(runs=st.integers(1, 3)))
def test_a_batch_is_its_runs_one_by_one(instance):
    layer, problem, weights = instance
    train = moving(layer)
    loss, gradient = layer.loss_and_gradient(weights, problem, train)
    for r in range(len(loss)):
        one, single = layer.loss_and_gradient(
            type(weights)(*(W[r] for W in weights)), problem, train
        )
        assert relative_gap(loss[r], one) < 1e-13
        assert all(relative_gap(gradient[W][r], single[W]) < 1e-13 for W in train)


@given(instances(goals=["loss"]))
def test_attention_to_a_token_is_the_sigmoid_of_its_soft_margin(instance):
    layer, problem, weights = instance
    token = optimal(scores(problem, weights.u))
    attention = layer.attention(weights, problem).gather(-1, token[:, None]).squeeze(-1)
    margins = layer.soft_margins(weights, problem, token)
    assert relative_gap(attention, torch.sigmoid(margins)) < 1e-13


@given(instances(), st.sampled_from(["loss", "log loss"]))
def test_a_logarithm_has_the_gradient_over_the_loss(instance, other):
    layer, problem, weights = instance
    plain = Selection(layer.ell, layer.d, layer.query, "loss")
    logarithm = Selection(layer.ell, layer.d, layer.query, "log loss")
    loss, gradient = plain.loss_and_gradient(weights, problem, layer.trainable)
    log, divided = logarithm.loss_and_gradient(weights, problem, layer.trainable)
    assert relative_gap(log, loss.log()) < 1e-13
    for W in layer.trainable:
        assert relative_gap(divided[W] * loss, gradient[W]) < 1e-12


def exactly(layer, problem, weights, digits=1200):
    """Logarithm of the excess and its gradient by W, with so many digits that nothing is lost."""
    with mpmath.workdps(digits):
        X, z = problem.X.tolist(), problem.X[:, layer.query].tolist()
        W, gamma = weights.W.tolist(), scores(problem, weights.u).tolist()
        total, gradient = mpmath.mpf(0), mpmath.zeros(problem.D)
        for i in range(problem.N):
            key = [mpmath.fdot(row, z[i]) for row in W]
            e = [mpmath.exp(mpmath.fdot(x, key)) for x in X[i]]
            phi = [value / sum(e) for value in e]
            f = mpmath.fdot(phi, gamma[i])
            total += mpmath.log1p(mpmath.exp(-f)) - mpmath.log1p(mpmath.exp(-max(gamma[i])))
            for t in range(problem.n):
                weight = -phi[t] * (gamma[i][t] - f) / (1 + mpmath.exp(f))
                for j in range(problem.D):
                    for k in range(problem.D):
                        gradient[j, k] += weight * X[i][t][j] * z[i][k]
        gradient /= total
        entries = [[float(x) for x in row] for row in gradient.tolist()]
        return float(mpmath.log(total / problem.N)), torch.tensor(entries, dtype=torch.float64)


@pytest.mark.parametrize("length", [1.0, 40.0, 2000.0, -30.0])
def test_nothing_is_lost_however_far_attention_is_saturated(length):
    # exponents of size |W| are known to 1e-16 |W|, and with them all that they are exponents of
    problem, u = problems.planted(N=3, n=3, D=4, seed=5)
    layer = Selection(goal="log excess")
    W = length * margin.svm(problem, u).W
    W = W + layer.init(problem, seed=0).W
    weights = layer.init(problem, seed=0, u=u)._replace(W=W)
    log, true = exactly(layer, problem, weights)
    found, gradient = layer.loss_and_gradient(weights, problem, "W")
    assert abs(float(found) - log) < 1e-13 * max(1, abs(log))
    assert relative_gap(gradient["W"] / true.abs().max(), true / true.abs().max()) < 1e-11


def test_the_logarithm_passes_the_smallest_number_of_float64():
    # around e^-708, where processors told to drop denormal numbers lose factors of a product
    problem, u = problems.planted(N=3, n=3, D=12, seed=5)
    layer, mm = Selection(goal="log excess"), margin.svm(problem, u).W
    R = torch.arange(700, 716, 0.25, dtype=torch.float64)
    weights = layer.init(problem, seed=0, u=u)._replace(W=R[:, None, None] * mm)
    torch.set_flush_denormal(True)
    try:
        loss, gradient = layer.loss_and_gradient(weights, problem, "W")
    finally:
        torch.set_flush_denormal(False)
    assert torch.allclose(loss.diff(), torch.full((63,), -0.25).double(), atol=1e-9)
    assert torch.allclose(gradient["W"], gradient["W"][:1], atol=1e-9)


def test_copies_of_a_token_share_its_attention_and_break_nothing():
    problem, u = problems.planted(N=2, n=3, D=5, seed=0)
    X = torch.cat([problem.X, problem.X], 1)
    layer = Selection()
    weights = layer.init(problem, seed=0, scale=300.0, u=u)
    loss, gradient = layer.loss_and_gradient(weights, problem)
    twice = layer.loss_and_gradient(weights, problems.Problem(X, problem.y))
    assert relative_gap(loss, twice[0]) < 1e-13
    assert relative_gap(gradient["W"], twice[1]["W"]) < 1e-12


def test_init_draws_matrices_of_the_length_asked_for():
    problem, _ = problems.planted(N=2, n=3, D=6, seed=0)
    weights = Selection(d=3).init(problem, seed=0, runs=4000, scale=3.0)
    for W in weights[:2]:  # the mean square of 72 000 normal numbers is known to 2 %
        assert abs(float(W.square().sum((-2, -1)).mean()) - 9) < 0.2
    assert float(Selection().init(problem, seed=0, scale=0).W.abs().max()) == 0


def problem_with(X=None, y=None):
    problem, _ = problems.planted(N=2, n=3, D=4, seed=0)
    return problems.Problem(problem.X if X is None else X, problem.y if y is None else y)


def test_bad_data_is_named():
    layer, good = Selection(), problem_with()
    weights = layer.init(good, seed=0)
    silent = good.X.clone()
    silent[1, 0] = 0
    cases = {
        "labels": problem_with(y=torch.tensor([1.0, 2.0]).double()),
        "one label a token": problem_with(y=torch.ones(2, 3).double()),
        "nothing to select": problem_with(X=good.X[:, :1]),
        "is zero in 1 sequences": problem_with(X=silent),
        "all tokens are the same in 2 sequences": problem_with(X=good.X[:, :1].expand(2, 3, 4)),
    }
    for words, problem in cases.items():
        with pytest.raises(ValueError, match=words):
            layer.check(weights, problem)
    with pytest.raises(ValueError, match="query must be below n = 3"):
        Selection(query=3).check(weights, good)


def test_a_decoder_that_prefers_no_token_is_named():
    layer, problem = Selection(goal="log excess"), problem_with()
    weights = layer.init(problem, seed=0)
    with pytest.raises(ValueError, match="same score in 2 sequences.*decoder u zero"):
        layer.check(weights._replace(u=0 * weights.u), problem)
    twins = problem_with(X=torch.cat([problem.X, problem.X], 1))
    with pytest.raises(ValueError, match="two tokens share the largest score in 2.*merge copies"):
        layer.check(weights, twins)


def test_training_attention_for_a_decoder_that_tells_no_tokens_apart_is_refused():
    layer, problem = Selection(), problem_with()
    weights = layer.init(problem, seed=0, runs=3)
    u = weights.u.clone()
    u[1] = 0
    deaf = weights._replace(u=u)
    for train in (layer.objective, layer.on_lanes):
        with pytest.raises(ValueError, match="same score in 1 runs.*decoder u zero"):
            train(deaf, problem, "W")
        train(deaf, problem, "Wu")  # u may begin at zero if it is trained
    with pytest.raises(ValueError, match="decoder u zero"):
        descend(layer, problem, deaf, train="W", steps=3, step=steps.normalised(0.1))


def test_bad_weights_are_named():
    layer, problem = Selection(), problem_with()
    weights = layer.init(problem, seed=0)
    with pytest.raises(ValueError, match=r"W has shape \(4, 3\)"):
        layer.check(weights._replace(W=weights.W[:, :3]), problem)
    with pytest.raises(ValueError, match="u has 1 entries that are NaN"):
        u = weights.u.clone()
        u[0] = math.nan
        layer.check(weights._replace(u=u), problem)
    with pytest.raises(ValueError, match="log loss"):
        Selection(goal="log excess").loss_and_gradient(weights, problem, "Wu")
    with pytest.raises(ValueError, match="unknown ell 'hinge'"):
        Selection("hinge")
