import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import differentiable, instances, relative_gap

from descent import _layout, descend, kernels, models, problems, span, steps

RULES = {"1/L": "1/L", "normalised": steps.normalised(0.01), "Polyak": steps.polyak()}
TRAIN = st.sampled_from(["Q", "K", "V", "QK", "QV", "KV", "QKV"])


@pytest.fixture
def registry():
    """Kernels of a test's own, gone after it."""
    before = dict(kernels._registry)
    yield kernels
    kernels._registry.clear()
    kernels._registry.update(before)


def gradient(layer, problem, weights, train):
    """The loss and torch's own gradient."""
    leaves = differentiable(weights)
    loss = layer.loss(leaves, problem)
    return loss, torch.autograd.grad(loss.sum(), [getattr(leaves, W) for W in train])


def one_step(layer, problem, weights, train, eta=0.01):
    """The loss, |gradient|^2, and the weights after a step, as the compact layout has them."""
    course = _layout.Blocks(layer, weights, problem, train)
    loss, square = course.loss, course.square()
    course.pace(torch.full_like(loss, eta))
    course.propose()
    course.accept(None)
    return loss, square, course.weights()


def holds(layer, problem, weights, train):
    """Loss, |gradient|^2 and one step agree with autograd to 1e-10."""
    loss, square, after = one_step(layer, problem, weights, train)
    expected, gradients = gradient(layer, problem, weights, train)
    runs = loss.ndim
    assert relative_gap(loss, expected) < 1e-10
    assert relative_gap(square, sum(g.square().flatten(runs).sum(-1) for g in gradients)) < 1e-10
    for W, g in zip(train, gradients, strict=True):
        assert relative_gap(getattr(after, W), getattr(weights, W) - 0.01 * g) < 1e-10
    for W in set("QKVO") - set(train):
        assert torch.equal(getattr(after, W), getattr(weights, W))


@given(instances(runs=st.integers(1, 5)), TRAIN)
def test_a_step_is_the_one_that_autograd_takes(instance, train):
    holds(*instance, train)


@given(instances(), TRAIN)
def test_a_single_run_without_a_dimension_of_runs_is_one_too(instance, train):
    holds(*instance, train)


def test_runs_may_have_any_leading_dimensions():
    problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention("gaussian", H=2, d=3)
    flat = layer.init(problem, runs=6, seed=1)
    weights = type(flat)(*(W.unflatten(0, (2, 3)) for W in flat))
    holds(layer, problem, weights, "QKV")
    assert one_step(layer, problem, weights, "QKV")[0].shape == (2, 3)


@pytest.mark.parametrize("score", ["dot", "distance"])
@pytest.mark.parametrize("written", [True, False], ids=["pullback", "autograd"])
def test_a_kernel_of_ones_own_is_trained_as_well(registry, score, written):
    registry.register(
        "cauchy",
        lambda C: 1 / (1 + C**2),
        score=score,
        pullback=(lambda C, S, dS: -2 * C * S**2 * dS) if written else None,
    )
    problem, layer = problems.gaussian(3, 2, 5, seed=0), models.Attention("cauchy", H=2, d=3)
    holds(layer, problem, layer.init(problem, runs=3, seed=1), "QKV")


def test_a_kernel_that_returns_its_own_order_of_memory_is_put_right(registry):
    registry.register("rows", lambda C: torch.softmax(C.contiguous(), -1))
    problem, layer = problems.gaussian(3, 2, 5, seed=0), models.Attention("rows", H=2, d=3)
    holds(layer, problem, layer.init(problem, runs=3, seed=1), "QKV")


@pytest.mark.parametrize("dimension", [3, 40], ids=["more tokens", "more dimensions"])
def test_both_kinds_of_coordinates_are_exact(dimension):
    problem, layer = problems.gaussian(5, 3, dimension, seed=0), models.Attention(H=2, d=3)
    weights = layer.init(problem, runs=3, seed=1)
    assert _layout.Blocks(layer, weights, problem, "QKV").blocks[0].dual == (dimension == 40)
    holds(layer, problem, weights, "QKV")


def test_values_without_an_output_weight_stand_still():
    problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention(H=2, d=3)
    weights = layer.init(problem, runs=2, seed=1)
    weights.O[:, 0] = 0  # one head says nothing, and its |w_O|^2 is divided by
    holds(layer, problem, weights, "QKV")


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_blocks_of_runs_are_the_runs(monkeypatch, rule):
    problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention("gaussian", H=2, d=3)
    weights = layer.init(problem, runs=7, seed=1)
    # few steps: Polyak's bounces about, and multiplies an error each time
    whole = descend(layer, problem, weights, step=rule, steps=5)
    monkeypatch.setattr(_layout, "BLOCK", 3 * _layout.bytes_read(layer, problem, "QKV"))
    assert _layout.Blocks(layer, weights, problem, "QKV").sizes == [3, 3, 1]
    blocks = descend(layer, problem, weights, step=rule, steps=5)
    assert relative_gap(blocks.loss, whole.loss) < 1e-12
    assert relative_gap(blocks.weights.K, whole.weights.K) < 1e-12


@pytest.mark.parametrize("train", ["V", "Q", "QKV"])
@pytest.mark.parametrize("dimension", [8, 32])
def test_the_memory_that_is_asked_for_covers_what_is_held(dimension, train):
    problem, layer = problems.gaussian(8, 4, dimension, seed=0), models.Attention(H=2, d=8)
    weights = layer.init(problem, runs=300, seed=1)
    course = _layout.Blocks(layer, weights, problem, train)
    course.pace(torch.full_like(course.loss, 0.01))
    course.propose()
    held = [*weights, *course.weights()]
    for block in course.blocks:
        held += [value for value in vars(block).values() if isinstance(value, torch.Tensor)]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in held}
    runs, per_run = _layout.Blocks.needs(layer, weights, problem, train)
    assert runs == 300 and sum(storages.values()) <= runs * per_run


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_both_layouts_follow_every_rule_alike(rule):
    problem, layer = problems.gaussian(2, 3, 30, seed=0), models.Attention(H=2, d=3)
    weights = layer.init(problem, runs=3, seed=1)
    compact = descend(layer, problem, weights, step=rule, steps=5)
    plain = descend(layer, problem, weights, step=rule, steps=5, reduce=False)
    assert relative_gap(compact.loss, plain.loss) < 1e-10


def test_a_problem_for_each_run_and_large_matrices_are_left_to_the_plain_layout():
    layer, problem = models.Attention(d=8), problems.gaussian(2, 3, 4, seed=0)
    batch = problems.Problem(problem.X.expand(2, 2, 3, 4), problem.y.expand(2, 2, 3))
    assert _layout.fits(layer, problem)
    assert not _layout.fits(layer, batch)
    assert not _layout.fits(models.Attention(d=_layout.SMALL), problem)
    assert not _layout.fits(object(), problem)


def test_without_reduction_nothing_is_rearranged():
    problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention(d=3)
    weights = layer.init(problem, runs=2, seed=1)
    assert type(_layout.course(layer, weights, problem, "Q", False, 1)) is _layout.Plain
    assert type(_layout.course(layer, weights, problem, "Q", True, 1)) is _layout.Blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_device_and_the_precision_are_the_problems(dtype):
    # the meta device knows shapes and refuses every look at a number, as a GPU would have to wait
    problem = problems.gaussian(2, 3, 6, seed=0)
    layer = models.Attention("softmax", H=2, d=3)
    weights = layer.init(problem, runs=4, seed=1)
    problem, weights = (
        span.reduce(problem).problem.to(dtype),
        type(weights)(*(W.to("meta", dtype) for W in weights)),
    )
    object.__setattr__(problem, "X", problem.X.to("meta"))
    object.__setattr__(problem, "y", problem.y.to("meta"))
    course = _layout.Blocks(layer, weights, problem, "QKV")
    assert len(course.blocks) == 1
    course.pace(torch.full((4,), 0.1, device="meta", dtype=dtype))
    loss = course.propose()
    course.accept(loss <= 1)
    seen = [loss, course.square(), *course.weights()]
    assert {(x.device.type, x.dtype) for x in seen} == {("meta", dtype)}
    assert course.weights().Q.shape == weights.Q.shape
