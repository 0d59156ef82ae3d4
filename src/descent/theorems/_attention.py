"""The numbers that hypotheses on an attention layer are made of, each computed when asked for."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from .. import spectra
from ..models import Attention, AttentionWeights
from ..problems import Problem


@dataclass(frozen=True)
class AttentionStart:
    """An attention layer, data and weights; ``*r`` are runs, norms are spectral.

    Arrays of numpy will do, for the weights in the order Q, K, V, O and for the problem as the pair
    (tokens, labels). Raises ValueError where shapes do not fit.
    """

    model: Attention
    problem: Problem
    weights: AttentionWeights

    def __post_init__(self) -> None:
        if not isinstance(self.problem, Problem):
            object.__setattr__(self, "problem", Problem(*map(torch.as_tensor, self.problem)))
        weights = AttentionWeights(*map(torch.as_tensor, self.weights))
        self.model.check(weights, self.problem)
        object.__setattr__(self, "weights", self.model.spread(weights, self.problem))

    @cached_property
    def forward(self):
        """Everything that one pass through the layer computes."""
        return self.model.forward(self.weights, self.problem)

    # -- weights --------------------------------------------------------------------------------

    @cached_property
    def omega(self) -> Float[Tensor, "*r H"]:
        """Norm of each head's output weight."""
        return torch.linalg.vector_norm(self.weights.O, dim=-1)

    @cached_property
    def output(self) -> Float[Tensor, "*r"]:
        """Norm of all output weights."""
        return torch.linalg.vector_norm(self.omega, dim=-1)

    # -- the layer at the start -----------------------------------------------------------------

    @cached_property
    def residual(self) -> Float[Tensor, "*r m"]:
        """Outputs less labels, stacked."""
        return (self.forward.output - self.problem.y).flatten(-2)

    @cached_property
    def r(self) -> Float[Tensor, "*r"]:
        """Norm of the residual."""
        return torch.linalg.vector_norm(self.residual, dim=-1)

    @cached_property
    def rounding(self) -> Float[Tensor, "*r"]:
        """The size of a residual that is all rounding: outputs and labels, times epsilon."""
        size = self.forward.output.square() + self.problem.y.square()
        return torch.finfo(size.dtype).eps * size.sum((-2, -1)).sqrt()

    @cached_property
    def blocks(self) -> Float[Tensor, "*r H m D"]:
        """The features B_h of each head."""
        return self.model.features(self.weights, self.problem)

    @cached_property
    def B(self) -> Float[Tensor, "*r m HD"]:
        """The features of all heads side by side."""
        return spectra.beside(self.blocks)

    @cached_property
    def sigma(self) -> Float[Tensor, "*r"]:
        """The smallest of the Nn singular values of B."""
        return spectra.sigma_min(self.B)

    @cached_property
    def noise(self) -> Float[Tensor, "*r"]:
        """Below this a singular value of B may be zero for all that its precision can tell."""
        top = torch.linalg.matrix_norm(self.B, 2)
        return max(self.B.shape[-2:]) * torch.finfo(top.dtype).eps * top

    @cached_property
    def G(self) -> Float[Tensor, "*r m"]:
        """Eigenvalues of the Gram matrix of the values, in rising order."""
        return torch.linalg.eigvalsh(self.model.gram(self.weights, self.problem))
