"""Functions, theorems and the recorded run of Part V go where their inputs are.

There need not be a GPU: `elsewhere.Device` stands in for one, with the processor's numbers.
Where there is one, both are.
"""

import dataclasses
from functools import cache
from pathlib import Path

import pytest
import torch
from elsewhere import Device, Elsewhere, there
from test_fuzz import CALLS as PUBLIC
from test_fuzz import called
from torch.utils._pytree import tree_leaves, tree_map

from descent import descend, draws, flows, optimise, problems, theorems
from descent.models import (
    Attention,
    Encoder,
    InContext,
    LinearAttention,
    Selection,
    elementary,
    in_context,
)
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


DEVICES = ["stand-in", *(["cuda"] if torch.cuda.is_available() else [])]


def carried(x, move):
    """The same with its tensors moved, those of a problem or of another record too."""
    if dataclasses.is_dataclass(x) and any(isinstance(y, torch.Tensor) for y in vars(x).values()):
        twin = object.__new__(type(x))
        twin.__dict__.update({name: carried(y, move) for name, y in vars(x).items()})
        return twin
    if isinstance(x, dict):
        return {name: carried(y, move) for name, y in x.items()}
    return tree_map(lambda part: move(part) if isinstance(part, torch.Tensor) else part, x)


def tensors(found):
    """All that a record or a container holds."""
    if isinstance(found, torch.Tensor):
        return [found]
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return tensors([getattr(found, field.name) for field in dataclasses.fields(found)])
    inside = [x for x in tree_leaves(found) if x is not found]
    return [x for each in inside for x in tensors(each)]


def elsewhere(door, device):
    """What a door gives on another device, and all its tensors must be there."""
    if device == "cuda":
        found = tensors(door(lambda x: carried(x, torch.Tensor.cuda)))
        assert all(x.is_cuda or not x.ndim for x in found)
        return [x.cpu() for x in found]
    with Device():
        found = tensors(door(lambda x: carried(x, there)))
    assert all(isinstance(x, Elsewhere) or not x.ndim for x in found)
    return [x.here if isinstance(x, Elsewhere) else x for x in found]


def same_elsewhere(door, device):
    wanted, found = tensors(door(lambda x: x)), elsewhere(door, device)
    assert len(found) == len(wanted)
    for x, y in zip(found, wanted, strict=True):
        assert x.shape == y.shape
        # other sums than the compiled engine's
        assert torch.allclose(x.double(), y.double(), rtol=1e-8, atol=1e-10, equal_nan=True)


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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", DOORS)
def test_what_comes_back_is_where_the_inputs_are(name, device):
    same_elsewhere(DOORS[name], device)


# ---------------------------------------------------------------------------- what is public

#: What is not asked of a public function on another device, and why.
OTHERWISE = {
    **dict.fromkeys(["draws.chi_square", "queries.random_instances"], "draws, on the processor"),
    "models.elementary.momentum_path": "the function that it is given holds numbers of its own",
    **dict.fromkeys(
        ["models.linear_attention.LinearAttention.directions"]
        + ["models.linear_attention.LinearAttention.aligned"],
        "eigenvectors, each known up to its sign",
    ),
}
#: What the stand-in cannot do, and a GPU can.
NEEDS_A_GPU = {
    **dict.fromkeys(
        ["optimise", "landscape.roughness", "margin.orthonormal"],
        "indices and sizes that may stay behind",
    ),
    **dict.fromkeys(
        ["theorems.FunctionStart", "morse-index", "global-minima", "saddles-of-the-flow"]
        + ["escape-spectrum", "told-apart-by-attention"],
        "derivatives by torch.func",
    ),
    **dict.fromkeys(
        [f"vasudeva2024-{name}" for name in ("domination", "rate", "polyak", "sharp-law")]
        + ["vasudeva2024-everywhere", "vasudeva2024-steps"],
        "arrays of a solver",
    ),
}


def on_every_device(names):
    """What is asked of each, and where."""
    asked = [(name, device) for name in names for device in DEVICES if name not in OTHERWISE]
    return [pair for pair in asked if pair[1] == "cuda" or pair[0] not in NEEDS_A_GPU]


WITH_TENSORS = [name for name in PUBLIC if tensors(called(name)[1])]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "device"), on_every_device(WITH_TENSORS))
def test_a_public_function_does_there_what_it_does_here(name, device):
    def door(move):
        function, arguments = called(name)
        return function(**move(arguments))

    same_elsewhere(door, device)


def test_degrees_of_freedom_may_be_elsewhere():
    degrees = torch.tensor([2, 3])
    with Device():
        found = draws.chi_square(0, "x", there(degrees))
    assert torch.equal(found, draws.chi_square(0, "x", degrees))


# ---------------------------------------------------------------------------- theorems


def starts(g):
    """Instances of every kind that a theorem is about."""
    for kernel in ("softmax", "gaussian"):
        problem, layer = problems.gaussian(N=2, n=2, D=8, seed=0), Attention(kernel, H=1, d=3)
        yield layer, g(problem), g(layer.init(problem, seed=1, runs=4))
    problem = problems.sequences(N=2, n=2, D=8, seed=0)
    for encoder in (Encoder(64, activation="tanh"), Encoder(64), Encoder(64, "d^-1/2", "ntk")):
        given = encoder, g(problem), g(encoder.init(problem, seed=1, runs=4))
        yield from (given, (*given, (0.1,) * 4))
    problem, u = problems.orthonormal_tokens(N=3, n=3, D=14, seed=0)
    for layer in (Selection(goal="log excess"), Selection()):
        yield layer, g(problem), g(layer.init(problem, seed=0, runs=2, u=u))
    features, cloud = MODEL.features(CLOUD, POPULATION.X), (MODEL, g(CLOUD), g(POPULATION))
    for more in ((), (5,), (None, g(TEACHERS)), (g(W),)):
        yield *cloud, *more
    yield g(features), g(POPULATION)
    yield BOTH, g(SADDLE), g(POPULATION)
    for heads in (LinearAttention(2, 5), LinearAttention(2, 5, 1)):
        start = heads.init(problem, seed=1, runs=3, scale=0.02)
        yield heads, g(problem), g(start), g(torch.linspace(0, 3, 5).double())
    A, theta = draws.normal(0, "A", (2, 3)), draws.normal(0, "theta", (3,), 4)
    f = elementary.linear(g(A), g(A.sum(1)))
    yield f, g(theta), 9.0, 0.1, 1.0, g(torch.ones(3).double())
    yield g(A @ A.mT), g(A), g(A)
    yield (g(problem.X),)


@cache
def taken(id):
    """The number of the first instance that the theorem takes."""
    for k, given in enumerate(starts(lambda x: x)):
        try:
            compared(id, given)
        except (ValueError, TypeError, AttributeError):
            continue
        return k
    raise AssertionError(f"{id} takes none of the instances")


def compared(id, given):
    """Left and right of all that a theorem asks and says, after a short run where it wants one."""
    report = theorems.get(id)(*given)
    options = {"at": range(4)} if "gradient_norm" in report.watch else {}
    outcome = report.trial(3, **options) if report.train else report.against()
    return [(each.left, each.right) for each in (*outcome.hypotheses, *outcome.conclusions)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("id", "device"), on_every_device(theorems.registry))
def test_a_theorem_says_there_what_it_says_here(id, device):
    same_elsewhere(lambda g: compared(id, list(starts(g))[taken(id)]), device)


# ---------------------------------------------------------------------------- the recorded run


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("device", DEVICES)
def test_the_recorded_run_takes_the_same_steps_there(device, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "tools"))
    import record

    size = record.Size(D=4, k=2, neurons=8, prompts=12, pairs=6, inputs=40)
    here = record.Joint(size, 0, "cpu")
    wanted = [(here.step(), here.step_alone()) for _ in range(3)]
    if device == "cuda":
        other = record.Joint(size, 0, device)
        for losses, alone in wanted:
            assert other.step() == pytest.approx(losses, rel=1e-5)  # single precision
            assert other.step_alone() == pytest.approx(alone, rel=1e-5)
        return
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
