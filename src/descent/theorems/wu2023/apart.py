"""Theorems of :doc:`/wu2023/apart`: which sequences an encoder of any width can tell apart."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import _validate, spectra
from ...models.encoder import arc_cosine, pooled_kernel
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report
from ._encoder import EncoderStart

#: Two directions are one if the sine of their angle is below this.
ONE_LINE = 1e-7
#: Angles, sizes and attention above this share are seen in an eigenvalue, where cubes of them enter.
GENERAL = 1e-4


@dataclass(frozen=True)
class Attended:
    r"""What the tokens of N sequences see, :math:`u_{ji}`; ``*b`` are whatever is tried at once.

    ValueError and TypeError for what is no array (..., N, n, D) of finite numbers.
    """

    u: Float[Tensor, "*b N n D"]

    def __post_init__(self) -> None:
        u = _validate.finite("u", _validate.matrix("u", self.u, 3), "give what the tokens see")
        object.__setattr__(self, "u", u)

    @cached_property
    def length(self) -> Float[Tensor, "*b Nn"]:
        """Lengths of all of them in one row."""
        return torch.linalg.vector_norm(self.u.flatten(-3, -2), dim=-1)

    @cached_property
    def unit(self) -> Float[Tensor, "*b Nn D"]:
        """Their directions."""
        return self.u.flatten(-3, -2) / torch.where(self.length > 0, self.length, 1)[..., None]

    @cached_property
    def line(self) -> Int[Tensor, "*b Nn"]:
        """For each the first that lies on its line: the name of the line."""
        cosine = (self.unit @ self.unit.mT)[..., None]
        off = torch.linalg.vector_norm(
            self.unit[..., :, None, :] - cosine * self.unit[..., None, :, :], dim=-1
        )
        return (off < ONE_LINE).to(torch.uint8).argmax(-1)

    @cached_property
    def sums(self) -> Float[Tensor, "*b NnD N"]:
        r"""Both conditions of the theorem as one matrix: M c = 0.

        A row for each line, with :math:`\sum_{i: u_{ji}\in\mathcal R}\|u_{ji}\|`, and a row for
        each coordinate of :math:`\sum_iu_{ji}`.
        """
        N, n = self.u.shape[-3:-1]
        owner = _owners(self.u).expand(self.line.shape)
        lines = self.length.new_zeros(*self.line.shape, N)
        lines = lines.flatten(-2).scatter_add(-1, self.line * N + owner, self.length)
        return torch.cat([lines.unflatten(-1, (N * n, N)), self.u.sum(-2).mT], -2)

    @cached_property
    def told(self) -> Float[Tensor, "*b"]:
        """The smallest of the N singular values of `sums`."""
        return spectra.sigma_min(self.sums.mT)

    @cached_property
    def angles(self) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        r"""Smallest and largest eigenvalue of :math:`E|w^\top e_{\mathcal R}||w^\top e_{\mathcal R'}|`.

        Over the lines; vectors that are not the first on their line count as lines of their own,
        orthogonal to all others in this product, and change neither.
        """
        both = arc_cosine(self.unit, self.unit)[0] + arc_cosine(self.unit, -self.unit)[0]
        size = both.shape[-1]
        first = (self.line == torch.arange(size, device=both.device)) & (self.length > 0)
        kept = first[..., :, None] & first[..., None, :]
        Q = torch.where(kept, 2 * both, torch.eye(size).to(both))
        values = torch.linalg.eigvalsh(Q)
        return values[..., 0].clamp_min(0), values[..., -1]

    @cached_property
    def pooled(self) -> Float[Tensor, "*b"]:
        r""":math:`\lambda_{\mathrm{pool}}`."""
        return torch.linalg.eigvalsh(pooled_kernel(self.u))[..., 0]

    @cached_property
    def blur(self) -> Float[Tensor, "*b"]:
        """What an eigenvalue of the pooled kernel is off by: its largest entries, rounded.

        The angle of two vectors that are nearly parallel is known to the root of epsilon, and enters
        the kernel by its cube.
        """
        N, n = self.u.shape[-3:-1]
        return 1e-14 * N * n * self.length.square().sum(-1)


@theorem(
    "how-far-apart",
    title="How far apart",
    box="prop-how-far-apart",
    standing=Standing.PROVED,
    start=Attended,
    uses=("thm-apart",),
)
def how_far_apart(at: Attended) -> Report:
    """The eigenvalue between two multiples of the square of a singular value."""
    low, high = (angle * at.told.square() / 4 for angle in at.angles)
    return Report(
        hypotheses=(),
        promises=(
            Promise("λ_min(Q) σ_min²(M) / 4 ≤ λ_pool", lambda _: (low, at.pooled + at.blur, ())),
            Promise("λ_pool ≤ λ_max(Q) σ_min²(M) / 4", lambda _: (at.pooled, high + at.blur, ())),
        ),
        constants={"λ_pool": at.pooled, "σ_min(M)": at.told},
    )


def _owners(X: Float[Tensor, "*b N n D"]) -> Int[Tensor, " Nn"]:
    """Which sequence each token is of."""
    N, n = X.shape[-3:-1]
    return torch.arange(N, device=X.device).repeat_interleave(n)


def across(X: Float[Tensor, "*b N n D"]) -> Float[Tensor, "*b"]:
    """The smallest sine of an angle between tokens of different sequences; 0 for a zero token."""
    length = torch.linalg.vector_norm(X, dim=-1, keepdim=True)
    e = (X / torch.where(length > 0, length, 1)).flatten(-3, -2)
    cosine = (e @ e.mT)[..., None]
    sine = torch.linalg.vector_norm(e[..., :, None, :] - cosine * e[..., None, :, :], dim=-1)
    owner = _owners(X)
    sine = torch.where((length.flatten(-3) > 0)[..., None], sine, 0.0)
    return torch.where(owner[:, None] == owner, torch.inf, sine).amin((-2, -1))


@theorem(
    "told-apart-by-attention",
    title="Who can be told apart",
    box="thm-apart",
    standing=Standing.PROVED,
    start=EncoderStart,
)
def told_apart_by_attention(at: EncoderStart) -> Report:
    """Part 3: almost all queries and keys tell sequences apart that share no line."""
    X, D = at.problem.X, at.problem.D
    plane = torch.linalg.svdvals(X)
    plane = plane[..., 1] / plane[..., 0] if plane.shape[-1] > 1 else 0 * plane[..., 0]
    sine, known = across(X), Attended(at.attended).blur
    zero = torch.full_like(sine, ONE_LINE)
    sizes = torch.linalg.vector_norm(X, dim=(-2, -1))
    uneven = (at.forward.S - 1 / at.problem.n).abs().amax((-2, -1)).amin(-1)
    position = sine * plane.amin(-1) * uneven * sizes.amin(-1) / sizes.amax(-1)
    position = torch.where(at.pooled > known, 1.0, position)
    return Report(
        hypotheses=(
            Inequality("no tokens of two sequences on one line", zero, sine, strict=True),
            Inequality("each sequence spans a plane", zero, plane.amin(-1), strict=True),
            Inequality("D ≤ d", sine.new_tensor(float(D)), sine.new_tensor(float(at.model.d))),
            Inequality(
                "λ_pool is seen, or float64 sees tokens and attention in general position",
                torch.full_like(position, GENERAL),
                position,
            ),
        ),
        promises=(Promise("0 < λ_pool, almost surely", lambda _: (known, at.pooled, ())),),
        constants={"λ_pool": at.pooled},
    )


@theorem(
    "wu2023-wide-features",
    title="Wide features",
    box="lem-wide-features",
    standing=Standing.PROVED,
    start=EncoderStart,
)
def wide_features(at: EncoderStart) -> Report:
    r"""A width at which :math:`\alpha^2` is at least half of its limit, but for a small chance."""
    total = at.seen.square().sum(-1).square()
    wide = 6 * total / (at.chance * at.pooled.square())
    d, tau_1 = at.model.d, at.model.tau_1(at.problem)
    half = tau_1**2 * d * at.variance("V") * at.pooled / 2
    return Report(
        hypotheses=(
            at.drawn,
            Inequality("0 < λ_pool", Attended(at.attended).blur, at.pooled, strict=True),
            Inequality("6 (Σ U_j²)² / (chance λ_pool²) ≤ d", wide, torch.full_like(wide, float(d))),
        ),
        promises=(Promise("τ_1² d ν λ_pool / 2 ≤ α²", lambda _: (half, at.alpha.square(), ())),),
        constants={"λ_pool": at.pooled, "α": at.alpha},
    )


@theorem(
    "wu2023-first-tokens",
    title="The kernel of first tokens",
    box="prop-first-tokens",
    standing=Standing.PROVED,
    start=EncoderStart,
)
def first_tokens(at: EncoderStart) -> Report:
    r"""Its smallest eigenvalue is at least a quarter of that of :math:`\Phi\Phi^\top`."""
    Phi = at.attended[..., 0, :]
    gram = torch.linalg.eigvalsh(Phi @ Phi.mT)
    value = torch.linalg.eigvalsh(arc_cosine(Phi, Phi)[0])[..., 0]
    blur = 1e-14 * at.problem.N * gram[..., -1]
    return Report(
        hypotheses=(),
        promises=(
            Promise("λ_min(ΦΦ^T) / 4 ≤ λ_0", lambda _: (gram[..., 0] / 4, value + blur, ())),
        ),
        constants={"λ_0": value},
    )


@theorem(
    "wu2023-alpha-bound-printed",
    title="Lemma 15 as printed",
    box="prop-permuted",
    standing=Standing.REFUTED,
    start=EncoderStart,
)
def alpha_bound_printed(at: EncoderStart) -> Report:
    r""":math:`\alpha` bounded by first tokens alone; false where the pooled kernel is singular."""
    _validate.one_of("activation", at.model.activation, ("relu",))
    Phi = at.attended[..., 0, :]
    least = torch.linalg.eigvalsh(arc_cosine(Phi, Phi)[0])[..., 0]
    claimed = at.model.tau_1(at.problem) ** 2 * at.model.d * at.variance("V") * least / 4
    known = 1e-14 * math.prod(at.attended.shape[-3:-1]) * at.seen.square().sum(-1)
    return Report(
        hypotheses=(Inequality("0 < λ_0", known, least, strict=True),),
        promises=(Promise("τ_1² d ν λ_0 / 4 ≤ α²", lambda _: (claimed, at.alpha.square(), ())),),
        constants={"ν λ_0": at.variance("V") * least, "α": at.alpha},
    )
