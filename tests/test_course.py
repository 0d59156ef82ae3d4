"""A problem set is handed out without its answers, and graded whatever comes back.

The submissions attack the grader in bounded ways, so that they do no harm where the jail fails.
"""

import csv
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import nbformat
import numpy as np
import pytest
from course import command, feedback, grade, gradebook, inmate, jail, judge, release, source, values
from nbformat.v4 import new_code_cell, new_markdown_cell
from nbgrader.api import Gradebook
from nbgrader.plugins import CsvExportPlugin
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
    book = nbformat.read(course / "release/small/small.ipynb", 4)
    text = "\n".join(cell.source for cell in book.cells)
    assert f"Multiply by {factor}" in text and "<<" not in text
    assert text.count("raise NotImplementedError  # your code here") == 2
    assert 'assert len(scaled(np.ones(3))) == 3, "as many numbers as before"' in text
    raw = (course / "release/small/small.ipynb").read_text()
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
    text = (course / "release/small/small.ipynb").read_text()
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
    ("old", "new", "said"),
    [
        (
            'right for many", 6',
            'right for many", 8',
            "1. Scale: 10 points in its heading, 12 given",
        ),
        (
            "An integer (5 points)",
            "An integer (4 points)",
            "2. An integer: 4 points in its heading, 5 given",
        ),
        ("for the tests.", "20 points in all.", "20 points in its first lines, 18 given"),
    ],
)
def test_a_set_whose_points_do_not_add_up_is_not_released(book, tmp_path, old, new, said):
    text = (FIXTURES / "small.md").read_text("utf-8")
    assert text.count(old) == 1
    (tmp_path / "small.md").write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ValueError, match=re.escape(said)):
        release.release(tmp_path / "course", ["small"], tmp_path)
    assert not (tmp_path / "course/release").exists()


@pytest.mark.parametrize(
    "secret",
    [
        "return int((np.asarray(x) > 0).sum())",
        "return np.r_[{f} * x[0], x[1:]]",
        "Nobody gets stuck",
        '@part("right for many"',  # with quotes, before which a notebook's file has backslashes
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


def test_a_course_keeps_its_seed_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("SEED", SEED)
    assert release.seed_of(tmp_path) == release.seed_of(tmp_path) == SEED
    monkeypatch.setenv("SEED", SEED + "?")
    with pytest.raises(ValueError, match="has a seed already"):
        release.seed_of(tmp_path)
    monkeypatch.delenv("SEED")
    assert release.seed_of(tmp_path) == SEED


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


@pytest.mark.parametrize("value", ["x", {"a": 1}, {1, 2}, iter([1]), 1j, np.array([1, None])])
def test_what_a_function_returns_is_blamed_and_no_error_of_ours(value):
    kind, found = inmate.answer({"f": lambda: value}, "f", [])
    assert kind == "value"
    with pytest.raises(values.Refused, match="neither a number nor an array"):
        values.unpack(json.loads(json.dumps(found)))


def test_who_prints_and_returns_nothing_is_told():
    with pytest.raises(values.Refused, match="returned None"):
        values.number(None)
    assert np.isnan(values.array([None, 1.0], (2,))[0])


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


@pytest.mark.parametrize("value", [2.5, [2.5], [[2.5]], np.array(2.5), np.full((1, 1), 2.5)])
def test_one_number_is_a_number_in_whatever_brackets(value):
    assert values.number(value) == 2.5


@pytest.mark.parametrize("value", [[], [1.0, 2.0], np.zeros((0, 1)), np.ones((1, 2))])
def test_none_or_two_are_no_number(value):
    with pytest.raises(values.Refused, match="wrong shape"):
        values.number(value)


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
    stub = nbformat.read(course / "release/small/small.ipynb", 4)
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
    below = submission(stub, ["HANDED OUT", GOOD], factor)
    (place,) = [i for i, c in enumerate(below.cells) if "Answer why" in c.source]
    below.cells[place + 1 : place + 1] = [
        new_markdown_cell("In a cell"),
        new_markdown_cell("or two."),
    ]
    (folder / "answer-below.ipynb").write_text(nbformat.writes(below))
    below.cells.insert(1, below.cells.pop(place + 1))
    below.cells.pop(place + 2)
    (folder / "answer-elsewhere.ipynb").write_text(nbformat.writes(below))
    renamed = GOOD.replace("count", "counted")
    book = submission(stub, ["HANDED OUT", renamed], factor)
    book.cells = [cell for cell in book.cells if "def count(" not in cell.source]
    (folder / "renamed.ipynb").write_text(nbformat.writes(book))
    plain = submission(stub, ["HANDED OUT", GOOD], factor)
    (folder / "Jane Doe_4711_assignsubmission_file").mkdir()
    for name in ("Jane Doe_4711_assignsubmission_file/small", "doejane_LATE_321_99_small"):
        (folder / f"{name}.ipynb").write_text(nbformat.writes(plain))
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
    assert "GRADED" not in result["state"], result
    hangs = name == "serialiser-patched"  # in every start, until the time is used up
    assert ("by hand" in result["state"]) == hangs, result


def test_a_cell_that_ends_the_process_is_named(results):
    (note,) = results["endless-cell"]["notes"]
    assert note == "Code cell 1 was left out: it did not answer in time."
    assert "ended its process" in results["exit-in-a-cell"]["notes"][0]
    (note,) = results["memory-bomb"]["notes"]  # a busy machine may not fill it in time
    assert "memory" in note or "in time" in note


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


def test_an_answer_in_cells_of_its_own_is_found_or_waits_for_a_person(results, course):
    assert results["answer-below"]["answers"] == {"why": "In a cell\n\nor two."}
    lost = results["answer-elsewhere"]
    assert lost["answers"] == {"why": ""} and lost["state"] == "Written answers to mark: why"
    assert lost["notes"] == ["There is text that answers no question: look into the notebook."]
    assert "Elsewhere in the notebook:" in (course / "marks/small/written.html").read_text()


def test_a_function_that_is_gone_is_reported(results):
    result = results["renamed"]
    assert result["total"] == 10 and result["state"] == "Look at these by hand: count"
    assert "no cell that ran defines it" in result["marks"][-1]["why"]


def test_feedback_shows_hints_and_nothing_hidden(results, course, factor):
    out = course / "marks/small"
    text = "".join(file.read_text() for file in out.rglob("*.html"))
    assert "Zero is not positive." in (out / "feedback/zeros/feedback.html").read_text()
    assert "SECRET" not in text and "7777" not in text and "wrong shape" in text
    assert "<script>" not in text and "&lt;script&gt;" in text
    for line in (course / "judge/small.py").read_text().splitlines():
        if len(line.strip()) > 14 and not line.startswith("@part"):
            assert line.strip() not in text, line


def table(file, encoding="utf-8"):
    with open(file, newline="", encoding=encoding) as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize(
    "state",
    ["Look at these by hand: f", "Written answers to mark: f", "NOT GRADED: /home/ann/seed"],
)
def test_a_page_for_a_student_does_not_tell_teachers_what_to_do(state):
    about = {"title": "Set", "points": {"f": 2}, "written": []}
    result = {"student": "ann", "marks": [], "written": {}, "notes": [], "total": 2, "graded": True}
    page = feedback.for_student(about, result | {"state": state})
    assert state not in page and "Not final" in page
    for state in ("Complete.", "The file is not a notebook."):
        assert state in feedback.for_student(about, result | {"state": state})


def test_the_table_for_spreadsheets_tells_all(results, course):
    file = course / "marks/small/marks.csv"
    assert file.read_bytes().startswith(b"\xef\xbb\xbf"), "else a spreadsheet breaks umlauts"
    marks = {row["student"]: row for row in table(file, "utf-8-sig")}
    assert marks["points possible"]["total"] == "18.0"
    assert {n: float(marks[n]["total"]) for n in SUBMISSIONS} == {
        n: SUBMISSIONS[n][0] for n in SUBMISSIONS
    }
    assert (marks["one-wrong"]["scaled"], marks["one-wrong"]["count"]) == ("4.0", "5.0")
    assert "'=cmd()" in marks, "a spreadsheet would run it"
    for name in ("empty-folder", *FILES):
        assert marks[name]["total"] == "" and marks[name]["state"], "never a silent zero"


def test_moodle_gets_a_worksheet_of_final_grades_by_participant(results, course):
    rows = table(course / "marks/small/moodle.csv")
    assert list(rows[0])[::2] == ["Identifier", "Grade"] and len(rows) == len(results)
    (jane,) = [row for row in rows if row["Identifier"]]
    assert (jane["Identifier"], jane["Grade"]) == ("Participant 4711", "15.0")
    by_name = {row["Username"]: row["Grade"] for row in rows}
    assert by_name["model"] == "15.0" and by_name["stub"] == "0.0"
    waiting = [r["student"] for r in results.values() if r["state"] != "Complete."]
    assert {"colab", "text-deleted", "empty-folder", "no-json"} <= set(waiting)
    assert all(by_name[name] == "" for name in waiting if name != "=cmd()")


def test_canvas_gets_its_columns_and_its_own_ids(results, course):
    rows = table(course / "marks/small/canvas.csv")
    title = "A small set"
    assert list(rows[0]) == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", title]
    assert (rows[0]["Student"], rows[0][title]) == ("Points Possible", "18.0")
    found = {row["Student"]: row for row in rows}
    assert (found["doejane"]["ID"], found["doejane"][title]) == ("321", "15.0")
    assert (found["model"]["ID"], found["model"]["SIS Login ID"]) == ("", "model")
    assert found["empty-folder"][title] == "" == found["colab"][title]


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
    assert "2.5 of 3" in (out / "feedback/colab/feedback.html").read_text()


def test_what_was_not_graded_is_tried_again_and_what_was_is_kept(course, tmp_path, monkeypatch):
    shutil.copytree(course / "judge", tmp_path / "judge")
    shutil.copy(course / "seed", tmp_path)
    (tmp_path / "marks/small/found").mkdir(parents=True)
    (tmp_path / "ann.ipynb").write_text("{}")
    found = [{"failed": "no memory was left"}, {"marks": []}]
    monkeypatch.setattr(grade, "judged", lambda *a: found.pop(0))
    entry = "ann", [tmp_path / "ann.ipynb"]
    states = ["failed" in grade.one(tmp_path, "small", {}, entry) for _ in range(3)]
    assert states == [True, False, False] and not found


def test_a_judge_that_was_mended_grades_again(course, tmp_path, monkeypatch):
    for below in ("judge", "seed"):
        copy = shutil.copytree if (course / below).is_dir() else shutil.copy
        copy(course / below, tmp_path / below)
    (tmp_path / "marks/small/found").mkdir(parents=True)
    (tmp_path / "ann.ipynb").write_text("{}")
    (tmp_path / "course").mkdir()
    ran = []
    monkeypatch.setattr(grade, "judged", lambda *a: ran.append(a) or {"marks": []})
    monkeypatch.setattr(grade, "TOOLS", tmp_path)
    for code in ("one", "one", "two"):
        (tmp_path / "course/judge.py").write_text(code)
        grade.one(tmp_path, "small", {}, ("ann", [tmp_path / "ann.ipynb"]))
    assert len(ran) == 2


def laid(folder, *names):
    """Files in that order of time."""
    for when, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (when, when))


def test_of_several_notebooks_the_newest_counts_and_no_hidden_one(tmp_path):
    laid(tmp_path, "ann/old.ipynb", "ann/new.ipynb", "ann/.ipynb_checkpoints/newer.ipynb")
    laid(tmp_path, "__MACOSX/ann/._new.ipynb", ".DS_Store/x.ipynb", "._ann.ipynb")
    (found,) = grade.submissions(tmp_path, "small", {"small"})
    assert found == ("ann", [tmp_path / "ann/new.ipynb", tmp_path / "ann/old.ipynb"])


def test_a_notebook_that_was_loaded_down_again_is_no_other_student(tmp_path):
    laid(tmp_path, "ann.ipynb", "ann (1).ipynb", "bob(12).ipynb", "(3).ipynb", "c (d).ipynb")
    found = dict(grade.submissions(tmp_path, "small", {"small"}))
    assert found.keys() == {"ann", "bob", "(3)", "c (d)"}
    assert found["ann"] == [tmp_path / "ann (1).ipynb", tmp_path / "ann.ipynb"]


def test_a_file_and_a_folder_of_one_name_are_one_student(tmp_path):
    laid(tmp_path, "ann.ipynb", "ann/later.ipynb")
    (found,) = grade.submissions(tmp_path, "small", {"small"})
    assert found == ("ann", [tmp_path / "ann/later.ipynb", tmp_path / "ann.ipynb"])


def test_of_what_nbgrader_collected_the_notebook_handed_out_counts(tmp_path):
    laid(tmp_path, "ann/small/small.ipynb", "ann/small/notes.ipynb", "bob/small/mine.ipynb")
    found = dict(grade.submissions(tmp_path, "small", {"small"}))
    assert found["ann"] == [tmp_path / "ann/small/small.ipynb"]
    assert found["bob"] == [tmp_path / "bob/small/mine.ipynb"]


def test_which_of_several_notebooks_counts_a_person_decides(tmp_path):
    """The newest may be the empty one: its zero must not go to a platform unseen."""
    about = {"written": [], "points": {}, "handed out": []}
    found = {"student": "ann", "unreadable": "", "marks": []}
    books = [tmp_path / "empty.ipynb", tmp_path / "mine.ipynb"]
    result = grade.whole(found, about, books, {})
    assert result["state"] == "Look at these by hand: which of 2 notebooks counts"
    assert result["notes"] == ["There are 2 notebooks. Graded is the newest, empty.ipynb."]
    assert feedback.final(result) == ""
    assert grade.whole(found, about, books[:1], {})["state"] == "Complete."


def test_points_are_read_from_a_table_with_semicolons(tmp_path):
    file, about = tmp_path / "written.csv", {"written": [{"name": "why", "points": 3}]}
    file.write_text("\ufeffstudent;why\nann;2,5\n", "utf-8")
    assert grade.entered(file, about) == {"ann": {"why": 2.5}}
    file.write_text("name,why\nann,2\n")
    with pytest.raises(ValueError, match="no column student"):
        grade.entered(file, about)


def test_an_empty_folder_is_refused_and_a_tilde_is_the_home(course, tmp_path, monkeypatch, capsys):
    (tmp_path / "hand-in").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command.main(["grade", str(course), "small", "~/hand-in"]) == 2
    assert capsys.readouterr().err == (
        f"course: {tmp_path}/hand-in holds no submissions: NAME.ipynb, or NAME/ with a notebook\n"
    )


def test_an_odd_notebook_is_graded_and_stops_nobody_elses_marks(course, factor, tmp_path):
    """Half of a character in an answer, as an emoji that was cut; an id that is none."""
    shutil.copytree(course, tmp_path / "course")
    stub = nbformat.read(course / "release/small/small.ipynb", 4)
    odd = json.loads(json.dumps(answered(submission(stub, ["HANDED OUT", GOOD], factor), "\ud83d")))
    odd["cells"].append({"cell_type": "markdown", "id": ["x"], "metadata": {}, "source": "more"})
    (tmp_path / "hand-in").mkdir()
    (tmp_path / "hand-in/ann.ipynb").write_text(json.dumps(odd))
    (ann,) = grade.grade(tmp_path / "course", "small", tmp_path / "hand-in", 1, LIMITS)
    assert ann["total"] == ALL and ann["answers"] == {"why": "\\ud83d\n\nmore"}
    assert "\\ud83d" in (tmp_path / "course/marks/small/written.html").read_text("utf-8")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
def test_a_name_in_another_encoding_is_one_that_tables_can_hold(tmp_path):
    with open(os.fsencode(tmp_path) + b"/Andr\xe9.ipynb", "wb"):
        (found,) = grade.submissions(tmp_path, "small", {"small"})
    assert found[0] == "Andr\\udce9" and found[1][0].exists()


def test_the_command_tells_states_with_a_few_names(monkeypatch, capsys, tmp_path):
    found = [{"student": name, "state": "Complete."} for name in "abcdefg"]
    found.append({"student": "x", "state": "NOT GRADED: why"})
    monkeypatch.setattr(grade, "grade", lambda *a: found)
    assert command.main(["grade", str(tmp_path), "small", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["7: Complete. (a, b, c, d, e and 2 more)", "1: NOT GRADED: why (x)"]


def test_what_is_no_notebook_and_whose_points_are_nobodys_is_said(
    course, factor, tmp_path, monkeypatch, capsys
):
    """A browser adds .txt; a spreadsheet takes the zeros off a student's number."""
    shutil.copytree(course, tmp_path / "course")
    (tmp_path / "hand-in").mkdir()
    stub = nbformat.read(course / "release/small/small.ipynb", 4)
    for name in ("007.ipynb", "ann.ipynb.txt", ".hidden"):
        text = nbformat.writes(submission(stub, ["HANDED OUT", GOOD], factor))
        (tmp_path / "hand-in" / name).write_text(text)
    out = tmp_path / "course/marks/small"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "written.csv").write_text("student,why\n7,2\n")
    monkeypatch.setattr(grade, "judged", lambda *a: {"unreadable": "", "marks": []})
    assert (
        command.main(["grade", str(tmp_path / "course"), "small", str(tmp_path / "hand-in")]) == 0
    )
    said = capsys.readouterr().err
    assert "No notebook, and so not graded: ann.ipynb.txt\n" in said
    assert "written.csv has points for names without a submission: 7\n" in said


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
    about = {"written": [], "points": {}, "handed out": []}
    whole = grade.whole(found | {"student": "ann"}, about, [], {})
    assert whole["state"].startswith("NOT GRADED")


def test_paths_may_be_relative_though_the_judge_runs_elsewhere(course, folder, monkeypatch):
    monkeypatch.chdir(folder)
    judge = Path(os.path.relpath(course / "judge/small.py", folder))
    found = grade.judged(judge, Path("model.ipynb"), SEED, LIMITS)
    assert sum(mark["points"] for mark in found["marks"]) == ALL
    linked = grade.judged(judge, Path("neighbours-file.ipynb"), SEED, LIMITS)
    assert "not a plain file" in linked["unreadable"]


def test_an_answer_that_a_judge_did_not_foresee_waits_for_a_person(capsys):
    part = judge.Part("f", "odd", 2, "", lambda call, rng: call("f")["x"])
    (mark,) = judge.decide([part], lambda *a: None, SEED)
    assert mark["points"] == 0 and judge.BY_HAND in mark["why"]
    found = {"unreadable": "", "marks": [mark]}
    assert grade.state(found, {}) == "Look at these by hand: f"


def test_a_function_may_print_without_end():
    cell = "line = 'x' * (1 << 20)\ndef f(x):\n    for _ in range(40): print(line)\n    return x"
    student = judge.Student([cell], judge.LIMITS)
    assert student.call("f", 3) == 3
    student.stop()


def test_functions_without_an_end_cost_the_others_nothing():
    """Six calls that hang, of two functions, and then one that is right."""
    cell = "def a(x):\n    while True: pass\nb = a\ndef good(x): return x"
    student = judge.Student([cell], judge.LIMITS | {"call": 2, "total": 900})
    parts = [
        judge.Part(name, str(i), 1, "", lambda call, rng, name=name: call(name, 3) == 3)
        for i, name in enumerate("aaabbb")
    ]
    parts.append(judge.Part("good", "right", 1, "", lambda call, rng: call("good", 3) == 3))
    marks = judge.decide(parts, student.call, SEED)
    student.stop()
    assert [mark["points"] for mark in marks] == [0] * 6 + [1], marks
    assert "in time" in marks[1]["why"] and "not called again" in marks[2]["why"]


def test_what_was_not_reached_waits_for_a_person():
    """A slow machine, or a slow cell: nobody has decided whether the function is right."""
    student = judge.Student(["def f(x): return x"], judge.LIMITS | LIMITS | {"total": 0})
    part = judge.Part("f", "right", 1, "", lambda call, rng: call("f", 3) == 3)
    (mark,) = judge.decide([part], student.call, SEED)
    assert mark["points"] == 0 and "the time is used up" in mark["why"]
    assert grade.state({"unreadable": "", "marks": [mark]}, {}) == "Look at these by hand: f"


def test_a_frame_is_refused_by_its_length_before_it_is_read(monkeypatch):
    student = judge.Student([], judge.LIMITS)
    sent = [struct.pack(">I", judge.LARGEST_FRAME + 1)]
    monkeypatch.setattr(student, "receive", lambda count, end: sent.pop())
    with pytest.raises(values.Refused, match="returned too much"):
        student.frame(1)


# ---------------------------------------------------------------------- nbgrader and its exchange


def test_nbgrader_hands_out_what_we_would(course, book):
    set_ = source.read("small", (course / "seed").read_text(), book, FIXTURES)
    ours = nbformat.reads(release.student(set_, book.links.setup()), 4).cells
    theirs = nbformat.read(course / "release/small/small.ipynb", 4).cells
    assert [(c.id, c.source) for c in theirs] == [(c.id, c.source) for c in ours]
    points = [c.metadata["nbgrader"].get("points") for c in theirs if "nbgrader" in c.metadata]
    assert points == [10, 5, 3]
    with ZipFile(course / "zip/small.zip") as archive:
        text = (course / "release/small/small.ipynb").read_text()
        assert archive.namelist() == ["small/small.ipynb"]
        assert archive.read("small/small.ipynb").decode() == text


def test_a_leak_through_nbgrader_is_not_released(tmp_path, monkeypatch):
    monkeypatch.setattr(
        gradebook,
        "marked",
        lambda cell: cell.text + "\n# return int((np.asarray(x) > 0).sum())",
    )
    with pytest.raises(release.Leak):
        release.release(tmp_path, ["small"], FIXTURES)
    assert not (tmp_path / "release/small").exists() and not (tmp_path / "zip").exists()


@pytest.fixture
def exchange(course, tmp_path, monkeypatch):
    """Takes a step of nbgrader's exchange, as ann, in a folder of her own."""
    from nbgrader.auth import Authenticator
    from nbgrader.coursedir import CourseDirectory
    from nbgrader.exchange import default

    monkeypatch.setenv("USER", "ann")
    monkeypatch.chdir(tmp_path)
    config = gradebook.settings(course)
    config.CourseDirectory.assignment_id = "small"
    config.CourseDirectory.course_id = "attention"
    config.Exchange.root, config.Exchange.cache = str(tmp_path / "x"), str(tmp_path / "cache")
    config.Exchange.assignment_dir = str(tmp_path)
    (tmp_path / "x").mkdir(mode=0o777)

    def step(name):
        place = CourseDirectory(config=config)
        return getattr(default, f"Exchange{name}")(
            coursedir=place, authenticator=Authenticator(config=config), config=config
        ).start()

    return step


@pytest.mark.filterwarnings("ignore")  # nbgrader's, and SQLAlchemy's on it
def test_a_course_goes_through_the_exchange(course, tmp_path, exchange):
    """Released, fetched, submitted, collected, graded, fed back, exported: as on JupyterHub."""
    exchange("ReleaseAssignment")
    exchange("FetchAssignment")
    hand_in = tmp_path / "small/small.ipynb"
    stub = nbformat.read(hand_in, 4)
    stub.cells.append(new_code_cell("def count(x): return int((x > 0).sum())"))
    nbformat.write(stub, hand_in)
    exchange("Submit")
    exchange("Collect")
    (ann,) = [folder.name for folder in (course / "submitted").iterdir()]
    (course / "submitted/late/other").mkdir(parents=True)  # handed in another set
    (course / "judge/other.json").write_text("{}")
    (result,) = grade.grade(course, "small", course / "submitted", 1, LIMITS)
    assert (result["student"], result["total"], result["state"]) == (ann, SECOND, "Complete.")
    exchange("ReleaseFeedback")
    exchange("FetchFeedback")
    (page,) = (tmp_path / "small/feedback").rglob("small.html")
    assert "5 of 18 points" in page.read_text()
    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        CsvExportPlugin(to=str(tmp_path / "grades.csv")).export(book)
    (line,) = [row for row in table(tmp_path / "grades.csv") if row["student_id"] == ann]
    assert (line["assignment"], line["score"], line["max_score"]) == ("small", "5.0", "18.0")


def test_the_gradebook_knows_what_waits_for_a_person(results, course):
    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        found = {s.student.id: s for s in book.assignment_submissions("small")}
        assert found["one-wrong"].score == 9 and not found["one-wrong"].needs_manual_grade
        assert found["text-deleted"].needs_manual_grade and found["text-deleted"].score == ALL
        assert "empty-folder" not in found


@pytest.mark.filterwarnings("ignore")  # nbgrader's, and SQLAlchemy's on it
def test_a_question_can_be_added_after_grading(tmp_path, capsys):
    sets, course = tmp_path / "sets", tmp_path / "course"
    shutil.copytree(FIXTURES, sets)
    release.release(course, ["small"], sets)
    book = nbformat.read(course / "release/small/small.ipynb", 4)
    book.cells.append(new_code_cell("def count(x): return int((x > 0).sum())"))
    hand_in = tmp_path / "hand-in"
    hand_in.mkdir()
    nbformat.write(book, hand_in / "ann.ipynb")
    grade.grade(course, "small", hand_in, 1, LIMITS)

    text = (sets / "small.md").read_text("utf-8")
    more = text[text.index("## 3.") : text.index(":::{admonition} For teachers")]
    (sets / "small.md").write_text(text + more.replace("## 3", "## 4").replace("why 3", "when 3"))
    release.release(course, ["small"], sets)
    assert "taken out of the gradebook: 1." in capsys.readouterr().err
    (ann,) = grade.grade(course, "small", hand_in, 1, LIMITS)
    assert ann["total"] == SECOND
    release.release(course, ["small"], sets)
    assert "taken out" not in capsys.readouterr().err, "nothing has changed"
    with Gradebook(f"sqlite:///{course}/gradebook.db") as marks:
        (entered,) = marks.assignment_submissions("small")
        assert (entered.student.id, entered.score, entered.max_score) == ("ann", SECOND, ALL + 6)


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
