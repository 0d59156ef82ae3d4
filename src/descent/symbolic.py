r"""Every gradient of the attention layer, derived by SymPy whenever it is asked for.

There are two derivations, and neither knows of the other:

* `elementwise` writes the loss of a small layer out in its entries and differentiates it by each
  weight. It needs no rule but the chain rule for numbers, and grows too fast for more than n = 3.
* `matrix_form` works with matrices of symbolic size, in the stages :math:`f \to S \to C \to W`, as
  the theorem of :doc:`/foundations/gradients` states them.

`difference` subtracts one from the other, exactly. Both are turned into torch code by SymPy's own
printer (`Elementwise.source`, `source`), so that they can be compared with the closed forms of
`descent.models` and with autograd. Introduced in :doc:`/foundations/gradients`.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import sympy as sp
import torch
from sympy import HadamardProduct, MatrixSymbol, OneMatrix, Trace
from sympy.printing.pytorch import TorchPrinter

from . import _validate
from ._errors import error
from .models import AttentionWeights
from .problems import Problem

KERNELS = ("softmax", "gaussian")
Gradient = Callable[[AttentionWeights, Problem], dict[str, torch.Tensor]]

n, D, d = sp.symbols("n D d", integer=True, positive=True)
#: Sizes for checking a matrix derivative entry by entry; all different, so that shapes must fit.
SMALL = {n: 2, D: 3, d: 4}
#: One sequence: its tokens, read-out and residual; the weights of one head.
X = MatrixSymbol("X", n, D)
u, r = MatrixSymbol("u", n, 1), MatrixSymbol("r", n, 1)
W = {name: MatrixSymbol(f"W_{name}", D, d) for name in "QKV"}
w_O = MatrixSymbol("w_O", d, 1)
#: The attention matrix, and the derivatives of the loss by it and by the scores.
S, A, Gamma = (MatrixSymbol(name, n, n) for name in ("S", "A", "Gamma"))
#: Row and column sums of Gamma on a diagonal, for the Gaussian's squared norms.
P_row, P_col = (MatrixSymbol(name, n, n) for name in ("P_row", "P_col"))


# -- the attention matrix ------------------------------------------------------------------------


def row(kernel: str, scores: sp.Matrix) -> sp.Matrix:
    """One row of the attention matrix, (n, 1), from its scores (n, 1).

    Raises
    ------
    ValueError : for another kernel.
    """
    _validate.one_of("kernel", kernel, KERNELS)
    E = sp.Matrix(scores).applyfunc(sp.exp)
    return E / sum(E) if kernel == "softmax" else E


def jacobian(kernel: str, size: int) -> tuple[sp.Matrix, sp.Matrix]:
    """The row s (size, 1) for scores c_1, c_2, ... and its Jacobian ds_k / dc_j.

    Raises
    ------
    ValueError, TypeError : for another kernel, or a size that is no whole number from 1 on.

    Examples
    --------
    >>> jacobian("gaussian", 2)[1]
    Matrix([
    [exp(c_1),        0],
    [       0, exp(c_2)]])
    """
    c = sp.Matrix(sp.symbols(f"c_1:{_validate.count('size', size) + 1}", real=True))
    s = row(kernel, c)
    return s, s.jacobian(c)


# -- with symbolic matrices ----------------------------------------------------------------------


def matrix_gradient(f: sp.Expr, M: MatrixSymbol) -> sp.MatrixExpr:
    """The derivative of a sum of traces by a matrix, checked entry by entry.

    SymPy differentiates a single trace reliably; of a factor times a sum of traces, or a function
    of a trace, version 1.14 can return something wrong without a word. So the terms are taken one
    by one, and the answer is compared with the derivatives by each entry for small sizes.

    Raises
    ------
    ValueError : if ``f`` is not a sum of numbers times traces.
    ArithmeticError : if SymPy's answer is not the derivative.
    """
    gradient = sp.ZeroMatrix(*M.shape)
    for term in sp.Add.make_args(sp.expand(f)):
        factor, trace = term.as_independent(Trace)
        if not isinstance(trace, Trace):
            found = f"f must be a sum of numbers times traces, but has the term {term}"
            raise error(ValueError, found, "be a sum of numbers times traces")
        gradient += factor * trace.diff(M)
    gradient = gradient.doit()
    if not _is_derivative(gradient, f, M):
        raise error(
            ArithmeticError,
            f"SymPy's derivative of {f} by {M} is wrong, {gradient}",
            "derive it by entries, with elementwise",
        )
    return gradient


def _is_derivative(gradient: sp.MatrixExpr, f: sp.Expr, M: MatrixSymbol) -> bool:
    """Compare with the derivative by each entry, exactly, at a point of random integers."""
    point = {A: _integers(A.subs(SMALL)) for A in sorted(f.atoms(MatrixSymbol), key=str)}
    others = {A: value for A, value in point.items() if A != M}
    number = f.replace(
        lambda e: isinstance(e, Trace), lambda e: sp.trace(_at(e.arg, SMALL | others))
    ).subs(SMALL)
    entries = M.subs(SMALL).as_explicit()
    here = dict(zip(entries, point[M], strict=True))
    by_entry = entries.applyfunc(lambda entry: number.diff(entry).subs(here))
    try:
        return (by_entry - _at(gradient, SMALL | point)).applyfunc(sp.simplify).is_zero_matrix
    except (sp.ShapeError, ValueError, IndexError):  # an answer whose shapes do not even fit
        return False


def _integers(M: MatrixSymbol) -> sp.ImmutableMatrix:
    generator = random.Random(str(M))
    return sp.ImmutableMatrix(*M.shape, lambda i, j: generator.randint(1, 99))


def _at(expression: sp.MatrixExpr, values: dict) -> sp.Matrix:
    """A matrix expression with numbers for its sizes, and then explicit matrices for its symbols."""
    sizes = {symbol: value for symbol, value in values.items() if symbol in (n, D, d)}
    matrices = {
        symbol.subs(sizes): sp.ImmutableMatrix(value)
        for symbol, value in values.items()
        if symbol not in sizes
    }
    return sp.Matrix(expression.subs(sizes).doit().subs(matrices).doit().as_explicit())


@lru_cache
def matrix_form(kernel: str) -> dict[str, sp.MatrixExpr]:
    r"""The gradient of one sequence and one head, in stages, with n, D and d left symbolic.

    ``"S"``: :math:`A = \partial f/\partial S` from the residual r. ``"C"``:
    :math:`\Gamma = \partial f/\partial C` from A. ``"Q"``, ``"K"``, ``"V"``: the gradients, from
    :math:`\Gamma`, S and the residual r.
    """
    _validate.one_of("kernel", kernel, KERNELS)
    # each stage: pair the derivative so far, held fixed, with what it is a derivative by
    stages = {"S": matrix_gradient(Trace(r.T * S * u), S), "C": pullback(kernel)}
    scores = paired_with_scores(kernel)
    for name in "QK":
        symmetric = {P_row.T: P_row, P_col.T: P_col}
        stages[name] = matrix_gradient(scores, W[name]).subs(symmetric).doit()
    stages["V"] = matrix_gradient(Trace(r.T * S * X * W["V"] * w_O), W["V"])
    return stages


def pullback(kernel: str) -> sp.MatrixExpr:
    r"""A pulled back through the attention matrix: the Jacobian of each row times that row of A."""
    if kernel == "gaussian":
        return HadamardProduct(S, A)
    weighted = HadamardProduct(S, A)
    return weighted - HadamardProduct(S, weighted * OneMatrix(n, n))


def paired_with_scores(kernel: str) -> sp.Expr:
    r""":math:`\sum_{kj}\Gamma_{kj}C_{kj}` as traces: its gradient is that of f, with Gamma fixed."""
    Q, K = X * W["Q"], X * W["K"]
    dot = Trace(Gamma.T * Q * K.T)
    if kernel == "softmax":
        return dot / sp.sqrt(d)
    return (dot - Trace(Q.T * P_row * Q) / 2 - Trace(K.T * P_col * K) / 2) / sp.sqrt(d)


# -- entry by entry ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Elementwise:
    """The loss of a small layer in its entries, and its derivative by each weight.

    sizes : N, n, D, H, d.
    data : symbols of X (N, n, D) and y (N, n), flat, by name; likewise ``weights`` Q, K, V and O.
    gradient : one expression for each entry of Q, K and V, in the order of ``weights``.
    """

    kernel: str
    sizes: tuple[int, int, int, int, int]
    loss: sp.Expr
    data: dict[str, tuple[sp.Symbol, ...]]
    weights: dict[str, tuple[sp.Symbol, ...]]
    gradient: dict[str, tuple[sp.Expr, ...]]

    def hessian(self, train: str = "QKV") -> sp.Matrix:
        """Second derivatives of the loss by all entries of the matrices named in ``train``."""
        first = [entry for name in train for entry in self.gradient[name]]
        symbols = [symbol for name in train for symbol in self.weights[name]]
        return sp.Matrix(first).jacobian(symbols)

    @property
    def source(self) -> str:
        """The gradient as a function of the flat data and weights, printed by SymPy for torch."""
        shared, results = sp.cse([g for gs in self.gradient.values() for g in gs], order="none")
        unpack = [
            f"    {', '.join(map(str, symbols))}, = {name}"
            for name, symbols in {**self.data, **self.weights}.items()
        ]
        lines = [f"    {symbol} = {_printed(value)}" for symbol, value in shared]
        result = f"    return [{', '.join(map(_printed, results))}]"
        return "\n".join(["def gradient(X, y, Q, K, V, O):", *unpack, *lines, result])

    def compile(self) -> Gradient:
        """The generated code as a function of weights and problem; leading dimensions are kept."""
        flat = _run(self.source)
        _, _, D, H, d = self.sizes

        def gradient(weights: AttentionWeights, problem: Problem) -> dict[str, torch.Tensor]:
            arguments = (problem.X.flatten(-3), problem.y.flatten(-2))
            arguments += tuple(getattr(weights, name).flatten(-3) for name in "QKV")
            arguments += (weights.O.flatten(-2),)
            stacked = torch.stack(
                torch.broadcast_tensors(*flat(*(a.unbind(-1) for a in arguments)))
            )
            parts = stacked.movedim(0, -1).unflatten(-1, (3, H, D, d)).unbind(-4)
            return dict(zip("QKV", parts, strict=True))

        return gradient


@lru_cache
def elementwise(
    kernel: str, N: int = 1, n: int = 2, D: int = 1, H: int = 1, d: int = 1
) -> Elementwise:
    """Write the layer's loss out for these sizes, and differentiate it by every entry.

    The time grows with about the fourth power of ``n D d``: keep all of them below four.
    """
    _validate.one_of("kernel", kernel, KERNELS)
    tokens, labels = _entries("x", N, n, D), _entries("y", N, n, 1)
    matrices = {name: _entries(name.lower(), H, D, d) for name in "QKV"}
    output_weights = _entries("o", H, d, 1)
    f = 0
    for x, label in zip(tokens, labels, strict=True):
        output = sp.zeros(n, 1)
        for q, k, v, o in zip(*matrices.values(), output_weights, strict=True):
            output += attention(kernel, x * q, x * k) * x * v * o
        f += sum((entry**2 for entry in output - label), sp.S.Zero) / 2
    weights = {name: _flat(blocks) for name, blocks in matrices.items()}
    gradient = {name: tuple(f.diff(w) for w in symbols) for name, symbols in weights.items()}
    data = {"X": _flat(tokens), "y": _flat(labels)}
    weights["O"] = _flat(output_weights)
    return Elementwise(kernel, (N, n, D, H, d), f, data, weights, gradient)


def attention(kernel: str, q: sp.Matrix, k: sp.Matrix) -> sp.Matrix:
    """The attention matrix (n, n) of explicit queries and keys (n, d), straight from its formula."""
    scale = sp.sqrt(q.cols)
    if kernel == "softmax":
        C = q * k.T / scale
    else:
        C = sp.Matrix(q.rows, k.rows, lambda a, b: -sum((e**2 for e in q[a, :] - k[b, :]), 0))
        C = C / (2 * scale)
    return sp.Matrix.hstack(*(row(kernel, C[a, :].T) for a in range(q.rows))).T


def _entries(letter: str, blocks: int, rows: int, columns: int) -> list[sp.Matrix]:
    symbols = iter(sp.symbols(f"{letter}:{blocks * rows * columns}", real=True))
    return [sp.Matrix(rows, columns, lambda i, j: next(symbols)) for _ in range(blocks)]


def _flat(blocks: list[sp.Matrix]) -> tuple[sp.Symbol, ...]:
    return tuple(entry for block in blocks for entry in block)


def difference(kernel: str, name: str, stages: dict | None = None, **sizes: int) -> sp.Matrix:
    """`matrix_form` (or ``stages``) minus `elementwise` for one matrix: zero if both are right.

    One sequence and one head; ``sizes`` are n, D and d. The numerator is expanded, nothing rounded.
    """
    by_entry = elementwise(kernel, N=1, H=1, **sizes)
    _, rows, columns, _, width = by_entry.sizes
    value = sp.Matrix(rows, columns, by_entry.data["X"])
    Q, K, V = (sp.Matrix(columns, width, by_entry.weights[letter]) for letter in "QKV")
    O = sp.Matrix(by_entry.weights["O"])
    values = {n: rows, D: columns, d: width, X: value, W["Q"]: Q, W["K"]: K, W["V"]: V, w_O: O}
    values |= {S: attention(kernel, value * Q, value * K), u: value * V * O}
    values[r] = values[S] * values[u] - sp.Matrix(by_entry.data["y"])
    stages = stages or matrix_form(kernel)
    values[A] = _at(stages["S"], values)
    values[Gamma] = _at(stages["C"], values)
    values[P_row] = sp.diag(*(values[Gamma] * sp.ones(rows, 1)))
    values[P_col] = sp.diag(*(values[Gamma].T * sp.ones(rows, 1)))
    gap = _at(stages[name], values) - sp.Matrix(columns, width, by_entry.gradient[name])
    return gap.applyfunc(_vanishing)


def _vanishing(expression: sp.Expr) -> sp.Expr:
    """Zero if the expression is: exponentials become letters, and a rational function is left."""
    exponentials = sorted(expression.atoms(sp.exp), key=str)
    letters = {e: sp.Dummy(f"e_{i}", positive=True) for i, e in enumerate(exponentials)}
    return sp.expand(sp.numer(sp.together(expression.xreplace(letters))))


# -- torch code ----------------------------------------------------------------------------------


class _Printer(TorchPrinter):
    """SymPy's printer for torch, with transposes that take batches and constants in float64."""

    def _print_Transpose(self, expression: sp.Expr) -> str:
        return f"({self._print(expression.arg)}).mT"

    def _print_OneMatrix(self, expression: sp.Expr) -> str:
        sizes = ", ".join(map(self._print, expression.shape))
        return f"torch.ones({sizes}, dtype=torch.float64)"

    def _print_Pow(self, expression: sp.Expr) -> str:
        # torch.sqrt and torch.pow want tensors, and these bases are numbers
        if expression.base.is_number or expression.base == d:
            return f"({self._print(expression.base)})**({self._print(expression.exp)})"
        return super()._print_Pow(expression)


def _printed(expression: sp.Basic) -> str:
    return _Printer().doprint(expression)


FORWARD = {
    "softmax": """\
    C = Q @ K.mT / d**0.5
    S = torch.exp(C) / torch.exp(C).sum(-1, keepdim=True)""",
    "gaussian": """\
    S = torch.exp(-(Q[..., :, None, :] - K[..., None, :, :]).square().sum(-1) / (2 * d**0.5))""",
}

#: The layer around the derived expressions: what they are functions of, and the sum over sequences.
TEMPLATE = """\
def gradient(X, y, W_Q, W_K, W_V, w_O):
    n, d = X.shape[-2], W_Q.shape[-1]
    Q, K, u = X @ W_Q, X @ W_K, X @ W_V @ w_O
{forward}
    r = (S @ u).sum(-4, keepdim=True) - y
    A = {S}
    Gamma = {C}
    P_row, P_col = (torch.diag_embed(Gamma.sum(axis)) for axis in (-1, -2))
    by_Q = {Q}
    by_K = {K}
    by_V = {V}
    return [by_W.sum(-3) for by_W in (by_Q, by_K, by_V)]
"""


def source(kernel: str, stages: dict[str, sp.MatrixExpr] | None = None) -> str:
    """The torch code of `matrix_form` (or of the given ``stages``), for any sizes and batches."""
    printed = {name: _printed(e) for name, e in (stages or matrix_form(kernel)).items()}
    return TEMPLATE.format(forward=FORWARD[kernel], **printed)


def generated(kernel: str, stages: dict[str, sp.MatrixExpr] | None = None) -> Gradient:
    """That code as a function of weights and problem."""
    run = _run(source(kernel, stages))

    def gradient(weights: AttentionWeights, problem: Problem) -> dict[str, torch.Tensor]:
        # runs, heads, sequences, then matrices
        Q, K, V = (getattr(weights, name).unsqueeze(-3) for name in "QKV")
        X, y = problem.X.unsqueeze(-4), problem.y[..., None, :, :, None]
        return dict(zip("QKV", run(X, y, Q, K, V, weights.O[..., None, :, None]), strict=True))

    return gradient


def _run(code: str) -> Callable:
    names = {"torch": torch}
    exec(code, names)  # our own text, printed a moment ago
    return names["gradient"]


# -- attention that selects ------------------------------------------------------------------------


@dataclass(frozen=True)
class Selected:
    """One sequence's loss in the entries of W and u, and its derivative by each of them.

    ``X`` (n, D), ``W`` (D, D), ``u`` (D, 1) hold symbols, ``y`` is the label; the first token asks.
    ``gradient`` has one matrix of expressions for "W" and one for "u".
    """

    X: sp.Matrix
    W: sp.Matrix
    u: sp.Matrix
    y: sp.Symbol
    loss: sp.Expr
    gradient: dict[str, sp.Matrix]

    def compile(self) -> Callable[..., dict[str, torch.Tensor]]:
        """The gradients as functions of numbers X (n, D), y, W (D, D) and u (D)."""
        symbols = (list(self.X), self.y, list(self.W), list(self.u))
        run = sp.lambdify(symbols, list(self.gradient.values()), "numpy")

        def gradient(X: torch.Tensor, y: float, W: torch.Tensor, u: torch.Tensor) -> dict:
            found = run(X.flatten().tolist(), float(y), W.flatten().tolist(), u.tolist())
            return dict(zip(self.gradient, map(torch.as_tensor, found), strict=True))

        return gradient


def selection(ell: str, n: int, D: int) -> Selected:
    r"""The loss :math:`\ell(y\,u^\top X^\top\mathrm{softmax}(XWz))` of one sequence, differentiated.

    Knows no rule but the chain rule for numbers. See :doc:`/vasudeva2024/sparsity`.

    Raises
    ------
    ValueError : for a loss other than the two.
    """
    _validate.one_of("ell", ell, ("logistic", "exponential"))
    X, W = (sp.Matrix(_entries(name, 1, rows, D)[0]) for name, rows in (("X", n), ("W", D)))
    u, y = sp.Matrix(sp.symbols(f"u_1:{D + 1}", real=True)), sp.Symbol("y", real=True)
    f = y * (u.T * X.T * row("softmax", X * W * X[0, :].T))[0]
    loss = sp.exp(-f) if ell == "exponential" else sp.log(1 + sp.exp(-f))
    by = {"W": W, "u": u}
    return Selected(X, W, u, y, loss, {name: M.applyfunc(loss.diff) for name, M in by.items()})


def selected_pull(n: int, a: int) -> sp.Matrix:
    r"""The derivative of f by the logits, less the form without cancellation: zero, (n, 1).

    :math:`\partial f/\partial h = (\mathrm{diag}\,\varphi - \varphi\varphi^\top)\gamma` for
    :math:`f = \gamma\cdot\varphi`, and the form is :math:`\varphi_t\sum_\tau q_\tau - q_t` with
    :math:`q_t = \varphi_t(\gamma_a - \gamma_t)`, for any token a.
    """
    phi, J = jacobian("softmax", n)
    gamma = sp.Matrix(sp.symbols(f"gamma_1:{n + 1}", real=True))
    q = sp.Matrix([phi[t] * (gamma[a] - gamma[t]) for t in range(n)])
    return (J.T * gamma - (phi * sum(q) - q)).applyfunc(sp.simplify)


# -- the encoder -----------------------------------------------------------------------------------

#: The activations of `models.encoder`, as SymPy differentiates them.
ACTIVATIONS = {"relu": lambda z: sp.Max(z, 0), "tanh": sp.tanh}


@dataclass(frozen=True)
class Encoded:
    """One sequence's loss in the entries of an encoder's weights, and its derivative by each.

    ``weights`` has the symbols of "Q", "K", "V" (D, d) and "O" (d, 1), ``gradient`` expressions of
    the same shapes; ``X`` (n, D) holds symbols, ``y``, ``tau_0`` and ``tau_1`` are one each.
    """

    X: sp.Matrix
    y: sp.Symbol
    tau_0: sp.Symbol
    tau_1: sp.Symbol
    weights: dict[str, sp.Matrix]
    loss: sp.Expr
    gradient: dict[str, sp.Matrix]

    def compile(self) -> Callable[..., dict[str, torch.Tensor]]:
        """The gradients as functions of numbers X (n, D), y, tau_0, tau_1 and the four weights."""
        symbols = [list(self.X), self.y, self.tau_0, self.tau_1, *map(list, self.weights.values())]
        run = sp.lambdify(symbols, [list(g) for g in self.gradient.values()], "numpy", cse=True)

        def gradient(X: torch.Tensor, y: float, tau_0: float, tau_1: float, *weights) -> dict:
            flat = (W.flatten().tolist() for W in weights)
            found = run(X.flatten().tolist(), float(y), float(tau_0), float(tau_1), *flat)
            shaped = zip(self.gradient, found, weights, strict=True)
            return {name: torch.tensor(g).to(W).view_as(W) for name, g, W in shaped}

        return gradient


def encoder(activation: str, n: int, D: int, d: int) -> Encoded:
    r"""Half the squared residual of an encoder for one sequence, differentiated entry by entry.

    :math:`f = \tau_1\sum_i w_O^\top\sigma(W_V^\top X^\top\beta_i)` with
    :math:`\beta_i = \mathrm{softmax}(\tau_0XW_KW_Q^\top x_i)`. Knows no rule but the chain rule for
    numbers; keep n, D and d below four. See :doc:`/wu2023/width`.

    Raises
    ------
    ValueError : for an activation that there is not.
    """
    _validate.one_of("activation", activation, ACTIVATIONS)
    X = sp.Matrix(_entries("x", 1, n, D)[0])
    y, tau_0, tau_1 = sp.symbols("y tau_0 tau_1", real=True)
    weights = {name: sp.Matrix(_entries(name.lower(), 1, D, d)[0]) for name in "QKV"}
    weights["O"] = sp.Matrix(sp.symbols(f"o:{d}", real=True))
    C = tau_0 * X * weights["Q"] * (X * weights["K"]).T
    S = sp.Matrix.vstack(*(row("softmax", C[i, :].T).T for i in range(n)))
    hidden = (S * X * weights["V"]).applyfunc(ACTIVATIONS[activation])
    loss = (tau_1 * sum(hidden * weights["O"]) - y) ** 2 / 2
    gradient = {name: M.applyfunc(loss.diff) for name, M in weights.items()}
    return Encoded(X, y, tau_0, tau_1, weights, loss, gradient)


# -- linear attention in context -------------------------------------------------------------------


@dataclass(frozen=True)
class Linear:
    """The expected loss of linear attention in the entries of its heads, differentiated by each.

    ``spectrum`` and ``n`` are the symbols of Lambda, which is diagonal, and of the prompt's length;
    ``weights`` has those of "V" (one a head) and, a matrix a head, of "U" or of "K" and "Q".
    ``gradient`` has the same shapes.
    """

    spectrum: list[sp.Symbol]
    n: sp.Symbol
    weights: dict[str, list]
    loss: sp.Expr
    gradient: dict[str, list]


def linear_attention(H: int, D: int, rank: int | None = None) -> Linear:
    r"""The loss :math:`\tfrac12 E(w^\top x - \beta^\top Mx)^2`, from the moments of normal inputs.

    Knows no matrix rule: :math:`E\beta\beta^\top` is summed up from Isserlis' theorem for the n
    pairs, entry by entry, and the loss is differentiated by each weight. ``rank`` is that of
    separate keys and queries; left out, they are merged. See :doc:`/kim2024/merged`.

    Raises
    ------
    ValueError, TypeError : for a size that is no whole number from 1 on.
    """
    H, D = _validate.count("H", H), _validate.count("D", D)
    columns = D if rank is None else _validate.count("rank", rank)
    lam = list(sp.symbols(f"lambda_1:{D + 1}", positive=True))
    count = sp.Symbol("n", positive=True)
    weights = {"V": list(sp.symbols(f"v:{H}", real=True))}
    for letter in "U" if rank is None else "KQ":
        weights[letter] = [sp.Matrix(M) for M in _entries(letter.lower(), H, D, columns)]
    each = weights["U"] if rank is None else map(_outer, weights["K"], weights["Q"])
    M = sum((v * A for v, A in zip(weights["V"], each, strict=True)), sp.zeros(D, D))
    second, first = _second_moment(lam, count), sp.diag(*lam)
    # E (w.x)^2, E (w.x)(beta.M x) and E (beta.M x)^2; the query has E x x^T = diag(lambda)
    loss = sum(lam) / 2 - (first * M * first).trace() + (second * M * first * M.T).trace() / 2
    by = {
        "V": [loss.diff(v) for v in weights["V"]],
        **{L: [A.applyfunc(loss.diff) for A in weights[L]] for L in weights if L != "V"},
    }
    return Linear(lam, count, weights, loss, by)


def _outer(K: sp.Matrix, Q: sp.Matrix) -> sp.Matrix:
    return K * Q.T


def _second_moment(lam: list[sp.Symbol], count: sp.Symbol) -> sp.Matrix:
    r""":math:`E\beta\beta^\top` for tasks of covariance I, :math:`\beta=\frac1n\sum x_ix_i^\top w`.

    Two different pairs are independent; one with itself has the fourth moments
    :math:`E x_ax_cx_cx_b = E x_ax_c E x_cx_b + E x_ax_c E x_cx_b + E x_ax_b E x_c^2` (Isserlis).
    """
    size = len(lam)

    def two(a: int, b: int) -> sp.Expr:
        return lam[a] if a == b else sp.Integer(0)

    def entry(a: int, b: int) -> sp.Expr:
        apart = sum(two(a, c) * two(c, b) for c in range(size))
        same = sum(2 * two(a, c) * two(c, b) + two(a, b) * two(c, c) for c in range(size))
        return ((count - 1) * apart + same) / count

    return sp.Matrix(size, size, entry)
