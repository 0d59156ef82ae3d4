import itertools

import pytest
import sympy as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from strategies import differentiable, relative_gap

from descent import descend, draws, models, symbolic
from descent.models import LinearAttention, in_context, linear_attention
from descent.problems import Problem


@st.composite
def instances(draw, ranks=(None, 1, 2)):
    """Heads of any kind on inputs of any spectrum and axes, two runs."""
    H, D, n = (draw(st.integers(*of)) for of in ((1, 3), (1, 4), (1, 40)))
    seed = draw(st.integers(0, 999))
    X = draws.normal(seed, "X", (1, D + 2, D))
    problem = Problem(X, torch.zeros_like(X[..., 0]))
    model = LinearAttention(H, n, draw(st.sampled_from(ranks)))
    return model, problem, model.init(problem, seed=seed + 1, runs=2)


@given(instances())
def test_gradient_is_that_of_autograd(instance):
    model, problem, weights = instance
    leaves = differentiable(weights)
    found = torch.autograd.grad(model.loss(leaves, problem).sum(), leaves)
    closed = model.loss_and_gradient(weights, problem, model.trainable)[1]
    for letter, gradient in zip(model.trainable, found, strict=True):
        assert relative_gap(closed[letter], gradient) < 1e-12


@given(instances())
def test_gradient_is_that_of_differences(instance):
    model, problem, weights = instance
    along = model.init(problem, seed=5, runs=2)
    h = 1e-5

    def moved(by):
        step = type(weights)(*(W + by * E for W, E in zip(weights, along, strict=True)))
        return model.loss(step, problem)

    slope = (moved(h) - moved(-h)) / (2 * h)
    closed = model.loss_and_gradient(weights, problem, model.trainable)[1]
    wanted = sum(
        (closed[letter] * E).flatten(1).sum(1)
        for letter, E in zip(model.trainable, along, strict=True)
    )
    # the third derivative, a polynomial in the entries, times h^2
    assert (slope - wanted).abs().max() < 1e-6 * (1 + wanted.abs().max()) * (
        1 + float(model.landscape(problem).G.abs().max()) ** 2
    )


@pytest.mark.parametrize(("H", "D", "rank"), list(itertools.product((1, 2), (1, 2), (None, 1, 2))))
def test_loss_and_gradient_are_those_of_sympy(H, D, rank):
    derived = symbolic.linear_attention(H, D, rank)
    spectrum = [1.0, 0.5][:D]
    problem, model = linear_attention.inputs(spectrum), LinearAttention(H, 7, rank)
    weights = model.init(problem, seed=2)
    values = dict(zip(derived.spectrum, spectrum, strict=True)) | {derived.n: 7}
    for letter, W in weights._asdict().items():
        blocks = derived.weights[letter]
        flat = blocks if letter == "V" else [e for block in blocks for e in block]
        values |= dict(zip(flat, W.flatten().tolist(), strict=True))
    loss, gradient = model.loss_and_gradient(weights, problem, model.trainable)
    assert abs(float(derived.loss.subs(values)) - float(loss)) < 1e-13
    for letter, found in gradient.items():
        wanted = derived.gradient[letter]
        flat = wanted if letter == "V" else [e for block in wanted for e in block]
        exact = torch.tensor([float(sp.sympify(e).subs(values)) for e in flat], dtype=torch.float64)
        assert (found.flatten() - exact).abs().max() < 1e-13


def test_the_loss_is_that_of_the_other_chapter_but_for_the_fourth_moment():
    # f° = h = x on a fixed population: C = Sigma = Lambda, and W is M
    X = draws.normal(0, "x", (50, 3))
    problem, n = Problem(X[None], torch.zeros(1, 50).double()), 10**9
    plain = models.InContext(in_context.Activation(lambda Z: Z, torch.ones_like))
    eye = torch.eye(3).double()
    population, neurons = in_context.Population(X, X), in_context.Neurons(3 * eye, eye)
    model = LinearAttention(H=2, n=n)
    weights = model.init(problem, seed=1)
    other = plain.finite_loss(neurons, model.joined(weights), population, n)
    assert abs(float(model.loss(weights, problem) - other)) < 1e-6
    assert relative_gap(model.best(problem), plain.best_attention(neurons, population, n)) < 1e-6


def test_prompts_have_the_moments_that_are_asked_for():
    X = draws.normal(3, "x", (1, 5, 2))
    problem = Problem(X, torch.zeros_like(X[..., 0]))
    drawn = linear_attention.prompts(problem, N=20_000, n=3, seed=0)
    inputs = torch.cat([drawn.X.flatten(0, 1), drawn.query])
    Lambda = LinearAttention().landscape(problem).Lambda
    # 80 000 vectors: an entry is off by less than five standard errors, each at most 2 |Lambda| / 280
    assert (inputs.mT @ inputs / len(inputs) - Lambda).abs().max() < 10 * Lambda.norm() / 280
    w = torch.linalg.lstsq(drawn.X[:, :2], drawn.y[:, :2, None]).solution.squeeze(-1)
    answer = (w * drawn.query).sum(-1)
    assert ((answer - drawn.answer).abs().median() < 1e-12) and abs(float(w.median())) < 0.05


@given(instances(ranks=(None,)))
def test_no_weights_have_less_than_the_least_loss(instance):
    model, problem, weights = instance
    least = model.least(problem)
    silent = problem.tokens.square().sum() / len(problem.tokens) / 2
    assert (model.loss(weights, problem) >= least - 1e-12 * silent).all()
    assert abs(float(least - (silent - model.gains(problem).sum()))) < 1e-10 * float(silent)
    best = model.best(problem)
    one = linear_attention.MergedWeights(torch.ones(1).double(), best[None])
    alone = LinearAttention(1, model.n)
    assert abs(float(alone.loss(one, problem) - least)) < 1e-10 * float(silent)
    # the condition of G, a square of that of Lambda, costs digits
    condition = float(torch.linalg.cond(model.landscape(problem).G))
    assert (alone.learned(one, problem) - 1).abs().max() < 1e-12 * condition + 1e-10


def test_many_short_steps_of_descent_follow_the_flow():
    problem = linear_attention.inputs([1.0, 0.5])
    for rank in (None, 1, 2):
        model = LinearAttention(H=2, n=9, rank=rank)
        start = model.init(problem, seed=0, runs=3, scale=0.5)
        path = model.flow(start, problem, torch.tensor([0.0, 1.0, 4.0]).double())
        assert all(relative_gap(W[0], S) == 0 for W, S in zip(path, start, strict=True))
        gaps = []
        for step in (0.01, 0.005):
            run = descend(model, problem, start, step=step, steps=round(4 / step))
            gaps.append(max(relative_gap(a, W[-1]) for a, W in zip(run.weights, path, strict=True)))
        assert gaps[1] < 0.02 and 0.4 < gaps[1] / gaps[0] < 0.6  # Euler is of order one


def test_at_time_zero_the_flow_is_where_it_starts():
    model, problem = LinearAttention(H=2, n=9, rank=1), linear_attention.inputs([1.0, 0.5])
    start = model.init(problem, seed=0, runs=3)
    only = model.flow(start, problem, torch.tensor([0.0]).double())
    assert all(torch.equal(W, S[None]) for W, S in zip(only, start, strict=True))


@pytest.mark.parametrize("scale", [1e3, 1e60])
def test_a_flow_that_does_not_end_says_so(monkeypatch, scale):
    monkeypatch.setattr(linear_attention, "EVALUATIONS", 1000)
    model, problem = LinearAttention(2, 5, rank=1), linear_attention.inputs([1.0, 0.5])
    start = model.init(problem, seed=0, scale=scale)
    with pytest.raises(RuntimeError, match="the flow is lost at time .*: start smaller"):
        model.flow(start, problem, torch.tensor([0.0, 1.0]).double())


@pytest.mark.parametrize("c", [1e-15, 1e15])
def test_the_flow_is_as_accurate_in_any_units(c):
    """Tokens times c: the same flow, of weights c^-2/3 times as long, at times c^-10/3."""
    X, model, times = draws.normal(0, "X", (1, 8, 2)), LinearAttention(2, 5, 1), torch.arange(4.0)

    def flow(c, a):
        problem = Problem(c * X, torch.zeros(1, 8).double())
        start = model.init(problem, seed=1, scale=0.02 * a)
        return model.flow(start, problem, times.double() * (a / c) ** 2)

    a = c ** (-2 / 3)
    for W, known in zip(flow(c, a), flow(1.0, 1.0), strict=True):
        assert (W / a - known).abs().max() < 1e-8 * known.abs().max()


def test_the_flow_takes_single_precision_and_gives_it_back():
    problem = linear_attention.inputs([1.0, 0.5])
    model, times = LinearAttention(H=2, n=9, rank=1), torch.tensor([0.0, 5.0])
    start = model.init(problem, seed=0)
    whole = model.flow(start, problem, times)
    single = type(start)(*(W.float().requires_grad_() for W in start))
    found = model.flow(single, problem.to(torch.float32), times)
    assert all(W.dtype == torch.float32 for W in found)
    # roundings of 1e-7 grow at rate one or so for five units of time
    assert all(relative_gap(a.double(), b) < 1e-5 for a, b in zip(found, whole, strict=True))
    assert linear_attention.stairs(model, single, problem.to(torch.float32)).direction.tolist() == [
        0,
        1,
    ]


def test_aligned_starts_are_balanced_and_as_long_as_said():
    X = draws.normal(4, "x", (1, 5, 3))
    problem, size = (
        Problem(X, torch.zeros_like(X[..., 0])),
        torch.tensor([0.5, 0.1], dtype=torch.float64),
    )
    for H, rank in ((4, None), (4, 1), (2, 2)):
        model = LinearAttention(H=H, n=5, rank=rank)
        at = model.aligned(problem, size)
        squares = at.V.square(), *(W.square().sum((-2, -1)) for W in at[1:])
        total = 1 if rank is None else H
        for each in squares:
            assert relative_gap(each.sum(-1), total * size**2) < 1e-14
        one = model.aligned(problem, 0.1)
        assert all(relative_gap(a[1], b) < 1e-15 for a, b in zip(at, one, strict=True))
        # M is a function of Lambda
        Lambda, M = model.landscape(problem).Lambda, model.joined(at)
        assert (M @ Lambda - Lambda @ M).abs().max() < 1e-13


@pytest.mark.parametrize(("size", "share"), [(0.3, 0.2), (0.05, 0.5), (0.05, 0.99)])
def test_an_aligned_head_climbs_as_long_as_its_equation_says(size, share):
    problem, model = linear_attention.inputs([1.0, 0.6]), LinearAttention(H=2, n=9, rank=1)
    found = linear_attention.climbing_time(model, problem, size, share)
    for time, lam in zip(found, (1.0, 0.6), strict=True):
        g = (1 + 1 / 9) * lam**2 + 1.6 * lam / 9
        end = (share * lam / g) ** (1 / 3)
        wanted, _ = quad(lambda s, lam=lam, g=g: 1 / (lam**2 * s**2 - g * lam * s**5), size, end)
        assert abs(float(time) / wanted - 1) < 1e-7


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_stairs_scale_with_the_inverse_of_the_start(scale):
    problem = linear_attention.inputs([1.0, 0.6, 0.35])
    model = LinearAttention(H=4, n=20, rank=1)
    start = model.init(problem, seed=0, runs=5)
    found = linear_attention.stairs(model, start, problem)
    small = type(start)(*(scale * W for W in start))
    scaled = linear_attention.stairs(model, small, problem)
    assert relative_gap(scale * scaled.time, found.time) < 1e-9
    assert torch.equal(scaled.head, found.head)
    assert (found.direction == torch.arange(3)).all()
    assert (found.time.diff(dim=-1) > 0).all()


def test_stairs_of_aligned_heads_are_known():
    problem = linear_attention.inputs([1.0, 0.6, 0.35])
    model = LinearAttention(H=3, n=20, rank=1)
    found = linear_attention.stairs(model, model.aligned(problem, 0.1), problem)
    # s' = lambda^2 s^2 is infinite at 1 / (lambda^2 s(0)); the last millionth is left out
    assert relative_gap(found.time, 10 / model.spectrum(problem).square()) < 3e-6
    assert found.head.tolist() == found.direction.tolist() == [0, 1, 2]


def test_a_head_that_does_not_move_has_no_stairs():
    problem = linear_attention.inputs([1.0, 0.5])
    model = LinearAttention(H=1, n=20, rank=1)
    start = model.aligned(problem, 0.1)
    found = linear_attention.stairs(model, start._replace(K=0 * start.K, V=0 * start.V), problem)
    assert found.time.tolist() == [torch.inf] and found.direction.tolist() == [-1]


def wide(problem):
    return LinearAttention(2, 20, 2).init(problem, seed=0)


def test_it_is_a_model():
    assert isinstance(LinearAttention(), models.Model)
    problem = linear_attention.inputs([1.0, 0.5])
    for rank in (None, 2):
        model = LinearAttention(2, 9, rank)
        few, more = (model.init(problem, seed=0, runs=r) for r in (2, 5))
        assert all(torch.equal(a, b[:2]) for a, b in zip(few, more, strict=True))
        run = descend(model, problem, more, steps=200)
        assert (run.loss[-1] < run.loss[0]).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m, p, w: LinearAttention(0), "H must be at least 1"),
        (lambda m, p, w: LinearAttention(1, 5, 0), "rank must be at least 1"),
        (lambda m, p, w: m.check(tuple(w), p), "weights must be SeparateWeights"),
        (lambda m, p, w: m.check(w._replace(V=w.V[:1]), p), "V has shape .* H = 2 heads"),
        (lambda m, p, w: m.check(w._replace(K=w.K * torch.nan), p), "K has 4 entries that are NaN"),
        (lambda m, p, w: linear_attention.inputs([1.0, 0.0]), "a line of positive numbers"),
        (lambda m, p, w: linear_attention.climbing_time(m, p, 0.9, 0.1), "has more of some"),
        (
            lambda m, p, w: linear_attention.stairs(m, type(w)(*(0 * W for W in w)), p),
            "all weights zero",
        ),
        (
            lambda m, p, w: linear_attention.stairs(LinearAttention(2, 20, 2), wide(p), p),
            "heads must have rank 1",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named(change, says):
    problem = linear_attention.inputs([1.0, 0.5])
    model = LinearAttention(2, 20, 1)
    with pytest.raises((ValueError, TypeError), match=says):
        change(model, problem, model.init(problem, seed=0))
