import importlib
import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import differentiable, instances, relative_gap

from descent import DivergenceWarning, _layout, _memory, descend, kernels, problems, spectra, steps
from descent._watch import Watch
from descent.models import Attention, Selection

module = importlib.import_module("descent._descend")  # the name in descent is the function's


def setting(runs=4, kernel="softmax", D=6, **layer):
    problem = problems.gaussian(N=2, n=3, D=D, seed=0)
    layer = Attention(kernel, **{"H": 2, "d": 3} | layer)
    return layer, problem, layer.init(problem, runs=runs, seed=1)


@settings(max_examples=20)
@given(instances(), st.sampled_from(["V", "Q", "KV", "QKV"]))
def test_the_loop_is_torchs_own_gradient_descent(instance, train):
    layer, problem, weights = instance
    run = descend(layer, problem, weights, train=train, step=0.01, steps=20)
    leaves = differentiable(weights)
    optimiser = torch.optim.SGD([getattr(leaves, W) for W in train], lr=0.01)
    for t in range(20):
        optimiser.zero_grad()
        loss = layer.loss(leaves, problem)
        assert relative_gap(run.loss[t], loss.detach()) < 1e-11
        loss.backward()
        optimiser.step()
    for found, expected in zip(run.weights, leaves, strict=True):
        assert relative_gap(found, expected.detach()) < 1e-11


@pytest.mark.parametrize("train", ["V", "QK", "QKV"])
def test_runs_side_by_side_are_the_runs_one_by_one(train):
    layer, problem, weights = setting()
    together = descend(layer, problem, weights, train=train, step=0.01, steps=100)
    for r in range(4):
        alone = descend(
            layer,
            problem,
            type(weights)(*(W[r] for W in weights)),
            train=train,
            step=0.01,
            steps=100,
        )
        assert relative_gap(together.loss[:, r], alone.loss) < 1e-12
        assert relative_gap(together.weights.Q[r], alone.weights.Q) < 1e-12


def test_matrices_that_are_not_trained_stay_where_they_were():
    layer, problem, weights = setting(D=20)
    after = descend(layer, problem, weights, train="K", step=0.01, steps=10).weights
    for W in ("Q", "V", "O"):
        assert torch.equal(getattr(after, W), getattr(weights, W))
    assert not torch.equal(after.K, weights.K)


def test_independent_problems_train_side_by_side():
    layer, _, _ = setting()
    singles = [problems.gaussian(N=2, n=3, D=20, seed=s) for s in range(3)]
    batch = problems.Problem(
        torch.stack([p.X for p in singles]), torch.stack([p.y for p in singles])
    )
    start = layer.init(singles[0], seed=1)
    shared = type(start)(*(W.expand(3, *W.shape) for W in start))
    together = descend(layer, batch, shared, step=0.01, steps=50)
    for r, single in enumerate(singles):
        assert (
            relative_gap(
                together.loss[:, r], descend(layer, single, start, step=0.01, steps=50).loss
            )
            < 1e-12
        )


def test_a_batch_of_problems_and_one_start_is_a_start_for_each():
    layer, problem, weights = setting(runs=None, D=4)
    batch = problems.Problem(torch.stack([problem.X, 2 * problem.X]), torch.stack([problem.y] * 2))
    run = descend(layer, batch, weights, step=0.01, steps=5)
    assert run.loss.shape == (6, 2) and run.weights.Q.shape == (2, 2, 4, 3)


@pytest.mark.parametrize("H", [1, 4], ids="H = {}".format)
@pytest.mark.parametrize("D", [4, 20], ids="D = {}".format)
@pytest.mark.parametrize(("train", "step"), [("V", "1/L"), ("QKV", "1/L"), ("QKV", 0.01)])
@pytest.mark.parametrize("reduce", [True, False])
def test_problems_and_runs_that_share_weights_are_those_one_by_one(H, D, train, step, reduce):
    layer = Attention("softmax", H=H, d=3)
    singles = [problems.gaussian(N=2, n=3, D=D, seed=s) for s in range(4)]
    X, y = (torch.stack([getattr(p, part) for p in singles]) for part in "Xy")
    start = layer.init(singles[0], seed=1, runs=2)
    start = start._replace(K=start.K[0])  # one matrix for both runs
    options = {"train": train, "step": step, "steps": 10, "reduce": reduce}
    # four problems across two runs
    crossed = descend(layer, problems.Problem(X[:, None], y[:, None]), start, **options)
    assert crossed.loss.shape == (11, 4, 2)
    for p, single in enumerate(singles):
        for r in range(2):
            weights = start._replace(Q=start.Q[r], V=start.V[r], O=start.O[r])
            alone = descend(layer, single, weights, **options)
            assert relative_gap(crossed.loss[:, p, r], alone.loss) < 1e-11
            assert relative_gap(crossed.weights.K[p, r], alone.weights.K) < 1e-11


def test_runs_that_do_not_go_together_are_named():
    layer, problem, weights = setting(runs=4)
    with pytest.raises(ValueError, match=r"the problem has \(\), Q \(3,\), K \(4,\)"):
        descend(layer, problem, weights._replace(Q=weights.Q[:3]))


def test_one_over_L_never_increases_the_loss_of_the_values():
    layer, problem, weights = setting(runs=16, kernel="gaussian")
    loss = descend(layer, problem, weights, train="V", steps=500).loss
    assert ((loss[1:] - loss[:-1]) <= 1e-12 * loss[0]).all()


def test_float32_follows_float64_to_its_precision():
    layer, problem, weights = setting()
    exact = descend(layer, problem, weights, step=0.01, steps=50)
    single = descend(
        layer,
        problem.to(torch.float32),
        type(weights)(*(W.float() for W in weights)),
        step=0.01,
        steps=50,
    )
    assert single.loss.dtype == torch.float32
    assert relative_gap(single.loss.double(), exact.loss) < 1e-5


def test_steps_to_counts_from_the_start_and_says_never():
    layer, problem, weights = setting(runs=2)
    run = descend(layer, problem, weights, train="V", steps=300)
    first = run.steps_to(0.5)
    for r in range(2):
        assert run.loss[first[r], r] <= 0.5 * run.loss[0, r] < run.loss[first[r] - 1, r]
    assert (run.steps_to(1e-300) == -1).all()
    assert (run.steps_to(1.0) == 0).all()


class TestDivergence:
    def diverge(self):
        layer, problem, weights = setting(runs=3)
        L = layer.smoothness(weights, problem, "V")
        step = torch.tensor([1.0, 2.5, 1.0], dtype=torch.float64) / L
        with pytest.warns(DivergenceWarning) as caught:
            run = descend(layer, problem, weights, train="V", step=step, steps=400)
        return layer, problem, weights, step, run, caught

    def test_it_is_reported_with_its_step(self):
        *_, run, caught = self.diverge()
        assert run.diverged.tolist() == [False, True, False]
        at = int(run.diverged_at[1])
        message = str(caught[0].message)
        assert message.startswith(
            f"1 of 3 runs diverged, the first at step {at}: the step is too large"
        )
        assert torch.isfinite(run.loss[:at, 1]).all() and torch.isnan(run.loss[at:, 1]).all()

    def test_the_trajectory_up_to_there_is_kept_and_the_last_weights_are_finite(self):
        layer, problem, weights, _, run, _ = self.diverge()
        at = int(run.diverged_at[1])
        last = type(weights)(*(W[1] for W in run.weights))
        assert relative_gap(layer.loss(last, problem), run.loss[at - 1, 1]) < 1e-9

    def test_it_does_not_touch_the_other_runs(self):
        layer, problem, weights, step, run, _ = self.diverge()
        for r in (0, 2):
            one = type(weights)(*(W[r] for W in weights))
            alone = descend(layer, problem, one, train="V", step=step[r], steps=400)
            assert relative_gap(run.loss[:, r], alone.loss) < 1e-12

    def test_the_loop_stops_when_nothing_is_left_to_train(self):
        layer, problem, weights = setting(runs=2)
        with pytest.warns(DivergenceWarning, match="2 of 2 runs diverged"):
            run = descend(layer, problem, weights, train="V", step=1e6, steps=10**6)
        assert run.loss.shape == (10**6 + 1, 2)  # a loop to the end would take minutes

    @pytest.mark.parametrize("options", [{}, {"until": 0.5}, {"until": 0.9, "every": 4}], ids=str)
    def test_what_is_noted_at_every_step_is_what_a_processor_notes(self, options, monkeypatch):
        # a processor looks whether all runs move; on a GPU every step is treated alike
        def run():
            layer, problem, weights = setting(runs=3)
            L = layer.smoothness(weights, problem, "V")
            step = torch.tensor([1.0, 6.0, 0.01], dtype=torch.float64) / L
            with pytest.warns(DivergenceWarning):
                return descend(layer, problem, weights, train="V", step=step, steps=600, **options)

        class Elsewhere(module.Monitor):
            def __init__(self, *arguments, **options):
                super().__init__(*arguments, **options)
                self.all_move = False

        compiled = run()
        monkeypatch.setattr(_layout, "compiled", lambda: None)
        looked = run()
        monkeypatch.setattr(module, "Monitor", Elsewhere)
        booked = run()
        for name in ("loss", "diverged_at", "stopped_at"):
            theirs, ours = getattr(looked, name), getattr(booked, name)
            assert torch.allclose(theirs, ours, rtol=0, atol=0, equal_nan=True), name
            theirs = getattr(compiled, name)
            assert torch.allclose(theirs, ours, rtol=1e-9, equal_nan=True), name
        assert all(map(torch.equal, looked.weights, booked.weights))

    def test_a_converging_run_warns_of_nothing(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            descend(*setting(), train="V", steps=50)


@pytest.mark.parametrize("train", ["", "X", "QQ", "v", ["Q"]])
def test_train_must_name_matrices(train):
    with pytest.raises(
        ValueError,
        match=r"train must name some of the matrices Q, K, V, each once \(as in .*\), got",
    ):
        descend(*setting(), train=train)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 1.5}, TypeError, "steps must be an integer, got 1.5"),
        ({"step": -0.1}, ValueError, r"step must be positive and finite, got -0.1.*try step='1/L'"),
        ({"step": float("nan")}, ValueError, "step must be positive and finite, got nan"),
        (
            {"step": torch.tensor([1.0, 0.0])},
            ValueError,
            r"step must be positive and finite, got \[1.0, 0.0\]",
        ),
        (
            {"step": torch.tensor([0.1, 0.1])},
            ValueError,
            r"step has shape \(2,\), but there are runs of shape \(4,\)",
        ),
        (
            {"step": "fast"},
            ValueError,
            "unknown step 'fast': expected '1/L', a positive number or a rule",
        ),
        ({"step": None}, TypeError, "step must be a positive number, '1/L' or a rule, got None"),
        ({"device": "cuda"}, ValueError, "torch sees no GPU"),
    ],
)
def test_bad_options_are_named(options, error, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match=message):
        descend(*setting(), **options)


@given(st.integers(1, 40), st.integers(1, 20), st.sets(st.integers(0, 40)))
def test_a_stretch_of_steps_ends_where_something_is_to_be_seen(steps, longest, at):
    at = {t for t in at if t <= steps}
    plan = module.Plan(steps, None, None, 1, Watch(["weights"] if at else (), at, steps))
    pieces = list(plan.stretches(longest))
    assert [t for start, stop in pieces for t in range(start, stop)] == list(range(steps))
    assert max(stop - start for start, stop in pieces) <= longest
    ends = {stop for _, stop in pieces}
    assert ends >= at - {0} and ends >= set(range(longest, steps, longest))


def test_blocks_whose_runs_have_all_stopped_take_no_more_steps(monkeypatch):
    layer, problem, weights = setting(runs=4)
    monkeypatch.setattr(_layout, "compiled", lambda: None)
    monkeypatch.setattr(_layout, "BLOCK", 2 * _layout.bytes_read(layer, problem, "QKV"))
    taken, step = [], _layout.Innermost.step

    def counted(block):
        taken.append(id(block))
        return step(block)

    monkeypatch.setattr(_layout.Innermost, "step", counted)
    eta = torch.tensor([1e6, 1e6, 1e-3, 1e-3], dtype=torch.float64)
    with pytest.warns(DivergenceWarning, match="2 of 4"):
        run = descend(layer, problem, weights, step=eta, steps=600)
    assert sorted(map(taken.count, set(taken))) == [module.LOOK, 600]
    assert run.loss[-1].isnan().tolist() == [True, True, False, False]


def test_few_runs_take_one_thread_and_torch_is_left_as_it_was():
    seen, before = [], torch.get_num_threads()

    def rule(loss, square):
        seen.append(torch.get_num_threads())
        if len(seen) > 3:
            raise InterruptedError
        return torch.full_like(loss, 0.01)

    try:
        torch.set_num_threads(2)
        descend(*setting(runs=2), step=rule, steps=2)
        assert torch.get_num_threads() == 2
        descend(*setting(runs=2), step=rule, steps=1, reduce=False)
        with pytest.raises(InterruptedError):
            descend(*setting(runs=2), step=rule)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 2, 1]


def test_weights_of_no_run_are_refused():
    layer, problem, weights = setting()
    with pytest.raises(ValueError, match="weights hold no run: draw some with model.init"):
        descend(layer, problem, type(weights)(*(W[:0] for W in weights)), train="V")


def test_a_flat_start_has_no_step_one_over_L():
    layer, problem, weights = setting()
    with pytest.raises(
        ValueError, match="the loss is flat where every run starts: give step a number"
    ):
        descend(layer, problem, weights._replace(O=torch.zeros_like(weights.O)), train="V")


@pytest.mark.parametrize("train", ["V", "QKV"])
def test_one_flat_start_stays_and_leaves_the_others_their_step(train):
    layer, problem, weights = setting(runs=3)
    O = weights.O.clone()  # noqa: E741
    O[1] = 0
    with pytest.warns(UserWarning, match="the loss is flat where 1 of 3 runs start: they stay"):
        run = descend(layer, problem, weights._replace(O=O), train=train, steps=20)
    alone = descend(layer, problem, type(weights)(*(W[2] for W in weights)), train=train, steps=20)
    assert relative_gap(run.loss[:, 2], alone.loss) < 1e-11
    assert run.eta[1] == 0 and (run.loss[:, 1] == run.loss[0, 1]).all()


def masked(C):
    """Each query may attend to the tokens after it: the last one to none, which is 0 / 0."""
    return torch.softmax(C + torch.full_like(C, -torch.inf).tril(), -1)


NAN = kernels.Kernel("nan", "dot", lambda C: C / 0, lambda C, S, dS: S * dS)
MASKED = kernels.Kernel("masked", "dot", masked, kernels._ByAutograd(masked))


@pytest.mark.parametrize("kernel", [NAN, MASKED], ids=["NaN", "masked"])
@pytest.mark.parametrize(("reduce", "step"), [(True, 0.01), (False, 0.01), (True, "1/L")])
def test_a_start_without_a_loss_is_not_called_a_step_too_large(kernel, reduce, step):
    layer, problem, weights = setting(runs=2, kernel=kernel)
    if step == "1/L":
        with pytest.raises(ValueError, match="the curvature is NaN where every run starts"):
            descend(layer, problem, weights)
        return
    with pytest.warns(DivergenceWarning) as caught:
        run = descend(layer, problem, weights, step=step, reduce=reduce, steps=3)
    (message,) = (str(one.message) for one in caught)
    assert message.startswith("2 of 2 runs start with a loss that is NaN or infinite")
    assert run.diverged_at.tolist() == [0, 0] and run.loss.isnan().all()


@pytest.mark.parametrize("step", [0.01, "1/L"])
@pytest.mark.filterwarnings("ignore:step '1/L' needs curvature")
def test_a_start_that_overflows_is_told_apart_from_the_runs_beside_it(step):
    layer, problem, weights = setting(runs=2)
    V = weights.V.clone()
    V[0] *= 1e200
    with pytest.warns(DivergenceWarning, match="1 of 2 runs start with a loss that is NaN"):
        run = descend(layer, problem, weights._replace(V=V), step=step, steps=30)
    alone = descend(layer, problem, type(weights)(*(W[1] for W in weights)), step=step, steps=30)
    assert run.diverged_at.tolist() == [0, -1]
    assert relative_gap(run.loss[:, 1], alone.loss) < 1e-11


def test_until_is_a_part_of_the_first_loss():
    with pytest.raises(ValueError, match="until must lie between 0 and 1 .*, got 5"):
        descend(*setting(), until=5)


class TestRules:
    def test_normalised_steps_all_have_the_same_length(self):
        layer, problem, weights = setting(runs=2)
        run = descend(layer, problem, weights, step=steps.normalised(0.01), steps=1)
        moved = sum(
            (a - b).square().sum((-3, -2, -1))
            for a, b in zip(run.weights[:3], weights[:3], strict=True)
        )
        assert torch.allclose(moved.sqrt(), torch.full((2,), 0.01, dtype=torch.float64))

    def test_polyak_on_one_equation_goes_half_of_the_way(self):
        # f = (a v - y)^2 / 2: each step goes half of the way to the solution, and f falls by 4
        problem = problems.gaussian(N=1, n=1, D=1, seed=0)
        layer = Attention(d=1)
        run = descend(
            layer, problem, layer.init(problem, seed=0), train="V", step=steps.polyak(), steps=10
        )
        assert torch.allclose(run.loss[1:] / run.loss[:-1], torch.tensor(0.25, dtype=torch.float64))

    def test_a_rule_of_ones_own_sees_loss_and_squared_gradient(self):
        layer, problem, weights = setting(runs=2)
        seen = []

        def rule(loss, square):
            seen.append((loss, square))
            return torch.full_like(loss, 0.01)

        run = descend(layer, problem, weights, step=rule, steps=3)
        loss, gradient = layer.loss_and_gradient(weights, problem)
        assert torch.equal(seen[0][0], run.loss[0]) and len(seen) == 3
        assert relative_gap(run.loss[0], loss) < 1e-12
        assert torch.allclose(
            seen[0][1], sum(g.square().sum((-3, -2, -1)) for g in gradient.values())
        )
        assert torch.equal(run.loss[1], seen[1][0])

    @pytest.mark.parametrize("eta", [0, -1.0, float("inf")])
    def test_a_length_must_be_positive(self, eta):
        with pytest.raises(ValueError, match="eta must be positive and finite"):
            steps.normalised(eta)

    def test_a_schedule_is_read_step_by_step_and_from_the_start_each_time(self):
        layer, problem, weights = setting(runs=2)
        rule = steps.schedule(lambda t: 0.02 / (1 + t))
        run = descend(layer, problem, weights, step=rule, steps=3)
        for _ in range(2):  # the rule is asked again, and must not have moved on
            expected = weights
            for eta in (0.02, 0.01, 0.02 / 3):
                expected = descend(layer, problem, expected, step=eta, steps=1).weights
            again = descend(layer, problem, weights, step=rule, steps=3)
            assert relative_gap(again.weights.Q, expected.Q) < 1e-13
            assert torch.equal(again.loss, run.loss)

    def test_a_schedule_may_give_each_run_its_own_step(self):
        layer, problem, weights = setting(runs=2)
        each = torch.tensor([0.01, 0.02], dtype=torch.float64)
        scheduled = descend(layer, problem, weights, step=steps.schedule(lambda t: each), steps=5)
        assert torch.equal(
            scheduled.loss, descend(layer, problem, weights, step=each, steps=5).loss
        )

    @pytest.mark.parametrize(
        ("rule", "error", "message"),
        [
            (lambda: steps.schedule(0.1), TypeError, "eta must be a function of the step number"),
            (
                lambda: steps.schedule(lambda t: 0.01 - t),
                ValueError,
                "step must be positive and finite, got -0.99",
            ),
        ],
        ids=["a number", "negative later"],
    )
    def test_a_schedule_that_is_none_is_named(self, rule, error, message):
        with pytest.raises(error, match=message):
            descend(*setting(), step=rule(), steps=3)


class TestStopping:
    def test_a_run_stops_at_its_target_and_stays_there(self):
        layer, problem, weights = setting(runs=6)
        free = descend(layer, problem, weights, train="V", steps=400)
        run = descend(layer, problem, weights, train="V", steps=400, until=0.01)
        reached = free.steps_to(0.01)
        assert (reached > 0).any() and torch.equal(run.stopped_at, reached)
        for r in range(6):
            at = int(reached[r]) if reached[r] >= 0 else 400
            assert torch.equal(run.loss[: at + 1, r], free.loss[: at + 1, r])
            assert (run.loss[at:, r] == free.loss[at, r]).all()
        assert relative_gap(layer.loss(run.weights, problem), run.loss[-1]) < 1e-12

    def test_the_loop_ends_when_every_run_has_stopped(self):
        run = descend(*setting(runs=2), train="V", steps=10**6, until=0.9)
        assert (run.stopped_at > 0).all()  # a loop to the end would take minutes
        assert torch.equal(run.loss[-1], run.loss.gather(0, run.stopped_at[None])[0])

    def test_a_run_that_no_longer_falls_is_stopped(self):
        # one token, one dimension: one equation, solved to rounding within a few steps of 1 / L
        problem = problems.gaussian(N=1, n=1, D=1, seed=0)
        layer = Attention(d=1)
        weights = layer.init(problem, seed=0, runs=2)
        L = layer.smoothness(weights, problem, "V")
        step = torch.tensor([1.0, 1e-3], dtype=torch.float64) / L
        run = descend(layer, problem, weights, train="V", step=step, steps=200, stall=20)
        # f falls by (1 - 1e-3)^2 each step in the second run, which is far more than a millionth
        assert 20 <= run.stopped_at[0] < 30 and run.stopped_at[1] == -1

    def test_slow_progress_adds_up(self):
        # each step falls by 2e-7 of the loss: a millionth in five steps, never in three
        problem = problems.gaussian(N=1, n=1, D=1, seed=0)
        layer = Attention(d=1)
        weights = layer.init(problem, seed=0)
        step = 1e-7 / layer.smoothness(weights, problem, "V")
        options = {"train": "V", "step": step, "steps": 30}
        assert descend(layer, problem, weights, **options, stall=10).stopped_at == -1
        assert descend(layer, problem, weights, **options, stall=3).stopped_at == 3

    @pytest.mark.parametrize("reduce", [True, False])  # compiled, and in torch
    def test_a_negative_loss_that_no_longer_falls_is_stopped(self, reduce):
        problem, u = problems.planted(N=2, n=2, D=3, seed=0)
        layer = Selection(goal="log loss")
        weights = layer.init(problem, seed=0, runs=2, u=u)
        step = torch.tensor([1e-12, 1.0], dtype=torch.float64)
        options = {"train": "W", "step": step, "steps": 60, "reduce": reduce}
        run = descend(layer, problem, weights, stall=10, **options)
        assert (run.loss[0] < 0).all() and run.stopped_at.tolist() == [10, -1]
        with pytest.raises(ValueError, match="2 of 2 runs start below zero: give stall"):
            descend(layer, problem, weights, until=0.5, **options)

    def test_divergence_is_not_a_stop(self):
        with pytest.warns(DivergenceWarning):
            run = descend(*setting(runs=2), train="V", step=1e6, steps=300, until=0.5, stall=5)
        assert run.diverged.all() and (run.stopped_at == -1).all() and run.loss[-1].isnan().all()


class TestWatching:
    def watched(self, D=20, **options):
        layer, problem, weights = setting(runs=3, D=D)
        usual = ("weights", "attention", "sigma_min", "gradient_norm")
        run = descend(
            layer, problem, weights, step=0.01, steps=20, watch=usual, at=(20, 0, 7), **options
        )
        return layer, problem, weights, run

    @pytest.mark.parametrize("reduce", [True, False])
    @pytest.mark.parametrize("D", [4, 20])
    def test_what_is_seen_is_what_the_weights_of_that_step_give(self, reduce, D):
        layer, problem, weights, run = self.watched(D, reduce=reduce)
        assert run.at == (0, 7, 20)
        for i, t in enumerate(run.at):
            now = weights
            if t:
                now = descend(layer, problem, weights, step=0.01, steps=t, reduce=reduce).weights
            loss, gradient = layer.loss_and_gradient(now, problem)
            norm = torch.stack([g.square().sum((-3, -2, -1)) for g in gradient.values()]).sum(0)
            sigma = spectra.sigma_min(spectra.concat(layer.features(now, problem)))
            seen = run.watched
            assert relative_gap(seen["weights"].Q[i], now.Q) < 1e-12
            assert relative_gap(seen["attention"][i], layer.forward(now, problem).S) < 1e-12
            assert relative_gap(seen["gradient_norm"][i], norm.sqrt()) < 1e-11
            assert relative_gap(seen["sigma_min"][i], sigma) < 1e-11
            assert relative_gap(run.loss[t], loss) < 1e-12

    def test_a_function_of_ones_own_sees_the_full_weights(self):
        layer, problem, weights = setting(runs=3, D=20)
        run = descend(
            layer,
            problem,
            weights,
            step=0.01,
            steps=4,
            watch={"size": lambda w: w.Q.shape[-2]},
            at=[4],
        )
        assert run.watched["size"].tolist() == [20]

    def test_numbers_are_seen_in_full_precision(self):
        watch = {"size": lambda w: float(w.Q[0, 0, 0, 0]), "both": lambda w: [0.1, 1]}
        layer, problem, weights = setting(runs=3)
        run = descend(layer, problem, weights, step=0.01, steps=1, watch=watch, at=[0])
        assert run.watched["size"].tolist() == [float(weights.Q[0, 0, 0, 0])]
        assert run.watched["both"].tolist() == [[0.1, 1.0]]

    @pytest.mark.parametrize("given", [{"a": 1}, None, "high", (torch.ones(2), torch.ones(3))])
    def test_what_is_no_number_is_named(self, given):
        with pytest.raises(
            TypeError, match=r"watch\['mine'\] gave .*: return numbers, a tensor, or"
        ):
            descend(*setting(), step=0.1, steps=1, watch={"mine": lambda w: given}, at=[0])

    def test_what_was_seen_does_not_move_with_the_weights(self):
        layer, problem, weights = setting(runs=3, D=4)
        run = descend(
            layer, problem, weights, step=0.01, steps=4, watch={"Q": lambda w: w.Q}, at=[0, 4]
        )
        assert torch.equal(run.watched["Q"][0], weights.Q)
        assert not torch.equal(run.watched["Q"][1], weights.Q)

    def test_after_the_last_run_has_stopped_the_view_stays(self):
        run = descend(
            *setting(runs=2),
            train="V",
            steps=10**6,
            until=0.9,
            watch="gradient_norm",
            at=[5, 10**6],
        )
        assert run.watched["gradient_norm"].shape == (2, 2)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            (
                {"watch": "loss", "at": [1]},
                ValueError,
                "unknown watch 'loss': expected one of 'wei",
            ),
            ({"watch": {"a": 1}, "at": [1]}, TypeError, r"watch\['a'\] must be a function"),
            ({"watch": "weights"}, ValueError, "watch and at go together"),
            ({"at": [1]}, ValueError, "watch and at go together"),
            ({"watch": "weights", "at": [51]}, ValueError, "at asks for step 51, but there are 50"),
            ({"watch": "weights", "at": [-1]}, ValueError, "at must be at least 0, got -1"),
            ({"until": 0}, ValueError, "until must be positive and finite, got 0"),
            ({"stall": 0}, ValueError, "stall must be at least 1, got 0"),
            ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ],
        ids=str,
    )
    def test_bad_questions_are_named(self, options, error, message):
        with pytest.raises(error, match=message):
            descend(*setting(), **{"steps": 50} | options)


def test_losses_can_be_recorded_every_so_often():
    layer, problem, weights = setting(runs=3)
    full = descend(layer, problem, weights, train="V", steps=103)
    thin = descend(layer, problem, weights, train="V", steps=103, every=10)
    assert torch.equal(thin.loss, full.loss[::10]) and thin.loss.shape == (11, 3)
    assert torch.equal(thin.weights.V, full.weights.V)
    assert (thin.steps_to(0.5) >= full.steps_to(0.5)).all()
    assert (thin.steps_to(0.5) % 10 == 0).all()


@pytest.mark.parametrize("answer", [0.01, torch.full((2,), 0.01)], ids=["number", "shape"])
def test_a_rule_that_gives_no_step_for_each_run_is_named(answer):
    with pytest.raises(TypeError, match=r"one step for each run, of shape \(4,\), got"):
        descend(*setting(), step=lambda loss, square: answer, steps=2)


def test_polyak_stands_still_where_the_gradient_is_zero():
    layer, problem, weights = setting()
    still = weights._replace(V=0 * weights.V)  # no read-out: queries and keys feel nothing
    run = descend(layer, problem, still, train="QK", step=steps.polyak(), steps=3)
    assert not run.diverged.any() and torch.equal(run.weights.Q, weights.Q)
    with pytest.raises(ValueError, match="optimum must be finite, got nan"):
        steps.polyak(float("nan"))


def test_weights_that_want_gradients_are_trained_as_their_values():
    layer, problem, weights = setting()
    run = descend(layer, problem, differentiable(weights), step=0.01, steps=3)
    assert torch.equal(run.loss, descend(layer, problem, weights, step=0.01, steps=3).loss)
    assert not run.loss.requires_grad


class TestMemory:
    def test_the_step_one_over_L_and_the_way_back_are_counted(self, monkeypatch):
        layer, problem, weights = setting(D=2_000)
        monkeypatch.setattr(_memory, "free", lambda device: 10**6)
        descend(layer, problem, weights._replace(K=weights.K[0]), train="K", step=0.1, steps=2)
        with pytest.raises(MemoryError):  # three matrices to lift in place of one
            descend(layer, problem, weights, train="QKV", step=0.1, steps=2)
        monkeypatch.setattr(_memory, "free", lambda device: 8 * 10**5)
        wide = problems.gaussian(N=50, n=3, D=6, seed=0)
        small = layer.init(wide, runs=2, seed=1)
        descend(layer, wide, small, train="V", step=1e-4, steps=2)
        with pytest.raises(MemoryError, match="runs fit at once"):  # the Gram matrix of 150 labels
            descend(layer, wide, small, train="V", steps=2)

    def test_runs_that_do_not_fit_are_refused_with_the_number_that_does(self, monkeypatch):
        monkeypatch.setattr(_memory, "free", lambda device: 10**6)
        with pytest.raises(
            MemoryError, match=r"4 runs need about .* GB, but 0.001 GB are free on cpu"
        ):
            descend(*setting(), steps=10**5)

    @pytest.mark.parametrize("reduce", [True, False])
    def test_the_number_that_fits_does_fit(self, monkeypatch, reduce):
        monkeypatch.setattr(_memory, "free", lambda device: 10**6)
        with pytest.raises(MemoryError) as refused:
            descend(*setting(runs=500), steps=100, reduce=reduce)
        fits = int(re.search(r"(\d+) runs fit at once", str(refused.value))[1])
        assert 1 < fits < 500
        descend(*setting(runs=fits), step=1e-3, steps=100, reduce=reduce)
        with pytest.raises(MemoryError):
            descend(*setting(runs=fits + 1), step=1e-3, steps=100, reduce=reduce)

    def test_a_containers_limit_counts(self, monkeypatch, tmp_path):
        for name, amount in (("max", 3_000), ("current", 1_000)):
            (tmp_path / f"memory.{name}").write_text(f"{amount}\n")
        monkeypatch.setattr(_memory, "CONTAINER", tmp_path)
        assert _memory.free(torch.device("cpu")) == 2_000

    def test_where_nothing_is_known_nothing_is_refused(self, monkeypatch, tmp_path):
        monkeypatch.setattr(_memory, "CONTAINER", tmp_path)
        monkeypatch.setattr(_memory, "MACHINE", tmp_path / "none")
        assert _memory.free(torch.device("cpu")) is None
        _memory.require(_memory.Need(10**9, 10**9), torch.device("cpu"))


@pytest.mark.parametrize("before", [True, False])
def test_the_treatment_of_denormal_numbers_is_put_back(before):
    tiny = torch.tensor(1e-308, dtype=torch.float64)
    inside = []

    def rule(loss, square):
        inside.append(bool(tiny * 0.1 == 0))
        return torch.full_like(loss, 0.01)

    torch.set_flush_denormal(before)
    try:
        descend(*setting(), step=rule, steps=1)
        assert inside == [True] and bool(tiny * 0.1 == 0) == before
    finally:
        torch.set_flush_denormal(False)
