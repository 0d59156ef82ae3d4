"""Gradient descent on the same attention layer, as one would write it without this library.

Each rival is made from a layer, a problem and weights of many runs, and called with a number of
steps; it returns every run's loss (runs,), so that the bench can see that all do the same.
"""

import math
import os

import torch
from torch import nn

# Must be set before jax is imported: it takes float32 otherwise.
os.environ["JAX_ENABLE_X64"] = "1"


def step_size(problem):
    """Curvature grows like the squared length of a token, which is D."""
    return 0.03 / problem.ambient


class Layer(nn.Module):
    """One run as a module: all heads in one product, as is usual."""

    def __init__(self, weights):
        super().__init__()
        self.Q, self.K, self.V = (nn.Parameter(W.clone()) for W in weights[:3])
        self.register_buffer("O", weights.O)

    def forward(self, X):
        return attend(X, self.Q, self.K, self.V, self.O)


def attend(X, Q, K, V, O):
    """(N, n, D) tokens to (N, n): softmax attention of H heads with a fixed output vector."""
    q, k, v = (X[:, None] @ W for W in (Q, K, V))
    S = torch.softmax(q @ k.mT / math.sqrt(Q.shape[-1]), -1)
    return torch.einsum("ihnd,hd->in", S @ v, O)


def autograd_loop(layer, problem, weights):
    """One module and one ``torch.optim.SGD`` a run, one run after the other."""
    modules = [Layer(type(weights)(*W)) for W in zip(*weights, strict=True)]

    def train(module, steps):
        optimiser = torch.optim.SGD(module.parameters(), lr=step_size(problem))
        for _ in range(steps):
            optimiser.zero_grad()
            loss = (module(problem.X) - problem.y).square().sum() / 2
            loss.backward()
            optimiser.step()
        return (module(problem.X) - problem.y).square().sum().item() / 2

    return lambda steps: [train(module, steps) for module in modules]


def vmapped(layer, problem, weights):
    """``torch.func.vmap(grad)`` over the runs, the steps in a Python loop."""

    def loss(moving, O):
        return (attend(problem.X, *moving, O) - problem.y).square().sum() / 2

    eta = step_size(problem)
    gradient = torch.func.vmap(torch.func.grad(loss))

    def train(steps):
        moving = tuple(weights[:3])
        for _ in range(steps):
            step = gradient(moving, weights.O)
            moving = tuple(W - eta * g for W, g in zip(moving, step, strict=True))
        return torch.func.vmap(loss)(moving, weights.O).tolist()

    return train


def jitted(layer, problem, weights):
    """``jax.jit(vmap(scan))``: compiled once for each number of steps, before it is timed."""
    import jax
    import jax.numpy as jnp

    X, y = jnp.asarray(problem.X.numpy()), jnp.asarray(problem.y.numpy())
    eta = step_size(problem)
    start = tuple(jnp.asarray(W.numpy()) for W in weights)

    def loss(moving, O):
        q, k, v = (jnp.einsum("inD,hDd->ihnd", X, W) for W in moving)
        S = jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1]), -1)
        return jnp.square(jnp.einsum("ihnd,hd->in", S @ v, O) - y).sum() / 2

    def one_run(steps, moving, O):
        def step(moving, _):
            gradient = jax.grad(loss)(moving, O)
            return jax.tree.map(lambda W, g: W - eta * g, moving, gradient), None

        return loss(jax.lax.scan(step, moving, length=steps)[0], O)

    compiled = {}

    def train(steps):
        if steps not in compiled:
            compiled[steps] = jax.jit(jax.vmap(lambda moving, O: one_run(steps, moving, O)))
            compiled[steps](start[:3], start[3]).block_until_ready()
        return compiled[steps](start[:3], start[3]).tolist()

    return train
