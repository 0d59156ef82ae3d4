r"""The attention SVM: the smallest W that attends to given tokens with margin one.

With the token :math:`s_i` to select in each sequence and
:math:`A_{it} = (x_{i s_i} - x_{it}) z_i^\top`,

.. math::
    W_{mm} = \arg\min \|W\|_F \quad\text{s.t.}\quad \langle A_{it}, W\rangle \ge 1
    \quad\text{for all } i \text{ and } t \ne s_i .

It is solved through the point p of least norm in the convex hull of all :math:`A_{it}`: if p is not
zero, :math:`W_{mm} = p / \|p\|^2`, and if it is zero, the weights of that point prove that no W has
positive margins. Only inner products are needed,
:math:`\langle A_{it}, A_{j\tau}\rangle = \langle a_{it}, a_{j\tau}\rangle\langle z_i, z_j\rangle`,
so that the problem has one unknown for each constraint whatever the dimension.
Introduced in :doc:`/vasudeva2024/logistic`.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import _validate
from ._errors import error
from ._least_squares import least_norm
from .models.selection import check_data, chosen
from .problems import Problem

#: A margin is told from zero, and a constraint from an active one, to this share of the largest.
TOLERANCE = 1e-9
#: Clarabel's own tolerances, as tight as it reaches on well scaled problems.
TIGHT = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
#: Changes of the active set on the way from the solver's answer to the exact one.
CHANGES = 20


class Infeasible(ValueError):
    """No W selects the tokens asked for; ``weights`` (N, n) prove it.

    They are non-negative, add up to one, and :math:`\\sum weights_{it} A_{it} = 0`: whatever W is,
    its margins have the weighted mean zero, and cannot all be positive.
    """

    remedy = "select other tokens, or take tokens of more dimensions"

    def __init__(self, weights: Float[Tensor, "N n"], length: float):
        self.weights, self.length = weights, length
        used = [tuple(index) for index in torch.nonzero(weights).tolist()]
        shown = ", ".join(f"({i}, {t})" for i, t in used[:4]) + (", ..." if len(used) > 4 else "")
        super().__init__(
            f"no W selects these tokens: a convex combination of {len(used)} differences A_it is "
            f"zero (length {length:.1e}), those of sequence and token {shown}, with the weights "
            f".weights: {self.remedy}"
        )

    def __reduce__(self):
        return type(self), (self.weights, self.length)


@dataclass(frozen=True)
class Margin:
    """A solution of the attention SVM.

    W : (D, D), the smallest matrix with all margins at least one.
    selected : (N,), the tokens it selects.
    margins : (N, n), <A_it, W>; zero at the selected token, which has no constraint.
    duals : (N, n), the multipliers, zero where inactive: the W of `svm` is their combination of the A_it.
    """

    W: Float[Tensor, "D D"]
    selected: Int[Tensor, " N"]
    margins: Float[Tensor, "N n"]
    duals: Float[Tensor, "N n"]

    @property
    def norm(self) -> float:
        """The length of W; for `svm` one over the margin that a W of length one can have."""
        return float(torch.linalg.vector_norm(self.W))

    @property
    def direction(self) -> Float[Tensor, "D D"]:
        """W at length one."""
        return self.W / self.norm

    @property
    def constrained(self) -> Bool[Tensor, "N n"]:
        """All tokens but the selected ones."""
        token = torch.arange(self.margins.shape[-1], device=self.selected.device)
        return token != self.selected[:, None]

    @property
    def support(self) -> Bool[Tensor, "N n"]:
        """The tokens whose constraint is active."""
        return self.constrained & (self.margins < 1 + 1e-6)

    def correlation(self, W: Float[Tensor, "*r D D"]) -> Float[Tensor, "*r"]:
        """The cosine of the angle between W and the solution."""
        length = torch.linalg.vector_norm(W, dim=(-2, -1))
        return (W * self.direction).sum((-2, -1)) / length

    def error(self, W: Float[Tensor, "*r D D"]) -> Float[Tensor, "*r"]:
        """The distance between W and the solution, both at length one."""
        length = torch.linalg.vector_norm(W, dim=(-2, -1), keepdim=True)
        return torch.linalg.vector_norm(W / length - self.direction, dim=(-2, -1))


def svm(
    problem: Problem,
    u: Float[Tensor, " D"] | None = None,
    *,
    selected: Int[Tensor, " N"] | None = None,
    query: int = 0,
) -> Margin:
    """Solve the attention SVM for the optimal tokens of a decoder, or for given ones.

    Parameters
    ----------
    problem : tokens (N, n, D) and one label a sequence.
    u : the decoder, whose tokens of largest score are to be selected.
    selected : the tokens to select, in place of u.
    query : which token of each sequence asks.

    Raises
    ------
    Infeasible : where no W selects these tokens, with the proof.
    ValueError : for a zero query, labels that are no signs, scores that leave no token optimal.
    ArithmeticError : where the margin is so small that float64 cannot tell it from zero.

    See :doc:`/vasudeva2024/logistic`.

    Examples
    --------
    >>> from descent import margin, problems
    >>> problem, u = problems.planted(N=3, n=4, D=20, seed=0)
    >>> found = margin.svm(problem, u)
    >>> gaps = margin.products(
    ...     found.W, margin.differences(problem, found.selected), problem.X[:, 0]
    ... )
    >>> bool((gaps[found.constrained] > 1 - 1e-9).all())
    True
    """
    selected = tokens_to_select(problem, u, selected, query)
    # the solver is numpy's, and knows no gradient
    a, z = differences(problem, selected).detach(), problem.X[..., query, :].detach()
    asked = (a != 0).any(-1)
    _distinct(asked, selected)
    _of_a_size(a, z)
    G = gram(a, z)[asked.flatten()][:, asked.flatten()]
    weights, proof = hard_margin(G)
    duals = torch.zeros_like(asked, dtype=a.dtype)
    duals[asked] = weights
    if proof:
        raise Infeasible(duals, float(torch.linalg.vector_norm(combine(duals, a, z))))
    W = combine(duals, a, z)
    return Margin(W, selected, products(W, a, z), duals)


def tokens_to_select(
    problem: Problem,
    u: Float[Tensor, " D"] | None,
    selected: Int[Tensor, " N"] | None,
    query: int = 0,
) -> Int[Tensor, " N"]:
    """What `svm` is to select: ``selected`` if given, else the optimal tokens of u.

    Raises
    ------
    ValueError, TypeError : for several problems, for both of u and selected or neither, and for
        tokens that the problem does not have.
    """
    check_data(_validate.one_problem(problem), query)
    if (u is None) == (selected is None):
        found = "u and selected both say what to select, or neither does"
        raise error(ValueError, found, "give either the decoder u or the tokens selected, not both")
    if selected is None:
        u = _validate.shape("u", _validate.tensor("u", u), (problem.D,))
        u = _validate.finite("u", u, "give finite entries").to(problem.X)
        return chosen(problem, u)
    selected = _validate.indices("selected", selected, problem.N, problem.n)
    return selected.to(problem.X.device)


def _of_a_size(a: Float[Tensor, "N n D"], z: Float[Tensor, "N D"]) -> None:
    """Raise ValueError where inner products of the A_it, or the multipliers, leave the range."""
    size, low = (
        float(a.abs().amax()) * float(z.abs().amax()),
        1e3 * torch.finfo(a.dtype).tiny ** 0.5,
    )
    if not low < size < 1 / low:
        found = f"differences times queries are up to {size:.0e}, too {'large' if size > 1 else 'small'}"
        remedy = "scale the tokens towards 1: c times the tokens have W over c squared"
        raise error(ValueError, f"{found} for their inner products in {a.dtype}", remedy)


def _distinct(asked: Bool[Tensor, "N n"], selected: Int[Tensor, " N"]) -> None:
    others = torch.arange(asked.shape[-1], device=asked.device) != selected[:, None]
    copies = int((others & ~asked).sum())
    if copies:
        raise error(
            ValueError,
            f"{copies} tokens are copies of the one to select in their sequence",
            "merge them, since no W tells them apart",
        )


# -- the geometry ----------------------------------------------------------------------------------


def differences(problem: Problem, selected: Int[Tensor, "*b N"]) -> Float[Tensor, "*b N n D"]:
    """The selected token minus each token: zero at itself.

    Raises
    ------
    ValueError, TypeError : for tokens to select that the problem does not have.
    """
    _validate.problem(problem)
    selected = _validate.tensor("selected", selected).to(torch.int64)
    _validate.shape("selected", selected, problem.X.shape[:-2], "each sequence has one")
    if not bool(((selected >= 0) & (selected < problem.n)).all()):
        found = f"selected holds {selected.tolist()}, but a sequence has {problem.n} tokens"
        raise error(ValueError, found, f"number them 0 to {problem.n - 1}")
    index = selected[..., None, None].expand(*selected.shape, 1, problem.D)
    return problem.X.gather(-2, index) - problem.X


def gram(a: Float[Tensor, "*b N n D"], z: Float[Tensor, "*b N D"]) -> Float[Tensor, "*b m m"]:
    """The inner products of all A_it, m = N n of them, without making one."""
    a, z = _sided(a, z)
    flat = a.flatten(-3, -2)
    queries = (z @ z.mT).repeat_interleave(a.shape[-2], -1).repeat_interleave(a.shape[-2], -2)
    return (flat @ flat.mT) * queries


def combine(
    weights: Float[Tensor, "*b N n"], a: Float[Tensor, "*b N n D"], z: Float[Tensor, "*b N D"]
) -> Float[Tensor, "*b D D"]:
    r"""The matrix :math:`\sum_{it} weights_{it} A_{it}`.

    Raises
    ------
    ValueError, TypeError : for arrays that do not go together, or are none.
    """
    a, z = _sided(a, z)
    weights = _validate.shape("weights", _validate.tensor("weights", weights), a.shape[:-1])
    _validate.like("weights", weights, a)
    return (weights[..., None, :] @ a).squeeze(-2).mT @ z


def products(
    W: Float[Tensor, "*r D D"], a: Float[Tensor, "*b N n D"], z: Float[Tensor, "*b N D"]
) -> Float[Tensor, "*r N n"]:
    """The gaps <A_it, W>: by how much the selected token's logit exceeds that of token t.

    Raises
    ------
    ValueError, TypeError : for arrays that do not go together, or are none.
    """
    a, z = _sided(a, z)
    W = _validate.shape("W", _validate.tensor("W", W), 2 * a.shape[-1:])
    _validate.like("W", W, a)
    return (a @ (z @ W.mT)[..., None]).squeeze(-1)


def _sided(a: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Differences and queries as tensors that go together, else raise."""
    a = _validate.matrix("a", a, least=3)
    z = _validate.shape("z", _validate.tensor("z", z), (*a.shape[:-2], a.shape[-1]))
    return a, _validate.like("z", z, a)


# -- the quadratic programme -----------------------------------------------------------------------


def hard_margin(G: Float[Tensor, "m m"]) -> tuple[Float[Tensor, " m"], bool]:
    r"""The duals of the hard-margin SVM whose constraints have the Gram matrix G.

    Returns them with False; or with True the weights of a convex combination that is zero, where
    no margin is positive. Minimises :math:`\alpha^\top G\alpha` over the simplex by Clarabel, an
    interior-point method, and then solves the equations of the active constraints once more, which
    takes the error from the solver's 1e-9 to that of the arithmetic.

    Raises
    ------
    ArithmeticError : where the margin is so small that float64 cannot tell it from zero.
    ValueError : if G is no square matrix of finite numbers, with something on its diagonal.
    """
    G = _validate.finite("G", _validate.matrix("G", G), "scale the tokens down")
    _validate.shape("G", G, (len(G), len(G)), "it holds the products of all pairs")
    if G.ndim != 2 or not bool((G.diagonal() >= 0).all() and (G.diagonal() > 0).any()):
        found = f"G of shape {tuple(G.shape)} is no Gram matrix of vectors that are not all zero"
        remedy = "give A @ A.T of the constraints' rows A, scaled up where their squares underflow"
        raise error(ValueError, found, remedy)
    G = G.detach()
    scale = G.diagonal().amax()
    if scale < torch.finfo(G.dtype).tiny:
        found = f"G has a largest entry of {float(scale):.0e}, which float64 keeps few digits of"
        raise error(ValueError, found, "scale the constraints' rows up")
    alpha = _least_norm_weights(G / scale)
    margins = (G / scale) @ alpha
    if float(margins.amin()) > TOLERANCE:
        return _polished(G / scale, alpha, margins) / scale, False
    alpha = _null_weights(G / scale)
    if alpha is not None:
        return alpha, True
    raise error(
        ArithmeticError,
        f"the least margin is {float(margins.amin()):.1e} of the largest",
        "scale the tokens alike or select others, float64 cannot tell whether these can be",
    )


def _least_norm_weights(G: Float[Tensor, "m m"]) -> Float[Tensor, " m"]:
    import qpsolvers  # a second to import: only who asks for a margin waits
    from scipy import sparse

    m = len(G)
    programme = qpsolvers.Problem(
        P=sparse.csc_matrix(2 * G.cpu().numpy()), q=np.zeros(m),
        G=-sparse.eye(m, format="csc"), h=np.zeros(m),
        A=sparse.csc_matrix(np.ones((1, m))), b=np.ones(1),
    )  # fmt: skip
    with warnings.catch_warnings():  # of accuracy: what it returns is checked against the margins
        warnings.simplefilter("ignore")
        solution = qpsolvers.solve_problem(programme, "clarabel", **TIGHT)
    if solution.x is None:
        raise error(ArithmeticError, "the QP solver did not converge", "scale the tokens alike")
    return torch.from_numpy(solution.x).to(G).clamp_min(0)


def _polished(
    G: Float[Tensor, "m m"], alpha: Float[Tensor, " m"], margins: Float[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """Solve G alpha = 1 on the active set; the solver's answer where no such set is found."""
    active = alpha > 1e-6 * alpha.amax()
    for _ in range(CHANGES):
        exact = torch.zeros_like(alpha)
        one = torch.ones_like(alpha[active])[:, None]
        exact[active] = least_norm(G[active][:, active], one)[:, 0]
        negative, violated = exact < 0, G @ exact < 1 - TOLERANCE
        if not bool((negative | violated).any()):
            return exact
        active = (active & ~negative) if bool(negative.any()) else (active | violated)
    return alpha / margins.amin()


def _null_weights(G: Float[Tensor, "m m"]) -> Float[Tensor, " m"] | None:
    """The weights of a convex combination that is zero, to rounding; None if there is none near.

    A linear programme finds a combination of few; of those, only one is zero, an eigenvector.
    """
    from scipy.optimize import linprog

    m = len(G)
    values, vectors = torch.linalg.eigh(G)
    seen = values > 1e-13 * values[-1]
    A = vectors[:, seen] * values[seen].sqrt()  # rows with the inner products G
    equations = np.vstack([A.mT.cpu().numpy(), np.ones((1, m))])
    corner = linprog(
        np.zeros(m), A_eq=equations, b_eq=np.eye(len(equations))[-1], method="highs-ds"
    )
    if corner.x is None:
        return None
    used = torch.from_numpy(corner.x > 1e-9).to(G.device)
    least = torch.linalg.svd(A[used])[0][:, -1]
    weights = torch.zeros(m).to(G)
    weights[used] = least / least.sum()
    length = torch.linalg.vector_norm(weights @ A)
    sound = float(weights.amin()) >= 0 and float(length) < TOLERANCE
    return weights if sound else None


# -- other norms, and closed forms -----------------------------------------------------------------


def nuclear(
    problem: Problem,
    u: Float[Tensor, " D"] | None = None,
    *,
    selected: Int[Tensor, " N"] | None = None,
    query: int = 0,
) -> Margin:
    r"""The same with the nuclear norm, the sum of singular values: what factors :math:`KQ^\top` favour.

    A semidefinite programme, through cvxpy and Clarabel, in the spans of the differences and of the
    queries; to about eight digits, and for some dozens of tokens. Feasible exactly where `svm` is,
    which is asked first. ``duals`` are the multipliers of the margins.
    """
    found = svm(problem, u, selected=selected, query=query)
    import cvxpy

    a, z = (A.detach() for A in (differences(problem, found.selected), problem.X[..., query, :]))
    left, right = (_basis(M) for M in (a.flatten(0, 1), z))
    small = [(M @ basis).cpu().numpy() for M, basis in ((a, left), (z, right))]
    W = cvxpy.Variable((left.shape[1], right.shape[1]))
    rows = [(i, t) for i, t in torch.nonzero(found.constrained).tolist()]
    limits = [small[0][i, t] @ W @ small[1][i] >= 1 for i, t in rows]
    cvxpy.Problem(cvxpy.Minimize(cvxpy.normNuc(W)), limits).solve(solver=cvxpy.CLARABEL)
    full = left @ torch.from_numpy(W.value).to(a) @ right.mT
    duals = torch.zeros_like(found.duals)
    for (i, t), limit in zip(rows, limits, strict=True):
        duals[i, t] = float(np.squeeze(limit.dual_value))
    return Margin(full, found.selected, products(full, a, z), duals)


def _basis(rows: Float[Tensor, "k D"]) -> Float[Tensor, "D r"]:
    """An orthonormal basis of the span of the rows."""
    _, values, right = torch.linalg.svd(rows, full_matrices=False)
    return right[values > 1e-12 * values[0]].mT


def orthonormal(
    problem: Problem, selected: Int[Tensor, " N"], query: int = 0
) -> Float[Tensor, "D D"]:
    r"""The solution where tokens are orthonormal within each sequence, and queries among each other.

    :math:`W_{mm} = \sum_i \big(x_{i s_i} - \bar x_i\big) z_i^\top` with the mean token
    :math:`\bar x_i`: every constraint is active, and :math:`\|W_{mm}\|_F^2 = N(n-1)/n`.

    Raises
    ------
    ValueError : where these are not orthonormal.
    """
    selected = tokens_to_select(problem, None, selected, query)
    z, eye = problem.X[..., query, :], torch.eye
    for name, M in (("tokens of a sequence", problem.X), ("queries", z)):
        far = float((M @ M.mT - eye(M.shape[-2]).to(M)).abs().max())
        if far > 1e-9:
            raise error(ValueError, f"the {name} are {far:.1e} from orthonormal", "use svm(...)")
    centred = problem.X[torch.arange(problem.N), selected] - problem.X.mean(-2)
    return centred.mT @ z
