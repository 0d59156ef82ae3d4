"""What claims and their mutations gave, kept on disk until the code that they run changes."""

import ast
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

from .._errors import error
from ._record import Claim, Evidence

try:  # where there is no such lock, two who run the ledger at once both do the work
    import fcntl
except ImportError:
    fcntl = None

PACKAGE = Path(__file__).parents[1]
#: Results depend on these beside our own code.
BENEATH = ("torch", "numpy", "scipy", "sympy", "mpmath", "numba", "python-flint")
#: Results of a claim that are kept: of the code as it is, and as it was.
GENERATIONS = 4


def folder() -> Path:
    """Where they are kept, in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "descent" / "ledger"


@contextmanager
def locked() -> Iterator[None]:
    """One process at a time runs claims; the next finds them kept."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        file = open(folder() / "lock", "w")
    except OSError as failure:
        found = f"results cannot be kept in {folder()} ({failure.strerror})"
        remedy = "let XDG_CACHE_HOME name a folder that can be written"
        raise error(OSError, found, remedy) from None
    with file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file closes, also by a crash
        yield


# ------------------------------------------------------------------ what a claim depends on


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of this package that a module's source names, as dotted paths below it."""
    parents = module.split(".") if is_package(module) else module.split(".")[:-1]
    found = set()
    text = source(module).read_text("utf8")
    # what is imported by name when it is needed, as the compiled loops are
    later = re.findall(r'import_module\("\.([\w.]+)"', text)
    found |= {".".join([*parents, name]) for name in later}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.startswith("descent.")):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            base += (node.module or "").removeprefix("descent.").split(".")
            base = ".".join(filter(None, base))
            below = {alias.name: f"{base}.{alias.name}".lstrip(".") for alias in node.names}
            # a name is a module of the package, or else something that its __init__ holds
            found |= {path if source(path).exists() else base for path in below.values()}
    return frozenset(found - {""})


def is_package(module: str) -> bool:
    return (PACKAGE / module.replace(".", "/") / "__init__.py").exists()


def source(module: str) -> Path:
    """The file of a module, whether it is one."""
    path = PACKAGE / module.replace(".", "/")
    return path / "__init__.py" if is_package(module) else path.with_suffix(".py")


@cache
def needs(module: str) -> frozenset[str]:
    """The module and all that it imports, directly or not."""
    seen, waiting = set(), {module}
    while waiting:
        now = waiting.pop()
        seen.add(now)
        waiting |= imports(now) - seen
    return frozenset(seen)


def recorded(module: str) -> list[Path]:
    """The tables of recorded runs that lie beside the source of a package."""
    kinds = ("*.json", "*.parquet") if is_package(module) else ()
    return sorted(path for kind in kinds for path in source(module).parent.glob(kind))


@cache
def key(module: str) -> str:
    """A hash of the sources and tables that a claim of this module runs, and of what lies beneath."""
    beneath = [(name, version(name)) for name in BENEATH]
    hash = hashlib.sha256(repr((sys.version_info[:2], beneath)).encode())
    for each in sorted(needs(module)):
        for file in (source(each), *recorded(each)):
            hash.update(each.encode() + b"\0" + file.read_bytes() + b"\0")
    return hash.hexdigest()[:16]


# ------------------------------------------------------------------ reading and writing


def is_ours(claim: Claim) -> bool:
    """Whether the claim belongs to this package: a reader's own are run and not kept."""
    return claim.check.__module__.startswith("descent.claims.")


def file(claim: Claim) -> Path:
    """Where a claim's results are, or will be."""
    return folder() / f"{claim.id}.{key(claim.check.__module__.removeprefix('descent.'))}.json"


def read(claim: Claim) -> dict[str, Evidence] | None:
    """Evidence by the name of a mutation, "" for none; None if it is not kept."""
    if not is_ours(claim):
        return None
    try:
        kept = json.loads(file(claim).read_text("utf8"))
        found = {name: Evidence(**parts) for name, parts in kept.items()}
    except (OSError, ValueError, TypeError):  # not there, or cut short
        return None
    return found if found.keys() == {"", *claim.mutations} else None


def write(claim: Claim, found: dict[str, Evidence]) -> None:
    """Keep them: all of a claim or none, whoever else writes at the same time."""
    if not is_ours(claim):
        return
    path, text = file(claim), json.dumps({name: vars(each) for name, each in found.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(text, "utf8")
    part.replace(path)
    old = sorted(path.parent.glob(f"{claim.id}.*.json"), key=lambda p: p.stat().st_mtime)
    for each in old[:-GENERATIONS]:
        each.unlink(missing_ok=True)


def work(claim: Claim) -> dict[str, Evidence]:
    """Run a claim and its mutations, and keep what came out."""
    found = {name: claim.run(**changes) for name, changes in [("", {}), *claim.mutations.items()]}
    write(claim, found)
    return found
