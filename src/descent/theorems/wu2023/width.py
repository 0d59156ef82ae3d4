"""Theorems of :doc:`/wu2023/width`: all weights of an encoder are trained."""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from ... import _validate
from ..._descend import Trajectory
from ...models import EncoderWeights
from .._inequality import Inequality
from .._record import Standing, theorem
from .._report import Linear, Promise, Report, along, blurred
from ._encoder import EncoderStart

#: The weights in the order of the budgets.
LETTERS = "QKVO"
#: How large the second derivative of an activation gets.
BENDS = {"tanh": 4 / (3 * 3**0.5)}


def condition_2(at: EncoderStart, factor: float = 8.0) -> Inequality:
    r"""Condition (2): the path of every weight ends within half its budget."""
    longest = torch.stack([s / C for s, C in zip(at.slopes, at.budgets, strict=True)]).amax(0)
    return Inequality(
        f"(2)  {factor:g} ‖r_0‖ max slope/C ≤ α²", factor * longest * at.r, at.alpha**2
    )


def condition_3(at: EncoderStart, factor: float = 32.0) -> Inequality:
    r"""Condition (3): the features move by at most an eighth of :math:`\alpha`."""
    left = factor * at.rho**2 * at.z * at.r / at.norms[3]
    return Inequality(f"(3)  {factor:g} ρ² z ‖r_0‖ / λ_O ≤ α³", left, at.alpha**3)


def gentle(at: EncoderStart) -> Inequality:
    """What ReLU asks besides: a step changes outputs mostly through the last weight."""
    return Inequality("5/2 ρ² z ≤ α²", 2.5 * at.rho**2 * at.z, at.alpha**2)


def moved(at: EncoderStart, share: float = 0.5) -> Promise:
    """Every weight stays within this share of its budget."""

    def measure(run: Trajectory) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        path = run.watched["weights"]
        shares = []
        for W, start, C in zip(path, at.weights, at.budgets, strict=True):
            own = (-1,) if W is path[-1] else (-2, -1)
            shares.append(torch.linalg.vector_norm(W - start, dim=own) / C)
        largest = torch.stack(shares).amax(0)
        return largest, torch.full_like(largest, share), run.at

    within = "C" if share == 1 else f"C/{1 / share:g}"
    return Promise(f"‖W_t - W_0‖ ≤ {within} for all four weights", measure, ("weights",))


def features_move(at: EncoderStart, share: float = 1 / 8) -> Promise:
    """The features stay within this share of their smallest singular value."""

    def measure(run: Trajectory) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        F = at.model.features(run.watched["weights"], at.problem)
        change = torch.linalg.matrix_norm(F - at.forward.features, 2)
        return change, (share * at.alpha).expand_as(change), run.at

    return Promise(f"‖F_t - F_0‖ ≤ α/{1 / share:g}", measure, ("weights",))


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
    uses=("lem-encoder-gradients", "lem-curvature"),
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
    """Conditions (2) and (3) alone: right for smooth activations at short steps, false for ReLU."""
    return framework(at, largest_step=lambda: (at.rho * at.norms[2]) ** -2)


def curvature(at: EncoderStart) -> Float[Tensor, "*r"]:
    """The constant C of the second case: no larger curvature within the budgets, at no larger loss."""
    _validate.one_of("activation", at.model.activation, BENDS)
    q, k, v, o = at.norms
    n, R, bend = at.problem.n, at.size * at.problem.n**0.5, BENDS[at.model.activation]
    e, both = at.model.tau_0 * R**3 / 2, (q.square() + k.square()).sqrt()
    turn = e * both  # how fast what a token sees can move
    bracket = R + turn * (v + o) + o * v * (4 * turn.square() / R + e)
    bracket = bracket + 2 * bend * o * (R**2 + (v * turn).square())
    of_outputs = at.model.tau_1(at.problem) * n * bracket
    return at.rho**2 * (v.square() + at.z) + at.problem.N**0.5 * at.r * of_outputs


@theorem(
    "wu2023-proposition-1-smooth",
    title="Enough width, for a smooth activation",
    box="thm-wide-relu",
    standing=Standing.PROVED,
    start=EncoderStart,
    uses=("lem-encoder-gradients", "lem-curvature"),
)
def proposition_1_smooth(at: EncoderStart) -> Report:
    """Conditions (2) and (3), and a step below one over the curvature: as printed."""
    return framework(at, largest_step=lambda: 1 / curvature(at))


class FlowStart(EncoderStart):
    """An encoder of which gradient flow is asked, not descent."""

    def descend(self, *, step, steps: int, at=None, watch=(), train: str = LETTERS) -> Trajectory:
        r"""The flow up to ``steps`` times :math:`1/\lambda_{\max}(K_0)`, kept at these multiples.

        By an embedded Runge-Kutta pair with a relative error of 1e-9 a step, which shortens its
        steps where a neuron passes its kink.
        """
        top = torch.linalg.eigvalsh(self.model.ntk(self.weights, self.problem, train))[..., -1]
        unit = torch.where(top > 0, 1 / top, 1.0)  # where nothing moves any unit will do
        kept = tuple(range(steps + 1)) if at is None else tuple(at)
        which = product(*map(range, unit.shape))  # without run dimensions there is one
        runs = [self._integrate(r, float(unit[r]), kept) for r in which]
        paths = (torch.stack(W, 1) for W in zip(*runs, strict=True))
        path = EncoderWeights(*(p.reshape(len(p), *unit.shape, *p.shape[2:]) for p in paths))
        loss = self.model.loss(path, self.problem)
        end = EncoderWeights(*(W[-1] for W in path))
        never = torch.full_like(unit, -1, dtype=torch.int64)
        return Trajectory(loss, end, never, unit, never, {"weights": path}, kept)

    def _integrate(self, r: tuple[int, ...], unit: float, kept: tuple[int, ...]) -> EncoderWeights:
        """The path of one run at the times ``kept``, in units of ``unit``."""
        from scipy.integrate import solve_ivp  # half a second to import: only who asks for it pays

        own = self.model.own.values()
        start = [W[r] if W.ndim > k else W for W, k in zip(self.weights, own, strict=True)]
        X, y = self.problem.X, self.problem.y
        problem = type(self.problem)(X[r] if X.ndim > 3 else X, y[r] if y.ndim > 1 else y)
        sizes = [W.numel() for W in start]

        def weights(flat) -> EncoderWeights:
            parts = torch.as_tensor(flat, device=X.device).split(sizes, -1)
            return EncoderWeights(
                *(p.reshape(*p.shape[:-1], *W.shape) for p, W in zip(parts, start, strict=True))
            )

        def velocity(_, flat):
            slope = self.model.loss_and_gradient(weights(flat), problem)[1]
            return -unit * torch.cat([slope[W].flatten() for W in LETTERS]).cpu().numpy()

        begin = torch.cat([W.flatten() for W in start]).cpu().numpy()
        tolerances = {"rtol": 1e-9, "atol": 1e-12}
        found = solve_ivp(velocity, (0.0, float(kept[-1])), begin, t_eval=kept, **tolerances)
        return weights(found.y.T.copy())


@theorem(
    "wu2023-proposition-1-flow",
    title="Enough width, for gradient flow",
    box="thm-wide-relu",
    standing=Standing.PROVED,
    start=FlowStart,
    uses=("lem-encoder-gradients", "lem-curvature"),
)
def proposition_1_flow(at: FlowStart) -> Report:
    """Half of what (2) and a quarter of what (3) ask for, for the flow, with a kink or without."""

    def rate(run: Trajectory) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        t = along(torch.tensor(run.at[1:]), run.eta) * run.eta
        bound = run.loss[0] * torch.exp(-at.alpha.square() * t / 2)
        return run.loss[1:], blurred(bound, at.rounding), run.at[1:]

    return Report(
        hypotheses=(condition_2(at, 4.0), condition_3(at, 8.0)),
        promises=(
            Promise("ℓ(t) ≤ exp(-α² t / 2) ℓ(0)", rate, ("weights",)),
            moved(at, 1.0),
            features_move(at, 1 / 2),
        ),
        constants={"α": at.alpha, "z": at.z, "‖r_0‖": at.r},
        train=LETTERS,
    )


@theorem(
    "wu2023-gradient-bounds",
    title="Gradients within the budgets",
    box="lem-encoder-gradients",
    standing=Standing.PROVED,
    start=EncoderStart,
)
def gradient_bounds(at: EncoderStart) -> Report:
    """Lemma 12: what one step can do, by the norms; and the size of the features."""
    _, gradient = at.model.loss_and_gradient(at.weights, at.problem)
    features = torch.linalg.matrix_norm(at.forward.features)

    def bounded(W: str, slope: Tensor) -> Promise:
        size = torch.linalg.vector_norm(gradient[W].flatten(at.r.ndim), dim=-1)
        return Promise(f"‖∇_{W} ℓ‖ ≤ its slope ‖r‖", lambda _: (size, slope * at.r, ()))

    each = (bounded(W, slope) for W, slope in zip(LETTERS, at.slopes, strict=True))
    return Report(
        hypotheses=(),
        promises=(*each, Promise("‖F‖ ≤ ρ λ_V", lambda _: (features, at.rho * at.norms[2], ()))),
        constants={f"slope of {W}": s for W, s in zip(LETTERS, at.slopes, strict=True)},
    )
