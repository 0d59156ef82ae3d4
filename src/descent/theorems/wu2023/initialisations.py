"""The theorem of :doc:`/wu2023/initialisations`: an encoder of numbers has three parameters."""

import torch
from jaxtyping import Float
from torch import Tensor

from ... import _validate
from ..._descend import Trajectory
from ...models import EncoderWeights
from ...problems import Problem
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Promise, Report
from ._encoder import EncoderStart


def least_loss(problem: Problem, s: Float[Tensor, "*r"]) -> Float[Tensor, "*r"]:
    """Half the squared distance of the labels from the span of A(s) and B(s), at scores s x x'."""
    S = torch.softmax(s[..., None, None, None] * problem.X @ problem.X.mT, -1)
    seen = (S @ problem.X)[..., 0]
    M = torch.stack([seen.clamp_min(0).sum(-1), (-seen).clamp_min(0).sum(-1)], -1)
    y = problem.y.expand(M.shape[:-1])[..., None]
    U, values, _ = torch.linalg.svd(M, full_matrices=False)
    kept = U * (values > 1e-12 * values[..., :1])[..., None, :]
    return (y - kept @ (kept.mT @ y)).square().sum((-2, -1)) / 2


@theorem(
    "wu2023-corollary-1",
    title="Three parameters",
    box="thm-three",
    standing=Standing.PROVED,
    start=EncoderStart,
)
def corollary_1(at: EncoderStart) -> Report:
    """Tokens of one number: ranks two and three at any width, and a floor under every step."""
    _validate.one_of("activation", at.model.activation, ("relu",))
    D = torch.tensor(float(at.problem.D))
    F = torch.linalg.svdvals(at.forward.features)
    K = torch.linalg.eigvalsh(at.model.ntk(at.weights, at.problem)).flip(-1)
    third, fourth = beyond(F, 2), beyond(K, 3)

    def floored(run: Trajectory) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        path: EncoderWeights = run.watched["weights"]
        s = at.model.tau_0 * (path.Q * path.K).sum((-2, -1))
        loss = at.model.loss(path, at.problem)
        return least_loss(at.problem, s), loss + 1e-9 * run.loss[0], run.at

    return Report(
        hypotheses=(Inequality("D = 1", D, torch.ones(())),),
        promises=(
            Promise("rank F ≤ 2", lambda _: (third, 1e-12 * F[..., 0], ())),
            Promise("rank K ≤ 3", lambda _: (fourth, 1e-12 * K[..., 0], ())),
            Promise("dist(y, span{A, B})² / 2 ≤ ℓ_t", floored, ("weights",)),
        ),
        constants={"least loss at s_0": least_loss(at.problem, start_s(at))},
        train="QKVO",
    )


def start_s(at: EncoderStart) -> Float[Tensor, "*r"]:
    r"""The factor of the scores, :math:`s = \tau_0W_KW_Q^\top`, for D = 1."""
    return at.model.tau_0 * (at.weights.Q * at.weights.K).sum((-2, -1))


def beyond(values: Float[Tensor, "*r p"], count: int) -> Float[Tensor, "*r"]:
    """The first of falling values after ``count`` of them, 0 if there is none."""
    return values[..., count] if values.shape[-1] > count else 0 * values[..., 0]
