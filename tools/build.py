"""Build the book into ``_build/html``: run the pages that changed, then lay them out.

    python tools/build.py            # what `make book` calls

Jupyter Book keeps the output of a page for as long as the page's own code stays the same, whatever
happens to the library below it. So two keys decide here what may be kept:

* the key of the *library* (its sources, the pinned packages, the version of Python): when it
  changes, every page is run anew;
* the key of the *site* (the library, the two settings files, the Sphinx extensions, the style):
  when it changes, every page is laid out anew, from outputs that are kept.
"""

import hashlib
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, gettempdir

import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from sphinx_external_toc.parsing import parse_toc_yaml
from traitlets.config import Config

WORKERS = 2
TRACEBACK_LINES = 12


# ---------------------------------------------------------------- what may be kept


def digest(root, files, *words):
    """One hash of some words and of files, by name and content."""
    hash = hashlib.sha256(repr(words).encode())
    for file in sorted(files):
        hash.update(repr((file.relative_to(root).as_posix(), file.read_bytes())).encode())
    return hash.hexdigest()


def files_below(folder):
    return [f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]


def library_key(root):
    files = [*files_below(root / "src" / "descent"), root / "requirements.txt"]
    return digest(root, files, sys.version)


def site_key(root):
    files = [*root.glob("_*.yml"), *files_below(root / "tools")]
    files += [*files_below(root / "book" / "static"), *files_below(root / "book" / "templates")]
    return digest(root, files, library_key(root))


def holds(stamp, key):
    return stamp.exists() and stamp.read_text() == key


# ---------------------------------------------------------------- running the pages


@dataclass(frozen=True)
class Result:
    """What became of one page: the notebook with its outputs, or what to tell the author."""

    name: str
    notebook: dict
    seconds: float
    megabytes: int | None  # at its peak, if the system tells
    complaint: str = ""


def notebooks(root, config):
    """The pages of ``_toc.yml`` that hold code, read as Sphinx will read them: name -> notebook."""
    dialect = MdParserConfig(enable_extensions=set(config["parse"]["myst_enable_extensions"]))
    found = {}
    for name in parse_toc_yaml(root / "_toc.yml"):
        page = root / "book" / f"{name}.md"
        text = page.read_text("utf8") if page.exists() else ""
        if is_myst_markdown_notebook(text):
            found[name] = read_myst_markdown_notebook(text, dialect, add_source_map=True, path=page)
    return found


def is_cached(cache, notebook):
    try:
        cache.match_cache_notebook(notebook)
    except KeyError:
        return False
    return True


def execute(root, name, notebook, timeout):
    """Run one page in a kernel of its own, in the page's own folder."""
    started = []  # the cells so far, so that a failure can say where it was
    held = [None]  # megabytes, after each cell
    start, complaint = time.perf_counter(), ""
    with short_folder() as sockets:
        client = NotebookClient(
            notebook,
            config=by_socket_files(sockets),
            timeout=timeout,
            record_timing=False,  # it would go into the cells, and the page no longer match its own
            resources={"metadata": {"path": str((root / "book" / name).parent)}},
            on_cell_start=lambda cell_index, **_: started.append(cell_index),
            on_cell_executed=lambda **_: held.append(peak(client.km.provisioner.pid)),
        )
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, RuntimeError) as error:
            complaint = explain(name, notebook, started[-1] if started else 0, error)
    return Result(name, notebook, time.perf_counter() - start, held[-1], complaint)


def peak(pid):
    """The most memory that a process has held so far, in MB; None where the system has no /proc."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text() if status.exists() else "")
    return found and round(int(found[1]) * 1024 / 1e6)


def short_folder():
    """A folder for sockets, whose paths the system allows no more than 103 bytes."""
    usual = gettempdir()
    return TemporaryDirectory(dir=usual if len(os.fsencode(usual)) < 60 else "/tmp")


def by_socket_files(folder):
    """Talk to the kernel through files: two that start at once cannot grab the same port."""
    return Config({"KernelManager": {"transport": "ipc", "connection_file": f"{folder}/kernel"}})


def explain(name, notebook, index, error):
    """Where a cell failed, in the words of the source file, and the end of its traceback."""
    line = notebook.metadata.source_map[index]
    number = sum(cell.cell_type == "code" for cell in notebook.cells[: index + 1])
    if isinstance(error, CellExecutionError):
        text = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback).rstrip().splitlines()
    elif isinstance(error, CellTimeoutError):
        text = ["It took longer than execute.timeout in _config.yml allows a cell."]
    else:  # the kernel died, or never came up
        text = [str(error)]
    tail = "\n".join("    " + row for row in text[-TRACEBACK_LINES:])
    return f"book/{name}.md:{line}: code cell {number} failed\n{tail}"


def run_pages(root, cache):
    """Run every page whose outputs are not kept; return the complaints of those that failed."""
    config = yaml.safe_load((root / "_config.yml").read_text("utf8"))
    timeout = config["execute"]["timeout"]  # of a cell, in seconds
    pages = notebooks(root, config)
    todo = {name: page for name, page in pages.items() if not is_cached(cache, page)}
    say(f"{len(todo)} of {len(pages)} notebooks to run")
    complaints = []
    with ProcessPoolExecutor(WORKERS) as pool:
        jobs = [pool.submit(execute, root, name, page, timeout) for name, page in todo.items()]
        for done, job in enumerate(as_completed(jobs), start=1):
            result = job.result()
            fate = "  FAILED" if result.complaint else ""
            say(f"  {done}/{len(todo)}  {result.name:<32}{result.seconds:6.1f} s{fate}")
            if result.complaint:
                complaints.append(result.complaint)
            else:
                keep(cache, root, result)
    return complaints


def keep(cache, root, result):
    """Put an executed page where Jupyter Book looks for it."""
    page = root / "book" / f"{result.name}.md"
    spent = {"execution_seconds": result.seconds, "megabytes": result.megabytes}
    spent["page"] = result.name  # the cache's own name for it goes stale when the checkout moves
    bundle = CacheBundleIn(result.notebook, str(page), data=spent)
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


# ---------------------------------------------------------------- laying them out


def lay_out(root):
    """Call Jupyter Book, every warning an error; its exit code."""
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "book", "--quiet"]
    command += ["--config", "_config.yml", "--toc", root / "_toc.yml", "--path-output", "."]
    command += ["-W", "-n", "--keep-going"]
    # Warnings come on standard error; on standard output are its banners.
    return subprocess.run(command, cwd=root, stdout=subprocess.DEVNULL).returncode


def prepare_environment(root):
    """What the kernels and Sphinx inherit."""
    os.environ["DESCENT_BOOK"] = "1"
    paths = [str(root / "tools"), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # Two kernels with a pool of threads each would fight for the cores, and the rounding of a
    # sum would depend on how many there are.
    os.environ["OMP_NUM_THREADS"] = "1"


def say(text):
    print(f"book: {text}", flush=True)


def build(root):
    """Build the book that stands in ``root``; the exit code."""
    start = time.perf_counter()
    out = root / "_build"
    prepare_environment(root)

    run_stamp = out / "library.key"
    if not holds(run_stamp, library_key(root)):
        rmtree(out / ".jupyter_cache", ignore_errors=True)
        out.mkdir(exist_ok=True)
        # Now, not at the end: a build that is interrupted goes on where it was.
        run_stamp.write_text(library_key(root))
    complaints = run_pages(root, get_cache(out / ".jupyter_cache"))
    if complaints:
        print("", *complaints, sep="\n\n", end="\n\n", file=sys.stderr)
        say(f"not built: {len(complaints)} of its notebooks failed, see above")
        return 1

    page_stamp = out / "site.key"
    if not holds(page_stamp, site_key(root)):
        rmtree(out / "html", ignore_errors=True)
        rmtree(out / ".doctrees", ignore_errors=True)
    # Sphinx warns about a page only when it reads it: after a failure all must be read again.
    page_stamp.unlink(missing_ok=True)
    say("laying out the pages")
    if code := lay_out(root):
        say("not built: see the warnings above")
        return code
    page_stamp.write_text(site_key(root))
    say(f"done in {time.perf_counter() - start:.0f} s, open {out / 'html' / 'index.html'}")
    return 0


if __name__ == "__main__":
    here = Path(__file__).parents[1]
    sys.exit(build(Path(*sys.argv[1:2] or [here]).resolve()))
