"""Theorems of the part on Kim and Suzuki 2024, *Transformers Learn Nonlinear Features In Context*,
one file a chapter."""

from .prompts import InContextStart, finite_prompts

__all__ = ["InContextStart", "finite_prompts"]
