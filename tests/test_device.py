"""The model of Part V, its flows and its recorded run go where their inputs are.

There need not be a GPU: `elsewhere.Device` stands in for one, with the processor's numbers.
"""

from pathlib import Path

import pytest
import torch
from elsewhere import Device, Elsewhere, there
from torch.utils._pytree import tree_leaves, tree_map

from descent import descend, draws, flows, optimise, theorems
from descent.models import InContext, in_context
from descent.models.encoder import Activation

BOTH = InContext(
    Activation(
        lambda Z: torch.tanh(Z) + torch.exp(-Z * Z / 2),
        lambda Z: 1 - torch.tanh(Z).square() - Z * torch.exp(-Z * Z / 2),
    )
)
MODEL = InContext("tanh")
POPULATION, TEACHERS = in_context.planted(3, 2, 20, seed=0, r=(1.0, 0.5))
CLOUD = MODEL.init(POPULATION, d=6, seed=1, runs=2)
SADDLE = flows.paired(BOTH.init(POPULATION, d=6, seed=1))
PROMPTS = in_context.prompts(POPULATION, 4, 3, 0)
W, MASS = draws.normal(0, "W", (2, 2)), 0.2 + draws.uniform(2, "mass", (6,), 2)
RATIOS = torch.tensor([1.0, 20.0]).double()  # of here, as one writes it
FEATURES = MODEL.features(CLOUD, POPULATION.X)


def held(id, *given, **options):
    """What a theorem compares, on either side."""
    outcome = theorems.get(id)(*given, **options).against()
    return [(each.left, each.right) for each in (*outcome.hypotheses, *outcome.conclusions)]


def run(trajectory):
    return trajectory.loss, trajectory.weights, trajectory.diverged_at


DOORS = {
    "loss_and_gradient": lambda g: MODEL.loss_and_gradient(g(CLOUD), g(POPULATION)),
    "loss_with": lambda g: MODEL.loss_with(g(CLOUD), g(W), g(POPULATION)),
    "finite_loss": lambda g: MODEL.finite_loss(g(CLOUD), g(W), g(POPULATION), 5, 0.5),
    "best_attention": lambda g: MODEL.best_attention(g(CLOUD), g(POPULATION), 5, 0.5),
    "first_variation": lambda g: MODEL.first_variation(g(CLOUD), g(POPULATION), g(TEACHERS)),
    "escape_matrix": lambda g: BOTH.escape_matrix(g(SADDLE), g(POPULATION)),
    "relax": lambda g: MODEL.relax(g(CLOUD), g(W), g(POPULATION), 1.0),
    "relax each": lambda g: MODEL.relax(g(CLOUD), g(W), g(POPULATION), RATIOS),
    "joint_step": lambda g: MODEL.joint_step(g(CLOUD), g(W), g(POPULATION), 0.1, RATIOS),
    "predict": lambda g: MODEL.predict(g(CLOUD), g(W), g(PROMPTS)),
    "prompts": lambda g: in_context.prompts(g(POPULATION), 4, 3, 0, noise=0.5),
    "init": lambda g: MODEL.init(g(POPULATION), d=6, seed=1, runs=2),
    "train": lambda g: MODEL.train(g(CLOUD), g(POPULATION), 3),
    "euler": lambda g: flows.euler(MODEL, g(CLOUD), g(POPULATION), dt=0.01, steps=3),
    "euler, born": lambda g: flows.euler(
        BOTH, g(CLOUD), g(POPULATION), dt=0.01, steps=3, birth=1.0, mass=g(MASS), train="a"
    ),
    "weighted": lambda g: flows.weighted(g(CLOUD), g(MASS)),
    "perturbed": lambda g: flows.perturbed(g(CLOUD), 0.1, 0, runs=[3, 5]),
    "perturbed smoothly": lambda g: flows.perturbed(flows.paired(g(CLOUD)), 0.1, 0, length=1.0),
    "descend": lambda g: run(
        descend(MODEL, g(POPULATION), g(CLOUD), steps=20, step=RATIOS / 100, until=0.9)
    ),
    "optimise": lambda g: optimise(
        MODEL, g(POPULATION), g(CLOUD), torch.optim.SGD, steps=3, lr=0.01
    ),
    "variations": lambda g: in_context.variations(
        in_context.regress(g(FEATURES), g(POPULATION)), g(POPULATION.F)
    ),
    "steepest": lambda g: in_context.steepest(in_context.regress(g(FEATURES), g(POPULATION))),
    "improvement-by-birth": lambda g: held(
        "improvement-by-birth", MODEL, g(CLOUD), g(POPULATION), None, g(TEACHERS)
    ),
    "kim2024-finite-prompts": lambda g: held(
        "kim2024-finite-prompts", MODEL, g(CLOUD), g(POPULATION), 5
    ),
    "kim2024-lemma-3-1": lambda g: held("kim2024-lemma-3-1", MODEL, g(CLOUD), g(POPULATION), g(W)),
}
DOORS |= {
    id: lambda g, id=id: held(id, MODEL, g(CLOUD), g(POPULATION))
    for id in ("conserved-second-moment", "improvement-rate", "frozen-rate")
}
DOORS |= {  # those by automatic second derivatives do not go through the stand-in
    id: lambda g, id=id: held(id, g(FEATURES), g(POPULATION))
    for id in (
        "homotopy-slope", "kim2024-theorem-3-3", "monotone-homotopy", "accelerated-phase",
        "critical-values",
    )
}  # fmt: skip


def tensors(found):
    return [x for x in tree_leaves(found) if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize("name", DOORS)
def test_what_comes_back_is_where_the_inputs_are(name):
    wanted = tensors(DOORS[name](lambda x: x))
    with Device():
        found = tensors(DOORS[name](lambda x: tree_map(there, x)))
    assert len(found) == len(wanted)
    for x, y in zip(found, wanted, strict=True):
        assert isinstance(x, Elsewhere) or not x.ndim
        x = x.here if isinstance(x, Elsewhere) else x
        assert x.shape == y.shape
        # other sums than the compiled engine's
        assert torch.allclose(x.double(), y.double(), rtol=1e-8, atol=1e-10, equal_nan=True)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_the_recorded_run_takes_the_same_steps_there(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "tools"))
    import record

    size = record.Size(D=4, k=2, neurons=8, prompts=12, pairs=6, inputs=40)
    here = record.Joint(size, 0, "cpu")
    wanted = [(here.step(), here.step_alone()) for _ in range(3)]
    with Device():
        other = record.Joint(size, 0, "meta")
        assert [(other.step(), other.step_alone()) for _ in range(3)] == wanted
        assert all(isinstance(x, Elsewhere) for x in (other.W, *other.neurons))


def test_a_tensor_that_stays_behind_is_seen():
    with Device():
        x = there(torch.ones(3, 2))
        assert isinstance(x.new_zeros(2), Elsewhere) and isinstance(x + 1.0, Elsewhere)
        assert not isinstance(x.cpu(), Elsewhere)
        for leak in (lambda: x + torch.arange(2), lambda: torch.stack([x[0], torch.ones(2)])):
            with pytest.raises(RuntimeError, match="on the processor"):
                leak()
        with pytest.raises(TypeError, match="are no array"):
            x.numpy()
