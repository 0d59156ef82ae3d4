"""The library by itself: a researcher's notebook, with nothing installed but what it asks for."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOTEBOOK = Path(__file__).parent / "researcher.py"
# The program that runs in the other process: whatever is not declared cannot be imported there.
BARE = """
import runpy, sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in {refused!r}:
            return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
sys.path.insert(0, {source!r})
runpy.run_path({notebook!r}, run_name="__main__")
"""


def name(requirement):
    return re.sub("[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def needed(requirements):
    """Every distribution that these bring with them, extras left out."""
    found, waiting = set(), [name(text) for text in requirements]
    while waiting:
        distribution = waiting.pop()
        if distribution in found:
            continue
        found.add(distribution)
        try:
            more = metadata.requires(distribution) or []
        except metadata.PackageNotFoundError:
            continue  # for another system
        waiting += [name(text) for text in more if "extra ==" not in text]
    return found


def undeclared():
    """The importable names that only other distributions bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = needed(project["dependencies"])
    return sorted(
        module
        for module, owners in metadata.packages_distributions().items()
        if not {name(owner) for owner in owners} & allowed and module != "descent"
    )


def bare(notebook, folder):
    program = BARE.format(refused=undeclared(), source=str(ROOT / "src"), notebook=str(notebook))
    command = [sys.executable, "-W", "error::DeprecationWarning:descent", "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_what_is_not_declared_cannot_be_imported(tmp_path):
    assert {"pytest", "sphinx", "jupyter_book"} <= set(undeclared())
    assert not {"torch", "numpy", "pandas", "numba"} & set(undeclared())
    (tmp_path / "asks.py").write_text("import descent\nimport sphinx\n")
    said = bare(tmp_path / "asks.py", tmp_path)
    assert said.returncode and "No module named 'sphinx'" in said.stderr


def test_a_researchers_notebook_runs_from_top_to_bottom_with_the_library_alone(tmp_path):
    said = bare(NOTEBOOK, tmp_path)
    assert said.returncode == 0, said.stderr
    assert "Trajectory of 8 runs over 400 steps" in said.stdout
    assert "held against a run" in said.stdout
    kept = {file.name for file in tmp_path.iterdir()}
    assert kept == {"means.parquet", "run.npz"}, "and leaves what it was asked to keep"


def test_training_does_not_load_the_algebra(tmp_path):
    """SymPy takes 60 MB and a second, and is needed where something is derived only."""
    (tmp_path / "train.py").write_text(
        "import sys\n"
        "from descent import descend, models, problems\n"
        "six = problems.sequences(N=6, n=4, D=8, seed=0, length=1.0)\n"
        "each = problems.Problem(six.X, six.X[..., 0])\n"
        "softmax = models.Attention('softmax', H=2, d=8)\n"
        "for model, problem in ((models.Encoder(16), six), (softmax, each)):\n"
        "    weights = model.init(problem, seed=1, runs=2)\n"
        "    descend(model, problem, weights, step=0.1, steps=2)\n"
        "assert 'numba' in sys.modules and 'sympy' not in sys.modules\n"
    )
    said = bare(tmp_path / "train.py", tmp_path)
    assert said.returncode == 0, said.stderr
