"""Decides the marks of one submission: ``python -m course.judge JUDGE NOTEBOOK LIMITS < SEED``.

Writes its findings to stdout as JSON. JUDGE is Python of ours, one part of a problem after another:

    @part("right up to a factor", 4, hint="Compare directions with finite differences first.")
    def _(call, rng):
        X, truth = instance(rng)
        return cosine(array(call("gradient", X), truth.shape), truth) > 1 - 1e-6

A part draws its inputs from ``rng``, calls the student's functions by name, and returns its share of
the points, from 0 to 1.
"""

import builtins
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import values
from .jail import Jail
from .values import Refused, generator, pack, unpack

LARGEST_FRAME = 8 << 20
LARGEST_NOTEBOOK = 20 << 20
#: Seconds for a cell, a call and all; how often to begin anew for a cell; bytes; processes.
LIMITS = {"cell": 30, "call": 10, "total": 120, "runs": 6} | {
    "memory": 3 << 30,
    "file": 32 << 20,
    "processes": 48,
}


@dataclass
class Part:
    problem: str
    title: str
    points: float
    hint: str
    judge: Callable


def read(text: str) -> list[Part]:
    """The parts of a judge's file, which names the problem that comes next in PROBLEM."""
    parts = []

    def part(title: str, points: float, hint: str):
        return lambda judge: parts.append(Part(space["PROBLEM"], title, points, hint, judge))

    tools = ("array", "number", "several", "close", "cosine")
    space = {"part": part, "np": np, **{name: getattr(values, name) for name in tools}}
    exec(compile(text, "judge", "exec"), space)
    return parts


def decide(parts: list[Part], call: Callable, seed: str) -> list[dict]:
    """What each part gives for the functions that `call` reaches."""
    marks = []
    for part in parts:
        share, why = _share(part, call, generator(seed, "judge", part.problem, part.title))
        mark = {"problem": part.problem, "part": part.title, "of": part.points, "why": why}
        mark |= {"points": round(share * part.points, 2), "hint": part.hint if share < 1 else ""}
        marks.append(mark)
    return marks


def _share(part: Part, call: Callable, rng) -> tuple[float, str]:
    try:
        with np.errstate(all="ignore"):
            share = float(part.judge(call, rng))
    except Refused as reason:
        return 0.0, f"{part.problem} {reason}"
    except Exception as error:  # a value that the judge did not foresee
        print(part.problem, part.title, repr(error), file=sys.stderr)
        return 0.0, f"{part.problem} {BY_HAND}"
    assert 0 <= share <= 1, (part.problem, part.title, share)
    return share, ""


BY_HAND = "could not be judged: look at it by hand"
MISSING = "was not found: no cell that ran defines it"
UNREACHED = "is not reached: the time is used up"


# --------------------------------------------------------------------------- the student's process


class Student:
    """The functions of a notebook. A cell that kills, blocks or fills its process is left out."""

    def __init__(self, cells: list[str], limits: dict):
        self.cells, self.limits, self.notes = dict(enumerate(cells)), limits, []
        self.deadline, self.runs = time.monotonic() + limits["total"], 0
        self.process: Jail | None = None
        self.silent: dict[str, int] = {}  # calls without an answer, by function

    def call(self, name: str, *arguments):
        """What the student's function returns, as numbers and arrays."""
        if self.silent.get(name) == 2:  # each takes its time and a new start, which others need
            raise Refused("is not called again: two calls had no answer")
        while self.process is None:
            self.start()
        try:
            self.send([name, [pack(one) for one in arguments]])
            kind, value, *_ = [*self.frame(self.limits["call"]), None]
        except Refused:
            self.stop()
            self.silent[name] = self.silent.get(name, 0) + 1
            raise
        if kind == "value":
            return unpack(value)
        if kind == "missing":
            raise Refused(MISSING)
        known = isinstance(value, str) and isinstance(getattr(builtins, value, None), type)
        raise Refused(f"raised {value if known else 'an error'}")

    def start(self) -> None:
        """Run all cells; one that ends the process is left out of the next run."""
        if self.runs == self.limits["runs"]:
            raise Refused("is not reached: too many cells had to be left out")
        if time.monotonic() >= self.deadline:
            raise Refused(UNREACHED)
        self.process = self.jail()
        cell = None
        try:
            self.send(list(self.cells.items()))
            while (frame := self.frame(self.limits["cell"]))[0] != "loaded":
                cell = frame[1]
                if frame[0] == "end" and frame[2:] == ["MemoryError"]:  # what filled it stays
                    raise Refused("took too much memory")
        except Refused as reason:
            self.stop()
            self.runs += 1
            self.leave_out(cell, reason)

    def jail(self) -> Jail:
        """No line of the student's has run yet: what fails here is our fault, and no zero."""
        try:
            self.process = Jail(self.limits)
        except (OSError, subprocess.SubprocessError) as error:
            raise SystemExit(f"the jail cannot begin: {error}") from None
        try:
            self.frame(60, after=time.monotonic())
        except Refused as reason:
            said = self.process.messages()
            self.stop()
            raise SystemExit(f"the jail {reason}: {said}") from None
        return self.process

    def leave_out(self, cell, reason: Refused) -> None:
        if type(cell) is int and cell in self.cells:
            del self.cells[cell]
            self.notes.append(f"Code cell {cell + 1} was left out: it {reason}.")

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process = None

    def send(self, frame) -> None:
        data = json.dumps(frame).encode()
        data, end = struct.pack(">I", len(data)) + data, min(self.deadline, time.monotonic() + 20)
        while data:
            self.wait([], [self.process.stdin], end)
            try:
                data = data[os.write(self.process.stdin, data[:4096]) :]
            except OSError:
                raise Refused("ended its process") from None

    def frame(self, seconds: float, after: float | None = None) -> list:
        """The next frame, in time; from ``after`` on counts what is not the student's fault."""
        end = after + seconds if after else min(self.deadline, time.monotonic() + seconds)
        length = struct.unpack(">I", self.receive(4, end))[0]
        if length > LARGEST_FRAME:
            raise Refused("returned too much")
        try:
            frame = json.loads(self.receive(length, end))
        except (ValueError, RecursionError):
            raise Refused("answered nonsense") from None
        short = {"ready": 1, "loaded": 1}
        if type(frame) is list and frame and type(frame[0]) is str:
            if len(frame) >= short.get(frame[0], 2):
                return frame
        raise Refused("answered nonsense")

    def receive(self, count: int, end: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            self.wait([self.process.stdout], [], end)
            more = os.read(self.process.stdout, min(65536, count - len(data)))
            if not more:
                raise Refused("ended its process")
            data += more
        return bytes(data)

    def wait(self, reading: list, writing: list, end: float) -> None:
        ready = select.select(reading, writing, [], max(0, end - time.monotonic()))
        if not any(ready):
            raise Refused("did not answer in time")


def cells_of(path: Path) -> list[str]:
    """The code of a notebook in the order of its cells; ids and metadata don't matter."""
    if path.is_symlink() or not path.is_file():
        raise Refused("is not a plain file")
    if path.stat().st_size > LARGEST_NOTEBOOK:
        raise Refused("is larger than 20 MB: clear its outputs")
    try:
        cells = json.loads(path.read_bytes())["cells"]
        return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"][:2000]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused("is not a notebook") from None


def judged(parts: list[Part], notebook: Path, seed: str, limits: dict) -> dict:
    """The marks of one notebook, and notes on what had to be left out."""
    try:
        cells = cells_of(notebook)
    except Refused as reason:
        return {"unreadable": f"The file {reason}.", "marks": decide(parts, refuse, seed)}
    student = Student(cells, limits)
    try:
        marks = decide(parts, student.call, seed)
    finally:
        student.stop()
    return {"unreadable": "", "marks": marks, "notes": student.notes}


def refuse(name: str, *arguments):
    raise Refused("was not found: the file could not be read")


def main() -> None:
    judge, notebook, limits = sys.argv[1:]
    parts, seed = read(Path(judge).read_text("utf-8")), sys.stdin.read().strip()
    json.dump(judged(parts, Path(notebook), seed, LIMITS | json.loads(limits)), sys.stdout)


if __name__ == "__main__":
    main()
