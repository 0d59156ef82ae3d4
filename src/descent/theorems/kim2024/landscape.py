"""The theorems of :doc:`/kim2024/landscape`: homotopies, saddles, and what the flow makes of them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ... import _validate
from ..._errors import error
from ...models import InContext, in_context
from ...models.in_context import Moments, Neurons, Population
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report

#: A point is critical in float64 where B^T Sigma_zeta is below this share of its factors.
CRITICAL = 1e-9
#: Second moments, and eigenvalues of a Hessian and zero, are the same within this share of the largest.
TIE = 1e-7


@dataclass(frozen=True)
class LandscapeStart:
    r"""Learned features on a population, and a matrix R that says where a homotopy leads.

    ``R`` : (..., p, k), an end :math:`Rf^\circ`; left out, the one of the steepest descent. The
    features may come from neurons, ``model.features(neurons, population.X)``, or from nowhere.

    ValueError and TypeError as `descent.models.in_context.regress` raises them, and for another
    number of features than true ones.
    """

    h: Float[Tensor, "*r m p"]
    population: Population
    R: Float[Tensor, "*r p k"] | None = None

    def __post_init__(self) -> None:
        p, k = self.at.B.shape[-1], self.at.B.shape[-2]
        if p != k:
            found = f"h has {p} features, and there are {k} true ones"
            raise error(ValueError, found, "give as many, since the theorems speak of these")
        if self.R is not None:
            R = _validate.finite("R", _validate.matrix("R", self.R), "choose another end")
            _validate.shape("R", R, (k, k), f"there are {k} features")

    @cached_property
    def at(self) -> Moments:
        """The moments of the features."""
        return in_context.regress(self.h, self.population)

    @cached_property
    def loss(self) -> Float[Tensor, "*r"]:
        """The least loss, half the trace of the residual's second moment."""
        return self.residual.diagonal(dim1=-2, dim2=-1).sum(-1) / 2

    @cached_property
    def residual(self) -> Float[Tensor, "*r k k"]:
        r""":math:`\Sigma_\zeta`, the second moment of what is left."""
        return self.at.zeta.mT @ self.at.zeta / len(self.population.F)

    @cached_property
    def spectrum(self) -> Float[Tensor, " k"]:
        """The eigenvalues of the true features' second moment, in rising order."""
        return torch.linalg.eigvalsh(self.true)

    @cached_property
    def true(self) -> Float[Tensor, "k k"]:
        r""":math:`\Sigma^\circ`, the second moment of the true features."""
        F = self.population.F
        return F.mT @ F / len(F)

    @cached_property
    def sizes(self) -> Float[Tensor, "*r p"]:
        """The eigenvalues of Sigma, in rising order; the last one is R_1 squared."""
        return torch.linalg.eigvalsh(self.at.Sigma)

    @cached_property
    def pull(self) -> Float[Tensor, "*r k p"]:
        r""":math:`\Sigma_\zeta B`, zero exactly at critical points."""
        return self.residual @ self.at.B

    @cached_property
    def steepest(self) -> Float[Tensor, "*r"]:
        r""":math:`\|\Sigma_\zeta B\|_*`, the sum of its singular values."""
        return torch.linalg.svdvals(self.pull).sum(-1)

    @cached_property
    def end(self) -> Float[Tensor, "*r p k"]:
        """R, or that of the steepest descent."""
        return in_context.steepest(self.at) if self.R is None else self.R.to(self.at.h)

    def along(self, R: Float[Tensor, "*r p k"]) -> tuple[Float[Tensor, "*r"], ...]:
        r"""Slope and curvature of the loss where the homotopy :math:`(1-s)h + sRf^\circ` begins."""
        return in_context.variations(self.at, self.population.F @ R.mT - self.at.h)

    def losses(self, R: Float[Tensor, "*r p k"], s: Float[Tensor, " s"]) -> Float[Tensor, "s *r"]:
        """The loss along the homotopy."""
        s = s.to(self.h).reshape(-1, *[1] * (max(self.h.ndim, R.ndim)))
        moved = in_context.regress((1 - s) * self.h + s * self.population.F @ R.mT, self.population)
        return moved.zeta.square().sum(-1).mean(-1) / 2

    @cached_property
    def escape(self) -> Float[Tensor, "*r p k"]:
        r"""A polar factor of :math:`B^\top`: at a critical point it takes the range of
        :math:`\Sigma_\zeta` to the kernel of B.

        There are many if more than one feature is unlearned; this one has the largest curvature: the
        larger r_j, the shorter the features in its place.
        """
        U, s, V = torch.linalg.svd(self.at.B)
        largest = (self.spectrum[-1] / self.sizes[..., 0].clamp_min(1e-300)).sqrt()
        seen = (s > CRITICAL * largest[..., None]).to(s)[..., None, :]
        left, idle = (torch.eye(s.shape[-1]).to(s) - Q * seen @ Q.mT for Q in (U, V.mT))
        missing = torch.linalg.eigh(left @ self.residual @ left)[1]
        short = torch.linalg.eigh(idle @ in_context._inverse(self.at.Sigma) @ idle)[1]
        return (U * seen @ V).mT + idle @ short @ (left @ missing).mT

    @cached_property
    def unlearned(self) -> Float[Tensor, "*r k"]:
        r"""The eigenvalues of :math:`\Sigma_\zeta`: at a critical point the r_j that are not learned,
        and zeros."""
        return torch.linalg.eigvalsh(self.residual)

    @cached_property
    def learned(self) -> Float[Tensor, "*r k"]:
        r"""The eigenvalues of :math:`B\Sigma B^\top`, which with the residual make those of f°."""
        return torch.linalg.eigvalsh(self.at.B @ self.at.Sigma @ self.at.B.mT)

    @cached_property
    def bends(self) -> Float[Tensor, "*r mp"]:
        """The eigenvalues of the loss's Hessian by the features at every input, automatic and rising.

        The features are mixed first such that Sigma is the identity, which changes no sign.
        ValueError where Sigma is singular, since the loss has no second derivative there.
        """
        in_context._invertible(self.at)
        values, vectors = torch.linalg.eigh(self.at.Sigma)
        white = self.at.h @ (vectors / values.clamp_min(1e-300).sqrt()[..., None, :])
        F = self.population.F

        def loss(v: Tensor) -> Tensor:
            return len(F) * _half(v.reshape(white.shape[-2:]), F)

        flat = white.reshape(-1, white.shape[-2] * white.shape[-1])
        found = [torch.linalg.eigvalsh(torch.func.hessian(loss)(v)) for v in flat]
        return torch.stack(found).reshape(*white.shape[:-2], -1)

    @cached_property
    def invertible(self) -> Inequality:
        """Sigma is invertible, by more than rounding."""
        return Inequality(
            "0 < λ_min(Σ)", 1e-14 * self.sizes[..., -1], self.sizes[..., 0], strict=True
        )

    @cached_property
    def independent(self) -> Inequality:
        """The true features' second moment is invertible, by more than rounding."""
        least, largest = (self.spectrum[i].expand_as(self.loss) for i in (0, -1))
        return Inequality("0 < r", 1e-14 * largest, least, strict=True)

    @cached_property
    def natural(self) -> Float[Tensor, "*r"]:
        r"""How large Sigma_zeta B could be: :math:`\|\Sigma_\zeta\|\,(\lambda_{\max}(\Sigma^\circ)/
        \lambda_{\min}(\Sigma))^{1/2}`."""
        largest = (self.spectrum[-1] / self.sizes[..., 0].clamp_min(1e-300)).sqrt()
        return torch.linalg.matrix_norm(self.residual) * largest

    @cached_property
    def critical(self) -> Inequality:
        r"""B^T Sigma_zeta is zero, up to rounding."""
        size, least = torch.linalg.matrix_norm(self.pull), self.sizes[..., 0].clamp_min(1e-300)
        # at a global minimum the residual itself is the square of a rounding
        dust = 1e-28 * self.spectrum[-1] * self.sizes[..., -1] / least
        dust = dust * (self.spectrum[-1] / least).sqrt()
        return Inequality("BᵀΣ_ζ = 0", size, CRITICAL * self.natural + dust)


@theorem(
    "homotopy-slope",
    title="The slope along a homotopy",
    box="prop-slope",
    standing=Standing.PROVED,
    start=LandscapeStart,
    uses=("lem-variations",),
)
def slope(at: LandscapeStart) -> Report:
    """No R of norm one promises a steeper descent than the nuclear norm, and one attains it."""
    best, _ = at.along(in_context.steepest(at.at))
    # a residual is known to a rounding of the true features, however small it is
    total = at.spectrum.sum()
    blur = 1e-12 * total * (at.spectrum[-1] / at.sizes[..., 0].clamp_min(1e-300)).sqrt()
    # and its product with what h makes of them is zero up to a rounding, however short B is
    blur = blur + 1e-14 * (2 * at.loss * total).sqrt()
    size = torch.linalg.matrix_norm(at.end, 2)
    return Report(
        hypotheses=(at.invertible,)
        if at.R is None
        else (at.invertible, Inequality("‖R‖ ≤ 1", size, torch.ones_like(size))),
        promises=(
            Promise("-dL/ds ≤ ‖Σ_ζ B‖_*", lambda _: (-at.along(at.end)[0], at.steepest + blur, ())),
            Promise(
                "‖Σ_ζ B‖_* ≤ -dL/ds for the polar factor", lambda _: (at.steepest, blur - best, ())
            ),
        ),
        constants={"L": at.loss, "‖Σ_ζ B‖_*": at.steepest},
    )


@theorem(
    "kim2024-theorem-3-3",
    title="Every other critical point is a strict saddle",
    box="thm-strict",
    standing=Standing.PROVED,
    start=LandscapeStart,
    uses=("thm-critical-values", "lem-variations", "prop-slope"),
)
def strict_saddle(at: LandscapeStart) -> Report:
    """Where the residual is not zero: the loss is at least half of the smallest eigenvalue, and the
    homotopy to R f° has no slope and the curvature of the theorem; R as given, else the proof's.
    With the number m of features that are not learned, at most k."""
    R1 = at.sizes[..., -1]
    level, curvature = at.along(at.escape if at.R is None else at.R)
    promised = 4 * at.loss.square() / (_count(at.unlearned, at).clamp_min(1) * R1)
    # beside features that are much longer, slope and curvature are rounding
    blur = 1e-14 * at.spectrum.sum() * R1 / at.sizes[..., 0].clamp_min(1e-300)
    return Report(
        hypotheses=(
            at.invertible,
            at.independent,
            at.critical,
            Inequality("0 < L", 1e-9 * at.spectrum[-1].expand_as(at.loss), at.loss, strict=True),
        ),
        promises=(
            Promise(
                "r/2 ≤ L", lambda _: (at.spectrum[0] / 2 * torch.ones_like(at.loss), at.loss, ())
            ),
            Promise("|dL/ds| = 0", lambda _: (level.abs(), 10 * CRITICAL * at.natural + blur, ())),
            Promise("4L² / (m R_1²) ≤ -d²L/ds²", lambda _: (promised, blur - curvature, ())),
        ),
        constants={"L": at.loss, "R_1²": R1, "-d²L/ds²": -curvature},
    )


@theorem(
    "monotone-homotopy",
    title="A homotopy along which the loss falls",
    box="thm-monotone",
    standing=Standing.PROVED,
    start=LandscapeStart,
)
def monotone(at: LandscapeStart) -> Report:
    """Towards R f° with R as given, else the inverse of B, at a hundred points on the way."""
    least, ends = torch.linalg.svdvals(at.at.B), at.sizes
    # of the product C Sigma^-1, whose first factor is known to a rounding of what it is made of
    known = 1e-14 * (ends[..., -1] * at.spectrum[-1]).sqrt() / ends[..., 0].clamp_min(1e-300)
    known = torch.maximum(known, 1e-9 * least[..., 0])
    R = torch.linalg.pinv(at.at.B) if at.R is None else at.R
    s = torch.linspace(0, 1, 101, dtype=torch.float64)[:-1].to(at.h)
    steps = tuple(range(100))

    def fall(_: object) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        losses = at.losses(R, s)
        left = (1 - s).square().reshape(-1, *[1] * at.loss.ndim)
        return losses, left * at.loss * (1 + 1e-9) + 1e-12 * at.spectrum[-1], steps

    def steady(_: object) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        losses = at.losses(R, s)
        return losses[1:], losses[:-1] * (1 + 1e-9) + 1e-12 * at.spectrum[-1], steps[1:]

    return Report(
        hypotheses=(
            at.invertible,
            Inequality("0 < σ_min(B)", known, least[..., -1], strict=True),
        ),
        promises=(
            Promise("L(s) ≤ (1-s)² L(0)", fall),
            Promise("L(s) falls from point to point", steady),
        ),
        constants={"L": at.loss},
    )


@theorem(
    "accelerated-phase",
    title="Below the lowest saddle",
    box="prop-accelerated",
    standing=Standing.PROVED,
    start=LandscapeStart,
    uses=("prop-slope",),
)
def accelerated(at: LandscapeStart) -> Report:
    """Below half of the smallest eigenvalue B is invertible, and the slope bounded from below."""
    room, R1 = (at.spectrum[0] - 2 * at.loss).clamp_min(0).sqrt(), at.sizes[..., -1].sqrt()
    least = torch.linalg.svdvals(at.at.B)[..., -1]
    return Report(
        hypotheses=(
            at.invertible,
            Inequality("L < r/2", at.loss, at.spectrum[0].expand_as(at.loss) / 2, strict=True),
        ),
        promises=(
            Promise("√(r - 2L) / R_1 ≤ σ_min(B)", lambda _: (room / R1, least, ())),
            Promise(
                "2√(r - 2L) L / R_1 ≤ ‖Σ_ζ B‖_*",
                lambda _: (2 * room * at.loss / R1, at.steepest, ()),
            ),
        ),
        constants={"L": at.loss, "R_1²": R1.square()},
    )


@theorem(
    "critical-values",
    title="What is learned is learned completely",
    box="thm-critical-values",
    standing=Standing.PROVED,
    start=LandscapeStart,
)
def critical_values(at: LandscapeStart) -> Report:
    """Each principal direction is left whole or not at all, so the loss is half a sum of eigenvalues."""
    off = torch.linalg.matrix_norm((at.true - at.residual) @ at.residual)
    known = 10 * CRITICAL * at.natural * torch.linalg.matrix_norm(at.at.C)
    gap = (_sums(at.spectrum) / 2 - at.loss[..., None]).abs().amin(-1)
    ranks = _count(at.learned, at) + _count(at.unlearned, at) - len(at.spectrum)
    blur = known / at.spectrum[0] + 1e-12 * at.spectrum[-1]
    return Report(
        hypotheses=(at.invertible, at.independent, at.critical),
        promises=(
            Promise("Σ° Σ_ζ = Σ_ζ²", lambda _: (off, known + 1e-12 * at.spectrum[-1] ** 2, ())),
            Promise("L = ½ Σ_{j ∈ S} r_j for one of the S", lambda _: (gap, blur, ())),
            Promise("rank B = k - |S|", lambda _: (ranks.abs(), torch.zeros_like(gap), ())),
        ),
        constants={"L": at.loss, "|S|": _count(at.unlearned, at)},
    )


@theorem(
    "morse-index",
    title="The index of every saddle",
    box="thm-index",
    standing=Standing.PROVED,
    start=LandscapeStart,
    uses=("lem-variations", "thm-critical-values"),
)
def morse_index(at: LandscapeStart) -> Report:
    """As many negative eigenvalues as m², and one for each unlearned feature above a learned one."""
    tie, there = TIE * at.spectrum[-1], at.learned[..., None, :] > at.spectrum[0] / 2
    above = at.unlearned[..., :, None] > at.learned[..., None, :] + tie
    wanted = _count(at.unlearned, at).square() + (there & above).sum((-2, -1))
    index = (at.bends < -tie).sum(-1).to(wanted)
    return Report(
        hypotheses=(at.invertible, at.independent, at.critical),
        promises=(
            Promise("m² + #{r_j > r_b} ≤ index", lambda _: (wanted, index, ())),
            Promise("index ≤ m² + #{r_j > r_b}", lambda _: (index, wanted, ())),
        ),
        constants={"index": index, "m": _count(at.unlearned, at)},
    )


@theorem(
    "global-minima",
    title="All global minima",
    box="prop-minima",
    standing=Standing.PROVED,
    start=LandscapeStart,
    uses=("thm-index",),
)
def minima(at: LandscapeStart) -> Report:
    """Mixtures of the true features have no loss, and no direction down; k² are flat."""
    F, h, tie = at.population.F, at.at.h, TIE * at.spectrum[-1]
    off = torch.linalg.matrix_norm(h - F @ torch.linalg.pinv(F) @ h)
    flat = (at.bends.abs() < tie).sum(-1).to(off)
    k = torch.full_like(off, len(at.spectrum))
    return Report(
        hypotheses=(
            at.invertible,
            Inequality("0 < r", 0 * k, at.spectrum[0].expand_as(k), strict=True),
            Inequality("h = R f°", off, 1e-10 * torch.linalg.matrix_norm(h)),
        ),
        promises=(
            Promise("L = 0", lambda _: (at.loss, 1e-12 * at.spectrum.sum().expand_as(k), ())),
            Promise("0 ≤ D²L", lambda _: (-at.bends[..., 0], tie.expand_as(k), ())),
            Promise("k² directions are flat", lambda _: ((flat - k**2).abs(), 0 * k, ())),
        ),
        constants={"L": at.loss, "flat": flat},
    )


def _sums(r: Float[Tensor, " k"]) -> Float[Tensor, " n"]:
    """The sum over every subset."""
    sums = r.new_zeros(1)
    for each in r:
        sums = torch.cat([sums, sums + each])
    return sums


def _count(values: Float[Tensor, "*r k"], at: LandscapeStart) -> Float[Tensor, "*r"]:
    """How many are not zero, where those that are not are true features' own."""
    return (values > at.spectrum[0] / 2).sum(-1).to(values)


def _half(h: Float[Tensor, "m p"], F: Float[Tensor, "m k"]) -> Float[Tensor, ""]:
    """The least loss of features, written so that it can be differentiated twice."""
    B = torch.linalg.solve(h.mT @ h, h.mT @ F)
    return (F - h @ B).square().sum() / (2 * len(h))


@dataclass(frozen=True)
class SaddleStart:
    r"""A cloud at a critical point, and a representation of the true features on its inputs.

    ``size`` : the mean of :math:`\|a^\circ\|^2` over the cloud, for a map :math:`a^\circ` with
    :math:`f^\circ = \int a^\circ(w)\sigma(w^\top x)\,d\mu`; left out, that of the smallest one.

    ValueError and TypeError as the model raises them, and where Sigma is singular, since the flow has
    no derivative there.
    """

    model: InContext
    neurons: Neurons
    population: Population
    size: float | None = None

    def __post_init__(self) -> None:
        in_context._invertible(self.features.at, self.neurons)
        if self.size is not None:
            _validate.positive("size", self.size)

    @cached_property
    def features(self) -> LandscapeStart:
        """The cloud's features, as a place in the landscape."""
        return LandscapeStart(self.model.features(self.neurons, self.population.X), self.population)

    @cached_property
    def represented(self) -> tuple[Float[Tensor, "*r d k"], Float[Tensor, "*r"]]:
        """The smallest a° on the cloud's inputs, and the largest error that it leaves."""
        answers = self.model.sigma.value(self.population.X @ self.neurons.w.mT)
        d, F = answers.shape[-1], self.population.F.expand(*answers.shape[:-1], -1)
        a = d * torch.linalg.pinv(answers, rtol=1e-10) @ F
        return a, (answers @ a / d - F).abs().amax((-2, -1))

    @cached_property
    def norm(self) -> Float[Tensor, "*r"]:
        """The mean of |a°|² over the cloud."""
        found = self.represented[0].square().sum(-1).mean(-1)
        return found if self.size is None else torch.full_like(found, self.size)

    @cached_property
    def exponents(self) -> Float[Tensor, "*r n"]:
        """All growth exponents of the flow linearised at the cloud, by automatic derivatives, rising."""
        flat = [part.flatten(0, -3) if part.ndim > 2 else part[None] for part in self.neurons]
        found = [self._spectrum(Neurons(*of)) for of in zip(*flat, strict=True)]
        return torch.stack(found).reshape(*self.norm.shape, -1)

    @cached_property
    def exponent(self) -> Float[Tensor, "*r"]:
        """The largest of these."""
        return self.exponents[..., -1]

    def _spectrum(self, cloud: Neurons) -> Tensor:
        cut = cloud.a.numel()

        def flow(v: Tensor) -> Tensor:
            now = Neurons(v[:cut].reshape(cloud.a.shape), v[cut:].reshape(cloud.w.shape))
            h = self.model.sigma.value(self.population.X @ now.w.mT) @ now.a / len(now.a)
            return -len(now.a) * _half(h, self.population.F)

        point = torch.cat([part.flatten() for part in cloud])
        return torch.linalg.eigvalsh(torch.func.hessian(flow)(point))


@theorem(
    "saddles-of-the-flow",
    title="How fast the flow leaves",
    box="thm-growth",
    standing=Standing.PROVED,
    start=SaddleStart,
    uses=("thm-strict", "lem-variations"),
)
def growth(at: SaddleStart) -> Report:
    """The largest exponent of the linearised flow, where the cloud's inputs can represent f°."""
    here, (_, error) = at.features, at.represented
    promised = 4 * here.loss.square() / (len(here.spectrum) * here.sizes[..., -1] * at.norm)
    return Report(
        hypotheses=(
            here.invertible,
            here.critical,
            Inequality(
                "0 < L", 1e-9 * here.spectrum[-1].expand_as(here.loss), here.loss, strict=True
            ),
            Inequality("f° = ∫ a° σ dμ", error, torch.full_like(error, 1e-6)),
        ),
        promises=(
            Promise(
                "4L² / (k R_1² ‖a°‖²) ≤ the largest exponent", lambda _: (promised, at.exponent, ())
            ),
        ),
        constants={"L": here.loss, "‖a°‖²": at.norm, "largest exponent": at.exponent},
    )


@theorem(
    "escape-spectrum",
    title="All exponents at the total saddle",
    box="prop-escape",
    standing=Standing.PROVED,
    start=SaddleStart,
)
def escape_spectrum(at: SaddleStart) -> Report:
    """Where C = 0 the exponents that are not zero are the eigenvalues of one small matrix.

    ValueError where C is not zero, as the model raises it.
    """
    known = torch.linalg.eigvalsh(at.model.escape_matrix(at.neurons, at.population))
    n, largest, sizes = known.shape[-1], known[..., -1], at.features.sizes
    # the inverse of Sigma is known to its condition
    blur = (CRITICAL + 1e-14 * sizes[..., -1] / sizes[..., 0].clamp_min(1e-300)) * largest
    gap = (at.exponents[..., -n:] - known).abs().amax(-1)
    rest = at.exponents[..., :-n].abs().amax(-1)
    return Report(
        hypotheses=(at.features.invertible,),
        promises=(
            Promise(
                "the largest exponents are those of the matrix",
                lambda _: (gap, blur, ()),
            ),
            Promise("all others are zero", lambda _: (rest, blur, ())),
            Promise("0 ≤ the exponents", lambda _: (-known[..., 0], blur, ())),
        ),
        constants={"largest exponent": largest, "least": known[..., 0]},
    )
