"""Theorems of the part on Kim and Suzuki 2024, *Transformers Learn Nonlinear Features In Context*,
one file a chapter."""

from .dynamics import CloudStart, by_birth, conserved, frozen, improvement
from .landscape import (
    LandscapeStart,
    SaddleStart,
    accelerated,
    growth,
    monotone,
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
    "finite_prompts",
    "frozen",
    "growth",
    "improvement",
    "long_plateau",
    "monotone",
    "one_drop",
    "relaxation",
    "slope",
    "strict_saddle",
]
