"""Claims of the chapter on attention as a kernel."""

import torch

from ... import kernels, spectra
from .._record import Evidence, Verdict, claim


@claim(
    "kernel-factorisation",
    paper="Descent",
    number="Proposition",
    statement=r"Softmax and Gaussian attention differ by positive diagonal factors, "
    r"$S^{\mathrm{soft}} = D_1 S^{\mathrm{gauss}} D_2$, so they always have the same rank.",
    verdict=Verdict.HOLDS,
    chapter="song2024/values",
    mutations={"the paper's Eq. (11), without the factor 2": {"width": 1.0}},
)
def kernel_factorisation(width: float = 2.0) -> Evidence:
    """Compare softmax with the rescaled Gaussian on 200 random pairs of queries and keys.

    In every second pair two keys coincide, so that a rank below n is among what is compared.
    """
    generator = torch.Generator().manual_seed(0)
    Q, K = torch.randn(2, 200, 5, 3, generator=generator, dtype=torch.float64)
    K[::2, 1] = K[::2, 0]
    soft = kernels.softmax.attention(Q, K)
    gauss = kernels.gaussian.attention(Q, K) ** (2 / width)
    columns = gauss * torch.exp(K.square().sum(-1) / (2 * 3**0.5))[..., None, :]
    rescaled = columns / columns.sum(-1, keepdim=True)
    error = float((soft - rescaled).abs().max())
    ranks = [spectra.rank(S) for S in (soft, gauss)]
    return Evidence(
        {"the factorisation is exact": error < 1e-13, "ranks agree": torch.equal(*ranks)},
        {"largest_error": error, "instances": len(Q), "smallest_rank": int(ranks[0].min())},
    )
