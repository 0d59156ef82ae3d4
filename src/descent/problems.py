"""Data to fit: random instances, real images, and counterexamples by name.

A problem is ``N`` sequences of ``n`` tokens in ``D`` dimensions with one real label per token.
Introduced in :doc:`/song2024/values`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from . import _memory, _validate, draws
from ._errors import error


@dataclass(frozen=True)
class Problem:
    """Tokens and labels; leading batch dimensions hold independent problems.

    Parameters
    ----------
    X : tokens (..., N, n, D).
    y : labels (..., N, n), one per token as in Song et al. 2024, section 3, or (..., N), one per
        sequence, as in Vasudeva et al. 2024.
    ambient : the dimension that the tokens live in, where X holds their coordinates in a subspace
        (`gaussian_in_span`, `descent.span`); D if left out. Weights are drawn at its scale.

    Raises
    ------
    ValueError : if a shape does not fit, a dimension is empty or an entry is not finite.
    TypeError : for what is no array of real numbers. Lists, arrays of numpy and whole numbers
        become float64.

    Examples
    --------
    >>> import numpy as np
    >>> from descent.problems import Problem
    >>> problem = Problem(np.ones((5, 3, 8)), np.zeros((5, 3)))
    >>> problem.N, problem.n, problem.D
    (5, 3, 8)
    >>> Problem(np.ones((5, 3, 8)), np.zeros(3))
    Traceback (most recent call last):
    ValueError: y has shape (3,), but X has shape (5, 3, 8): expected one label per token, (5, 3), ...
    """

    X: Float[Tensor, "*b N n D"]
    y: Float[Tensor, "*b N n"] | Float[Tensor, "*b N"]
    ambient: int | None = None

    def __post_init__(self) -> None:
        for name in ("X", "y"):
            object.__setattr__(self, name, _validate.tensor(name, getattr(self, name)))
        if self.X.ndim < 3:
            found = f"X must have shape (..., N, n, D), got {tuple(self.X.shape)}"
            raise error(ValueError, found, "shape (..., N, n, D)")
        for name, size in zip(("N", "n", "D"), self.X.shape[-3:], strict=True):
            _validate.count(name, size)
        if self.y.shape not in (self.X.shape[:-1], self.X.shape[:-2]):
            found = f"y has shape {tuple(self.y.shape)}, but X has shape {tuple(self.X.shape)}"
            raise error(
                ValueError,
                found,
                f"expected one label per token, {tuple(self.X.shape[:-1])}, "
                f"or one per sequence, {tuple(self.X.shape[:-2])}",
            )
        _validate.like("y", self.y, self.X)
        _validate.finite("X", self.X, "drop or impute these tokens")
        _validate.finite("y", self.y, "drop or impute these labels")
        ambient = self.D if self.ambient is None else _validate.count("ambient", self.ambient)
        object.__setattr__(self, "ambient", ambient)

    @property
    def tokens(self) -> Float[Tensor, "*b m D"]:
        """All tokens stacked, (..., m, D) with m = N n."""
        return self.X.flatten(-3, -2)

    @property
    def N(self) -> int:
        return self.X.shape[-3]

    @property
    def n(self) -> int:
        return self.X.shape[-2]

    @property
    def D(self) -> int:
        return self.X.shape[-1]

    def to(self, *args: object, **kwargs: object) -> "Problem":
        """The same problem on another device or in another precision, as ``Tensor.to``."""
        return Problem(self.X.to(*args, **kwargs), self.y.to(*args, **kwargs), self.ambient)


def gaussian(
    N: int,
    n: int,
    D: int,
    seed: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
) -> Problem:
    """Tokens and labels with independent standard normal entries.

    A seed means the same problem on every device, and more sequences (N) leave the first ones as
    they are (see `descent.draws`).

    Raises
    ------
    ValueError, TypeError : for a size or a seed that is no whole number in its range.

    Examples
    --------
    >>> few, more = gaussian(2, 3, 4, seed=0), gaussian(9, 3, 4, seed=0)
    >>> bool((more.X[:2] == few.X).all())
    True
    """
    for name, value in (("N", N), ("n", n), ("D", D)):
        _validate.count(name, value)
    _memory.room("the tokens", N, n, D)
    X, y = draws.normal(seed, "X", (N, n, D)), draws.normal(seed, "y", (N, n))
    return Problem(X, y).to(device=_validate.device(device), dtype=_validate.dtype(dtype))


def gaussian_in_span(
    N: int,
    n: int,
    D: int,
    seed: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
) -> Problem:
    r"""What `gaussian` gives, drawn in the span of the tokens: D = 10**9 costs what D = N n does.

    With m = N n <= D tokens, X = L Q^T for a lower triangular L (m, m) with positive diagonal and
    Q (D, m) with orthonormal columns. Bartlett: the entries of L are independent, those below the
    diagonal standard normal, the squares of those on it chi-squared with D, D - 1, ..., D - m + 1
    degrees of freedom; and L is independent of Q. A normal weight W is normal in every basis, so
    Q^T W is drawn like W, with the variance that D asks for: `ambient` keeps D. Losses are then
    distributed as those of `gaussian`, exactly. With D < N n it is `gaussian`.

    Raises
    ------
    ValueError, TypeError : for a size or a seed that is no whole number in its range.

    See :doc:`/foundations/span`.
    """
    m, D = _validate.count("N", N) * _validate.count("n", n), _validate.count("D", D, below=2**62)
    if D < m:
        return gaussian(N, n, D, seed, dtype=dtype, device=device)
    _memory.room("the tokens in their span", m, m)
    lengths = draws.chi_square(seed, "L_ii^2", D - torch.arange(m)).sqrt()
    L = draws.normal(seed, "L", (m, m)).tril(-1) + lengths.diag()
    X, y = L.reshape(N, n, m), draws.normal(seed, "y", (N, n))
    return Problem(X, y, ambient=D).to(
        device=_validate.device(device), dtype=_validate.dtype(dtype)
    )


def digits(
    N: int,
    seed: int,
    *,
    patch: int = 4,
    positions: bool = False,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
) -> Problem:
    """Handwritten digits cut into square patches, each patch a token.

    ``N`` images of 8 x 8 pixels from scikit-learn's copy of the UCI set (offline), pixels scaled to
    [0, 1]. A token is one ``patch x patch`` square, so ``n = (8 / patch)**2`` and
    ``D = patch**2``. Every token of an image bears the image's label: +1 for an odd digit, -1 for
    an even one. With ``positions=True`` a one-hot code of the patch's place is appended
    (``D`` grows by ``n``), so that blank patches of one image stop being the same token.

    Raises
    ------
    ValueError, TypeError : for more sequences than there are images, or a patch that does not divide them.
    """
    from sklearn.datasets import load_digits  # takes a second to import: only who asks for it pays

    _validate.count("N", N)
    _validate.one_of("patch", patch, (1, 2, 4, 8))
    positions = _validate.flag("positions", positions)
    images, target = load_digits(return_X_y=True)
    if N > len(images):
        raise error(
            ValueError,
            f"N must be at most {len(images)}, the number of images, got {N}",
            f"be at most {len(images)}, the number of images",
        )
    chosen = draws.permutation(seed, "digits", len(images))[:N]
    pixels = torch.from_numpy(images).reshape(-1, 8, 8)[chosen] / 16
    X = pixels.unfold(1, patch, patch).unfold(2, patch, patch).reshape(N, -1, patch**2)
    n = X.shape[1]
    if positions:
        X = torch.cat([X, torch.eye(n, dtype=X.dtype).expand(N, n, n)], -1)
    y = (2.0 * (torch.from_numpy(target)[chosen] % 2) - 1)[:, None].expand(N, n)
    return Problem(X, y.to(X.dtype)).to(
        device=_validate.device(device), dtype=_validate.dtype(dtype)
    )


def planted(N: int, n: int, D: int, seed: int) -> tuple[Problem, Float[Tensor, " D"]]:
    """Sequences with one optimal token each, all others of equal score; and the decoder u.

    Tokens are N(0, I / D) with first coordinate 0, labels +1 or -1 at random. One token of each
    sequence, at a random place, gets the label as its first coordinate, which u reads: its score
    is 1, that of all others 0. After Vasudeva et al. 2024, whose generator we have not seen.

    Raises
    ------
    ValueError, TypeError : for a size or a seed that is no whole number in its range.

    See :doc:`/vasudeva2024/logistic`.
    """
    for name, value, least in (("N", N, 1), ("n", n, 2), ("D", D, 2)):
        _validate.count(name, value, least)
    _memory.room("the tokens", N, n, D)
    X, y = draws.normal(seed, "X", (N, n, D)) / D**0.5, _signs(seed, N)
    place = (n * draws.uniform(seed, "place", (N,))).long()
    X[..., 0] = 0
    X[torch.arange(N), place, 0] = y
    return Problem(X, y), torch.eye(D, dtype=torch.float64)[0]


def pairs(differences: Float[Tensor, "N k"], gap: float = 1.0) -> tuple[Problem, Tensor]:
    """Sequences of two tokens with given differences a_i, and a decoder with equal gaps of score.

    The first token is the same unit vector e in all sequences, orthogonal to all differences; it
    asks, and has score 0. The second is e + a_i, of score ``gap``. So A_i is a_i beside the query
    e, and W is what its product W e with the query is: a vector of k dimensions that matter.

    Raises
    ------
    ValueError : where no decoder gives all the same gap.
    """
    a, gap = _validate.matrix("differences", differences), _validate.positive("gap", gap)
    a = _validate.finite("differences", a.to(torch.float64), "give finite differences")
    if a.ndim != 2:
        found = f"differences must be one matrix (N, k), got shape {tuple(a.shape)}"
        raise error(ValueError, found, "one matrix (N, k)")
    N, k = a.shape
    u = torch.linalg.pinv(a) @ a.new_full((N,), gap)
    if float((a @ u - gap).abs().max()) > 1e-9 * gap:
        raise error(
            ValueError,
            f"no decoder gives all {N} sequences the gap {gap}",
            "take at most as many differences as dimensions",
        )
    X = a.new_zeros(N, 2, k + 1)
    X[..., k], X[:, 1, :k] = 1, a
    return Problem(X, a.new_ones(N)), torch.cat([u, a.new_zeros(1)])


def trap(s: float = 3.0, alpha: float = 45.0) -> tuple[Problem, Tensor]:
    """Two sequences of two tokens on which descent may go the wrong way for ever.

    `pairs` with a_1 = (1, 0) and a_2 = s (-cos alpha, sin alpha), alpha in degrees. Both can be
    selected; but where s cos alpha > 1 and W starts far along a_1, the second sequence has no say.

    Raises
    ------
    ValueError, TypeError : for numbers out of range.

    See :doc:`/vasudeva2024/traps`.
    """
    s, alpha = _validate.positive("s", s), _validate.real("alpha", alpha)
    if not 0 < alpha < 90:
        raise error(
            ValueError,
            f"alpha must lie between 0 and 90 degrees, got {alpha}",
            "lie between 0 and 90 degrees",
        )
    angle = math.radians(alpha)
    a = [[1, 0], [-s * math.cos(angle), s * math.sin(angle)]]
    return pairs(torch.tensor(a, dtype=torch.float64))


def orthonormal_tokens(N: int, n: int, D: int, seed: int) -> tuple[Problem, Tensor]:
    """All N n tokens orthonormal, the second of each optimal; and a decoder u with scores 1 and 0.

    The attention SVM has a closed form here (`descent.margin.orthonormal`).

    Raises
    ------
    ValueError, TypeError : for a size or a seed that does not fit, or fewer dimensions than tokens.
    """
    m = _validate.count("N", N) * _validate.count("n", n, least=2)
    _memory.room("the tokens", m, _validate.count("D", D, least=m))
    X = torch.linalg.qr(draws.normal(seed, "X", (D, m)))[0].mT.unflatten(0, (N, n))
    y = _signs(seed, N)
    return Problem(X, y), (y[:, None] * X[:, 1]).sum(0)


def unit_tokens(N: int, n: int, D: int, seed: int) -> tuple[Problem, Tensor]:
    """Uniform tokens on the sphere, random labels, and a random unit decoder: unequal scores.

    Raises
    ------
    ValueError, TypeError : for a size or a seed that is no whole number in its range.
    """
    for name, value, least in (("N", N, 1), ("n", n, 2), ("D", D, 1)):
        _validate.count(name, value, least)
    _memory.room("the tokens", N, n, D)
    X, u = draws.normal(seed, "X", (N, n, D)), draws.normal(seed, "u", (D,))
    X, u = (A / torch.linalg.vector_norm(A, dim=-1, keepdim=True) for A in (X, u))
    return Problem(X, _signs(seed, N)), u


def _signs(seed: int, N: int) -> Float[Tensor, " N"]:
    return 2 * (draws.uniform(seed, "y", (N,)) < 0.5).double() - 1


def sequences(N: int, n: int, D: int, seed: int, *, length: float | None = None) -> Problem:
    """Standard normal tokens, and one standard normal label a sequence (Wu et al. 2023, section 5).

    With ``length`` every token is scaled to that length. Introduced in :doc:`/wu2023/scaling`.

    Raises
    ------
    ValueError, TypeError : for a size or a seed that is no whole number in its range.
    """
    for name, value in (("N", N), ("n", n), ("D", D)):
        _validate.count(name, value)
    X = draws.normal(seed, "X", (N, n, D))
    if length is not None:
        norms = torch.linalg.vector_norm(X, dim=-1, keepdim=True)
        X = _validate.positive("length", length) * X / norms
    return Problem(X, draws.normal(seed, "y", (N,)))


def equal_means(N: int, D: int, seed: int) -> Problem:
    """Sequences of two tokens c + v_j and c - v_j: all have the mean c, and differ all the same.

    c, the v_j and one label a sequence are standard normal. Uniform attention cannot tell these
    sequences apart. Introduced in :doc:`/wu2023/scaling`.

    Raises
    ------
    ValueError, TypeError : for a size or a seed that is no whole number in its range.
    """
    for name, value in (("N", N), ("D", D)):
        _validate.count(name, value)
    c, v = draws.normal(seed, "c", (1, 1, D)), draws.normal(seed, "v", (N, 1, D))
    return Problem(torch.cat([c + v, c - v], -2), draws.normal(seed, "y", (N,)))
