import pytest
import torch

from descent import models, problems, spectra, steps
from descent.models import elementary


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def losses():
    """Each loss with a batch of three points."""
    problem = problems.gaussian(N=2, n=2, D=3, seed=0)
    layer = models.Attention("gaussian", H=2, d=2)
    attention, theta = elementary.flattened(layer, problem, layer.init(problem, runs=3, seed=1))
    return {
        "linear": (elementary.linear(normal(3, 5), normal(3)), normal(3, 5, seed=1)),
        "factorisation": (elementary.factorisation(normal(2, 3), 4), normal(3, 20, seed=1)),
        "network": (elementary.network(normal(4, 2), normal(4), normal(3)), normal(3, 6, seed=1)),
        "attention": (attention, theta),
    }


@pytest.fixture(params=losses())
def loss_at(request):
    return losses()[request.param]


def test_the_gradient_is_that_of_autograd(loss_at):
    f, theta = loss_at
    tracked = theta.clone().requires_grad_()
    f.loss(tracked).sum().backward()
    loss, gradient = f.loss_and_gradient(theta)
    assert torch.allclose(gradient, tracked.grad, rtol=1e-12, atol=1e-12)
    assert torch.equal(loss, f.loss(theta))


def test_jacobian_and_hessian_are_those_of_autograd_run_by_run(loss_at):
    f, theta = loss_at
    J = torch.func.jacrev(f.residual)(theta)  # (3, m, 3, p), zero between different runs
    H = torch.func.hessian(lambda x: f.loss(x).sum())(theta)
    for run in range(3):
        assert torch.allclose(f.jacobian(theta)[run], J[run, :, run], rtol=1e-12, atol=1e-12)
        assert torch.allclose(f.hessian(theta)[run], H[run, :, run], rtol=1e-11, atol=1e-11)


def test_smoothness_is_the_largest_curvature():
    f, theta = losses()["network"]
    exact = torch.linalg.eigvalsh(f.hessian(theta)).abs().amax(-1)
    assert torch.allclose(f.smoothness(theta), exact, rtol=1e-9)


def test_a_path_is_gradient_descent():
    f, theta = losses()["factorisation"]
    path = f.path(theta, step=0.01, steps=3)
    assert path.shape == (4, 3, 20) and torch.equal(path[0], theta)
    assert torch.equal(path[2], path[1] - 0.01 * f.loss_and_gradient(path[1])[1])


def test_a_path_takes_the_rules_of_steps():
    f, theta = losses()["linear"]
    path = f.path(theta, step=steps.polyak(), steps=1)
    loss, gradient = f.loss_and_gradient(theta)
    eta = loss / gradient.square().sum(-1)
    assert torch.allclose(path[1], theta - eta[:, None] * gradient, rtol=1e-14)
    assert f.path(theta, steps=1).shape == (2, 3, 5)


def test_singular_values_of_the_factorisation_are_sums():
    f, theta = losses()["factorisation"]
    U, V = theta[0, :8].reshape(2, 4), theta[0, 8:].reshape(3, 4)
    sums = torch.linalg.eigvalsh(U @ U.T)[:, None] + torch.linalg.eigvalsh(V @ V.T)
    squares = torch.linalg.svdvals(f.jacobian(theta[0])).square()
    assert torch.allclose(squares, sums.flatten().sort(descending=True)[0], rtol=1e-12, atol=1e-12)


def test_the_networks_jacobian_is_lipschitz_with_the_constant_of_its_docstring():
    X, a = normal(4, 2), normal(3)
    f = elementary.network(X, normal(4), a)
    one, other = normal(200, 6, seed=1), normal(200, 6, seed=2)
    moved = torch.linalg.matrix_norm(f.jacobian(one) - f.jacobian(other), 2)
    beta = 4 / 27**0.5 * a.abs().max() * X.norm(dim=-1).max() * torch.linalg.matrix_norm(X, 2)
    assert (moved <= beta * (one - other).norm(dim=-1)).all()


def test_a_flattened_layer_has_the_layers_loss_and_gradient():
    problem = problems.gaussian(N=2, n=3, D=4, seed=0)
    layer = models.Attention("softmax", H=2, d=3)
    weights = layer.init(problem, runs=3, seed=1)
    f, theta = elementary.flattened(layer, problem, weights, "KV")
    loss, gradient = layer.loss_and_gradient(weights, problem, "KV")
    assert theta.shape == (3, 2 * 2 * 4 * 3)
    assert torch.allclose(f.loss(theta), loss, rtol=1e-13)
    together = torch.cat([gradient[W].flatten(1) for W in "KV"], -1)
    assert torch.allclose(f.loss_and_gradient(theta)[1], together, rtol=1e-11, atol=1e-12)


def test_sigma_min_of_the_jacobian_bounds_the_gradient(loss_at):
    f, theta = loss_at
    loss, gradient = f.loss_and_gradient(theta)
    mu = spectra.sigma_min(f.jacobian(theta)) ** 2
    assert (gradient.square().sum(-1) >= 2 * mu * loss * (1 - 1e-12)).all()


def test_labels_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"y has shape \(4,\), but A has 3 rows: expected \(3,\)"):
        elementary.linear(normal(3, 5), normal(4))
    with pytest.raises(ValueError, match=r"y has shape \(3,\), but X has 4 rows: expected \(4,\)"):
        elementary.network(normal(4, 2), normal(3), normal(3))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        elementary.factorisation(normal(2, 3), 0)


def test_a_chain_is_at_rest_with_equal_drops_and_its_curvature_stays_below_one():
    f, rest = elementary.chain(9), 1 - torch.arange(1, 10, dtype=torch.float64) / 10
    loss, gradient = f.loss_and_gradient(rest)
    assert abs(loss - 1 / 80) < 1e-16 and gradient.abs().max() < 1e-16
    values = torch.linalg.eigvalsh(f.hessian(rest))
    assert 0 < values[0] and 0.95 < values[-1] < 1


def test_a_step_down_the_chain_moves_one_more_coordinate():
    f = elementary.chain(9)
    path = f.path(torch.zeros(9, dtype=torch.float64), step=1.0, steps=5)
    assert [int((x != 0).sum()) for x in path] == [0, 1, 2, 3, 4, 5]


def test_without_momentum_the_path_is_that_of_descent():
    f, theta = elementary.chain(5), normal(3, 5)
    options = {"step": 0.7, "steps": 20}
    path = elementary.momentum_path(f, theta, momentum=lambda t: 0.0, **options)
    assert torch.equal(path, f.path(theta, **options))


@pytest.mark.parametrize("ahead", [False, True])
def test_momentum_is_that_of_torch(ahead):
    # torch steps by the running sum of gradients, times the same step at every t
    f, theta = elementary.chain(5), normal(5)
    ours = elementary.momentum_path(
        f, theta, step=0.5, momentum=lambda t: 0.6, ahead=ahead, steps=20
    )
    x = theta.clone().requires_grad_()
    optimiser = torch.optim.SGD([x], lr=0.5, momentum=0.6, nesterov=ahead)
    for _ in range(20):
        optimiser.zero_grad()
        f.loss(x).backward()
        optimiser.step()
    # torch's Nesterov keeps the point ahead: theta_T + 0.6 (theta_T - theta_{T-1})
    last = ours[-1] + 0.6 * (ours[-1] - ours[-2]) if ahead else ours[-1]
    assert torch.allclose(x.detach(), last, atol=1e-13)
