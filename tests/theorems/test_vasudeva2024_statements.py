"""Statements of Part IV that no object holds, each on two hundred random instances and more."""

import math

import pytest
import torch
from strategies import relative_gap

from descent import margin, problems
from descent.claims.vasudeva2024.logistic import constant, flow, project
from descent.claims.vasudeva2024.sparsity import curvature
from descent.models import FactoredWeights, Selection, SelectionWeights
from descent.theorems import SelectionStart

RUNS, SETS = 10, 20
PLAIN, LOGARITHM = Selection(), Selection(goal="log excess")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def uniform(*shape, seed, low=0.0, high=1.0):
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64) * (high - low) + low


def drawn(seed):
    """Equal scores of the other tokens, a random small shape, ten matrices W of random length."""
    N, n = 1 + seed % 4, 2 + seed % 3
    problem, u = problems.planted(N, n, max(N, n) + 3, seed)
    W = 10 ** uniform(RUNS, 1, 1, seed=seed, low=-1, high=1) * normal(
        RUNS, problem.D, problem.D, seed=seed
    )
    return problem, SelectionWeights(W, u.expand(RUNS, -1))


# -- from logistic regression to attention ----------------------------------------------------------


def test_the_flow_of_logistic_regression_meets_its_constant():
    met = 0
    for seed in range(40):
        x, start = normal(3, 6, seed=seed), normal(20, 6, seed=100 + seed)
        alpha, _ = margin.hard_margin(x @ x.mT)
        if alpha.amin() < 0.05 * alpha.amax():
            continue  # a point that is not active, or hardly
        w = flow(x, start, length=80.0, pieces=800)
        across = torch.linalg.vector_norm(w - project(w, alpha @ x), dim=-1)
        assert relative_gap(across / constant(x, alpha, start), torch.ones(20)) < 0.01
        met += 20
        if met >= 200:
            return
    pytest.fail(f"only {met} runs had all points active")


@pytest.mark.parametrize("seed", range(SETS))
def test_the_attention_is_the_sigmoid_of_a_soft_margin_between_two_bounds(seed):
    problem, weights = drawn(seed)
    at = SelectionStart(PLAIN, problem, weights)
    m, least = at.m(weights.W), at.gaps(weights.W).amin(-1)
    attention = PLAIN.attention(weights, problem)[:, torch.arange(problem.N), at.opt]
    assert relative_gap(attention, m.sigmoid()) < 1e-12
    assert (least - math.log(problem.n - 1) - 1e-12 <= m).all() and (m <= least + 1e-12).all()


@pytest.mark.parametrize("ell", ["logistic", "exponential"])
@pytest.mark.parametrize("seed", range(SETS // 2))
def test_the_loss_and_its_gradient_are_those_of_soft_margins(seed, ell):
    problem, weights = drawn(seed)
    at, leaf = SelectionStart(Selection(ell), problem, weights), weights.W.clone().requires_grad_()
    f = at.others.mean(-1) + at.gap * at.m(leaf).sigmoid()
    loss = (torch.nn.functional.softplus(-f) if ell == "logistic" else (-f).exp()).mean(-1)
    loss.sum().backward()
    found, gradient = Selection(ell).loss_and_gradient(weights, problem)
    assert relative_gap(found, loss) < 1e-12 and relative_gap(gradient["W"], leaf.grad) < 1e-10


def excess_in_the_middle(floor):
    """The loss between two W over the mean of theirs, where all soft margins exceed the floor."""
    found = []
    for seed in range(SETS):
        problem, weights = drawn(seed)
        at = SelectionStart(PLAIN, problem, weights)
        first = weights.W + 6 * uniform(RUNS, 1, 1, seed=seed) * at.mm.W
        second = first + normal(*first.shape, seed=seed + 1)
        both = [SelectionWeights(W, weights.u) for W in (first, second, (first + second) / 2)]
        kept = torch.minimum(at.m(first), at.m(second)).amin(-1) >= floor
        ends, middle = PLAIN.loss(both[0], problem) / 2, PLAIN.loss(both[2], problem)
        found.append((middle - ends - PLAIN.loss(both[1], problem) / 2)[kept])
    return torch.cat(found)


def test_the_loss_is_convex_where_no_soft_margin_is_negative_and_not_everywhere():
    inside = excess_in_the_middle(0.0)
    assert len(inside) > 50 and inside.max() < 1e-14
    assert excess_in_the_middle(-math.inf).max() > 1e-3


def test_the_nearest_point_gives_the_svm_or_a_combination_that_is_zero():
    infeasible = 0
    for seed in range(200):
        A = normal(2 + seed % 5, 2 + seed % 3, seed=seed)
        weights, null = margin.hard_margin(A @ A.mT)
        w = weights @ A
        assert (weights >= 0).all()
        if null:
            infeasible += 1
            assert w.norm() < 1e-8 and abs(weights.sum() - 1) < 1e-12
            continue
        assert (A @ w).amin() > 1 - 1e-8 and (
            (A @ w - 1) * weights
        ).abs().max() < 1e-7 * weights.max()
        assert abs(weights.sum() / w.square().sum() - 1) < 1e-8
    assert 20 < infeasible < 180


# -- convergence, and how sparse attention becomes --------------------------------------------------


@pytest.mark.parametrize("seed", range(SETS))
def test_no_step_removes_what_no_difference_of_tokens_sees(seed):
    N, n = 1 + seed % 3, 2 + seed % 3
    problem, u = problems.unit_tokens(N, n, max(N, n) + 3, seed)  # scores that differ
    start = PLAIN.init(problem, seed=seed, runs=RUNS, scale=3.0, u=u)
    at, W = SelectionStart(PLAIN, problem, start), start.W
    walked = torch.linalg.matrix_norm(W)
    for eta in (10 ** uniform(30, seed=seed, low=-2, high=2)).tolist():
        G = PLAIN.loss_and_gradient(start._replace(W=W), problem)[1]["W"]
        step = eta * torch.nn.functional.normalize(G.flatten(1), dim=-1).view_as(G)
        W, walked = W - step, walked + eta
        assert (at.mm.error(W) >= (1 - 1e-9) * at.unseen / torch.linalg.matrix_norm(W)).all()
        assert (at.mm.error(W) >= (1 - 1e-9) * at.unseen / walked).all()
    assert (at.unseen > 0.1).all()


@pytest.mark.parametrize("seed", range(SETS))
def test_a_step_of_plain_descent_lowers_the_excess_by_its_square_between_two_constants(seed):
    problem, weights = drawn(seed)
    at = SelectionStart(LOGARITHM, problem, weights)
    far = 10 ** uniform(RUNS, 1, 1, seed=seed + 1, low=-0.5, high=0.8)
    near = weights._replace(W=3 * far * at.mm.W + 0.1 * weights.W)
    kept = (at.m(near.W) >= 0).all(-1)
    assert kept.sum() >= 3
    rho = (at.slope(at.others.mean(-1)) / at.slope(at.best)).amax()
    k_1, k_2 = 1 / (2 * rho * at.length), rho * at.B
    log_D, gradient = LOGARITHM.loss_and_gradient(near, problem)
    D, ratio = log_D.exp(), torch.linalg.matrix_norm(gradient["W"])  # the gradient of L over D
    assert (k_1 <= ratio[kept]).all() and (ratio[kept] <= k_2).all()
    eta = 1 / curvature(at)
    moved = near._replace(W=near.W - eta * D[:, None, None] * gradient["W"])
    fall = 1 - (LOGARITHM.loss(moved, problem) - log_D).exp()  # of D, over D
    assert (eta * k_1**2 / 2 * D <= fall + 1e-12)[kept].all()
    assert (fall - 1e-12 <= 3 / 2 * eta * k_2**2 * D)[kept].all()


# -- when it fails ----------------------------------------------------------------------------------


def plane(q, length):
    """A_1 = (1, 0) and A_2 of this length with -<A_1, A_2> = q, (runs, 2, 2)."""
    second = torch.stack([-q, (length.square() - q.square()).sqrt()], -1)
    return torch.stack([torch.eye(2).double()[0].expand_as(second), second], -2)


def weights_of(g, ell):
    """The c_i of two sequences with the scores 0 and 1, as logarithms."""
    side = torch.nn.functional.logsigmoid
    slope = side(-g.sigmoid()) if ell == "logistic" else -g.sigmoid()
    return slope + side(g) + side(-g)


def leaves_the_trap(strength):
    """How many of 400 steps, of any length, lead out of the set; q is ``strength`` as large."""
    q = uniform(400, seed=0, low=1.05, high=4.0)
    length = q * uniform(400, seed=1, low=1.02, high=3.0)
    rho = 1 + (q - 1) * uniform(400, seed=2, low=0.05, high=0.95)
    share = torch.minimum(1 / q, (q - rho) / length.square()) / 2
    left = 0
    for ell, kappa in (("logistic", 0.5 * (1 + math.e)), ("exponential", math.e)):
        beta = (4 * kappa / share).log()
        g_1 = 10 ** uniform(400, seed=3, low=-2, high=1.3)
        g_2 = -rho * g_1 - beta - uniform(400, seed=4, high=3.0)
        c = torch.softmax(weights_of(torch.stack([g_1, g_2], -1), ell), -1)
        A = plane(strength * q, length)
        eta = 10 ** uniform(400, seed=5, low=-4, high=4)
        moved = torch.stack([g_1, g_2], -1) + eta[:, None] * ((c[:, None] @ A) @ A.mT)[:, 0]
        out = (moved[:, 0] < 0) | (moved[:, 1] > -rho * moved[:, 0] - beta + 1e-9)
        left += int(out.sum())
    return left


def test_no_step_however_long_leaves_the_trap():
    assert leaves_the_trap(1.0) == 0
    assert leaves_the_trap(0.3) > 100  # the contradiction is what holds it


def walked(A, W, pieces):
    """Normalised descent on the logistic loss; also the largest fall of g_1 + g_2 in a step."""
    fallen = 0.0
    for piece in pieces:
        g = (A @ W[..., None])[..., 0]
        v = (torch.softmax(weights_of(g, "logistic"), -1)[:, None] @ A)[:, 0]
        step = piece * v / v.norm(dim=-1, keepdim=True)
        fallen = max(fallen, float(-(A @ step[..., None]).sum((-2, -1)).min()))
        W = W + step
    return (A @ W[..., None])[..., 0], fallen


def test_without_the_contradiction_both_sequences_are_served_from_every_start():
    length = 10 ** uniform(200, seed=0, low=-0.4, high=0.4)
    low = length.square().clamp_max(1)
    q = (low * uniform(200, seed=1, low=-1, high=0.9)).clamp(-length * 0.95, length * 0.95)
    start = 8 * torch.nn.functional.normalize(normal(200, 2, seed=2), dim=-1)
    _, fallen = walked(plane(q, length), start, 10 ** uniform(50, seed=3, low=-2, high=1.5))
    gaps, _ = walked(plane(q, length), start, [0.1] * 2500)
    assert fallen < 1e-9 and (gaps > 0).all()


@pytest.mark.parametrize("seed", range(SETS))
def test_gaps_never_fall_where_no_two_point_against_each_other(seed):
    problem, u = problems.orthonormal_tokens(1 + seed % 4, 2 + seed % 3, 20, seed)
    start = PLAIN.init(problem, seed=seed, runs=RUNS, scale=1.0 + seed, u=u)
    at, W = SelectionStart(LOGARITHM, problem, start), start.W
    for length in [*(10 ** uniform(20, seed=seed, low=-2, high=2)).tolist(), *[1.0] * 60]:
        moved = W + length * at.downhill(W)
        assert (at.gaps(moved) - at.gaps(W)).min() > -1e-9 * length
        W = moved
    assert (at.m(W) > 0).all()


# -- decoder and attention together -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(SETS))
def test_the_length_of_the_decoder_bounds_the_loss(seed):
    problem, weights = drawn(seed)
    layer, far = Selection("exponential", goal="log loss"), problem.X.norm(dim=-1).max()
    W, u = weights
    limit = u.norm(dim=-1)
    for eta in (10 ** uniform(30, seed=seed, low=-2, high=1)).tolist():
        _, G = layer.loss_and_gradient(SelectionWeights(W, u), problem, "Wu")
        u = u - eta * torch.nn.functional.normalize(G["u"], dim=-1)
        W, limit = W + eta * problem.X[0, 1].outer(problem.X[0, 0]), limit + eta  # whatever W does
        reached = -layer.loss(SelectionWeights(W, u), problem)
        assert (reached <= far * limit + 1e-9).all()
    assert (reached / (far * limit)).max() > 0.1  # a bound that is felt


@pytest.mark.parametrize("seed", range(SETS))
def test_factors_cost_at_least_the_nuclear_norm_and_flow_keeps_them_balanced(seed):
    problem, weights = drawn(seed)
    D, d = problem.D, 2 + seed % 3
    K, Q = normal(2, RUNS, D, d, seed=seed)
    U, values, V = torch.linalg.svd(K @ Q.mT, full_matrices=False)
    cost = (K.square().sum((-2, -1)) + Q.square().sum((-2, -1))) / 2
    assert (cost >= values.sum(-1) - 1e-10).all()
    halves = [(M * values[..., None, :].sqrt()).square().sum((-2, -1)) for M in (U, V.mT)]
    assert relative_gap(sum(halves) / 2, values.sum(-1)) < 1e-12
    at = FactoredWeights(K, Q, weights.u)
    _, G = Selection(d=d).loss_and_gradient(at, problem, "KQ")
    turn = K.mT @ G["K"] - Q.mT @ G["Q"]
    assert relative_gap(turn + turn.mT, 0 * turn) < 1e-13 < 1e-6 < G["K"].abs().max()


def test_mirror_descent_on_one_pair_has_the_direction_of_the_p_margin():
    for seed in range(200):
        p = 1.2 + 3 * float(uniform(1, seed=seed))
        A, image = normal(5, seed=seed), torch.zeros(5).double()
        best = A.sign() * A.abs() ** (1 / (p - 1))
        best = best / (A @ best)
        for eta in (0.1, 3.0, 20.0):
            w = image.sign() * image.abs() ** (1 / (p - 1))
            image = image + eta * torch.sigmoid(-(A @ w)) * A
            w = image.sign() * image.abs() ** (1 / (p - 1))
            assert relative_gap(w / (A @ w), best) < 1e-10
        others = best + 0.3 * normal(50, 5, seed=seed + 1)
        others = others / (others @ A)[:, None]
        assert (torch.linalg.vector_norm(others, p, dim=-1) >= best.norm(p) - 1e-12).all()


# -- on real text: the mean of the others asks ------------------------------------------------------


@pytest.mark.parametrize("seed", range(SETS))
def test_a_mean_that_asks_is_never_optimal_and_at_zero_answers_for_all(seed):
    words = normal(RUNS, 8, 5 + seed % 4, seed=seed)
    labels = normal(RUNS, seed=seed + 1).sign()
    problem = problems.Problem(torch.cat([words.mean(1, keepdim=True), words], 1), labels)
    u, zero = normal(problem.D, seed=seed + 2), torch.zeros(problem.D, problem.D).double()
    at = SelectionWeights(zero, u)
    assert relative_gap(PLAIN.predict(at, problem), words.mean(1) @ u) < 1e-12
    chosen = margin.tokens_to_select(problem, u, None)
    assert (chosen > 0).all()
    W = normal(problem.D, problem.D, seed=seed + 3)
    gaps = margin.products(W, margin.differences(problem, chosen), problem.X[:, 0])
    assert relative_gap(gaps[:, 0], gaps[:, 1:].sum(1) / 8) < 1e-11
