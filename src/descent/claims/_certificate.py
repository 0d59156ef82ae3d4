"""Inequalities that are proved by computing: both sides enclosed, every rounding accounted for.

Numbers are balls of python-flint, a midpoint and a radius that no error exceeds. Data in float64 are
binary fractions and carry over exactly. An inequality holds only if the two balls do not touch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import flint

#: Bits that a certificate computes with; at the book's sizes a ball's radius is then some 1e-70.
BITS = 256


@dataclass(frozen=True)
class Certain:
    """``left < right``, in words, and the two enclosures."""

    name: str
    left: flint.arb
    right: flint.arb

    @property
    def holds(self) -> bool:
        """Whether the balls are apart, the left one below."""
        return bool(self.left < self.right)

    def __str__(self) -> str:
        sides = (side.str(12, radius=True) for side in (self.left, self.right))
        return f"{self.name}: {' < '.join(sides)}"


def certify(certificate: Callable[[], list[Certain]], bits: int = BITS) -> list[Certain]:
    """The inequalities of a certificate, computed with this many bits.

    Raises
    ------
    ValueError : where so few bits enclose nothing, say an eigenvalue.
    """
    with flint.ctx.workprec(bits):
        return certificate()
