"""Docstrings: their examples do what they show, and they say of a thing what one must know."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate
from surface import public

import descent

BOOK = Path(__file__).parent.parent / "book"
MODULES = sorted(
    each.name
    for each in pkgutil.walk_packages(descent.__path__, "descent.")
    if not each.name.endswith("__main__")
)
#: Every way into the library: its functions and classes, and of each module what one calls first.
ENTRIES = [
    *(name for name in descent.__all__ if not inspect.ismodule(getattr(descent, name))),
    *(name for name in descent.__all__ if inspect.ismodule(getattr(descent, name))),
]
#: A warning is caught, not called; a step on lanes is shown by the guide for contributors.
NO_EXAMPLE = {"DivergenceWarning", "lanes"}
#: numpydoc's checks: there is a docstring and a summary, and its parameters are the signature's.
CHECKS = {"GL08", "SS01", "SS03", "PR02", "PR03"}
#: What raises, or asks somebody who does.
REFUSES = re.compile(r"raise error\(|_validate\.(?!shown)")


def thing_at(path):
    found = descent
    for name in path.split(".")[1:]:
        found = getattr(found, name)
    return found


def examples(thing):
    """The examples in the docstring of a thing or of its own module, or anywhere in a module."""
    if not inspect.ismodule(thing):
        texts = [inspect.getdoc(each) or "" for each in (thing, inspect.getmodule(thing))]
        return doctest.DocTestParser().get_examples("\n".join(texts))
    files = Path(thing.__file__).parent.rglob("*.py")
    if not hasattr(thing, "__path__"):
        files = [Path(thing.__file__)]
    return [line for file in files for line in file.read_text("utf8").split("\n") if ">>>" in line]


def told(path):
    """What the docstrings of a thing and of the modules that hold it say."""
    thing = thing_at(path)
    holders = [inspect.getmodule(thing), thing_at(path.rpartition(".")[0])]
    return "\n".join(inspect.getdoc(each) or "" for each in (thing, *holders[: path.count(".")]))


PUBLIC = list(public())


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name, monkeypatch):
    monkeypatch.setattr(descent.kernels, "_registry", dict(descent.kernels._registry))
    module = importlib.import_module(name)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    assert doctest.testmod(module, optionflags=options).failed == 0


@pytest.mark.parametrize("name", sorted(set(ENTRIES) - NO_EXAMPLE))
def test_every_way_in_has_an_example(name):
    assert examples(getattr(descent, name))


@pytest.mark.parametrize("path", PUBLIC)
def test_a_docstring_says_what_a_thing_is_and_names_the_parameters_that_it_has(path):
    found = validate(path)["errors"]
    doc = inspect.getdoc(thing_at(path))
    whole = NumpyDocString(doc)["Parameters"] and inspect.isfunction(thing_at(path))
    checks = CHECKS | ({"PR01"} if whole else set())
    assert [error for error in found if error[0] in checks] == []


@pytest.mark.parametrize("path", PUBLIC)
def test_a_docstring_leads_to_a_page_of_the_book(path):
    pages = re.findall(r":doc:`(?:[^`<]*<)?/([^`>]+)", told(path))
    assert pages, f"{path}: say on which page it is introduced"
    assert [page for page in pages if not (BOOK / f"{page}.md").exists()] == []


@pytest.mark.parametrize("path", PUBLIC)
def test_a_docstring_says_what_is_refused(path):
    thing = thing_at(path)
    if inspect.isfunction(thing) and REFUSES.search(inspect.getsource(thing)):
        assert NumpyDocString(inspect.getdoc(thing))["Raises"], f"{path} raises, but says not what"
