"""Data at the edge of what float64 holds, or of no general position, refute no theorem."""

import pytest
import torch

from descent import descend, draws, problems, theorems
from descent.models import (
    Attention,
    AttentionWeights,
    Encoder,
    LeastSquares,
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
