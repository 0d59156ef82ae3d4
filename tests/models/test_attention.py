import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import KERNELS, differentiable, instances, relative_gap

from descent import kernels, problems, spectra
from descent.models import Attention


def by_hand(layer: Attention, weights, problem):
    """The layer as Song et al. write it: per sample, per head, concatenate, multiply by W_O."""
    outputs = []
    for X in problem.X:
        heads = [
            kernels.get(layer.kernel).attention(X @ weights.Q[h], X @ weights.K[h])
            @ X
            @ weights.V[h]
            for h in range(layer.H)
        ]
        outputs.append(torch.cat(heads, -1) @ weights.O.flatten())
    return torch.stack(outputs)


@given(instances())
def test_output_is_the_papers_concatenation_of_heads(instance):
    layer, problem, weights = instance
    assert relative_gap(layer.predict(weights, problem), by_hand(layer, weights, problem)) < 1e-13


@given(instances())
def test_closed_form_gradient_equals_autograd(instance):
    layer, problem, weights = instance
    leaves = differentiable(weights)
    expected = torch.autograd.grad(layer.loss(leaves, problem), leaves[:3])
    loss, gradient = layer.loss_and_gradient(weights, problem)
    assert relative_gap(loss, layer.loss(weights, problem)) < 1e-14
    for W, true in zip("QKV", expected, strict=True):
        assert relative_gap(gradient[W], true) < 1e-12


@given(instances(), st.sampled_from("QKV"))
def test_closed_form_gradient_equals_finite_differences(instance, W):
    # central differences with h = 1e-5 err by h^2 times the third derivative plus 1e-16 / h
    layer, problem, weights = instance
    direction = torch.sin(torch.arange(getattr(weights, W).numel(), dtype=torch.float64)).reshape(
        getattr(weights, W).shape
    )

    def loss(h):
        return layer.loss(weights._replace(**{W: getattr(weights, W) + h * direction}), problem)

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    _, gradient = layer.loss_and_gradient(weights, problem, W)
    assert relative_gap((gradient[W] * direction).sum(), slope) < 1e-6


@given(instances(runs=st.integers(1, 4)), st.sampled_from(["V", "Q", "QK", "QKV"]))
def test_a_batch_is_its_runs_one_by_one(instance, train):
    layer, problem, weights = instance
    loss, gradient = layer.loss_and_gradient(weights, problem, train)
    for r in range(len(weights.O)):
        one, single = layer.loss_and_gradient(
            type(weights)(*(W[r] for W in weights)), problem, train
        )
        assert relative_gap(loss[r], one) < 1e-13
        assert all(relative_gap(gradient[W][r], single[W]) < 1e-13 for W in train)


@given(instances(runs=st.just(3)))
def test_the_least_squares_objective_of_the_values_is_the_general_one(instance):
    layer, problem, weights = instance
    loss, gradient = layer.objective(weights, problem, "V")({"V": weights.V})
    expected, general = layer.loss_and_gradient(weights, problem, "V")
    assert relative_gap(loss, expected) < 1e-13
    assert relative_gap(gradient["V"], general["V"]) < 1e-12


@given(instances())
def test_gram_is_the_tangent_kernel_of_the_values(instance):
    layer, problem, weights = instance
    jacobian = torch.func.jacrev(lambda V: layer.predict(weights._replace(V=V), problem).flatten())(
        weights.V
    )
    J = jacobian.flatten(1)
    assert relative_gap(layer.gram(weights, problem), J @ J.mT) < 1e-12


# Rows and columns of S depend on one another here, as in no kernel of the library.
BALANCED = kernels.Kernel(
    "balanced",
    "dot",
    lambda C: torch.softmax(C, -1) * torch.softmax(C, -2),
    kernels._ByAutograd(lambda C: torch.softmax(C, -1) * torch.softmax(C, -2)),
)


def autograd_jacobian(function, W):
    """The derivative of ``function`` at W as one matrix, outputs by entries of W."""
    return torch.func.jacrev(lambda W: function(W).flatten())(W).flatten(1)


@given(instances(kernels=(*KERNELS, BALANCED)), st.sampled_from("QKV"))
def test_jacobian_equals_autograd(instance, W):
    layer, problem, weights = instance
    expected = autograd_jacobian(
        lambda M: layer.predict(weights._replace(**{W: M}), problem), getattr(weights, W)
    )
    found = layer.jacobian(weights, problem, W)[W]
    assert found.shape == (problem.N * problem.n, layer.H, problem.D, layer.d)
    assert relative_gap(found.flatten(1), expected) < 1e-12


@given(instances(kernels=(*KERNELS, BALANCED)))
def test_attention_jacobian_equals_autograd(instance):
    layer, problem, weights = instance
    found = layer.attention_jacobian(weights, problem)
    for h in range(layer.H):

        def attention(Q, h=h):
            whole = weights.Q.index_copy(0, torch.tensor([h]), Q[None])
            return layer.forward(weights._replace(Q=whole), problem).S[h]

        assert relative_gap(found[h], autograd_jacobian(attention, weights.Q[h])) < 1e-12


@given(instances(runs=st.just(3)), st.sampled_from(["V", "Q", "QK", "QKV"]))
def test_tangent_kernel_is_the_jacobian_times_itself(instance, train):
    layer, problem, weights = instance
    kernel = layer.ntk(weights, problem, train)
    for r in range(3):
        one = type(weights)(*(W[r] for W in weights))
        J = torch.cat(
            [
                autograd_jacobian(
                    lambda M, W=W, one=one: layer.predict(one._replace(**{W: M}), problem),
                    getattr(one, W),
                )
                for W in train
            ],
            -1,
        )
        assert relative_gap(kernel[r], J @ J.mT) < 1e-12


@given(instances(runs=st.just(2)))
def test_tangent_kernel_of_the_values_is_gram(instance):
    layer, problem, weights = instance
    assert relative_gap(layer.ntk(weights, problem, "V"), layer.gram(weights, problem)) < 1e-13


@settings(max_examples=12)
@given(instances(), st.sampled_from(["V", "QK", "QKV"]))
def test_smoothness_is_the_hessians_largest_eigenvalue(instance, train):
    layer, problem, weights = instance

    def loss(*moving):
        return layer.loss(weights._replace(**dict(zip(train, moving, strict=True))), problem)

    point = tuple(getattr(weights, W) for W in train)
    blocks = torch.func.hessian(loss, tuple(range(len(train))))(*point)
    sizes = [x.numel() for x in point]
    hessian = torch.cat(
        [
            torch.cat([b.reshape(p, q) for b, q in zip(row, sizes, strict=True)], 1)
            for row, p in zip(blocks, sizes, strict=True)
        ]
    )
    top = torch.linalg.eigvalsh(hessian).abs().max()
    found = layer.smoothness(weights, problem, train)
    assert abs(found - top) <= 1e-9 * top + 1e-12


@pytest.mark.parametrize("train", ["V", "QKV"])
def test_smoothness_takes_weights_that_runs_share(train):
    problem, layer = problems.gaussian(N=2, n=2, D=3, seed=0), Attention(d=4)
    one = layer.init(problem, seed=1)
    shared = type(one)(*(W.expand(3, *W.shape) for W in one))
    found = layer.smoothness(shared, problem, train)
    assert torch.allclose(found, layer.smoothness(one, problem, train).expand(3), rtol=1e-12)


def test_weights_have_the_sizes_that_init_promises():
    problem = problems.gaussian(N=2, n=2, D=50, seed=0)
    weights = Attention(H=4, d=10).init(problem, runs=100, seed=1, scale=2.0)
    for W in weights[:3]:
        assert W.shape == (100, 4, 50, 10)
        assert float(W.std()) == pytest.approx(2 / 50**0.5, rel=0.02)
    assert float(weights.O.std()) == pytest.approx(1 / 40**0.5, rel=0.05)


def test_init_is_the_same_for_the_same_seed_and_differs_for_another():
    problem, layer = problems.gaussian(N=2, n=2, D=3, seed=0), Attention(d=2)
    first, again, other = (layer.init(problem, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.Q, other.Q)


def test_a_repeated_token_gives_equal_rows_of_features():
    problem = problems.gaussian(N=1, n=3, D=5, seed=0)
    problem.X[0, 1] = problem.X[0, 0]
    B = Attention(d=2).features(Attention(d=2).init(problem, seed=1), problem)
    assert torch.equal(B[0, 0], B[0, 1])
    assert spectra.rank(B[0]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"Q": torch.zeros(1, 16, 4)},
            r"W_Q has shape \(1, 16, 4\), but the layer has H = 1, d = 4 "
            r"and the tokens D = 3: expected \(1, 3, 4\)",
        ),
        ({"O": torch.zeros(1, 5)}, r"W_O has shape \(1, 5\): expected \(1, 4\)"),
        (
            {"V": torch.full((1, 3, 4), torch.nan).double()},
            "W_V has 12 entries that are NaN or infinite: initialise it again",
        ),
        (
            {"K": torch.zeros(1, 3, 4)},
            "W_K is torch.float32 on cpu, but the tokens are torch.float64 on cpu: convert one",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message):
    problem, layer = problems.gaussian(N=2, n=2, D=3, seed=0), Attention(d=4)
    weights = layer.init(problem, seed=0)._replace(**change)
    with pytest.raises(ValueError, match=message):
        layer.check(weights, problem)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Attention(H=0), "H must be at least 1, got 0"),
        (lambda: Attention(d=-1), "d must be at least 1, got -1"),
        (
            lambda: Attention().init(problems.gaussian(2, 2, 2, 0), seed=0, scale=0.0),
            "scale must be positive and finite, got 0.0",
        ),
        (
            lambda: Attention().init(problems.gaussian(2, 2, 2, 0), seed=0, runs=0),
            "runs must be at least 1, got 0",
        ),
    ],
)
def test_layer_refuses(build, message):
    with pytest.raises(ValueError, match=message):
        build()
