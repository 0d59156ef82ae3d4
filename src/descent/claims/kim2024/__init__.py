"""Claims of the part on Kim and Suzuki 2024, one file a chapter."""

from . import (  # noqa: F401  entering their claims is all
    dynamics,
    landscape,
    merged,
    outside,
    prompts,
    timescales,
)
