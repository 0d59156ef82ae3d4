"""A grid becomes one table: every run once, the same bits, whatever interrupts it."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import descent
from descent.__main__ import main
from descent._sweep import _cli, _run, _table
from descent._sweep._cli import AXES as OPTIONS
from descent._sweep._cli import parse
from descent._sweep._grid import Grid, batch_size
from descent._sweep._table import Store
from descent._sweep._task import run_task

# V alone is the cheapest to train: its curvature takes no iteration
SMALL = {"N": 2, "n": 2, "D": [3, 8], "d": 2, "steps": 30, "seed": range(3), "train": "V"}
AXES = list(OPTIONS)


# ---- what is in the table ----------------------------------------------------------------------


def test_every_combination_is_one_row():
    axes = {**SMALL, "train": ["V", "QKV"]}
    table = descent.sweep(**axes, kernel=["softmax", "gaussian"], scale=[1, 2], step=0.1)
    assert len(table) == 2 * 2 * 2 * 3 * 2
    assert not table.duplicated(AXES).any()
    assert set(table["train"]) == {"V", "QKV"} and set(table["scale"]) == {1.0, 2.0}


@pytest.mark.parametrize("D", [3, 8])
@pytest.mark.parametrize("step", [0.05, "1/L"])
def test_a_row_is_what_descend_finds(D, step):
    options = {**SMALL, "D": D, "steps": 200}
    table = descent.sweep(**options, step=step, thresholds=[0.5, 0.1])
    for row in table.itertuples():
        problem = descent.problems.gaussian_in_span(2, 2, D, row.seed)
        layer = descent.models.Attention(d=2)
        weights = layer.init(problem, seed=row.seed)
        run = descent.descend(layer, problem, weights, train="V", step=step, steps=200)
        assert row.first_loss == pytest.approx(float(run.loss[0]), rel=1e-9)
        assert row.last_loss == pytest.approx(float(run.loss[-1]), rel=1e-6, abs=1e-20)
        assert row.eta == pytest.approx(float(run.eta), rel=1e-9)
        for fraction, column in ((0.5, "steps_to_0.5"), (0.1, "steps_to_0.1")):
            reached = table.loc[row.Index, column]
            assert (-1 if pd.isna(reached) else reached) == int(run.steps_to(fraction))


def test_the_neighbours_of_a_run_do_not_change_it():
    """Up to rounding: sums over a batch of another size may be taken in another order."""
    alone = descent.sweep(**{**SMALL, "seed": 2}, step=0.05)
    crowd = descent.sweep(**{**SMALL, "seed": range(40)}, step=[0.01, 0.05, "1/L"], scale=[1, 3])
    same = crowd[(crowd["seed"] == 2) & (crowd["step"] == "0.05") & (crowd["scale"] == 1)]
    for column in ("first_loss", "last_loss"):
        assert same[column].tolist() == pytest.approx(alone[column].tolist(), rel=1e-10)


def test_a_seed_is_a_problem_and_a_start_is_another_draw_of_its_weights():
    table = descent.sweep(**{**SMALL, "D": 8}, start=range(2), kernel=["softmax", "gaussian"])
    assert table.groupby("kernel")["first_loss"].nunique().tolist() == [6, 6]
    more = descent.sweep(**{**SMALL, "D": 8}, start=1, kernel="softmax")
    again = table[(table["start"] == 1) & (table["kernel"] == "softmax")]
    assert more["first_loss"].tolist() == pytest.approx(again["first_loss"].tolist(), rel=1e-12)


def test_training_the_values_comes_with_rank_and_condition():
    table = descent.sweep(**{**SMALL, "train": ["V", "Q"]}, step=0.1)
    values = table[table["train"] == "V"]
    assert (values["rank"] == values["D"].clip(upper=4)).all()
    assert (values["kappa"].isna() == (values["D"] < 4)).all() and values["kappa"].min() > 1
    assert table.loc[table["train"] == "Q", ["rank", "kappa"]].isna().all(axis=None)


def test_a_run_that_diverges_says_where_and_leaves_the_others_alone():
    table = descent.sweep(**{**SMALL, "D": 8, "steps": 300}, step=[0.05, 1e3])
    lost = table["step"] == "1000.0"
    assert table.loc[lost, "diverged_at"].gt(0).all() and table.loc[lost, "last_loss"].isna().all()
    assert (
        table.loc[~lost, "diverged_at"].isna().all() and table.loc[~lost, "last_loss"].ge(0).all()
    )


def test_until_stops_a_run_at_that_part_of_its_first_loss():
    table = descent.sweep(**{**SMALL, "D": 64, "steps": 4000}, until=0.5, thresholds=[0.5, 0.01])
    ratio = table["last_loss"] / table["first_loss"]
    assert ratio.between(0.1, 0.5).all() and table["steps_to_0.5"].lt(4000).all()


def test_a_billion_dimensions_cost_what_few_do():
    table = descent.sweep(**{**SMALL, "D": 10**9}, step="1/L")
    assert (table["rank"] == 4).all() and table["kappa"].max() < 1e6


def test_large_grids_are_cut_into_batches_that_fit():
    few, many = (Grid.of({**SMALL, "D": 8, "steps": s, "seed": range(600)}) for s in (10, 10**6))
    assert [len(task.runs) for task in few.tasks] == [256, 256, 88]
    assert len(many.tasks[0].runs) == batch_size(many.family, many.tasks[0].cell) < 10
    assert sum(len(task.runs) for task in many.tasks) == 600


def test_ten_million_seeds_begin_in_little_memory(tmp_path, monkeypatch):
    """Their numbers alone are 80 MB, and 400 as Python keeps them."""

    def stop(task):
        raise KeyboardInterrupt

    monkeypatch.setattr(_run, "run_task", stop)
    tracemalloc.start()
    try:
        for seeds in (range(10**7), parse("seed", "0..9999999")):
            with pytest.raises(KeyboardInterrupt, match="0 of 10000000 runs are kept"):
                descent.sweep(tmp_path / "t.parquet", N=2, n=2, D=3, train="V", seed=seeds)
        assert tracemalloc.get_traced_memory()[1] < 3e7
    finally:
        tracemalloc.stop()
    (note,) = (tmp_path / "t.parquet.parts").glob("*.json")
    assert json.loads(note.read_text())["axes"]["seed"] == "0..9999999"


def test_a_part_does_not_hold_the_whole_grid(tmp_path):
    grid = Grid.of({**SMALL, "seed": range(0, 4000, 2), "D": 3})
    store = Store(tmp_path / "t.parquet", grid)
    task = store.missing()[0]
    store.add(task, run_task(replace(task, runs=[task.runs[0]])))
    (part,) = store.folder.glob("*.parquet")
    assert len(grid.record()) > 10_000 > part.stat().st_size
    assert len(pickle.dumps(task)) < 20_000, "what is sent to a worker is its own runs"


@pytest.mark.parametrize("seeds", [[3, 4, 5], range(3, 6), np.arange(3, 6), torch.arange(3, 6)])
def test_seeds_in_a_row_are_one_grid_however_they_are_written(seeds):
    assert (
        Grid.of({**SMALL, "seed": seeds}).record() == Grid.of({**SMALL, "seed": (3, 4, 5)}).record()
    )


@pytest.mark.parametrize("seeds", [[0, 2], [1, 0], range(0, 9, 2), [5], np.uint8([255, 0])])
def test_seeds_that_are_not_in_a_row_stay_as_they_are(seeds):
    assert list(Grid.of({**SMALL, "seed": seeds}).axes["seed"]) == list(seeds)


def test_true_is_no_seed_though_it_is_one_more_than_zero():
    with pytest.raises(TypeError, match="seed must be an integer, got True"):
        Grid.of({**SMALL, "seed": [0, True]})


def test_the_number_of_threads_is_given_back():
    before = torch.get_num_threads()
    descent.sweep(**SMALL)
    assert torch.get_num_threads() == before


# ---- interruptions -----------------------------------------------------------------------------


def bytes_of(folder, **axes):
    descent.sweep(folder / "whole.parquet", **{**SMALL, **axes})
    return (folder / "whole.parquet").read_bytes()


def test_a_full_disk_is_told_and_costs_nothing(tmp_path, monkeypatch):
    expected, out = bytes_of(tmp_path), tmp_path / "t.parquet"
    with monkeypatch.context() as full:

        def no_room(rows, path, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(_table.pq, "write_table", no_room)
        with pytest.raises(OSError, match="out .*t.parquet cannot be written .No space.*make room"):
            descent.sweep(out, **SMALL)
    descent.sweep(out, **SMALL)
    assert out.read_bytes() == expected


@pytest.mark.parametrize("moment", ["start", "part", "table", "tidying"])
def test_death_at_any_moment_loses_nothing(tmp_path, monkeypatch, moment):
    """Stop at the four places where something is half done, by an error that nothing catches."""

    class Killed(BaseException):
        pass

    def die(*args, **kwargs):
        raise Killed

    expected, out = bytes_of(tmp_path), tmp_path / "t.parquet"
    with monkeypatch.context() as death:
        replace, calls = os.replace, []

        def last_words(source, target):
            calls.append(Path(target).name)
            if calls[-1] == {"start": "grid.json", "part": "000001.parquet"}.get(moment, out.name):
                raise Killed
            replace(source, target)

        if moment == "tidying":
            death.setattr(_table.shutil, "rmtree", die)
        else:
            death.setattr(_table.os, "replace", last_words)
        with pytest.raises(Killed):
            descent.sweep(out, **SMALL)
    trained = []
    run_task = _run.run_task
    monkeypatch.setattr(_run, "run_task", lambda task: trained.append(task) or run_task(task))
    descent.sweep(out, **SMALL)
    assert out.read_bytes() == expected
    assert len(trained) == {"start": 2, "part": 1, "table": 0, "tidying": 0}[moment]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.parquet", "whole.parquet"]


def test_kill_9_in_the_middle_loses_nothing(tmp_path):
    axes = {"D": list(range(3, 13)), "steps": 1000}
    expected, out = bytes_of(tmp_path, **axes), tmp_path / "t.parquet"
    code = f"import descent; descent.sweep({str(out)!r}, **{ {**SMALL, **axes} })"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    parts = tmp_path / "t.parquet.parts"
    while process.poll() is None and len(list(parts.glob("*.parquet"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    kept = {part: part.stat().st_mtime_ns for part in parts.glob("*.parquet")}
    assert 3 <= len(kept) < 10 and not out.exists()
    grid = Grid.of({**SMALL, **axes})
    assert len(_table.Store(out, grid).missing()) == 10 - len(kept)
    descent.sweep(out, **{**SMALL, **axes})
    assert out.read_bytes() == expected


@pytest.mark.parametrize("silent", [True, False], ids=["without a bar", "with a bar"])
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path, monkeypatch, capsys, silent):
    monkeypatch.delenv("DESCENT_BOOK", raising=False)
    if silent:
        monkeypatch.setenv("DESCENT_BOOK", "1")
    run_task, done = _run.run_task, []

    def once(task):
        if done:
            raise KeyboardInterrupt
        done.append(task)
        return run_task(task)

    out = tmp_path / "t.parquet"
    command = [
        "sweep",
        "--out",
        str(out),
        *"--N 2 --n 2 --D 3,8 --d 2 --steps 30 --train V".split(),
    ]
    monkeypatch.setattr(_run, "run_task", once)
    assert main([*command, "--seed", "0..2"]) == 130
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message == (
        f"descent: interrupted: 3 of 6 runs are kept in {out}.parts; "
        "give the same command again to go on"
    )
    monkeypatch.setattr(_run, "run_task", run_task)
    assert main([*command, "--seed", "0..2"]) == 0
    assert out.read_bytes() == bytes_of(tmp_path)


def test_a_finished_sweep_is_read_not_done_again(tmp_path, monkeypatch):
    expected = bytes_of(tmp_path)
    monkeypatch.setattr(_run, "run_task", None)
    assert bytes_of(tmp_path) == expected


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ({"M": 3}, ValueError, "unknown axis 'M': expected one of 'N', 'n', 'D', 'H', 'd'"),
        ({"D": []}, ValueError, "axis D is empty: give it at least one value, or leave it out"),
        ({"D": 0}, ValueError, "D must be at least 1, got 0"),
        ({"D": 2.5}, TypeError, "D must be an integer, got 2.5"),
        ({"D": [4, 4]}, ValueError, "axis D holds 4 twice"),
        ({"kernel": "relu"}, ValueError, "unknown kernel 'relu': expected one of 'softmax'"),
        (
            {"train": "W"},
            ValueError,
            r"train must name some of the matrices Q, K, V, each once .*, got 'W'",
        ),
        ({"step": "fast"}, ValueError, "unknown step 'fast': expected one of '1/L', 'polyak'"),
        ({"step": -1}, ValueError, "step must be positive and finite, got -1"),
        ({"scale": 0}, ValueError, "scale must be positive and finite, got 0"),
        ({"train": "VV"}, ValueError, r"each once .*, got 'VV'"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"D": 2**63}, ValueError, "D must be below 2.63"),
        ({"thresholds": [2]}, ValueError, "thresholds must lie between 0 and 1"),
        ({"until": 1.5}, ValueError, "until must lie between 0 and 1"),
        ({"cluster": 7}, TypeError, "cluster must be 'local', a scheduler's address or a"),
        ({"out": "t.csv"}, ValueError, "out must end in .parquet, got 't.csv'"),
        ({"out": "no/t.parquet"}, ValueError, "out is in no, which is no folder: create it first"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(axes, error, message):
    with pytest.raises(error, match=message):
        descent.sweep(**{**SMALL, **axes})


def test_what_must_be_given_is_named():
    with pytest.raises(ValueError, match="the grid lacks n, D: give each a value or a list"):
        descent.sweep(N=2)


def test_a_cell_that_cannot_be_trained_is_named():
    with pytest.raises(MemoryError, match=r"in the cell N=2, n=1, .*train=Q.*no runs fit at once"):
        descent.sweep(N=2, n=1, D=3, train="Q", steps=10**13)


def test_a_run_that_starts_where_the_loss_is_flat_stays_and_spoils_no_other():
    # of queries and keys far apart the Gaussian kernel keeps nothing
    grid = {"N": 4, "n": 3, "D": 24, "d": 4, "kernel": "gaussian", "train": "V", "steps": 50}
    table = descent.sweep(**grid, scale=[1.0, 64.0], seed=range(4))
    flat = table[table["eta"].isna()]
    assert 0 < len(flat) < 8 and set(flat["scale"]) == {64.0}
    assert (flat["last_loss"] == flat["first_loss"]).all() and flat["steps_to_0.01"].isna().all()
    alone = descent.sweep(**grid, scale=1.0, seed=range(4))
    pd.testing.assert_frame_equal(table[table["scale"] == 1].reset_index(drop=True), alone)


def foreign(path):
    pd.DataFrame({"D": [1, 2]}).to_parquet(path)


def half(path):
    descent.sweep(path, **SMALL)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (foreign, "was not written by a sweep: it is left as it is: choose another out, or remove"),
        (half, r"is no readable Parquet table \(half written\?\): it is left as it is"),
        (lambda path: path.write_text("my notes"), "is no readable Parquet table"),
        (lambda path: path.mkdir(), "is no readable Parquet table"),
        (
            lambda path: descent.sweep(path, **{**SMALL, "D": [3, 9], "H": 2}),
            r"another grid \(D, H differ\): to resume, give that grid; to replace it, remove",
        ),
    ],
    ids=["foreign", "half", "text", "folder", "another"],
)
def test_what_stands_at_out_is_never_overwritten(tmp_path, make, message):
    out = tmp_path / "t.parquet"
    make(out)
    before = out.read_bytes() if out.is_file() else None
    with pytest.raises(ValueError, match=message):
        descent.sweep(out, **SMALL)
    assert before is None or out.read_bytes() == before


def test_parts_of_another_sweep_or_of_none_are_left_alone(tmp_path):
    parts = tmp_path / "t.parquet.parts"
    parts.mkdir()
    (parts / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="parts is no sweep's: choose another out, or remove it"):
        descent.sweep(tmp_path / "t.parquet", **SMALL)
    (parts / "letter.txt").unlink()
    (parts / "grid.json").write_text(Grid.of({**SMALL, "d": 3}).record())
    with pytest.raises(ValueError, match=r"holds a sweep over another grid \(d differ\)"):
        descent.sweep(tmp_path / "t.parquet", **SMALL)


# ---- the command line --------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(
        "N: 2\nn: 2\nD: [3, 8]\nd: 2\nsteps: 30\ntrain: V\nseed: 0..2\nthresholds: [1e-2, 1e-3]\n"
    )
    return path


def test_a_file_and_options_make_the_table_of_the_same_grid(tmp_path, file, capsys):
    out = tmp_path / "t.parquet"
    assert main(["sweep", str(file), "--D", "8", "--step", "1/L,0.02", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 6 runs, 0 diverged\n"
    expected = descent.sweep(**{**SMALL, "D": 8}, step=["1/L", 0.02], thresholds=[0.01, 0.001])
    pd.testing.assert_frame_equal(pd.read_parquet(out), expected)
    assert json.loads(pq.read_schema(out).metadata[_table.KEY])["axes"]["D"] == [8]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("N: 2\nn: 2\nD: 3\nM: 1", "unknown axis 'M'"),
        ("N: 2\nn: 2\nD: []", "axis D is empty"),
        ("N: 2\nn: 2\nD: 2.5", "D must be an integer, got 2.5"),
        ("N: 2\nn: [", "is no YAML: see its line 2"),
        ("just words", "must hold axes, such as 'D: [2, 4, 8]', one a line"),
        (None, "cannot be read (FileNotFoundError): give a YAML"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, file, capsys, content, message):
    file.unlink()
    if content is not None:
        file.write_text(content)
    assert main(["sweep", str(file), "--out", str(tmp_path / "t.parquet")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("descent: ") and message in error and error.count("\n") == 1


def test_a_table_becomes_a_picture(tmp_path, capsys):
    table = tmp_path / "whole.parquet"
    bytes_of(tmp_path, kernel=["softmax", "gaussian"])
    for where in ("D=8", "D=8.0", "scale=1", "scale=1.0", "step=1/L", "start=0"):
        assert main(["plot", str(table), "--where", where]) == 0, where
    assert (tmp_path / "whole.svg").read_text().startswith("<?xml")
    assert main(["plot", str(table), str(tmp_path / "p.png"), "--show", "speed"]) == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.parquet"], "table nothing.parquet cannot be read (FileNotFoundError)"),
        (["{table}", "p.gif"], "picture must end in .svg, .png, .pdf, got 'p.gif'"),
        (
            ["{table}", "--fraction", "0.5"],
            "no column steps_to_0.5: fraction may be 0.01 or 0.0001",
        ),
        (["{table}", "--show", "rate"], "show must be one of 'success', 'speed', got 'rate'"),
        (["{table}", "--where", "M=1"], "where must be AXIS=VALUE with a column's name, got 'M=1'"),
        (["{table}", "--where", "D=7"], "table holds no run: select other rows"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_in_one_line(
    tmp_path, capsys, monkeypatch, arguments, message
):
    bytes_of(tmp_path)
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *(a.format(table="whole.parquet") for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_folder_that_is_no_sweeps_is_left_alone_beside_a_finished_table(tmp_path):
    out, folder = tmp_path / "t.parquet", tmp_path / "t.parquet.parts"
    descent.sweep(out, **SMALL)
    folder.mkdir()
    letter = folder / "letter.txt"
    letter.write_text("keep me")
    with pytest.raises(ValueError, match="t.parquet.parts is no sweep's: choose another out"):
        descent.sweep(out, **SMALL)
    assert letter.read_text() == "keep me"
    letter.unlink()
    (folder / "grid.json").write_text(Grid.of({**SMALL, "seed": 99}).record())
    with pytest.raises(ValueError, match="holds a sweep over another grid .seed differ."):
        descent.sweep(out, **SMALL)


@pytest.mark.parametrize("note", ["", '{"axes": {"N"', "[1]"])
def test_a_damaged_note_of_the_grid_is_named(tmp_path, note):
    folder = tmp_path / "t.parquet.parts"
    folder.mkdir()
    (folder / "grid.json").write_text(note)
    with pytest.raises(ValueError, match="grid.json is damaged: choose another out, or remove it"):
        descent.sweep(tmp_path / "t.parquet", **SMALL)


def test_a_damaged_part_is_named_with_the_way_out(tmp_path):
    out, grid = tmp_path / "t.parquet", Grid.of(SMALL)
    whole = descent.sweep(**SMALL)
    store = Store(out, grid)
    for task in store.missing():
        store.add(task, run_task(task))
    damaged = tmp_path / "t.parquet.parts" / "000000.parquet"
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(ValueError, match="000000.parquet is damaged: remove it and give the same"):
        descent.sweep(out, **SMALL)
    damaged.unlink()
    pd.testing.assert_frame_equal(descent.sweep(out, **SMALL), whole)


def test_spans_and_single_values_mix_on_the_command_line():
    assert parse("seed", "0..3,7, 9..10") == [0, 1, 2, 3, 7, 9, 10]


def test_the_help_says_of_each_axis_what_it_takes(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert set(_cli.TAKES) == {*_cli.FAMILY, *_cli.AXES, *_cli.SETTINGS}
    for axis, takes in _cli.TAKES.items():
        assert f"--{axis} {'NAME' if axis in _cli.FAMILY else 'VALUES'} {takes}" in said
        example = takes.partition("such as ")[2]
        if example and axis in _cli.AXES:  # and it can be given so
            Grid.of({"N": 2, "n": 2, "D": 3, axis: parse(axis, example)})


@pytest.mark.parametrize(
    "sizes",
    ["N 99999999999", "n 9999999999", "H 99999999999", "d 9999999999999", "N 200 --n 20000"]
    + ["steps 9999999999999", "seed 0..999999999999", "D 99999999999999999999"],
)
def test_what_is_too_large_for_a_machine_is_told_in_one_line(tmp_path, capsys, sizes, monkeypatch):
    monkeypatch.setenv("DESCENT_BOOK", "1")  # no bar
    out = str(tmp_path / "t.parquet")
    command = f"sweep --N 2 --n 2 --D 3 --steps 2 --out {out} --{sizes}"
    assert main(command.split()) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("descent: ")
    assert "need" in told and "free" in told or "must be below 2^63" in told


def test_thresholds_that_print_alike_are_refused():
    with pytest.raises(
        ValueError, match="give two columns one name: let them differ in their first"
    ):
        descent.sweep(**SMALL, thresholds=[0.1, 0.1 + 1e-9])


def begun(tmp_path, monkeypatch):
    """A sweep that was killed after its last part, before the table."""
    from descent._sweep import _table

    with monkeypatch.context() as patch:
        patch.setattr(_table.Store, "finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            descent.sweep(tmp_path / "t.parquet", **SMALL)
    return tmp_path / "t.parquet", tmp_path / "t.parquet.parts"


def test_a_damaged_note_does_not_cost_the_parts_that_are_there(tmp_path, monkeypatch):
    from descent._sweep import _run

    out, parts = begun(tmp_path, monkeypatch)
    (parts / "grid.json").write_text("{half")
    monkeypatch.setattr(_run, "run_task", lambda task: 1 / 0)  # nothing is done again
    assert len(descent.sweep(out, **SMALL)) == len(descent.sweep(out, **SMALL)) > 0


def test_a_part_of_another_sweep_is_refused_by_what_it_says_it_is(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    out, parts = begun(tmp_path, monkeypatch)
    part = min(parts.glob("*.parquet"))
    rows = pq.read_table(part)
    pq.write_table(rows.replace_schema_metadata({b"descent.sweep": b"{}"}), part)
    with pytest.raises(ValueError, match="is a part of another sweep: remove it and give the same"):
        descent.sweep(out, **SMALL)


def test_two_sweeps_on_one_file_do_not_get_into_each_others_way(tmp_path, monkeypatch):
    from descent._sweep import _run

    out, tried = tmp_path / "t.parquet", []
    run_task = _run.run_task

    def meanwhile(task):
        if not tried:
            tried.append(task)
            with pytest.raises(ValueError, match="another sweep is at work on .*: wait for it"):
                descent.sweep(out, **SMALL)
        return run_task(task)

    monkeypatch.setattr(_run, "run_task", meanwhile)
    descent.sweep(out, **SMALL)
    assert tried and out.exists()


def test_ctrl_c_says_so_where_nothing_else_is_to_be_said(monkeypatch, capsys):
    from descent import __main__

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__.claims, "run", interrupted)
    assert main(["ledger"]) == 130
    assert capsys.readouterr().err == "descent: interrupted\n"
