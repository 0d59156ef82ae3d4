"""Theorems on attention that selects: on random instances, and what their numbers are made of."""

import warnings

import cvxpy
import numpy as np
import pytest
import torch
from strategies import relative_gap

from descent import draws, margin, problems, steps, theorems
from descent.claims.vasudeva2024._shared import LAYER, along_first, planted
from descent.claims.vasudeva2024.convergence import in_the_plane, with_scores
from descent.models import Selection
from descent.theorems import SelectionStart

RUNS, ENOUGH = 10, 200
#: Lengths of the steps, where they are not 0.2.
ETA = {"vasudeva2024-steps": 0.05}


def drawn(seed):
    """Equal scores of the other tokens, a random small shape, ten starts of random length."""
    pick = torch.Generator().manual_seed(seed)
    N, n, extra = (int(torch.randint(*of, (1,), generator=pick)) for of in ((1, 5), (2, 5), (1, 5)))
    problem, u = problems.planted(N, n, max(N, n) + extra, seed)
    start = LAYER.init(problem, seed=seed + 1, runs=RUNS, u=u)
    length = 10 ** torch.empty(RUNS, dtype=torch.float64).uniform_(-1, 1.3, generator=pick)
    return problem, start._replace(W=length[:, None, None] * start.W)


def scored(problem, seed):
    """A decoder of orthonormal tokens whose scores differ between sequences, and so their slopes."""
    base = torch.randn(problem.N, generator=torch.Generator().manual_seed(seed))
    return with_scores(problem, base.double())


def orthogonal(seed):
    """No two differences point against each other."""
    problem, _ = problems.orthonormal_tokens(1 + seed % 4, 2 + seed % 3, 20, seed)
    u = scored(problem, seed)
    return problem, LAYER.init(problem, seed=seed + 1, runs=RUNS, scale=1.0 + seed % 8, u=u)


def settling(seed):
    """All constraints active, and steps below the threshold; scores that differ, or do not."""
    problem, u = problems.planted(2 + seed % 2, 2 + seed % 2, 30, seed)
    if seed % 3:
        problem, _ = problems.orthonormal_tokens(2 + seed % 2, 2 + seed % 2, 30, seed)
        u = scored(problem, seed)
    return problem, LAYER.init(problem, seed=seed + 1, runs=RUNS, scale=2.0, u=u)


def returning(seed):
    """No two differences point against each other, and steps below the threshold, some lost."""
    problem, u = problems.orthonormal_tokens(1 + seed % 3, 2 + seed % 3, 20, seed)
    return problem, LAYER.init(problem, seed=seed + 1, runs=RUNS, scale=1.0 + seed % 4, u=u)


SERIES = {
    "vasudeva2024-steps": (returning, 1500),
    "vasudeva2024-progress": (drawn, 60),
    "vasudeva2024-domination": (drawn, 1),
    "vasudeva2024-sparsity": (drawn, 60),
    "vasudeva2024-rate": (orthogonal, 120),
    "vasudeva2024-polyak": (orthogonal, 60),
    "vasudeva2024-everywhere": (orthogonal, 600),
    "vasudeva2024-sharp-law": (settling, 800),
}


@pytest.mark.parametrize("id", SERIES)
def test_no_conclusion_fails_where_the_hypotheses_are_met(id):
    made, steps = SERIES[id]
    met = 0
    for seed in range(60):
        try:
            report = theorems.get(id)(LAYER, *made(seed), eta=ETA.get(id, 0.2))
        except margin.Infeasible:
            continue
        outcome = report.trial(steps, looks=10)
        assert outcome.holds, f"seed {seed}\n{outcome}"
        met += int(outcome.met.expand(RUNS).sum())
        if met >= ENOUGH:
            return
    pytest.fail(f"only {met} runs met the hypotheses")


def test_no_direction_is_much_steeper_however_far_outside_the_cone():
    beyond = used = 0
    for angle in range(30, 175, 10):
        at = SelectionStart(LAYER, *in_the_plane(angle))
        W, R = at.weights.W, at.R(at.weights.W)
        M = (-at.m(W).amin(-1) - R).clamp_min(0)  # the least for which the hypothesis is met
        down = at.downhill(W)
        own = (down * W).sum((-2, -1)) / torch.linalg.matrix_norm(W)
        excess = R * (own / (down * at.mm.direction).sum((-2, -1)) - 1)
        assert (excess <= at.constant(M) + 1e-9).all()
        beyond, used = beyond + int((M > 0).sum()), used + int((excess > at.C + 1e-9).sum())
    assert beyond > 1000 and used > 100  # and without M it would not hold


def test_the_sharp_law_says_nothing_of_attention_that_is_undecided():
    problem, start = settling(2)
    for length in (1e-4, 1e-2, 1.0):
        for count in (20, 60):
            for eta in (0.05, 0.2):
                of = theorems.get("vasudeva2024-sharp-law")(
                    LAYER, problem, start._replace(W=length * start.W), eta=eta
                )
                assert of.trial(count, looks=8).holds


def test_the_sharp_law_says_nothing_before_the_slowest_gap_has_settled():
    problem, u = problems.planted(3, 3, 12, seed=4)  # which takes 50 lengths to fall by e
    start = LAYER.init(problem, runs=4, seed=0, u=u)
    for count in (60, 200, 400, 1000):
        outcome = theorems.get("vasudeva2024-sharp-law")(LAYER, problem, start).trial(
            count, looks=8
        )
        assert outcome.holds
        assert outcome.met.all() == (count == 1000)


def test_runs_on_a_grid_are_those_in_a_row():
    problem, start = settling(2)
    grid = type(start)(*(W.unflatten(0, (2, -1)) for W in start))
    law = theorems.get("vasudeva2024-sharp-law")
    assert torch.equal(law(LAYER, problem, grid)["K"].flatten(), law(LAYER, problem, start)["K"])
    assert law(LAYER, problem, grid).trial(20).met.shape == (2, len(start.W) // 2)


def test_a_trial_says_what_it_cannot_do(at):
    report = theorems.get("vasudeva2024-rate")(LAYER, at.problem, at.weights)
    with pytest.raises(ValueError, match="looks must be at least 1"):
        report.trial(20, looks=0)
    with pytest.raises(TypeError, match="takes the step of vasudeva2024-rate.*share"):
        report.trial(20, step=0.1)


def test_every_theorem_of_the_part_is_tried():
    assert {id for id in theorems.registry if id.startswith("vasudeva2024")} == set(SERIES)


@pytest.fixture
def at():
    return SelectionStart(LAYER, *planted(1))


def test_the_soft_margins_are_the_models(at):
    W = at.weights.W
    assert relative_gap(at.m(W), LAYER.soft_margins(at.weights, at.problem, at.opt)) < 1e-13


def test_the_way_down_is_that_of_autograd(at):
    leaf = at.weights.W.clone().requires_grad_()
    Selection().loss(at.weights._replace(W=leaf), at.problem).sum().backward()
    down = -leaf.grad / torch.linalg.matrix_norm(leaf.grad)[:, None, None]
    assert relative_gap(at.downhill(at.weights.W), down) < 1e-10


@pytest.mark.parametrize("far", [10.0, 1e3, 1e4])
def test_the_way_down_is_known_where_every_gradient_underflows(far):
    # deep in the trap the first sequence is heard as e^-far, the second as the square of that
    problem, u = problems.trap()
    start = along_first(problem, u, [far, -far])
    at = SelectionStart(LAYER, problem, start)
    down, first = at.downhill(start.W), along_first(problem, u, [1.0]).W[0]
    assert relative_gap(down[0], first) < 1e-4
    assert relative_gap(down[1], first) < 1e-4  # the first is nearer to its border there too
    with warnings.catch_warnings():  # the run itself stands still, and says so
        warnings.simplefilter("ignore", steps.PrecisionWarning)
        assert theorems.get("vasudeva2024-progress")(LAYER, problem, start).trial(5).holds


def test_the_way_down_is_known_where_wrong_tokens_of_one_score_have_all_attention():
    problem, u = problems.planted(N=1, n=3, D=5, seed=0)
    at = SelectionStart(LAYER, problem, LAYER.init(problem, seed=0, u=u))
    W = -torch.tensor([1.0, 5e3])[:, None, None].double() * at.mm.W
    A, phi = margin.combine(torch.eye(3).double()[:, None], at.a, at.z), at.gaps(W)
    kept = torch.arange(3) != at.opt
    V = (torch.softmax(-phi[:, 0], -1)[..., None, None] * A[kept]).sum(1)
    for found, true in zip(at.downhill(W), V, strict=True):
        assert relative_gap(found, true / torch.linalg.matrix_norm(true)) < 1e-12


def test_constants_by_hand():
    # A_1 = (1, 0), A_2 = (0.3, 0.6): Gram matrix, duals and the distance of each from zero
    problem, u = problems.pairs(torch.tensor([[1.0, 0.0], [0.3, 0.6]]))
    at = SelectionStart(LAYER, problem, along_first(problem, u, [0.0]))
    G = torch.tensor([[1.0, 0.3], [0.3, 0.45]], dtype=torch.float64)
    assert relative_gap(at.gram, G) < 1e-6  # the differences came in float32
    assert relative_gap(at.alpha, torch.linalg.solve(at.gram, torch.ones(2).double())) < 1e-12
    assert abs(float(at.pull) - 0.45) < 1e-6 and float(at.push) == 0
    assert abs(float(at.B) - 1) < 1e-12
    # logistic loss, scores 0 and 1, two sequences: slopes 1/2 and 1/(1+e)
    assert abs(float(at.kappa_max) - 0.25) < 1e-6
    assert abs(float(at.kappa_min) - 0.5 / (1 + torch.e)) < 1e-6
    ratio = float(at.kappa_max / at.kappa_min)
    assert abs(float(at.C) - 4 / torch.e * ratio) < 1e-9  # log(T - 1) is zero
    # W_mm = (1, 7/6), and the duals 5/12 and 35/18 weigh the squares across it to 7/24
    assert abs(float(at.largest_eta) - 8 * 85**0.5 / 7) < 1e-5


def by_loops(problem, u):
    """The chapters' constants, written out for each sequence and pair; logistic loss."""
    A, drops = [], []
    for X, y in zip(problem.X.numpy(), problem.y.numpy(), strict=True):
        score = y * X @ u.numpy()
        best, rest = score.argmax(), np.delete(np.arange(len(X)), score.argmax())
        A.append([np.outer(X[best] - X[t], X[0]) for t in rest])
        base = score[rest].mean()
        f = np.linspace(base, score[best], 100)
        drops.append((score[best] - base) / (1 + np.exp(f)) / len(problem.X))
    pushed = [
        sum(
            max(0, *(-(a * b).sum() for a in mine for b in other))
            for other in A
            if other is not mine
        )
        for mine in A
    ]
    nearest = [np.square(shortest(np.array([a.ravel() for a in mine]))).sum() for mine in A]
    B = max(np.sqrt(np.square(a).sum()) for mine in A for a in mine)
    return B, np.max(drops), np.min(drops), min(nearest), max(pushed)


def shortest(points):
    """The nearest point to zero of their hull, in coordinates of their span."""
    points = np.linalg.qr(points.T)[1].T
    weight = cvxpy.Variable(len(points), nonneg=True)
    length = cvxpy.sum_squares(points.T @ weight)
    cvxpy.Problem(cvxpy.Minimize(length), [cvxpy.sum(weight) == 1]).solve("CLARABEL")
    return points.T @ weight.value


@pytest.mark.parametrize("seed", range(3))
def test_constants_of_sequences_that_differ_by_loops(seed):
    if seed:
        problem, u = problems.planted(2 + seed, 2 + seed, 90, seed)
    else:  # orthonormal tokens, twice as long, of scores that differ between sequences
        problem, u = orthogonal(1)[0], orthogonal(1)[1].u[0]
        problem, u = problems.Problem(2 * problem.X, problem.y), u / 2
    at = SelectionStart(Selection(), problem, Selection().init(problem, seed=0, scale=0, u=u))
    B, largest, least, pull, push = by_loops(problem, u)
    for found, true in zip((at.B, at.kappa_max, at.kappa_min), (B, largest, least), strict=True):
        assert abs(float(found) / true - 1) < 1e-12
    assert abs(float(at.pull) / pull - 1) < 1e-6 and abs(float(at.push) - push) < 1e-12
    N, n, M = problem.N, problem.n, 1.5
    C = np.log(n - 1) + 4 * (N - 1) / np.e * largest / least * np.exp(M)
    assert abs(float(at.constant(M)) / C - 1) < 1e-12
    eta = float(at.everywhere_eta)
    left = pull * least * np.exp(-2 * eta * B) - 2 * push * largest
    start = at.model, at.problem, at.weights
    asked = theorems.get("vasudeva2024-everywhere")(*start)["2eκ_max < aκ_min"]
    assert abs(float(asked.left) - 2 * push * largest) < 1e-12
    assert abs(float(asked.right) / (pull * least) - 1) < 1e-6
    assert eta > 0 and abs(N * B**3 * largest * eta / left - 1) < 1e-5


def test_the_bounds_of_normalised_and_polyak_steps_by_hand():
    problem, start = orthogonal(2)
    rate, polyak = (theorems.get(f"vasudeva2024-{name}") for name in ("rate", "polyak"))
    report = rate(LAYER, problem, start, eta=0.7)
    outcome = report.trial(12, at=range(13))
    at, W = report.start, outcome.run.watched["weights"].W
    length, M = torch.linalg.matrix_norm(W), (-at.m(W[0]).amin(-1)).clamp_min(0)
    missing = length - (W * at.mm.direction).sum((-2, -1))
    each = 0.7 * at.constant(M) * at.length + 0.7**2 / 2
    bound = (missing[0] + each * (1 / length[:-1]).sum(0)) / length[-1]
    assert relative_gap(outcome.conclusions[1].right, bound) < 1e-12
    report = polyak(LAYER, problem, start)
    outcome, rho = report.trial(3), report["ρ"]
    slopes = at.slope(at.others[:, 0]) / at.slope(at.best)
    assert rho == slopes.max() > 1.1 and M.max() > 0.1
    shortest, longest = (outcome.conclusions[k] for k in (0, 1))
    assert relative_gap(shortest.left[0], (0.5 / (rho * at.B)).expand(RUNS)) < 1e-12
    assert relative_gap(longest.right[0], 0.5 * rho * at.length * (1 + M.exp())) < 1e-12


@pytest.mark.parametrize("seed", range(8))
def test_one_pair_of_tokens_settles_with_steps_of_any_length(seed):
    problem, u = problems.planted(1, 2, 4, seed)
    at = SelectionStart(LAYER, problem, LAYER.init(problem, seed=0, u=u))
    assert float(at.largest_eta) == torch.inf


def test_push_is_what_the_others_do():
    problem, u = problems.trap(s=3.0, alpha=60.0)
    at = SelectionStart(LAYER, problem, along_first(problem, u, [0.0]))
    assert abs(float(at.push) - 1.5) < 1e-12  # s cos(alpha)


def test_numpy_will_do(at):
    arrays = at.problem.X.numpy(), at.problem.y.numpy()
    weights = at.weights.W.numpy(), at.u.numpy()
    again = SelectionStart(LAYER, arrays, weights)
    assert torch.equal(again.K, at.K)


def test_bad_starts_are_named(at):
    with pytest.raises(ValueError, match="without d"):
        SelectionStart(Selection(d=2), at.problem, at.weights)
    with pytest.raises(ValueError, match="different decoders"):
        u = torch.stack([at.u, 2 * at.u, at.u, at.u])
        _ = SelectionStart(LAYER, at.problem, at.weights._replace(u=u)).u


@pytest.mark.filterwarnings("ignore::descent.steps.PrecisionWarning")
def test_a_run_that_ends_before_its_limit_refutes_nothing():
    problem, u = problems.orthonormal_tokens(1, 2, 20, seed=0)
    plain = Selection("exponential")  # whose gradient is lost after 700 in the exponent
    start = plain.init(problem, seed=1, runs=2, u=u)
    outcome = theorems.get("vasudeva2024-rate")(plain, problem, start, eta=20.0).trial(200)
    assert outcome.holds and not outcome.met.any(), outcome
    start = start._replace(W=30 * start.W)
    outcome = theorems.get("vasudeva2024-sharp-law")(LAYER, problem, start, eta=0.5).trial(60)
    assert outcome.holds and not outcome.met.any(), outcome


def in_other_coordinates(problem, u, size):
    """The same data ``size`` times as large, with scores that are equal up to rounding."""
    Q = torch.linalg.qr(draws.normal(0, "turn", (problem.D, problem.D)))[0]
    return problems.Problem(size * problem.X @ Q, problem.y), u @ Q


@pytest.mark.filterwarnings("ignore::descent.steps.PrecisionWarning")
@pytest.mark.parametrize("id", SERIES)
def test_rounding_that_attention_weighs_more_than_the_scores_refutes_nothing(id):
    decided = 0
    for seed in range(3):
        problem, u = problems.orthonormal_tokens(2 + seed, 3, 14, seed)
        problem, u = in_other_coordinates(problem, u, size=10.0)
        for scale in (0.01, 10.0):
            start = LAYER.init(problem, seed=seed, runs=4, scale=scale, u=u)
            start = start._replace(W=start.W - scale * problem.X[0, 1].outer(problem.X[0, 0]))
            outcome = theorems.get(id)(LAYER, problem, start, eta=0.001).trial(20, looks=5)
            assert outcome.holds and "FAILS" not in repr(outcome), outcome
            decided += int(outcome.met.sum())
    assert decided < 24 or id == "vasudeva2024-sparsity"  # which asks nothing of scores


@pytest.mark.parametrize("id", ["vasudeva2024-everywhere", "vasudeva2024-steps"])
def test_a_sequence_on_its_way_back_refutes_nothing_and_one_that_is_lost_does(id):
    problem, start = returning(2)
    outcome = theorems.get(id)(LAYER, problem, start._replace(W=5 * start.W), eta=0.05).trial(40)
    assert (outcome.report.start.m(outcome.run.weights.W) < 0).any(-1).any()
    assert outcome.holds and not outcome.met.all(), outcome
    problem, u = problems.trap()
    outcome = theorems.get(id)(LAYER, problem, along_first(problem, u, [10.0])).trial(40)
    met = {h.name: bool(h.met.all()) for h in outcome.hypotheses}
    assert met["no sequence is still on its way back at the end"]
    assert not outcome.conclusions[-1].met.any()


def test_sparsity_asks_nothing_of_the_scores():
    problem, u = problems.unit_tokens(4, 3, 8, seed=0)
    start = LAYER.init(problem, seed=1, runs=4, scale=3.0, u=u)
    outcome = theorems.get("vasudeva2024-sparsity")(LAYER, problem, start).trial(100)
    assert outcome.met.all() and outcome.holds, outcome


def test_one_pair_of_tokens_keeps_to_its_direction_from_zero():
    problem, u = problems.planted(N=1, n=2, D=3, seed=0)
    start = LAYER.init(problem, seed=0, runs=2, scale=0.0, u=u)
    outcome = theorems.get("vasudeva2024-sharp-law")(LAYER, problem, start).trial(20)
    assert not outcome.report["K"].any() and outcome.met.all() and outcome.holds, outcome


def test_tokens_that_are_the_same_leave_their_dependence_to_be_told():
    problem, weights = planted(0)
    optimal = SelectionStart(LAYER, problem, weights).opt
    X = problem.X.clone()
    for tokens, best in zip(X, optimal.tolist(), strict=True):
        others = [t for t in range(problem.n) if t != best]
        tokens[others[0]] = tokens[others[1]]
    twice = problems.Problem(X, problem.y)
    report = theorems.get("vasudeva2024-sharp-law")(LAYER, twice, weights)
    assert not report["the A_it are independent"].met.any()
