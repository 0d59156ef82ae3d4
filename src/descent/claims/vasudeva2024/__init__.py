"""Claims of Vasudeva et al. 2024, *Implicit Bias and Fast Convergence Rates for Self-attention*.

One file a chapter.
"""

from . import convergence, everywhere, joint, logistic, sparsity, text, traps  # noqa: F401  entering their claims is what they are for
