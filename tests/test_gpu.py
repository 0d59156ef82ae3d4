"""A GPU takes the steps that a processor takes.

There all runs are one block and torch takes the sums. Where there is no GPU the same path is held
against the compiled one on the processor; where there is one, both are.
"""

from typing import NamedTuple

import pytest
import torch

from descent import _layout, descend, draws, models, problems, steps

DEVICES = ["as on a GPU", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def there(request, monkeypatch):
    """`descend` as a GPU does it, by itself or by standing in for it."""

    def train(*given, **options):
        if request.param == "cuda":
            return descend(*given, device="cuda", **options)
        with monkeypatch.context() as patch:
            patch.setattr(_layout, "compiled", lambda: None)
            patch.setattr(_layout, "BLOCK", 2**60)
            return descend(*given, **options)

    return train


def same(run, other):
    """Sums in another order: a few roundings a step, which descent does not let grow."""
    assert torch.allclose(run.loss, other.loss.cpu(), rtol=1e-9, atol=1e-12)
    for one, two in zip(run.weights, other.weights, strict=True):
        assert torch.allclose(one, two.cpu(), rtol=1e-8, atol=1e-9)
    assert (run.diverged_at == other.diverged_at.cpu()).all()


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
@pytest.mark.parametrize("train", ["V", "QK", "QKV"])
@pytest.mark.parametrize("step", [1e-3, "1/L", steps.normalised(1e-3), steps.polyak(0.0, 0.1)])
def test_the_attention_layer_has_the_same_losses_there(there, kernel, train, step):
    problem = problems.gaussian(N=4, n=3, D=32, seed=0)
    layer = models.Attention(kernel, H=2, d=4)
    given = layer, problem, layer.init(problem, runs=5, seed=1)
    options = {"train": train, "step": step, "steps": 20}
    same(descend(*given, **options), there(*given, **options))


def test_the_layer_that_selects_has_the_same_losses_there(there):
    problem, u = problems.planted(N=4, n=3, D=20, seed=0)
    layer = models.Selection(goal="log excess")
    given = layer, problem, layer.init(problem, seed=1, runs=3, u=u)
    same(
        descend(*given, train="W", step=0.1, steps=20), there(*given, train="W", step=0.1, steps=20)
    )


def test_the_encoder_has_the_same_losses_there(there):
    problem = problems.sequences(N=3, n=2, D=8, seed=0)
    encoder = models.Encoder(16, "d^-1", "lecun")
    given = encoder, problem, encoder.init(problem, seed=1, runs=3)
    same(descend(*given, steps=20), there(*given, steps=20))


class Weights(NamedTuple):
    W: torch.Tensor


class Mean:
    trainable, acts_on_tokens, own = "W", "W", {"W": 2}

    def init(self, problem, *, seed, runs=None, scale=1.0):
        return Weights(scale * draws.normal(seed, "W", (problem.D, 1), runs).to(problem.X))

    def loss_and_gradient(self, weights, problem, train):
        mean = problem.X.mean(-2)
        off = mean @ weights.W - problem.y.mean(-1)[..., None]
        return off.square().sum((-2, -1)) / 2, {W: mean.mT @ off for W in train}


def test_a_model_of_ones_own_has_the_same_losses_there(there):
    problem, model = problems.gaussian(N=4, n=3, D=32, seed=0), Mean()
    given = model, problem, model.init(problem, seed=0, runs=7)
    same(descend(*given, steps=20), there(*given, steps=20))


def test_what_stops_and_what_diverges_does_so_there_too(there):
    problem = problems.gaussian(N=4, n=3, D=32, seed=0)
    layer = models.Attention("softmax", H=2, d=4)
    given = layer, problem, layer.init(problem, runs=2, seed=1)
    options = {"steps": 300, "step": torch.tensor([0.02, 1e9]).double(), "until": 0.5}
    with pytest.warns(UserWarning, match="1 of 2 runs diverged"):
        here = descend(*given, **options)
    with pytest.warns(UserWarning, match="1 of 2 runs diverged"):
        other = there(*given, **options)
    assert here.stopped_at[0] > 0 and here.diverged_at[1] > 0
    assert (here.stopped_at == other.stopped_at.cpu()).all()
    assert (here.diverged_at == other.diverged_at.cpu()).all()
