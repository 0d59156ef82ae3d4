"""Claims of Part I, one file a chapter: facts of attention and of descent that every part uses."""

from . import descent, kernels, rank, span  # noqa: F401  entering their claims is what they are for
