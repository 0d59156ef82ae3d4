import pytest
import torch

from descent import claims, models, problems, span
from descent.problems import Problem


def test_gaussian_tokens_are_standard_normal_and_seeded():
    problem = problems.gaussian(N=50, n=4, D=100, seed=0)
    assert problem.X.shape == (50, 4, 100) and problem.y.shape == (50, 4)
    assert (problem.N, problem.n, problem.D) == (50, 4, 100)
    assert problem.X.dtype == torch.float64
    assert float(problem.X.mean()) == pytest.approx(0, abs=0.03)
    assert float(problem.X.std()) == pytest.approx(1, abs=0.02)
    assert torch.equal(problem.X, problems.gaussian(N=50, n=4, D=100, seed=0).X)


def test_stacked_tokens_keep_the_order_of_samples():
    problem = problems.gaussian(N=2, n=3, D=4, seed=0)
    assert torch.equal(problem.tokens[3], problem.X[1, 0])


def test_digit_patches_tile_the_image():
    from sklearn.datasets import load_digits

    whole, cut = problems.digits(N=5, seed=3, patch=8), problems.digits(N=5, seed=3, patch=4)
    assert cut.X.shape == (5, 4, 16) and whole.X.shape == (5, 1, 64)
    image = whole.X[0].reshape(8, 8)
    assert torch.equal(cut.X[0, 1].reshape(4, 4), image[:4, 4:])
    assert any(torch.equal(image, torch.from_numpy(i) / 16) for i in load_digits().images)


def test_labels_of_digits_are_their_parity():
    from sklearn.datasets import load_digits

    problem = problems.digits(N=1797, seed=0, patch=8)
    assert set(problem.y.unique().tolist()) == {-1.0, 1.0}
    assert int((problem.y > 0).sum()) == int((load_digits().target % 2).sum())


def test_position_codes_tell_blank_patches_apart():
    plain, coded = (
        problems.digits(N=20, seed=0, patch=2),
        problems.digits(N=20, seed=0, patch=2, positions=True),
    )
    assert coded.D == plain.D + plain.n
    blank = sum(len(X.unique(dim=0)) < plain.n for X in plain.X)
    assert blank >= 15  # images of the 20 that repeat a patch
    assert all(len(X.unique(dim=0)) == plain.n for X in coded.X)


X = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: problems.gaussian(N=4, n=3, D=0, seed=0), "D must be at least 1, got 0"),
        (lambda: problems.gaussian(N=4, n=0, D=3, seed=0), "n must be at least 1, got 0"),
        (lambda: problems.gaussian(N=4, n=3, D=3, seed=-1), "seed must be at least 0, got -1"),
        (lambda: Problem(X[0], X[0]), r"X must have shape \(\.\.\., N, n, D\), got \(3, 4\)"),
        (lambda: Problem(X[:0], X[:0, :, 0]), "N must be at least 1, got 0"),
        (
            lambda: Problem(X, torch.zeros(2, 4)),
            r"y has shape \(2, 4\), but X has shape \(2, 3, 4\): "
            r"expected one label per token, \(2, 3\)",
        ),
        (
            lambda: Problem(X / 0, X[..., 0]),
            "X has 24 entries that are NaN or infinite: drop or impute these tokens",
        ),
        (lambda: Problem(X, X[..., 0] / 0), "y has 6 entries that are NaN or infinite"),
        (
            lambda: Problem(X, X[..., 0].double()),
            "y is torch.float64 on cpu, but the tokens are torch.float32 on cpu: convert one",
        ),
        (
            lambda: problems.digits(N=2000, seed=0),
            "N must be at most 1797, the number of images, got 2000",
        ),
        (
            lambda: problems.digits(N=2, seed=0, patch=3),
            "unknown patch 3: expected one of 1, 2, 4, 8",
        ),
    ],
)
def test_bad_data_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_size_that_is_no_integer_is_a_type_error():
    with pytest.raises(TypeError, match=r"D must be an integer, got 2.5 \(float\)"):
        problems.gaussian(N=4, n=3, D=2.5, seed=0)


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU: use device='auto' or 'cpu'"):
        problems.gaussian(N=1, n=1, D=1, seed=0, device="cuda")
    assert problems.gaussian(N=1, n=1, D=1, seed=0, device="auto").X.device.type == "cpu"


class TestDrawingInTheSpan:
    def test_the_gram_matrix_has_the_moments_of_a_wishart_matrix(self):
        D, draws = 9, 4000
        tokens = torch.stack(
            [problems.gaussian_in_span(2, 2, D, seed).tokens for seed in range(draws)]
        )
        gram = tokens @ tokens.mT
        diagonal = torch.eye(4, dtype=torch.bool)
        mean, variance = gram.mean(0), gram.var(0)
        # E = D I, Var = 2 D on the diagonal and D off it; five standard errors over 16 entries
        assert (mean - D * torch.eye(4)).abs().max() < 5 * (2 * D / draws) ** 0.5
        expected = torch.where(diagonal, 2.0 * D, 1.0 * D)
        # the fourth moment of chi^2_9 makes the variance's own standard error 2.9 / sqrt(draws)
        assert ((variance / expected - 1).abs() < 5 * 2.9 / draws**0.5).all()

    def test_losses_have_the_distribution_of_the_explicit_draw(self):
        evidence = claims.get("bartlett").run()  # Kolmogorov and Smirnov's test, fixed seeds
        assert evidence.supports and "p_loss_after_ten_steps" in evidence.numbers

    def test_a_billion_dimensions_are_twelve_numbers_a_token(self):
        problem = problems.gaussian_in_span(N=4, n=3, D=10**9, seed=0)
        assert problem.X.shape == (4, 3, 12) and problem.ambient == 10**9
        # squared lengths are 10^9 up to a relative sqrt(2 / 10^9)
        length = problem.tokens.square().sum(-1) / 1e9
        assert (length - 1).abs().max() < 5 * (2e-9) ** 0.5
        layer = models.Attention(d=100)
        assert float(layer.init(problem, seed=0).Q.std()) == pytest.approx(10**-4.5, rel=0.1)

    def test_below_the_number_of_tokens_nothing_is_to_be_saved(self):
        drawn, usual = (f(2, 3, 5, seed=1) for f in (problems.gaussian_in_span, problems.gaussian))
        assert torch.equal(drawn.X, usual.X) and drawn.ambient == 5
        assert problems.gaussian_in_span(2, 3, 6, seed=1).D == 6

    def test_a_seed_is_a_problem(self):
        one, again, other = (problems.gaussian_in_span(2, 2, 50, seed=s) for s in (1, 1, 2))
        assert torch.equal(one.X, again.X) and torch.equal(one.y, again.y)
        assert not torch.equal(one.X, other.X)

    def test_the_dimension_survives_a_change_of_precision_and_a_reduction(self):
        problem = problems.gaussian_in_span(2, 2, 50, seed=1, dtype=torch.float32)
        assert problem.X.dtype == torch.float32
        assert problem.to(torch.float64).ambient == 50
        assert span.reduce(problems.gaussian(2, 2, 50, seed=1)).problem.ambient == 50

    def test_a_dimension_below_one_is_named(self):
        with pytest.raises(ValueError, match="D must be at least 1, got 0"):
            problems.gaussian_in_span(2, 2, 0, seed=0)
        with pytest.raises(ValueError, match="ambient must be at least 1, got 0"):
            Problem(torch.ones(1, 1, 1), torch.ones(1, 1), 0)
