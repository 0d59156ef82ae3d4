import pytest
import torch

from descent import spectra


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
    assert torch.equal(spectra.beside(blocks)[1], torch.cat(list(blocks[1]), -1))


def test_power_iteration_finds_the_largest_curvature_of_each_run():
    curvature = torch.tensor([[1.0, 2.0, 10.0], [3.0, -20.0, 1.0]], dtype=torch.float64)
    point = {"W": torch.ones(2, 3, dtype=torch.float64)}
    found = spectra.top_hessian_eigenvalue(
        lambda p: (None, {"W": curvature * p["W"]}), point, batch=1
    )
    assert torch.allclose(found, torch.tensor([10.0, 20.0], dtype=torch.float64))


def test_rank_of_nan_is_refused():
    with pytest.raises(
        ValueError, match="A has 4 entries that are NaN or infinite: rank needs finite entries"
    ):
        spectra.rank(torch.full((2, 2), torch.nan))
