"""A model of one's own, as short as one can be: what the protocol asks for, and no more."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from descent import draws


class Weights(NamedTuple):
    W: Tensor  # (*r, D, 1)
    b: Tensor  # (*r)


@dataclass(frozen=True)
class Logistic:
    """Logistic regression on the mean token, with a bias: one label +1 or -1 a sequence."""

    trainable = "Wb"
    acts_on_tokens = "W"
    own = {"W": 2, "b": 0}

    def init(self, problem, *, seed, runs=None, scale=1.0):
        W = draws.normal(seed, "W", (problem.D, 1), runs).to(problem.X)
        return Weights(scale * W / problem.ambient**0.5, torch.zeros_like(W[..., 0, 0]))

    def loss_and_gradient(self, weights, problem, train):
        x = problem.X.mean(-2)  # (..., N, D)
        margin = problem.y * ((x @ weights.W).squeeze(-1) + weights.b[..., None])
        pull = -problem.y * torch.sigmoid(-margin)  # the loss by each output
        gradient = {"W": x.mT @ pull[..., None], "b": pull.sum(-1)}
        return torch.nn.functional.softplus(-margin).sum(-1), {k: gradient[k] for k in train}
