"""Claims of the chapter on training the decoder too, and on other geometries than Frobenius's."""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import linprog
from torch import Tensor
from torch.nn.functional import logsigmoid

from ... import draws, margin, problems
from ...models import FactoredWeights, Selection, SelectionWeights
from ...problems import Problem
from ...statistics import interval
from ...theorems import Standing
from .._record import Evidence, Verdict, claim
from ._shared import norm
from .traps import stacked

JOINT = "vasudeva2024/joint"
#: The square of a smaller gradient is zero in float64.
TINY = 1e-140


class Both(NamedTuple):
    """Runs that train W and u, one for each data set: what was seen at the steps t, (len(t), *sets)."""

    t: Tensor  #: (len(t),)
    log_loss: Tensor
    W: Tensor  #: the norm of W
    u: Tensor  #: the norm of u
    cosine: Tensor  #: between W and W_mm


def together(problem: Problem, mm: Tensor, *, power: float, total: bool, at: list[int]) -> Both:
    r"""Train W and u from zero on the exponential loss, with steps of length :math:`t^{-power}`.

    ``problem`` may be several, side by side, with their solutions ``mm`` (*sets, D, D). ``total``:
    divide both gradients by the length of the two together, instead of each by its own.
    """
    layer = Selection("exponential", goal="log loss")
    W, u, seen = torch.zeros_like(mm), torch.zeros_like(mm[..., 0]), []
    for t in range(1, max(at) + 1):
        loss, G = layer.loss_and_gradient(SelectionWeights(W, u), problem, "Wu")
        size = {"W": norm(G["W"]), "u": torch.linalg.vector_norm(G["u"], dim=-1)}
        if t in at:
            cosine = (W * mm).sum((-2, -1)) / (norm(W) * norm(mm)).clamp_min(TINY)
            seen.append([loss, norm(W), torch.linalg.vector_norm(u, dim=-1), cosine])
        if total:
            size = dict.fromkeys(size, (size["W"] ** 2 + size["u"] ** 2).sqrt())
        W = W - t**-power * G["W"] / size["W"].clamp_min(TINY)[..., None, None]
        u = u - t**-power * G["u"] / size["u"].clamp_min(TINY)[..., None]
    columns = (torch.stack(each) for each in zip(*seen, strict=True))
    return Both(torch.tensor(at).double(), *columns)


def side_by_side(sets: int) -> tuple[Problem, Tensor]:
    """Draws of n = 8, T = 4, d = 40 as one problem, and their W_mm."""
    drawn = [problems.planted(N=8, n=4, D=40, seed=seed) for seed in range(sets)]
    mm = torch.stack([margin.svm(*each).W for each in drawn])
    X, y = (torch.stack([getattr(problem, name) for problem, _ in drawn]) for name in "Xy")
    return Problem(X, y), mm


def slope(x: Tensor, y: Tensor) -> Tensor:
    """The slope of y over x between the last two points, for each data set."""
    return (y[-1] - y[-2]) / (x[-1] - x[-2])


@claim(
    "vasudeva2024-joint",
    title="Decoder and attention together",
    box="prop-joint-loss",
    standing=Standing.OBSERVED,
    paper=r"vasudeva2024",
    number="Joint training, as summarised",
    statement=r"Exponential loss, W and u trained from zero with normalised steps of length "
    r"$t^{-2/3}$: $-\log\widehat L$ grows like $t^{1/3}$, with steps of one length like $t$, and "
    r"never faster than the proved $\max\|x\|\sum_s\eta_s$. With each block normalised by itself "
    r"$\|W\|_F$ grows as $\|u\|$ does; with both divided by the length of the two together it "
    r"grows like $2\|W_{\mathrm{mm}}\|_F\log\|u\|$.",
    verdict=Verdict.HOLDS,
    chapter=JOINT,
    mutations={
        "steps of length t^(-1/4)": {"power": 0.25},
        "half the bound": {"share": 0.5},
        "the shrinking steps for those of one length": {"constant": 2 / 3},
        "a look after 30 steps": {"at": (10, 30)},
    },
)
def joint(
    power: float = 2 / 3,
    share: float = 1.0,
    constant: float = 0.0,
    at: tuple[int, ...] = (30, 100, 400, 1000, 4000),
) -> Evidence:
    """Eight draws of n = 8, T = 4, d = 40, both normalisations, 4000 steps; 1000 of one length."""
    problem, mm = side_by_side(8)
    runs = [together(problem, mm, power=power, total=total, at=list(at)) for total in (False, True)]
    alike, logarithmic = slope(runs[0].u, runs[0].W), slope(runs[1].u.log(), runs[1].W) / norm(mm)
    exponents = [slope(run.t.log()[:, None], (-run.log_loss).log()) for run in runs]
    level = together(problem, mm, power=constant, total=False, at=[250, 1000])
    linear = slope(level.t.log()[:, None], (-level.log_loss).log())
    over = max(
        float((-run.log_loss / (share * longest(problem) * walked(run.t, p)[:, None])).max())
        for run, p in ((runs[0], power), (runs[1], power), (level, constant))
    )
    cosine = min(float(run.cosine[-1].min()) for run in runs)
    both = torch.cat(exponents)
    return Evidence(
        conclusions={
            "the exponent lies in [0.30, 0.42]": 0.3 < float(both.min()) < float(both.max()) < 0.42,
            "with steps of one length it is 1, to 5 %": float((linear - 1).abs().max()) < 0.05,
            "the loss is at least the bound": over <= 1 + 1e-9,
            "normalised together: 2 ‖W_mm‖ log ‖u‖ to 5 %": float((logarithmic / 2 - 1).abs().max())
            < 0.05,
            "normalised apart: ‖W‖ grows as ‖u‖ to 5 %": float((alike - 1).abs().max()) < 0.05,
            "the cosine to W_mm exceeds 0.97": cosine > 0.97,
        },
        numbers={
            "mean_exponent_apart": float(exponents[0].mean()),
            "mean_exponent_together": float(exponents[1].mean()),
            "widest_interval": max(interval(each)[1] for each in exponents),
            "least_exponent_of_one_length": float(linear.min()),
            "mean_slope_over_2_norm": float(logarithmic.mean()) / 2,
            "least_cosine": cosine,
            "runs": 24,
        },
        sharpness={"the loss is at least the bound": (over, over)},
    )


def longest(problem: Problem) -> Tensor:
    """The length of the longest token of each data set."""
    return torch.linalg.vector_norm(problem.X, dim=-1).amax((-2, -1))


def walked(t: Tensor, power: float) -> Tensor:
    """The sum of the lengths of the steps before t."""
    return torch.stack([(torch.arange(1, int(each)) ** -power).sum() for each in t])


def margins(found: margin.Margin, problem: Problem, W: Tensor) -> Tensor:
    """The least gap of each W (*r)."""
    a, z = margin.differences(problem, found.selected), problem.X[..., 0, :]
    gaps = torch.where(found.constrained, margin.products(W, a, z), torch.inf)
    return gaps.amin((-2, -1))


def nuclear(W: Tensor) -> Tensor:
    """The sum of the singular values."""
    return torch.linalg.svdvals(W).sum(-1)


def in_factors(problem: Problem, u: Tensor, scale: float, steps: int = 2000) -> Tensor:
    r"""The product :math:`KQ^\top` of eight runs with both factors trained, steps of length 0.03.

    The factors start as normal matrices of entries ``scale``.
    """
    layer, D = Selection(d=problem.D, goal="log excess"), problem.D
    K, Q = (scale * draws.normal(0, name, (D, D), runs=8) for name in "KQ")
    for _ in range(steps):
        at = FactoredWeights(K, Q, u.expand(8, D))
        G = layer.loss_and_gradient(at, problem, "KQ")[1]
        size = (
            (G["K"].square() + G["Q"].square()).sum((-2, -1), keepdim=True).sqrt().clamp_min(TINY)
        )
        K, Q = K - 0.03 * G["K"] / size, Q - 0.03 * G["Q"] / size
    return K @ Q.mT


@claim(
    "sheen2024-nuclear",
    title="Factors favour the nuclear norm",
    box="prop-nuclear",
    standing=Standing.OBSERVED,
    uses=("prop-nuclear",),
    paper="sheen2024",
    number="The implicit regularisation of factored weights",
    statement=r"Normalised descent on $W = W_KW_Q^\top$ from small factors comes close to the "
    r"largest margin per nuclear norm, which $W_{\mathrm{mm}}$, the largest per Frobenius norm, "
    r"misses by a tenth and more.",
    verdict=Verdict.HOLDS,
    chapter=JOINT,
    mutations={
        "a start of large factors": {"scale": 1.0},
        "one sequence, whose solutions have rank one": {"N": 1, "steps": 100},
    },
)
def factors(scale: float = 0.01, N: int = 4, steps: int = 2000) -> Evidence:
    """Six draws of n = 4, T = 3, d = 8, eight starts each, 2000 steps."""
    trained, frobenius = [], []
    for seed in range(6):
        problem, u = problems.planted(N=N, n=3, D=8, seed=seed)
        best, found = margin.nuclear(problem, u), margin.svm(problem, u)
        W = in_factors(problem, u, scale, steps)
        per_norm = float(margins(best, problem, best.W) / nuclear(best.W))
        trained.append(margins(best, problem, W) / nuclear(W) / per_norm)
        frobenius.append(float(1 / nuclear(found.W)) / per_norm)
    trained = torch.cat(trained)
    return Evidence(
        conclusions={
            "every run has 0.99 of the largest margin per nuclear norm": float(trained.min())
            > 0.99,
            "W_mm has less than 0.9": max(frobenius) < 0.9,
        },
        numbers={
            "least_share": float(trained.min()),
            "median_share": float(trained.median()),
            "largest_share_of_W_mm": max(frobenius),
            "runs": 48,
        },
    )


def mirror(A: Tensor, p: float, length: float = 150.0) -> Tensor:
    r"""Mirror flow with the potential :math:`\frac1p\|w\|_p^p` on pairs of tokens with gaps A w.

    Logistic loss, scores 0 and 1, from zero until w (k) has this length. The path does not depend
    on the speed, which here makes the mirror image of w grow exponentially. For p > 2 the flow is
    stiff where an entry of w is near zero, so LSODA takes the steps.
    """

    def velocity(_: float, image: np.ndarray) -> np.ndarray:
        g = A @ _primal(torch.from_numpy(image), p)
        heard = logsigmoid(-torch.sigmoid(g)) + logsigmoid(g) + logsigmoid(-g)
        return (torch.softmax(heard, 0) @ A).numpy() * (0.1 + np.linalg.norm(image))

    def left(_: float, image: np.ndarray) -> float:
        return float(torch.linalg.vector_norm(_primal(torch.from_numpy(image), p))) - length

    left.terminal = True
    start = np.zeros(A.shape[1])
    path = solve_ivp(velocity, (0, np.inf), start, "LSODA", events=left, rtol=1e-6, atol=1e-9)
    return _primal(torch.from_numpy(path.y[:, -1]), p)


def _primal(image: Tensor, p: float) -> Tensor:
    """The w whose mirror image, the gradient of the potential, this is."""
    return image.sign() * image.abs() ** (1 / (p - 1))


def p_margin(A: Tensor, p: float) -> Tensor:
    r"""The vector of least :math:`\ell_p` norm with A w at least one, by Clarabel."""
    import cvxpy

    w = cvxpy.Variable(A.shape[1])
    cvxpy.Problem(cvxpy.Minimize(cvxpy.norm(w, p)), [A.numpy() @ w >= 1]).solve("CLARABEL")
    return torch.from_numpy(w.value)


@claim(
    "julistiono2024-mirror",
    title="Mirror flow selects its own geometry",
    box="prop-mirror",
    standing=Standing.OBSERVED,
    uses=("prop-mirror",),
    paper="julistiono2024",
    number="Convergence to the generalised margin",
    statement=r"Mirror flow on attention with the potential $\frac1p\|w\|_p^p$, from zero to length "
    r"150, comes within one per cent of the largest margin per $\ell_p$ norm for $p = 1.5$ and $3$, "
    r"and within five for $p = 1.25$.",
    verdict=Verdict.HOLDS,
    chapter=JOINT,
    mutations={"gradient descent, whatever p": {"potential": 2.0}},
)
def mirrored(potential: float | None = None) -> Evidence:
    """Three pairs in six dimensions, eight draws, p = 1.25, 1.5 and 3, to length 150."""
    shares = {}
    for seed in range(8):
        A = draws.normal(seed, "A", (3, 6))
        for p in (1.25, 1.5, 3.0):
            w, best = mirror(A, potential or p), p_margin(A, p)
            per_norm = (A @ w).min() / torch.linalg.vector_norm(w, p)
            shares[seed, p] = float(per_norm * torch.linalg.vector_norm(best, p))
    return Evidence(
        conclusions={
            "p = 1.5 and 3: 0.99 of the largest margin": min(
                share for (_, p), share in shares.items() if p > 1.25
            )
            > 0.99,
            "p = 1.25: 0.95, so far": min(shares.values()) > 0.95,
        },
        numbers={
            "least_share": min(shares.values()),
            "median_share": float(torch.tensor(list(shares.values())).median()),
            "runs": len(shares),
        },
    )


class Entrywise(NamedTuple):
    """Data sets side by side, and the norm of the largest entry of W that each needs."""

    problem: Problem
    u: Tensor
    selected: Tensor  #: the optimal tokens, (sets, 1, N)
    s: Tensor  #: the least largest entry with all gaps at least one, (sets, 1)

    def share(self, W: Tensor) -> Tensor:
        """The least gap over the largest entry of W, in units of the best there is, (sets, 1)."""
        a = margin.differences(self.problem, self.selected)
        gaps = margin.products(W, a, self.problem.X[..., 0, :])
        least = torch.where((a != 0).any(-1), gaps, torch.inf).amin((-2, -1))
        return self.s * least / W.abs().amax((-2, -1))

    def near_zero(self) -> Tensor:
        """A start for each data set, (sets, 1, D, D), with normal entries of size 0.01."""
        D = self.problem.D
        return 0.01 * draws.normal(1, "W", (D, D), runs=len(self.s))[:, None]


@cache
def entrywise(sets: int, seed: int) -> Entrywise:
    """Draws of n = 4, T = 4, d = 8, and what `Entrywise` holds of them."""
    drawn = [problems.planted(N=4, n=4, D=8, seed=seed + k) for k in range(sets)]
    solved = [margin.svm(*each) for each in drawn]
    s = [largest_entry(problem, found) for (problem, _), found in zip(drawn, solved, strict=True)]
    selected = torch.stack([found.selected for found in solved])[:, None]
    return Entrywise(*stacked(drawn, runs=1), selected, torch.tensor(s).double()[:, None])


def largest_entry(problem: Problem, found: margin.Margin) -> float:
    r"""The least :math:`\max|W_{ab}|` with all gaps at least one: a linear programme."""
    a, z = margin.differences(problem, found.selected), problem.X[:, 0]
    A = torch.einsum("ita,ib->itab", a, z)[found.constrained].flatten(1).numpy()
    m, k = A.shape
    bound, one = np.eye(k), np.ones((k, 1))
    left = np.block([[-A, np.zeros((m, 1))], [bound, -one], [-bound, -one]])
    right = np.concatenate([-np.ones(m), np.zeros(2 * k)])
    return linprog(np.eye(k + 1)[-1], left, right, bounds=[(None, None)] * (k + 1)).fun


def adam(data: Entrywise, memory: float, ratio: float, gap: float) -> Tensor:
    r"""Adam without :math:`\epsilon` from near zero, until the least gap is about ``gap``.

    ``memory`` is its second constant, :math:`\beta_2`; the step is ``ratio`` times
    :math:`\frac12s|\log\beta_2|`, at which sign descent lowers the gradient as fast as
    :math:`\sqrt v` can forget.
    """
    forget = -math.log(memory) / 2
    eta = ratio * forget * data.s[..., None, None]
    W, layer = data.near_zero(), Selection()
    m, v = torch.zeros_like(W), torch.zeros_like(W)
    for t in range(1, int(gap / forget / min(ratio, 1)) + 1):
        G = layer.loss_and_gradient(SelectionWeights(W, data.u), data.problem)[1]["W"]
        m, v = 0.9 * m + 0.1 * G, memory * v + (1 - memory) * G.square()
        size = (v / (1 - memory**t)).sqrt().clamp_min(TINY)
        W = W - eta * m / (1 - 0.9**t) / size
    return W


def signs(data: Entrywise, eta: float = 0.02, steps: int = 1500) -> Tensor:
    """Sign descent from near zero."""
    W, layer = data.near_zero(), Selection(goal="log excess")
    for _ in range(steps):
        G = layer.loss_and_gradient(SelectionWeights(W, data.u), data.problem)[1]["W"]
        W = W - eta * G.sign()
    return W


@claim(
    "vasudeva2024-adam",
    title="What Adam remembers decides what it selects",
    box="eq-adam-threshold",
    standing=Standing.OBSERVED,
    paper="Descent",
    number="Experiment",
    statement=r"Sign descent tends to the largest margin per largest entry of $W$. Adam comes as "
    r"near if its step is well below $\frac12 s|\log\beta_2|$, with $s$ the least largest entry of a "
    r"$W$ with gaps of one, and falls behind, on every draw, with a step of four times that.",
    verdict=Verdict.HOLDS,
    chapter=JOINT,
    mutations={
        "a long step for the short one": {"short": 4.0},
        "sign descent in steps a hundred times as long": {"eta": 2.0},
    },
)
def remembers(short: float = 0.25, eta: float = 0.02) -> Evidence:
    """Forty fresh draws: beta_2 = 0.9 and 0.95, steps of 1/4 and 4 of the threshold, gaps of 40."""
    below, above, data = _shares(short), _shares(4.0), entrywise(40, seed=1000)
    sign = data.share(signs(data, eta))
    return Evidence(
        conclusions={
            "below the threshold every share exceeds 0.95": float(below.min()) > 0.95,
            "above it every draw has a share smaller by 0.05": float((below - above).min()) > 0.05,
            "sign descent has 0.95 everywhere": float(sign.min()) > 0.95,
        },
        numbers={
            "least_share_below": float(below.min()),
            "median_share_above": float(above.median()),
            "least_difference_on_a_draw": float((below - above).min()),
            "least_share_of_sign_descent": float(sign.min()),
            "draws": 40,
        },
    )


@cache
def _shares(ratio: float) -> Tensor:
    """The shares of Adam with steps of this many thresholds, (2, sets, 1)."""
    data = entrywise(40, seed=1000)
    return torch.stack([data.share(adam(data, memory, ratio, 40)) for memory in (0.9, 0.95)])
