"""A process for a student's code, as far from everything else as this system allows.

root   Linux, as root: namespaces (files, processes, network), a user that nobody else is, limits,
       and control groups where they can be written
user   Linux, not root, where user namespaces are allowed: the same without that user and the groups
bare   elsewhere (macOS, a container that may not make namespaces): limits and a home that vanishes.
       Files and the network stay open, and so do other processes of the same user

What it takes is in util-linux: unshare, mount, chroot, prlimit, setpriv.
"""

import functools
import importlib.util
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
UNSHARE = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
AS_USER = ["--user", "--map-root-user"]
SYSTEM = "/usr /bin /lib /lib64 /etc/ld.so.cache /etc/fonts /etc/localtime".split()
PROMISES = {
    "root": "The grader's files, the network and other processes are out of reach of submissions.",
    "user": "The grader's files, the network and other processes are out of reach of submissions; "
    "memory is limited for each process only.",
    "bare": "WARNING: this system allows no namespaces. A submission can reach the network and "
    "what this user can read, the judge too: grade on Linux, or only whom you trust.",
}


@functools.cache
def mode() -> str:
    """The best jail that works here; JAIL in the environment asks for a lesser one."""
    ways = {"root": UNSHARE, "user": [*UNSHARE, *AS_USER]}
    wanted = os.environ.get("JAIL") or ("root" if os.geteuid() == 0 else "user")
    if wanted in ways and _works(ways[wanted]):
        return wanted
    return "user" if wanted == "root" and _works(ways["user"]) else "bare"


def _works(way: list[str]) -> bool:
    try:
        trial = [*way, "mount", "-t", "tmpfs", "trial", "/mnt"]
        return subprocess.run(trial, capture_output=True).returncode == 0
    except OSError:
        return False


@functools.cache
def library() -> str:
    """The folder that `descent` is imported from here."""
    return str(Path(importlib.util.find_spec("descent").origin).parents[1])


@functools.cache
def visible() -> str:
    """What a notebook needs, a path a line: system, interpreter, environment, the library."""
    ask = [sys.executable, "-I", "-c", "import sys; print(*sys.path, sep='\\n')"]
    path = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split("\n")
    own = [sys.prefix, sys.base_prefix, *filter(os.path.isdir, path), library()]
    own += [os.path.realpath(one) for one in own] + [str(HERE / "inmate.py")]
    found = []
    for one in [*filter(os.path.exists, SYSTEM), *own]:
        if not any(one == other or one.startswith(other + "/") for other in found):
            found.append(one)
    return "\n".join(found)


def control_groups(name: str, memory: int, processes: int) -> list[Path]:
    """New control groups to join, of version 1 or 2; none where they can't be written."""
    base, made = Path("/sys/fs/cgroup"), []
    first = [("memory", "memory.limit_in_bytes", memory), ("pids", "pids.max", processes)]
    second = [(".", "memory.max", memory), (".", "pids.max", processes)]
    for controller, file, value in second if (base / "cgroup.controllers").exists() else first:
        group = base / controller / name
        with suppress(OSError):
            group.mkdir(exist_ok=True)
            (group / file).write_text(str(value))
            made.append(group)
    return made


class Jail:
    """A running inmate: `stdin` and `stdout` are the ends of its pipes."""

    def __init__(self, limits: dict):
        self.limits = limits
        apart = os.geteuid() == 0 and mode() != "user"
        self.user = 1_000_000 + os.getpid() if apart else None  # a user that nobody else is
        self.home = tempfile.TemporaryDirectory()
        self.log = tempfile.TemporaryFile()
        name = f"descent-{os.getpid()}"
        sizes = limits["memory"], limits["processes"]
        self.groups = control_groups(name, *sizes) if self.user else []
        os.chmod(self.home.name, 0o755)
        self.process = subprocess.Popen(
            self.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            bufsize=0,
            env=self.environment(),
            cwd=self.home.name if mode() == "bare" else "/",
            preexec_fn=self.confine,
            start_new_session=True,
        )
        self.stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.stdin, False)

    def command(self) -> list[str]:
        command = [sys.executable, "-P", str(HERE / "inmate.py")]
        if mode() == "bare":
            return command
        way = UNSHARE if mode() == "root" else [*UNSHARE, *AS_USER]
        sizes = [str(self.limits[name]) for name in ("processes", "memory", "file")]
        into = ["sh", str(HERE / "jail.sh"), self.home.name, str(self.user or "same"), *sizes]
        return [*way, *into, visible(), "env", "-C", "/home", *command]

    def environment(self) -> dict[str, str]:
        """Nothing of the grader's own environment."""
        home = self.home.name if mode() == "bare" else "/home"
        return {
            **dict.fromkeys(("HOME", "TMPDIR", "NUMBA_CACHE_DIR"), home),
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
            **{"IPYTHONDIR": home + "/.ipython", "MPLBACKEND": "Agg", "PYTHONPATH": library()},
            **{"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "USER": "student"},
            **{"PYTHONDONTWRITEBYTECODE": "1", "PIP_NO_INDEX": "1", "PIP_RETRIES": "0"},
        }

    def confine(self) -> None:
        """Between fork and exec, in the child."""
        for group in self.groups:
            (group / "cgroup.procs").write_text("0")
        if mode() != "bare":
            return
        limits = self.limits
        resource.setrlimit(resource.RLIMIT_DATA, (limits["memory"],) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file"],) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (limits["total"],) * 2)
        if self.user:
            resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"],) * 2)
            os.chown(self.home.name, self.user, self.user)
            os.setgroups([])
            os.setgid(self.user)
            os.setuid(self.user)

    def messages(self) -> str:
        self.log.seek(0)
        return self.log.read(2000).decode(errors="replace")

    def kill(self) -> None:
        """End it, whatever it started, and what it left."""
        if mode() != "bare":
            self._kill_namespace()
        if self.user:  # and whoever else is this user
            who = ["--reuid", str(self.user), "--regid", str(self.user), "--clear-groups"]
            subprocess.run(["setpriv", *who, "sh", "-c", "kill -9 -1"], capture_output=True)
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        for group in self.groups:
            _remove(group)
        self.home.cleanup()
        self.log.close()

    def _kill_namespace(self) -> None:
        """Its first process takes the others with it (unshare's own promise ends with the user)."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(OSError):
            for child in task.read_text().split():
                os.kill(int(child), signal.SIGKILL)


def _remove(group: Path) -> None:
    for _ in range(50):  # its processes are gone a moment after they were killed
        try:
            return group.rmdir()
        except OSError:
            time.sleep(0.02)
