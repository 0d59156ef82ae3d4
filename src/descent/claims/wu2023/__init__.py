"""Claims of Wu, Liu, Chrysos and Cevher 2023, one file a chapter."""

from . import apart, initialisations, scaling, tangent, vision, width  # noqa: F401  entering their claims is what they are for
