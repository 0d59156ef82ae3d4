"""The compiled engine: numbers of several runs as one, and the surface on which a model states its step."""

import importlib.util
import math
import os
import platform
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numba import config, njit
from strategies import instances, relative_gap
from torch.nn.functional import logsigmoid

from descent import _descend, _layout, descend, lanes, models, problems, steps
from descent.lanes import _groups, _register, _stretch, _surface
from descent.models import encoder, in_context, selection
from descent.models._attention_step import step as attention_step
from descent.models._encoder_step import slope_of_tanh, tanh

ROOT = Path(__file__).parent.parent
TRAIN = st.sampled_from(["Q", "K", "V", "QK", "QV", "KV", "QKV"])
TYPES = ["float64", "float32"]


def on_all_lanes(function, *arrays):
    """A function of numbers, on arrays (rows, lanes)."""
    compiled = njit(function)

    @njit(error_model="numpy")
    def each(arrays, out):
        inputs, result = _register.all_as_lanes(arrays), _register.as_lanes(out)
        for i in range(len(out)):
            result[i] = compiled(inputs[0][i], inputs[1][i])

    out = np.empty_like(arrays[0])
    each(arrays, out)
    return out


def draw(dtype, rows=50):
    generator = np.random.default_rng(0)
    return generator.standard_normal((2, rows, _register.width(dtype))).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_lanes_do_what_each_number_would(dtype):
    def formula(x, y):
        total = 0.0
        for k in range(3):
            total += 2 * x - k / (1 + y * y)
        total -= lanes.where(x, y, -0.5)
        return max(total, -x) + max(x, 0.25) + math.log1p(y * y)

    x, y = draw(dtype)
    expected = 6 * x - 3 / (1 + y * y) - np.where(x > 0, y, -0.5)
    expected = np.maximum(expected, -x) + np.maximum(x, 0.25) + np.log1p(y * y)
    assert np.abs(on_all_lanes(formula, x, y) - expected).max() < 30 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", TYPES)
def test_the_exponential_is_right_to_one_unit_in_the_last_place(dtype):
    limits = {"float64": (-708.0, 709.78), "float32": (-87.0, 88.72)}[dtype]
    x = np.linspace(*limits, 4000 * _register.width(dtype)).astype(dtype)
    x = x.reshape(-1, _register.width(dtype))
    true = np.exp(x.astype(np.longdouble))
    found = on_all_lanes(lambda x, y: math.exp(x), x, x)
    assert (np.abs(found - true) / np.spacing(true.astype(dtype))).max() < 1


FUNCTIONS = {
    "log": (lambda x, y: math.log(x), np.log, (-30, 30), 1),
    "log1p": (lambda x, y: math.log1p(x), np.log1p, (-20, 30), 3),
    "expm1": (lambda x, y: math.expm1(x), np.expm1, (-20, 1.8), 3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", TYPES)
def test_logarithms_and_differences_from_one_keep_their_digits(dtype, name):
    function, true, powers, units = FUNCTIONS[name]
    x = 10 ** np.linspace(*powers, 4000 * _register.width(dtype))
    if name != "log":
        x = np.concatenate([x, -np.minimum(x, 0.999)])
    x = x.astype(dtype).reshape(-1, _register.width(dtype))
    expected = true(x.astype(np.longdouble))
    found = on_all_lanes(function, x, x)
    assert (np.abs(found - expected) / np.spacing(np.abs(expected).astype(dtype))).max() < units


@pytest.mark.parametrize("dtype", TYPES)
def test_logarithms_beyond_their_range_are_infinite_or_no_number(dtype):
    inf, nan = np.inf, np.nan
    x = np.array([0.0, -1.0, -2.0, inf, -inf, nan], dtype)[:, None]
    x = np.repeat(x, _register.width(dtype), 1)
    for name, expected in {
        "log": [-inf, nan, nan, inf, nan, nan],
        "log1p": [0, -inf, nan, inf, nan, nan],
        "expm1": [0, np.expm1(-1), np.expm1(-2), inf, -1, nan],
    }.items():
        found = on_all_lanes(FUNCTIONS[name][0], x, x)
        assert np.allclose(found, np.array(expected)[:, None], rtol=1e-6, equal_nan=True), name


@pytest.mark.parametrize("dtype", TYPES)
def test_the_exponential_beyond_its_range_is_zero_infinite_or_no_number(dtype):
    x = np.zeros((1, _register.width(dtype)), dtype)
    for given_, expected in ((-1e4, 0.0), (-np.inf, 0.0), (1e4, np.inf), (np.inf, np.inf)):
        x[:] = given_
        assert (on_all_lanes(lambda x, y: math.exp(x), x, x) == expected).all()
    x[:] = np.nan
    assert np.isnan(on_all_lanes(lambda x, y: math.exp(x), x, x)).all()


# -- the attention layer ----------------------------------------------------------------------------


def of_one_run(model, problem, one, train):
    """The step as Python runs it, on the first run: the loss, and the gradients of what is trained."""
    step = model.on_lanes(one, problem, train)
    image = [(read.through @ read.columns[0].mT).mT.numpy() for read in step.reads.values()]
    pulled = [np.full_like(x, np.nan) for x in image]
    trained = [W in train for W in step.reads]
    scratch = [np.empty(shape) for shape in step.scratch]
    loss = step.function(image, pulled, trained, True, scratch, step.data)
    parts = zip(step.reads.items(), pulled, strict=True)
    back = {W: read.write(torch.from_numpy(g)[None] @ read.through) for (W, read), g in parts}
    return loss, {W: back[W] for W in train}


def agrees_for_one_run(model, problem, one, train):
    """That against the closed form."""
    loss, found = of_one_run(model, problem, one, train)
    expected, gradient = model.loss_and_gradient(one, problem, train)
    assert abs(loss - float(expected)) < 1e-12 * max(1, abs(float(expected)))
    for W, g in found.items():
        assert relative_gap(g[0], gradient[W][0]) < 1e-11


@given(instances(), TRAIN)
def test_called_from_python_the_step_is_that_of_one_run(instance, train):
    layer, problem, weights = instance
    agrees_for_one_run(layer, problem, type(weights)(*(W[None] for W in weights)), train)


NARROW = """
import torch
from descent import _layout, descend, models, problems
from descent.lanes import _register
problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention(H=2, d=3)
weights = layer.init(problem, runs=5, seed=1)
run = descend(layer, problem, weights, step=0.01, steps=20)
own = problems.Problem(*(torch.stack([x * r for r in range(5)]) for x in (problem.X, problem.y)))
run_own = descend(layer, own, weights, step=0.001, steps=20)
_layout.compiled = lambda: None
assert torch.allclose(run.loss, descend(layer, problem, weights, step=0.01, steps=20).loss)
assert torch.allclose(run_own.loss, descend(layer, own, weights, step=0.001, steps=20).loss)
print(_register.REGISTER)
"""


def in_a_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"} | environment,
    )


@pytest.mark.parametrize(
    ("register", "processor", "features"),
    [(32, "haswell", "+avx,+avx2,+fma"), (16, "generic", "+sse2")],
    ids=["AVX2", "SSE2"],
)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are names of x86 processors")
def test_a_processor_with_narrower_registers_takes_the_same_steps(register, processor, features):
    run = in_a_process(NARROW, NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES=features)
    assert run.stdout == f"{register}\n", run.stderr


SWITCHED_OFF = """
from descent import _layout, descend, models, problems
problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention(H=2, d=3)
run = descend(layer, problem, layer.init(problem, runs=3, seed=1), step=0.01, steps=5)
assert (run.loss[-1] < run.loss[0]).all()
print(_layout.compiled())
"""


def test_where_numba_is_told_to_compile_nothing_the_steps_are_torchs():
    run = in_a_process(SWITCHED_OFF, NUMBA_DISABLE_JIT="1")
    assert run.stdout == "None\n", run.stderr


# -- where compiled code is kept --------------------------------------------------------------------


@pytest.fixture
def compiled_anew():
    kept = (_stretch._compiled, _stretch._lengths, _stretch.warn_of_no_cache)
    for each in kept:
        each.cache_clear()
    yield
    for each in kept:
        each.cache_clear()


def setting():
    problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention(H=2, d=3)
    return layer, problem, layer.init(problem, runs=3, seed=1)


def test_without_a_folder_to_write_it_is_compiled_and_said(compiled_anew, monkeypatch):
    def refused(function, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(function, **options)

    monkeypatch.setattr(_stretch, "njit", refused)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for train in ("V", "QKV"):
            run = descend(*setting(), train=train, step=0.01, steps=2)
            assert (run.loss[-1] < run.loss[0]).all()
            _stretch._compiled.cache_clear()  # another function to compile
    (once,) = said
    assert once.category is RuntimeWarning
    assert re.search("no folder can be written.*set NUMBA_CACHE_DIR", str(once.message))


def test_a_full_disk_costs_the_cache_and_not_the_run(compiled_anew, monkeypatch):
    from numba.core.caching import FunctionCache

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FunctionCache, "load_overload", lambda *arguments: None)
    monkeypatch.setattr(FunctionCache, "save_overload", full)
    with pytest.warns(RuntimeWarning, match="cannot be kept .*No space left on device"):
        run = descend(*setting(), step=0.01, steps=2)
    assert (run.loss[-1] < run.loss[0]).all()


@pytest.mark.parametrize("left", [0, 20], ids=["empty", "cut off"])
def test_a_damaged_file_of_the_cache_is_written_again(compiled_anew, monkeypatch, tmp_path, left):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    first = descend(*setting(), step=0.01, steps=2)
    files = {file: file.read_bytes() for file in tmp_path.rglob("*.nbi")}
    for file, whole in files.items():
        file.write_bytes(whole[:left])
    _stretch._compiled.cache_clear()  # as in the next process
    assert torch.equal(descend(*setting(), step=0.01, steps=2).loss, first.loss)
    assert files and all(file.stat().st_size > left for file in files)


def test_an_entry_of_the_cache_that_holds_other_code_is_not_taken(
    compiled_anew, monkeypatch, tmp_path
):
    """As two processes leave it that compile at once: the later index, and the other's code."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    first = descend(*setting(), step=0.01, steps=2)
    descend(*encoding(20, *ENCODERS[0]), step=0.01, steps=2)
    (_, one), (_, two) = sorted(
        (f.stat().st_mtime_ns, f) for f in tmp_path.rglob("*take_steps*.nbc")
    )
    one.write_bytes(two.read_bytes())
    _stretch._compiled.cache_clear()  # as in the next process
    assert torch.equal(descend(*setting(), step=0.01, steps=2).loss, first.loss)


@pytest.mark.parametrize(
    "step", [0.01, steps.normalised(0.01), steps.polyak(), torch.tensor([0.1, 0.01, 0.001])]
)
def test_numba_has_no_choice_between_what_was_compiled(compiled_anew, monkeypatch, step):
    """Its version 0.60 chooses wrongly now and then; where there is one, it cannot."""
    called, call = [], _stretch.call
    monkeypatch.setattr(_stretch, "call", lambda f, *args: (called.append(f), call(f, *args)))
    layer, problem, weights = setting()
    single = problem.to(torch.float32), layer.init(problem.to(torch.float32), runs=3, seed=1)
    watched = {"watch": "weights", "at": [0, 1, 2, 4, 9]}
    for at, start in ((problem, weights), single):
        for options in ({}, watched, {"until": 0.9}, {"stall": 3}, {"every": 3}):
            descend(layer, at, start, step=step, steps=9, **options)
    taken = {f for f in called if f.__name__ == "take_steps"}
    assert len(taken) == 2  # one for each precision
    assert [len(f.overloads) for f in called] == [1] * len(called)


@pytest.fixture(autouse=True)
def one_variant_each(monkeypatch):
    """Whatever model a test trains, and how: the same holds of each compiled stretch."""
    called, call = set(), _stretch.call
    monkeypatch.setattr(_stretch, "call", lambda f, *args: (called.add(f), call(f, *args))[1])
    yield
    assert {f.__name__: len(f.overloads) for f in called if len(f.overloads) > 1} == {}


def test_another_text_of_a_step_is_another_entry_of_the_cache(example):
    def key(step):
        function = _stretch.compiled(step, "kinds")
        return function._cache._index_key("a signature", function.targetctx.codegen())

    assert key(attention_step) != key(example.logistic)
    named = {part.__name__ for part in _surface.parts(attention_step)}
    assert named == {"step", "attend", "to_scores", "to_tokens"}


def module(file, text):
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_a_number_that_a_step_names_is_part_of_what_is_kept(tmp_path):
    text = "FACTOR = {}\ndef step(x):\n    return FACTOR * x\n"
    two, three, again = (
        _surface.digest(module(tmp_path / f"step{k}.py", text.format(factor)).step)
        for k, factor in enumerate((2.0, 3.0, 2.0))
    )
    assert two == again != three


def test_a_step_is_kept_as_it_was_loaded_though_its_file_has_changed(tmp_path):
    text = "def step(x):\n    return {} * x\n"
    loaded = module(tmp_path / "step.py", text.format(2.0))
    before = _surface.digest(loaded.step)
    (tmp_path / "step.py").write_text(text.format(3.0))
    assert _surface.digest(loaded.step) == before


# -- rules ------------------------------------------------------------------------------------------

#: Steps of a few thousandths, so that no run bounces about and multiplies what two sums differ by.
RULES = {
    "schedule": steps.schedule(lambda t: 0.02 / (1 + t)),
    "a schedule for each run": steps.schedule(lambda t: torch.linspace(0.1, 1, 9) / (50 + t)),
    "normalised": steps.normalised(1e-3),
    "normalised schedule": steps.normalised(lambda t: 0.1 / (1 + t)),
    "Polyak": steps.polyak(-1.0, 1e-3),
    "Polyak of a logarithm": steps.polyak_of_logarithm(1e-3),
}


def in_torch(monkeypatch, train, *arguments, **options):
    with monkeypatch.context() as here:
        here.setattr(_layout, "compiled", lambda: None)
        return train(*arguments, **options)


@pytest.mark.parametrize("D", [3, 20], ids=["more tokens", "more dimensions"])
@pytest.mark.parametrize("runs", [9, None], ids="runs = {}".format)
@pytest.mark.parametrize("name", RULES)
def test_compiled_rules_take_the_steps_of_the_rules_in_torch(monkeypatch, name, runs, D):
    if runs is None and name == "a schedule for each run":
        return
    problem, layer = problems.gaussian(3, 3, D, seed=0), models.Attention(H=2, d=3)
    weights = layer.init(problem, runs=runs, seed=1)
    # more than one stretch, the second of which begins where the first ended
    options = {"step": RULES[name], "steps": _groups.LONGEST + 30, "watch": "weights", "at": [7]}
    fast = descend(layer, problem, weights, **options)
    plain = in_torch(monkeypatch, descend, layer, problem, weights, **options)
    assert (fast.loss[-1] < 0.99 * fast.loss[0]).all()
    assert relative_gap(fast.loss, plain.loss) < 1e-11
    assert torch.equal(fast.eta.isfinite(), plain.eta.isfinite())
    assert relative_gap(fast.eta, plain.eta) < 1e-12
    for ours, theirs in zip(fast.weights, plain.weights, strict=True):
        assert relative_gap(ours, theirs) < 1e-11
    for ours, theirs in zip(fast.watched["weights"], plain.watched["weights"], strict=True):
        assert relative_gap(ours, theirs) < 1e-12


def test_a_compiled_rule_is_not_asked_at_each_step(monkeypatch):
    problem, layer = problems.gaussian(3, 3, 20, seed=0), models.Attention(H=2, d=3)
    weights, rule = layer.init(problem, runs=9, seed=1), steps.polyak()
    asked, original = [], type(rule).__call__
    monkeypatch.setattr(type(rule), "__call__", lambda *a: asked.append(1) or original(*a))
    descend(layer, problem, weights, step=rule, steps=2 * _groups.LONGEST)
    assert len(asked) == 2


def test_a_run_that_stopped_under_a_compiled_rule_stays_where_it_is(monkeypatch):
    problem, layer = problems.gaussian(3, 3, 20, seed=0), models.Attention(H=2, d=3)
    weights = layer.init(problem, runs=9, seed=1)
    options = {"step": steps.normalised(1e-2), "steps": 400, "until": 0.5, "stall": 50}
    fast = descend(layer, problem, weights, **options)
    plain = in_torch(monkeypatch, descend, layer, problem, weights, **options)
    assert len(set(fast.stopped_at.tolist())) > 3
    assert torch.equal(fast.stopped_at, plain.stopped_at)
    assert relative_gap(fast.weights.Q, plain.weights.Q) < 1e-10
    assert relative_gap(layer.loss(fast.weights, problem), fast.loss[-1]) < 1e-12


def test_a_gradient_too_short_for_its_length_is_named_where_the_rule_is_compiled():
    problem, layer = problems.gaussian(3, 3, 20, seed=0), models.Attention(H=2, d=3)
    weights = layer.init(problem, runs=9, seed=1)
    weights.V[4] *= 1e-170  # of its queries and keys the gradient is no longer than that
    with pytest.warns(steps.PrecisionWarning, match="the gradient of 1 of 9 runs is so small"):
        run = descend(layer, problem, weights, train="QK", step=steps.normalised(0.1), steps=3)
    moved = (run.weights.Q != weights.Q).flatten(1).any(1)
    assert moved.tolist() == [r != 4 for r in range(9)]


@pytest.mark.filterwarnings("ignore::descent.DivergenceWarning")
@pytest.mark.parametrize("eta", [-0.01, math.nan, math.inf])
def test_a_rule_of_ones_own_may_climb_or_leave_the_numbers_as_in_torch(monkeypatch, eta):
    def rule(loss, square):
        return torch.full_like(loss, eta)

    fast = descend(*setting(), step=rule, steps=5)
    plain = in_torch(monkeypatch, descend, *setting(), step=rule, steps=5)
    assert torch.equal(fast.diverged_at, plain.diverged_at)
    assert torch.allclose(fast.loss, plain.loss, rtol=1e-12, equal_nan=True)
    assert fast.diverged.all() or (fast.loss[-1] > fast.loss[0]).all()


# -- how much is done in one call -------------------------------------------------------------------


@given(
    st.integers(1, 10**4),
    st.integers(1, 10**11),
    st.sampled_from([1, _groups.LONGEST]),
    st.integers(1, 64),
)
def test_a_call_adds_up_no_more_products_than_a_few_hundredths_of_a_second_take(
    groups, work, longest, threads
):
    stretch, shares, parts = _groups.plan(groups, work, longest, threads)
    assert [g for first, last in parts for g in range(first, last)] == list(range(groups))
    most = max(last - first for first, last in parts)
    assert stretch * most * work <= _groups.CALL or (stretch, most) == (1, 1)
    assert 1 <= stretch <= longest and 1 <= shares <= min(threads, len(parts))


def test_of_the_largest_problems_a_call_takes_a_few_steps_of_a_group():
    problem, layer = problems.gaussian_in_span(256, 4, 1024, seed=0), models.Attention(H=2, d=8)
    one = layer.init(problem, runs=1, seed=1)
    work = _groups._Shape(layer.on_lanes(one, problem, "QKV"), "QKV").work
    groups = 4096 // _register.width("float64")
    stretch, _, parts = _groups.plan(groups, work, _groups.LONGEST, 2)
    assert work >= 34 * 1024**2 * _register.width("float64")
    assert 1 < stretch < 16 and len(parts) == groups


def test_what_a_model_takes_itself_is_planned_for():
    # one sequence of many tokens: the scores take more than the product
    problem, layer = problems.gaussian_in_span(1, 45, 45, seed=0), models.Attention(H=2, d=8)
    step = layer.on_lanes(layer.init(problem, runs=1, seed=1), problem, "QKV")
    assert step.work > 34 * 45**2 / 2
    lanes_ = _register.width("float64")
    assert _groups._Shape(step, "QKV").work == lanes_ * (34 * 45**2 + step.work)


def test_the_bar_does_not_go_beyond_its_end_where_shares_add_up_to_more(monkeypatch):
    monkeypatch.delenv("DESCENT_BOOK", raising=False)
    with _descend._progress(10) as bar:
        for share in (0.7, 0.2, 0.1 + 1e-9):
            _descend._advance(bar, 10, share)
        assert bar.n == 10


def test_the_bar_moves_with_each_call(monkeypatch):
    moved = []
    monkeypatch.setattr("descent._descend._advance", lambda bar, *share: moved.append(share))
    problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention(H=2, d=3)
    weights = layer.init(problem, runs=3 * _register.width("float64"), seed=1)
    monkeypatch.setattr(_groups, "CALL", 1)
    descend(layer, problem, weights, step=0.01, steps=4)
    assert moved == [(1, pytest.approx(1 / 3))] * 12


# -- data of each run's own -------------------------------------------------------------------------


def stacked(draw, runs, **sizes):
    """A problem for each run, the same kind drawn with other seeds."""
    drawn = [draw(**sizes, seed=seed) for seed in range(math.prod(runs))]
    X, y = (torch.stack([getattr(one, part) for one in drawn]) for part in "Xy")
    return problems.Problem(X.unflatten(0, runs), y.unflatten(0, runs))


def starts(layer, problem, runs):
    flat = layer.init(problem, seed=1, runs=math.prod(runs))
    return type(flat)(*(W.unflatten(0, runs) for W in flat))


def attending(runs, D, kernel="softmax"):
    problem, layer = stacked(problems.gaussian, runs, N=3, n=3, D=D), models.Attention(kernel, 2, 3)
    return layer, problem, starts(layer, problem, runs)


OWN = [(kernel, train) for kernel in ("softmax", "gaussian") for train in ("V", "QK", "QKV")]
OWN_RULES = {
    "constant": 0.02,
    "a step for each run": torch.linspace(0.001, 0.02, 9, dtype=torch.float64),
    "normalised": RULES["normalised"],
    "Polyak": RULES["Polyak"],
}


def agrees_with_torch(monkeypatch, model, problem, weights, to=1e-11, **options):
    """The same descent on lanes and in torch; gives the first."""
    chosen = _layout.choose(model, weights, problem, options["train"], True)
    assert chosen is _groups.Groups
    fast = descend(model, problem, weights, **options)
    plain = in_torch(monkeypatch, partial(descend, **options), model, problem, weights)
    assert torch.equal(fast.stopped_at, plain.stopped_at)
    assert torch.equal(fast.diverged_at, plain.diverged_at)
    assert torch.equal(fast.loss.isnan(), plain.loss.isnan())
    assert relative_gap(fast.loss.nan_to_num(), plain.loss.nan_to_num()) < to
    assert relative_gap(fast.eta, plain.eta) < to
    for ours, theirs in zip(fast.weights, plain.weights, strict=True):
        assert relative_gap(ours, theirs) < to
    return fast


@pytest.mark.parametrize("D", [3, 20], ids=["more tokens", "more dimensions"])
@pytest.mark.parametrize(("kernel", "train"), OWN)
def test_runs_with_data_of_their_own_take_the_steps_of_torch(monkeypatch, kernel, train, D):
    setting = attending((9,), D, kernel)
    # 1/L is long, and runs that bounce about multiply what two sums differ by
    for step, count in (("1/L", 5), (0.01, 40)):
        run = agrees_with_torch(monkeypatch, *setting, train=train, step=step, steps=count)
        assert (run.loss[-1] < run.loss[0]).all()


@pytest.mark.parametrize("D", [3, 20], ids=["more tokens", "more dimensions"])
@pytest.mark.parametrize("rule", OWN_RULES)
def test_every_rule_is_kept_on_data_of_each_runs_own(monkeypatch, rule, D):
    options = {"train": "QKV", "step": OWN_RULES[rule], "steps": 40}
    run = agrees_with_torch(monkeypatch, *attending((9,), D), **options)
    assert (run.loss[-1] < run.loss[0]).all()


@pytest.mark.parametrize(
    ("data", "runs"),
    [
        ((1,), (1,)),
        ((8,), (8,)),
        ((17,), (17,)),
        ((2, 3), (2, 3)),
        ((3, 1), (3, 4)),
        ((4,), (3, 4)),
    ],
    ids="data {}".format,
)
def test_any_number_of_runs_may_have_data_of_their_own_or_share_some(monkeypatch, data, runs):
    layer, problem, _ = attending(data, 20)
    weights = starts(layer, problem, runs)
    options = {"train": "QKV", "step": 0.01, "steps": 300, "until": 0.5, "stall": 50}
    run = agrees_with_torch(monkeypatch, layer, problem, weights, to=1e-10, **options)
    assert run.eta.shape == runs and (run.stopped_at > 0).any()
    # where they stopped the loss is that of these weights on these data
    assert relative_gap(layer.loss(run.weights, problem), run.loss[-1]) < 1e-12


@pytest.mark.filterwarnings("ignore::descent.DivergenceWarning")
def test_a_run_that_diverges_leaves_those_beside_it_to_their_own_data(monkeypatch):
    step = torch.full((9,), 0.01, dtype=torch.float64)
    step[[2, 8]] = 1e6
    options = {"train": "QKV", "step": step, "steps": 50, "watch": "weights", "at": [7]}
    run = agrees_with_torch(monkeypatch, *attending((9,), 20), **options)
    assert run.diverged.nonzero().flatten().tolist() == [2, 8]


def test_single_precision_follows_on_data_of_each_runs_own():
    layer, problem, weights = attending((9,), 20)
    single = problem.to(torch.float32), type(weights)(*(W.float() for W in weights))
    options = {"train": "QKV", "step": 0.01, "steps": 100}
    fast, exact = descend(layer, *single, **options), descend(layer, problem, weights, **options)
    assert fast.loss.dtype == torch.float32
    assert relative_gap(fast.loss.double(), exact.loss) < 1e-5


def test_runs_with_data_of_their_own_are_those_that_each_would_be_alone():
    layer, problem, weights = attending((9,), 20)
    together = descend(layer, problem, weights, step=0.01, steps=50)
    for r in range(9):
        one = problems.Problem(problem.X[r], problem.y[r])
        alone = descend(layer, one, type(weights)(*(W[r] for W in weights)), step=0.01, steps=50)
        assert relative_gap(together.loss[:, r], alone.loss) < 1e-12


def test_two_threads_take_the_steps_of_one_on_data_of_each_runs_own(monkeypatch):
    before, setting = torch.get_num_threads(), attending((40,), 20)
    alone = descend(*setting, step=0.01, steps=50)
    monkeypatch.setattr(_groups, "ALONE", 0)
    torch.set_num_threads(2)
    try:
        shared = descend(*setting, step=0.01, steps=50)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(shared.loss, alone.loss)


def test_a_step_that_knows_no_data_of_each_runs_own_is_left_to_torch(example):
    problem, model = stacked(problems.gaussian, (9,), N=5, n=2, D=3), Logistic(example.step)
    weights = LogisticWeights(torch.zeros(9, 3, dtype=torch.float64))
    assert _layout.choose(model, weights, problem, "w", True) is _layout.Plain
    for setting, train in ((selecting(4), "W"), (encoding(4, *ENCODERS[0]), "QKVO")):
        model, problem, weights = setting
        X, y = problem.X.expand(9, *problem.X.shape), problem.y.expand(9, *problem.y.shape)
        assert _layout.choose(model, weights, problems.Problem(X, y), train, True) is _layout.Plain


# -- another model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The example of the contributors' guide, as a module."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [code] = [c for c in re.findall(r"```python\n(.*?)```", text, re.S) if "descent.lanes" in c]
    return module(tmp_path_factory.mktemp("example") / "example.py", code)


class LogisticWeights(NamedTuple):
    w: torch.Tensor


class Logistic:
    """Logistic regression: what `descend` asks of any model, and the step of the example."""

    trainable, acts_on_tokens, own = "w", "", {"w": 1}

    def __init__(self, step):
        self.on_lanes = step

    def init(self, problem, *, seed, runs=None, scale=1.0):
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(runs, problem.D, generator=generator, dtype=torch.float64)
        return LogisticWeights(scale * draw)

    def loss_and_gradient(self, weights, problem, train):
        y = problem.y.flatten()
        margin = y * (weights.w @ problem.tokens.mT)
        gradient = (-y * torch.sigmoid(-margin)) @ problem.tokens
        return -logsigmoid(margin).sum(-1), {"w": gradient}


@pytest.mark.parametrize("D", [3, 40], ids=["more tokens", "more dimensions"])
@pytest.mark.parametrize("rule", [0.02, steps.normalised(0.1)], ids=["constant", "normalised"])
def test_the_example_of_the_guide_trains_as_its_closed_form_in_torch(example, D, rule):
    problem, model = problems.gaussian(5, 2, D, seed=0), Logistic(example.step)
    weights = model.init(problem, seed=1, runs=9)
    assert _layout.choose(model, weights, problem, "w", True) is _groups.Groups
    options = {"step": rule, "steps": 20}
    fast = descend(model, problem, weights, **options)
    plain = descend(model, problem, weights, **options, reduce=False)
    assert (fast.loss[-1] < fast.loss[0]).all()
    assert relative_gap(fast.loss, plain.loss) < 1e-12
    assert relative_gap(fast.weights.w, plain.weights.w) < 1e-12


# -- the selecting layer ----------------------------------------------------------------------------

SELECTION = [
    (ell, goal, d, train)
    for ell in ("logistic", "exponential")
    for goal in ("loss", "log loss", "log excess")
    for d, subsets in ((None, ("W", "u", "Wu")), (2, ("K", "Q", "KQ", "KQu")))
    for train in subsets
    if not (goal == "log excess" and "u" in train)  # which the layer refuses
]


def selecting(D, ell="logistic", goal="loss", d=None, runs=9, scale=3.0):
    """A layer that selects, four sequences with one label each, and starts."""
    data = problems.gaussian(4, 3, D, seed=0)
    problem = problems.Problem(data.X, data.y[:, 0].sign())
    layer = models.Selection(ell, d=d, goal=goal, query=1)
    return layer, problem, layer.init(problem, seed=1, runs=runs, scale=scale)


@pytest.mark.parametrize("D", [2, 10], ids=["more tokens", "more dimensions"])
@pytest.mark.parametrize(("ell", "goal", "d", "train"), SELECTION)
def test_the_selecting_layer_takes_the_steps_of_its_closed_form(ell, goal, d, train, D):
    layer, problem, weights = selecting(D, ell, goal, d)
    assert _layout.choose(layer, weights, problem, train, True) is _groups.Groups
    options = {"train": train, "step": steps.normalised(0.05), "steps": 40}
    fast = descend(layer, problem, weights, **options)
    plain = descend(layer, problem, weights, **options, reduce=False)
    assert (fast.loss[-1] < fast.loss[0]).all()
    assert relative_gap(fast.loss, plain.loss) < 1e-11
    for ours, theirs in zip(fast.weights, plain.weights, strict=True):
        assert relative_gap(ours, theirs) < 1e-10


def test_where_attention_is_saturated_its_logarithms_still_fall():
    layer, problem, weights = selecting(10, goal="log excess")
    options = {"train": "W", "step": steps.normalised(0.1), "steps": 900}
    fast = descend(layer, problem, weights, **options)
    plain = descend(layer, problem, weights, **options, reduce=False)
    assert fast.loss[-1].max() < -400  # the loss itself is its optimum to the last digit
    assert layer.attention(fast.weights, problem).amax(-1).min() == 1
    assert relative_gap(fast.loss, plain.loss) < 1e-11
    assert relative_gap(fast.weights.W, plain.weights.W) < 1e-11


def test_a_selecting_layer_too_wide_for_all_products_of_two_entries_is_trained_in_torch(
    monkeypatch,
):
    layer, problem, weights = selecting(10)
    monkeypatch.setattr(selection, "LARGE", 12 * 10**2 - 1)
    assert layer.on_lanes(weights, problem, "W") is None
    layer, problem, weights = selecting(10, d=2)
    assert layer.on_lanes(weights, problem, "KQ") is not None  # factors have no such products


@pytest.mark.parametrize(("ell", "goal", "d", "train"), SELECTION)
def test_called_from_python_the_selecting_step_is_that_of_one_run(ell, goal, d, train):
    layer, problem, weights = selecting(5, ell, goal, d, runs=1)
    agrees_for_one_run(layer, problem, weights, train)


# -- the encoder ------------------------------------------------------------------------------------

ENCODERS = [
    (activation, initialisation, pooling)
    for activation in ("relu", "tanh")
    for initialisation, pooling in (("lecun", "sum"), ("ntk", "mean"))
]
SUBSETS = ["QKVO", "O", "V", "QK", "KO"]


def encoding(D, activation, initialisation, pooling, runs=9):
    problem = problems.sequences(N=4, n=3, D=D, seed=0, length=1.0)
    layer = models.Encoder(5, "d^-1/2", initialisation, activation, pooling)
    return layer, problem, layer.init(problem, seed=1, runs=runs)


@pytest.mark.parametrize("D", [2, 20], ids=["more tokens", "more dimensions"])
@pytest.mark.parametrize("train", SUBSETS)
@pytest.mark.parametrize(("activation", "initialisation", "pooling"), ENCODERS)
def test_the_encoder_takes_the_steps_of_its_closed_form(
    activation, initialisation, pooling, train, D
):
    layer, problem, weights = encoding(D, activation, initialisation, pooling)
    assert _layout.choose(layer, weights, problem, train, True) is _groups.Groups
    for rule in (0.02, steps.normalised(0.005)):
        options = {"train": train, "step": rule, "steps": 40}
        fast = descend(layer, problem, weights, **options)
        plain = descend(layer, problem, weights, **options, reduce=False)
        assert (fast.loss[-1] < fast.loss[0]).all()
        assert relative_gap(fast.loss, plain.loss) < 1e-11
        for ours, theirs in zip(fast.weights, plain.weights, strict=True):
            assert relative_gap(ours, theirs) < 1e-11


@pytest.mark.parametrize("train", SUBSETS)
@pytest.mark.parametrize(("activation", "initialisation", "pooling"), ENCODERS)
def test_called_from_python_the_encoders_step_is_that_of_one_run(
    activation, initialisation, pooling, train
):
    model = encoding(5, activation, initialisation, pooling, runs=1)
    agrees_for_one_run(*model, train)


@pytest.mark.parametrize(("train", "count"), [("QKV", 1), ("QKVO", 2)])
def test_matrices_that_tokens_meet_share_what_is_kept_of_the_tokens(train, count):
    layer, problem, weights = encoding(20, "relu", "lecun", "sum")
    shape = _groups._Shape(layer.on_lanes(weights, problem, train), train)
    assert len(shape.through) == count


@pytest.mark.parametrize("scale", [1e-9, 1.0, 300.0])
def test_the_hyperbolic_tangent_of_lanes_keeps_its_digits(scale):
    _stretch._ready(tanh)
    x, _ = draw("float64")
    found = on_all_lanes(lambda x, y: tanh(x), scale * x, x)
    assert np.abs(found / np.tanh(scale * x) - 1).max() < 1e-14


def test_the_slope_of_a_saturated_tangent_keeps_its_digits():
    _stretch._ready(slope_of_tanh)
    x = np.linspace(-340, 340, 50 * _register.width("float64")).reshape(50, -1)
    found = on_all_lanes(lambda x, y: slope_of_tanh(x), x, x)
    expected = np.exp(-2 * np.log(np.cosh(x.astype(np.longdouble))))
    of_torch = encoder.ACTIVATIONS["tanh"].derivative(torch.from_numpy(x))
    assert np.abs(found / expected - 1).max() < 1e-14
    assert np.abs(of_torch.numpy() / expected - 1).max() < 1e-13


def test_an_encoder_of_few_runs_and_many_columns_is_left_to_matrix_products():
    problem = problems.sequences(N=10, n=3, D=15, seed=0)
    for d, runs, lanes_are_used in ((64, 1, True), (256, 1, False), (256, 8, True)):
        layer = models.Encoder(d)
        weights = layer.init(problem, seed=0, runs=runs)
        chosen = _layout.choose(layer, weights, problem, "QKVO", True)
        assert (chosen is _groups.Groups) == lanes_are_used


# -- clouds of neurons ------------------------------------------------------------------------------


def taught(activation="sigmoid", m=12, d=5, runs=9, D=3, k=2):
    population = in_context.planted(D, k, m, seed=0, r=(1.0, 0.5, 0.25)[:k])[0]
    model = models.InContext(activation)
    return model, population, model.init(population, d=d, seed=1, runs=runs)


@pytest.mark.parametrize(("m", "D", "k"), [(3, 9, 1), (12, 3, 3)], ids=["few inputs", "many"])
@pytest.mark.parametrize("train", ["aw", "a", "w"])
@pytest.mark.parametrize("activation", in_context.ACTIVATIONS)
def test_clouds_take_the_steps_of_their_closed_form(activation, train, m, D, k):
    model, population, clouds = taught(activation, m=m, D=D, k=k)
    assert _layout.choose(model, clouds, population, train, True) is _groups.Groups
    for rule in (0.02, steps.normalised(0.005)):
        options = {"train": train, "step": rule, "steps": 40}
        fast = descend(model, population, clouds, **options)
        plain = descend(model, population, clouds, **options, reduce=False)
        assert (fast.loss[-1] < fast.loss[0]).all()
        # an ill-conditioned Sigma multiplies what rounding does, by 10^3 here
        assert relative_gap(fast.loss, plain.loss) < 1e-11
        for ours, theirs in zip(fast.weights, plain.weights, strict=True):
            assert relative_gap(ours, theirs) < 1e-10


@pytest.mark.parametrize("train", ["aw", "a", "w"])
@pytest.mark.parametrize("activation", in_context.ACTIVATIONS)
def test_called_from_python_the_clouds_step_is_that_of_one_run(activation, train):
    agrees_for_one_run(*taught(activation, runs=1), train)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_a_cloud_that_is_saturated_everywhere_keeps_the_digits_of_its_gradient(activation):
    X = (
        torch.linspace(1, 2, 9, dtype=torch.float64)[:, None]
        * torch.tensor([1, -1, 1] * 3)[:, None]
    )
    population = in_context.Population(X, X.cos())
    cloud = in_context.Neurons(*(torch.full((1, 1, 1), x, dtype=torch.float64) for x in (1, 20)))
    model = models.InContext(activation)
    expected = model.loss_and_gradient(cloud, population)[1]["w"]
    found = of_one_run(model, population, cloud, "aw")[1]["w"]
    assert 0 < expected.abs() < 1e-11 and (found / expected - 1).abs() < 1e-13


def test_a_feature_that_is_a_multiple_of_another_is_left_out_of_the_regression():
    model, population, clouds = taught(k=1)
    a = torch.cat([clouds.a, 2 * clouds.a], -1)
    once, twice = (
        descend(model, population, in_context.Neurons(each, clouds.w), step=1e-9, steps=1)
        for each in (clouds.a, a)
    )
    assert relative_gap(once.loss[0], twice.loss[0]) < 1e-10


def test_which_clouds_are_left_to_torch():
    own = in_context.Activation(torch.sin, torch.cos)
    for model, population, clouds in (
        taught(own),
        taught(d=1),  # fewer than features
        taught(m=2000, d=10, runs=2),  # few and large
    ):
        assert _layout.choose(model, clouds, population, "aw", True) is _layout.Plain
    model, population, clouds = taught(m=2000, d=10, runs=3)
    assert _layout.choose(model, clouds, population, "aw", True) is _groups.Groups
