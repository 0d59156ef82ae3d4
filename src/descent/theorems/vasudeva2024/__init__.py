"""Theorems of the part on Vasudeva et al. 2024: attention selects by maximal margin.

All are this book's own, proved in the chapters; the paper has results of this type, whose constants
we have not seen.
"""

from .convergence import domination, polyak, progress, rate, sharp_law
from .everywhere import everywhere, in_steps
from .sparsity import sparsity

__all__ = [
    "domination",
    "everywhere",
    "in_steps",
    "polyak",
    "progress",
    "rate",
    "sharp_law",
    "sparsity",
]
