"""The ledger is run once: what is kept, for how long, and by whom."""

import json
import multiprocessing
import shutil
import signal
import threading
import time

import pytest

from descent import claims
from descent.claims import Claim, Evidence, Verdict, _kept, _ledger


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "descent" / "ledger"


def counted(log, **fields):
    """A claim that writes a line each time its check runs."""

    def check(broken=False):
        with open(log, "a") as file:
            file.write("ran\n")
        return Evidence({"it holds": not broken}, {"one": 1}, sharpness={"it holds": (0.5, 1.0)})

    check.__module__ = "descent.claims.foundations.kernels"
    record = {"paper": "p", "number": "1", "statement": "s.", "chapter": "c"}
    record |= {"verdict": Verdict.HOLDS, "mutations": {"broken": {"broken": True}}}
    return Claim("a-claim", check=check, **record | fields)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="results cannot be kept in .*: let XDG_CACHE_HOME name"):
        claims.run([claims.get("gaussian-gram")])


def test_the_second_time_it_is_read(tmp_path):
    log, claim = tmp_path / "log", counted(tmp_path / "log")
    first, second = claims.run([claim]), claims.run([claim])
    assert log.read_text() == "ran\nran\n"  # the claim and its mutation, once
    assert (first.anew, second.anew) == (("a-claim",), ())
    assert second[0].evidence.supports and second[0].evidence.turns == {"it holds": 1.02}
    assert second[0].mutations["broken"].turned == ["it holds"]


def test_other_code_or_another_mutation_is_run_anew(tmp_path, monkeypatch):
    claims.run([counted(tmp_path / "log")])
    more = counted(tmp_path / "log", mutations={"broken": {"broken": True}, "again": {}})
    assert claims.run([more]).anew == ("a-claim",)
    monkeypatch.setattr(_kept, "key", lambda module: "another")
    assert claims.run([more]).anew == ("a-claim",)


def test_a_file_that_was_cut_short_is_run_anew(tmp_path):
    claim = counted(tmp_path / "log")
    claims.run([claim])
    _kept.file(claim).write_text('{"": {"conclusions"')
    assert claims.run([claim]).anew == ("a-claim",)
    assert json.loads(_kept.file(claim).read_text())


def test_few_generations_are_kept(tmp_path, elsewhere, monkeypatch):
    claim = counted(tmp_path / "log")
    for k in range(9):
        monkeypatch.setattr(_kept, "key", lambda module, k=k: f"key{k}")
        claims.run([claim])
    assert len(list(elsewhere.glob("a-claim.*.json"))) == _kept.GENERATIONS


def test_a_claim_of_ones_own_is_run_and_not_kept(tmp_path, elsewhere):
    claim = counted(tmp_path / "log")
    claim.check.__module__ = "__main__"
    assert claims.run([claim, claim]).anew == ("a-claim", "a-claim")
    assert not list(elsewhere.glob("*.json"))


def test_several_processes_do_the_same_work(elsewhere):
    chosen = [claims.get(id) for id in ("kernel-factorisation", "gaussian-gram", "equal-rank")]
    ledger = claims.run(chosen, jobs=2)
    assert [entry.claim.id for entry in ledger] == [claim.id for claim in chosen]
    assert all(entry.evidence.supports for entry in ledger)
    assert len(list(elsewhere.glob("*.json"))) == 3
    assert claims.run(chosen).anew == ()


def test_a_claim_that_raises_in_another_process_is_told(monkeypatch, capfd):
    chosen = [claims.get("kernel-factorisation"), counted("nowhere")]
    with pytest.raises(RuntimeError, match="a claim could not be run, see above"):
        claims.run(chosen, jobs=2)
    assert "unknown claim 'a-claim'" in capfd.readouterr().err
    assert claims.run(chosen[:1]).anew == ()  # the other one is kept


def hold(path, started, seconds):
    with _kept.locked():
        started.set()
        time.sleep(seconds)
        path.write_text("done")


def test_who_comes_second_waits(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    other = context.Process(target=hold, args=(tmp_path / "done", started, 0.5))
    other.start()
    started.wait(10)
    with _kept.locked():
        assert (tmp_path / "done").exists()
    other.join()


def test_a_claim_depends_on_what_it_imports_and_on_nothing_else():
    needs = _kept.needs("claims.song2024.values")
    assert needs >= {"claims._record", "theorems.song2024.values", "models.attention", "_descend"}
    assert needs >= {"spectra", "kernels", "problems", "lanes._groups"}
    assert not any(name.startswith(("_explore", "_sweep")) for name in needs)
    assert "claims.song2024.joint" not in needs


def key(module):
    """As a new process finds it."""
    for cached in (_kept.imports, _kept.needs, _kept.key):
        cached.cache_clear()
    return _kept.key(module)


def test_the_key_follows_the_recorded_runs_that_a_claim_reads(tmp_path, monkeypatch):
    package = shutil.copytree(_kept.PACKAGE, tmp_path / "package")
    monkeypatch.setattr(_kept, "PACKAGE", package)
    modules = "claims.wu2023.vision", "claims.wu2023.width", "claims.foundations.kernels"
    before = [key(module) for module in modules]
    for name in ("vision.json", "encoder.parquet"):
        with open(package / "tables" / name, "ab") as file:
            file.write(b" ")
        after = [key(module) for module in modules]
        assert after[0] != before[0] and after[1] != before[1] and after[2] == before[2]
        before = after
    monkeypatch.undo()
    key("claims.foundations.kernels")


def test_the_key_follows_the_sources(tmp_path, monkeypatch):
    package = shutil.copytree(_kept.PACKAGE, tmp_path / "package")
    before = key("claims.song2024.values"), key("claims.foundations.kernels")
    monkeypatch.setattr(_kept, "PACKAGE", package)
    assert (key("claims.song2024.values"), key("claims.foundations.kernels")) == before
    with open(package / "claims" / "song2024" / "_shared.py", "a") as file:
        file.write("\n")
    after = key("claims.song2024.values"), key("claims.foundations.kernels")
    assert after[0] != before[0] and after[1] == before[1]
    monkeypatch.undo()
    key("claims.song2024.values")


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_keeps_what_is_done_ends_the_rest_and_says_so(monkeypatch, jobs):
    """It comes when the first of two claims is done; the other one would take longer."""
    quick, slow = (claims.get(id) for id in ("span-lemma", "song2024-landscape-curvature"))

    class Interrupted(_ledger.tqdm):
        def update(self, n=1):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    monkeypatch.setattr(_ledger, "tqdm", Interrupted)
    # a shell lets what it starts in the background ignore the signal
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(
        KeyboardInterrupt, match="1 of the 2 claims that were to be run are kept; g"
    ):
        claims.run([quick, slow], jobs)
    assert _kept.read(quick) and _kept.read(slow) is None
