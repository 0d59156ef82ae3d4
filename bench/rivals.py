"""Gradient descent on the book's models, as one would write it without this library.

Each rival is made from a model, a problem and weights of many runs, and called with a number of
steps; it returns every run's loss (runs,), so that the bench can see that all do the same.
"""

import math
import os
from types import SimpleNamespace

import torch
from torch import nn

from descent import models

# Must be set before jax is imported: it takes float32 otherwise, and most of a GPU's memory.
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


def step_size(problem):
    """Curvature grows like the squared length of a token, which is D."""
    return 0.03 / problem.ambient


# -- the losses of one run, in the terms that torch and JAX share ---------------------------------


def attention(of, layer, problem, W):
    """Attention of H heads with a fixed output vector: all heads in one product."""
    X, y = of.array(problem.X), of.array(problem.y)
    q, k, v = (X[:, None] @ W[name] for name in "QKV")
    if layer.kernel.score == "dot":
        S = of.softmax(q @ k.swapaxes(-1, -2) / math.sqrt(layer.d), -1)
    else:
        apart = of.square(q[..., :, None, :] - k[..., None, :, :]).sum(-1)
        S = of.exp(-apart / (2 * math.sqrt(layer.d)))
    return of.square(of.einsum("ihnd,hd->in", S @ v, W["O"]) - y).sum() / 2


def encoder(of, layer, problem, W):
    """Half the squared residuals of an encoder."""
    return of.square(encoded(of, layer, problem, W) - of.array(problem.y)).sum() / 2


def encoded(of, layer, problem, W):
    """Attention, ReLU, a sum over tokens and a linear read-out."""
    X = of.array(problem.X)
    q, k, v = (X @ W[name] for name in "QKV")
    S = of.softmax(layer.tau_0 * q @ k.swapaxes(-1, -2), -1)
    features = layer.tau_1(problem) * of.relu(S @ v).sum(-2)
    return features @ W["O"]


def selection(of, layer, problem, W):
    """The mean logistic loss of attention with one query a sequence."""
    X, y = of.array(problem.X), of.array(problem.y)
    scores = of.einsum("ina,ia->in", X, X[:, layer.query] @ W["W"].swapaxes(-1, -2))
    f = y * of.einsum("in,in->i", of.softmax(scores, -1), X @ W["u"])
    return of.softplus(-f).mean()


def in_context(of, model, population, W):
    """What infinite prompts leave of the true features with the best attention; sigmoid neurons."""
    X, F = of.array(population.X), of.array(population.F)
    h = of.sigmoid(X @ W["w"].swapaxes(-1, -2)) @ W["a"] / W["a"].shape[-2]
    Sigma, C = h.swapaxes(-1, -2) @ h / len(X), F.swapaxes(-1, -2) @ h / len(X)
    zeta = F - h @ of.solve(Sigma, C.swapaxes(-1, -2))
    return of.square(zeta).sum() / (2 * len(X))


LOSSES = {
    models.Attention: attention,
    models.Encoder: encoder,
    models.Selection: selection,
    models.InContext: in_context,
}
TORCH = SimpleNamespace(
    array=lambda x: x,
    einsum=torch.einsum,
    exp=torch.exp,
    relu=torch.relu,
    sigmoid=torch.sigmoid,
    softmax=torch.softmax,
    softplus=nn.functional.softplus,
    solve=torch.linalg.solve,
    square=torch.square,
)


def in_jax():
    """The same of JAX."""
    import jax
    import jax.numpy as jnp

    if os.environ.get("DEVICE") == "cuda" and jax.default_backend() != "gpu":
        raise SystemExit("bench: this JAX sees no GPU: put jax[cuda13] into _build/bench")

    return SimpleNamespace(
        array=lambda x: jnp.asarray(x.cpu().numpy()),
        einsum=jnp.einsum,
        exp=jnp.exp,
        relu=jax.nn.relu,
        sigmoid=jax.nn.sigmoid,
        softmax=jax.nn.softmax,
        softplus=jax.nn.softplus,
        solve=jnp.linalg.solve,
        square=jnp.square,
    )


def parts(model, weights, train):
    """The weights that move, and those that do not, by name."""
    named = weights._asdict()
    train = train or model.trainable
    return {W: named[W] for W in train}, {W: named[W] for W in named if W not in train}


# -- the rivals -----------------------------------------------------------------------------------


def autograd_loop(model, problem, weights, eta=None, train=None, normalise=False):
    """One module and one ``torch.optim.SGD`` a run, one run after the other.

    ``normalise`` divides each gradient by its length.
    """
    eta, each = eta or step_size(problem), LOSSES[type(model)]
    moving, fixed = parts(model, weights, train)
    runs = len(weights[0])
    modules = [nn.ParameterDict({W: x[r].clone() for W, x in moving.items()}) for r in range(runs)]
    others = [{W: x[r] for W, x in fixed.items()} for r in range(runs)]

    def descend(module, other, steps):
        optimiser = torch.optim.SGD(module.parameters(), lr=eta)
        here = dict(module) | other
        for _ in range(steps):
            optimiser.zero_grad()
            each(TORCH, model, problem, here).backward()
            for W in module.parameters() if normalise else ():
                W.grad /= W.grad.norm()
            optimiser.step()
        return each(TORCH, model, problem, here).item()

    return lambda steps: [descend(*run, steps) for run in zip(modules, others, strict=True)]


def vmapped(model, problem, weights, eta=None, train=None):
    """``torch.func.vmap(grad)`` over the runs, the steps in a Python loop."""
    eta, each = eta or step_size(problem), LOSSES[type(model)]
    start, fixed = parts(model, weights, train)

    def loss(moving, fixed):
        return each(TORCH, model, problem, moving | fixed)

    gradient = torch.func.vmap(torch.func.grad(loss))

    def descend(steps):
        moving = start
        for _ in range(steps):
            step = gradient(moving, fixed)
            moving = {W: x - eta * step[W] for W, x in moving.items()}
        return torch.func.vmap(loss)(moving, fixed).tolist()

    return descend


def jitted(model, problem, weights, eta=None, train=None, normalise=False):
    """``jax.jit(vmap(scan))``: compiled once for each number of steps, before it is timed.

    ``normalise`` divides each gradient by its length.
    """
    import jax

    of, eta, each = in_jax(), eta or step_size(problem), LOSSES[type(model)]
    start = jax.tree.map(of.array, parts(model, weights, train))

    def loss(moving, fixed):
        return each(of, model, problem, moving | fixed)

    def one_run(steps, moving, fixed):
        def step(moving, _):
            gradient = jax.grad(loss)(moving, fixed)
            if normalise:
                gradient = jax.tree.map(lambda g: g / of.square(g).sum() ** 0.5, gradient)
            return jax.tree.map(lambda W, g: W - eta * g, moving, gradient), None

        return loss(jax.lax.scan(step, moving, length=steps)[0], fixed)

    compiled = {}

    def descend(steps):
        if steps not in compiled:
            compiled[steps] = jax.jit(jax.vmap(lambda *run: one_run(steps, *run)))
            compiled[steps](*start).block_until_ready()
        return compiled[steps](*start).tolist()

    return descend


def tangent_kernels(model, problem, weights):
    """The tangent kernels of an encoder (runs, N, N) from ``torch.func``, by its Jacobians."""

    def one(W):
        J = torch.func.jacrev(lambda W: encoded(TORCH, model, problem, W))(W)
        rows = torch.cat([j.flatten(1) for j in J.values()], 1)
        return rows @ rows.mT

    return torch.func.vmap(one)(weights._asdict())
