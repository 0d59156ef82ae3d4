"""A problem set is handed out without its answers, and graded whatever comes back.

The submissions attack the grader in bounded ways, so that they do no harm where the jail fails.
"""

import csv
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pytest
from course import command, feedback, grade, jail, judge, release, source, values
from nbformat.v4 import new_code_cell
from notebooks.number import Book

FIXTURES = Path(__file__).parent / "fixtures" / "course"
LIMITS = {"cell": 8, "call": 4, "total": 40, "memory": 1500 << 20, "processes": 24}
SEED = "a seed of no course at all"


@pytest.fixture(autouse=True)
def umask():
    """The command makes its files private, which must not outlive a test."""
    old = os.umask(0o022)
    yield
    os.umask(old)


@pytest.fixture(scope="module")
def book():
    return Book(source.ROOT)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The small set, released."""
    folder = tmp_path_factory.mktemp("course")
    release.release(folder, ["small"], FIXTURES)
    return folder


@pytest.fixture(scope="module")
def factor(course):
    """The constant that this course has drawn."""
    text = (course / "judge/small.py").read_text()
    return int(text.split(" * x)")[0].rsplit(" ", 1)[1])


# ------------------------------------------------------------------------------------ the release


def test_students_get_stubs_checks_and_constants_and_nothing_else(course, factor):
    book = nbformat.read(course / "student/small.ipynb", 4)
    text = "\n".join(cell.source for cell in book.cells)
    assert f"Multiply by {factor}" in text and "<<" not in text
    assert text.count("raise NotImplementedError  # your code here") == 2
    assert 'assert len(scaled(np.ones(3))) == 3, "as many numbers as before"' in text
    raw = (course / "student/small.ipynb").read_text()
    for secret in ("np.asarray(x)", "def draw", "Which factor?", "larger than", "@part", "stuck"):
        assert secret not in raw, secret


def test_teachers_get_answers_rubric_and_notes(course):
    text = (course / "teacher/small.ipynb").read_text()
    for wanted in ("np.asarray(x)", "Zero is not positive.", "larger than", "Nobody gets stuck"):
        assert wanted in text, wanted
    assert "| right for many | 6 |" in text
    rubric = (course / "teacher/small.html").read_text()
    assert "<td>right for many</td>" in rubric and "<em>larger than</em>" in rubric


def test_a_link_to_a_chapter_becomes_an_address(course):
    text = (course / "student/small.ipynb").read_text()
    assert "[The layer](https://" in text and "/notebooks/foundations/layer.ipynb)" in text


def test_another_seed_draws_other_constants_and_the_same_seed_the_same(book):
    texts = [source.read("small", seed, book, FIXTURES).judge for seed in ("a", "b", "c", "a")]
    assert len(set(texts)) == 3 and texts[0] == texts[3]


def test_releasing_again_keeps_the_seed_and_changes_no_byte(course):
    before = {file: file.read_bytes() for file in course.rglob("small.*")}
    release.release(course, ["small"], FIXTURES)
    assert before == {file: file.read_bytes() for file in course.rglob("small.*")}
    assert (course / "seed").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "secret",
    [
        "return int((np.asarray(x) > 0).sum())",
        "return np.r_[{f} * x[0], x[1:]]",
        "Nobody gets stuck",
    ],
)
def test_a_leak_is_refused(book, secret):
    set_ = source.read("small", SEED, book, FIXTURES)
    secret = secret.format(f=set_.judge.split(" * x)")[0].rsplit(" ", 1)[1])
    (line,) = [line for line in release.hidden(set_) if secret in line]
    release.refuse_leaks(set_, release.student(set_, ""))
    with pytest.raises(release.Leak, match="shows"):
        release.refuse_leaks(set_, release.student(set_, "# " + line))


def test_a_short_seed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SEED", "2026")
    with pytest.raises(ValueError, match="16 characters"):
        release.seed_of(tmp_path / "new")


def test_errors_are_one_line(tmp_path, capsys):
    assert command.main(["release", str(tmp_path), "nothing"]) == 2
    assert command.main(["grade", str(tmp_path), "small", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["course", "course"]


# ---------------------------------------------------------------------- values from a student's code


@pytest.mark.parametrize(
    "value",
    ["text", {"a": 1}, 2**63, [[[[[[1]]]]]], {"dtype": "<f8", "shape": [10**7], "data": ""}]
    + [{"dtype": t, "shape": [1], "data": d} for t in ("<f8", "|O") for d in ("*", "AAAA", 3)]
    + [{"dtype": "<f8", "shape": [-1], "data": ""}, {"dtype": ["<f8"], "shape": [], "data": ""}],
)
def test_what_is_no_number_is_refused(value):
    with pytest.raises(values.Refused):
        values.unpack(value)


def test_arrays_survive_the_journey():
    for array in (
        np.arange(6.0).reshape(2, 3),
        np.array(True),
        np.zeros((0, 2)),
        np.array([1, -5]),
    ):
        back = values.unpack(json.loads(json.dumps(values.pack(array))))
        assert back.shape == array.shape and (back == array).all() and back.dtype == array.dtype
    assert values.unpack(json.loads(json.dumps(values.pack([1, np.float64(2.5), None])))) == [
        1,
        2.5,
        None,
    ]


def test_nan_is_close_to_nothing_and_zero_has_no_direction():
    assert not values.close(np.array([np.nan]), np.array([np.nan]))
    assert values.close(np.float32(1 / 3), 1 / 3) and not values.close(1.001, 1.0)
    assert (
        values.cosine(np.zeros(2), np.ones(2)) == 0 and values.cosine(np.zeros(2), np.zeros(2)) == 0
    )


# -------------------------------------------------------------- submissions: the marks they must get

ALL, SECOND, NONE = 15, 5, 0  # everything; all but the first problem; nothing
GOOD = """import numpy as np

def scaled(x):
    return FACTOR * np.asarray(x)

def count(x):
    return int((x > 0).sum())"""
ZEROS = "def scaled(x): return 0 * x\ndef count(x): return 0"


def read_submissions():
    """Name, marks and cells of each."""
    text = (FIXTURES / "submissions.txt").read_text()
    known = {"ALL": ALL, "SECOND": SECOND, "NONE": NONE, "GOOD": GOOD, "ZEROS": ZEROS}
    for block in text.split("\n== ")[1:]:
        (name, marks), body = block.split("\n", 1)[0].split(": "), block.split("\n", 1)[1]
        cells = [known.get(cell, cell) for cell in body.strip().split("\n---\n")]
        yield name, (known.get(marks) if marks in known else int(marks), cells)


SUBMISSIONS = dict(read_submissions())
FILES = {
    "no-json": b"\x80\x00 nonsense",
    "deep-json": b'{"cells": ' + b"[" * 200_000,
    "odd-json": b'{"cells": [{"cell_type": "code", "source": {"a": 1}}, 3, null]}',
    "21-megabytes": b'{"cells": [], "x": "' + b"x" * (21 << 20) + b'"}',
}


def submission(stub, texts, factor):
    """The handed-out notebook with cells of code around it."""
    book = nbformat.from_dict(json.loads(json.dumps(stub)))
    # Most of the time of a small submission is the import of torch, which few of these need.
    book.cells = [cell for cell in book.cells if not cell.source.endswith("import descent")]
    place = texts.index("HANDED OUT")
    cells = [new_code_cell(text.replace("FACTOR", str(factor))) for text in texts]
    book.cells = [*cells[:place], *book.cells, *cells[place + 1 :]]
    return book


def relabelled(book):
    """As Colab saves it: other ids, no metadata of ours."""
    for place, cell in enumerate(book.cells):
        cell["id"], cell["metadata"] = f"Xy{place}_kQ", {"id": f"Xy{place}_kQ"}
    return book


def answered(book, text):
    """With something written below the line."""
    (cell,) = [c for c in book.cells if c.cell_type == "markdown" and "Answer why" in c.source]
    cell.source += text
    return book


@pytest.fixture(scope="module")
def folder(course, factor, tmp_path_factory):
    """Everybody's submissions."""
    folder = tmp_path_factory.mktemp("submissions")
    stub = nbformat.read(course / "student/small.ipynb", 4)
    for name, (_, cells) in SUBMISSIONS.items():
        book = submission(stub, cells, factor)
        (folder / f"{name}.ipynb").write_text(nbformat.writes(book))
    for name, data in FILES.items():
        (folder / f"{name}.ipynb").write_bytes(data)
    (folder / "neighbours-file.ipynb").symlink_to(folder / "model.ipynb")
    (folder / "empty-folder").mkdir()
    good = submission(stub, ["HANDED OUT", GOOD], factor)
    (folder / "=cmd()").mkdir()
    evil = answered(good, "<script>alert(1)</script>")
    (folder / "=cmd()" / "hand in.ipynb").write_text(nbformat.writes(evil))
    colab = relabelled(answered(submission(stub, ["HANDED OUT", GOOD], factor), "It is not."))
    (folder / "colab.ipynb").write_text(json.dumps(colab))
    gone = submission(stub, ["HANDED OUT", GOOD], factor)
    gone.cells = [cell for cell in gone.cells if cell.cell_type == "code"]
    (folder / "text-deleted.ipynb").write_text(nbformat.writes(gone))
    return folder


@pytest.fixture(scope="module")
def results(course, folder):
    before = {file: file.read_bytes() for file in folder.rglob("*.ipynb")}
    found = {r["student"]: r for r in grade.grade(course, "small", folder, 2, LIMITS)}
    assert before == {file: file.read_bytes() for file in folder.rglob("*.ipynb")}
    return found


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_a_submission_gets_the_marks_it_earns(results, name):
    result = results[name]
    assert result["total"] == SUBMISSIONS[name][0], result
    assert "GRADED" not in result["state"] and "by hand" not in result["state"], result


def test_a_cell_that_ends_the_process_is_named(results):
    (note,) = results["endless-cell"]["notes"]
    assert note == "Code cell 1 was left out: it did not answer in time."
    assert "ended its process" in results["exit-in-a-cell"]["notes"][0]
    assert "memory" in results["memory-bomb"]["notes"][0]


@pytest.mark.parametrize("name", [*FILES, "neighbours-file"])
def test_an_unreadable_file_is_said_to_be_one(results, name):
    assert results[name]["total"] == 0 and results[name]["state"].startswith("The file is")


def test_a_missing_notebook_is_not_graded_rather_than_zero(results):
    assert results["empty-folder"]["state"] == "NOT GRADED: there is no notebook in the folder"
    assert results["empty-folder"]["marks"] == []


def test_written_answers_are_found_or_said_to_be_lost(results):
    assert results["colab"]["answers"] == {"why": "It is not."}
    assert results["colab"]["total"] == ALL
    assert results["stub"]["answers"] == {"why": ""} and results["stub"]["state"] == "Complete."
    assert results["text-deleted"]["notes"] == ["The answer why was not found."]
    assert results["text-deleted"]["state"] == "Written answers to mark: why"


def test_feedback_shows_hints_and_nothing_hidden(results, course, factor):
    out = course / "marks/small"
    text = "".join(file.read_text() for file in out.rglob("*.html"))
    assert "Zero is not positive." in (out / "feedback/zeros.html").read_text()
    assert "SECRET" not in text and "7777" not in text and "wrong shape" in text
    assert "<script>" not in text and "&lt;script&gt;" in text
    for line in (course / "judge/small.py").read_text().splitlines():
        if len(line.strip()) > 14 and not line.startswith("@part"):
            assert line.strip() not in text, line


def test_tables_can_be_imported(results, course):
    out = course / "marks/small"
    with open(out / "marks.csv", newline="") as file:
        marks = {row["student"]: row for row in csv.DictReader(file)}
    assert marks["points possible"]["total"] == "18.0"
    assert {n: float(marks[n]["total"]) for n in SUBMISSIONS} == {
        n: SUBMISSIONS[n][0] for n in SUBMISSIONS
    }
    assert (marks["one-wrong"]["scaled"], marks["one-wrong"]["count"]) == ("4.0", "5.0")
    assert "'=cmd()" in marks, "a spreadsheet would run it"
    with open(out / "canvas.csv", newline="") as file:
        canvas = list(csv.reader(file))
    assert canvas[0][:5] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    assert len(canvas) == 2 + len(results)


def test_a_second_run_grades_only_what_changed_and_adds_what_was_entered(
    results, course, folder, factor, monkeypatch
):
    out, ran = course / "marks/small", []
    real = grade.judged
    monkeypatch.setattr(grade, "judged", lambda *a: ran.append(a[1].stem) or real(*a))
    text = (out / "written.csv").read_text()
    (out / "written.csv").write_text(
        text.replace("colab,", "colab,2.5").replace("'=cmd(),", "'=cmd(),1")
    )
    late = folder / "zeros.ipynb"
    old = late.read_text()
    late.write_text(
        old.replace("def count(x): return 0", "def count(x): return int((x > 0).sum())")
    )
    again = {r["student"]: r for r in grade.grade(course, "small", folder, 2, LIMITS)}
    late.write_text(old)
    assert ran == ["zeros"] and again["zeros"]["total"] == SECOND
    assert again["colab"]["total"] == ALL + 2.5 and again["colab"]["state"] == "Complete."
    assert again["=cmd()"]["total"] == ALL + 1
    assert "colab,2.5" in (out / "written.csv").read_text(), "what a person entered is kept"
    assert "2.5 of 3" in (out / "feedback/colab.html").read_text()


def test_an_empty_folder_is_refused_and_a_tilde_is_the_home(course, tmp_path, monkeypatch, capsys):
    (tmp_path / "hand-in").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command.main(["grade", str(course), "small", "~/hand-in"]) == 2
    assert capsys.readouterr().err == (
        f"course: {tmp_path}/hand-in holds no submissions: NAME.ipynb, or NAME/ with a notebook\n"
    )


def test_the_command_tells_states_with_a_few_names(monkeypatch, capsys, tmp_path):
    found = [{"student": name, "state": "Complete."} for name in "abcdefg"]
    found.append({"student": "x", "state": "NOT GRADED: why"})
    monkeypatch.setattr(grade, "grade", lambda *a: found)
    assert command.main(["grade", str(tmp_path), "small", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["7: Complete. (a, b, c, d, e and 2 more)", "1: NOT GRADED: why (x)"]


@pytest.mark.parametrize("text", ["4", "-1", "good"])
def test_points_that_cannot_be_are_refused(tmp_path, text):
    file, about = tmp_path / "written.csv", {"written": [{"name": "why", "points": 3}]}
    file.write_text(f"student,why\nann,{text}\n")
    with pytest.raises(ValueError, match="ann has .* for why, give 0 to 3"):
        grade.entered(file, about)


def test_a_judge_that_fails_gives_no_zero(course, folder, monkeypatch):
    monkeypatch.setattr(grade, "TOOLS", Path("/nowhere"))
    monkeypatch.setenv("PYTHONPATH", "")
    found = grade.judged(course / "judge/small.py", folder / "model.ipynb", SEED, LIMITS)
    assert "failed" in found and "marks" not in found
    about = {"written": [], "points": {}}
    whole = grade.whole(found | {"student": "ann"}, about, None, {})
    assert whole["state"].startswith("NOT GRADED")


def test_an_answer_that_a_judge_did_not_foresee_waits_for_a_person(capsys):
    part = judge.Part("f", "odd", 2, "", lambda call, rng: call("f")["x"])
    (mark,) = judge.decide([part], lambda *a: None, SEED)
    assert mark["points"] == 0 and judge.BY_HAND in mark["why"]
    found = {"unreadable": "", "marks": [mark]}
    assert grade.state(found, {}) == "Look at these by hand: f"


# --------------------------------------------------------------------------------------- the jail

PROBE = """
import os, socket
def opens(path, how="r"):
    try: open(path, how).close(); return True
    except OSError: return False
def connects(*to):
    s = socket.socket(); s.settimeout(2)
    try: s.connect(to); return True
    except OSError: return False
def reads(*a): return sum(opens(p) for p in PATHS)
def writes(*a): return sum(opens(p + "/x", "w") for p in ("/usr", "/etc", "/", os.path.dirname(os.__file__)))
def processes(*a): return sum(p.isdigit() for p in os.listdir("/proc"))
def network(*a): return connects("127.0.0.1", PORT)
def user(*a): return os.getuid()
"""


@pytest.fixture(scope="module")
def probe(course):
    listening = socket.create_server(("127.0.0.1", 0))
    paths = [str(course / "seed"), str(course / "judge/small.py"), "/etc/passwd", "/etc/shadow"]
    paths += [str(FIXTURES / "small.md"), f"/proc/{os.getpid()}/environ"]
    port = str(listening.getsockname()[1])
    student = judge.Student(
        [PROBE.replace("PATHS", repr(paths)).replace("PORT", port)], judge.LIMITS | LIMITS
    )
    yield lambda name: student.call(name, 0)
    student.stop()
    listening.close()


@pytest.mark.skipif(jail.mode() == "bare", reason="this system allows no namespaces")
@pytest.mark.parametrize(
    ("name", "most"), [("reads", 0), ("writes", 0), ("network", False), ("processes", 3)]
)
def test_nothing_outside_is_in_reach(probe, name, most):
    assert probe(name) <= most


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a user away")
def test_the_student_is_nobody_else(probe):
    assert probe("user") == 1_000_000 + os.getpid()


def test_nothing_is_left_running(results):
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert "sleep 31.7" not in lines
    assert shutil.which("ps")


@pytest.mark.parametrize("kind", ["user", "bare"])
def test_a_lesser_jail_gives_the_same_marks(course, folder, results, monkeypatch, kind):
    """Or says that it cannot begin, as where root's interpreter is closed to all other users."""
    monkeypatch.setenv("JAIL", kind)
    seed = (course / "seed").read_text()
    for name in ("model", "exit-in-a-function", "one-wrong"):
        found = grade.judged(course / "judge/small.py", folder / f"{name}.ipynb", seed, LIMITS)
        if kind == "bare" and "failed" in found:
            assert found["failed"].startswith("the jail cannot begin: ") and os.geteuid() == 0
        else:
            assert sum(m["points"] for m in found["marks"]) == SUBMISSIONS[name][0], found


def test_the_warning_of_a_bare_jail_says_what_is_open():
    assert "WARNING" in jail.PROMISES["bare"] and "network" in jail.PROMISES["bare"]
    assert set(jail.PROMISES) >= {jail.mode()}


def test_pages_show_formulas():
    assert "<math" in feedback.page("t", "for $x$") and "<mtd" not in feedback.page("t", "for $x$")
