"""The one way in which the library refuses something: it says what was found, and what would do."""


def error(kind: type[Exception], found: str, remedy: str) -> Exception:
    """An exception of one line, to be raised: what was found, and the remedy behind it.

    A remedy that ``found`` says already, as in "D must be at least 1, got 0", is not said twice.
    """
    if not remedy.strip():
        raise AssertionError(f"an error without a remedy helps nobody: {found}")
    refusal = kind(" ".join((found if remedy in found else f"{found}: {remedy}").split()))
    refusal.remedy = remedy
    return refusal
