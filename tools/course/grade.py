"""Grade a folder of submissions: STUDENT.ipynb, or STUDENT/ with a notebook somewhere in it.

Writes into COURSE/marks/SET: marks.csv for spreadsheets, moodle.csv and canvas.csv to be imported,
written.csv and written.html for the answers that people mark, and feedback/STUDENT/feedback.html;
and the marks into nbgrader's gradebook. A second run grades what is new or changed, takes the points that
were entered into written.csv, and writes all of it again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from . import feedback, gradebook, jail
from .feedback import COMPLETE
from .judge import BY_HAND, LARGEST_NOTEBOOK, LIMITS, MISSING, UNREACHED

TOOLS = Path(__file__).resolve().parents[1]


def submissions(folder: Path, name: str, sets: set[str]) -> Iterator[tuple[str, list[Path]]]:
    """Students and their notebooks, the newest first: that one counts.

    "ann (1).ipynb" is ann's: so browsers name what is downloaded again. nbgrader collects
    STUDENT/SET/SET.ipynb: then only this set counts, and who did not hand it in is not there.
    """
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(HIDDEN):
            continue
        if entry.is_dir() and not entry.is_symlink():
            collected = any((entry / one).is_dir() for one in sets)
            below = entry / name if collected else entry
            if below.is_dir():
                found.setdefault(printable(entry.name), []).extend(
                    _notebooks(below, name, collected)
                )
        elif entry.suffix == ".ipynb":
            student = printable(AGAIN.sub("", entry.stem))
            found.setdefault(student, []).append(entry)
    for student, books in found.items():
        yield student, sorted(books, key=lambda book: (book.lstat().st_mtime, book), reverse=True)


AGAIN = re.compile(r"(?<=\S) ?\(\d+\)$")
HIDDEN = (".", "__MACOSX")  # checkpoints, and what archives of macOS add


def printable(text: str) -> str:
    """Text that UTF-8 can write: no half of a character, no byte of a name in another encoding."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _notebooks(folder: Path, name: str, collected: bool) -> list[Path]:
    """Those in a student's folder; of nbgrader's the one that was handed out, if it is there."""
    handed_out = folder / f"{name}.ipynb"
    if collected and handed_out.exists():
        return [handed_out]
    return [
        book
        for book in folder.rglob("*.ipynb")
        if not any(part.startswith(HIDDEN) for part in book.relative_to(folder).parts)
    ]


def left_over(folder: Path, points: dict, results: list[dict]) -> Iterator[str]:
    """What is in no table: a file NAME.ipynb.txt, and points for 7 where 007 handed in."""
    files = [one for one in folder.iterdir() if one.is_file() and one.suffix != ".ipynb"]
    if names := sorted(printable(f.name) for f in files if not f.name.startswith(HIDDEN)):
        yield f"No notebook, and so not graded: {', '.join(names)}"
    if strangers := sorted(set(points) - {result["student"] for result in results}):
        yield f"written.csv has points for names without a submission: {', '.join(strangers)}"


def judged(judge: Path, notebook: Path, seed: str, limits: dict) -> dict:
    """The findings of a judge of its own; one that fails is said to have failed, never a zero."""
    # It runs in another folder. What a symbolic link points to stays unread, so it is not resolved.
    files = map(str, (judge.absolute(), notebook.absolute()))
    command = [sys.executable, "-P", "-m", "course.judge", *files]
    path = os.pathsep.join(filter(None, [str(TOOLS), jail.library(), os.environ.get("PYTHONPATH")]))
    run = partial(subprocess.run, input=seed, capture_output=True, text=True, cwd="/")
    patience = (LIMITS | limits)["total"] + 120
    try:
        done = run(
            [*command, json.dumps(limits)], env=os.environ | {"PYTHONPATH": path}, timeout=patience
        )
    except subprocess.TimeoutExpired:
        return {"failed": "the judge did not come to an end"}
    if done.returncode:
        return {"failed": done.stderr[-2000:] or f"the judge ended with {done.returncode}"}
    return json.loads(done.stdout)


def answers(notebook: Path | None, names: list[str], handed_out: list[str]) -> tuple[dict, str]:
    """Written answers by question, None for one whose cell is gone, and text that answers none.

    What stands in cells of their own below the place for an answer belongs to it.
    """
    found, stray, handed, last = dict.fromkeys(names), [], {t.strip() for t in handed_out}, None
    for id_, text in _texts(notebook):
        if name := _question(id_, text, names):
            last, text = name, LABEL.sub("", text)
        elif text.strip() in handed:
            last = None
            continue
        if last:
            found[last] = "\n\n".join(filter(None, [found[last], text.strip()]))
        elif text.strip():
            stray.append(text.strip())
    return found, "\n\n".join(stray)


def _texts(notebook: Path | None) -> list[tuple]:
    try:
        cells = json.loads(notebook.read_bytes())["cells"]
        texts = [c for c in cells if c["cell_type"] == "markdown"]
        return [(str(c.get("id")), printable("".join(c["source"]))) for c in texts]
    except (AttributeError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


LABEL = re.compile(r"\*\*Answer (\w+)\.\*\*( \*Write below this line\.\*)?")


def _question(id_, text: str, names: list[str]) -> str | None:
    """The question that a cell answers, by the label in its text, or by its id."""
    label = LABEL.search(text)
    ids = {f"written-{name.replace('_', '-')}": name for name in names}
    return label[1] if label and label[1] in names else ids.get(id_)


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def content(notebook: Path | None) -> bytes:
    """What a second run compares."""
    if notebook is None or notebook.is_symlink() or not notebook.is_file():
        return b""
    size = notebook.stat().st_size
    return notebook.read_bytes() if size <= LARGEST_NOTEBOOK else str(size).encode()


def one(course: Path, name: str, limits: dict, entry: tuple[str, list[Path]]) -> dict:
    """Grade one submission, or find it graded already."""
    student, notebook = entry[0], next(iter(entry[1]), None)
    judge, seed = course / f"judge/{name}.py", (course / "seed").read_text().strip()
    code = judge.read_bytes(), (TOOLS / "course/judge.py").read_bytes()
    mark = digest(*code, seed.encode(), content(notebook))
    file = course / f"marks/{name}/found/{student}.json"
    if file.exists() and (old := json.loads(file.read_text()))["of"] == mark:
        if "failed" not in old:
            return old
    missing = {"failed": "there is no notebook in the folder"}
    found = judged(judge, notebook, seed, limits) if notebook else missing
    found |= {"of": mark, "student": student}
    file.with_suffix(".new").write_text(json.dumps(found, indent=1))
    file.with_suffix(".new").rename(file)  # so that an interrupted run leaves no half a file
    return found


def whole(found: dict, about: dict, books: list[Path], entered: dict) -> dict:
    """Marks of the judge, written answers, points entered by hand, and where it all stands."""
    marks, names = found.get("marks", []), [question["name"] for question in about["written"]]
    # What could not be read as a notebook is not read here either: a link, or a file without end.
    book = None if found.get("unreadable") else next(iter(books), None)
    texts, stray = answers(book, names, about["handed out"])
    # An empty answer is worth nothing, unless it may stand elsewhere: that, a person decides.
    empty = 0.0 if not stray else None
    written = {name: entered.get(name, empty if texts[name] == "" else None) for name in names}
    total = sum(m["points"] for m in marks) + sum(filter(None, written.values()))
    notes = [*found.get("notes", [])]
    if len(books) > 1:
        notes.append(
            f"There are {len(books)} notebooks. Graded is the newest, {printable(books[0].name)}."
        )
    notes += [f"The answer {name} was not found." for name in names if texts[name] is None]
    if stray and not all(texts.values()):
        notes.append("There is text that answers no question: look into the notebook.")
    result = {"student": found["student"], "marks": marks, "answers": texts, "written": written}
    result |= {"total": round(total, 2), "notes": notes, "state": state(found, written, len(books))}
    return result | {"stray": stray, "graded": "failed" not in found and not found["unreadable"]}


def state(found: dict, written: dict, notebooks: int = 1) -> str:
    if "failed" in found:
        return "NOT GRADED: " + found["failed"].strip().split("\n")[-1][:200]
    if found["unreadable"]:
        return found["unreadable"]
    by_hand = {
        mark["problem"]
        for mark in found["marks"]
        for why in (BY_HAND, MISSING, UNREACHED)
        if why in mark["why"]
    }
    if notebooks > 1:
        by_hand.add(f"which of {notebooks} notebooks counts")
    waiting = [name for name, points in written.items() if points is None]
    if by_hand:
        return "Look at these by hand: " + ", ".join(sorted(by_hand) + waiting)
    return "Written answers to mark: " + ", ".join(waiting) if waiting else COMPLETE


def entered(file: Path, about: dict) -> dict[str, dict[str, float]]:
    """The points in written.csv, by student and question."""
    if not file.exists():
        return {}
    most, found = {q["name"]: q["points"] for q in about["written"]}, {}
    with open(file, newline="", encoding="utf-8-sig") as source:
        first = source.readline()  # some spreadsheets save with semicolons
        source.seek(0)
        lines = csv.DictReader(
            source, delimiter=";" if first.count(";") > first.count(",") else ","
        )
        if "student" not in (lines.fieldnames or []):
            raise ValueError(f"{file} has no column student: leave its first line as it was")
        for line in lines:
            student = line.pop("student").removeprefix("'")
            for name, text in line.items():
                if name in most and (text or "").strip():
                    found.setdefault(student, {})[name] = _points(student, name, text, most[name])
    return found


def _points(student: str, name: str, text: str, most: float) -> float:
    try:
        points = float(text.replace(",", "."))
    except ValueError:
        points = -1.0
    if not 0 <= points <= most:
        raise ValueError(f"written.csv: {student} has {text!r} for {name}, give 0 to {most:g}")
    return points


def grade(course: Path, name: str, folder: Path, workers: int = 2, limits: dict | None = None):
    """Grade them all; returns what is known of each, in the order of their names."""
    about_file, out = course / f"judge/{name}.json", course / "marks" / name
    if not about_file.exists():
        raise ValueError(f"{course} has no set {name}: run `make assignments COURSE={course}`")
    about, sets = json.loads(about_file.read_text("utf-8")), about_file.parent.glob("*.json")
    entries = list(submissions(folder, name, {file.stem for file in sets}))
    if not entries:
        raise ValueError(f"{folder} holds no submissions: NAME.ipynb, or NAME/ with a notebook")
    for below in ("found", "feedback"):
        (out / below).mkdir(parents=True, exist_ok=True)
    by_hand = entered(out / "written.csv", about)
    print(jail.PROMISES[jail.mode()], file=sys.stderr)
    work = partial(one, course, name, limits or {})
    with ThreadPoolExecutor(workers) as pool:
        found = list(tqdm(pool.map(work, entries), total=len(entries), disable=None))
    results = [
        whole(f, about, books, by_hand.get(student, {}))
        for f, (student, books) in zip(found, entries, strict=True)
    ]
    for result, (student, books) in zip(results, entries, strict=True):
        page = feedback.for_student(about, result)
        (out / "feedback" / student).mkdir(exist_ok=True)
        (out / "feedback" / student / "feedback.html").write_text(page, "utf-8")
        gradebook.hand_back(course, name, student, page, next(iter(books), None))
    (out / "written.html").write_text(feedback.for_reader(about, results), "utf-8")
    feedback.tables(out, about, results, by_hand)
    gradebook.record(course, name, about, results)
    for line in left_over(folder, by_hand, results):
        print(line, file=sys.stderr)
    return results
