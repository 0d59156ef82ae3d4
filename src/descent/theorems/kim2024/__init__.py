"""Theorems of the part on Kim and Suzuki 2024, *Transformers Learn Nonlinear Features In Context*,
one file a chapter."""

from .landscape import (
    LandscapeStart,
    SaddleStart,
    accelerated,
    growth,
    monotone,
    slope,
    strict_saddle,
)
from .prompts import InContextStart, finite_prompts

__all__ = [
    "InContextStart",
    "LandscapeStart",
    "SaddleStart",
    "accelerated",
    "finite_prompts",
    "growth",
    "monotone",
    "slope",
    "strict_saddle",
]
