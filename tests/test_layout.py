import importlib
import threading
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import differentiable, instances, relative_gap

from descent import _layout, descend, exact, kernels, models, problems, span, steps
from descent._monitor import Monitor

# Of a processor's two layouts for the attention layer, the second is the only one elsewhere.
LAYOUTS = {"on lanes": _layout.compiled().Groups, "in blocks": _layout.Blocks}
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


def take_one(runs):
    """One step of all runs."""
    losses = runs.loss.flatten().split(runs.sizes)
    runs.integrate(0, 1, [Monitor(loss, loss.expand(2, -1).clone()) for loss in losses])


def one_step(layout, layer, problem, weights, train, eta=0.01):
    """The loss, |gradient|^2, and the weights after a step, as a layout has them."""
    runs = layout(layer, weights, problem, train)
    loss, square = runs.loss, runs.square()
    runs.set_step(torch.full_like(loss, eta))
    take_one(runs)
    return loss, square, runs.weights()


def holds(layer, problem, weights, train, names=tuple(LAYOUTS)):
    """Loss, |gradient|^2 and one step agree with autograd to 1e-10, in each layout."""
    expected = gradient(layer, problem, weights, train)
    for name in names:
        agrees(one_step(LAYOUTS[name], layer, problem, weights, train), expected, weights, train)


def agrees(found, expected, weights, train):
    (loss, square, after), (expected, gradients) = found, expected
    runs = loss.ndim
    assert relative_gap(loss, expected) < 1e-10
    assert relative_gap(square, sum(g.square().flatten(runs).sum(-1) for g in gradients)) < 1e-10
    for W, g in zip(train, gradients, strict=True):
        assert relative_gap(getattr(after, W), getattr(weights, W) - 0.01 * g) < 1e-10
    for W in set("QKVO") - set(train):
        assert torch.equal(getattr(after, W), getattr(weights, W))


def test_the_books_kernels_are_compiled_for_a_processor_and_all_else_is_torchs(registry):
    mine = registry.register("mine", torch.exp)
    problem = problems.gaussian(2, 3, 4, seed=0)
    for kernel in (kernels.softmax, kernels.gaussian, mine):
        layer = models.Attention(kernel, H=2, d=3)
        weights = layer.init(problem, runs=2, seed=1)
        chosen = _layout.choose(layer, weights, problem, "QKV", True)
        assert chosen is LAYOUTS["in blocks" if kernel == mine else "on lanes"]
        there = on_meta(problem), type(weights)(*(W.to("meta") for W in weights))
        assert _layout.choose(layer, *reversed(there), "QKV", True) is _layout.Blocks


def on_meta(problem, dtype=torch.float64):
    """A problem on a device that knows shapes and refuses every look at a number."""
    problem = problem.to(dtype)
    for name in "Xy":
        object.__setattr__(problem, name, getattr(problem, name).to("meta"))
    return problem


@pytest.mark.parametrize("error", [ImportError("numpy is too new"), RuntimeError("no locator")])
def test_where_numba_is_of_no_use_the_sums_are_torchs(monkeypatch, error):
    _layout.compiled.cache_clear()
    monkeypatch.setattr(importlib, "import_module", mock.Mock(side_effect=error))
    problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention(H=2, d=3)
    weights = layer.init(problem, runs=2, seed=1)
    assert _layout.choose(layer, weights, problem, "QKV", True) is _layout.Blocks
    _layout.compiled.cache_clear()


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
    for layout in LAYOUTS.values():
        assert one_step(layout, layer, problem, weights, "QKV")[0].shape == (2, 3)


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
    holds(layer, problem, layer.init(problem, runs=3, seed=1), "QKV", ["in blocks"])


def test_a_kernel_that_returns_its_own_order_of_memory_is_put_right(registry):
    registry.register("rows", lambda C: torch.softmax(C.contiguous(), -1))
    problem, layer = problems.gaussian(3, 2, 5, seed=0), models.Attention("rows", H=2, d=3)
    holds(layer, problem, layer.init(problem, runs=3, seed=1), "QKV", ["in blocks"])


@pytest.mark.parametrize("dimension", [3, 40], ids=["more tokens", "more dimensions"])
def test_both_kinds_of_coordinates_are_exact(dimension):
    problem, layer = problems.gaussian(5, 3, dimension, seed=0), models.Attention(H=2, d=3)
    weights = layer.init(problem, runs=3, seed=1)
    assert _layout.Blocks(layer, weights, problem, "QKV").blocks[0].dual == (dimension == 40)
    assert LAYOUTS["on lanes"](layer, weights, problem, "QKV").shape.dual == (dimension == 40)
    holds(layer, problem, weights, "QKV")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_saturated_softmax_keeps_the_digits_of_its_gradient(layout):
    problem, layer = problems.gaussian(1, 2, 2, seed=0), models.Attention(H=1, d=2)
    weights = layer.init(problem, seed=1)
    weights = weights._replace(Q=16 * weights.Q)
    true = exact.gradient(layer, weights, problem)["Q"]
    square = layout(layer, weights, problem, "Q").square()
    expected = float(sum(entry**2 for entry in true))
    # written the usual way the pullback would have no digit right here
    assert abs(float(square) - expected) < 1e-12 * expected
    assert 1 - layer.forward(weights, problem).S.amax(-1).max() < 1e-16


def test_scores_beyond_the_range_of_the_exponential_are_no_harm():
    problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention(H=2, d=3)
    weights = layer.init(problem, runs=2, seed=1)
    weights = weights._replace(Q=1e5 * weights.Q)
    assert layer.forward(weights, problem).C.max() > 1e4
    holds(layer, problem, weights, "V")


def test_values_without_an_output_weight_stand_still():
    problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention(H=2, d=3)
    weights = layer.init(problem, runs=2, seed=1)
    weights.O[:, 0] = 0  # one head says nothing, and its |w_O|^2 is divided by
    holds(layer, problem, weights, "QKV")


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_blocks_of_runs_are_the_runs(monkeypatch, rule):
    monkeypatch.setattr(_layout, "compiled", lambda: None)
    problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention("gaussian", H=2, d=3)
    weights = layer.init(problem, runs=7, seed=1)
    # few steps: Polyak's bounces about, and multiplies an error each time
    whole = descend(layer, problem, weights, step=rule, steps=5)
    monkeypatch.setattr(_layout, "BLOCK", 3 * _layout.bytes_read(layer, problem, "QKV"))
    assert _layout.Blocks(layer, weights, problem, "QKV").sizes == [3, 3, 1]
    blocks = descend(layer, problem, weights, step=rule, steps=5)
    assert relative_gap(blocks.loss, whole.loss) < 1e-12
    assert relative_gap(blocks.weights.K, whole.weights.K) < 1e-12


class TestThreads:
    """Two threads, each with blocks or groups of its own."""

    @pytest.fixture(autouse=True)
    def two_threads(self, monkeypatch):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        yield
        assert torch.get_num_threads() == 2
        torch.set_num_threads(before)

    @pytest.fixture(params=LAYOUTS)
    def small(self, request, monkeypatch):
        """``small()``: blocks of two runs, and a second thread for however few."""
        problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention(H=2, d=3)
        if request.param == "in blocks":
            monkeypatch.setattr(_layout, "compiled", lambda: None)

        def make_it():
            monkeypatch.setattr(_layout, "BLOCK", 2 * _layout.bytes_read(layer, problem, "QKV"))
            monkeypatch.setattr(_layout, "ALONE", 0)
            monkeypatch.setattr(_layout.compiled() or _layout, "ALONE", 0)

        make_it.blocks = request.param == "in blocks"
        return make_it

    def run(self, layer=None, **options):
        problem = problems.gaussian(2, 3, 4, seed=0)
        layer = layer or models.Attention("softmax", H=2, d=3)
        weights = layer.init(problem, runs=20, seed=1)
        # steps that end runs 3 and 8 by divergence, and some others at their target
        step = torch.full((20,), 0.02, dtype=torch.float64)
        step[[3, 8]] = 1e6
        return descend(layer, problem, weights, step=step, steps=100, until=0.5, **options)

    @pytest.mark.filterwarnings("ignore::descent.DivergenceWarning")
    def test_they_take_the_steps_that_one_takes(self, small):
        alone = self.run()
        small()
        shared = self.run()
        assert torch.equal(shared.diverged_at, alone.diverged_at)
        assert torch.equal(shared.stopped_at, alone.stopped_at)
        assert set((alone.diverged_at > 0).nonzero().flatten().tolist()) == {3, 8}
        assert torch.equal(shared.loss.isnan(), alone.loss.isnan())
        assert relative_gap(shared.loss.nan_to_num(), alone.loss.nan_to_num()) < 1e-12
        assert relative_gap(shared.weights.Q, alone.weights.Q) < 1e-12

    @pytest.mark.filterwarnings("ignore::descent.DivergenceWarning")
    def test_they_take_denormal_numbers_for_zero_and_call_no_thread_themselves(
        self, small, monkeypatch
    ):
        seen = set()
        tiny = torch.tensor(1e-308, dtype=torch.float64)
        owner, name = (_layout, "_take_turns") if small.blocks else (LAYOUTS["on lanes"], "_share")
        original = getattr(owner, name)

        def watched(*arguments):
            flushed = bool(tiny * 0.1 == 0)
            seen.add((threading.current_thread().name[:7], flushed, torch.get_num_threads()))
            return original(*arguments)

        small()
        monkeypatch.setattr(owner, name, watched)
        self.run()
        seen.discard(("MainThr", False, 2))  # the loss at the start, before any step
        assert seen == {("descend", True, 1)}

    def test_an_error_in_one_comes_out(self, small, registry):
        calls = []

        def value(C):
            calls.append(C)
            if len(calls) > 20:
                raise ArithmeticError("no more")
            return torch.exp(C)

        registry.register("tired", value)
        small()
        with pytest.raises(ArithmeticError, match="no more"):
            self.run(models.Attention("tired", H=2, d=3))


def arrays_in(things):
    """Those of numpy among them, and within tuples, as tensors."""
    for x in things:
        if isinstance(x, np.ndarray):
            yield torch.from_numpy(x)
        elif isinstance(x, tuple):
            yield from arrays_in(x)


@pytest.mark.parametrize("train", ["V", "Q", "QKV"])
@pytest.mark.parametrize("dimension", [8, 32])
@pytest.mark.parametrize("by_run", [False, True], ids=["one problem", "one of each run"])
def test_the_memory_that_is_asked_for_covers_what_is_held(by_run, dimension, train):
    problem, layer = problems.gaussian(8, 4, dimension, seed=0), models.Attention(H=2, d=8)
    if by_run:
        X, y = problem.X.expand(300, -1, -1, -1), problem.y.expand(300, -1, -1)
        problem = problems.Problem(X.clone(), y.clone())
    weights = layer.init(problem, runs=300, seed=1)
    for layout in LAYOUTS.values() if not by_run else [LAYOUTS["on lanes"]]:
        runs = layout(layer, weights, problem, train)
        runs.set_step(torch.full_like(runs.loss, 0.01))
        take_one(runs)
        held = [*weights, *runs.weights()]
        if layout is _layout.Blocks:
            for block in runs.blocks:
                held += [value for value in vars(block).values() if isinstance(value, torch.Tensor)]
        else:
            held += arrays_in([*runs.state, *runs.products, *runs.scratch, *runs.data])
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in held}
        count, per_run, fixed = layout.needs(layer, weights, problem, train)
        assert count == 300 and sum(storages.values()) <= count * per_run + fixed


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
    assert not _layout.fits(models.Attention(d=2**14), problem)
    assert not _layout.fits(object(), problem)


def test_without_reduction_nothing_is_rearranged():
    problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention(d=3)
    weights = layer.init(problem, runs=2, seed=1)
    choose = partial(_layout.choose, layer, weights, problem, "Q")
    assert choose(compact=False) is _layout.Plain
    assert choose(compact=True) is LAYOUTS["on lanes"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_device_and_the_precision_are_the_problems(dtype):
    problem = problems.gaussian(2, 3, 6, seed=0)
    layer = models.Attention("softmax", H=2, d=3)
    weights = layer.init(problem, runs=4, seed=1)
    problem = on_meta(span.reduce(problem).problem, dtype)
    weights = type(weights)(*(W.to("meta", dtype) for W in weights))
    runs = _layout.Blocks(layer, weights, problem, "QKV")
    assert len(runs.blocks) == 1
    runs.set_step(torch.full((4,), 0.1, device="meta", dtype=dtype))
    block = runs.blocks[0]
    block.roll_back(block.step() <= 1)
    seen = [runs.loss, runs.square(), *runs.weights()]
    assert {(x.device.type, x.dtype) for x in seen} == {("meta", dtype)}
    assert runs.weights().Q.shape == weights.Q.shape
