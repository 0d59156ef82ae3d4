"""Theorems of :doc:`/wu2023/tangent`: the tangent kernel of an encoder and its Hessian."""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ... import _validate, spectra
from ...models.encoder import arc_cosine, limit_ntk
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report
from ._encoder import EncoderStart


class TangentStart(EncoderStart):
    """An encoder of the initialisation "ntk" with ReLU and a sum over tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.one_of("initialisation", self.model.initialisation, ("ntk",))
        _validate.one_of("activation", self.model.activation, ("relu",))
        _validate.one_of("pooling", self.model.pooling, ("sum",))

    @cached_property
    def parts(self) -> dict[str, Float[Tensor, "*r N N"]]:
        """The tangent kernel by weights."""
        return self.model.ntk_parts(self.weights, self.problem)

    @cached_property
    def expected(self) -> Float[Tensor, "*r N N"]:
        """Mean of the parts of w_O and W_V over draws of these, with queries and keys as they are."""
        N, n = self.attended.shape[-3:-1]
        rows = self.attended.flatten(-3, -2)
        value, slope = arc_cosine(rows, rows)
        kernel = value + slope * (rows @ rows.mT)
        return kernel.unflatten(-1, (N, n)).sum(-1).unflatten(-2, (N, n)).sum(-2)

    @cached_property
    def blur(self) -> Float[Tensor, "*r"]:
        """What `expected` and the limit are off by: angles near zero are known to the root of epsilon."""
        rows = self.attended.flatten(-3, -2)
        length = torch.linalg.vector_norm(rows, dim=-1)
        lengths, eps = length[..., :, None] * length[..., None, :], torch.finfo(rows.dtype).eps
        cosine = rows @ rows.mT / torch.where(lengths > 0, lengths, 1)
        sine = (1 - cosine.square()).clamp_min(eps).sqrt()
        return 8 * eps * (lengths / sine).sum((-2, -1))

    @cached_property
    def from_limit(self) -> Float[Tensor, "*r"]:
        """The bound of its distance from the kernel of infinite width, in the Frobenius norm."""
        mean = self.problem.X.mean(-2)
        away = torch.linalg.vector_norm(self.attended - mean[..., None, :], dim=-1).sum(-1)
        size = self.problem.n * torch.linalg.vector_norm(mean, dim=-1)
        pair = (
            away[..., :, None] * self.seen[..., None, :] + size[..., :, None] * away[..., None, :]
        )
        return 7 / 5 * torch.linalg.matrix_norm(pair)

    @cached_property
    def of_scores(self) -> Float[Tensor, "*r"]:
        """The bound of the expected trace of the parts of W_Q and W_K."""
        X, run = self.problem.X, self.forward
        Q, K = (torch.linalg.matrix_norm(W, 2).square() for W in (run.Q, run.K))
        V = torch.linalg.matrix_norm(X @ self.weights.V.unsqueeze(-3)).square()
        tau = self.model.tau_0 * self.model.tau_1(self.problem)
        each = torch.linalg.matrix_norm(X).square() * (Q + K) * V
        return tau**2 * self.problem.n / 4 * each.sum(-1)


@theorem(
    "wu2023-ntk-limit",
    title="The tangent kernel at finite width",
    box="thm-finite-ntk",
    standing=Standing.PROVED,
    start=TangentStart,
    uses=("lem-wide-features", "lem-encoder-gradients"),
)
def ntk_limit(at: TangentStart) -> Report:
    """Near its mean, which is near the limit where attention is near uniform; the rest is small."""
    norm = torch.linalg.matrix_norm
    limit, noise = limit_ntk(at.problem), at.seen.square().sum(-1) / at.model.d**0.5
    off_mean = norm(at.parts["O"] + at.parts["V"] - at.expected)
    off_limit = norm(at.expected - limit)
    scores = sum(at.parts[W].diagonal(dim1=-2, dim2=-1).sum(-1) for W in "QK")
    return Report(
        hypotheses=(at.drawn,),
        promises=(
            Promise(
                "‖K_OV - H‖ ≤ 3 Σ U_j² / √(chance d)",
                lambda _: (off_mean, 3 * noise / at.chance**0.5, ()),
            ),
            Promise("‖H - K_∞‖ ≤ 7/5 ‖…‖", lambda _: (off_limit, at.from_limit + at.blur, ())),
            Promise("tr K_QK ≤ typical / chance", lambda _: (scores, at.of_scores / at.chance, ())),
        ),
        constants={"‖K - K_∞‖ / ‖K_∞‖": norm(sum(at.parts.values()) - limit) / norm(limit)},
    )


@theorem(
    "wu2023-theorem-3",
    title="The Hessian of an encoder",
    box="thm-hessian",
    standing=Standing.PROVED,
    start=EncoderStart,
)
def theorem_3(at: EncoderStart) -> Report:
    """Where no neuron sits at its kink: the Hessian of each output, by the norms of the weights."""
    _validate.one_of("activation", at.model.activation, ("relu",))
    nearest = at.forward.Z.abs().amin((-3, -2, -1))
    bound = hessian_bound(at)
    return Report(
        hypotheses=(Inequality("0 < |W_V^T u|", 0 * nearest, nearest, strict=True),),
        promises=(
            Promise("‖∇²f(X_j)‖ ≤ its bound, for every j", lambda _: (hessians(at), bound, ())),
        ),
        constants={"bound": bound},
    )


def hessian_bound(at: EncoderStart) -> Float[Tensor, "*r"]:
    """The right side of the theorem, for the longest sequence."""
    q, k, v = (torch.linalg.matrix_norm(W, 2) for W in at.weights[:3])
    o = torch.linalg.vector_norm(at.weights.O, dim=-1)
    R = at.size * at.problem.n**0.5
    small, both = at.model.tau_0 * R**3 / 2, (q.square() + k.square()).sqrt()
    bracket = R + small * both * (v + o) + o * v * (4 * (small * both) ** 2 / R + small)
    return at.model.tau_1(at.problem) * at.problem.n * bracket


def hessians(at: EncoderStart) -> Float[Tensor, "*r"]:
    """The largest spectral norm of the Hessian of an output."""
    shape = at.forward.output.shape
    found = []
    for j in range(shape[-1]):
        c = at.weights.O.new_zeros(shape)
        c[..., j] = 1

        def output(point, c=c):
            return None, at.model.pullback(at.weights._replace(**point), at.problem, c)

        found.append(spectra.top_hessian_eigenvalue(output, at.weights._asdict(), len(shape) - 1))
    return torch.stack(found).amax(0)


@theorem(
    "wu2023-trace",
    title="More sequences, smaller eigenvalue",
    box="prop-trace",
    standing=Standing.PROVED,
    start=EncoderStart,
)
def trace(at: EncoderStart) -> Report:
    r"""The smallest eigenvalue of the limit is at most the mean of :math:`n^2\|\bar x_j\|^2`."""
    K = limit_ntk(at.problem)
    least, mean = torch.linalg.eigvalsh(K)[..., 0], at.problem.X.mean(-2).square().sum(-1).mean(-1)
    most = at.problem.n**2 * mean
    return Report(
        hypotheses=(),
        promises=(Promise("λ_min(K_∞) ≤ n² mean ‖x̄_j‖²", lambda _: (least, most, ())),),
        constants={"λ_min(K_∞)": least, "n² mean ‖x̄_j‖²": most},
    )
