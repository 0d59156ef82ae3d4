"""The derivations are right, the code printed from them is right, and a wrong sign anywhere shows."""

import ast
import inspect
import textwrap

import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import KERNELS, differentiable, instances, relative_gap
from sympy import HadamardProduct, MatrixSymbol, OneMatrix, Trace

from descent import exact, kernels, problems, symbolic
from descent.claims.foundations.gradients import rounding_bound
from descent.kernels import Kernel
from descent.models import Attention, Encoder, Selection, attention

SHAPES = [(1, 2, 1, 1, 1), (2, 2, 1, 2, 1), (1, 2, 2, 1, 1), (1, 3, 1, 1, 2)]


# ---------------------------------------------------------------- the derivations


@pytest.mark.parametrize("size", (1, 2, 3))
def test_the_jacobian_of_softmax_is_diag_s_minus_s_s_transposed(size):
    s, jacobian = symbolic.jacobian("softmax", size)
    assert (jacobian - (sp.diag(*s) - s * s.T)).applyfunc(sp.simplify).is_zero_matrix


def test_the_jacobian_of_the_gaussian_is_diag_s():
    s, jacobian = symbolic.jacobian("gaussian", 3)
    assert jacobian == sp.diag(*s)


@pytest.mark.parametrize("name", "QKV")
@pytest.mark.parametrize("kernel", KERNELS)
def test_both_derivations_differ_by_exactly_zero(kernel, name):
    assert symbolic.difference(kernel, name, n=2, D=1, d=1).is_zero_matrix


@pytest.mark.parametrize("name", "QKV")
def test_they_do_in_two_dimensions_and_with_two_columns(name):
    assert symbolic.difference("gaussian", name, n=2, D=2, d=1).is_zero_matrix
    assert symbolic.difference("gaussian", name, n=2, D=1, d=2).is_zero_matrix


def every_sign(stages):
    """The stages with one term of one of them reversed, for each term there is."""
    for name, expression in stages.items():
        terms = expression.args if isinstance(expression, sp.MatAdd) else (expression,)
        for term in terms:
            yield name, {**stages, name: expression - 2 * term}


MIXED = [
    pytest.param(kernel, stages, id=f"{kernel} {name} {i}")
    for kernel in KERNELS
    for i, (name, stages) in enumerate(every_sign(symbolic.matrix_form(kernel)))
]


@pytest.mark.parametrize(("kernel", "stages"), MIXED)
def test_a_sign_reversed_in_any_term_of_the_derivation_is_caught(kernel, stages):
    layer, weights, problem = instance(kernel, 2, 3, 4, 2, 3)
    closed = layer.loss_and_gradient(weights, problem)[1]
    wrong = symbolic.generated(kernel, stages)(weights, problem)
    assert max(relative_gap(wrong[W], closed[W]) for W in "QKV") > 1e-3


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_hessian_is_symmetric_and_is_autograds(kernel):
    by_entry = symbolic.elementwise(kernel)
    hessian = by_entry.hessian("QK")
    assert (hessian - hessian.T).applyfunc(sp.simplify).is_zero_matrix
    layer, weights, problem = instance(kernel, 1, 2, 1, 1, 1, runs=None)
    values = problem.X.flatten().tolist() + problem.y.flatten().tolist()
    values += [float(M) for M in weights]
    symbols = [s for names in (by_entry.data, by_entry.weights) for v in names.values() for s in v]
    order = [*by_entry.data["X"], *by_entry.data["y"], *(by_entry.weights[W][0] for W in "QKVO")]
    assert set(order) == set(symbols)
    found = torch.tensor(sp.lambdify(order, hessian.tolist(), "math")(*values), dtype=torch.float64)

    def loss(q, k):
        return layer.loss(weights._replace(Q=q.reshape(1, 1, 1), K=k.reshape(1, 1, 1)), problem)

    true = torch.func.hessian(loss, argnums=(0, 1))(weights.Q.flatten(), weights.K.flatten())
    assert (
        relative_gap(found.flatten(), torch.cat([b.flatten() for row in true for b in row])) < 1e-12
    )


# ---------------------------------------------------------------- SymPy, checked

n, d = symbolic.n, symbolic.d
M, B = MatrixSymbol("M", n, n), MatrixSymbol("B", n, n)


@pytest.mark.parametrize(
    ("f", "gradient"),
    [
        (Trace(B.T * M), B),
        (Trace(M.T * B * M) / 2, (B * M + B.T * M) / 2),
        (3 * Trace(B * M) - Trace(M), 3 * B.T - sp.Identity(n)),
    ],
)
def test_matrix_gradient_of_traces(f, gradient):
    assert (symbolic.matrix_gradient(f, M) - gradient).expand().doit() == sp.ZeroMatrix(n, n)


def test_a_derivative_that_is_not_one_is_refused():
    assert symbolic._is_derivative(B, Trace(B.T * M), M)
    assert not symbolic._is_derivative(B.T, Trace(B.T * M), M)
    assert not symbolic._is_derivative(-B, Trace(B.T * M), M)


def test_an_answer_whose_shapes_do_not_fit_is_refused():
    square = HadamardProduct(symbolic.X * symbolic.W["Q"], symbolic.X * symbolic.W["Q"])
    f = Trace(symbolic.Gamma.T * square * OneMatrix(d, n))
    wrong = 2 * symbolic.X.T * (symbolic.W["Q"].T * symbolic.X.T)
    assert not symbolic._is_derivative(wrong, f, symbolic.W["Q"])


def test_what_is_no_sum_of_traces_is_refused():
    with pytest.raises(ValueError, match=r"f must be a sum of numbers times traces, .* log"):
        symbolic.matrix_gradient(sp.log(Trace(M)), M)


def test_unknown_kernels_are_answered_with_the_known_ones():
    for derive in (symbolic.matrix_form, symbolic.elementwise):
        with pytest.raises(ValueError, match="unknown kernel 'cauchy': expected one of 'softmax'"):
            derive("cauchy")


# ---------------------------------------------------------------- the printed code


def instance(kernel, N, n, D, H, d, runs=3):
    problem = problems.gaussian(N=N, n=n, D=D, seed=0)
    layer = Attention(kernel, H=H, d=d)
    return layer, layer.init(problem, seed=1, runs=runs), problem


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_code_from_the_entries_computes_the_closed_form(kernel, shape):
    layer, weights, problem = instance(kernel, *shape)
    found = symbolic.elementwise(kernel, *shape).compile()(weights, problem)
    closed = layer.loss_and_gradient(weights, problem)[1]
    for W in "QKV":
        assert found[W].shape == closed[W].shape
        assert relative_gap(found[W], closed[W]) < 1e-13


@given(instances(runs=st.sampled_from([None, 1, 3])))
def test_code_from_the_matrices_computes_the_closed_form_for_any_shape(case):
    layer, problem, weights = case
    found = symbolic.generated(layer.kernel.name)(weights, problem)
    closed = layer.loss_and_gradient(weights, problem)[1]
    for W in "QKV":
        assert found[W].shape == closed[W].shape
        assert relative_gap(found[W], closed[W]) < 1e-12


@settings(max_examples=10)
@given(instances(runs=st.just(2)))
def test_code_from_the_matrices_computes_what_autograd_does(case):
    layer, problem, weights = case
    leaves = differentiable(weights)
    expected = torch.autograd.grad(layer.loss(leaves, problem).sum(), leaves[:3])
    found = symbolic.generated(layer.kernel.name)(weights, problem)
    for W, true in zip("QKV", expected, strict=True):
        assert relative_gap(found[W], true) < 1e-12


# ---------------------------------------------------------------- mutations of the library itself


def signs_in(function):
    """How many sums and differences the source of a function has."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return sum(
        isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub))
        for node in ast.walk(tree)
    )


def with_a_sign_reversed(function, which):
    """The function with its ``which``-th + or - turned into the other."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub))
    ]
    found[which].op = ast.Sub() if isinstance(found[which].op, ast.Add) else ast.Add()
    names = dict(function.__globals__)
    exec(compile(tree, "a mutation", "exec"), names)
    return names[function.__name__]


def caught(layer, weights, problem):
    """Whether the closed form of this layer disagrees with the derivation, or loses its digits."""
    closed = layer.loss_and_gradient(weights, problem)[1]
    derived = symbolic.generated(layer.kernel.name)(weights, problem)
    wrong = max(relative_gap(closed[W], derived[W]) for W in "QKV") > 1e-6
    C = torch.tensor([[50.0, 1.0, 0.0]], dtype=torch.float64)
    S, dS = torch.softmax(C, -1), torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    true = exact.pullback("softmax", C[0], dS[0])
    inexact = exact.relative_error(layer.kernel.pullback(C, S, dS), true) > 1e-6
    return wrong or (layer.kernel.score == "dot" and inexact)


def test_the_library_as_it_stands_is_not_caught():
    for kernel in KERNELS:
        assert not caught(*instance(kernel, 2, 3, 4, 2, 3))


CLOSED_FORM = [
    (Attention._pull_back, "softmax"),
    (Kernel.scores_pullback, "gaussian"),
    (kernels._softmax_pullback, "softmax"),
]
PLANTED = [
    pytest.param(function, kernel, which, id=f"{function.__qualname__} {which}")
    for function, kernel in CLOSED_FORM
    for which in range(signs_in(function))
]


def test_there_are_signs_to_reverse_in_each():
    assert [signs_in(function) for function, _ in CLOSED_FORM] == [1, 2, 2]


@pytest.mark.parametrize(("function", "kernel", "which"), PLANTED)
def test_a_sign_reversed_anywhere_in_the_closed_form_is_caught(
    function, kernel, which, monkeypatch
):
    wrong = with_a_sign_reversed(function, which)
    layer, weights, problem = instance(kernel, 2, 3, 4, 2, 3)
    if function is kernels._softmax_pullback:
        layer = Attention(Kernel("softmax", "dot", kernels.softmax.value, wrong), H=2, d=3)
    else:
        owner = Attention if function is Attention._pull_back else Kernel
        monkeypatch.setattr(owner, function.__name__, wrong)
    assert caught(layer, weights, problem)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_transpose_forgotten_in_the_closed_form_is_caught(kernel, monkeypatch):
    source = inspect.getsource(attention.Attention._pull_back)
    names = dict(attention.Attention._pull_back.__globals__)
    exec(textwrap.dedent(source.replace("pass_.S.mT", "pass_.S")), names)
    monkeypatch.setattr(Attention, "_pull_back", names["_pull_back"])
    assert caught(*instance(kernel, 2, 3, 4, 2, 3))


# ---------------------------------------------------------------- fifty digits


@given(st.integers(2, 6), st.sampled_from([1.0, 10.0, 40.0, 100.0]), st.integers(0, 10_000))
def test_softmax_pulls_back_within_the_bound_however_saturated(n, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    C, dS = torch.randn(2, n, generator=generator, dtype=torch.float64)
    S = torch.softmax(scale * C, -1)
    found = kernels.softmax.pullback(scale * C, S, dS)
    true = exact.pullback("softmax", scale * C, dS)
    error = torch.tensor([float(abs(a - b)) for a, b in zip(found.tolist(), true, strict=True)])
    assert (error <= rounding_bound(scale * C, S, dS)).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_fifty_digits_agree_with_float64_where_nothing_is_saturated(kernel):
    layer, weights, problem = instance(kernel, 2, 3, 4, 1, 3, runs=None)
    true = exact.gradient(layer, weights, problem)
    closed = layer.loss_and_gradient(weights, problem)[1]
    assert all(exact.relative_error(closed[W], true[W]) < 1e-13 for W in "QKV")


def test_saturated_attention_keeps_its_gradient():
    layer, weights, problem = instance("softmax", 1, 2, 2, 1, 2, runs=None)
    weights = weights._replace(Q=16 * weights.Q)
    fused = Attention(Kernel("softmax", "dot", lambda C: torch.softmax(C, -1), None), H=1, d=2)
    autograd = torch.autograd.grad(fused.loss(w := differentiable(weights), problem), w.Q)[0]
    true = exact.gradient(layer, weights, problem)["Q"]
    closed = layer.loss_and_gradient(weights, problem, "Q")[1]["Q"]
    assert exact.relative_error(closed, true) < 1e-12 < 0.1 < exact.relative_error(autograd, true)


def test_fifty_digits_are_for_one_head():
    with pytest.raises(ValueError, match="H must be 1, got 2: one head"):
        exact.gradient(*instance("softmax", 1, 2, 2, 2, 2, runs=None))


# ---------------------------------------------------------------- attention that selects


@pytest.mark.parametrize("a", (0, 2))
def test_the_form_without_cancellation_is_the_derivative(a):
    assert symbolic.selected_pull(3, a).is_zero_matrix


@pytest.mark.parametrize("ell", ("logistic", "exponential"))
@pytest.mark.parametrize(("n", "D"), [(2, 1), (2, 3), (4, 2)])
def test_the_closed_form_of_selection_is_the_derived_one(ell, n, D):
    layer, derived = Selection(ell), symbolic.selection(ell, n, D).compile()
    generator = torch.Generator().manual_seed(n + D)
    X = torch.randn(3, n, D, generator=generator, dtype=torch.float64)
    problem = problems.Problem(X, torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    weights = layer.init(problem, seed=0, scale=2.0)
    _, gradient = layer.loss_and_gradient(weights, problem, "Wu")
    each = [derived(x, y, *weights) for x, y in zip(X, problem.y, strict=True)]
    mean = {name: sum(one[name] for one in each) / 3 for name in "Wu"}
    assert relative_gap(gradient["W"], mean["W"]) < 1e-13
    assert relative_gap(gradient["u"], mean["u"][:, 0]) < 1e-13


# ---------------------------------------------------------------- the encoder


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("n", "D", "d"), [(2, 1, 2), (2, 2, 1), (3, 1, 1)])
def test_the_encoders_gradient_derived_by_entries_is_its_closed_form(activation, n, D, d):
    derived = symbolic.encoder(activation, n, D, d).compile()
    for seed in range(8):
        problem = problems.sequences(N=1, n=n, D=D, seed=seed)
        scaling = ("d^-1/2", "d^-1")[seed % 2]
        encoder = Encoder(d, scaling, "ntk", activation, "mean")
        weights = encoder.init(problem, seed=seed)
        factors = encoder.tau_0, encoder.tau_1(problem)
        found = derived(problem.X[0], problem.y[0], *factors, *weights)
        closed = encoder.loss_and_gradient(weights, problem)[1]
        for W in "QKVO":
            assert (found[W] - closed[W]).abs().max() < 1e-12 * (1 + closed[W].abs().max())


def test_an_encoder_of_an_unknown_activation_is_not_derived():
    with pytest.raises(ValueError, match="unknown activation 'gelu': expected one of 'relu'"):
        symbolic.encoder("gelu", 1, 1, 1)
