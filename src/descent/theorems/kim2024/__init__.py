"""Theorems of the part on Kim and Suzuki 2024, *Transformers Learn Nonlinear Features In Context*,
one file a chapter."""

from .dynamics import CloudStart, by_birth, conserved, frozen, improvement
from .landscape import (
    LandscapeStart,
    SaddleStart,
    accelerated,
    critical_values,
    escape_spectrum,
    growth,
    minima,
    monotone,
    morse_index,
    slope,
    strict_saddle,
)
from .merged import LinearAttentionStart, long_plateau, one_drop
from .prompts import InContextStart, finite_prompts
from .timescales import RelaxationStart, relaxation

__all__ = [
    "CloudStart",
    "InContextStart",
    "LandscapeStart",
    "LinearAttentionStart",
    "RelaxationStart",
    "SaddleStart",
    "accelerated",
    "by_birth",
    "conserved",
    "critical_values",
    "escape_spectrum",
    "finite_prompts",
    "frozen",
    "growth",
    "improvement",
    "long_plateau",
    "minima",
    "monotone",
    "morse_index",
    "one_drop",
    "relaxation",
    "slope",
    "strict_saddle",
]
