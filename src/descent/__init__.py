"""Descent: the gradient descent dynamics of Transformers, as a library.

The book's own code: attention layers with closed-form gradients (`models`), batched gradient
descent (`descend`), figures (`plots`, `explore`), the theorems as objects (`theorems`) and the
ledger that tests them (`claims`). ``import descent`` reaches all of it.
"""

import importlib

from . import (
    _deprecated,
    draws,
    flows,
    kernels,
    landscape,
    lanes,
    margin,
    models,
    plots,
    problems,
    queries,
    span,
    spectra,
    statistics,
    steps,
    tables,
)
from ._descend import DivergenceWarning, Trajectory, descend
from ._explore import explore
from ._optimise import optimise
from ._sweep import rerun, sweep

__version__ = "0.1.0"

#: SymPy, mpmath and SciPy's statistics take a second or two: only who asks for these waits.
#: (`data` takes nothing, but runs as a program of its own too, and Python wants that read once.)
_ON_DEMAND = ("claims", "data", "exact", "symbolic", "theorems")

__all__ = [
    "DivergenceWarning",
    "Trajectory",
    "claims",
    "data",
    "descend",
    "draws",
    "exact",
    "explore",
    "flows",
    "kernels",
    "landscape",
    "lanes",
    "margin",
    "models",
    "optimise",
    "plots",
    "problems",
    "queries",
    "rerun",
    "span",
    "spectra",
    "statistics",
    "steps",
    "sweep",
    "symbolic",
    "tables",
    "theorems",
]


def __dir__() -> list[str]:
    """With what waits until it is asked for, so that a prompt completes it."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str):
    if name in _ON_DEMAND:
        return importlib.import_module(f".{name}", __name__)
    if name in _deprecated.NAMES:
        return globals()[_deprecated.tell(name)]
    # not by the helper: hasattr and getattr ask here all the time, and only the name is of use
    raise AttributeError(f"module 'descent' has no attribute {name!r}")
