"""What the theorems of Song et al. compute, against slower ways to the same numbers."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.linalg import norm, svd

from descent import models, problems, queries, theorems
from descent.claims.song2024._shared import along_eigenvector
from descent.claims.song2024.joint import silent
from descent.problems import Problem
from descent.theorems import AttentionStart
from descent.theorems.song2024.joint import gaussian_budget, softmax_budget
from descent.theorems.song2024.queries import curvature


def largest_curvature(layer, problem, weights, train):
    """The largest eigenvalue of the whole Hessian, all second derivatives by autograd, one run."""
    shapes = [getattr(weights, W).shape for W in train]

    def loss(vector):
        parts = vector.split([shape.numel() for shape in shapes])
        moved = {W: p.view(s) for W, p, s in zip(train, parts, shapes, strict=True)}
        return layer.loss(weights._replace(**moved), problem)

    point = torch.cat([getattr(weights, W).flatten() for W in train])
    return float(torch.linalg.eigvalsh(torch.func.hessian(loss)(point))[-1])


def moved_by(W, most, generator):
    """W plus a random matrix of Frobenius norm ``most`` for each head."""
    step = torch.randn(W.shape, generator=generator, dtype=W.dtype)
    return W + step * (most / torch.linalg.matrix_norm(step))[..., None, None]


def elsewhere(layer, problem, weights, seed):
    """Labels at which the residual at ``weights`` has the length one, in a random direction."""
    generator = torch.Generator().manual_seed(seed)
    output = layer.predict(weights, problem)
    aim = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    return Problem(problem.X, output - aim / aim.norm())


@pytest.mark.parametrize(
    ("kernel", "budget"), [("softmax", softmax_budget), ("gaussian", gaussian_budget)]
)
def test_the_curvature_of_theorem_2_holds_as_far_as_the_weights_may_move(kernel, budget):
    """To within half of the norms of W_Q and W_K, against the whole Hessian; and it is not idle."""
    none, worst = torch.zeros(1, dtype=torch.float64), 0.0
    for seed in range(80):
        H, n, D = 1 + seed % 2, 2 - seed % 2, 1 + seed % 3
        layer, problem = models.Attention(kernel, H=H, d=1), problems.gaussian(1, n, D, seed)
        weights = layer.init(problem, seed=seed, scale=(0.1, 0.5, 1.0, 3.0)[seed % 4])
        generator = torch.Generator().manual_seed(seed)
        far = weights._replace(
            Q=moved_by(weights.Q, torch.linalg.matrix_norm(weights.Q, 2) / 2, generator),
            K=moved_by(weights.K, torch.linalg.matrix_norm(weights.K, 2) / 2, generator),
        )
        there = elsewhere(layer, problem, far, seed)
        start = AttentionStart(layer, elsewhere(layer, problem, weights, seed), weights)
        L = float(budget(start, none)[3])
        worst = max(worst, largest_curvature(layer, there, far, "QKV") / L)
    assert 0.8 < worst <= 1


def test_the_curvature_of_theorem_3_holds_everywhere():
    worst = 0.0
    for seed in range(120):
        H, n, D = 1 + seed % 2, 1 + seed % 3, 1 + seed % 2
        layer, problem = models.Attention("gaussian", H=H, d=1), problems.gaussian(1, n, D, seed)
        weights = layer.init(problem, seed=seed, scale=(0.3, 1.0, 3.0)[seed % 3])
        there = elsewhere(layer, problem, weights, seed)
        L = float(curvature(AttentionStart(layer, there, weights)))
        worst = max(worst, largest_curvature(layer, there, weights, "Q") / L)
    assert 0.5 < worst <= 1


def test_the_printed_condition_12_depends_on_units_and_53_does_not():
    """The layer is the same with tokens c X and weights W / c; (12) falls like the square of c."""
    layer = models.Attention("gaussian", H=1, d=2)
    problem, weights = queries.two_by_two(layer, u=(3, 3), y=(-1.0, -2.0), runs=1, seed=1)
    weights = weights._replace(Q=0.4 * weights.Q, K=0.4 * weights.K)
    left = {}
    for c in (1e-2, 1e-3):
        scaled = Problem(c * problem.X, problem.y)
        small = weights._replace(Q=weights.Q / c, K=weights.K / c, V=weights.V / c)
        for name in ("12", "53"):
            report = getattr(theorems.song2024, f"theorem_3_{name}")(layer, scaled, small)
            left[name, c] = float(report[f"condition ({name})"].left)
    assert left["12", 1e-3] / left["12", 1e-2] == pytest.approx(1e-2, rel=1e-9)
    assert left["53", 1e-3] == pytest.approx(left["53", 1e-2], rel=1e-9)


def test_one_token_by_hand():
    """delta = 1/64 and (1 + e^(-1/128)) e^(9/256) / 64 for the left side of (12)."""
    from descent.claims.song2024.queries import one_token

    report = theorems.song2024.theorem_3_12(*one_token())
    assert float(report["δ"]) == pytest.approx(1 / 64)
    by_hand = (1 + math.exp(-1 / 128)) * math.exp(9 / 256) / 64
    assert float(report["condition (12)"].left) == pytest.approx(by_hand)


def test_heads_of_theorem_3_that_cannot_help_are_left_out():
    layer, problem = models.Attention("gaussian", H=2, d=2), problems.gaussian(1, 2, 2, 0)
    weights = layer.init(problem, seed=0)
    alone = models.Attention("gaussian", H=1, d=2)
    O = weights.O.clone()  # noqa: E741
    O[1] = 0  # the second head says nothing
    both = theorems.song2024.theorem_3(layer, problem, weights._replace(O=O))
    one = type(weights)(*(W[:1] for W in weights))
    assert float(both["μ"]) == pytest.approx(
        float(theorems.song2024.theorem_3(alone, problem, one)["μ"])
    )
    assert float(both["ρ"]) == pytest.approx(
        float(theorems.song2024.theorem_3(alone, problem, one)["ρ"])
    )


def test_theorems_about_the_gaussian_refuse_softmax():
    layer, problem = models.Attention(d=2), problems.gaussian(1, 2, 2, 0)
    with pytest.raises(ValueError, match="kernel must be 'gaussian', got 'softmax'"):
        theorems.song2024.theorem_3(layer, problem, layer.init(problem, seed=0))


def test_meeting_a_condition_uses_all_that_it_allows():
    problem, layer = problems.gaussian(N=3, n=2, D=12, seed=0), models.Attention(H=1, d=4)
    start = silent(layer, problem, runs=4)
    share = torch.tensor([1.0, 0.5, 2.0, 1e6], dtype=torch.float64)
    family = theorems.loud(layer, problem, start)
    found = theorems.meet(theorems.song2024.theorem_2, family, 4, share)
    asked = [h.sharpness for h in theorems.song2024.theorem_2(*found).hypotheses if not h.strict]
    assert torch.allclose(torch.stack(asked).amax(0), share, rtol=1e-5)


def test_the_smallest_singular_value_of_the_scores_is_zero_where_it_is_rounding():
    layer, problem = models.Attention("gaussian", d=1), problems.gaussian(1, 3, 2, 0)
    start = AttentionStart(layer, problem, layer.init(problem, seed=0))
    assert start.delta == 0  # nine rows in two dimensions


# -- the formulas of the boxes, written down a second time -----------------------------------------


def one_head(X, Q, K, V, w, kernel):
    """What a head makes of the tokens (N, n, D), in loops, and the norms that the boxes speak of."""
    S, rows, furthest, root = [], [], 0.0, Q.shape[1] ** 0.5
    for tokens in X:
        for x in tokens:
            apart = [z @ K - x @ Q for z in tokens]
            furthest = max(furthest, *map(norm, apart))
            rows += [np.kron(x, z) / root for z in apart]
            if kernel == "softmax":
                S.append(np.exp([x @ Q @ (z @ K) / root for z in tokens]))
                S[-1] /= S[-1].sum()
            else:
                S.append(np.exp([-(norm(z) ** 2) / (2 * root) for z in apart]))
    S, u = np.reshape(S, (*X.shape[:2], -1)), X @ V @ w
    return SimpleNamespace(
        q=norm(Q, 2), k=norm(K, 2), v=norm(V, 2), w=norm(w), S=S, u=u, m=abs(u).min(),
        U=abs(u).sum(1).max(), output=(S @ u[..., None])[..., 0], furthest=furthest,
        B=(S @ X).reshape(-1, X.shape[-1]), delta=svd(np.array(rows), compute_uv=False)[-1],
        keys=[norm(tokens @ K, 2) for tokens in X],
    )  # fmt: skip


def boxed(kernel, D=9, queries=1.0, keys=1.0):
    """One run with two heads, N = 2 and n = 3, and the letters of the boxes for it, in numpy."""
    layer, problem = models.Attention(kernel, H=2, d=4), problems.gaussian(2, 3, D, seed=3)
    weights = layer.init(problem, seed=3, scale=0.4)
    weights = weights._replace(Q=queries * weights.Q, K=keys * weights.K)
    X, y = problem.X.numpy(), problem.y.numpy()
    heads = [one_head(X, *map(np.asarray, each), kernel) for each in zip(*weights, strict=True)]
    tokens = X.reshape(6, D)
    B = np.concatenate([h.B for h in heads], 1)
    return (layer, problem, weights), SimpleNamespace(
        N=2, n=3, d=4, H=2, heads=heads, W_O=norm([h.w for h in heads]), X=norm(tokens, 2),
        X_F=norm(tokens), longest=max(map(norm, tokens)), sigma=svd(B, compute_uv=False)[5],
        r=norm(sum(h.output for h in heads) - y), sequences=[norm(x, 2) for x in X], y=y,
    )  # fmt: skip


def close(found, written):
    return float(found) == pytest.approx(float(written), rel=1e-9, abs=0)


def test_the_numbers_of_theorem_2_for_softmax_are_those_of_its_box():
    start, a = boxed("softmax")
    mu = min(h.w for h in a.heads) ** 2 * a.sigma**2 / 4
    time, b_Q, b_K, b_B, first, second = 2 * a.r / mu, [], [], [], 0, []
    for h in a.heads:
        v = h.v + a.n**0.5 * a.X * h.w * time
        b_Q += [3 / 4 * a.X**3 * v * h.w * h.k * time / a.d**0.5]
        b_K += [3 / 4 * a.X**3 * v * h.w * h.q * time / a.d**0.5]
        b_B += [a.X**3 * (3 / 2 * h.k * b_Q[-1] + h.q * b_K[-1]) / (2 * a.d**0.5)]
        both = (h.q**2 + h.k**2) / a.d
        first += h.w**2 * (a.n * a.X**2 + 9 / 16 * a.X**6 * v**2 * both)
        bent = 3 / 4 * both**0.5 + v / (2 * a.d**0.5) + 45 * 2**0.5 / 16 * a.X**2 * v * both
        second += [a.r * h.w * a.X**3 * bent]
    report, rate = theorems.song2024.theorem_2(*start), theorems.song2024.theorem_2_rate(*start)
    assert close(report["μ = min ‖w_h‖² σ_min²(B_0)/4"], mu)
    assert close(report["features' budget ≤ σ/2"].left, norm(b_B))
    assert close(report["features' budget ≤ σ/2"].right, a.sigma / 2)
    for W, budgets, norms in (
        ("Q", b_Q, [h.q for h in a.heads]),
        ("K", b_K, [h.k for h in a.heads]),
    ):
        used = max(b / size for b, size in zip(budgets, norms, strict=True))
        assert close(report[f"budget of W_{W} ≤ ‖W_{W}‖/2"].left, used)
    assert close(1 / report.step, first + max(second))
    assert close(rate.step / report.step, 2 / 3)
    assert close(rate["β = min ‖w_h‖² σ_min²(B_0)"], 4 * mu)


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
@pytest.mark.parametrize(("name", "part"), [("theorem_2", 1), ("theorem_2_rate", 1 / 4)])
def test_what_theorem_2_promises_of_moves_is_what_its_box_says(kernel, name, part):
    """The features move by a half of sigma at most, queries and keys by their budgets."""
    report = getattr(theorems.song2024, name)(*boxed(kernel)[0])
    outcome = report.trial(20, 1e6)  # its own steps are so short that nothing moves
    start, end = report.start, outcome.run.weights
    spent = {"softmax": softmax_budget, "gaussian": gaussian_budget}[kernel]
    time = 8 * start.r / (start.omega.amin() * start.sigma) ** 2
    features, queries, keys = outcome.conclusions[1:]
    assert torch.allclose(features.right, part * start.sigma / 2, rtol=1e-9, atol=0)
    for found, W, budget in zip((queries, keys), "QK", spent(start, time), strict=False):
        moved = torch.linalg.matrix_norm(getattr(end, W) - getattr(start.weights, W))
        used = (moved / (part * budget)).max()
        assert found.left[-1] > 0 and torch.allclose(found.left[-1], used, rtol=1e-9, atol=0)
        assert (found.right == 1).all()


@pytest.mark.parametrize("D", [9, 4])  # with full rank, and without
def test_the_bounds_on_training_the_values_are_attained_by_the_slowest_labels(D):
    layer, problem = models.Attention(d=4), problems.gaussian(2, 3, D, seed=0)
    weights = layer.init(problem, runs=4, seed=0)
    labels = along_eigenvector(layer, problem, weights, max(0, 6 - D))
    B = layer.features(weights, problem)[:, 0]
    steepest = torch.linalg.matrix_norm(weights.O) * torch.linalg.matrix_norm(B, 2)
    name = "theorem_1" if D == 9 else "plateau"
    report = getattr(theorems.song2024, name)(layer, labels, weights)
    assert torch.allclose(report.step, 1 / steepest**2, rtol=1e-9, atol=0)
    last = report.trial(30).conclusions[-1]
    assert torch.allclose(last.left, last.right, rtol=1e-6, atol=0)


def test_the_numbers_of_theorem_2_for_the_gaussian_are_those_of_its_box():
    start, a = boxed("gaussian")
    psi = a.n**0.5 * math.exp(-0.5) * a.d**-0.25
    time = 8 * a.r / (min(h.w for h in a.heads) * a.sigma) ** 2
    b_Q, first, second = [], 0, []
    for h in a.heads:
        v = h.v + a.n * a.X * h.w * time
        b_Q += [psi * a.X**2 * v * h.w * time]
        first += h.w**2 * (a.n**2 * a.X**2 + 2 * psi**2 * a.X**4 * v**2)
        bent = 2**0.5 * psi * a.X**2 + 2 * a.n**0.5 * a.X**3 * v / a.d**0.5
        second += [a.r * h.w * bent]
    report = theorems.song2024.theorem_2(*start)
    budget = gaussian_budget(report.start, torch.tensor([time]).double())[0]
    assert budget.tolist() == pytest.approx(b_Q, rel=1e-9)
    assert close(report["features' budget ≤ σ/2"].left, norm([2 * psi * a.X**2 * b for b in b_Q]))
    assert close(1 / report.step, first + max(second))


@pytest.mark.parametrize(
    ("least", "queries", "keys"), [("σ", 1, 1), ("q", 0.01, 10), ("k", 10, 0.01)]
)
def test_the_left_side_of_condition_8_is_that_of_its_equation(least, queries, keys):
    start, a = boxed("softmax", queries=queries, keys=keys)
    sizes = {"σ": a.sigma, "q": min(h.q for h in a.heads), "k": min(h.k for h in a.heads)}
    assert min(sizes, key=sizes.get) == least
    squares = sum(h.q**2 + h.k**2 for h in a.heads)
    values = 2 / 3 * (1 + max(h.v for h in a.heads))
    left = a.n**2 * (a.N * a.H) ** 0.5 * a.X_F**5 * squares * values * a.r
    found = theorems.song2024.theorem_2_printed(*start)["condition (8)"]
    assert close(found.left, left / (a.W_O * a.sigma**2 * sizes[least])) and close(
        found.right, 1 / 54
    )


def test_the_numbers_of_theorem_3_are_those_of_its_boxes():
    start, a = boxed("gaussian")
    report, root = theorems.song2024.theorem_3(*start), a.d**0.5
    slopes, radii = [], []
    for h in a.heads:
        radii += [h.delta * root / (2 * a.n**0.5 * a.longest * a.X)]
        kappa = math.exp(-((h.furthest + a.longest * radii[-1]) ** 2) / (2 * root))
        slopes += [h.delta * kappa * h.m]
    mu, U = a.n / 4 * sum(slope**2 for slope in slopes), max(h.U for h in a.heads)
    L = a.X**2 / root * (sum(h.U**2 for h in a.heads) / math.e + a.r * U)
    assert min(slopes) > 0 and close(report["μ"], mu) and close(1 / report.step, L)
    assert close(report["‖r_0‖ ≤ √μ ρ/2"].left, a.r)
    assert close(report["‖r_0‖ ≤ √μ ρ/2"].right, mu**0.5 * min(radii) / 2)
    tangent = theorems.song2024.theorem_3_tangent(*start)
    s_0 = float(tangent["s_0"])
    allowed = s_0**2 * root / (8 * U * a.longest * a.X)
    assert close(tangent["‖r_0‖ ≤ s_0² √d / (8 U x̄ ‖X‖)"].right, allowed)
    assert close(tangent["μ = s_0²/4"], s_0**2 / 4) and close(1 / tangent.step, L)


def test_what_theorem_3_promises_of_moves_is_what_its_box_says():
    """The path, and the derivative of the scores, which keeps half of delta."""
    report = theorems.song2024.theorem_3(*boxed("gaussian")[0])
    outcome = report.trial(5)
    _, path, turned = outcome.conclusions
    moved = outcome.run.weights.Q - report.start.weights.Q
    assert close(path.left[-1], moved.norm())
    assert close(path.right, 2 * report.start.r / report["μ"].sqrt())
    end = report.start.weights._replace(Q=outcome.run.weights.Q)
    now = queries.scores_jacobian(report.start.model, end, report.start.problem)
    turn = torch.linalg.matrix_norm(now - report.start.scores_jacobian, 2)
    assert close(turned.left[-1], (turn / (report["δ"] / 2)).max()) and (turned.right == 1).all()


def test_what_softmax_queries_gain_is_half_a_step_times_squared_slopes():
    layer, problem, weights = boxed("softmax")[0]
    outcome = theorems.song2024.softmax_rests(layer, problem, weights).trial(1, at=range(2))
    slope = layer.loss_and_gradient(weights, problem, "Q")[1]["Q"].norm()
    gains = outcome.conclusions[0]
    assert close(gains.left[0], outcome.run.eta / 2 * slope**2)
    gained = float(gains.right[0] - (outcome.run.loss[0] - outcome.run.loss[1]))
    assert 0 <= gained < 1e-12 * float(outcome.run.loss[0])


@pytest.mark.parametrize(("N", "n"), [(4, 1), (1, 4)])
def test_the_bound_on_conditioning_is_attained_where_one_factor_is_all(N, n):
    """Softmax of one token is 1; and tokens that are orthonormal leave the attention matrix."""
    layer, problem = models.Attention(d=3), problems.gaussian(N, n, 4, seed=0)
    if N == 1:
        problem = Problem(torch.eye(4, dtype=torch.float64)[None], problem.y)
    weights = layer.init(problem, seed=0, runs=4)
    bound = theorems.song2024.conditioning(layer, problem, weights).against().conclusions[0]
    assert bound.left.min() > 2 and torch.allclose(bound.left, bound.right, rtol=1e-9, atol=0)


@pytest.mark.parametrize("short", [1.0, 1e-3])  # the smaller of delta and the norm is the latter
@pytest.mark.parametrize(("name", "power"), [("12", 0), ("53", 2)])
def test_the_conditions_of_theorem_3_as_printed_are_those_of_their_equations(name, power, short):
    start, a = boxed("gaussian", queries=short)
    least, left, gamma = min(h.m for h in a.heads), [], []
    for h in a.heads:
        kappa = math.exp(-9 / 4 * a.X_F**2 * (h.q**2 + h.k**2))
        under = kappa * least**2 * h.delta**power * min(h.delta, h.q)
        left += [a.n * a.X_F**5 * (h.q + h.k) / under]
        gamma += [(h.delta * kappa * least) ** 2 / 2]
    left = max(left) * max(h.v for h in a.heads) * a.W_O * a.r
    report = getattr(theorems.song2024, f"theorem_3_{name}")(*start)
    assert close(report[f"condition ({name})"].left, left)
    assert close(report[f"condition ({name})"].right, 1 / 8)
    assert close(report["γ = δ² κ² min|u|²/2"], min(gamma))


def test_the_curvature_of_softmax_queries_is_that_of_its_proof():
    start, a = boxed("softmax")
    L = 0
    for i in range(a.N):
        ranges = [h.u[i].max() - h.u[i].min() for h in a.heads]
        low, high = sum(h.u[i].min() for h in a.heads), sum(h.u[i].max() for h in a.heads)
        furthest = max(max(high - label, label - low) for label in a.y[i])
        curved = sum(size**2 for size in ranges) / 4 + 5 / 4 * max(ranges) * furthest
        L += curved * a.sequences[i] ** 2 * max(h.keys[i] for h in a.heads) ** 2 / a.d
    assert close(queries.softmax_smoothness(start[0], start[2], start[1]), L)


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
def test_the_bound_for_small_queries_and_keys_is_that_of_its_box(kernel):
    """With several heads the features stand side by side, and squares of their bounds add up."""
    start, a = boxed(kernel)
    sizes = {
        "softmax": [h.q * h.k / 2**0.5 for h in a.heads],
        "gaussian": [a.n * (h.q**2 + h.k**2) for h in a.heads],
    }
    bound = a.X**3 / a.d**0.5 * norm(sizes[kernel])
    assert close(theorems.song2024.small(*start)["bound"], bound)


def test_the_tangent_kernel_of_one_head_is_at_least_what_tokens_and_slopes_say():
    r"""s_0 >= sigma_min(X) min ||grad o||, and it is that where tokens are orthonormal."""
    for seed in range(20):
        layer, problem = models.Attention("gaussian", d=3), problems.gaussian(2, 2, 6, seed)
        if seed % 2:
            problem = Problem(torch.eye(4, dtype=torch.float64).reshape(2, 2, 4), problem.y)
        weights = layer.init(problem, seed=seed)
        start, slopes = AttentionStart(layer, problem, weights), []
        for i, k in itertools.product(range(2), range(2)):
            apart = start.forward.K[0, i] - start.forward.Q[0, i, k]
            pulls = start.forward.S[0, i, k] * start.u[0, i]
            slopes += [float((pulls @ apart).norm() / 3**0.5)]
        least = float(torch.linalg.svdvals(problem.tokens)[-1]) * min(slopes)
        s_0 = float(theorems.song2024.theorem_3_tangent(layer, problem, weights)["s_0"])
        assert s_0 == pytest.approx(least) if seed % 2 else s_0 >= least * (1 - 1e-9) > 0
