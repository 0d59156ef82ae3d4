"""The files around the book agree with each other and with what the code needs."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import environment
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
ADDRESS = CONFIG["repository"]["url"]
OWNER, NAME = ADDRESS.rsplit("/", 2)[1:]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def canonical(distribution):
    """A distribution's name as the packaging standard compares them."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def pins():
    """requirements.txt as distribution -> version."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    entries = [line.split("#")[0].strip() for line in lines]
    return dict(entry.split("==") for entry in entries if entry)


def floors(extra=None):
    """The library's own requirements, or an extra's, as distribution -> lowest version."""
    extras = PROJECT["project"]["optional-dependencies"]
    entries = extras[extra] if extra else PROJECT["project"]["dependencies"]
    return dict(entry.split(">=") for entry in entries)


def numbers(version):
    return [int(part) for part in re.findall(r"\d+", version)]


# ---------------------------------------------------------------- what is installed


def code_of(file):
    """The Python in a source file or in the code cells of a page, magic commands left out."""
    text = file.read_text("utf8")
    if file.suffix == ".md":
        text = "\n".join(re.findall(r"^```\{code-cell\}.*\n(?::.*\n)*([\s\S]*?)^```$", text, re.M))
    return re.sub(r"^\s*[%!].*$", "pass", text, flags=re.M)


def imported(file):
    """The top-level modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(code_of(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def sources():
    scripts = [
        file for folder in ("src", "tests", "tools") for file in (ROOT / folder).rglob("*.py")
    ]
    return sorted([*scripts, *(ROOT / "book").rglob("*.md")])


def test_every_import_comes_from_a_pinned_distribution():
    tools = [*(ROOT / "tools").glob("*.py"), *(ROOT / "tools").glob("*/__init__.py")]
    ours = {"descent", "conftest"} | {
        file.parent.name if file.stem == "__init__" else file.stem for file in tools
    }
    ours |= {file.stem for file in (ROOT / "tests").rglob("*.py")}
    owners, pinned = importlib.metadata.packages_distributions(), {canonical(p) for p in pins()}
    missing = {
        f"{module} in {file.relative_to(ROOT)}"
        for file in sources()
        for module in imported(file) - ours - sys.stdlib_module_names
        if not {canonical(owner) for owner in owners.get(module, [])} & pinned
    }
    assert not missing


def test_imports_are_found_in_pages_too(tmp_path):
    page = tmp_path / "page.md"
    cell = "```{code-cell} ipython3\n:tags: [hide-input]\n%pip list\nimport torch.nn\n```\n"
    page.write_text(cell)
    assert imported(page) == {"torch"}


def test_every_requirement_is_an_exact_pin_that_is_installed():
    for distribution, version in pins().items():
        installed = importlib.metadata.version(distribution).split("+")[0]  # torch: 2.13.0+cpu
        assert installed == version, f"{distribution} is {installed}: run make environment"


def test_the_library_asks_for_floors_only():
    for entry in PROJECT["project"]["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", entry), f"{entry} would replace Colab's own"
    assert "torch" in floors()


def constraints(name):
    """The versions of a file for `make bare`."""
    lines = (ROOT / f"tests/fixtures/{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_what_colab_has_stays_as_it_is():
    """Else pip replaces a package under a session that has imported it."""
    colab = constraints("colab")
    fresh = {"jaxtyping", "latex2mathml", "python-flint", "qpsolvers"}  # Colab has none of these
    assert colab.keys() == floors().keys() - fresh
    for distribution, version in colab.items():
        assert numbers(version) >= numbers(floors()[distribution]), distribution


def test_the_notebooks_can_be_run_with_the_floors():
    lowest = constraints("floors")
    assert lowest.pop("torch") == pins()["torch"]
    assert lowest == {name: floor for name, floor in floors().items() if name != "torch"}


def test_the_book_is_built_above_the_librarys_floors():
    for distribution, floor in (floors() | floors("cluster")).items():
        assert numbers(pins()[distribution]) >= numbers(floor), distribution


def test_binder_has_all_that_the_library_needs():
    conda = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}  # conda-forge's names
    listed = yaml.safe_load((ROOT / ".binder/environment.yml").read_text())["dependencies"]
    offered = dict(entry.split(">=") for entry in listed if ">=" in entry)
    assert {conda.get(name, name): floor for name, floor in offered.items()} == floors()
    assert "--no-deps" in (ROOT / ".binder/postBuild").read_text()


@pytest.mark.filterwarnings("ignore:pythonjsonlogger:DeprecationWarning")  # repo2docker's
def test_binder_reads_the_folder_as_it_is_meant(monkeypatch):
    """Not the requirements at the top, which would bring what builds the book."""
    from repo2docker.app import Repo2Docker

    monkeypatch.chdir(ROOT)
    binder = Repo2Docker()
    packs = (pack(binder.base_image) for pack in binder.buildpacks)
    chosen = next(pack for pack in packs if pack.detect())
    chosen.platform = "linux/amd64"
    recipe = chosen.render({})
    assert (type(chosen).__name__, chosen.python_version) == ("CondaBuildPack", "3.12")
    assert ".binder/environment.yml" in recipe and "RUN ./.binder/postBuild" in recipe
    assert "requirements.txt" not in recipe


def test_the_drawing_code_and_the_tables_are_part_of_the_package():
    pattern = PROJECT["tool"]["setuptools"]["package-data"]["descent"]
    package = ROOT / "src" / "descent"
    packaged = {file for glob in pattern for file in package.glob(glob)}
    kinds = (".js", ".css", ".yaml", ".parquet")
    assert {f for f in package.rglob("*") if f.suffix in kinds} <= packaged


# ---------------------------------------------------------------- the environment script


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A project folder with no environment; pip and venv only take notes."""
    calls = []
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_text("")

    def make(reason):
        (tmp_path / ".venv/bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / ".venv/lib/python/site-packages/pip").mkdir(parents=True, exist_ok=True)
        (tmp_path / ".venv/bin/python").unlink(missing_ok=True)
        (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
        calls.append("venv")

    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment, "STAMP", tmp_path / ".venv" / "descent-installed")
    monkeypatch.setattr(environment, "create", make)
    monkeypatch.setattr(environment, "pip", lambda *arguments: calls.append(arguments[-1]))
    monkeypatch.setattr(environment, "data", lambda: calls.append("data"))
    monkeypatch.delenv("PYTHON", raising=False)
    return tmp_path, calls


def test_the_environment_is_made_once(bare):
    _, calls = bare
    environment.packages()
    assert calls == ["venv", "requirements.txt", ".", "data"]
    environment.packages()
    assert len(calls) == 4


@pytest.mark.parametrize("file", ["requirements.txt", "pyproject.toml"])
def test_a_change_of_the_requirements_installs_into_the_same_environment(bare, file):
    root, calls = bare
    environment.packages()
    (root / file).write_text("# changed")
    environment.packages()
    assert calls[4:] == ["requirements.txt", ".", "data"]


def test_an_environment_that_was_copied_is_made_anew(bare):
    root, calls = bare
    environment.packages()
    stamp = root / ".venv" / "descent-installed"
    stamp.write_text(stamp.read_text().replace(str(root), "/elsewhere"))
    environment.packages()
    assert calls[4:] == ["venv", "requirements.txt", ".", "data"]


def test_another_python_can_be_asked_for(bare, monkeypatch):
    _, calls = bare
    environment.packages()
    monkeypatch.setenv("PYTHON", sys.executable)
    environment.packages()
    assert len(calls) == 4, "it is the one that is there"
    monkeypatch.setattr(environment, "version_of", {sys.executable: "3.13"}.get)
    assert "holds Python None" in environment.why_anew("", sys.executable)


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_an_unsupported_python_is_refused_in_one_line(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit) as refusal:
        environment.create("there is none")
    assert re.search(r"3\.11, 3\.12 or 3\.13.*PYTHON=python3\.12 make book$", str(refusal.value))
    assert "\n" not in str(refusal.value)


def test_without_root_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(environment, "can_create", lambda: False)
    monkeypatch.setattr(environment.os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match=r"install what Debian calls python3\.\d+-venv$"):
        environment.create("there is none")


def test_pips_large_downloads_are_told():
    line = "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (754.1 MB)\n"
    assert environment.milestone(line, 3).startswith("downloading torch-2.13.0")
    assert not environment.milestone("  Downloading tqdm-4.70.1-py3-none-any.whl (78 kB)\n", 3)
    assert not environment.milestone("  Downloading tqdm-4.70.1.whl (12.3 MB)\n", 3)


@pytest.mark.parametrize("root", [True, False])
def test_a_chromium_is_installed_only_where_there_is_none(monkeypatch, root):
    found, calls = [], []

    def apt(package):
        calls.append(package)
        found.extend([package] * root)
        return root

    monkeypatch.setattr(environment, "chromium", lambda: found and found[0])
    monkeypatch.setattr(environment, "apt_install", apt)
    monkeypatch.setattr(environment, "succeeds", lambda *command: False)
    if root:
        environment.browser()
        environment.browser()
    else:
        with pytest.raises(SystemExit, match="install the package that Debian calls chromium$"):
            environment.browser()
    assert calls == ["chromium"]


# ---------------------------------------------------------------- commands, workflows, addresses


def targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


def commands_in(text):
    """The make targets that a text calls: in code, at the start of a line, in a step's `run`."""
    return set(re.findall(r"(?:^ *|`|&& |run: |\d )make ([a-z]+)", text, re.M))


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", ".ci/run", "Makefile"])
def test_every_make_command_that_is_named_exists(file):
    named = commands_in((ROOT / file).read_text())
    assert named and named <= targets()


def test_every_script_that_make_calls_exists():
    for script in re.findall(r"tools/\w+(?:\.py)?", (ROOT / "Makefile").read_text()):
        assert (ROOT / script).exists(), script


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_are_careful(file):
    text = file.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}, "a job that needs more says so itself"
    assert "concurrency" in workflow
    assert commands_in(text) <= targets()
    for job in workflow["jobs"].values():
        assert "timeout-minutes" in job
        for step in job["steps"]:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@v\d+", step.get("uses", "a/b@v1")), step


def test_the_workflows_are_those_that_are_promised():
    assert [file.stem for file in WORKFLOWS] == ["colab", "links", "pages", "test"]
    tested = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    assert tested["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert {"3.11", "3.13"} <= set(environment.SUPPORTED)
    assert PROJECT["project"]["requires-python"] == ">=" + environment.SUPPORTED[0]


def test_ci_and_readme_call_make_test():
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("make test")
    assert "make test" in (ROOT / "README.md").read_text()
    for script in (".ci/run", ".binder/postBuild"):
        assert (ROOT / script).stat().st_mode & 0o111, f"{script} cannot be executed"


def test_the_public_address_is_one_setting():
    derived = {"_config.yml", "README.md", "CITATION.cff"}
    folders = ("book", "src", "tests", "tools", ".github", ".binder", ".ci")
    files = [f for f in ROOT.glob("*") if f.is_file()]
    files += [f for folder in folders for f in (ROOT / folder).rglob("*") if f.is_file()]
    written = [f for f in files if not {"__pycache__", "descent_book.egg-info"} & set(f.parts)]
    slug = f"{OWNER}/{NAME}".encode()
    naming = {f.relative_to(ROOT).as_posix() for f in written if slug in f.read_bytes()}
    assert naming == derived


def test_readme_and_citation_give_the_public_address():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"] == ADDRESS
    readme = (ROOT / "README.md").read_text()
    assert f"git clone {ADDRESS}\n" in readme
    site = f"https://{OWNER}.github.io/{NAME}"
    known = (ADDRESS, site)
    ours = [url for url in re.findall(r"https?://[^\s)>`]+", readme) if OWNER in url]
    assert ours and all(url.startswith(known) for url in ours)


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_links_between_files_lead_somewhere(file):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / file).read_text())
    assert links
    for link in links:
        assert (ROOT / link).exists(), f"{file} leads to {link}"


def test_the_licences_are_the_ones_that_are_named():
    code, text = (ROOT / "LICENSE").read_text(), (ROOT / "LICENSE-text").read_text()
    assert code.startswith("BSD 3-Clause License") and "The Descent authors" in code
    assert text.startswith("Attribution 4.0 International")
    assert "Section 8 -- Interpretation." in text, "the whole of it"
    assert PROJECT["project"]["license"]["text"] == "BSD-3-Clause"
    footer = CONFIG["html"]["extra_footer"]
    assert "BSD-3-Clause" in footer and "CC BY 4.0" in footer
