"""Theorems as objects: what they ask of a start, what they promise, and whether it came true.

``theorems.get("song2024-theorem-1")(layer, problem, weights)`` gives a `Report`.
Introduced in :doc:`/song2024/values`.
"""

from . import foundations, kim2024, song2024, vasudeva2024, wu2023
from ._attention import AttentionStart
from ._function import FunctionStart
from ._inequality import Inequality
from ._meet import loud, meet, near
from ._record import Standing, Theorem, get, registry, theorem
from ._report import Linear, Outcome, Promise, Report
from ._selection import SelectionStart

__all__ = [
    "AttentionStart",
    "FunctionStart",
    "Inequality",
    "Linear",
    "Outcome",
    "Promise",
    "Report",
    "SelectionStart",
    "Standing",
    "Theorem",
    "foundations",
    "get",
    "kim2024",
    "loud",
    "meet",
    "near",
    "registry",
    "song2024",
    "theorem",
    "vasudeva2024",
    "wu2023",
]
