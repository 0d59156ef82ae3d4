"""The ledger as people meet it: on the page, in a terminal, as JSON."""

import json
import re
import subprocess
import sys

import pytest

from descent import claims
from descent.__main__ import main
from descent.claims import Claim, Entry, Evidence, Ledger, Verdict
from descent.claims._ledger import number


def entry(supported=True, statement="If $a < b$ then b > a.", **numbers):
    record = Claim(
        "a-claim",
        "paper2024",
        "Theorem 9",
        statement,
        Verdict.CORRECTED,
        "part/page",
        print,
        {"m": {}},
    )
    return Entry(record, Evidence({"it is < so": supported}, numbers or {"runs": 3}))


@pytest.fixture
def small(monkeypatch):
    """A registry of one claim that is cheap, and one that fails."""

    def enter(supported):
        made = entry(supported)
        record = Claim(**vars(made.claim) | {"check": lambda: made.evidence})
        monkeypatch.setattr("descent.claims._ledger.registry", {"a-claim": record})
        monkeypatch.setattr("descent.claims._record.registry", {"a-claim": record})

    return enter


def test_json_prints_one_object_a_claim_with_the_promised_keys(small, capsys):
    small(True)
    assert main(["ledger", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "id": "a-claim",
        "paper": "paper2024",
        "number": "Theorem 9",
        "statement": "If $a < b$ then b > a.",
        "verdict": "holds as corrected",
        "chapter": "part/page",
        "evidence": {"runs": 3},
        "supported": True,
    }


@pytest.mark.parametrize(
    ("supported", "status", "word"), [(True, 0, "supports"), (False, 1, "is AGAINST")]
)
def test_check_exits_by_the_evidence(small, capsys, supported, status, word):
    small(supported)
    assert main(["check", "a-claim"]) == status
    assert f"The evidence {word} the verdict." in capsys.readouterr().out


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
