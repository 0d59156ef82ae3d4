"""The ledger as people meet it: on the page, in a terminal, as JSON."""

import json
import re
import subprocess
import sys

import pytest

from descent import claims
from descent.__main__ import main
from descent.claims import Claim, Entry, Evidence, Ledger, Standing, Verdict
from descent.claims._ledger import number


def record_of(**changes):
    fields = {
        "id": "a-claim",
        "paper": "paper2024",
        "number": "Theorem 9",
        "statement": "If $a < b$ then b > a.",
        "verdict": Verdict.CORRECTED,
        "chapter": "part/page",
        "check": print,
        "mutations": {"m": {}},
        "title": "Order",
        "box": "thm-order",
        "standing": Standing.PROVED,
    }
    return Claim(**fields | changes)


def entry(supported=True, **numbers):
    evidence = Evidence(
        {"it is < so": supported},
        numbers or {"runs": 3},
        hypotheses={"a is a number": True},
        sharpness={"it is < so": (0.5, 0.95)},
    )
    return Entry(record_of(), evidence, {"m": Evidence({"it is < so": False})})


@pytest.fixture
def small(monkeypatch):
    """A registry of one claim that is cheap, and one that fails."""

    def enter(supported):
        record = record_of(check=lambda: entry(supported).evidence)
        monkeypatch.setattr("descent.claims._ledger.registry", {"a-claim": record})
        monkeypatch.setattr("descent.claims._record.registry", {"a-claim": record})

    return enter


def test_json_prints_one_object_a_claim_with_the_promised_keys(small, capsys):
    small(True)
    assert main(["ledger", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "id": "a-claim",
        "title": "Order",
        "box": "thm-order",
        "uses": [],
        "standing": "proved",
        "paper": "paper2024",
        "number": "Theorem 9",
        "statement": "If $a < b$ then b > a.",
        "verdict": "holds as corrected",
        "chapter": "part/page",
        "evidence": {
            "hypotheses": {"a is a number": True},
            "conclusions": {"it is < so": True},
            "numbers": {"runs": 3},
            "sharpness": {"it is < so": [0.5, 0.95]},
            "turns": {"it is < so": 1.1},
        },
        "mutations": {"m": []},
        "supported": True,
    }


@pytest.mark.parametrize(
    ("supported", "status", "word"), [(True, 0, "supports"), (False, 1, "is AGAINST")]
)
def test_check_exits_by_the_evidence(small, capsys, supported, status, word):
    small(supported)
    assert main(["check", "a-claim"]) == status
    out = capsys.readouterr().out
    assert f"The evidence {word} the verdict." in out
    assert "given a is a number" in out and "turns at 1.1 times" in out


def test_the_brief_ledger_says_what_fails_and_what_was_run_anew(small, capsys):
    small(False)
    assert main(["ledger", "--brief"]) == 1
    assert capsys.readouterr().out == (
        "ledger: 1 claims, 1 not supported. All were run anew.\nledger: a-claim: it is < so\n"
    )


def test_ledger_exits_non_zero_if_one_claim_fails_and_says_which(small, capsys):
    small(False)
    assert main(["ledger"]) == 1
    assert "holds as corrected  NO " in capsys.readouterr().out


def test_an_unknown_claim_is_answered_with_the_known_ones(small, capsys):
    small(True)
    assert main(["check", "b-claim"]) == 2
    assert (
        capsys.readouterr().err == "descent: unknown claim 'b-claim': expected one of 'a-claim'\n"
    )


def test_the_module_runs_from_a_shell():
    done = subprocess.run(
        [sys.executable, "-m", "descent", "check", "kernel-factorisation"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "The evidence supports the verdict." in done.stdout


def test_rows_escape_html_and_typeset_mathematics():
    page = Ledger([entry()])._repr_html_()
    assert re.search(r"If <math>.*a &lt; b</annotation></semantics></math> then b &gt; a\.", page)
    assert '<section class="descent-claim-row" id="a-claim">' in page


def test_a_row_keeps_apart_what_is_assumed_and_what_follows():
    page = Ledger([entry()])._repr_html_()
    assert "Theorem 9, proved." in page
    assert "<li>Assumed: a is a number.</li>" in page
    assert "it is &lt; so (measured over bound 0.5, at best 0.95; turns at 1.1 times" in page
    assert "<li>With m: false: it is &lt; so.</li>" in page


def test_a_row_shows_what_failed():
    assert "not supported: it is &lt; so" in Ledger([entry(supported=False)])._repr_html_()


def test_chapters_are_linked_in_the_book_only(monkeypatch):
    monkeypatch.delenv("DESCENT_BOOK", raising=False)
    assert 'href="part/page.html"' not in Ledger([entry()])._repr_html_()
    monkeypatch.setenv("DESCENT_BOOK", "1")
    assert 'href="part/page.html"' in Ledger([entry()])._repr_html_()


def test_the_summary_counts_verdicts():
    assert "2 claims: 2 holds as corrected." in Ledger([entry(), entry()])._repr_html_()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (256, "256"),
        (0.0, "0"),
        (0.12345, "0.123"),
        (1.5925e-12, "1.59 × 10<sup>-12</sup>"),
        (8.2e15, "8.2 × 10<sup>15</sup>"),
    ],
)
def test_numbers_read_as_one_writes_them(value, written):
    assert number(value) == written


def test_every_claim_belongs_to_a_chapter_of_the_book():
    import pathlib

    book = pathlib.Path(__file__).parents[2] / "book"
    missing = [c.id for c in claims.registry.values() if not (book / f"{c.chapter}.md").exists()]
    assert not missing
