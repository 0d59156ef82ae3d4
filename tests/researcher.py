"""A notebook as a researcher would write it: run from top to bottom by test_researcher.py."""

# %% Tokens of one's own, as numpy has them
from typing import NamedTuple

import numpy as np
import torch

import descent

rng = np.random.default_rng(0)
X, y = rng.normal(size=(6, 3, 40)), rng.normal(size=(6, 3))
problem = descent.problems.Problem(X, y)

# %% A kernel of one's own, and a layer with it
descent.kernels.register("cauchy", lambda C: 1 / (1 - C), score="distance")
layer = descent.models.Attention(kernel="cauchy", H=2, d=20)
weights = layer.init(problem, seed=1, runs=8)
run = descent.descend(layer, problem, weights, steps=400)
assert (run.loss[-1] < run.loss[0] / 1000).all()

# %% What a theorem says of these data
theorem = descent.theorems.get("song2024-theorem-1")
softmax = descent.models.Attention(kernel="softmax", H=2, d=20)
report = theorem(softmax, problem, softmax.init(problem, seed=1, runs=8))
outcome = report.trial(steps=200)
assert outcome.met.all() and outcome.holds
print(report, outcome, sep="\n\n")


# %% A model of one's own, by the protocol
class Weights(NamedTuple):
    W: torch.Tensor


class Mean:
    """The mean token of a sequence, fitted to the mean of its labels by least squares."""

    trainable, acts_on_tokens, own = "W", "W", {"W": 2}

    def init(self, problem, *, seed, runs=None, scale=1.0):
        return Weights(scale * descent.draws.normal(seed, "W", (problem.D, 1), runs))

    def loss_and_gradient(self, weights, problem, train):
        mean = problem.X.mean(-2)
        off = mean @ weights.W - problem.y.mean(-1)[..., None]
        gradient = {"W": mean.mT @ off}
        return off.square().sum((-2, -1)) / 2, {W: gradient[W] for W in train}


model = Mean()
assert isinstance(model, descent.models.Model)
mine = descent.descend(model, problem, model.init(problem, seed=0, runs=1000), steps=300)
assert (mine.loss[-1] < 1e-6 * mine.loss[0]).all()


# %% A sweep over sizes of one's own problem, its table, and a row back to its run
def drawn(N, seed):
    own = np.random.default_rng([N, seed])
    return descent.problems.Problem(own.normal(size=(N, 3, 10)), own.normal(size=(N, 3)))


family = {"problem": drawn, "model": model}
table = descent.sweep("means.parquet", **family, N=[4, 16], seed=range(10), steps=100)
shares = (table["last_loss"] / table["first_loss"]).groupby(table["N"]).median()
assert shares[4] < 1e-3 < shares[16]  # sixteen labels do not fit into ten numbers
row = table.iloc[13]
again = descent.rerun(row, **family)
assert np.isclose(float(again.run.loss[-1]), row["last_loss"], rtol=1e-9)

# %% Pictures: of a run and of the table
assert "<svg" in run.plot().html
kernels = descent.sweep(
    kernel=["softmax", "cauchy"], N=2, n=2, D=[4, 8], d=[1, 2], seed=range(2), steps=20
)
picture = descent.plots.figure(
    descent.plots.phase(kernels, x="D", y="d"),
    alt="Two panels of four squares.",
    caption="Share of runs that arrive, softmax beside the kernel of one's own.",
)
assert "<svg" in picture.html

# %% A run kept, and read again
run.save("run.npz")
back = descent.Trajectory.load("run.npz")
assert torch.equal(back.loss, run.loss) and torch.equal(back.weights.V, run.weights.V)
assert type(back.weights) is type(run.weights)
assert back.to_pandas().shape == (401, 8)
print(back)
