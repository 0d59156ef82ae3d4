"""Random shapes, layers and weights for property tests."""

import torch
from hypothesis import strategies as st

from descent import kernels, models, problems

KERNELS = kernels.BUILT_IN


@st.composite
def instances(draw, kernels=KERNELS, runs=None):
    """A layer, a problem and weights of random small shape, away from saturation.

    ``runs`` is a strategy for the number of runs; without it the weights have no run dimension.
    """
    N, n, D, H, d = (draw(st.integers(1, most)) for most in (3, 4, 7, 3, 4))
    seed = draw(st.integers(0, 10_000))
    problem = problems.gaussian(N=N, n=n, D=D, seed=seed)
    layer = models.Attention(draw(st.sampled_from(kernels)), H=H, d=d)
    batch = None if runs is None else draw(runs)
    return layer, problem, layer.init(problem, seed=seed + 1, runs=batch)


def differentiable(weights):
    """The same weights as autograd leaves."""
    return type(weights)(*(W.clone().requires_grad_() for W in weights))


def relative_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, in units of the larger of the two and one."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / max(1.0, float(b.abs().max())))
