"""Claims of Part I, one file a chapter: facts of attention and of descent that every part uses."""

# entering their claims is what they are imported for
from . import descent, gradients, kernels, momentum, rank, span  # noqa: F401
