"""The models of the four papers, each a set of pure functions of a weights container."""

from . import elementary, in_context, linear_attention
from ._protocol import Model
from .attention import Attention, AttentionWeights
from .elementary import LeastSquares
from .encoder import Encoder, EncoderWeights
from .in_context import InContext
from .linear_attention import LinearAttention
from .selection import FactoredWeights, Selection, SelectionWeights

__all__ = [
    "Attention",
    "AttentionWeights",
    "Encoder",
    "EncoderWeights",
    "FactoredWeights",
    "InContext",
    "LeastSquares",
    "LinearAttention",
    "Model",
    "Selection",
    "SelectionWeights",
    "elementary",
    "in_context",
    "linear_attention",
]
