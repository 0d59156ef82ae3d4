"""Data at the edge of what float64 holds, or of no general position, refute no theorem."""

import pytest
import torch

from descent import descend, draws, problems, theorems
from descent.models import (
    Attention,
    AttentionWeights,
    Encoder,
    LeastSquares,
    LinearAttention,
    Selection,
    SelectionWeights,
)
from descent.models.in_context import InContext, Neurons, Population
from descent.problems import Problem
from descent.steps import PrecisionWarning
from descent.theorems import foundations, song2024, vasudeva2024, wu2023

ABOUT_A_LAYER = [
    id
    for id, theorem in theorems.registry.items()
    if theorem.start is theorems.AttentionStart
    and theorem.standing is not theorems.Standing.REFUTED
]


def layer(kernel="gaussian", runs=4, N=2, n=3, D=7, H=2):
    problem = problems.gaussian(N=N, n=n, D=D, seed=0)
    model = Attention(kernel, H=H, d=3)
    weights = (
        model.init(problem, seed=1) if runs is None else model.init(problem, seed=1, runs=runs)
    )
    return model, problem, weights


def held(report):
    """What came of it, and that nothing that was promised is said to fail."""
    options = {"at": range(11)} if "gradient_norm" in report.watch else {}
    outcome = report.trial(10, **options)
    assert outcome.holds and "FAILS" not in repr(outcome), outcome
    return outcome


@pytest.mark.parametrize("size", [1e-150, 1e150])
@pytest.mark.parametrize("id", ABOUT_A_LAYER)
def test_sizes_that_float64_cannot_hold_are_told_and_refute_nothing(id, size):
    kernel = "softmax" if id == "song2024-theorem-3-softmax" else "gaussian"
    model, problem, weights = layer(kernel)
    report = theorems.get(id)(model, Problem(size * problem.X, problem.y), weights)
    assert "float64 cannot tell" in repr(report) and not report.met.any()
    try:
        held(report)
    except ValueError as refusal:
        assert "a step to train with" in str(refusal) or "needs curvature" in str(refusal)


def test_a_theorem_on_float32_data_is_one_on_the_same_numbers_in_float64():
    model, problem, weights = layer("softmax", N=4, n=4, D=16)
    single = problem.to(torch.float32), type(weights)(*(W.float() for W in weights))
    report = foundations.factorisation(model, *single)
    assert report.start.weights.Q.dtype == report["ranks of the S_i, summed"].dtype == torch.float64
    assert held(report).met.all()
    pair = (
        (single[0].X, single[0].y),
        list(single[1]),
    )  # what a start makes a problem and weights of
    assert torch.equal(
        foundations.factorisation(model, *pair).start.residual, report.start.residual
    )
    rough = descend(model, *single, train="V", step=1e-3, steps=3)
    with pytest.raises(ValueError, match="the run is in float32, .*: train in float64"):
        song2024.theorem_1(model, *single).against(rough)


@pytest.mark.parametrize("D", [3, 7])
def test_weights_without_a_dimension_for_runs_fall_to_their_plateau(D):
    outcome = held(song2024.plateau(*layer(runs=None, D=D)))
    assert outcome.conclusions[1].met.shape == ()


@pytest.mark.parametrize("size", [30.0, 1e3])
def test_a_rank_that_underflow_hides_is_not_decided(size):
    model, problem, weights = layer(n=1, N=2)
    outcome = held(foundations.rank_threshold(model, Problem(size * problem.X, problem.y), weights))
    assert not outcome.met.all()


def test_a_rank_is_not_decided_where_all_heads_are_one():
    model, problem, weights = layer("softmax", D=2)
    same = type(weights)(*(W[:, :1].expand_as(W) for W in weights))
    assert held(foundations.rank_threshold(model, problem, weights)).met.all()
    assert not held(foundations.rank_threshold(model, problem, same)).met.any()


def test_a_singular_value_of_rounding_exceeds_no_bound():
    model, problem, weights = layer(N=1, n=2, D=3, H=1)
    small = Problem(1e-20 * problem.X, problem.y)
    assert held(song2024.small(model, small, weights)).met.all()


def test_queries_come_to_rest_where_the_loss_gains_less_than_its_rounding():
    model, problem, weights = layer("softmax", N=3, D=9, H=1)
    near = Problem(problem.X[..., :1, :] + 1e-9 * problem.X, 0 * problem.y)
    held(song2024.softmax_rests(model, near, weights))


@pytest.mark.parametrize("id", ["song2024-theorem-1", "song2024-theorem-2"])
def test_labels_that_are_fitted_from_the_start_break_no_rate(id):
    """Zero labels and values of zero: the loss is zero, and so is its bound."""
    model, problem, weights = layer("softmax")
    nothing = Problem(problem.X, 0 * problem.y)
    run = held(theorems.get(id)(model, nothing, weights._replace(V=0 * weights.V))).run
    assert (run.loss == 0).all()


def test_queries_and_keys_of_zero_that_need_not_move_are_within_their_budgets():
    """Of one token softmax makes 1, whatever they are."""
    model, problem, weights = layer("softmax", n=1, H=1)
    nothing = weights._replace(Q=0 * weights.Q, K=0 * weights.K)
    assert held(song2024.theorem_2(model, problem, nothing)).met.all()


def test_a_head_without_output_weights_leaves_the_loss_at_a_plateau():
    """The features have full rank, and still no values reach the labels."""
    model, problem, weights = layer("softmax", n=2, D=2)
    O = weights.O.clone()  # noqa: E741
    O[:, 1] = 0
    silent = weights._replace(O=O)
    assert held(song2024.theorem_1(model, problem, silent)).met.all()
    floor = "½‖(I - BB⁺)r_0‖²"
    assert (song2024.plateau(model, problem, weights)[floor] == 0).all()
    assert song2024.plateau(model, problem, silent)[floor].min() > 0.01


def test_attention_that_is_singular_bounds_no_condition_number():
    model, problem, weights = layer("softmax", H=1)
    alike = weights._replace(K=0 * weights.K)
    assert held(song2024.conditioning(model, problem, weights)).met.all()
    assert not held(song2024.conditioning(model, problem, alike)).met.any()


def test_a_choice_that_is_made_up_to_rounding_has_no_slope_to_compare():
    """Two scores 24 to 27 apart, so that the smaller weight is 4e-11 to 2e-12."""
    gaps = torch.linspace(24, 27, 64, dtype=torch.float64)
    Q, K = torch.zeros(2, 64, 1, 2, 1, dtype=torch.float64)
    Q[:, 0, 0, 0], K[:, 0, 0, 0] = 1.0, gaps
    weights = AttentionWeights(Q, K, K, torch.ones(64, 1, 1).double())
    tokens, labels = torch.eye(2, dtype=torch.float64)[None], torch.zeros(1, 2).double()
    held(foundations.saturation(Attention(d=1), Problem(tokens, labels), weights))


def test_zero_has_no_direction_to_be_dominated():
    problem, u = problems.planted(N=1, n=2, D=6, seed=0)
    weights = SelectionWeights(torch.zeros(2, 6, 6).double(), u.expand(2, 6))
    assert held(vasudeva2024.domination(Selection(), problem, weights)).met.all()


@pytest.mark.parametrize("ell", ["logistic", "exponential"])
def test_the_way_down_is_known_where_the_loss_underflows(ell):
    problem, u = problems.orthonormal_tokens(N=3, n=3, D=12, seed=0)
    large = Problem(1e3 * problem.X, problem.y)
    weights = SelectionWeights(torch.zeros(2, 12, 12).double(), u.expand(2, 12))
    with pytest.warns(PrecisionWarning, match="they stand still"):
        assert held(vasudeva2024.progress(Selection(ell), large, weights)).met.all()


@pytest.mark.parametrize("id", ["wu2023-softmax-degeneration", "wu2023-ntk-limit"])
def test_attention_that_is_uniform_to_rounding_refutes_nothing(id):
    for seed in range(4):
        problem = problems.sequences(N=4, n=2, D=3, seed=seed)
        small = Problem(1e-8 * problem.X, problem.y)
        encoder = Encoder(64, "d^-1/2", "ntk")
        held(theorems.get(id)(encoder, small, encoder.init(small, seed=seed, runs=4)))


@pytest.mark.filterwarnings(
    "ignore::descent.steps.PrecisionWarning", "ignore::descent.DivergenceWarning"
)
@pytest.mark.parametrize("id", [id for id in theorems.registry if id.startswith("vasudeva2024")])
def test_slopes_of_the_loss_that_underflow_refute_nothing(id):
    layer = Selection(goal="log excess")
    for N, n in ((1, 2), (2, 3)):
        problem, u = problems.orthonormal_tokens(N, n, 14, seed=0)
        start = layer.init(problem, seed=0, runs=2, u=1e3 * u)
        report = theorems.get(id)(layer, problem, start)
        names = [h.name for h in report.hypotheses if not h.met.all()]
        constant = id not in ("vasudeva2024-progress", "vasudeva2024-sparsity")
        assert ("float64 holds κ_min" in names) == constant
        held(report)


@pytest.mark.filterwarnings("ignore::descent.steps.PrecisionWarning")
@pytest.mark.parametrize("id", ["vasudeva2024-everywhere", "vasudeva2024-steps"])
def test_soft_margins_that_no_step_moves_refute_nothing(id):
    problem, u = problems.orthonormal_tokens(3, 3, 14, seed=0)
    small, layer = Problem(1e-8 * problem.X, problem.y), Selection(goal="log excess")
    start = layer.init(small, seed=0, runs=2, scale=100.0, u=1e8 * u)
    assert not held(theorems.get(id)(layer, small, start)).met.any()


def test_features_that_are_all_zero_are_not_told_apart():
    problem = problems.gaussian(N=2, n=2, D=4, seed=0)
    problem = Problem(0 * problem.X, problem.y[..., 0])
    encoder = Encoder(2, "d^-1", "ntk")
    held(wu2023.equal_means(encoder, problem, encoder.init(problem, seed=1, runs=4)))


@pytest.mark.parametrize("rows", [[[1.0, 2.0]], [[0.0, 0.0]]])
def test_a_loss_that_does_not_fall_refutes_no_rate(rows):
    """At 2/L the rate is zero; and where the gradient is zero there is nothing to gain."""
    A, b = torch.tensor(rows).double(), torch.tensor([0.7]).double()
    least = 0.0 if bool(A.any()) else 0.245
    f, theta = (
        LeastSquares(lambda theta: theta @ A.mT - b),
        draws.normal(0, "theta", (50, 2)),
    )
    mu = float(A.square().sum()) or 1.0
    held(foundations.under_pl(f, theta, L=mu, mu=mu, infimum=least))


def test_features_singular_to_rounding_are_a_hypothesis_that_is_not_met():
    X = torch.linspace(-1, 1, 20).double()[:, None]
    w = 1e-8 * draws.normal(0, "w", (40, 4, 1))
    cloud = Neurons(draws.normal(0, "a", (40, 4, 3)), w)
    report = theorems.get("kim2024-finite-prompts")(
        InContext("sigmoid"), cloud, Population(X, X), 5
    )
    assert not report.met.any()


@pytest.mark.parametrize("columns", [3, 2])
def test_a_residual_that_does_not_take_the_start_is_told(columns):
    """Of vectors of another length, or in float32."""
    A = torch.ones(1, columns, dtype=torch.float64 if columns == 3 else torch.float32)
    f = LeastSquares(lambda theta: theta @ A.mT)
    with pytest.raises(ValueError, match="f cannot be computed at theta .* give a residual of"):
        theorems.FunctionStart(f, torch.zeros(4, 2).double())


def test_plateaus_of_separate_heads_are_the_same_in_any_units():
    """Tokens times c: the same flow, of weights c^-2/3 times as long, at times c^-10/3."""
    X, model = draws.normal(0, "X", (1, 8, 2)), LinearAttention(2, 5, 1)
    found = []
    for c in (1.0, 1e-6, 1e6):
        problem, a = Problem(c * X, torch.zeros(1, 8).double()), c ** (-2 / 3)
        start = model.init(problem, seed=1, runs=3, scale=0.02 * a)
        times = torch.linspace(0, 3, 9).double() * (a / c) ** 2
        report = theorems.get("long-plateau")(model, problem, start, times, 0.3 * a)
        outcome = held(report)
        assert outcome.met.all()
        slow, flat = outcome.conclusions
        silent = report.start.silent
        found.append(
            torch.stack([a * slow.left, a * slow.right, flat.left / silent, flat.right / silent])
        )
    for other in found[1:]:
        assert (other - found[0]).abs().max() < 1e-3


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_the_units_of_true_features_decide_nothing(size):
    model, X = InContext("tanh"), draws.normal(0, "X", (30, 2))
    teachers = Neurons(draws.normal(0, "a", (3, 2)), draws.normal(0, "w", (3, 2)))
    cloud = Neurons(torch.cat([teachers.a, teachers.a + 1]), torch.cat([teachers.w, -teachers.w]))
    made = size * model.features(teachers, X)
    taught = Neurons(size * teachers.a, teachers.w)
    crowd = Neurons(size * cloud.a, cloud.w)
    birth = theorems.get("improvement-by-birth")
    for F, met in ((made, True), (1.01 * made, False)):
        outcome = birth(model, crowd, Population(X, F), None, taught).against()
        assert outcome.holds and outcome.met.all() == met, str(outcome)


@pytest.mark.parametrize("id", ["improvement-rate", "improvement-by-birth"])
def test_a_loss_of_rounding_does_not_fall(id):
    """Two inputs and two features: any cloud makes the true ones."""
    model = InContext("tanh")
    for seed in range(20):
        X = draws.normal(seed, "X", (2, 2))
        teachers = Neurons(draws.normal(seed, "a", (3, 2)), draws.normal(seed, "w", (3, 2)))
        more = Neurons(*(torch.cat([W, draws.normal(seed, "more", (2, 2))]) for W in teachers))
        population = Population(X, model.features(teachers, X))
        more = Neurons(more.a + 0.5, more.w)
        near = Neurons(torch.cat([teachers.a, more.a]), torch.cat([teachers.w, more.w]))
        outcome = theorems.get(id)(model, near, population, None, teachers).against()
        assert outcome.holds and not outcome.met.any(), str(outcome)


@pytest.mark.parametrize("seed", range(6))
def test_factors_of_no_full_rank_have_no_slope_of_rounding(seed):
    """One singular pair is learned and the other is not: a critical point that is no minimum."""
    U = torch.linalg.qr(draws.normal(seed, "U", (3, 3)))[0]
    V = torch.linalg.qr(draws.normal(seed, "V", (3, 3)))[0]
    M = U[:, :2] @ torch.diag(torch.tensor([2.0, 1.0]).double()) @ V[:, :2].mT
    root = 2**0.5
    report = foundations.factorised(M, root * U[:, :1], root * V[:, :1])
    assert report["μ"] == 0 and held(report).met.all()


@pytest.mark.parametrize("seed", range(8))
def test_polyak_gains_nothing_that_rounding_hides(seed):
    """A start near a minimiser that is long, of a loss that vanishes and of one that does not."""
    for rows, known in ((4, 0.0), (6, None)):
        A, y = draws.normal(seed, "A", (rows, 4)), 1e3 * draws.normal(seed, "y", (rows,))
        best, curved = torch.linalg.pinv(A) @ y, torch.linalg.svdvals(A).square()
        f = LeastSquares(lambda theta, A=A, y=y: theta @ A.mT - y)
        start = best + 1e-8 * draws.normal(seed, "start", (4,), 5)
        least = float(f.loss(best)) if known is None else known
        given = {"mu": curved[-1], "L": curved[0], "minimiser": best, "infimum": least}
        held(foundations.polyak(f, start, **given))
        assert foundations.polyak(f, start, **given).trial(60).holds


@pytest.mark.parametrize("far", [1e-9, 1e-7])
def test_linear_convergence_is_seen_down_to_the_rounding_of_the_residual(far):
    """A residual that is small beside the labels it is the difference of."""
    A, y = torch.eye(2).double(), 1e3 * draws.normal(0, "y", (2,))
    f = LeastSquares(lambda theta: theta @ A.mT - y)
    start = y + far * draws.normal(0, "start", (2,), 20)
    for L, mu, holds in ((1.0, 1.0, True), (1.0, 4.0, False)):
        outcome = foundations.under_pl(f, start, L=L, mu=mu).trial(60, 0.1)
        assert bool(outcome.conclusions[0].met.all()) == holds


@pytest.mark.parametrize("far", [1.0, 1e8])
def test_how_long_W_is_dominates_nothing(far):
    """One sequence of two tokens, where C is zero."""
    problem, u = problems.planted(N=1, n=2, D=6, seed=0)
    layer = Selection()
    start = layer.init(problem, seed=0, runs=20, u=u)
    at = theorems.SelectionStart(layer, problem, start)
    along = at.mm.direction + 1e-9 * start.W
    held(vasudeva2024.domination(layer, problem, start._replace(W=far * along / at.length)))


def test_means_are_as_equal_as_the_hypothesis_asks():
    X = draws.normal(0, "X", (1, 1, 3)).expand(2, 1, 3)
    X = X * (1 + torch.tensor([0.0, 5e-13]).double()[:, None, None])
    problem, encoder = Problem(X, torch.zeros(2).double()), Encoder(8, "d^-1", "ntk")
    assert held(
        wu2023.equal_means(encoder, problem, encoder.init(problem, seed=1, runs=4))
    ).met.all()


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
def test_ranks_are_equal_however_near_attention_is_to_uniform(kernel):
    model, problem, weights = layer(kernel, D=14, H=1)
    met = []
    for size in torch.logspace(-9, 0, 40).double():
        small = weights._replace(Q=size * weights.Q, K=size * weights.K)
        met.append(bool(held(foundations.equal_rank(model, problem, small)).met.all()))
    assert met[-1] and not all(met)


@pytest.mark.parametrize("far", [0.0, 1e2, 1e4])
def test_kernels_factorise_however_far_from_zero_the_tokens_are(far):
    tokens = draws.normal(0, "X", (1, 3, 3))
    tokens[..., 0] = far
    one = torch.eye(3).double().expand(1, 1, 3, 3)
    weights = AttentionWeights(one, one, one, torch.ones(1, 1, 3).double())
    held(foundations.factorisation(Attention(d=3), Problem(tokens, tokens[..., 0]), weights))


@pytest.mark.parametrize("size", [1e-10, 1e-7, 1.0])
def test_sequences_of_very_different_sizes_are_told_apart_or_not_decided(size):
    encoder, problem = Encoder(5, "d^-1", "lecun"), problems.sequences(N=2, n=2, D=3, seed=0)
    uneven = Problem(problem.X * torch.tensor([1.0, size]).double()[:, None, None], problem.y)
    outcome = held(wu2023.told_apart_by_attention(encoder, uneven, encoder.init(uneven, seed=1)))
    assert outcome.met.all() == (size == 1.0)


@pytest.mark.filterwarnings("ignore::descent.DivergenceWarning")
@pytest.mark.filterwarnings("ignore::descent.steps.PrecisionWarning")
@pytest.mark.parametrize(("size", "length"), [(100.0, 1.0), (1.0, 1e4)])
def test_constants_that_overflow_bound_nothing(size, length):
    layer = Selection(goal="log excess")
    for seed in range(12):
        problem, u = problems.orthonormal_tokens(1 + seed % 4, 2 + seed % 3, 20, seed)
        start = layer.init(problem, seed=seed + 1, runs=4, scale=1.0 + seed % 8, u=u)
        large = Problem(size * problem.X, problem.y)
        report = vasudeva2024.polyak(layer, large, start._replace(W=length * start.W))
        assert report.trial(20, looks=8).holds


def test_prompts_of_features_that_are_nearly_dependent_cost_what_rounding_leaves():
    for seed in range(40):
        X = 10 ** -(2 + seed / 20) * draws.normal(seed, "X", (30, 2))
        model, w = InContext("tanh"), draws.normal(seed, "w", (4, 2))
        cloud = Neurons(draws.normal(seed, "a", (4, 3)), w)
        F = draws.normal(seed, "F", (30, 2))
        theorem = theorems.get("kim2024-finite-prompts")
        assert theorem(model, cloud, Population(X, F), 5).against().holds
