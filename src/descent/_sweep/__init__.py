"""Grids of runs: many small trainings, one tidy table.

``sweep(out, D=[8, 16], kernel=["softmax", "gaussian"], ...)`` trains every combination, side by
side where it can, here or on a Dask cluster, and can be stopped and taken up again at any moment.
Introduced in :doc:`/sweeps`.
"""

from ._run import Rerun, rerun, sweep

__all__ = ["Rerun", "rerun", "sweep"]
