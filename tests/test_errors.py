"""Every error of the library says what was found and what would do."""

import ast
from pathlib import Path

import pytest

from descent._errors import error

SOURCES = sorted((Path(__file__).parent.parent / "src" / "descent").rglob("*.py"))
#: Raised by hand: what `getattr` asks for, what makes the errors, Ctrl-C, which is none, and an
#: answer that is an exception since it comes with numbers.
BY_HAND = {("__init__.py", "AttributeError"), ("_errors.py", "AssertionError")}
BY_HAND |= {(file, "KeyboardInterrupt") for file in ("_run.py", "_ledger.py")}
BY_HAND |= {("margin.py", "Infeasible")}


def raised(source: str) -> list[ast.Raise]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise)]


def made_by_hand(node: ast.Raise, file: str) -> bool:
    """Whether an exception is raised that the helper did not make; to pass one on is no such thing."""
    if node.exc is None:
        return False
    made_by = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    name = made_by.id if isinstance(made_by, ast.Name) else ast.unparse(made_by)
    if name == "failure":  # an exception that was caught, and is passed on
        return False
    return name != "error" and (file, name) not in BY_HAND


def test_every_error_is_made_by_the_helper():
    wild = [
        f"{path.parent.name}/{path.name}, line {node.lineno}"
        for path in SOURCES
        for node in raised(path.read_text())
        if made_by_hand(node, path.name)
    ]
    assert not wild, f"raise descent._errors.error(kind, found, remedy) in {'; '.join(wild)}"


@pytest.mark.parametrize(
    ("line", "wild"),
    [
        ("raise ValueError('no')", True),
        ("raise ValueError", True),
        ("raise type(e)(f'{e}') from e", True),
        ("raise error(ValueError, 'N is 0', 'give 1')", False),
        ("raise", False),
        ("raise failure", False),
    ],
)
def test_an_error_made_by_hand_is_seen(line, wild):
    assert any(made_by_hand(node, "any.py") for node in raised(line)) is wild


def test_an_error_is_one_line_with_the_remedy_at_its_end():
    refusal = error(ValueError, "N is\n 0", "give at least 1")
    assert type(refusal) is ValueError and str(refusal) == "N is 0: give at least 1"
    assert refusal.remedy == "give at least 1"
    assert str(error(TypeError, "N must be at least 1, got 0", "at least 1")).count("at least") == 1


def test_an_error_without_a_remedy_is_a_bug():
    with pytest.raises(AssertionError, match="an error without a remedy helps nobody: N is 0"):
        error(ValueError, "N is 0", "  ")
