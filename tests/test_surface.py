"""What `import descent` gives: everything public, under its own name, and one version."""

import importlib
import tomllib
import types
import warnings
from pathlib import Path

import pytest
import yaml

import descent
from descent import _deprecated
from descent.__main__ import main

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "descent"


def test_every_public_module_is_there_after_import_descent():
    names = [file.stem for file in PACKAGE.iterdir() if file.suffix == ".py"]
    names += [file.parent.name for file in PACKAGE.glob("*/__init__.py")]
    for name in names:
        if not name.startswith("_"):
            assert isinstance(getattr(descent, name), types.ModuleType), name
            assert name in descent.__all__


def test_a_prompt_completes_what_waits_until_it_is_asked_for(monkeypatch):
    for name in ("theorems", "claims"):
        monkeypatch.delattr(descent, name, raising=False)
    assert set(descent.__all__) <= set(dir(descent))


def test_no_function_shadows_a_module():
    for name in descent.__all__:
        if not isinstance(getattr(descent, name), types.ModuleType):
            with pytest.raises(ModuleNotFoundError):
                importlib.import_module(f"descent.{name}")


def test_all_names_each_thing_once_in_order():
    assert descent.__all__ == sorted(set(descent.__all__))


def test_there_is_one_version(capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert descent.__version__ == project["version"] == citation["version"]
    assert f"({descent.__version__})" in (ROOT / "CHANGELOG.md").read_text()
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"descent {descent.__version__}\n"


def test_claims_are_listed_without_running_one(capsys, monkeypatch):
    monkeypatch.setattr(descent.claims, "run", None)
    assert main(["ledger", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(descent.claims.registry)


def test_a_name_that_goes_warns_and_still_works(monkeypatch):
    monkeypatch.setitem(_deprecated.NAMES, "train", ("descend", "0.3"))
    with pytest.warns(
        DeprecationWarning, match="goes in version 0.3: write descent.descend"
    ) as told:
        assert descent.train is descent.descend
    assert told[0].filename == __file__, "the warning is of the line that uses the old name"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not hasattr(descent, "nothing")
    assert all(new in descent.__all__ for new, _ in _deprecated.NAMES.values())
