"""The models of the four papers, each a set of pure functions of a weights container."""

from .attention import Attention, AttentionWeights

__all__ = ["Attention", "AttentionWeights"]
