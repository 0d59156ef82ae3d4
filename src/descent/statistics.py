"""What runs say about a rate or a slope. Introduced in :doc:`/song2024/queries`."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from . import _validate
from ._errors import error


def log_slopes(x: Sequence[float], y: Float[Tensor, "x *r"]) -> Float[Tensor, "*r"]:
    """Slopes of the lines of least squares through log y against log x, one a run.

    Raises
    ------
    ValueError, TypeError : for lengths that differ, numbers that have no logarithm, or fewer than
        two different x. A run with a NaN has the slope NaN.

    Introduced in :doc:`/wu2023/scaling`.
    """
    y, x = _validate.matrix("y", y, least=1), _validate.tensor("x", x)
    if x.shape != y.shape[:1] or not bool((x > 0).all()):
        found = f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}"
        raise error(ValueError, found, "give a positive x for each row of y")
    if bool((y <= 0).any()):
        raise error(ValueError, "y has entries that are not positive", "give positive ones")
    x = torch.log(torch.as_tensor(x, dtype=y.dtype, device=y.device))
    if not bool((x > x.min()).any() and torch.isfinite(x).all()):
        found = f"x holds {_validate.shown(x.exp().tolist())}, through which there is no one line"
        raise error(ValueError, found, "give two different finite numbers at least")
    x = x - x.mean()
    return torch.tensordot(x, torch.log(y), dims=1) / x.square().sum()


def interval(samples: Float[Tensor, " count"]) -> tuple[float, float]:
    """The mean of independent samples, and half the width of its 95 % interval (Student's t).

    Introduced in :doc:`/wu2023/scaling`.

    Raises
    ------
    ValueError : for fewer than two samples.
    """
    samples = _validate.matrix("samples", samples, least=1)
    from scipy.stats import t as student  # a second to import: only who asks for it pays

    count = _validate.count("the number of samples", samples.numel(), least=2)
    half = float(student.ppf(0.975, count - 1)) * float(samples.std()) / count**0.5
    return float(samples.mean()), half


def mcnemar(one: Tensor, other: Tensor) -> float:
    """McNemar's z for paired successes (pairs,) of bool: above 2 or so, ``one`` succeeds more often.

    Only the pairs that differ count: of b where ``one`` alone succeeded and c where ``other`` did,
    (b - c) / sqrt(b + c) is nearly standard normal if neither is better. 0 where none differ.

    Raises
    ------
    ValueError, TypeError : for what are no two lists of truths of one length.
    """
    one, other = _validate.truths("one", one), _validate.truths("other", other)
    if one.shape != other.shape:
        found = f"one has {len(one)} pairs and other {len(other)}"
        raise error(ValueError, found, "give two of each")
    b, c = int((one & ~other).sum()), int((other & ~one).sum())
    return (b - c) / max(1, b + c) ** 0.5


def wilson(successes: int, runs: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a success rate.

    Unlike the rate plus or minus 1.96 standard errors it is right near 0 and 1 too.

    Raises
    ------
    ValueError, TypeError : for more successes than runs, or what are no whole numbers.

    Examples
    --------
    >>> low, high = wilson(9, 10)
    >>> f"{low:.2f} to {high:.2f}"
    '0.60 to 0.98'
    """
    runs, z = _validate.count("runs", runs, below=2**53), 1.96
    successes = _validate.count("successes", successes, least=0)
    if not 0 <= successes <= runs:
        raise error(
            ValueError,
            f"successes must be between 0 and runs = {runs}, got {successes}",
            f"be between 0 and runs = {runs}",
        )
    rate, spread = successes / runs, z * z / runs
    centre = (rate + spread / 2) / (1 + spread)
    half = (spread * rate * (1 - rate) + spread * spread / 4) ** 0.5 / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)
