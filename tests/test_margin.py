import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from descent import margin, problems


def matrices(problem, selected, query=0):
    """All A_it of the unselected tokens, written out, as rows (m, D^2)."""
    a, z = margin.differences(problem, selected), problem.X[:, query]
    return torch.einsum("ntd,ne->ntde", a, z)[(a != 0).any(-1)].flatten(1)


def by_nnls(A):
    """The hard-margin SVM by non-negative least squares on the matrices themselves.

    The least of |A^T alpha|^2 + (sum alpha - 1)^2 lies in the direction of the point of least norm.
    """
    A = A.numpy()
    stacked = np.vstack([A.T, np.ones((1, len(A)))])
    alpha, _ = nnls(stacked, np.eye(len(stacked))[-1], maxiter=10_000)
    w = alpha @ A
    least = (A @ w).min()
    return torch.from_numpy(w / least if least else w), least  # exactly zero where no W selects


shapes = st.tuples(st.integers(1, 5), st.integers(2, 5), st.integers(2, 8), st.integers(0, 10_000))


@given(shapes)
def test_the_two_solvers_agree_on_what_is_feasible_and_on_the_solution(shape):
    N, n, D, seed = shape
    problem, u = problems.planted(N=N, n=n, D=D, seed=seed)
    try:
        found = margin.svm(problem, u)
    except margin.Infeasible as no:
        A = matrices(problem, torch.argmax(problem.y[:, None] * problem.X[..., 0], 1))
        weights = no.weights[no.weights > 0]
        rows = A[(no.weights[margin_mask(problem)] > 0)]
        assert float(torch.linalg.vector_norm(weights @ rows)) < 1e-12
        assert abs(float(weights.sum()) - 1) < 1e-12
        assert by_nnls(A)[1] < 1e-9
        return
    A = matrices(problem, found.selected)
    W, least = by_nnls(A)
    assert least > 0
    # NNLS solves with the condition of A: its own error, not ours, sets the tolerance
    assert float(torch.linalg.vector_norm(W - found.W.flatten())) < 1e-6 * found.norm


def margin_mask(problem):
    selected = torch.argmax(problem.y[:, None] * problem.X[..., 0], 1)
    return torch.arange(problem.n) != selected[:, None]


def test_the_proof_that_nothing_is_feasible_comes_from_another_process():
    no = margin.Infeasible(torch.tensor([[0.0, 0.25], [0.75, 0.0]]), 1e-17)
    again = pickle.loads(pickle.dumps(no))
    assert torch.equal(again.weights, no.weights) and str(again) == str(no)


@given(shapes)
def test_solutions_meet_the_conditions_of_karush_kuhn_and_tucker(shape):
    N, n, D, seed = shape
    problem, u = problems.planted(N=N, n=n, D=D, seed=seed)
    try:
        found = margin.svm(problem, u)
    except margin.Infeasible:
        return
    size = found.norm**2
    assert float(found.margins[found.constrained].amin()) > 1 - 1e-9
    assert float(found.duals.amin()) >= 0
    assert float((found.duals * (found.margins - 1)).abs().max()) < 1e-9 * size
    assert abs(size - float(found.duals.sum())) < 1e-9 * size  # the duality gap
    a, z = margin.differences(problem, found.selected), problem.X[:, 0]
    assert torch.equal(found.W, margin.combine(found.duals, a, z))


def test_orthonormal_tokens_have_the_closed_form():
    problem, u = problems.orthonormal_tokens(N=4, n=3, D=40, seed=0)
    found = margin.svm(problem, u)
    closed = margin.orthonormal(problem, found.selected)
    assert float((found.W - closed).abs().max()) < 1e-12
    assert abs(found.norm**2 - 4 * 2 / 3) < 1e-12
    assert bool(found.support.sum() == 8)
    tilted, _ = problems.planted(N=4, n=3, D=40, seed=0)
    with pytest.raises(ValueError, match="from orthonormal"):
        margin.orthonormal(tilted, found.selected)


def test_the_nuclear_norm_gives_the_smaller_sum_of_singular_values():
    problem, u = problems.planted(N=4, n=3, D=8, seed=0)
    frobenius, nuclear = margin.svm(problem, u), margin.nuclear(problem, u)
    sums = [float(torch.linalg.svdvals(m.W).sum()) for m in (nuclear, frobenius)]
    assert sums[0] < 0.9 * sums[1]
    assert nuclear.norm > frobenius.norm
    assert float(nuclear.margins[nuclear.constrained].amin()) > 1 - 1e-6
    # the duals make a matrix of spectral norm one that W is aligned with
    a, z = margin.differences(problem, nuclear.selected), problem.X[:, 0]
    dual = margin.combine(nuclear.duals, a, z)
    assert abs(float(torch.linalg.svdvals(dual)[0]) - 1) < 1e-6
    assert abs(float((dual * nuclear.W).sum()) - sums[0]) < 1e-6


def test_other_tokens_and_another_query_can_be_asked_for():
    problem, _ = problems.planted(N=2, n=4, D=20, seed=0)
    selected = torch.tensor([3, 1])
    found = margin.svm(problem, selected=selected, query=2)
    logits = torch.einsum("ntd,de,ne->nt", problem.X, found.W, problem.X[:, 2])
    top = logits.topk(2, -1)
    assert torch.equal(top.indices[:, 0], selected)
    assert float((top.values[:, 0] - top.values[:, 1]).amin()) > 1 - 1e-9


def test_correlation_and_error_are_those_of_directions():
    problem, u = problems.planted(N=2, n=3, D=5, seed=0)
    found = margin.svm(problem, u)
    W = torch.stack([3 * found.W, -found.W])
    assert torch.allclose(found.correlation(W), torch.tensor([1.0, -1.0]).double())
    assert torch.allclose(found.error(W), torch.tensor([0.0, 2.0]).double(), atol=1e-14)


def test_bad_questions_are_named():
    problem, u = problems.planted(N=2, n=3, D=5, seed=0)
    with pytest.raises(ValueError, match="either the decoder u or the tokens"):
        margin.svm(problem)
    with pytest.raises(ValueError, match="decoder u zero"):
        margin.svm(problem, 0 * u)
    with pytest.raises(ValueError, match="hold 2 of the numbers 0 to 2"):
        margin.svm(problem, selected=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="2 tokens are copies"):
        X = torch.stack([problem.X[0, [0, 0, 0, 1]], problem.X[1, [0, 1, 2, 2]]])
        margin.svm(problems.Problem(X, problem.y), selected=torch.tensor([0, 0]))


def test_a_margin_too_small_to_tell_is_not_called_infeasible():
    # three directions around the circle, lifted off its plane by so little that the square of the
    # margin, which is what the Gram matrix shows of it, is below the tolerance
    angle = torch.arange(3).double() * 2 * torch.pi / 3
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    flat = circle @ circle.mT
    weights, proof = margin.hard_margin(flat)
    assert proof and torch.allclose(weights, torch.full((3,), 1 / 3).double())
    with pytest.raises(ArithmeticError, match="cannot tell"):
        margin.hard_margin(flat + 1e-10)
    duals, proof = margin.hard_margin(flat + 1e-6)
    assert not proof and abs(float(duals.sum()) * 1e-6 - 1) < 1e-6


@pytest.mark.parametrize("size", [1e-60, 1e-20, 1e60])
def test_c_times_the_tokens_have_the_solution_over_c_squared(size):
    problem, u = problems.planted(N=3, n=4, D=20, seed=0)
    found = margin.svm(problems.Problem(size * problem.X, problem.y), u)
    assert found.norm * size**2 == pytest.approx(margin.svm(problem, u).norm, rel=1e-12)


@pytest.mark.parametrize("size", [1e-160, 1e-80, 1e80])
def test_tokens_too_small_or_large_for_float64_are_called_that(size):
    problem, u = problems.planted(N=3, n=4, D=20, seed=0)
    with pytest.raises(ValueError, match="too (small|large) for .* in torch.float64: scale the"):
        margin.svm(problems.Problem(size * problem.X, problem.y), u)
    with pytest.raises(ValueError, match="float64 keeps few digits of: scale .* up"):
        margin.hard_margin(1e-310 * torch.eye(2, dtype=torch.float64))


def test_tokens_that_ask_for_a_gradient_have_the_same_margin():
    problem, u = problems.planted(N=2, n=2, D=5, seed=0)
    leaves = problems.Problem(problem.X.clone().requires_grad_(), problem.y)
    for solve in (margin.svm, margin.nuclear):
        assert solve(leaves, u).norm == solve(problem, u).norm
