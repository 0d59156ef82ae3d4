"""Names of the library that go: for a release each still works, and says what to write instead."""

import warnings

#: old name in `descent` -> the new one, and the version in which the old one goes.
NAMES: dict[str, tuple[str, str]] = {}


def tell(name: str) -> str:
    """Warn of the name's end; returns the new name."""
    instead, end = NAMES[name]
    warnings.warn(
        f"descent.{name} goes in version {end}: write descent.{instead}",
        DeprecationWarning,
        stacklevel=3,
    )
    return instead
