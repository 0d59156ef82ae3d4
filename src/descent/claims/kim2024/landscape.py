"""Claims of the chapter on the landscape of learned features."""

from itertools import combinations

import flint
import torch
from torch import Tensor

from ... import draws, theorems
from ...models import InContext, in_context
from ...models.encoder import Activation
from ...models.in_context import Neurons, Population
from ...theorems import Standing
from ...theorems.kim2024 import LandscapeStart, SaddleStart
from .._certificate import Certain
from .._record import Evidence, Verdict, claim

PAPER, CHAPTER = "kim2024", "kim2024/landscape"
#: tanh z + exp(-z²/2), odd part and even part: two neurons along w and -w make either part.
BOTH = Activation(
    lambda Z: torch.tanh(Z) + torch.exp(-Z * Z / 2),
    lambda Z: 1 - torch.tanh(Z).square() - Z * torch.exp(-Z * Z / 2),
)
BUMP = Activation(lambda Z: torch.exp(-Z * Z / 2), lambda Z: -Z * torch.exp(-Z * Z / 2))
SPECTRA = ((2.25, 1.0, 0.49), (1.0, 1.0, 0.49), (4.0, 1.0, 1.0), (2.0, 2.0, 2.0))


def taught(r: tuple[float, ...] = SPECTRA[0], m: int = 150) -> tuple[Population, Neurons]:
    """A symmetric population in six dimensions, and odd true features with second moments r."""
    return in_context.planted(6, len(r), m, seed=0, r=r)


def subsets(k: int) -> list[tuple[int, ...]]:
    """All sets of features that may be left unlearned, the empty one first."""
    return [S for m in range(k + 1) for S in combinations(range(k), m)]


def saddle(population: Population, S: tuple[int, ...], mix: Tensor | None = None) -> Tensor:
    """Critical features: the true ones outside of S, even functions of the inputs within, mixed."""
    even = torch.exp(-population.X[:, : population.F.shape[1]].square() / 2)
    h = population.F.clone()
    h[:, list(S)] = even[:, list(S)]
    return h if mix is None else h @ mix


def small(r: tuple[float, ...], m: int = 12) -> tuple[Population, Tensor]:
    """True features on a few inputs with second moments r, and as many functions orthogonal to them."""
    Q = m**0.5 * torch.linalg.qr(draws.normal(5, "Q", (m, 2 * len(r))))[0]
    F = Q[:, : len(r)] * torch.tensor(r, dtype=Q.dtype).sqrt()
    return Population(Q[:, :1], F), Q[:, len(r) :]


def unlearned(r: tuple[float, ...], S: tuple[int, ...], seed: int) -> tuple[Population, Tensor]:
    """Critical features on few inputs with S unlearned, mixed at random."""
    population, others = small(r)
    h = population.F.clone()
    h[:, list(S)] = others[:, list(S)]
    return population, h @ draws.normal(seed, "mix", (len(r), len(r)))


# ---------------------------------------------------------------------------- variations and slopes


@claim(
    "first-and-second-variation",
    title="First and second variation",
    box="lem-variations",
    standing=Standing.PROVED,
    uses=("prop-infinite-loss",),
    paper="Descent",
    number="Lemma",
    statement=r"Along $h+s\delta$ the least loss has the slope $-\mathbb E\,\zeta^\top B\delta$ and "
    r"the curvature $\mathbb E\|B\delta\|^2-\|(B\,\mathbb E[\delta h^\top]-\mathbb E[\zeta"
    r"\delta^\top])\Sigma^{-1/2}\|_F^2$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"the regression held fixed": {"turning": False}, "twice the slope": {"factor": 2.0}},
)
def variations(turning: bool = True, factor: float = 1.0) -> Evidence:
    """200 random features of one to four on 12 inputs, against central differences."""
    worst, sizes = [0.0, 0.0], []
    for seed in range(50):
        k = 1 + seed % 4
        population = Population(draws.normal(seed, "X", (12, 1)), draws.normal(seed, "F", (12, k)))
        h, change = (draws.normal(seed, name, (12, k), 4) for name in ("h", "change"))
        at = in_context.regress(h, population)
        first, second = in_context.variations(at, change)
        second = second if turning else (change @ at.B.mT).square().sum(-1).mean(-1)
        eps = 1e-3 * at.Sigma.det().abs().clamp(1e-3, 1)[:, None, None]
        below, here, above = (
            in_context.regress(h + s * eps * change, population).zeta.square().sum(-1).mean(-1) / 2
            for s in (-1, 0, 1)
        )
        eps = eps.flatten()
        by_steps = (above - below) / (2 * eps), (above - 2 * here + below) / eps.square()
        scale = 1 + torch.linalg.matrix_norm(in_context._inverse(at.Sigma)).square()
        for i, (found, step) in enumerate(zip((factor * first, second), by_steps, strict=True)):
            worst[i] = max(worst[i], float(((found - step).abs() / scale).max()))
        sizes.append(float((second.abs() / scale).max()))
    return Evidence(
        {"the slope is that of differences": worst[0] < 1e-5,
         "so is the curvature": worst[1] < 1e-4},
        {"error_of_the_slope": worst[0], "error_of_the_curvature": worst[1],
         "largest_curvature": max(sizes)},
    )  # fmt: skip


@claim(
    "homotopy-slope",
    theorem="homotopy-slope",
    paper="Descent",
    number="Proposition",
    statement=r"Along $(1-s)h+sRf^\circ$ the loss starts with the slope $-\mathrm{tr}\,BR\Sigma_"
    r"\zeta$; over all $\|R\|\le1$ the least is $-\|\Sigma_\zeta B\|_*$, at the polar factor.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "an R of norm two": {"size": 2.0},
        "the transpose of R in the trace": {"turned": True},
    },
)
def homotopy_slope(size: float = 1.0, turned: bool = False) -> Evidence:
    """300 clouds of 12 neurons with the steepest R, and with 20 random orthogonal ones each."""
    of, (population, _) = theorems.get("homotopy-slope"), taught()
    model = InContext(BOTH)
    h = model.features(model.init(population, d=12, seed=1, runs=300), population.X)
    at = LandscapeStart(h, population)
    R = torch.linalg.qr(draws.normal(2, "R", (3, 3), 20))[0][:, None]
    outcomes = [of(h, population, size * in_context.steepest(at.at)).against()]
    outcomes.append(of(h.expand(20, -1, -1, -1), population, size * R).against())
    fall = (at.losses(R[0], torch.tensor([1e-5])) - at.loss)[0] / 1e-5
    trace = (
        -(at.at.B @ (R[0].mT if turned else R[0]) @ at.residual).diagonal(dim1=-2, dim2=-1).sum(-1)
    )
    error = float((fall - trace).abs().max() / at.steepest.max())
    return Evidence.of(
        outcomes,
        conclusions={"the loss itself falls at the rate of the trace": error < 1e-3},
        error_of_the_trace=error,
        median_slope=float(-at.steepest.median()),
    )


# ---------------------------------------------------------------------------- critical points


def stationary(wide: bool) -> tuple[InContext, Neurons, Population]:
    """A cloud at rest: pairs along the teachers and elsewhere; or one neuron, trained, for one feature."""
    if wide:
        population, teachers = taught()
        w = torch.cat([teachers.w, draws.normal(1, "w", (3, 6))])
        a = draws.normal(1, "a", (6, 3))
        return InContext(BOTH), Neurons(torch.cat([a, a]), torch.cat([w, -w])), population
    population, _ = in_context.planted(2, 2, 150, seed=0, r=(1.0, 1.0))
    one, model = Population(population.X, population.F.sum(1, keepdim=True)), InContext("tanh")
    return model, model.train(model.init(one, d=1, seed=3), one, 4000)[0], one


@claim(
    "critical-points",
    title="Three words for critical",
    box="prop-critical",
    standing=Standing.PROVED,
    uses=("lem-variations", "prop-slope"),
    paper="Descent",
    number="Proposition",
    statement=r"No homotopy descends, $B^\top\Sigma_\zeta=0$ and $\delta\mathcal L/\delta\mu\equiv0$ "
    r"are the same; a cloud at rest under the flow is critical if its input weights include those "
    r"of $\mu^\circ$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"a cloud at rest without the teachers' weights": {"wide": False}},
)
def critical_points(wide: bool = True) -> Evidence:
    """A cloud of 12 neurons at rest, weights of the teachers among its own; 20 R and 200 neurons."""
    model, cloud, population = stationary(wide)
    k, D = population.F.shape[1], population.X.shape[1]
    at = LandscapeStart(model.features(cloud, population.X), population)
    speed = max(float(v.abs().max()) for v in model.velocities(cloud, population))
    R = torch.linalg.qr(draws.normal(2, "R", (k, k), 20))[0]
    slopes = at.along(R)[0].abs().max()
    probe = Neurons(draws.normal(4, "a", (200, k)), draws.normal(4, "w", (200, D)))
    value = model.first_variation(cloud, population, probe).abs().max()
    return Evidence(
        {
            "no homotopy has a slope": float(slopes) < 1e-6,
            "the first variation is zero everywhere": float(value) < 1e-6,
            "B^T Sigma_zeta is zero": float(at.steepest) < 1e-6,
        },
        {"loss": float(at.loss), "largest_slope": float(slopes), "largest_variation": float(value)},
        {"the cloud is at rest": speed < 1e-4},
    )


@claim(
    "critical-values",
    theorem="critical-values",
    paper="Descent",
    number="Theorem",
    statement=r"At a critical point $\zeta=P_Vf^\circ$ for a span $V$ of eigenvectors of "
    r"$\Sigma^\circ$, and $\mathcal L=\frac12\sum_{j\in S}r_j$; with $2k$ independent features "
    r"to choose from each subset $S$ occurs.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"one feature half learned": {"angle": 0.8}},
)
def critical_values(angle: float = 0.0) -> Evidence:
    """Four spectra of three features, all eight subsets each, learned features mixed at random."""
    of, outcomes, off, occur = theorems.get("critical-values"), [], 0.0, True
    for r in SPECTRA:
        population, others = small(r)
        for seed, S in enumerate(subsets(3)):
            h = population.F.clone()
            h[:, list(S)] = others[:, list(S)]
            turned = angle * (len(S) < 3)
            if turned:  # the first feature that is learned turns halfway to one of the others
                j = next(i for i in range(3) if i not in S)
                h[:, j] = torch.cos(torch.tensor(turned)) * h[:, j] + others[:, j] * turned
            outcomes.append(of(h @ draws.normal(seed, "mix", (3, 3)), population).against())
            at = outcomes[-1].report.start
            left = population.F.clone()
            left[:, [j for j in range(3) if j not in S]] = 0
            off = max(off, float((at.at.zeta - left).abs().max()))
            occur &= abs(float(at.loss) - sum(r[j] for j in S) / 2) < 1e-12
    return Evidence.of(
        outcomes,
        conclusions={
            "what is left is the projection on V": off < 1e-10,
            "every subset occurs": occur,
        },
        largest_distance_from_the_projection=off,
    )


def at_saddles(R: str = "") -> list:
    """The theorem on strict saddles at all 28 points with something unlearned, eight mixtures each."""
    of, outcomes = theorems.get("kim2024-theorem-3-3"), []
    for r in SPECTRA:
        for S in subsets(3)[1:]:
            population, plain = small(r)[0], None
            plain = unlearned(r, S, 0)[1]
            h = plain @ draws.normal(1 + sum(S), "mix", (3, 3), 8)
            start = LandscapeStart(h, population)
            away = start.escape @ torch.eye(3, dtype=h.dtype).flip(0) if R else None
            outcomes.append(of(h, population, away).against())
    # nothing learned, all eigenvalues and all features alike: here the constant is attained
    population, alike = small(SPECTRA[3])
    return [*outcomes, of(alike, population).against()]


@claim(
    "kim2024-theorem-3-3",
    theorem="kim2024-theorem-3-3",
    paper=PAPER,
    number="Theorem 3.3 (ii)",
    statement=r"Critical points that are no global minima have $\mathcal L\ge\underline r/2$, and a "
    r"homotopy along which $\frac{d^2}{ds^2}\mathcal L\le-\frac4{mR_1^2}\mathcal L^2\le"
    r"-\frac4{kR_1^2}\mathcal L^2$ where it begins, $m$ features being unlearned.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "another orthogonal matrix": {"other": True},
        "a constant 1.02 times as large": {"times": 1.02},
    },
)
def strict_saddles(other: bool = False, times: float = 1.0) -> Evidence:
    """28 critical points, each mixed in eight ways: four spectra, every set of unlearned features;
    and one more."""
    outcomes = at_saddles("other" if other else "")
    bent = torch.cat([o.report["-d²L/ds²"].flatten() for o in outcomes])
    best = max(float(o.conclusions[-1].sharpness.max()) for o in outcomes)
    return Evidence.of(
        outcomes,
        conclusions={"the constant can be so large": times * best <= 1 + 1e-9},
        least=float(bent.min()),
        most=float(bent.max()),
    )


# ---------------------------------------------------------------------------- and the flow


def one_neuron(activation: Activation) -> SaddleStart:
    """One neuron at w = 0, and a true feature that another one makes, centred, of second moment one.

    `size` is that of f° on a cloud of two that had the other neuron.
    """
    X = in_context.planted(3, 1, 200, seed=0, r=(1.0,))[0].X
    mean = activation.value(X[:, :1]).mean()  # a neuron at zero, whose answer is one, takes it off
    raw = activation.value(X[:, :1]) - mean
    F = raw / raw.square().mean().sqrt()
    one = Neurons(torch.ones(1, 1, dtype=X.dtype), torch.zeros(1, 3, dtype=X.dtype))
    size = 2 * float((1 + mean.square()) / raw.square().mean())
    return SaddleStart(InContext(activation), one, Population(X, F), size)


def cosines() -> SaddleStart:
    """Inputs around a circle, one neuron that says one, and one without a say along the true cosine."""
    X = torch.arange(16, dtype=torch.float64)[:, None] * torch.pi / 8
    cosine = InContext(Activation(torch.cos, lambda Z: -torch.sin(Z)))
    cloud = Neurons(torch.tensor([[1.0], [0.0]]).double(), torch.tensor([[0.0], [1.0]]).double())
    return SaddleStart(cosine, cloud, Population(X, torch.cos(X)))


@claim(
    "strict-for-homotopies-only",
    title="A strict saddle at which the flow has no growing direction",
    box="prop-even",
    standing=Standing.PROVED,
    uses=("thm-strict", "prop-escape"),
    paper="Descent",
    number="Proposition",
    statement=r"For an even activation, $k=1$, $\mathbb Ef^\circ=0$ and one neuron at $w=0$ the flow "
    r"rests, its linearisation is zero, and the homotopy to $f^\circ$ has a negative curvature.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "an activation with an odd part": {"odd": True},
        "a homotopy to an odd function": {"astray": True},
    },
)
def even_neuron(odd: bool = False, astray: bool = False) -> Evidence:
    """One neuron of exp(-z²/2) at w = 0, a = 1; the true feature is another such neuron, centred."""
    start = one_neuron(BOTH if odd else BUMP)
    model, one, population = start.model, start.neurons, start.population
    speed = max(float(v.abs().max()) for v in model.velocities(one, population))
    rates = torch.linalg.eigvalsh(model.escape_matrix(one, population))
    at, largest = start.features, float(start.exponents.abs().max())
    end = population.X[:, :1] if astray else population.F
    _, curvature = in_context.variations(at.at, end - at.h)
    return Evidence(
        {
            "the escape matrix is zero": float(rates.abs().max()) < 1e-12,
            "so is the automatic Hessian": largest < 1e-12,
            "the homotopy bends down": float(curvature) < -1e-3,
        },
        {"curvature": float(curvature), "largest_exponent": largest,
         "loss": float(at.loss)},
        {"the neuron rests": speed < 1e-12, "the point is critical": bool(at.critical.met)},
    )  # fmt: skip


def cloud_at_saddle(r: tuple[float, ...], S: tuple[int, ...], seed: int) -> SaddleStart:
    """Eighteen neurons in pairs along w and -w, the teachers' w among them, that leave S unlearned."""
    population, teachers = in_context.planted(4, len(r), 60, seed=0, r=r)
    k, mix = len(r), draws.normal(seed, "mix", (len(r), len(r)))
    learned = teachers.a.clone()  # (teacher, feature)
    learned[:, list(S)] = 0
    even = draws.normal(seed, "a", (9, k))
    even[:, [j for j in range(k) if j not in S]] = 0
    w = torch.cat([teachers.w, draws.normal(seed, "w", (9 - k, 4))])
    odd = torch.zeros(9, k, dtype=w.dtype)
    odd[:k] = learned
    a = torch.cat([even + odd, even - odd]) @ mix
    return SaddleStart(InContext(BOTH), Neurons(a, torch.cat([w, -w])), population)


@claim(
    "saddles-of-the-flow",
    theorem="saddles-of-the-flow",
    paper="Descent",
    number="Theorem",
    statement=r"If the cloud's input weights can represent $f^\circ$ with $\|a^\circ\|$, the flow "
    r"linearised at a critical point has a growth exponent of at least $4\mathcal L^2/(kR_1^2"
    r"\|a^\circ\|^2)$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "the one even neuron, with its teacher's norm": {"even": True},
        "the cosines counted too": {"exempt": 0},
    },
)
def saddles_of_the_flow(even: bool = False, exempt: int = 1) -> Evidence:
    """Clouds of 18 neurons at all 28 saddles and one of two cosines; Hessians by automatic
    differentiation."""
    of = theorems.get("saddles-of-the-flow")
    starts = [cloud_at_saddle(r, S, i) for r in SPECTRA for i, S in enumerate(subsets(3)[1:])]
    starts = [one_neuron(BUMP)] if even else [*starts, cosines()]
    outcomes = [of(s.model, s.neurons, s.population, s.size).against() for s in starts]
    exponents = [float(o.report["largest exponent"]) for o in outcomes]
    slack = [float(o.conclusions[0].sharpness.max()) for o in outcomes[: len(outcomes) - exempt]]
    return Evidence.of(
        outcomes,
        conclusions={"but for the cosines by a factor of a hundred": max(slack, default=0) < 0.01},
        least_exponent=min(exponents),
        largest_exponent=max(exponents),
    )


@claim(
    "escape-spectrum",
    theorem="escape-spectrum",
    paper="Descent",
    number="Proposition",
    statement=r"Where $C=0$ the growth exponents of the linearised flow are the eigenvalues of "
    r"$\int[cc^\top\otimes\Sigma^{-1}+\nabla c\nabla c^\top\otimes bb^\top]\,d\mu$, and zeros.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"input weights that do not move": {"frozen": True}},
)
def escape_spectrum(frozen: bool = False) -> Evidence:
    """Five clouds of 30 neurons in pairs along w and -w; nine exponents each, and 270 directions."""
    population, _ = in_context.planted(6, 3, 100, seed=0, r=SPECTRA[0])
    a, w = draws.normal(1, "a", (15, 3), 5), draws.normal(1, "w", (15, 6), 5)
    cloud = Neurons(torch.cat([a, a], 1), torch.cat([w, -w], 1))
    model = InContext(Activation(BOTH.value, torch.zeros_like) if frozen else BOTH)
    outcome = theorems.get("escape-spectrum")(model, cloud, population).against()
    return Evidence.of(
        [outcome],
        largest_exponent=float(outcome.report["largest exponent"].max()),
        least_exponent=float(outcome.report["least"].min()),
    )


# ---------------------------------------------------------------------------- index


def index_of(r: tuple[float, ...], S: tuple[int, ...], *, pairs: bool, ties: bool) -> int:
    """m², and one for each unlearned feature above a learned one; ``ties`` counts equal ones too."""
    learned = [b for b in range(len(r)) if b not in S]
    above = sum(r[j] > r[b] or (ties and r[j] == r[b]) for j in S for b in learned)
    return len(S) ** 2 + pairs * above


@claim(
    "morse-index",
    theorem="morse-index",
    paper="Descent",
    number="Theorem",
    statement=r"At a critical point with $S$ unlearned, $|S|=m$, the second variation is negative on "
    r"$m^2+\#\{(j,b):j\in S,\,b\notin S,\,r_j>r_b\}$ dimensions, and no more.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={
        "the square alone": {"pairs": False},
        "ties counted": {"ties": True},
    },
)
def morse_index(pairs: bool = True, ties: bool = False) -> Evidence:
    """Four spectra, every subset, learned features mixed at random: 32 Hessians of 36 dimensions."""
    of, outcomes, wrong = theorems.get("morse-index"), [], 0
    for r in SPECTRA:
        for seed, S in enumerate(subsets(3)):
            population, h = unlearned(r, S, seed)
            outcomes.append(of(h, population).against())
            wrong += int(outcomes[-1].report["index"]) != index_of(r, S, pairs=pairs, ties=ties)
    largest = max(float(o.report["index"]) for o in outcomes)
    return Evidence.of(
        outcomes, conclusions={"the sets give these indices": wrong == 0}, largest_index=largest
    )


@claim(
    "global-minima",
    theorem="global-minima",
    paper="Descent",
    number="Proposition",
    statement=r"With $\Sigma^\circ\succ0$ the loss is zero exactly for $h=Rf^\circ$ with invertible "
    r"$R$; the Hessian there is positive but for the $k^2$ directions along them.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"a part that is no mixture of the true features": {"across": 0.1}},
)
def global_minima(across: float = 0.0) -> Evidence:
    """Twenty random R for each of four spectra; losses, and Hessians of 36 dimensions."""
    of, outcomes = theorems.get("global-minima"), []
    for r in SPECTRA:
        population, others = small(r)
        R = torch.stack([draws.normal(seed, "mix", (3, 3)) for seed in range(20)])
        outcomes.append(of(population.F @ R + across * others, population).against())
    return Evidence.of(outcomes, largest_loss=max(float(o.report["L"].max()) for o in outcomes))


# ---------------------------------------------------------------------------- homotopies


#: Coefficients of the true and of the learned features in four orthonormal functions, in halves.
TRUE, LEARNED = ((4, 0), (0, 2), (0, 0), (0, 0)), ((4, -1), (-2, 2), (5, -4), (-6, 5))


def halves(A: tuple[tuple[int, ...], ...]) -> Tensor:
    """The features that have these coefficients in an orthonormal basis, at as many inputs."""
    return torch.tensor(A, dtype=torch.float64) / 2 * len(A) ** 0.5


def polar(A: flint.arb_mat) -> flint.arb_mat:
    """The orthogonal matrix next to a two by two one: A plus or minus its cofactors, normalised."""
    a, b, c, d = A.entries()
    sign = 1 if a * d - b * c > 0 else -1
    p, q = a + sign * d, b - sign * c
    size = (p * p + q * q).sqrt()
    return flint.arb_mat([[p / size, q / size], [-sign * q / size, sign * p / size]])


def enclosed(s: flint.arb, R: flint.arb_mat | None = None) -> tuple[flint.arb, flint.arb_mat]:
    r"""In balls, the loss at s on the homotopy and :math:`\Sigma_\zeta B` there."""
    F, h = (flint.arb_mat([[flint.arb(x) / 2 for x in row] for row in A]) for A in (TRUE, LEARNED))
    if R is not None:
        h = h * (1 - s) + F * R.transpose() * s
    C, Sigma = F.transpose() * h, h.transpose() * h
    B = C * Sigma.inv()
    residual = F.transpose() * F - B * C.transpose()
    return (residual[0, 0] + residual[1, 1]) / 2, residual * B


def rises() -> list[Certain]:
    """The polar factor is unique, the loss below the lowest saddle, and it grows by three tenths."""
    start, pull = enclosed(flint.arb(0))
    later, _ = enclosed(flint.arb(6) / 10, polar(pull.transpose()))
    return [
        Certain("0 < |det Σ_ζ B|, so that R is unique", flint.arb(0), abs(pull.det())),
        Certain("L(0) < r/2, the value of the lowest saddle", start, flint.arb(1) / 2),
        Certain("1.3 L(0) < L(0.6)", start * 13 / 10, later),
    ]


@claim(
    "steepest-homotopy-monotone",
    title="The steepest homotopy may rise",
    box="prop-rises",
    standing=Standing.REFUTED,
    paper="Descent",
    number="Belief",
    statement=r"Along the homotopy of the steepest slope the loss falls all the way to zero.",
    verdict=Verdict.COUNTEREXAMPLE,
    chapter=CHAPTER,
    certificate=rises,
    mutations={"one feature": {"k": 1}, "a random homotopy": {"steepest": False}},
)
def rising(k: int = 2, steepest: bool = True) -> Evidence:
    """20 000 random sets of k features on 2k inputs, fifty points on each homotopy; and the one of
    the chapter. Counted where the polar factor is unique, the singular values within 10^-6."""
    s, risen, worst = torch.linspace(0, 0.98, 50), [], 1.0
    for seed in range(10):
        F, h = draws.normal(seed, "F", (2 * k, k)), draws.normal(seed, "h", (2 * k, k), 2000)
        at = LandscapeStart(h, Population(F[:, :1], F))
        values = torch.linalg.svdvals(at.pull)
        R = in_context.steepest(at.at)
        R = R if steepest else torch.linalg.qr(draws.normal(seed, "R", (k, k), 2000))[0]
        losses = at.losses(R, s)
        rise = (losses.diff(dim=0) > 1e-7 * losses[0]).any(0)
        risen.append(rise[values[:, -1] > 1e-6 * values[:, 0]])
        worst = max(worst, float((losses.amax(0) / losses[0])[rise].max()) if rise.any() else 1.0)
    share = float(torch.cat(risen).double().mean())
    return Evidence(
        {
            "it rises in some of the draws": share > 0,
            "in fewer than one in a hundred, to little more than twice": share < 0.01
            and worst < 2.3,
        },
        {"share_that_rises": share, "largest_rise": worst, "draws": len(torch.cat(risen))},
    )


@claim(
    "monotone-homotopy",
    theorem="monotone-homotopy",
    paper="Descent",
    number="Theorem",
    statement=r"If $B$ is invertible, the loss falls all along $(1-s)h+sB^{-1}f^\circ$, and is at most "
    r"$(1-s)^2\mathcal L$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"the steepest R instead": {"steepest": True}},
)
def monotone_homotopy(steepest: bool = False) -> Evidence:
    """800 random sets of one to four features on twelve inputs."""
    of, outcomes = theorems.get("monotone-homotopy"), []
    for k in (1, 2, 3, 4):
        F, h = draws.normal(k, "F", (12, k)), draws.normal(k, "h", (12, k), 200)
        population = Population(F[:, :1], F)
        R = in_context.steepest(in_context.regress(h, population)) if steepest else None
        outcomes.append(of(h, population, R).against())
    return Evidence.of(outcomes)


@claim(
    "accelerated-phase",
    theorem="accelerated-phase",
    paper="Descent",
    number="Proposition",
    statement=r"Where $\mathcal L<\underline r/2$, $B$ is invertible and $\|\Sigma_\zeta B\|_*\ge"
    r"\frac2{R_1}\sqrt{\underline r-2\mathcal L}\,\mathcal L$.",
    verdict=Verdict.HOLDS,
    chapter=CHAPTER,
    mutations={"the smallest eigenvalue of Σ for the largest": {"smallest": True}},
)
def accelerated_phase(smallest: bool = False) -> Evidence:
    """400 random sets of one to four features, near enough to the true ones."""
    of, outcomes, turned = theorems.get("accelerated-phase"), [], True
    for k in (1, 2, 3, 4):
        F, noise = draws.normal(k, "F", (12, k)), draws.normal(k, "h", (12, k), 400)
        population = Population(F[:, :1], F)
        h = (F + 0.15 * noise) @ draws.normal(k, "mix", (k, k), 400)
        start = LandscapeStart(h, population)
        h = h[start.loss < start.spectrum[0] / 2]
        outcomes.append(of(h[:100], population).against())
        at = outcomes[-1].report.start
        room = (at.spectrum[0] - 2 * at.loss).sqrt()
        size = at.sizes[:, 0 if smallest else -1].sqrt()
        turned &= bool((2 * room * at.loss / size <= at.steepest * (1 + 1e-9)).all())
    return Evidence.of(outcomes, conclusions={"the slope is bounded": turned})
