import pytest
import torch

from descent import models, problems, spectra


def matrix(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_rank_counts_directions():
    A = matrix(5, 2, 6).transpose(0, 1)  # two matrices, 5 x 6
    A[0, 4] = A[0, 0] - 2 * A[0, 3]
    assert spectra.rank(A).tolist() == [4, 5]
    assert spectra.rank(torch.zeros(3, 3)) == 0


def test_sigma_min_is_that_of_the_rows():
    A = matrix(3, 5)
    assert float(spectra.sigma_min(A)) == pytest.approx(
        float(torch.linalg.eigvalsh(A @ A.mT)[0]) ** 0.5
    )
    assert spectra.sigma_min(A.mT) == 0


def test_beside_puts_the_blocks_in_one_row():
    blocks = matrix(2, 3, 4, 5)
    assert torch.equal(spectra.concat(blocks)[1], torch.cat(list(blocks[1]), -1))


def test_rank_is_counted_with_the_precision_that_the_entries_have():
    a, b = matrix(50, 2).unbind(-1)
    product = a[:, None] * b
    for dtype in (torch.float32, torch.float64):
        assert spectra.rank(product.to(dtype)) == 1
        assert spectra.rank(product.to(dtype) + torch.eye(50, dtype=dtype)) == 50


def test_a_token_said_twice_leaves_features_without_full_rank():
    # its rows are equal on paper, and differ by rounding on a machine
    problem = problems.gaussian(N=3, n=3, D=12, seed=0)
    X = problem.X.clone()
    X[:, 2] = X[:, 0]
    layer = models.Attention("gaussian", H=2, d=3)
    weights = layer.init(problem, runs=40, seed=1)
    B = spectra.concat(layer.features(weights, problems.Problem(X, problem.y)))
    assert (spectra.rank(B) == 6).all()
    assert (spectra.sigma_min(B) > 0).any()  # which is why it is not the one to ask


def test_sigma_min_of_the_other_side_is_that_of_the_transpose():
    A = matrix(3, 5)
    assert torch.equal(spectra.sigma_min(A), torch.linalg.svdvals(A)[-1])
    assert spectra.sigma_min(A.mT) == 0


def test_lanczos_finds_the_largest_curvature_of_each_run():
    curvature = torch.tensor([[1.0, 2.0, 10.0], [3.0, -20.0, 1.0]], dtype=torch.float64)
    point = {"W": torch.ones(2, 3, dtype=torch.float64)}
    found = spectra.top_hessian_eigenvalue(
        lambda p: (None, {"W": curvature * p["W"]}), point, batch=1
    )
    assert torch.allclose(found, torch.tensor([10.0, 20.0], dtype=torch.float64), rtol=1e-12)


def test_eigenvalues_of_nearly_one_size_are_told_apart():
    # a power iteration would need a million steps for the second digit of the gap
    curvature = torch.cat([torch.tensor([1.0, -0.99999]), torch.linspace(-0.9, 0.9, 300)]).double()
    found = spectra.top_hessian_eigenvalue(
        lambda p: (None, {"W": curvature * p["W"]}), {"W": torch.ones(302).double()}, batch=0
    )
    assert float(found) == pytest.approx(1, abs=1e-6)


def test_curvature_is_found_where_point_and_gradient_are_blind_to_it():
    # queries and keys are zero: the gradient has no part in them, but the Hessian has
    problem = problems.gaussian(N=3, n=3, D=4, seed=0)
    layer = models.Attention("softmax", H=1, d=4)
    weights = layer.init(problem, seed=1, scale=3.0)
    weights = weights._replace(Q=0 * weights.Q, K=0 * weights.K)

    def loss(Q, K, V):
        return layer.loss(weights._replace(Q=Q, K=K, V=V), problem)

    rows = torch.func.hessian(loss, (0, 1, 2))(*weights[:3])
    hessian = torch.cat([torch.cat([b.reshape(16, 16) for b in row], 1) for row in rows])
    exact = torch.linalg.eigvalsh(hessian).abs().max()
    mixed = torch.linalg.eigvalsh(hessian[:32, :32]).abs().max()
    assert mixed == pytest.approx(float(exact))  # queries and keys make it, or nothing is tested
    assert float(layer.smoothness(weights, problem, "QKV")) == pytest.approx(float(exact))


def test_a_flat_loss_has_no_curvature_and_nan_has_none_that_is_known():
    def objective(p):
        return None, {"W": torch.tensor([[0.0], [torch.nan], [2.0]]) * p["W"]}

    found = spectra.top_hessian_eigenvalue(objective, {"W": torch.ones(3, 4)}, batch=1)
    assert found[0] == 0 and found[1].isnan() and float(found[2]) == pytest.approx(2)


def test_rank_of_nan_is_refused():
    with pytest.raises(
        ValueError, match="A has 4 entries that are NaN or infinite: rank needs finite entries"
    ):
        spectra.rank(torch.full((2, 2), torch.nan))


@pytest.mark.parametrize("unit", [1e-320, 1e-160, 1e160, 1e307])
def test_rank_does_not_depend_on_the_unit(unit):
    A = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    assert spectra.rank(unit * A) == 1
    assert spectra.rank(unit * torch.eye(3, dtype=torch.float64)) == 3


@pytest.mark.parametrize(
    ("kernel", "N", "n", "helps"),
    [("softmax", 4, 3, True), ("gaussian", 6, 2, True), ("softmax", 6, 2, False)],
)
def test_heads_condition_the_features_but_those_of_softmax_on_pairs(kernel, N, n, helps):
    """HD = Nn = 12, as the solution of the exercise on a budget has it of its explorer."""
    problem = {D: problems.gaussian(N=N, n=n, D=D, seed=0) for D in (12, 3)}
    least = {}
    for D in problem:
        layer = models.Attention(kernel, H=12 // D, d=4)
        weights = layer.init(problem[D], runs=16, seed=1)
        B = spectra.concat(layer.features(weights, problem[D]))
        values = torch.linalg.svdvals(B).median(0).values
        least[D] = values[-1] / values[0]
    assert (least[3] > 1.5 * least[12]) == helps
    assert (least[12] > 1.5 * least[3]) != helps
