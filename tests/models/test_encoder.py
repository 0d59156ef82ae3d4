import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import differentiable, relative_gap
from torch.utils._python_dispatch import TorchDispatchMode

from descent import descend, draws, problems
from descent.models import Encoder, EncoderWeights
from descent.models import encoder as module
from descent.problems import Problem

SMALL = st.integers(1, 4)


@st.composite
def encoders(draw):
    """An encoder, sequences with one label each, and two runs of weights."""
    N, n, D, d = (draw(SMALL) for _ in range(4))
    encoder = Encoder(
        d,
        draw(st.sampled_from(list(module.SCALINGS))),
        draw(st.sampled_from(list(module.INITIALISATIONS))),
        draw(st.sampled_from(list(module.ACTIVATIONS))),
        draw(st.sampled_from(["sum", "mean"])),
    )
    problem = problems.sequences(N=N, n=n, D=D, seed=draw(st.integers(0, 99)))
    return encoder, problem, encoder.init(problem, runs=2, seed=draw(st.integers(0, 99)))


def by_hand(encoder, problem, weights):
    """Wu et al. 2023, section 3, token by token, with the paper's matrices (our transposes)."""
    activation = module.ACTIVATIONS[encoder.activation].value
    tau_1 = encoder.d**-0.5 if encoder.initialisation == "ntk" else 1.0
    outputs = []
    for X in problem.X:
        pooled = torch.zeros(encoder.d, dtype=X.dtype)
        for x in X:
            scores = encoder.tau_0 * X @ weights.K @ (weights.Q.T @ x)
            beta = torch.exp(scores) / torch.exp(scores).sum()
            pooled = pooled + activation(weights.V.T @ (X.T @ beta))
        share = 1 / len(X) if encoder.pooling == "mean" else 1
        outputs.append(tau_1 * share * weights.O @ pooled)
    return torch.stack(outputs)


@given(encoders())
def test_output_is_the_papers_token_by_token(instance):
    encoder, problem, weights = instance
    for r in range(2):
        one = EncoderWeights(*(W[r] for W in weights))
        found = encoder.predict(weights, problem)[r]
        assert relative_gap(found, by_hand(encoder, problem, one)) < 1e-12


class Sizes(TorchDispatchMode):
    """How many numbers the tensors have that are made within."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.found.append(made.untyped_storage().nbytes() // made.element_size())
        return made


@pytest.mark.parametrize("own", [False, True], ids=["one problem", "one for each run"])
def test_the_weights_are_not_copied_for_each_sequence(own):
    problem, encoder = problems.sequences(N=30, n=2, D=20, seed=0), Encoder(20)
    weights = encoder.init(problem, seed=1, runs=5)
    if own:
        problem = Problem(problem.X.expand(5, 30, 2, 20), problem.y.expand(5, 30))
    with Sizes() as sizes:
        encoder.loss_and_gradient(weights, problem)
    assert max(sizes.found) == 5 * 30 * 2 * 20  # queries: 20 columns, as many as tokens have


@given(encoders())
def test_closed_form_gradient_equals_autograd(instance):
    encoder, problem, weights = instance
    leaves = differentiable(weights)
    expected = torch.autograd.grad(encoder.loss(leaves, problem).sum(), leaves)
    loss, gradient = encoder.loss_and_gradient(weights, problem)
    assert relative_gap(loss, encoder.loss(weights, problem)) < 1e-14
    for W, true in zip("QKVO", expected, strict=True):
        assert gradient[W].shape == getattr(weights, W).shape
        assert (gradient[W] - true).abs().max() < 1e-12 * (1 + true.abs().max())


@given(encoders(), st.sampled_from("QKVO"))
def test_closed_form_gradient_equals_finite_differences(instance, W):
    # away from kinks of ReLU: tanh. Central differences with h = 1e-5 err by h^2 and 1e-16 / h
    encoder, problem, weights = instance
    smooth = Encoder(encoder.d, encoder.scaling, encoder.initialisation, "tanh", encoder.pooling)
    start = getattr(weights, W)
    along = draws.normal(5, "direction", tuple(start.shape))
    loss = [
        smooth.loss(weights._replace(**{W: start + h * along}), problem).sum()
        for h in (1e-5, -1e-5)
    ]
    slope = (smooth.loss_and_gradient(weights, problem, W)[1][W] * along).sum()
    assert abs((loss[0] - loss[1]) / 2e-5 - slope) < 1e-6 * (1 + abs(slope))


@given(encoders())
def test_tangent_kernel_is_that_of_the_jacobian(instance):
    encoder, problem, weights = instance
    leaves = differentiable(weights)
    outputs = encoder.predict(leaves, problem)
    parts = encoder.ntk_parts(weights, problem)
    for k, W in enumerate("QKVO"):
        rows = [
            torch.autograd.grad(outputs[:, j].sum(), leaves[k], retain_graph=True)[0].flatten(1)
            for j in range(problem.N)
        ]
        J = torch.stack(rows, 1)
        assert (parts[W] - J @ J.mT).abs().max() < 1e-12 * (1 + (J @ J.mT).abs().max())
    assert relative_gap(encoder.ntk(weights, problem), sum(parts.values())) < 1e-14


def test_variances_are_those_of_table_1():
    # 40 000 entries: the variance is off by less than 5 standard errors, 5 sqrt(2 / 40000) = 3.6 %
    problem = problems.sequences(N=1, n=1, D=50, seed=0)
    expected = {"lecun": (1 / 50, 1 / 800), "he": (2 / 50, 2 / 800), "ntk": (1, 1)}
    for name, (inner, outer) in expected.items():
        weights = Encoder(800, initialisation=name).init(problem, runs=50, seed=0)
        for W in weights[:3]:
            assert abs(W.var() / inner - 1) < 0.02
        assert abs(weights.O.var() / outer - 1) < 0.036
    assert Encoder(100, initialisation="ntk").tau_1(problem) == 0.1
    assert Encoder(100, initialisation="he").tau_1(problem) == 1


def test_order_of_tokens_does_not_matter():
    problem = problems.sequences(N=3, n=4, D=5, seed=0)
    encoder = Encoder(6)
    weights = encoder.init(problem, runs=2, seed=1)
    turned = Problem(problem.X[:, [2, 0, 3, 1]], problem.y)
    gap = encoder.predict(weights, problem) - encoder.predict(weights, turned)
    assert gap.abs().max() < 1e-13


@settings(max_examples=10)
@given(st.sampled_from(["QKVO", "VO", "Q"]))
def test_descent_in_the_span_is_descent(train):
    problem = problems.sequences(N=2, n=2, D=12, seed=0)
    encoder = Encoder(5, initialisation="ntk")
    weights = encoder.init(problem, runs=3, seed=1)
    options = {"train": train, "step": 1e-2, "steps": 50}
    small = descend(encoder, problem, weights, **options)
    full = descend(encoder, problem, weights, reduce=False, **options)
    # rounding of two different orders of the same sums, over fifty steps
    assert relative_gap(small.loss, full.loss) < 1e-11
    for W, V in zip(small.weights, full.weights, strict=True):
        assert relative_gap(W, V) < 1e-11


# -------------------------------------------------------------------------------- infinite width


def test_arc_cosine_kernels_are_the_expectations():
    # 2 million draws: standard errors below 1e-3 of vectors of length one or so
    A, B = draws.normal(0, "A", (3, 2)), draws.normal(0, "B", (4, 2))
    w = draws.normal(1, "w", (500_000, 2))
    value, slope = module.arc_cosine(A, B)
    left, right = w @ A.T, w @ B.T
    seen = torch.relu(left).T @ torch.relu(right) / len(w)
    both = (left > 0).double().T @ (right > 0).double() / len(w)
    assert (value - seen).abs().max() < 2e-2
    assert (slope - both).abs().max() < 5e-3


def test_arc_cosine_of_equal_opposite_and_zero_vectors():
    a = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    value, slope = module.arc_cosine(a, torch.cat([a, -a, 0 * a]))
    assert (value - torch.tensor([[12.5, 0.0, 0.0]])).abs().max() < 1e-7
    assert (slope - torch.tensor([[0.5, 0.0, 0.25]])).abs().max() < 1e-7


def test_wide_encoder_has_the_limiting_kernel_and_a_narrow_one_has_not():
    problem = problems.sequences(N=3, n=3, D=4, seed=0, length=1.0)
    limit = module.limit_ntk(problem)

    def gap(d, scaling):
        encoder = Encoder(d, scaling, "ntk")
        K = encoder.ntk(encoder.init(problem, runs=8, seed=1), problem)
        return float(relative_gap(K, limit.expand_as(K)))

    assert gap(65_536, "d^-1") < 0.03 < gap(64, "d^-1")
    assert gap(65_536, "d^-1/2") > 0.05


def test_pooled_kernel_is_the_limit_of_the_features():
    problem = problems.sequences(N=3, n=2, D=4, seed=0, length=1.0)
    encoder = Encoder(200_000, "d^-1/2", "ntk")
    run = encoder.forward(encoder.init(problem, seed=1), problem)
    pooled = module.pooled_kernel(run.S @ problem.X)
    # 200 000 neurons: a few standard errors of 1 / sqrt(200 000)
    assert relative_gap(run.features @ run.features.mT, pooled) < 0.02


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"d": 0}, "d must be at least 1, got 0"),
        ({"d": 2, "scaling": "1/d"}, "unknown scaling '1/d'"),
        ({"d": 2, "initialisation": "xavier"}, "unknown initialisation 'xavier'"),
        ({"d": 2, "activation": "gelu"}, "unknown activation 'gelu'"),
        ({"d": 2, "pooling": "max"}, "unknown pooling 'max'"),
    ],
)
def test_a_wrong_encoder_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Encoder(**arguments)


def test_weights_of_another_width_are_refused():
    problem = problems.sequences(N=2, n=2, D=3, seed=0)
    weights = Encoder(4).init(problem, seed=0)
    with pytest.raises(ValueError, match="encoder has d = 5"):
        descend(Encoder(5), problem, weights)
    broken = weights._replace(O=weights.O * math.nan)
    with pytest.raises(ValueError, match="W_O has 4 entries that are NaN"):
        descend(Encoder(4), problem, broken)


def test_one_label_a_token_is_refused():
    problem = problems.gaussian(N=2, n=2, D=3, seed=0)
    with pytest.raises(ValueError, match="one label a token"):
        descend(Encoder(4), problem, Encoder(4).init(problem, seed=0))
