"""The ledger: every theorem of the book as a record that can be run, and can fail.

Its page is :doc:`/ledger`.
"""

from . import foundations, kim2024, song2024, vasudeva2024, wu2023  # noqa: F401  entering their claims is what they are for
from ._ledger import Entry, Ledger, run
from ._record import Claim, Evidence, Standing, Verdict, get, registry

__all__ = [
    "Claim",
    "Entry",
    "Evidence",
    "Ledger",
    "Standing",
    "Verdict",
    "get",
    "registry",
    "run",
]
