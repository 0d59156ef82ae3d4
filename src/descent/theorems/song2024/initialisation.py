"""Theorems of :doc:`/song2024/initialisation`: how well conditioned the features are at a start."""

import torch

from ... import _validate, spectra
from .._attention import AttentionStart
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report


@theorem(
    "song2024-initialisation-small",
    title="Small queries and keys",
    box="prop-small",
    standing=Standing.PROVED,
    start=AttentionStart,
)
def small(at: AttentionStart) -> Report:
    r"""From two tokens a sequence on, σ_min(B_0) is at most quadratic in the scale of W_Q, W_K."""
    kernel = _validate.one_of("kernel", at.model.kernel.name, ("softmax", "gaussian"))
    sizes = at.q * at.k / 2**0.5 if kernel == "softmax" else at.problem.n * (at.q**2 + at.k**2)
    bound = torch.linalg.vector_norm(at.X[..., None] ** 3 * sizes, dim=-1) / at.model.d**0.5
    two = torch.full_like(at.sigma, 2)
    seen = torch.where(at.sigma > at.noise, at.sigma, 0)
    return Report(
        hypotheses=(Inequality("2 ≤ n", two, torch.full_like(two, at.problem.n)),),
        promises=(Promise("σ_min(B_0) ≤ its bound", lambda _: (seen, bound, ())),),
        constants={"σ_min(B_0)": at.sigma, "bound": bound},
    )


@theorem(
    "song2024-conditioning",
    title="How slow linear convergence is, for one head",
    box="prop-conditioning",
    standing=Standing.PROVED,
    start=AttentionStart,
    uses=("eq-recursion",),
)
def conditioning(at: AttentionStart) -> Report:
    r""":math:`\kappa(G) \le \frac{\max\|S_i\|^2}{\min\sigma_{\min}(S_i)^2}\,\kappa(XX^\top)`.

    With one head :math:`B = \mathrm{diag}(S_i)X`, so :math:`\|B\| \le \max\|S_i\|\|X\|` and
    :math:`\sigma_{\min}(B) \ge \min\sigma_{\min}(S_i)\,\sigma_{\min}(X)`.
    """
    values = torch.linalg.svdvals(at.forward.S)  # (*r, H, N, n)
    kappa_S = (values.amax((-3, -2, -1)) / values.amin((-3, -2, -1))).square()
    X = at.problem.tokens
    kappa_X = (at.X / spectra.sigma_min(X)).square()
    kappa_G = (torch.linalg.matrix_norm(at.B, 2) / at.sigma).square()
    one = torch.ones_like(at.sigma)
    least, top = values.amin((-3, -2, -1)), values.amax((-3, -2, -1))
    # a singular value of B is known up to its noise
    seen = (torch.linalg.matrix_norm(at.B, 2) / (at.sigma + at.noise)).square()
    return Report(
        hypotheses=(
            Inequality("one head", one * at.model.H, one),
            Inequality(
                "0 < σ_min(S_i)", spectra.resolution(at.forward.S) * top, least, strict=True
            ),
            Inequality("0 < σ_min(X)", 1e-14 * at.X * one, spectra.sigma_min(X) * one, strict=True),
        ),
        promises=(Promise("κ(G) ≤ κ(S)² κ(XXᵀ)", lambda _: (seen, kappa_S * kappa_X, ())),),
        constants={"κ(G)": kappa_G, "κ(S)²": kappa_S, "κ(XXᵀ)": kappa_X},
    )
