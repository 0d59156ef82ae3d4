"""Theorems of Wu, Liu, Chrysos and Cevher 2023, *On the Convergence of Encoder-only Shallow
Transformers*, one file a chapter."""

from ._encoder import EncoderStart
from .apart import (
    Attended,
    alpha_bound_printed,
    first_tokens,
    how_far_apart,
    told_apart_by_attention,
    wide_features,
)
from .initialisations import corollary_1
from .scaling import equal_means, softmax_degeneration
from .tangent import TangentStart, ntk_limit, theorem_3, trace
from .width import (
    FlowStart,
    gradient_bounds,
    proposition_1,
    proposition_1_flow,
    proposition_1_printed,
    proposition_1_smooth,
)

__all__ = [
    "Attended",
    "EncoderStart",
    "FlowStart",
    "TangentStart",
    "alpha_bound_printed",
    "corollary_1",
    "equal_means",
    "first_tokens",
    "gradient_bounds",
    "how_far_apart",
    "ntk_limit",
    "proposition_1",
    "proposition_1_flow",
    "proposition_1_printed",
    "proposition_1_smooth",
    "softmax_degeneration",
    "theorem_3",
    "told_apart_by_attention",
    "trace",
    "wide_features",
]
