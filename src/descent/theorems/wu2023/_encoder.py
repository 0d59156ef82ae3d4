"""The numbers that hypotheses on an encoder are made of, each computed when asked for."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ... import _validate, spectra
from ..._errors import error
from ...models import Encoder, EncoderWeights
from ...models.encoder import INITIALISATIONS, pooled_kernel
from ...problems import Problem
from .._inequality import Inequality


@dataclass(frozen=True)
class EncoderStart:
    r"""An encoder, data, weights, and how far the proof lets each weight move; ``*r`` are runs.

    ``budgets`` are the positive constants :math:`C_Q, C_K, C_V, C_O` of Wu et al. 2023, Proposition
    1, which whoever states it may choose; ``chance`` is the probability with which a statement
    about drawn weights may fail. Norms are spectral. Arrays of numpy will do for the weights, and a
    pair (tokens, labels) for the problem. ValueError where shapes do not fit.
    """

    model: Encoder
    problem: Problem
    weights: EncoderWeights
    budgets: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    chance: float = 0.01

    def __post_init__(self) -> None:
        _validate.positive("chance", _validate.fraction("chance", self.chance))
        if not isinstance(self.problem, Problem):
            pair = _validate.several("problem", self.problem, 2)
            object.__setattr__(self, "problem", Problem(*pair))
        weights = EncoderWeights(*_validate.several("weights", self.weights, 4))
        object.__setattr__(self, "weights", _validate.weights(weights))
        if not isinstance(self.model, Encoder):
            found = f"model must be an Encoder, got {_validate.shown(self.model)}"
            raise error(TypeError, found, "take Encoder(d)")
        self.model.check(self.weights, self.problem)
        for budget in _validate.several("budgets", self.budgets, 4):
            _validate.positive("budgets", budget)

    @cached_property
    def forward(self):
        """Everything that one pass through the encoder computes."""
        return self.model.forward(self.weights, self.problem)

    @cached_property
    def r(self) -> Float[Tensor, "*r"]:
        """Norm of the residual."""
        return torch.linalg.vector_norm(self.forward.output - self.problem.y, dim=-1)

    @cached_property
    def rounding(self) -> Float[Tensor, "*r"]:
        """The size of a residual that is all rounding: outputs and labels, times epsilon."""
        size = self.forward.output.square() + self.problem.y.square()
        return torch.finfo(size.dtype).eps * size.sum(-1).sqrt()

    @cached_property
    def alpha(self) -> Float[Tensor, "*r"]:
        r"""The smallest of the N singular values of :math:`F_{\mathrm{pre}}`."""
        return spectra.sigma_min(self.forward.features)

    @cached_property
    def size(self) -> float:
        r"""The least :math:`C_x` with :math:`\|X_j\|_F \le \sqrt n\, C_x`: Assumption 1 is met by it."""
        longest = torch.linalg.vector_norm(self.problem.X, dim=(-2, -1)).amax(-1)
        return longest / self.problem.n**0.5

    @cached_property
    def rho(self) -> Tensor:
        r""":math:`\rho = N^{1/2} n^{3/2} \tau_1 C_x`."""
        N, n = self.problem.N, self.problem.n
        return N**0.5 * n**1.5 * self.model.tau_1(self.problem) * self.size

    @cached_property
    def norms(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r""":math:`\bar\lambda_Q, \bar\lambda_K, \bar\lambda_V, \bar\lambda_O`: norms plus budgets."""
        Q, K, V = (torch.linalg.matrix_norm(W, 2) for W in self.weights[:3])
        each = (Q, K, V, torch.linalg.vector_norm(self.weights.O, dim=-1))
        return tuple(norm + C for norm, C in zip(each, self.budgets, strict=True))

    @cached_property
    def slopes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""Lemma 12: within the budgets each gradient is at most this times :math:`\|r\|`."""
        q, k, v, o = self.norms
        scores = 2 * self.model.tau_0 * self.problem.n * self.size**2 * v * o
        return tuple(self.rho * slope for slope in (scores * k, scores * q, o, v))

    @cached_property
    def z(self) -> Float[Tensor, "*r"]:
        r""":math:`\bar\lambda_O^2(1 + 4\tau_0^2C_x^4n^2\bar\lambda_V^2(\bar\lambda_Q^2+\bar\lambda_K^2))`."""
        q, k, v, o = self.norms
        scores = 2 * self.model.tau_0 * self.problem.n * self.size**2 * v
        return o.square() * (1 + scores.square() * (q.square() + k.square()))

    # -- what attention lets through ----------------------------------------------------------------

    @cached_property
    def attended(self) -> Float[Tensor, "*r N n D"]:
        r"""What each token sees, :math:`u_{ji} = X_j^\top\beta_{ji}`."""
        return self.forward.S @ self.problem.X

    @cached_property
    def far(self) -> Float[Tensor, "*r"]:
        """The largest distance of an attention weight from 1/n."""
        return (self.forward.S - 1 / self.problem.n).abs().amax((-3, -2, -1))

    @cached_property
    def seen(self) -> Float[Tensor, "*r N"]:
        r""":math:`U_j = \sum_i\|u_{ji}\|`."""
        return torch.linalg.vector_norm(self.attended, dim=-1).sum(-1)

    @cached_property
    def pooled(self) -> Float[Tensor, "*r"]:
        r""":math:`\lambda_{\mathrm{pool}}`, for ReLU."""
        _validate.one_of("activation", self.model.activation, ("relu",))
        return torch.linalg.eigvalsh(pooled_kernel(self.attended))[..., 0]

    def variance(self, W: str) -> float:
        """Variance of an entry of W_Q, W_K, W_V or w_O as the model's initialisation draws it."""
        table = INITIALISATIONS[self.model.initialisation]
        summed = self.model.d if W == "O" else self.problem.D
        return table.variance / summed if table.fan_in else table.variance

    @cached_property
    def drawn(self) -> Inequality:
        """Entries of the size that the initialisation gives them: what can be seen of a draw.

        A mean of m squares of normal numbers is off by ten times its standard deviation, the root of
        2/m, about as often as never.
        """
        off = []
        for name, W in zip("QKVO", self.weights, strict=True):
            entries = W.flatten(W.ndim - self.model.own[name])
            mean = entries.square().mean(-1) / self.variance(name)
            off.append((mean - 1).abs() * (entries.shape[-1] / 2) ** 0.5)
        largest = torch.stack(off).amax(0)
        return Inequality(
            "weights of the size of the draw", largest, torch.full_like(largest, 10.0)
        )
