"""The examples in docstrings do what they show."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["draws"])
def test_examples_give_what_they_show(name):
    found = doctest.testmod(importlib.import_module(f"descent.{name}"))
    assert found.attempted > 0 and found.failed == 0
