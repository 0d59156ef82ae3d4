"""Every claim's evidence supports its verdict, and turns against it when something is broken."""

import re

import pytest
import torch

from descent import claims
from descent.claims import Evidence, Verdict
from descent.claims._record import claim
from descent.theorems import Inequality, Outcome

EVERY = list(claims.registry.values())
MUTATIONS = [pytest.param(c, name, id=f"{c.id}: {name}") for c in EVERY for name in c.mutations]


@pytest.fixture(scope="session")
def ledger(request):
    """The entries of the claims that the chosen tests ask for, run anew where the code changed."""
    asked = {}
    for item in request.session.items:
        each = getattr(item, "callspec", None) and item.callspec.params.get("each")
        if isinstance(each, claims.Claim) and "ledger" in item.fixturenames:
            asked[each.id] = each
    return {entry.claim.id: entry for entry in claims.run(list(asked.values()))}


@pytest.mark.parametrize("each", EVERY, ids=lambda c: c.id)
def test_the_evidence_supports_the_verdict(each, ledger):
    evidence = ledger[each.id].evidence
    assert evidence.supports, f"{each.id}: {evidence.failed}; {evidence.numbers}"


@pytest.mark.parametrize(("each", "mutation"), MUTATIONS)
def test_a_mutation_turns_a_conclusion(each, mutation, ledger):
    """One that only empties a hypothesis shows nothing."""
    assert ledger[each.id].mutations[mutation].turned, "no conclusion turns"


#: That plain descent is slow on text: nothing cheap turns it.
UNTURNED = {"plain: below 0.85 on every draw"}


@pytest.mark.parametrize("each", EVERY, ids=lambda c: c.id)
def test_a_mutation_turns_each_conclusion(each, ledger):
    """An inequality shows by its sharpness how near it is to turning; a certificate is a proof."""
    turned = {name for mutated in ledger[each.id].mutations.values() for name in mutated.turned}
    evidence = ledger[each.id].evidence
    stand = {name for name in evidence.conclusions if not name.startswith("certified: ")}
    assert stand <= turned | set(evidence.sharpness) | UNTURNED


@pytest.mark.parametrize("each", EVERY, ids=lambda c: c.id)
def test_the_record_is_complete(each):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", each.id)
    assert each.statement.endswith(".") and each.statement.count("$") % 2 == 0
    assert isinstance(each.verdict, Verdict)
    assert each.check.__doc__


@pytest.mark.parametrize("each", EVERY, ids=lambda c: c.id)
def test_every_sharpness_is_that_of_a_conclusion(each, ledger):
    """Else neither the page nor a terminal shows it."""
    assert ledger[each.id].evidence.sharpness.keys() <= ledger[each.id].evidence.conclusions.keys()


def test_a_check_with_nothing_that_could_fail_is_refused():
    with pytest.raises(
        ValueError, match="conclusions is empty: a check needs at least one that could fail"
    ):
        Evidence({}, {})


def test_numbers_that_are_nan_are_an_error_not_evidence():
    with pytest.raises(ValueError, match="numbers rate are NaN or infinite"):
        Evidence({"fine": True}, {"rate": float("nan"), "runs": 3})


RECORD = {"paper": "p", "number": "1", "statement": "s.", "verdict": Verdict.HOLDS, "chapter": "c"}


def test_an_id_is_given_once():
    with pytest.raises(ValueError, match="claim 'span-lemma' exists already"):
        claim("span-lemma", **RECORD, mutations={"m": {}})


def test_a_claim_without_a_mutation_is_refused():
    with pytest.raises(
        ValueError, match="claim 'new' has no mutation: name a change that must make it fail"
    ):
        claim("new", **RECORD, mutations={})


def outcome(left, right, met=True):
    """A conclusion ``left <= right`` in three runs, under a hypothesis."""
    three = torch.ones(3, dtype=torch.float64)
    asked = Inequality("asked", three, three if met else 0 * three)
    return Outcome(None, (asked,), (Inequality("found", left * three, right * three),))


def test_evidence_of_outcomes_keeps_assumed_and_found_apart():
    evidence = Evidence.of([outcome(1, 2), outcome(1, 1.25)], size=7)
    assert evidence.hypotheses == {"asked": True} and evidence.conclusions == {"found": True}
    assert evidence.sharpness == {"found": (0.5, 0.8)} and evidence.numbers == {
        "runs": 6,
        "size": 7,
    }
    assert evidence.supports and not evidence.turned


def test_an_empty_hypothesis_fails_but_turns_nothing():
    evidence = Evidence.of([outcome(1, 2, met=False)])
    assert not evidence.supports and evidence.failed == ["asked"] and evidence.turned == []
    assert Evidence.of([outcome(3, 2)]).turned == ["found"]


@pytest.mark.parametrize(
    ("left", "factor"), [(1.0, 1.02), (0.95, 1.1), (0.7, 1.5), (0.6, 2), (0.11, 10), (0.1, None)]
)
def test_the_ladder_keeps_the_first_factor_that_turns(left, factor):
    assert Evidence.of([outcome(left, 1.0)]).turns == {"found": factor}
