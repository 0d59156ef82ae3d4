"""The ledger as people meet it: on the page, in a terminal, as JSON."""

import html
import inspect
import json
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from descent import claims
from descent.__main__ import main
from descent.claims import Claim, Entry, Evidence, Ledger, Standing, Verdict
from descent.claims._graph import columns, uses
from descent.claims._pages import CHAPTERS, PARTS, lettered, number, part, slug


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
    return Entry(record_of(), evidence, {"m^8": Evidence({"it is < so": False})})


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
    assert re.search('<section class="descent-claim-row [^"]*" id="a-claim">', page)


def test_a_row_keeps_apart_what_is_assumed_and_what_follows():
    page = Ledger([entry()])._repr_html_()
    assert "Theorem 9, proved." in page
    assert "<li>Assumed: a is a number.</li>" in page
    assert "it is &lt; so (measured over bound 0.5, at best 0.95; turns at 1.1 times" in page
    assert "<li>With m<sup>8</sup>: false: it is &lt; so.</li>" in page


def test_a_row_shows_what_failed():
    assert "not supported: it is &lt; so" in Ledger([entry(supported=False)])._repr_html_()


def test_chapters_and_boxes_are_linked_in_the_book_only(monkeypatch):
    monkeypatch.delenv("DESCENT_BOOK", raising=False)
    assert "href" not in Ledger([entry()])._repr_html_().replace('href="#a-claim"', "")
    monkeypatch.setenv("DESCENT_BOOK", "1")
    page = Ledger([entry()])._repr_html_()
    assert 'href="../part/page.html"' in page
    assert '<a data-label="thm-order" href="#">thm-order</a>' in page


def test_a_record_says_what_it_uses_and_what_uses_it(monkeypatch):
    monkeypatch.setenv("DESCENT_BOOK", "1")
    above = record_of(id="above", box="thm-above", uses=("thm-order",))
    monkeypatch.setattr("descent.claims._ledger.registry", {"above": above})
    ledger = Ledger([entry(), Entry(above, entry().evidence)])
    first, second = ledger._repr_html_().split('id="above"')
    assert 'Used by <a href="../ledger/part.html#above">above</a>.' in first
    assert 'It uses <a data-label="thm-order"' in second


def test_a_result_does_not_use_itself(monkeypatch):
    """A claim about one head takes the uses of the theorem for several, whose proof needs it."""
    monkeypatch.setenv("DESCENT_BOOK", "1")
    of = record_of(uses=("thm-order", "eq-a"))
    page = Ledger([Entry(of, entry().evidence)])._repr_html_()
    assert 'It uses <a data-label="eq-a" href="#">eq-a</a>.' in page


def test_a_record_shows_the_code_of_its_check():
    page = Ledger([claims.run([claims.get("kernel-factorisation")])[0]])._repr_html_()
    shown = html.unescape(re.search("<pre>(.*?)</pre>", page, re.S)[1])
    source = inspect.getsource(claims.get("kernel-factorisation").check)
    assert shown.startswith("def ") and source.endswith(shown) and source.startswith("@claim(")


def test_a_record_whose_check_has_no_source_shows_none():
    assert "<pre>" not in Ledger([entry()])._repr_html_()  # `print` is written in C


@pytest.mark.parametrize(
    ("text", "set_"),
    [
        (
            "sigma_min < ‖W_O‖ (1 - x)^t",
            "σ<sub>min</sub> &lt; ‖W<sub>O</sub>‖ (1 - x)<sup>t</sup>",
        ),
        ("r_0ᵀGr_0 / σ_min²", "r<sub>0</sub>ᵀGr<sub>0</sub> / σ<sub>min</sub>²"),
        ("the theorem's f'", "the theorem’s f&#x27;"),
        ("f_{t+1} - e^{Lηt}", "f<sub>t+1</sub> - e<sup>Lηt</sup>"),
        ("‖Σ_ζ‖_* e^-ρt θ_∞", "‖Σ<sub>ζ</sub>‖<sub>*</sub> e<sup>-ρt</sup> θ<sub>∞</sub>"),
    ],
)
def test_letters_of_a_conclusion_are_set(text, set_):
    assert lettered(text) == set_


def test_no_record_shows_a_letter_that_is_not_set():
    names = [
        name
        for found in claims.run()
        for name in [*found.evidence.hypotheses, *found.evidence.conclusions, *found.mutations]
    ]
    assert [name for name in names if re.search("[_^]", lettered(name))] == []


def test_how_sharp_a_bound_is_stands_as_people_write_numbers():
    evidence = Evidence({"it": True}, sharpness={"it": (0.0, 6.9e-13)})
    page = Ledger([Entry(record_of(), evidence)])._repr_html_()
    assert "measured over bound 0, at best 6.9 × 10<sup>-13</sup>;" in page


def holding(**changes):
    return Entry(record_of(verdict=Verdict.HOLDS, **changes), entry().evidence)


def test_chapters_stand_in_the_ledger_as_in_the_book(monkeypatch):
    toc = yaml.safe_load((pathlib.Path(__file__).parents[2] / "_toc.yml").read_text("utf8"))
    pages = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert CHAPTERS == [page for page in pages if page.split("/")[0] in PARTS]
    assert {claim.chapter for claim in claims.registry.values()} <= set(CHAPTERS)
    monkeypatch.setenv("DESCENT_BOOK", "1")
    ledger = Ledger(Entry(claim, entry().evidence) for claim in claims.registry.values())
    shown = re.findall(r'<h3><a data-label="([^"]+).html"', ledger.part("song2024")._repr_html_())
    assert shown == [chapter for chapter in CHAPTERS if chapter in shown] and len(shown) > 4
    for surprises in ledger.overview().html.partition('<h2 id="foundations">')[::2]:
        shown = re.findall(r'<h3><a data-label="([^"]+).html"', surprises)
        assert shown == [chapter for chapter in CHAPTERS if chapter in shown] and len(shown) > 9


def test_the_overview_counts_verdicts_and_shows_surprises_first():
    page = Ledger([holding(id="b"), entry()]).overview().html
    assert "all <b>2</b>" in page and "holds as corrected <b>1</b>" in page
    assert page.index('<li id="a-claim"') < page.index('<li id="b"')


def test_every_verdict_that_can_be_chosen_hides_the_others(small_site, browser):
    css = (pathlib.Path(__file__).parents[2] / "book/static/descent.css").read_text()
    ledger = Ledger([Entry(record_of(id=str(v), verdict=v), entry().evidence) for v in Verdict])
    context = browser.new_context()
    page = context.new_page()
    page.goto(small_site({"a.html": f"<style>{css}</style>{ledger.overview().html}"}) + "/a.html")
    shown = "() => [...document.querySelectorAll('li')].filter(e => e.checkVisibility()).length"
    assert page.evaluate(shown) == len(Verdict)
    for verdict in Verdict:
        page.locator(f'[value="{slug(verdict)}"]').check()
        assert page.evaluate(shown) == 1
        assert page.locator("li:visible").get_attribute("id") == verdict
        assert page.locator("h2:visible").count() == 1
    context.close()


def test_errata_name_what_a_paper_prints_and_leave_out_what_holds_and_what_is_ours():
    ours = Entry(record_of(id="ours", paper="Descent"), entry().evidence)
    theirs = Entry(record_of(id="theirs", paper="song2024"), entry().evidence)
    good = holding(id="good", paper="song2024")
    page = Ledger([ours, theirs, good]).errata()
    assert "theirs" in page.html and "theirs" in str(page)
    assert "ours" not in page.html and "good" not in page.html


def test_a_part_holds_its_claims_and_an_unknown_one_is_refused():
    other = holding(id="b", chapter="other/page")
    assert [e.claim.id for e in Ledger([entry(), other]).part("other")] == ["b"]
    with pytest.raises(ValueError, match="unknown part 'none': expected one of 'part'"):
        Ledger([entry()]).part("none")


def test_the_graph_puts_what_is_used_left_of_what_uses_it_even_in_a_circle():
    chain = [
        record_of(id="a", box="a"),
        record_of(id="b", box="b", uses=("a", "b", "eq")),
        record_of(id="c", box="c", uses=("b", "a")),
    ]
    assert uses(chain) == {"b": {"a", "eq"}, "c": {"a", "b"}, "a": set(), "eq": set()}
    assert columns(uses(chain)) == [["eq", "a"], ["b"], ["c"]]
    circle = [record_of(id="a", box="a", uses=("b",)), record_of(id="b", box="b", uses=("a",))]
    assert sorted(sum(columns(uses(circle)), [])) == ["a", "b"]
    drawn = Ledger(Entry(c, entry().evidence) for c in chain).graph()
    assert drawn.html.count("<path") == 4 and "c uses a, b" in str(drawn)
    assert Ledger([entry()]).graph().html == ""


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


def test_every_part_with_claims_has_a_page_of_records_in_the_book():
    root = pathlib.Path(__file__).parents[2]
    listed = set(re.findall(r"file: ledger/(\w+)", (root / "_toc.yml").read_text()))
    assert {part(claim) for claim in claims.registry.values()} == listed
    assert listed == {page.stem for page in (root / "book/ledger").glob("*.md")}
