"""Theorems of Part I on random functions and layers: where they are met, nothing fails."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from descent import claims, draws, problems, steps, theorems
from descent.claims.foundations.descent import balanced_network, wavy
from descent.claims.foundations.kernels import alone
from descent.models import Attention, LeastSquares, elementary
from descent.theorems import FunctionStart, Standing, foundations

F = torch.float64
RUNS, ENOUGH = 10, 200


def drawn(seed):
    """Linear least squares of a random shape, ten starts, its curvatures and a solution."""
    pick = random.Random(seed)
    m, p = pick.choice((2, 4, 6)), pick.choice((2, 4, 8))
    A, y = draws.normal(seed, "A", (m, p)), draws.normal(seed, "y", (m,))
    curved = torch.linalg.svdvals(A).square()
    best = torch.linalg.pinv(A) @ y
    return elementary.linear(A, y), draws.normal(seed, "theta", (p,), RUNS), curved, best


def under_pl(seed, share):
    f, theta, curved, best = drawn(seed)
    given = {"mu": curved[-1], "L": curved[0], "infimum": float(f.loss(best))}
    return foundations.under_pl(f, theta, **given).trial(60, share)


def on_a_wavy_loss(seed, share):
    theta = 8 * draws.uniform(seed, "theta", (1,), RUNS) - 4
    return foundations.under_pl(wavy(), theta, mu=0.1754, L=8.0).trial(60, share)


def nearest(seed, share):
    f, theta, *_ = drawn(seed)
    return foundations.least_squares(f, theta).trial(60, share)


def convex(seed, share):
    f, theta, curved, best = drawn(seed)
    given = {"minimiser": best, "infimum": float(f.loss(best))}
    return foundations.convex(f, theta, L=curved[0], **given).trial(60, share)


def polyak(seed, share):
    """As many independent rows as parameters or more: one minimiser, and quadratic growth."""
    pick = random.Random(seed)
    p = pick.choice((1, 2, 4))
    m = p + pick.choice((0, 1, 4))
    A, y = draws.normal(seed, "A", (m, p)), draws.normal(seed, "y", (m,))
    f, curved = elementary.linear(A, y), torch.linalg.svdvals(A).square()
    best = torch.linalg.lstsq(A, y[:, None]).solution[:, 0]
    start = best + draws.normal(seed, "start", (p,), RUNS)
    given = {"minimiser": best, "infimum": float(f.loss(best))}
    return foundations.polyak(f, start, mu=curved[-1], L=curved[0], **given).trial(60)


def near_start(seed, share):
    f, theta, Lambda = balanced_network(512, share, seed)
    return foundations.near_start(f, theta, Lambda=Lambda).trial(40)


def factorised(seed, share):
    pick = random.Random(seed)
    a, b, k = (pick.choice((1, 2, 3)) for _ in range(3))
    M, U, V = (draws.normal(seed, name, shape, RUNS) for name, shape in
               (("M", (a, b)), ("U", (a, k)), ("V", (b, k))))  # fmt: skip
    return foundations.factorised(M, U, V).against()


@pytest.mark.parametrize("name", "MUV")
def test_factors_are_numbers(name):
    given = {letter: torch.ones(2, 2, dtype=F) for letter in "MUV"}
    given[name] = given[name] * torch.nan
    with pytest.raises(ValueError, match=f"{name} has 4 entries that are NaN or infinite"):
        foundations.factorised(**given)


def layer(seed, heads=(1, 2, 3), wide=(1, 2, 3, 5, 12)):
    pick = random.Random(seed)
    N, n, D, d, H = (pick.choice(s) for s in ((1, 2), (1, 2, 3), wide, (1, 2, 3), heads))
    problem = problems.gaussian(N=N, n=n, D=D, seed=seed)
    model = Attention(pick.choice(("softmax", "gaussian")), H=H, d=d)
    return model, problem, model.init(problem, runs=RUNS, seed=seed + 1)


def at_a_start(theorem, **shape):
    return lambda seed, share: theorem(*layer(seed, **shape)).against()


def tied(seed, share):
    model, problem, weights = layer(seed)
    return foundations.tied(model, problem, weights._replace(K=weights.Q)).against()


def span(seed, share):
    return foundations.lemma(*layer(seed)).trial(20)


SERIES = {
    "pl-linear-rate": (under_pl, on_a_wavy_loss),
    "pl-near-start": (near_start,),
    "least-squares-nearest": (nearest,),
    "convex-rate": (convex,),
    "polyak-step": (polyak,),
    "factorisation-pl": (factorised,),
    "kernel-factorisation": (at_a_start(foundations.factorisation),),
    "equal-rank": (at_a_start(foundations.equal_rank, heads=(1,), wide=(6, 12)),),
    "gaussian-gram": (tied,),
    "softmax-saturation": (at_a_start(foundations.saturation),),
    "rank-threshold": (at_a_start(foundations.rank_threshold),),
    "jacobian-ranks": (at_a_start(foundations.jacobian_rank),),
    "ntk-layer": (at_a_start(foundations.tangent_kernel),),
    "span-lemma": (span,),
}


@pytest.mark.parametrize(("id", "made"), [(id, made) for id, all in SERIES.items() for made in all])
def test_no_conclusion_fails_where_the_hypotheses_are_met(id, made):
    met = 0
    for seed in range(60):
        outcome = made(seed, 0.1 + 0.9 * random.Random(seed).random())
        assert outcome.report.theorem.id == id and outcome.holds, f"seed {seed}\n{outcome}"
        met += int(outcome.met.expand(outcome.conclusions[0].met.shape).sum())
        if met >= ENOUGH:
            return
    pytest.fail(f"only {met} runs met the hypotheses")


def test_every_theorem_of_the_part_is_tried():
    part = theorems.foundations.__name__
    ours = {id for id, t in theorems.registry.items() if t.state.__module__.startswith(part)}
    assert ours == set(SERIES)


#: Claims of Parts I and II that are proved and have no object, and why.
ALONE = {
    "symbolic-softmax-gradient": "an identity, derived by SymPy",
    "symbolic-gaussian-gradient": "an identity, derived by SymPy",
    "saturated-gradient": "about floating point",
    "saddle-at-zero": "one point, the origin, for every layer",
    "softmax-hull": "its floor is that of song2024-hull-bound",
    "gaussian-bound": "its floor is that of song2024-hull-bound",
    "first-order-limit": "a bound for all methods on one function",
    "nesterov-momentum": "another method: its bound is a formula in t",
    "heavy-ball-rate": "another method: its bound is a formula in t",
    "flow-limit": "a limit of small steps",
    "jacobian-width-not-sufficient": "one instance; the bounds are those of jacobian-ranks",
    "span-rules": "about rules, not about data",
    "span-weight-decay": "about a rule, not about data",
    "bartlett": "about a distribution",
    "song2024-initialisation-tied": "a limit of large queries",
    "song2024-corollary-1": "some start and some step: a statement of existence",
    "song2024-counterexample": "one instance; the floor is that of song2024-hull-bound",
    "song2024-counterexample-open": "instances near one; the floor is that of song2024-hull-bound",
    "song2024-gaussian-fails-too": "instances made for it",
}


def test_what_is_proved_has_an_object_or_a_reason():
    parts = ("foundations/", "song2024/")
    proved = {
        c.id
        for c in claims.registry.values()
        if c.chapter.startswith(parts) and c.standing is Standing.PROVED and not c.theorem
    }
    assert proved == set(ALONE)


# -- a function of one's own -----------------------------------------------------------------------


def test_a_constant_that_a_theorem_speaks_of_must_be_given():
    f, theta, *_ = drawn(0)
    with pytest.raises(ValueError, match="this theorem speaks of L: give L="):
        foundations.under_pl(f, theta, mu=1.0)
    with pytest.raises(TypeError, match="f must be LeastSquares, got .*: give LeastSquares"):
        FunctionStart(lambda x: x, theta)
    with pytest.raises(ValueError, match="theta has 1 entries that are NaN"):
        FunctionStart(f, theta.fill_diagonal_(float("nan"))[:1])


def test_too_large_a_constant_shows_along_the_run():
    """PL with twice the true constant is not met, and says so, where the loss needs it."""
    f = elementary.linear(torch.eye(2, dtype=F) * torch.tensor([1.0, 0.1]), torch.zeros(2, dtype=F))
    start = torch.tensor([[0.0, 1.0]], dtype=F)
    right, wrong = (
        foundations.under_pl(f, start, mu=mu, L=1.0).trial(50, 0.5) for mu in (0.01, 0.02)
    )
    assert right.met.all() and right.holds
    assert not wrong.met.any() and not wrong.conclusions[0].met.any()
    assert "2μ(f - f*) ≤ ‖∇f‖²" in repr(wrong) and "all along 2μ" in repr(wrong.report)


def test_too_small_a_constant_shows_along_the_run():
    """A Lipschitz constant that the Jacobian exceeds, and steps that gain less than L says."""
    f, theta, Lambda = balanced_network(4, 4.0, 0)
    outcome = foundations.near_start(f, theta, Lambda=1e-6 * Lambda).trial(40)
    assert outcome.report.met.all() and not outcome.met.any()
    f = LeastSquares(lambda x: x * (6 - 2 * x.square()).sqrt())  # 3x² - x⁴: 1, -1, 1, ...
    start = torch.ones(1, 1, dtype=F)
    outcome = foundations.convex(f, start, L=1.0, minimiser=[0.0]).trial(20)
    assert not outcome.conclusions[0].met.any() and not outcome.met.any()


def test_what_pl_asks_along_a_run_is_equality_on_a_single_curvature():
    f = elementary.linear(torch.eye(3, dtype=F), torch.zeros(3, dtype=F))
    start = draws.normal(0, "theta", (3,), RUNS)
    outcome = foundations.under_pl(f, start, mu=1.0, L=1.0).trial(5, 0.2)
    for asked in outcome.hypotheses[:2]:
        assert torch.allclose(asked.left, asked.right, rtol=1e-9), asked.name


def test_the_numbers_of_a_good_start_are_those_of_the_theorem():
    f, theta, _ = balanced_network(8, 1.0, 0)
    J, r = f.jacobian(theta), f.residual(theta).norm(dim=-1)
    sigma, steepest = torch.linalg.svdvals(J)[..., -1], torch.linalg.svdvals(J)[..., 0]
    report = foundations.near_start(f, theta, Lambda=0.3)
    near = report["8Λ‖r_0‖ < σ_0²"]
    outcome = report.trial(3)
    path = outcome.run.watched["weights"].theta
    moves = (path[1:] - path[:-1]).norm(dim=-1).cumsum(0)
    turned = torch.linalg.matrix_norm(f.jacobian(path[-1]) - J, 2)
    _, length, turn = outcome.conclusions
    for found, written in (
        (near.left, 8 * 0.3 * r),
        (near.right, sigma**2),
        (report["μ = σ_0²/4"], sigma**2 / 4),
        (report.step, 1 / (4 * steepest**2)),
        (length.left, moves),
        (length.right, 4 * r / sigma),
        (turn.left[-1], turned),
        (turn.right, sigma / 2),
    ):
        assert torch.allclose(found, written, rtol=1e-9, atol=0)


def test_the_bounds_on_convex_losses_are_those_of_their_theorems():
    f = elementary.linear(torch.tensor([[1.0, 0.0], [0.0, 0.5]], dtype=F), torch.zeros(2, dtype=F))
    start, t = draws.normal(0, "theta", (2,), RUNS), torch.arange(1, 5, dtype=F)[:, None]
    given = {"L": 1.0, "minimiser": [0.0, 0.0]}
    outcome = foundations.convex(f, start, **given).trial(4, 0.5)
    far = start.square().sum(-1)
    assert (outcome.run.eta == 0.5).all()
    assert torch.allclose(outcome.conclusions[0].right, far / (2 * 0.5 * t), rtol=1e-9)
    outcome = foundations.polyak(f, start, mu=0.25, **given).trial(4)
    gains, falls = outcome.conclusions
    loss, slope = f.loss_and_gradient(start)
    assert torch.allclose(gains.right[0], far - loss**2 / slope.square().sum(-1), rtol=1e-8)
    promised = -t * torch.log(torch.tensor(1 - 0.25 / 4, dtype=F))
    assert torch.allclose(falls.left, promised.expand_as(falls.left), rtol=1e-9)


@pytest.mark.parametrize(
    ("kernel", "D", "rank"),
    [("softmax", 3, 9), ("gaussian", 3, 15), ("softmax", 6, 12), ("gaussian", 6, 18)],
)
def test_the_bounds_on_what_queries_can_turn_are_attained(kernel, D, rank):
    model, problem = Attention(kernel, d=6), problems.gaussian(N=2, n=3, D=D, seed=0)
    weights = model.init(problem, runs=4, seed=1, scale=0.5)
    report = foundations.jacobian_rank(model, problem, weights)
    assert (report["bound"] == rank).all() and (report["rank ∂S/∂W_Q"] == rank).all()


def test_least_squares_is_as_slow_as_promised_along_the_slowest_direction():
    f = elementary.linear(torch.tensor([[1.0, 0.0], [0.0, 0.5]], dtype=F), torch.ones(2, dtype=F))
    start = torch.tensor([[1.0, 5.0]], dtype=F)  # the solution is (1, 2)
    nears = foundations.least_squares(f, start).trial(20, 0.25).conclusions[0]
    written = 3 * (1 - 0.5 * 0.25) ** torch.arange(1, 21, dtype=F)
    assert torch.allclose(nears.left, nears.right, rtol=1e-9)
    assert torch.allclose(nears.left[:, 0], written, rtol=1e-9)


def test_queries_and_keys_that_differ_are_neither_symmetric_nor_positive():
    Q = torch.tensor([[[0.0], [2.0]]], dtype=F)
    outcome = foundations.tied(*alone(Q, 1.2 * Q.flip(1) + 0.1)).against()
    assert not outcome.met.any() and not any(found.met.any() for found in outcome.conclusions)


def test_softmax_of_single_tokens_has_the_rank_of_one_head():
    model, problem = Attention("softmax", H=3, d=2), problems.gaussian(N=4, n=1, D=2, seed=0)
    report = foundations.rank_threshold(model, problem, model.init(problem, runs=4, seed=1))
    assert report.met.all() and report.against().holds
    assert (report["rank B_0"] == 2).all() and (report["HD"] == 2).all()


@pytest.mark.parametrize(("kernel", "rank"), [("softmax", 4), ("gaussian", 6)])
def test_of_sequences_of_one_token_repeated_softmax_counts_as_many_as_dimensions(kernel, rank):
    """Five sequences of two tokens in two dimensions, four of them of one token repeated."""
    model, problem = Attention(kernel, H=3, d=3), problems.gaussian(N=5, n=2, D=2, seed=0)
    X = problem.X.clone()
    X[:4, 1] = X[:4, 0]
    weights = model.init(problem, runs=4, seed=1)
    report = foundations.rank_threshold(model, problems.Problem(X, problem.y), weights)
    assert report.met.all() and report.against().holds
    assert (report["rank B_0"] == rank).all() and (report["distinct"] == 6).all()


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
def test_the_bound_on_the_tangent_kernel_is_attained_where_values_are_zero(kernel):
    """With one head, whose queries and keys then move no output."""
    model, problem = Attention(kernel, d=3), problems.gaussian(N=2, n=2, D=6, seed=0)
    weights = model.init(problem, runs=4, seed=1)
    report = foundations.tangent_kernel(model, problem, weights._replace(V=0 * weights.V))
    assert torch.allclose(report["λ_min(Θ)"], report["min ‖w_h‖² σ_min²(B)"], rtol=1e-6, atol=0)


def test_the_bound_on_saturation_is_attained_where_a_choice_is_all_but_made():
    C = torch.tensor([[[20.0, 0.0]]], dtype=F)
    decided = alone(torch.ones(1, 2, 1, dtype=F), C.mT)
    assert 1 - 1e-6 < foundations.saturation(*decided).against().conclusions[0].left <= 1


def test_the_bound_of_pl_is_that_of_the_theorem():
    f, theta, curved, _ = drawn(3)
    report = foundations.under_pl(f, theta, mu=0.5, L=4.0)
    expected = (1 - 0.1 * 0.5 * (2 - 0.1 * 4)) ** torch.arange(4.0)
    assert torch.allclose(
        report.bound(range(4), torch.full((RUNS,), 0.1))[:, 0], expected.double(), rtol=1e-7
    )


def test_arrays_of_numpy_do_and_a_path_of_ones_own():
    f = LeastSquares(lambda x: torch.tanh(x) - 0.5)
    start = np.array([[0.1], [0.3]])
    report = foundations.near_start(f, start, Lambda=0.8)
    assert report.trial(20).holds
    path = torch.stack([torch.as_tensor(start) + 0.01 * t for t in range(5)])
    run = report.start.seen(path, 0.01)
    assert run.loss.shape == (5, 2) and report.against(run).conclusions[0].met.shape == (2,)


def test_a_run_that_leaves_the_finite_numbers_is_seen_to():
    start = FunctionStart(LeastSquares(torch.exp), torch.ones(1, 1, dtype=F))
    path = torch.tensor([[[1.0]], [[2.0]], [[800.0]]], dtype=F)
    assert start.seen(path, 1).diverged_at.tolist() == [2]
    assert start.seen(path[:2], 1).diverged_at.tolist() == [-1]


def test_the_first_step_of_a_rule_is_kept():
    f, theta, *_ = drawn(1)
    run = FunctionStart(f, theta).descend(step=steps.polyak(), steps=2)
    loss, slope = f.loss_and_gradient(theta)
    assert torch.allclose(run.eta, loss / slope.square().sum(-1))


def test_a_basis_that_misses_a_token_is_refused():
    model, problem, weights = layer(5, wide=(12,))
    basis = foundations.span.SpanStart(model, problem, weights).reduction.basis[:, :-1]
    outcome = foundations.lemma(model, problem, weights, basis).trial(5)
    assert not any(found.met.any() for found in outcome.conclusions)


# -- odd data ----------------------------------------------------------------------------------------


def odd(kernel="gaussian", *, size=1.0, tokens=1.0, residual=None, n=2, **more):
    """A layer whose weights are ``size`` times the usual, and labels ``residual`` off its outputs."""
    problem = problems.gaussian(N=2, n=n, D=8, seed=0)
    problem = problems.Problem(tokens * problem.X, problem.y)
    model = Attention(kernel, H=2, d=2)
    weights = model.init(problem, runs=2, seed=1)
    scale = {"Q": size / tokens, "K": size / tokens, "V": 1 / tokens, "O": 1}
    weights = type(weights)(*(scale[W] * getattr(weights, W) for W in scale))
    if residual is not None:
        labels = model.predict(weights, problem) + residual * problem.y
        problem = problems.Problem(problem.X.expand(2, *problem.X.shape), labels)
    return model, problem, weights


@pytest.mark.parametrize("theorem", [foundations.factorisation, foundations.equal_rank])
@pytest.mark.parametrize("n", [1, 3])
def test_attention_that_underflows_refutes_nothing(theorem, n):
    model, problem, weights = odd(size=1e3, n=n)
    one = Attention("gaussian", H=1, d=2)
    outcome = theorem(one, problem, type(weights)(*(W[:, :1] for W in weights))).against()
    assert outcome.holds and not outcome.met.any(), outcome


def test_labels_all_but_fitted_leave_the_small_problem_its_losses():
    for residual in (1e-6, 1e-12, 1e-16):
        outcome = foundations.lemma(*odd(residual=residual)).trial(10)
        assert outcome.holds, outcome


def test_where_a_rounding_grows_the_small_problem_may_go_elsewhere():
    """Steps of 1/L, from a start that is flat, make training chaotic."""
    outcome = foundations.lemma(*odd(size=8.0)).trial(60)
    assert outcome.holds and not outcome.met.all(), outcome
    assert foundations.lemma(*odd()).trial(20).met.all()


@pytest.mark.parametrize("letter", "QKV")
@pytest.mark.parametrize("size", [1e-8, 1.0])
def test_a_matrix_far_smaller_than_the_others_is_compared_too(letter, size):
    model, problem, weights = layer(1)
    weights = weights._replace(**{letter: size * getattr(weights, letter)})
    report = foundations.lemma(model, problem, weights)
    short = report.start.descend(step=1e-14, steps=3)  # which leaves it small
    outcome = report.against(short)
    assert outcome.holds and outcome.met.all(), outcome
    off = (1 + 1e-6) * getattr(outcome.run.weights, letter)
    nudged = replace(outcome.run, weights=outcome.run.weights._replace(**{letter: off}))
    _, lifted = report.against(nudged).conclusions
    assert not lifted.met.any()


def test_tokens_that_almost_no_draw_has_are_told():
    model, problem, weights = odd()
    for place, token in (((0, 0), 0 * problem.X[0, 0]), ((0, 0), problem.X[1, 0])):
        X = problem.X.clone()
        X[place] = token
        outcome = foundations.rank_threshold(
            model, problems.Problem(X, problem.y), weights
        ).against()
        assert outcome.holds and not outcome.met.any(), outcome
    assert foundations.rank_threshold(model, problem, weights).against().met.all()


def test_a_floor_far_below_the_start_is_known_to_rounding():
    problem = problems.gaussian(N=3, n=3, D=1, seed=0)
    problem = problems.Problem(2.0**30 * problem.X, 2.0**-30 * problem.y)
    model = Attention("softmax", H=1, d=2)
    weights = model.init(problem, runs=8, seed=1)
    weights = weights._replace(**{W: 2.0**-30 * getattr(weights, W) for W in "QKV"})
    assert theorems.get("song2024-plateau")(model, problem, weights).trial(10).holds


def test_a_run_without_a_step_does_not_stop_the_others():
    model, problem, weights = odd()
    V = torch.cat([0 * weights.V[:1], weights.V[1:]])  # the first run: nothing to be said of it
    X = torch.stack([0 * problem.X, problem.X])
    flat = problems.Problem(X, problem.y.expand(2, *problem.y.shape))
    report = theorems.get("song2024-plateau")(model, flat, weights._replace(V=V))
    assert report.step.isinf().tolist() == [True, False]
    outcome = report.trial(5)
    assert outcome.run.loss.isfinite().all() and outcome.holds, outcome
    with pytest.raises(ValueError, match="gives no run a step to train with, but inf: start else"):
        alone = problems.Problem(0 * problem.X, problem.y)
        theorems.get("song2024-plateau")(model, alone, weights).trial(5)
