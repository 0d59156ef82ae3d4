"""What the theorems of Song et al. compute, against slower ways to the same numbers."""

import math

import pytest
import torch

from descent import models, problems, queries, theorems
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
