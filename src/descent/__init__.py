"""Descent: the gradient descent dynamics of Transformers, as a library.

The book's own code: attention layers with closed-form gradients (`models`), batched gradient
descent (`descend`), figures (`plots`, `explore`) and the ledger of theorems (`claims`).
"""

import importlib

from . import draws, kernels, margin, models, plots, problems, span, spectra, steps, tables
from .descend import DivergenceWarning, Trajectory, descend
from .explore import explore
from .optimise import optimise
from .sweep import rerun, sweep

__version__ = "0.1.0"

#: SymPy, mpmath and SciPy's statistics take a second or two: only who asks for these waits.
#: (`data` takes nothing, but runs as a program of its own too, and Python wants that read once.)
_ON_DEMAND = ("claims", "data", "exact", "symbolic")

__all__ = [
    "DivergenceWarning",
    "Trajectory",
    "claims",
    "data",
    "descend",
    "draws",
    "exact",
    "explore",
    "kernels",
    "margin",
    "models",
    "optimise",
    "plots",
    "problems",
    "rerun",
    "span",
    "spectra",
    "steps",
    "sweep",
    "symbolic",
    "tables",
    "theorems",
]


def __getattr__(name: str):
    if name in _ON_DEMAND:
        return importlib.import_module(f".{name}", __name__)
    # not by the helper: hasattr and getattr ask here all the time, and only the name is of use
    raise AttributeError(f"module 'descent' has no attribute {name!r}")
