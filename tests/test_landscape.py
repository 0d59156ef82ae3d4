import pytest
import torch

from descent import landscape, models, problems


def grid(points=41, radius=1.0):
    a = landscape.offsets(radius, points)
    return torch.meshgrid(a, a, indexing="ij")


def trained(kernel="softmax", runs=3):
    problem = problems.gaussian(N=2, n=3, D=5, seed=0)
    layer = models.Attention(kernel, H=2, d=4)
    return layer, problem, layer.init(problem, runs=runs, seed=1)


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
@pytest.mark.parametrize("runs", [None, 3])
def test_the_surface_is_the_loss_at_moved_weights(kernel, runs):
    layer, problem, weights = trained(kernel, runs)
    along = landscape.directions(layer, weights, seed=2)
    alpha, beta = landscape.offsets(1.0, 5), landscape.offsets(2.0, 3)
    f = landscape.surface(layer, problem, weights, along, alpha, beta)
    assert f.shape == (*weights.O.shape[:-2], 5, 3)
    moved = weights._replace(
        Q=weights.Q + alpha[4] * along["Q"], K=weights.K + beta[0] * along["K"]
    )
    assert torch.allclose(f[..., 4, 0], layer.loss(moved, problem), rtol=1e-12)
    assert torch.allclose(f[..., 2, 1], layer.loss(weights, problem), rtol=1e-12)


def test_a_normalised_direction_has_the_columns_lengths_of_the_weights():
    layer, _, weights = trained()
    along = landscape.directions(layer, weights, seed=2)
    for direction, W in ((along["Q"], weights.Q), (along["K"], weights.K)):
        assert torch.allclose(direction.norm(dim=-2), W.norm(dim=-2))
    plain = landscape.directions(layer, weights, seed=2, normalise=False)
    assert torch.equal(plain["Q"][0], plain["Q"][1]) and not torch.equal(
        along["Q"][0], along["Q"][1]
    )


def test_minima_are_counted_and_plateaus_are_not():
    A, B = grid()
    assert landscape.minima(A**2 + B**2) == 1
    assert landscape.minima((A**2 - 0.25) ** 2 + B**2) == 2
    assert landscape.minima(torch.cos(10 * A) * torch.cos(10 * B)) == 24
    assert landscape.minima(A**2 - B**2) == landscape.minima(0 * A) == landscape.minima(A) == 0


def test_curvature_is_the_largest_eigenvalue_at_the_middle():
    A, B = grid()
    f = 3 * A**2 + 2 * A * B + B**2 + 5 * A
    assert float(landscape.curvature(f, 0.05)) == pytest.approx(4 + 8**0.5)


def test_roughness_is_zero_for_a_quadratic_and_grows_with_ripples():
    A, B = grid()
    bowl = 2 * A**2 + A * B + B - 1
    assert landscape.roughness(bowl) < 1e-25
    waves = torch.stack([bowl + h * torch.sin(20 * A) for h in (0.1, 0.3)])
    low, high = landscape.roughness(waves)
    assert 0 < low < high < 1


def test_an_even_number_of_points_is_refused():
    with pytest.raises(ValueError, match="points must be odd, got 50: the weights are"):
        landscape.offsets(0.5, 50)


def test_the_label_of_an_interaction_depends_on_the_other_tokens():
    problem = landscape.interaction(N=200, n=2, D=3, seed=0)
    assert set(problem.y.flatten().tolist()) == {-1, 1}
    # a linear function of the token alone has nothing to say about a sign that others decide
    fit = torch.linalg.lstsq(problem.tokens, problem.y.flatten()[:, None]).solution
    assert abs(float((problem.tokens @ fit).square().mean())) < 0.1


def test_both_second_stages_begin_where_the_first_ends():
    problem = landscape.interaction(N=3, n=2, D=4, seed=0)
    stages = landscape.two_stages(problem, H=1, d=2, runs=2, seed=0, step=1e-9, steps=(3, 2))
    for end in (stages.softmax, stages.gaussian, stages.alone):
        assert torch.allclose(end.Q, stages.first.Q, atol=1e-6)
    stages = landscape.two_stages(problem, H=1, d=2, runs=2, seed=0, step=0.05, steps=(30, 20))
    soft = models.Attention("softmax", H=1, d=2)
    assert (soft.loss(stages.softmax, problem) < soft.loss(stages.first, problem)).all()
    gauss = models.Attention("gaussian", H=1, d=2)
    assert (gauss.loss(stages.gaussian, problem) < gauss.loss(stages.first, problem)).all()
