"""Descent: the gradient descent dynamics of Transformers, as a library.

The book's own code: attention layers with closed-form gradients (`models`), batched gradient
descent (`descend`), figures (`plots`, `explore`) and the ledger of theorems (`claims`).
"""

from . import exact, kernels, models, plots, problems, span, spectra, steps, symbolic, tables
from .descend import DivergenceWarning, Trajectory, descend
from .explore import explore
from .optimise import optimise
from .sweep import sweep

from . import claims  # isort: skip  the claims use all of the above

__version__ = "0.1.0"

__all__ = [
    "DivergenceWarning",
    "Trajectory",
    "claims",
    "descend",
    "exact",
    "explore",
    "kernels",
    "models",
    "optimise",
    "plots",
    "problems",
    "span",
    "spectra",
    "steps",
    "symbolic",
    "sweep",
    "tables",
]
