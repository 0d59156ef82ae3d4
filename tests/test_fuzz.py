"""Whatever a public function is given, it takes it or says in one line what would do.

`CALLS` says how each public function is called rightly. Hypothesis puts something else in the place
of one argument or two, from the classes below. No other exception may come out than one of the
library's own, which has a remedy. A public function that is in neither table fails.
"""

import importlib
import inspect
import pkgutil
import tempfile
import warnings
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import descent
from descent import kernels, models, problems
from descent.models import elementary, in_context, linear_attention, selection

# ------------------------------------------------------------------------------ what may come in


class _UsersOwn(Exception):
    """What a user's own function raises is the user's."""


def _nothing(*arguments, **options):
    raise _UsersOwn


NUMBERS = [0, 1, -1, 3, 2**63, 2**64, 10**30, 0.0, 0.5, -0.5, 1e-320, 1e308]
NUMBERS += [float("nan"), float("inf"), 1j]
CLASSES = {
    "nothing": [None, "", [], (), {}, np.array([]), torch.empty(0), torch.empty(0, 3, 4)],
    "truth values": [True, False, np.True_, torch.tensor(True), torch.ones(2, 3, 4).bool()],
    "numbers": NUMBERS,
    "numbers of numpy": [np.int64(3), np.float32(0.5), np.float64("nan"), np.array(2)],
    "texts": ["adam", "V", "softmax", "1/L", "Q\n", b"V", "x" * 500],
    "lists": [[1, 2], [[1.0, 2], [3, 4]], [[1], [2, 3]], ["V"], [None], range(3), {"Q": 1}, {1, 2}],
    "arrays of numpy": [np.ones((2, 3)), np.ones((2, 3, 4), np.float32), np.array([object()])],
    "whole numbers": [torch.arange(3), torch.ones(2, 3, 4, dtype=torch.int32)],
    "complex and half": [torch.ones(2, 3, 4).half(), torch.ones(2, 3).cfloat(), np.ones(3) * 1j],
    "single precision": [torch.ones(2, 3, 4), torch.tensor(0.5)],
    "leaves": [torch.ones(2, 3, 4, dtype=torch.float64, requires_grad=True)],
    "no numbers": [torch.full((2, 3, 4), torch.nan).double(), torch.full((3, 4), torch.inf)],
    "other shapes": [torch.ones(5).double(), torch.ones(1, 1, 1, 1, 1, 1).double()],
    "sparse": [torch.eye(3).to_sparse()],
    "objects": [object(), torch.float16, _nothing],
}
#: Tries for each function: more were made when it was written, and found nothing else.
EXAMPLES = 40


# ------------------------------------------------------------------------------ how it is called


@cache
def instance(kernel="gaussian", runs=2):
    """A layer, a problem and weights, small enough to be tried ten thousand times."""
    problem = problems.gaussian(N=2, n=2, D=3, seed=0)
    layer = models.Attention(kernel, H=1, d=2)
    return layer, problem, layer.init(problem, seed=1, runs=runs)


@cache
def planted():
    problem, u = problems.planted(N=2, n=2, D=5, seed=0)
    return problem, u, selection.optimal(selection.scores(problem, u))


def of_layer(kernel="gaussian", runs=2, **more):
    layer, problem, weights = instance(kernel, runs)
    return {"layer": layer, "weights": weights, "problem": problem, **more}


def draws(**more):
    return {"N": 2, "n": 2, "D": 3, "seed": 0, **more}


def placed(**more):
    return draws(dtype=torch.float64, device="cpu", **more)


def sides(**more):
    """Differences of a selection and the tokens that ask."""
    problem, _, selected = planted()
    return {"a": descent.margin.differences(problem, selected), "z": problem.X[:, 0], **more}


@cache
def taught():
    return in_context.planted(2, 2, 4, 0, r=(1.0, 0.5))[0]


def of_cloud(**more):
    model, population = models.InContext(), taught()
    return {"layer": model, "neurons": model.init(population, d=3, seed=0), **more}


@cache
def regressed():
    return in_context.regress(square(8)[:, :2], taught())


@cache
def even():
    """Neurons in pairs along w and -w, whose features are even, and the true ones odd."""
    a, w = square(2), square(2)
    return in_context.Neurons(torch.cat([a, a]), torch.cat([w, -w]))


def of_heads(**more):
    """Separate heads of linear attention, on the tokens of a problem."""
    model, problem = models.LinearAttention(H=2, n=3, rank=1), instance()[1]
    return {"layer": model, "weights": model.init(problem, seed=0, runs=2), **more}


def square(p=3, *shape):
    return torch.eye(p, dtype=torch.float64).expand(*shape, p, p)


def line(p=3):
    return torch.linspace(0.5, 1, p, dtype=torch.float64)


def slices():
    layer, problem, weights = instance()
    along = descent.landscape.directions(layer, weights, seed=0)
    points = {"along": along, "alpha": line(), "beta": line()}
    return {"model": layer, "problem": problem, "weights": weights, **points}


def training(**more):
    layer, problem, weights = instance()
    return {"model": layer, "problem": problem, "weights": weights, "train": "V", **more}


DESCEND = {"step": 0.1, "steps": 2, "until": None, "stall": None, "watch": (), "at": ()}
DESCEND |= {"every": 1, "reduce": True, "device": None}
OPTIMISE = {"optimiser": torch.optim.SGD, "steps": 1, "batches": [[0]], "lr": 0.1}
QUADRATIC = {"objective": lambda p: (None, {"W": 2 * p["W"]}), "point": {"W": square(3, 2)}}

#: name -> the arguments of a call that works.
CALLS = {
    "descend": lambda: training(**DESCEND),
    "draws.chi_square": lambda: {"seed": 0, "name": "x", "freedom": torch.arange(1, 3), "runs": 2},
    "draws.normal": lambda: {"seed": 0, "name": "x", "shape": (2,), "runs": 2},
    "draws.permutation": lambda: {"seed": 0, "name": "x", "count": 3},
    "draws.uniform": lambda: {"seed": 0, "name": "x", "shape": (2,), "runs": 2},
    "exact.gradient": lambda: of_layer(runs=None),
    "exact.pullback": lambda: {"kernel": "softmax", "C": line(), "dS": line()},
    "exact.relative_error": lambda: {"found": line(), "exact": line().tolist()},
    "kernels.Kernel": lambda: {
        "name": "k",
        "score": "dot",
        "value": torch.exp,
        "pullback": torch.mul,
        "takes_dim": False,
    },
    "kernels.get": lambda: {"kernel": "softmax"},
    "kernels.register": lambda: {
        "name": "fuzzed",
        "value": torch.exp,
        "score": "dot",
        "pullback": None,
        "overwrite": True,
    },
    "landscape.curvature": lambda: {"f": square(), "spacing": 0.1},
    "landscape.directions": lambda: {
        "model": instance()[0],
        "weights": instance()[2],
        "seed": 0,
        "letters": "QK",
        "normalise": True,
    },
    "landscape.interaction": draws,
    "landscape.minima": lambda: {"f": square()},
    "landscape.offsets": lambda: {"radius": 1.0, "points": 3},
    "landscape.roughness": lambda: {"f": square()},
    "landscape.surface": slices,
    "landscape.two_stages": lambda: {
        "problem": instance()[1],
        "H": 1,
        "d": 2,
        "runs": 2,
        "seed": 0,
        "step": 0.1,
        "steps": (1, 1),
    },
    "models.attention.Attention": lambda: {"kernel": "softmax", "H": 1, "d": 2},
    "models.elementary.LeastSquares": lambda: {"residual": torch.sin},
    "models.elementary.chain": lambda: {"p": 3},
    "models.elementary.factorisation": lambda: {"M": square(), "k": 2},
    "models.elementary.flattened": training,
    "models.elementary.linear": lambda: {"A": square(), "y": line()},
    "models.elementary.momentum_path": lambda: {
        "f": elementary.linear(square(), line()),
        "theta": line(),
        "step": 0.1,
        "momentum": lambda t: 0.5,
        "ahead": True,
        "steps": 2,
    },
    "models.elementary.network": lambda: {"X": square(), "y": line(), "a": line(2)},
    "models.in_context.InContext": lambda: {"activation": "sigmoid"},
    "models.in_context.planted": lambda: {
        "D": 2,
        "k": 2,
        "m": 4,
        "seed": 0,
        "r": (1.0, 0.5),
        "steepness": 1.0,
    },
    "models.in_context.regress": lambda: {"h": square(8)[:, :2], "population": taught()},
    "models.in_context.variations": lambda: {"at": regressed(), "change": square(8)[:, :2]},
    "models.in_context.steepest": lambda: {"at": regressed()},
    "models.in_context.prompts": lambda: {
        "population": taught(),
        "N": 2,
        "n": 2,
        "seed": 0,
        "noise": 0.5,
    },
    "models.linear_attention.LinearAttention": lambda: {"H": 2, "n": 3, "rank": 1},
    "models.linear_attention.climbing_time": lambda: {
        "model": of_heads()["layer"],
        "problem": instance()[1],
        "size": 0.01,
        "share": 0.5,
    },
    "models.linear_attention.inputs": lambda: {"spectrum": line()},
    "models.linear_attention.prompts": lambda: {
        "problem": instance()[1],
        "N": 2,
        "n": 2,
        "seed": 0,
    },
    "models.linear_attention.stairs": lambda: {
        "model": of_heads()["layer"],
        "weights": of_heads()["weights"],
        "problem": instance()[1],
    },
    "models.selection.Selection": lambda: {"ell": "logistic", "d": 2, "query": 0, "goal": "loss"},
    "models.selection.check_data": lambda: {"problem": planted()[0], "query": 0},
    "models.selection.optimal": lambda: {"gamma": line().expand(2, 3)},
    "margin.differences": lambda: {"problem": planted()[0], "selected": planted()[2]},
    "margin.gram": sides,
    "margin.combine": lambda: sides(weights=torch.ones(2, 2).double()),
    "margin.products": lambda: sides(W=square(5)),
    "margin.hard_margin": lambda: {"G": square()},
    "data.words": lambda: {"text": "It's one."},
    "margin.nuclear": lambda: {
        "problem": planted()[0],
        "u": planted()[1],
        "selected": None,
        "query": 0,
    },
    "margin.orthonormal": lambda: {
        "problem": problems.orthonormal_tokens(N=2, n=2, D=5, seed=0)[0],
        "selected": torch.tensor([1, 1]),
        "query": 0,
    },
    "margin.svm": lambda: {
        "problem": planted()[0],
        "u": planted()[1],
        "selected": None,
        "query": 0,
    },
    "margin.tokens_to_select": lambda: {
        "problem": planted()[0],
        "u": planted()[1],
        "selected": None,
        "query": 0,
    },
    "optimise": lambda: training(**OPTIMISE),
    "problems.Problem": lambda: {"X": square(3, 2), "y": line().expand(2, 3), "ambient": 3},
    "problems.digits": lambda: {
        "N": 2,
        "seed": 0,
        "patch": 4,
        "positions": False,
        "dtype": torch.float64,
        "device": "cpu",
    },
    "problems.gaussian": placed,
    "problems.gaussian_in_span": placed,
    "problems.orthonormal_tokens": lambda: draws(D=5),
    "problems.pairs": lambda: {"differences": square(), "gap": 1.0},
    "problems.planted": lambda: draws(D=5),
    "problems.equal_means": lambda: {"N": 2, "D": 3, "seed": 0},
    "problems.sequences": lambda: draws(length=1.0),
    "problems.trap": lambda: {"s": 3.0, "alpha": 45.0},
    "problems.unit_tokens": lambda: draws(D=5),
    "queries.floor": of_layer,
    "queries.interval": of_layer,
    "queries.pl": of_layer,
    "queries.random_instances": lambda: {
        "layer": instance()[0],
        "shape": (2, 2, 3),
        "noise": line(),
        "count": 2,
        "seed": 0,
    },
    "queries.scores_jacobian": of_layer,
    "queries.softmax_smoothness": lambda: of_layer("softmax"),
    "queries.two_by_two": lambda: {
        "layer": instance()[0],
        "u": (1.0, 2.0),
        "y": (0.0, 1.0),
        "runs": 2,
        "seed": 0,
    },
    "span.reduce": lambda: {
        "problem": instance()[1],
        "names": "QKV",
        "own": dict.fromkeys("QKV", 3),
    },
    "spectra.concat": lambda: {"blocks": square(3, 2)},
    "spectra.eigenvalues": lambda: {"A": square()},
    "spectra.rank": lambda: {"A": square(), "tolerance": 1e-10},
    "spectra.resolution": lambda: {"A": square()},
    "spectra.sigma_min": lambda: {"A": square()},
    "spectra.top_hessian_eigenvalue": lambda: {**QUADRATIC, "batch": 1},
    "statistics.interval": lambda: {"samples": line()},
    "statistics.log_slopes": lambda: {"x": [1.0, 2.0, 3.0], "y": line()},
    "statistics.mcnemar": lambda: {"one": line() > 0.7, "other": line() > 0.8},
    "statistics.wilson": lambda: {"successes": 1, "runs": 2},
    "steps.constant": lambda: {"eta": 0.1},
    "steps.normalised": lambda: {"eta": 0.1},
    "steps.polyak": lambda: {"optimum": 0.0, "factor": 1.0},
    "steps.polyak_of_logarithm": lambda: {"factor": 1.0},
    "steps.resolve": lambda: {"step": 0.1, "smoothness": line},
    "steps.schedule": lambda: {"eta": lambda t: 0.1},
    "sweep": lambda: {
        "out": None,
        "cluster": None,
        "thresholds": [0.1],
        "model": models.Attention,
        "problem": problems.gaussian_in_span,
        "optimiser": None,
        "until": None,
        "N": 2,
        "n": 2,
        "D": 3,
        "steps": 2,
        "kernel": "softmax",
        "train": "V",
        "d": 2,
        "H": 1,
        "scale": 1.0,
        "step": 0.1,
        "seed": [0, 1],
        "start": 0,
    },
    "tables.caseless": lambda: {"table": descent.tables.read("converge")},
    "tables.grid": lambda: {"name": "converge"},
    "tables.read": lambda: {"name": "converge"},
    "tables.recorded": lambda: {"name": "in-context-widths"},
    "theorems.AttentionStart": lambda: dict(
        zip(("model", "problem", "weights"), instance(), strict=True)
    ),
    "theorems.FunctionStart": lambda: {
        "f": elementary.chain(3),
        "theta": torch.ones(2, 3, dtype=torch.float64),
        "L": 1.0,
        "mu": 0.1,
        "Lambda": 1.0,
        "minimiser": line(),
        "infimum": 0.0,
    },
    "theorems.near": of_layer,
    "theorems.loud": of_layer,
    "theorems.meet": lambda: {
        "theorem": descent.theorems.get("song2024-theorem-2"),
        "family": descent.theorems.loud(*(of_layer()[k] for k in ("layer", "problem", "weights"))),
        "runs": 2,
        "share": 1.0,
    },
    "theorems.get": lambda: {"id": "song2024-theorem-1"},
    "claims.get": lambda: {"id": "span-lemma"},
}


@cache
def encoded(runs=2):
    """An encoder, sequences with a label each, and weights."""
    problem = problems.sequences(N=2, n=2, D=3, seed=0)
    layer = models.Encoder(2)
    return layer, problem, layer.init(problem, seed=1, runs=runs)


def of_encoder(**more):
    layer, problem, weights = encoded()
    return {"layer": layer, "weights": weights, "problem": problem, **more}


def of_selection(**more):
    layer, problem = models.Selection(), planted()[0]
    weights = layer.init(problem, seed=0, u=planted()[1])
    return {"layer": layer, "weights": weights, "problem": problem, **more}


CALLS |= {
    f"models.selection.Selection.{name}": of_selection
    for name in ["forward", "attention", "predict", "loss"]
}
CALLS |= {
    "models.selection.Selection.loss_and_gradient": partial(of_selection, train="Wu"),
    "models.selection.Selection.soft_margins": lambda: of_selection(token=planted()[2]),
    "models.selection.Selection.init": lambda: {
        "layer": models.Selection(d=2),
        "problem": planted()[0],
        "seed": 0,
        "runs": 2,
        "scale": 1.0,
        "u": planted()[1],
    },
    "models.selection.scores": lambda: {"problem": planted()[0], "u": planted()[1]},
    "models.selection.chosen": lambda: {"problem": planted()[0], "u": planted()[1]},
}


@cache
def trajectory():
    return descent.descend(**training(step=0.1, steps=2))


@cache
def folder():
    """With a trajectory, for as long as the tests run."""
    place = tempfile.TemporaryDirectory(prefix="descent-fuzz-")
    trajectory().save(f"{place.name}/run.npz")
    return place


@cache
def row():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return descent.sweep(N=2, n=2, D=3, d=2, step=0.1, steps=2).iloc[0]


CALLS |= {f"models.encoder.Encoder.{name}": of_encoder for name in ["predict", "loss", "features"]}
CALLS |= {
    f"models.encoder.Encoder.{name}": partial(of_encoder, train="QO")
    for name in ["loss_and_gradient", "objective", "ntk", "ntk_parts"]
}
CALLS |= {
    "models.encoder.Encoder": lambda: {
        "d": 2,
        "scaling": "d^-1",
        "initialisation": "he",
        "activation": "tanh",
        "pooling": "mean",
    },
    "models.encoder.Encoder.init": lambda: {
        "layer": encoded()[0],
        "problem": encoded()[1],
        "seed": 0,
        "runs": 2,
        "scale": 1.0,
    },
    "models.encoder.Encoder.pullback": lambda: of_encoder(c=line().expand(2, 3)[:, :2], train="QO"),
    "models.encoder.arc_cosine": lambda: {"A": square(), "B": square()[:2]},
    "models.encoder.limit_ntk": lambda: {"problem": encoded()[1]},
    "models.encoder.pooled_kernel": lambda: {"attended": square(3, 2)},
    "theorems.SelectionStart": lambda: {
        "model": models.Selection(),
        "problem": planted()[0],
        "weights": models.Selection().init(planted()[0], seed=0, u=planted()[1]),
        "eta": 0.5,
    },
    "rerun": lambda: {
        "row": row(),
        "model": models.Attention,
        "problem": problems.gaussian_in_span,
        "optimiser": None,
    },
    "Trajectory.load": lambda: {"layer": descent.Trajectory, "path": f"{folder().name}/run.npz"},
    "Trajectory.save": lambda: {"layer": trajectory(), "path": f"{folder().name}/other.npz"},
    "Trajectory.steps_to": lambda: {"layer": trajectory(), "fraction": 0.5},
    "Trajectory.plot": lambda: {"layer": trajectory(), "most": 1},
}


#: Methods of models, called like functions.
METHODS = ["predict", "loss", "features", "gram", "forward", "attention_jacobian"]
TRAINED = ["loss_and_gradient", "jacobian", "ntk", "objective", "smoothness"]
CALLS |= {f"models.attention.Attention.{name}": of_layer for name in METHODS}
CALLS |= {f"models.attention.Attention.{name}": partial(of_layer, train="QK") for name in TRAINED}
CALLS["models.attention.Attention.init"] = lambda: {
    "layer": instance()[0],
    "problem": instance()[1],
    "seed": 0,
    "runs": 2,
    "scale": 1.0,
}

#: Methods of the model of in-context learning, and what each takes beside the neurons.
IN_CONTEXT = {
    "features": lambda: {"X": taught().X},
    "moments": lambda: {"population": taught()},
    "check": lambda: {"population": taught()},
    "warn": lambda: {"population": taught()},
    "loss": lambda: {"population": taught()},
    "loss_and_gradient": lambda: {"population": taught(), "train": "w"},
    "loss_with": lambda: {"population": taught(), "W": square(2)},
    "first_variation": lambda: {"population": taught(), "where": of_cloud()["neurons"]},
    "velocities": lambda: {"population": taught()},
    "joint_velocities": lambda: {"population": taught(), "W": square(2)},
    "relax": lambda: {"population": taught(), "W": square(2), "time": 0.5},
    "joint_step": lambda: {"population": taught(), "W": square(2), "eta": 0.1, "ratio": 2.0},
    "finite_loss": lambda: {"population": taught(), "W": square(2), "n": 3, "noise": 0.5},
    "prompt_moment": lambda: {"population": taught(), "n": 3, "noise": 0.5},
    "best_attention": lambda: {"population": taught(), "n": 3, "noise": 0.5},
    "predict": lambda: {"W": square(2), "prompts": in_context.prompts(taught(), 2, 2, 0)},
    "train": lambda: {"population": taught(), "steps": 2},
}
CALLS |= {
    f"models.in_context.InContext.{name}": partial(lambda more: of_cloud(**more()), more)
    for name, more in IN_CONTEXT.items()
}
CALLS["models.in_context.InContext.escape_matrix"] = lambda: {
    "layer": models.InContext("relu"),
    "neurons": even(),
    "population": taught(),
}
CALLS["models.in_context.InContext.init"] = lambda: {
    "layer": models.InContext(),
    "population": taught(),
    "d": 3,
    "seed": 0,
    "runs": 2,
    "scale": 1.0,
}

#: Methods of linear attention, and what each takes beside the layer.
HEADS = {
    "landscape": ("problem",),
    "best": ("problem",),
    "least": ("problem",),
    "spectrum": ("problem",),
    "directions": ("problem",),
    "gains": ("problem",),
    "aligned": ("problem", "size"),
    "init": ("problem", "seed", "runs", "scale"),
    "check": ("weights", "problem"),
    "joined": ("weights",),
    "predict": ("weights", "prompts"),
    "loss": ("weights", "problem"),
    "loss_and_gradient": ("weights", "problem", "train"),
    "objective": ("weights", "problem", "train"),
    "learned": ("weights", "problem"),
    "flow": ("weights", "problem", "times"),
}


def heads_take(names):
    given = {"problem": instance()[1], "size": 0.1, "seed": 0, "runs": 2, "scale": 1.0}
    given |= {"train": "VK", "times": line()} | of_heads()
    given["prompts"] = linear_attention.prompts(instance()[1], 2, 2, 0)
    return {"layer": given["layer"]} | {name: given[name] for name in names}


CALLS |= {
    f"models.linear_attention.LinearAttention.{name}": partial(heads_take, names)
    for name, names in HEADS.items()
}
CALLS |= {
    "flows.euler": lambda: {
        "model": models.InContext(),
        "neurons": of_cloud()["neurons"],
        "population": taught(),
        "dt": 0.1,
        "steps": 2,
        "train": "aw",
        "birth": 0.5,
        "mass": line(),
        "every": 1,
    },
    "flows.weighted": lambda: {"neurons": of_cloud()["neurons"], "mass": line()},
    "flows.paired": lambda: {"neurons": of_cloud()["neurons"]},
    "flows.perturbed": lambda: {
        "neurons": of_cloud()["neurons"],
        "size": 0.1,
        "seed": 0,
        "length": 1.0,
        "runs": 2,
    },
}

RECORD = "a record that the library makes"
INSIDE = "a step of its module's computation, behind functions that look"
#: What is not fuzzed, as the beginning of a name, and why.
EXEMPT = {
    **dict.fromkeys(
        ["landscape.TwoStages", "margin.Margin", "flows.Flow"]
        + ["models.attention.AttentionWeights", "models.attention.Forward", "queries.PL"]
        + ["models.selection.SelectionWeights", "models.selection.FactoredWeights"]
        + ["models.encoder.EncoderWeights", "models.encoder.Pass", "models.encoder.Activation"]
        + ["models.encoder.Initialisation"]
        + ["models.in_context.Neurons", "models.in_context.Population"]
        + ["models.in_context.Prompts", "models.in_context.Moments"]
        + ["models.linear_attention.MergedWeights", "models.linear_attention.SeparateWeights"]
        + ["models.linear_attention.Landscape", "models.linear_attention.Stairs"]
        + ["models.selection.Forward", "span.Reduction", "data.Reviews", "claims.Evidence"]
        + ["claims.Claim", "claims.Entry", "claims.Ledger", "claims.Verdict"]
        + ["theorems.Standing", "theorems.Theorem", "theorems.Inequality", "theorems.Linear"]
        + ["theorems.Outcome", "theorems.Promise", "theorems.Report"],
        RECORD,
    ),
    **dict.fromkeys(
        ["models.attention.least_squares"]
        + ["models.selection.log_excess", "models.selection.weighted_differences"]
        + ["kernels.require", "steps.uses_gradient", "steps.is_constant", "steps.check"]
        + ["steps.Formula", "steps.formula", "steps.warn_of_lost"],
        INSIDE,
    ),
    "symbolic.": "takes expressions of SymPy, and answers with SymPy's errors",
    "plots.": "draws what an author writes; what it refuses is tested in its own file",
    "explore": "draws what an author writes; what it refuses is tested in its own file",
    "theorems.theorem": "enters what an author writes, when the library is loaded",
    "claims.run": "runs the whole ledger, for minutes",
    "lanes.": "compiles what an author of a model writes; tested in its own file",
    "models.Model": "says what a model has",
    "Trajectory": RECORD,
    "data.movie_reviews": "takes no argument, and asks the network",
}
#: What lies in the folders of the papers: checks and theorems, called by the ledger alone.
OF_PAPERS = (["claims"], ["theorems"])


# ------------------------------------------------------------------------------ what is public


@cache
def public():
    """name -> function or class, of every module that a user may import."""
    found = {}
    modules = [m.name for m in pkgutil.walk_packages(descent.__path__, "descent.")]
    for module in ["descent", *modules]:
        path = module.split(".")[1:]
        if any(part.startswith("_") for part in path) or (path[:1] in OF_PAPERS and path[1:]):
            continue
        loaded = importlib.import_module(module)
        for name, value in vars(loaded).items():
            own = getattr(value, "__module__", "") or ""
            own = own == module or own.startswith(f"{module}._")
            is_error = inspect.isclass(value) and issubclass(value, Exception)
            if callable(value) and own and not name.startswith("_") and not is_error:
                found[".".join([*path, name])] = value
    return found


def test_every_public_function_is_called_or_exempt():
    names = set(public())
    lost = {n for n in names - set(CALLS) if not n.startswith(tuple(EXEMPT))}
    assert not lost, f"say in CALLS how to call {', '.join(sorted(lost))}, or in EXEMPT why not"
    gone = {n for n in CALLS if n not in names and n.rsplit(".", 1)[0] not in names}
    gone |= {n for n in EXEMPT if not any(name.startswith(n) for name in names)}
    assert not gone, f"there is no {', '.join(sorted(gone))} any more"


@pytest.mark.parametrize("name", CALLS)
def test_the_call_that_is_said_to_work_works_with_every_argument(name):
    function, arguments = called(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(**arguments)
    known = inspect.signature(function).parameters.values()
    named = {p.name for p in known if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    assert named <= set(arguments) | {"self"}, f"{name}: {named - set(arguments)} are not tried"


def called(name):
    """The function, and its arguments of a call that works; a method bound to its layer."""
    arguments = CALLS[name]()
    if name in public():
        return public()[name], arguments
    owner, _, method = name.rpartition(".")
    assert owner in public()
    return getattr(arguments.pop("layer"), method), arguments


# ------------------------------------------------------------------------------ the fuzzer


def refusal_of(function, arguments):
    """What a call raises that no error of the library is; None if all is well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function(**arguments)
        except _UsersOwn:
            return None
        except Exception as raised:
            remedy, text = getattr(raised, "remedy", ""), str(raised)
            if not remedy or remedy not in text or "\n" in text:
                return raised
    return None


def test_contributors_are_told_what_is_tried():
    """The page says how many functions are called, with what, how often."""
    page = Path(__file__).parent.parent / "CONTRIBUTING.md"
    said = " ".join(page.read_text("utf-8").split())
    values = sum(map(len, CLASSES.values()))
    assert f"{len(CALLS)} public functions and methods" in said
    assert f"{values} values of {len(CLASSES)} classes" in said and f"{EXAMPLES} times" in said


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(data=st.data())
def test_what_is_no_argument_is_taken_or_refused_in_a_line(name, data):
    function, arguments = called(name)
    changed = data.draw(st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=2))
    kinds = {argument: data.draw(st.sampled_from(sorted(CLASSES))) for argument in changed}
    for argument, kind in kinds.items():
        arguments[argument] = data.draw(st.sampled_from(CLASSES[kind]))
    with registry_kept():
        wild = refusal_of(function, arguments)
    given_ = {a: descent._validate.shown(arguments[a]) for a in kinds}
    assert wild is None, f"{name}({given_}): {type(wild).__name__}: {wild}"


class registry_kept:
    """Kernels that a call registers are gone after it."""

    def __enter__(self):
        self.before = dict(kernels._registry)

    def __exit__(self, *_):
        kernels._registry.clear()
        kernels._registry.update(self.before)
