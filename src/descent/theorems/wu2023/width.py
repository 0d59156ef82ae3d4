"""Theorems of :doc:`/wu2023/width`: all weights of an encoder are trained."""

import torch
from torch import Tensor

from ..._descend import Trajectory
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Linear, Promise, Report
from ._encoder import EncoderStart

#: The weights in the order of the budgets.
LETTERS = "QKVO"


def condition_2(at: EncoderStart, factor: float = 8.0) -> Inequality:
    r"""Condition (2): the path of every weight ends within half its budget."""
    longest = torch.stack([s / C for s, C in zip(at.slopes, at.budgets, strict=True)]).amax(0)
    return Inequality("(2)  8 ‖r_0‖ max slope/C ≤ α²", factor * longest * at.r, at.alpha**2)


def condition_3(at: EncoderStart, factor: float = 32.0) -> Inequality:
    r"""Condition (3): the features move by at most an eighth of :math:`\alpha`."""
    left = factor * at.rho**2 * at.z * at.r / at.norms[3]
    return Inequality("(3)  32 ρ² z ‖r_0‖ / λ_O ≤ α³", left, at.alpha**3)


def gentle(at: EncoderStart) -> Inequality:
    """What ReLU asks besides: a step changes outputs mostly through the last weight."""
    return Inequality("5/2 ρ² z ≤ α²", 2.5 * at.rho**2 * at.z, at.alpha**2)


def moved(at: EncoderStart) -> Promise:
    """Every weight stays within half its budget."""

    def measure(run: Trajectory) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        path = run.watched["weights"]
        shares = []
        for W, start, C in zip(path, at.weights, at.budgets, strict=True):
            own = (-1,) if W is path[-1] else (-2, -1)
            shares.append(torch.linalg.vector_norm(W - start, dim=own) / C)
        largest = torch.stack(shares).amax(0)
        return largest, torch.full_like(largest, 0.5), run.at

    return Promise("‖W_t - W_0‖ ≤ C/2 for all four weights", measure, ("weights",))


def features_move(at: EncoderStart) -> Promise:
    """The features stay within an eighth of their smallest singular value."""

    def measure(run: Trajectory) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        F = at.model.features(run.watched["weights"], at.problem)
        change = torch.linalg.matrix_norm(F - at.forward.features, 2)
        return change, (at.alpha / 8).expand_as(change), run.at

    return Promise("‖F_t - F_0‖ ≤ α/8", measure, ("weights",))


def framework(at: EncoderStart, *hypotheses: Inequality, largest_step) -> Report:
    """What all versions of Proposition 1 share: the rate, and the three invariants."""
    return Report(
        hypotheses=(condition_2(at), condition_3(at), *hypotheses),
        promises=(
            Linear(at.alpha**2 / 2, at.rounding),
            moved(at),
            features_move(at),
        ),
        constants={"α": at.alpha, "ρ": at.rho.expand_as(at.alpha), "z": at.z, "‖r_0‖": at.r},
        train=LETTERS,
        largest_step=largest_step,
    )


@theorem(
    "wu2023-proposition-1",
    title="Enough width, for ReLU",
    box="thm-wide-relu",
    standing=Standing.PROVED,
    start=EncoderStart,
    uses=("lem-encoder-gradients",),
)
def proposition_1(at: EncoderStart) -> Report:
    """Conditions (2) and (3), the third that the kink asks for, and a step that does not see it."""
    return framework(at, gentle(at), largest_step=lambda: (at.rho * at.norms[2]) ** -2)


@theorem(
    "wu2023-proposition-1-printed",
    title="Proposition 1 as printed",
    box="thm-wide-relu",
    standing=Standing.REFUTED,
    start=EncoderStart,
)
def proposition_1_printed(at: EncoderStart) -> Report:
    """Conditions (2) and (3) alone: right for smooth activations, false for ReLU at its kink."""
    return framework(at, largest_step=lambda: (at.rho * at.norms[2]) ** -2)
