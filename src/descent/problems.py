"""Data to fit: random instances, real images, and counterexamples by name.

A problem is ``N`` sequences of ``n`` tokens in ``D`` dimensions with one real label per token.
Introduced in :doc:`/song2024/values`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from . import _validate


@dataclass(frozen=True)
class Problem:
    """Tokens and labels; leading batch dimensions hold independent problems.

    Parameters
    ----------
    X : tokens (..., N, n, D).
    y : labels (..., N, n), one per token as in Song et al. 2024, section 3.
    ambient : the dimension that the tokens live in, where X holds their coordinates in a subspace
        (`gaussian_in_span`, `descent.span`); D if left out. Weights are drawn at its scale.

    Raises
    ------
    ValueError : if a shape does not fit, a dimension is empty or an entry is not finite.
    """

    X: Float[Tensor, "*b N n D"]
    y: Float[Tensor, "*b N n"]
    ambient: int | None = None

    def __post_init__(self) -> None:
        if self.X.ndim < 3:
            raise ValueError(f"X must have shape (..., N, n, D), got {tuple(self.X.shape)}")
        for name, size in zip(("N", "n", "D"), self.X.shape[-3:], strict=True):
            _validate.count(name, size)
        if self.y.shape != self.X.shape[:-1]:
            raise ValueError(
                f"y has shape {tuple(self.y.shape)}, but X has shape {tuple(self.X.shape)}: "
                f"expected one label per token, {tuple(self.X.shape[:-1])}"
            )
        if self.y.dtype != self.X.dtype:
            raise ValueError(f"y is {self.y.dtype}, but X is {self.X.dtype}: convert one of them")
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

    The draw is made on the CPU, so that a seed means the same problem on every device.
    """
    for name, value in (("N", N), ("n", n), ("D", D)):
        _validate.count(name, value)
    generator = torch.Generator().manual_seed(_validate.count("seed", seed, least=0))
    X = torch.randn(N, n, D, generator=generator, dtype=torch.float64)
    y = torch.randn(N, n, generator=generator, dtype=torch.float64)
    return Problem(X, y).to(device=_validate.device(device), dtype=dtype)


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

    See :doc:`/foundations/span`.
    """
    m, D = _validate.count("N", N) * _validate.count("n", n), _validate.count("D", D)
    if D < m:
        return gaussian(N, n, D, seed, dtype=dtype, device=device)
    generator = np.random.default_rng(_validate.count("seed", seed, least=0))
    L = np.tril(generator.standard_normal((m, m)), -1)
    np.fill_diagonal(L, np.sqrt(generator.chisquare(D - np.arange(m))))
    X = torch.from_numpy(L).reshape(N, n, m)
    y = torch.from_numpy(generator.standard_normal((N, n)))
    return Problem(X, y, ambient=D).to(device=_validate.device(device), dtype=dtype)


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
    """
    from sklearn.datasets import load_digits  # takes a second to import: only who asks for it pays

    _validate.count("N", N)
    _validate.one_of("patch", patch, (1, 2, 4, 8))
    images, target = load_digits(return_X_y=True)
    if N > len(images):
        raise ValueError(f"N must be at most {len(images)}, the number of images, got {N}")
    generator = torch.Generator().manual_seed(_validate.count("seed", seed, least=0))
    chosen = torch.randperm(len(images), generator=generator)[:N]
    pixels = torch.from_numpy(images).reshape(-1, 8, 8)[chosen] / 16
    X = pixels.unfold(1, patch, patch).unfold(2, patch, patch).reshape(N, -1, patch**2)
    n = X.shape[1]
    if positions:
        X = torch.cat([X, torch.eye(n, dtype=X.dtype).expand(N, n, n)], -1)
    y = (2.0 * (torch.from_numpy(target)[chosen] % 2) - 1)[:, None].expand(N, n)
    return Problem(X, y.to(X.dtype)).to(device=_validate.device(device), dtype=dtype)
