"""What a number of successes says about a rate. Introduced in :doc:`/song2024/queries`."""

from torch import Tensor

from . import _validate
from ._errors import error


def mcnemar(one: Tensor, other: Tensor) -> float:
    """McNemar's z for paired successes (pairs,) of bool: above 2 or so, ``one`` succeeds more often.

    Only the pairs that differ count: of b where ``one`` alone succeeded and c where ``other`` did,
    (b - c) / sqrt(b + c) is nearly standard normal if neither is better. 0 where none differ.
    """
    b, c = int((one & ~other).sum()), int((other & ~one).sum())
    return (b - c) / max(1, b + c) ** 0.5


def wilson(successes: int, runs: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval for a success rate, at 95 % unless ``z`` says otherwise.

    Unlike the rate plus or minus z standard errors it is right near 0 and 1 too.
    """
    _validate.count("runs", runs)
    if not 0 <= successes <= runs:
        raise error(
            ValueError,
            f"successes must be between 0 and runs = {runs}, got {successes}",
            f"be between 0 and runs = {runs}",
        )
    rate, spread = successes / runs, z * z / runs
    centre = (rate + spread / 2) / (1 + spread)
    half = (spread * rate * (1 - rate) + spread * spread / 4) ** 0.5 / (1 + spread)
    return centre - half, centre + half
