"""Claims of Song et al. 2024, *Unraveling the Gradient Descent Dynamics of Transformers*.

One file a chapter.
"""

from . import initialisation, joint, landscape, queries, values  # noqa: F401  entering their claims is what they are for
