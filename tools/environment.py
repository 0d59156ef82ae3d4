"""Make the environment that builds and tests the book, and do no work twice.

    python3 tools/environment.py            # .venv: the packages of requirements.txt, the library
    python tools/environment.py browser     # a Chromium for the tests of the pages

Runs under whatever Python the machine has, so that an old one is told so rather than shown a
syntax error. PYTHON=python3.12 in the environment asks for another interpreter than python3.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "descent-installed"
SUPPORTED = ("3.11", "3.12", "3.13")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def say(text):
    print(f"environment: {text}", flush=True)


def stop(text):
    sys.exit(f"environment: {text}")


def succeeds(*command):
    """Whether a command exits with 0, said quietly."""
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    return subprocess.call(command, env=environment, stdout=subprocess.DEVNULL) == 0


def apt_install(package):
    """Install a Debian package; False where this user or this machine cannot."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    say(f"installing Debian's {package}")
    install = ("apt-get", "install", "-y", "-qq", package)
    return succeeds("apt-get", "update", "-qq") and succeeds(*install)


# ---------------------------------------------------------------- the packages


def packages():
    """Bring .venv in step with requirements.txt and pyproject.toml."""
    if VENV.is_symlink():  # of another checkout, say: what is not ours is not cleared
        say(".venv is a link and stays as it is")
        return
    installed = STAMP.read_text() if STAMP.exists() else ""
    reason = why_anew(installed, os.environ.get("PYTHON"))
    if not reason and installed == wanted():
        return
    if reason:
        create(reason)
    start = time.time()
    say("installing the packages of requirements.txt, some minutes the first time")
    pip("install", "-r", "requirements.txt")
    say("installing the library descent")
    pip("install", "--no-deps", "-e", ".")
    data()
    STAMP.write_text(wanted())
    say(f"ready after {time.time() - start:.0f} s")


def data():
    """Fetch the sentences that the book may not bring along; one page alone needs them."""
    fetch = [str(VENV / "bin" / "python"), "-m", "descent.data"]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "universal_newlines": True}
    with subprocess.Popen(fetch, cwd=str(ROOT), **both) as process:
        say(process.stdout.read().strip())


def wanted():
    """What .venv is made from: the two files, and the place, since a .venv cannot be moved."""
    hash = hashlib.sha256((ROOT / "requirements.txt").read_bytes())
    hash.update((ROOT / "pyproject.toml").read_bytes())
    return f"{ROOT}\n{hash.hexdigest()}\n"


def why_anew(installed, asked):
    """Why .venv must be made, or made anew; empty if it can stay."""
    if not VENV.exists():
        return "there is none"
    present = version_of(VENV / "bin" / "python")
    if present not in SUPPORTED:
        return f"it holds Python {present}"
    if asked and version_of(asked) != present:
        return f"it holds Python {present}, asked for is {asked}"
    if not list(VENV.glob("lib/*/site-packages/pip")):
        return "it has no pip"  # the leftover of an attempt without ensurepip
    if installed and installed.splitlines()[0] != str(ROOT):
        return "it was made in another folder"
    return ""


def version_of(python):
    """The version of an interpreter as "3.12"; None where there is none that runs."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.check_output([str(python), "-c", ask], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.decode().strip()


def create(reason):
    """Make an empty .venv with the interpreter that runs this."""
    version = "{}.{}".format(*sys.version_info)
    if version not in SUPPORTED:
        stop(
            f"this is Python {version}, the book needs 3.11, 3.12 or 3.13: "
            "choose one with PYTHON=python3.12 make book"
        )
    package = f"python{version}-venv"
    if not can_create() and not (apt_install(package) and can_create()):
        stop(f"this Python cannot make a .venv: install what Debian calls {package}")
    say(f"making .venv with Python {version} ({reason})")
    subprocess.check_call([sys.executable, "-m", "venv", "--clear", str(VENV)])


def can_create():
    """Whether ``python -m venv`` will work; Debian leaves ensurepip out of its plain Python."""
    command = [sys.executable, "-c", "import ensurepip, venv"]
    return subprocess.call(command, stderr=subprocess.DEVNULL) == 0


def pip(*arguments):
    """Run pip in .venv and pass on the few of its lines that tell how far it is."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    command += arguments
    log, collected = [], 0
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "universal_newlines": True}
    with subprocess.Popen(command, cwd=str(ROOT), **both) as process:
        for line in process.stdout:
            log.append(line)
            collected += line.startswith("Collecting")
            news = milestone(line, collected)
            if news:
                say(f"  {news}")
    if process.returncode:
        told = [line for line in log if not line.startswith("WARNING")]
        stop("pip failed; its last lines were\n" + "".join(told[-10:]))


def milestone(line, collected):
    """What a line of pip's output tells somebody who waits; empty for most."""
    big = re.match(r" *Downloading (\S+) \((\d{3,}\S* MB|\S+ GB)\)", line)
    if big:
        return "downloading {} ({})".format(*big.groups())
    if line.startswith("Collecting") and collected % 25 == 0:
        return f"{collected} packages found"
    if line.startswith("Installing collected") and collected:
        return "unpacking them"
    return ""


# ---------------------------------------------------------------- the browser


def browser():
    """See that there is a Chromium; install one where this user may."""
    if chromium() or (apt_install("chromium") and chromium()):
        return
    say("asking playwright for its Chromium")
    if not (succeeds(sys.executable, "-m", "playwright", "install", "chromium") and chromium()):
        stop("the tests need a Chromium: install the package that Debian calls chromium")


def chromium():
    """The path of a Chromium: the system's, or else playwright's own; None if there is neither."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or playwrights_own()


def playwrights_own():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


if __name__ == "__main__":
    browser() if sys.argv[1:] == ["browser"] else packages()
