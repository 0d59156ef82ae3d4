"""The numbers that hypotheses on an attention layer are made of, each computed when asked for."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from .. import _validate, queries, spectra
from ..models import Attention, AttentionWeights, _protocol
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
            object.__setattr__(
                self, "problem", Problem(*_validate.several("problem", self.problem, 2))
            )
        weights = AttentionWeights(*_validate.several("weights", self.weights, 4))
        weights = _validate.weights(weights)
        _validate.model(self.model, "check", "kernel").check(weights, self.problem)
        object.__setattr__(self, "weights", _protocol.spread(self.model, weights, self.problem))

    @cached_property
    def forward(self):
        """Everything that one pass through the layer computes."""
        return self.model.forward(self.weights, self.problem)

    # -- tokens ---------------------------------------------------------------------------------

    @cached_property
    def X(self) -> Float[Tensor, "*b"]:
        """Norm of all tokens, stacked."""
        return torch.linalg.matrix_norm(self.problem.tokens, 2)

    @cached_property
    def X_F(self) -> Float[Tensor, "*b"]:
        """Their Frobenius norm."""
        return torch.linalg.matrix_norm(self.problem.tokens)

    @cached_property
    def longest(self) -> Float[Tensor, "*b"]:
        """Length of the longest token."""
        return torch.linalg.vector_norm(self.problem.tokens, dim=-1).amax(-1)

    # -- weights --------------------------------------------------------------------------------

    @cached_property
    def q(self) -> Float[Tensor, "*r H"]:
        """Norm of each head's W_Q."""
        return torch.linalg.matrix_norm(self.weights.Q, 2)

    @cached_property
    def k(self) -> Float[Tensor, "*r H"]:
        """Norm of each head's W_K."""
        return torch.linalg.matrix_norm(self.weights.K, 2)

    @cached_property
    def v(self) -> Float[Tensor, "*r H"]:
        """Norm of each head's W_V."""
        return torch.linalg.matrix_norm(self.weights.V, 2)

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
        return spectra.concat(self.blocks)

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

    @cached_property
    def slope(self) -> Float[Tensor, "*r"]:
        r""":math:`r_0^\top G r_0 / \|r_0\|^2`: how steeply the loss falls with the values."""
        pulled = self.residual[..., None, None, :] @ self.blocks
        pulled = torch.linalg.vector_norm(pulled.squeeze(-2), dim=-1)
        return (self.omega * pulled / self.r[..., None]).square().sum(-1)

    # -- the scores, where W_Q alone is trained -------------------------------------------------

    @cached_property
    def u(self) -> Float[Tensor, "*r H N n"]:
        """Read-outs: what each token says if it is attended to alone."""
        return self.forward.u

    @cached_property
    def least_u(self) -> Float[Tensor, "*r H"]:
        """The smallest read-out of each head, in size."""
        return self.u.abs().amin((-2, -1))

    @cached_property
    def scores_jacobian(self) -> Float[Tensor, "*r H Nnn Dd"]:
        """Derivative of each head's scores with respect to its W_Q."""
        return queries.scores_jacobian(self.model, self.weights, self.problem)

    @cached_property
    def delta(self) -> Float[Tensor, "*r H"]:
        """The smallest of the N n^2 singular values of that derivative; 0 where it is rounding."""
        top = torch.linalg.matrix_norm(self.scores_jacobian, 2)
        noise = max(self.scores_jacobian.shape[-2:]) * torch.finfo(top.dtype).eps * top
        sigma = spectra.sigma_min(self.scores_jacobian)
        return torch.where(sigma > noise, sigma, 0)

    @cached_property
    def furthest(self) -> Float[Tensor, "*r H"]:
        """Largest distance of a query from a key of its sequence."""
        return torch.cdist(self.forward.Q, self.forward.K).amax((-3, -2, -1))

    def now(self, run) -> "AttentionStart":
        """The same numbers along a run that watched its weights, (len(run.at), *r, ...)."""
        return AttentionStart(self.model, self.problem, run.watched["weights"])
