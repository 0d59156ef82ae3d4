"""How much memory there is, and the error that says how many runs fit into it."""

import math
from pathlib import Path
from typing import NamedTuple

import torch

from ._errors import error

#: Memory that this process may still take, in the order asked: a container's limit, the machine's.
CONTAINER, MACHINE = Path("/sys/fs/cgroup"), Path("/proc/meminfo")

#: Bytes that any machine has: a step of descent does not ask for these, since asking takes time.
SMALL = 2**24


def free(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where that can't be known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    known = [size for size in (_container(), _machine()) if size is not None]
    return min(known, default=None)


def _container() -> int | None:
    try:
        limit, used = ((CONTAINER / f"memory.{name}").read_text() for name in ("max", "current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no such files, or the limit is the word "max"
        return None


def _machine() -> int | None:
    try:
        lines = MACHINE.read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable")), None)


def room(what: str, *sizes: int) -> None:
    """Raise MemoryError unless an array of these sizes, in float64, fits on this machine.

    To ask beforehand is the way to a line that says so: torch and numpy each have a word of their
    own for a size that they cannot allocate, and another for one that they cannot count.
    """
    needed = 8 * math.prod(sizes)
    if needed < SMALL:
        return
    limit = free(torch.device("cpu"))
    if needed > (2**60 if limit is None else limit):
        of = " x ".join(map(str, sizes))
        found = f"{what} ({of} numbers) need {_size(needed)}, but {_size(limit or 2**60)} are free"
        raise error(MemoryError, found, "choose smaller sizes")


class Need(NamedTuple):
    """Bytes for so many runs, and those that are needed for any number of them."""

    runs: int
    per_run: int
    fixed: int = 0


def require(need: Need, device: torch.device) -> None:
    """Raise MemoryError, with the number of runs that fit, unless all of them do."""
    limit = free(device)
    if limit is None:
        return
    runs, per_run, fixed = need
    needed = runs * per_run + fixed
    if needed > limit:
        found = f"{runs} runs need about {_size(needed)}, but {_size(limit)} are free on {device}"
        fit = max(0, limit - fixed) // per_run
        none = "no runs fit at once, choose smaller sizes or record fewer losses (every=...)"
        raise error(MemoryError, found, f"{fit} runs fit at once" if fit else none)


def _size(amount: int) -> str:
    return f"{amount / 1e9:.3g} GB"
