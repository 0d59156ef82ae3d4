"""Claims of the part on Kim and Suzuki 2024, one file a chapter."""

from . import landscape, merged, prompts  # noqa: F401  entering its claims is what it is for
