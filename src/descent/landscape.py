r"""Two-dimensional slices of the loss, as in Li et al. 2018 and Song et al. 2024, section 5.2.

A slice is :math:`(\alpha, \beta) \mapsto f(W_Q + \alpha\,\Delta_Q,\ W_K + \beta\,\Delta_K)` on a
square grid around trained weights. Introduced in :doc:`/song2024/landscape`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import _memory, _validate, draws
from ._descend import descend
from ._errors import error
from .models import Attention, AttentionWeights, Model, _protocol
from .problems import Problem, gaussian


def directions(
    model: Model, weights: NamedTuple, seed: int, *, letters: str = "QK", normalise: bool = True
) -> dict[str, Tensor]:
    """Draw a direction for each of two weights with independent standard normal entries.

    With ``normalise`` every column of a direction gets the length of the same column of the
    weights (Li et al.'s filter normalisation: a column is what one coordinate of a query listens
    to). Without, every column has length sqrt(D) or so, whatever the weights are. All runs get the
    same draw, so that two trainings with one seed are cut along the same lines.

    Returns
    -------
    letter -> direction, in the shape of the weight.

    Raises
    ------
    ValueError : unless ``letters`` are two weights of the model.
    """
    weights, normalise = _validate.weights(weights), _validate.flag("normalise", normalise)
    _validate.model(model, "own")
    letters = letters if isinstance(letters, str) else _validate.several("letters", letters)
    if (
        not all(isinstance(x, str) for x in letters)
        or len(set(letters)) != 2
        or set(letters) - set(weights._fields)
    ):
        found = f"letters must be two of {', '.join(weights._fields)}, got {letters!r}"
        raise error(ValueError, found, "be two letters, as in 'QK'")

    def draw(letter: str) -> Tensor:
        W, own = getattr(weights, letter), model.own[letter]
        shape = tuple(W.shape[W.ndim - own :])
        direction = draws.normal(seed, f"direction_{letter}", shape).to(W)
        if not normalise or not own:
            return direction.expand_as(W)
        column = -2 if own > 1 else -1
        lengths = [torch.linalg.vector_norm(A, dim=column, keepdim=True) for A in (W, direction)]
        return direction * lengths[0] / lengths[1]

    return {letter: draw(letter) for letter in letters}


def offsets(radius: float, points: int) -> Float[Tensor, "points"]:
    """Evenly spaced from -radius to radius; an odd number, so that 0 is the middle one.

    Raises
    ------
    ValueError, TypeError : unless the radius is positive and the points are a whole number.
    """
    radius = _validate.positive("radius", radius)
    if _validate.count("points", points, least=3) % 2 == 0:
        found = f"points must be odd, got {points}: the weights are the middle point"
        raise error(ValueError, found, "be odd")
    _memory.room("the offsets", points)
    return torch.linspace(-radius, radius, points, dtype=torch.float64)


def surface(
    model: Model,
    problem: Problem,
    weights: NamedTuple,
    along: Mapping[str, Tensor],
    alpha: Float[Tensor, "a"],
    beta: Float[Tensor, "b"],
) -> Float[Tensor, "*r a b"]:
    """The loss of every run at every point: alpha moves the first weight of ``along``, beta the other.

    A model's own ``loss`` is asked once for all points, so that the attention layer computes
    queries for each alpha and keys for each beta, not for each pair.

    Raises
    ------
    ValueError, TypeError : where weights, directions or offsets do not fit.

    Examples
    --------
    >>> from descent import landscape, models, problems
    >>> problem = problems.gaussian(N=2, n=2, D=8, seed=0)
    >>> layer = models.Attention(kernel="softmax", H=2, d=4)
    >>> weights = layer.init(problem, seed=1, runs=3)
    >>> along = landscape.directions(layer, weights, seed=2)
    >>> steps = landscape.offsets(radius=1.0, points=5)
    >>> landscape.surface(layer, problem, weights, along, steps, steps).shape
    torch.Size([3, 5, 5])
    """
    weights = _validate.weights(weights)
    _protocol.check(_validate.model(model, "own"), weights, problem)
    if not isinstance(along, dict) or len(along) != 2 or set(along) - set(weights._fields):
        found = f"along must be a dict of two directions, got {_validate.shown(along)}"
        raise error(TypeError, found, "draw them with landscape.directions")
    weights = _protocol.spread(model, weights, problem)
    runs = len(_protocol.runs_of(model, weights))
    if problem.X.ndim > 3:  # the problems are runs: alpha and beta come after them
        own = problem.y.ndim - runs
        X = problem.X.unsqueeze(-4).unsqueeze(-4)
        y = problem.y.unsqueeze(-own - 1).unsqueeze(-own - 1)
        problem = Problem(X, y, problem.ambient)
    moved = weights._make(A.unsqueeze(runs).unsqueeze(runs) for A in weights)
    offsets = _line("alpha", alpha), _line("beta", beta)
    for axis, (letter, steps) in enumerate(zip(along, offsets, strict=True)):
        W, direction = getattr(moved, letter), _direction(model, weights, letter, along[letter])
        grid = [1, 1, *[1] * model.own[letter]]
        grid[axis] = len(steps)
        step = steps.to(W).reshape(grid) * direction.unsqueeze(runs).unsqueeze(runs)
        moved = moved._replace(**{letter: W + step})
    return _protocol.loss(model, moved, problem)


def _direction(model: Model, weights: NamedTuple, letter: str, direction: Tensor) -> Tensor:
    W, name = getattr(weights, letter), f"direction {letter}"
    direction = _validate.tensor(name, direction)
    own = tuple(W.shape[W.ndim - model.own[letter] :])
    if own:
        _validate.shape(name, direction, own, "weights are others")
    _validate.finite(name, direction, "draw it again with landscape.directions")
    return direction.expand_as(W)


def _line(name: str, values: Tensor) -> Tensor:
    values = _validate.finite(name, _validate.tensor(name, values), "give finite offsets")
    if values.ndim != 1 or not len(values):
        found = f"{name} must be a line of offsets, got shape {tuple(values.shape)}"
        raise error(ValueError, found, "take landscape.offsets(radius, points)")
    return values


def _slice(f: Tensor) -> Tensor:
    """A surface that has an inside and numbers everywhere, or an error."""
    f = _validate.matrix("f", f)
    if min(f.shape[-2:]) < 3:
        found = f"f has {f.shape[-2]} x {f.shape[-1]} points, and none with neighbours all around"
        raise error(ValueError, found, "give at least 3 x 3")
    return _validate.finite("f", f, "take a smaller radius, where the loss is a number")


def minima(f: Float[Tensor, "*r a b"]) -> Int[Tensor, "*r"]:
    """How many interior points of the grid lie strictly below all of their eight neighbours."""
    f = _slice(f)
    centre = f[..., 1:-1, 1:-1]
    lower = torch.ones_like(centre, dtype=torch.bool)
    for i in range(3):
        for j in range(3):
            if (i, j) != (1, 1):
                rows, columns = slice(i, f.shape[-2] - 2 + i), slice(j, f.shape[-1] - 2 + j)
                lower &= centre < f[..., rows, columns]
    return lower.sum((-2, -1))


def curvature(f: Float[Tensor, "*r a b"], spacing: float) -> Float[Tensor, "*r"]:
    """The larger eigenvalue of the Hessian of the slice at its middle, by central differences.

    The slice has an odd number of points each way, ``spacing`` apart.

    Raises
    ------
    ValueError, TypeError : for a spacing that is not positive, or an even number of points.
    """
    f, spacing = _slice(f), _validate.positive("spacing", spacing)
    if not all(size % 2 for size in f.shape[-2:]):
        found = f"f has {f.shape[-2]} x {f.shape[-1]} points, and none in the middle"
        raise error(ValueError, found, "give an odd number each way")
    i, j = (size // 2 for size in f.shape[-2:])
    near = f[..., i - 1 : i + 2, j - 1 : j + 2]
    aa = near[..., 2, 1] - 2 * near[..., 1, 1] + near[..., 0, 1]
    bb = near[..., 1, 2] - 2 * near[..., 1, 1] + near[..., 1, 0]
    ab = (near[..., 2, 2] - near[..., 2, 0] - near[..., 0, 2] + near[..., 0, 0]) / 4
    half = ((aa - bb).square() / 4 + ab.square()).sqrt()
    return ((aa + bb) / 2 + half) / spacing / spacing


def roughness(f: Float[Tensor, "*r a b"]) -> Float[Tensor, "*r"]:
    """The share of the slice's variance that no quadratic in (alpha, beta) explains.

    Zero for a bowl, a saddle or a plain, one for a surface that has nothing of any.
    """
    f = _slice(f)
    a, b = (torch.linspace(-1, 1, k, dtype=f.dtype) for k in f.shape[-2:])
    A, B = torch.meshgrid(a, b, indexing="ij")
    monomials = torch.stack([torch.ones_like(A), A, B, A * A, A * B, B * B], -1)
    basis = torch.linalg.qr(monomials.flatten(0, 1))[0].to(f.device)
    values = f.flatten(-2)
    rest = values - (values @ basis) @ basis.mT
    spread = values - values.mean(-1, keepdim=True)
    of = spread.square().sum(-1)
    return torch.where(of > 0, rest.square().sum(-1) / of, 0)


def interaction(N: int, n: int, D: int, seed: int) -> Problem:
    r"""A task that needs attention: the label of a token depends on the others.

    Standard normal tokens; :math:`y_{ik} = \operatorname{sign}\big((x_{ik}\cdot a)
    (\bar x_i\cdot b)\big)`, with the mean token of the sequence and random vectors a, b.
    """
    problem = gaussian(N, n, D, seed)
    a, b = draws.normal(seed, "ab", (2, D))
    return Problem(problem.X, ((problem.X @ a) * (problem.X.mean(1) @ b)[:, None]).sign())


class TwoStages(NamedTuple):
    """Weights of the protocol of Song et al., section 5.2, and of the control that it lacks."""

    first: AttentionWeights
    softmax: AttentionWeights
    gaussian: AttentionWeights
    alone: AttentionWeights


def two_stages(
    problem: Problem, *, H: int, d: int, runs: int, seed: int, step: float, steps: tuple[int, int]
) -> TwoStages:
    """Train all matrices with softmax, then go on with softmax or with the Gaussian.

    ``first`` is where stage one ends; ``softmax`` and ``gaussian`` where stage two does; ``alone``
    was trained with the Gaussian from the same start for as many steps as both stages together.

    Raises
    ------
    ValueError, TypeError : for steps that are not two whole numbers, and for what `descend` refuses.
    """
    first, second = (_validate.count("steps", k) for k in _validate.several("steps", steps, 2))
    layers = {kernel: Attention(kernel, H=H, d=d) for kernel in ("softmax", "gaussian")}
    start = layers["softmax"].init(problem, runs=runs, seed=seed)

    def train(kernel: str, weights: AttentionWeights, count: int) -> AttentionWeights:
        return descend(layers[kernel], problem, weights, step=step, steps=count).weights

    middle = train("softmax", start, first)
    seconds = (train(kernel, middle, second) for kernel in layers)
    return TwoStages(middle, *seconds, train("gaussian", start, first + second))
