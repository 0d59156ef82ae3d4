"""Theorems of Part I, one file a chapter: of a function and starts, or of a layer.

What has no object here: limits (of small steps, of many heads, of infinitely many draws), which no
single start or run can break; methods with momentum, whose bounds are formulas in t alone and whose
runs `descent.models.elementary.momentum_path` makes; identities of gradients, which
`descent.symbolic` derives; and the intervals of outputs, whose floor is that of
`descent.theorems.song2024.hull_bound`.
"""

from .descent import factorised, least_squares, near_start, under_pl
from .kernels import equal_rank, factorisation, saturation, tied
from .momentum import convex, polyak
from .rank import jacobian_rank, rank_threshold, tangent_kernel
from .span import lemma

__all__ = [
    "convex",
    "equal_rank",
    "factorisation",
    "factorised",
    "jacobian_rank",
    "least_squares",
    "lemma",
    "near_start",
    "polyak",
    "rank_threshold",
    "saturation",
    "tangent_kernel",
    "tied",
    "under_pl",
]
