"""Theorems of Song et al. 2024, *Unraveling the Gradient Descent Dynamics of Transformers*.

As printed and as corrected, one file a chapter.
"""

from .values import theorem_1, theorem_1_printed

__all__ = ["theorem_1", "theorem_1_printed"]
