"""Theorems of Song et al. 2024, *Unraveling the Gradient Descent Dynamics of Transformers*.

As printed and as corrected, one file a chapter.
"""

from .initialisation import conditioning, small
from .joint import theorem_2, theorem_2_printed, theorem_2_rate
from .queries import (
    hull_bound,
    pl_constant,
    softmax_rests,
    theorem_3,
    theorem_3_12,
    theorem_3_53,
    theorem_3_tangent,
)
from .values import plateau, theorem_1, theorem_1_printed

__all__ = [
    "conditioning",
    "hull_bound",
    "pl_constant",
    "plateau",
    "small",
    "softmax_rests",
    "theorem_1",
    "theorem_1_printed",
    "theorem_2",
    "theorem_2_printed",
    "theorem_2_rate",
    "theorem_3",
    "theorem_3_12",
    "theorem_3_53",
    "theorem_3_tangent",
]
