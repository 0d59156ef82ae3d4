"""Claims of the foundations: facts of attention and of descent that every part uses."""

import torch

from .. import kernels, problems, span, spectra
from ..descend import descend
from ..models import Attention
from ._record import Evidence, Verdict, claim


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


@claim(
    "span-lemma",
    paper="Descent",
    number="Lemma",
    statement=r"Gradient descent on $W_Q, W_K, W_V$ has the same losses on the tokens expressed in an "
    r"orthonormal basis of their span, and the weights lift back exactly.",
    verdict=Verdict.HOLDS,
    chapter="song2024/values",
    mutations={"a basis one vector short of the span": {"missing": 1}},
)
def span_lemma(missing: int = 0) -> Evidence:
    """Train both kernels in D = 64 dimensions and in the 12 that the tokens span."""
    problem = problems.gaussian(N=4, n=3, D=64, seed=0)
    reduction = span.reduce(problem)
    if missing:
        basis = reduction.basis[:, :-missing]
        reduction = span.Reduction(problems.Problem(problem.X @ basis, problem.y), basis, "QKV")
    gaps = {"loss": 0.0, "weights": 0.0}
    for kernel in ("softmax", "gaussian"):
        layer = Attention(kernel, H=2, d=4)
        start = layer.init(problem, runs=8, seed=1)
        full = descend(layer, problem, start, step=0.001, steps=500, reduce=False)
        small = descend(layer, reduction.problem, reduction.restrict(start), step=0.001, steps=500, reduce=False)
        lifted = reduction.lift(start, small.weights)
        gaps["loss"] = max(gaps["loss"], float((full.loss - small.loss).abs().max()))
        gaps["weights"] = max(
            gaps["weights"], *(float((a - b).abs().max()) for a, b in zip(full.weights, lifted, strict=True))
        )
    return Evidence(
        {"losses agree to rounding": gaps["loss"] < 1e-11, "lifted weights agree to rounding": gaps["weights"] < 1e-11},
        {"largest_loss_gap": gaps["loss"], "largest_weight_gap": gaps["weights"], "runs": 16, "steps": 500},
    )
