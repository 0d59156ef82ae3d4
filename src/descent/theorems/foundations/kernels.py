"""Theorems of :doc:`/foundations/kernels`: what one layer's attention matrices are at a start."""

import torch
from jaxtyping import Float
from torch import Tensor

from ... import kernels, spectra
from .._attention import AttentionStart
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report

#: Entries of attention matrices are known to this, after a few exponentials and a sum.
ROUNDING = 1e-12
#: Beside e to minus this, what is smaller by `ROUNDING` squared is a normal number still.
DEEPEST = 600.0


def both(at: AttentionStart) -> tuple[Float[Tensor, "*r H N n n"], Float[Tensor, "*r H N n n"]]:
    """Softmax and Gaussian attention from the layer's own queries and keys."""
    Q, K = at.forward.Q, at.forward.K
    return kernels.softmax.attention(Q, K), kernels.gaussian.attention(Q, K)


def same(name: str, one: Tensor, other: Tensor) -> tuple[Promise, Promise]:
    """Two whole numbers a run are equal: neither is above the other."""
    low, high = one.double(), other.double()
    return (
        Promise(f"{name}, not more", lambda _: (low, high, ())),
        Promise(f"{name}, not less", lambda _: (high, low, ())),
    )


def known(at: AttentionStart) -> Float[Tensor, "*r"]:
    """To how much the entries of attention are known: an exponent is known to a rounding of itself."""
    lengths = [W.square().sum(-1).amax((-3, -2, -1)) for W in (at.forward.Q, at.forward.K)]
    exponents = torch.stack(lengths).amax(0) / at.model.d**0.5
    return ROUNDING + 4 * torch.finfo(exponents.dtype).eps * exponents


def told(at: AttentionStart) -> tuple[Inequality, Inequality]:
    """Whether float64 can tell the ranks: what is not zero stays so when D_1 and D_2 are taken off.

    Softmax does not underflow, and a row of the Gaussian does where every key is far away.
    """
    S = both(at)[0]
    values = torch.linalg.svdvals(S)
    values = values / values[..., :1]
    least = torch.where(values > spectra.resolution(S), values, 1).amin((-3, -2, -1))
    Q, K, root = at.forward.Q, at.forward.K, 2 * at.model.d**0.5
    rows = Q.square().sum(-1) / root - torch.logsumexp(kernels.softmax.scores(Q, K), -1)
    columns = K.square().sum(-1) / root
    ranges = sum(D.amax(-1) - D.amin(-1) for D in (rows, columns)).amax((-2, -1))
    furthest = -kernels.gaussian.scores(Q, K).amax(-1).amin((-3, -2, -1))
    return (
        Inequality("ε range(D_1) range(D_2) ≪ σ(S)", known(at) * torch.exp(ranges), least),
        Inequality("no row of S_gauss underflows", furthest, 0 * furthest + DEEPEST),
    )


@theorem(
    "kernel-factorisation",
    title="Softmax is a rescaled Gaussian",
    box="prop-factorisation",
    standing=Standing.PROVED,
    start=AttentionStart,
)
def factorisation(at: AttentionStart) -> Report:
    """Columns of the Gaussian rescaled and then rows normalised; the ranks of both, summed."""
    soft, gauss = both(at)
    columns = at.forward.K.square().sum(-1) / (2 * at.model.d**0.5)
    columns = torch.exp(columns - columns.amax(-1, keepdim=True))  # a common factor cancels
    rescaled = gauss * columns[..., None, :]
    rescaled = rescaled / rescaled.sum(-1, keepdim=True)
    error = (soft - rescaled).abs().amax((-4, -3, -2, -1))
    ranks = [spectra.rank(S).sum((-2, -1)) for S in (soft, gauss)]
    return Report(
        hypotheses=told(at),
        promises=(
            Promise("S_soft = D_1 S_gauss D_2", lambda _: (error, known(at), ())),
            *same("rank S_soft = rank S_gauss", *ranks),
        ),
        constants={"ranks of the S_i, summed": ranks[0].double()},
    )


@theorem(
    "equal-rank",
    title="Equal ranks",
    box="cor-rank",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("prop-factorisation",),
)
def equal_rank(at: AttentionStart) -> Report:
    """One head and independent tokens: the rank of the features is that of attention."""
    one, least = torch.ones_like(at.sigma), spectra.sigma_min(at.problem.tokens)
    ranks = [spectra.rank(S).sum((-2, -1)) for S in both(at)]
    features = spectra.rank(at.B)
    S = torch.linalg.svdvals(at.forward.S)
    seen = torch.where(S > spectra.resolution(at.forward.S) * S[..., :1], S, torch.inf)
    seen = seen.amin((-3, -2, -1)) * least
    return Report(
        hypotheses=(
            Inequality("one head", one * at.model.H, one),
            Inequality("0 < σ_min(X)", 1e-14 * at.X * one, least * one, strict=True),
            Inequality("rounding ≪ σ_min(S_i) σ_min(X)", 16 * at.noise, seen, strict=True),
            *told(at),
        ),
        promises=tuple(
            promise
            for name, rank in zip(("S_soft", "S_gauss"), ranks, strict=True)
            for promise in same(f"rank B_0 = Σ rank {name}", features, rank)
        ),
        constants={"rank B_0": features.double()},
    )


@theorem(
    "gaussian-gram",
    title="Tied queries and keys",
    box="prop-gram",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("prop-factorisation",),
)
def tied(at: AttentionStart) -> Report:
    """Equal queries and keys, distinct within a sequence: Gaussian attention is positive definite."""
    Q, K = at.forward.Q, at.forward.K
    axes = (-4, -3, -2, -1)
    apart = torch.cdist(Q, Q) + torch.diag(Q.new_full((at.problem.n,), torch.inf))
    gauss = kernels.gaussian.attention(Q, K)
    least = torch.linalg.eigvalsh((gauss + gauss.mT) / 2).amin(axes[1:])
    skew = (gauss - gauss.mT).abs().amax(axes)
    zero, far = torch.zeros_like(least), torch.finfo(Q.dtype).max
    return Report(
        hypotheses=(
            Inequality("W_Q = W_K", (Q - K).abs().amax(axes), zero),
            Inequality("0 < distance of two queries", zero, apart.clamp_max(far).amin(axes), strict=True),
        ),
        promises=(
            Promise("S_gauss = S_gaussᵀ", lambda _: (skew, known(at), ())),
            Promise("0 ≤ λ_min(S_gauss)", lambda _: (-least, known(at), ())),
        ),
        constants={"λ_min(S_gauss)": least},
    )  # fmt: skip


@theorem(
    "softmax-saturation",
    title="Saturation",
    box="prop-saturation",
    standing=Standing.PROVED,
    start=AttentionStart,
)
def saturation(at: AttentionStart) -> Report:
    """Every row of softmax attention: its derivative against how nearly decided it is."""
    s = kernels.softmax.attention(at.forward.Q, at.forward.K)
    turn = s.diag_embed() - s[..., :, None] * s[..., None, :]
    norm, rest = torch.linalg.matrix_norm(turn, 2), 1 - s.amax(-1)
    axes = (-3, -2, -1)
    # both are known to about 1e-16
    left = torch.where(rest > 1e-9, norm / (2 * rest), 0).amax(axes)
    return Report(
        hypotheses=(),
        promises=(
            Promise("‖diag(s) - ssᵀ‖ ≤ 2(1 - max s)", lambda _: (left, left.new_ones(()), ())),
        ),
        constants={"least 1 - max s": rest.amin(axes)},
    )
