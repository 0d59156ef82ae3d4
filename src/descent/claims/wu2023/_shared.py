"""What the claims on the encoder share."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ... import draws, problems
from ...models import Encoder, EncoderWeights
from ...problems import Problem

PAPER = "wu2023"


def near_outputs(
    encoder: Encoder, tokens: Problem, noise: float, runs: int = 8, seed: int = 1
) -> tuple[Encoder, Problem, EncoderWeights]:
    """Labels at ``noise`` times a standard normal vector from each run's first outputs."""
    weights = encoder.init(tokens, runs=runs, seed=seed)
    off = noise * draws.normal(seed + 1, "off", (tokens.N,), runs)
    X = tokens.X.expand(runs, *tokens.X.shape)
    return encoder, Problem(X, encoder.predict(weights, tokens) + off), weights


def unit_tokens(N: int, n: int, D: int, seed: int = 0) -> Problem:
    """Random tokens of length one, one label a sequence."""
    return problems.sequences(N=N, n=n, D=D, seed=seed, length=1.0)


def stacked(each: Iterable[Problem]) -> Problem:
    """Problems of one shape as one, a run for each."""
    X, y = zip(*((problem.X, problem.y) for problem in each), strict=True)
    return Problem(torch.stack(X), torch.stack(y))


def spectrum(
    problem: Problem, d: int, scaling: str, initialisation: str = "ntk", runs: int = 20
) -> Tensor:
    """Eigenvalues (runs, N) of the first tangent kernels, in rising order."""
    encoder = Encoder(d, scaling, initialisation)
    return torch.linalg.eigvalsh(encoder.ntk(encoder.init(problem, runs=runs, seed=1), problem))
