import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import relative_gap

from descent import kernels, models, problems, queries


def queries_and_keys(seed=0, n=5, d=3):
    return torch.randn(
        2, 4, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.fixture
def registry():
    """Let a test register kernels without leaving them behind."""
    before = dict(kernels._registry)
    yield
    kernels._registry.clear()
    kernels._registry.update(before)


def test_softmax_rows_sum_to_one_and_gaussian_rows_do_not():
    Q, K = queries_and_keys()
    assert torch.allclose(
        kernels.softmax.attention(Q, K).sum(-1), torch.ones(4, 5, dtype=torch.float64)
    )
    assert (kernels.gaussian.attention(Q, K).sum(-1) - 1).abs().min() > 1e-3


def test_gaussian_is_exp_of_minus_half_the_squared_distance_over_root_d():
    Q, K = queries_and_keys(d=4)
    assert torch.allclose(
        kernels.gaussian.attention(Q, K), torch.exp(-(torch.cdist(Q, K) ** 2) / 4), atol=1e-14
    )


def test_gaussian_of_equal_query_and_key_is_one():
    Q, _ = queries_and_keys()
    diagonal = kernels.gaussian.attention(Q, Q).diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(diagonal, torch.ones_like(diagonal), atol=1e-14)


def test_softmax_survives_scores_whose_exponential_overflows():
    Q = torch.tensor([[1000.0], [0.0]], dtype=torch.float64)
    S = kernels.softmax.attention(Q, Q)
    assert torch.equal(S, torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64))


@given(st.sampled_from(kernels.BUILT_IN), st.integers(0, 10_000))
def test_pullbacks_are_the_derivative_that_autograd_takes(name, seed):
    kernel = kernels.get(name)
    Q, K = (x.requires_grad_() for x in queries_and_keys(seed).unbind())
    S = kernel.attention(Q, K)
    dS = torch.randn(S.shape, generator=torch.Generator().manual_seed(seed), dtype=S.dtype)
    expected = torch.autograd.grad(S, (Q, K), dS)
    dC = kernel.pullback(kernel.scores(Q, K), S, dS)
    for found, true in zip(kernel.scores_pullback(Q, K, dC), expected, strict=True):
        assert relative_gap(found, true) < 1e-13


@pytest.mark.usefixtures("registry")
def test_a_kernel_of_the_readers_own_trains_with_the_gradient_autograd_gives():
    kernels.register("cauchy", lambda C: 1 / (1 - 2 * C), score="distance")
    problem = problems.gaussian(N=2, n=3, D=4, seed=0)
    layer = models.Attention("cauchy", H=2, d=3)
    weights = type(w := layer.init(problem, seed=1))(*(W.requires_grad_() for W in w))
    expected = torch.autograd.grad(layer.loss(weights, problem), weights[:3])
    _, found = layer.loss_and_gradient(weights, problem)
    for W, true in zip("QKV", expected, strict=True):
        assert relative_gap(found[W], true) < 1e-13


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            lambda C: C.exp_(),
            "value writes into the scores, which the way back needs: return a new",
        ),
        (lambda C: C.exp() / C.exp().sum(), "depend on the other ones, or on chance: take sums"),
        (lambda C: torch.rand_like(C), "depend on the other ones, or on chance: take sums"),
        (lambda C: C.float(), "scores of torch.float64 into torch.float32: keep their precision"),
    ],
    ids=["writes", "mixes", "draws", "rounds"],
)
def test_a_value_that_would_train_wrongly_without_a_word_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        kernels.register("mine", value)


@pytest.mark.usefixtures("registry")
def test_register_takes_a_pullback_by_hand():
    kernels.register("linear", lambda C: 7 * C, pullback=lambda C, S, dS: 7 * dS)
    ones = torch.ones(1, 2, 2)
    assert torch.equal(kernels.get("linear").pullback(ones, ones, ones), 7 * ones)


@pytest.mark.usefixtures("registry")
def test_a_pullback_that_is_not_the_derivative_is_refused():
    wrong = {"factor": lambda C, S, dS: 7 * S * dS, "NaN": lambda C, S, dS: S / 0 * dS}
    for pullback in wrong.values():
        with pytest.raises(ValueError, match="pullback is not the derivative of value: it differs"):
            kernels.register("mine", torch.exp, pullback=pullback)
    assert "mine" not in kernels._registry


@pytest.mark.usefixtures("registry")
def test_a_cell_that_registers_a_kernel_can_be_run_again():
    for k in (1, 2):
        kernels.register("cauchy", lambda C, k=k: k / (1 - C), score="distance", overwrite=True)
    assert kernels.get("cauchy").value(torch.zeros(())) == 2
    with pytest.raises(ValueError, match="another name, or say overwrite=True"):
        kernels.register("cauchy", torch.exp)
    with pytest.raises(ValueError, match="'softmax' is registered already: choose another name$"):
        kernels.register("softmax", torch.exp, overwrite=True)


def test_what_is_true_of_a_kernel_of_the_book_is_not_said_of_its_namesake():
    other = kernels.Kernel("gaussian", "dot", torch.exp, kernels._ByAutograd(torch.exp))
    layer, problem = models.Attention(other, d=2), problems.gaussian(N=1, n=2, D=2, seed=0)
    weights = layer.init(problem, seed=0)
    for function in (queries.pl, queries.interval):
        with pytest.raises(ValueError, match="got 'gaussian' of another definition"):
            function(layer, weights, problem)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("softmax", torch.exp), "kernel 'softmax' is registered already: choose another name"),
        (
            ("mine", lambda C: C.sum(-1)),
            r"value must keep the shape of the scores, but turned \(2, 3, 3\) into \(2, 3\)",
        ),
        (("mine", lambda C: C / 0), "value has 18 entries that are NaN or infinite: it must be"),
    ],
)
def test_register_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.register(*arguments)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match="unknown kernel 'sofmax': expected one of 'softmax', 'gaussian'"
    ):
        models.Attention(kernel="sofmax")
    with pytest.raises(
        ValueError, match="unknown score 'cosine': expected one of 'dot', 'distance'"
    ):
        kernels.register("mine", torch.exp, score="cosine")
