"""A record says where its statement stands in the book, and on which others its proof rests."""

import re
from pathlib import Path

import pytest

from descent import claims, theorems
from descent.claims import Standing

BOOK = Path(__file__).parents[2] / "book"
PAGES = {page.relative_to(BOOK).as_posix(): page.read_text("utf8") for page in BOOK.rglob("*.md")}

BOX = re.compile(r"^:::\{prf:\w+\}[^\n]*\n:label: (\S+)\n(.*?)^:::$", re.MULTILINE | re.DOTALL)
#: The proof that follows a box: the next one, in plain sight or folded, before the next box.
PROOF = re.compile(r"^:::\{(?:prf:proof|dropdown)\}[^\n]*\n(.*?)^:::$", re.MULTILINE | re.DOTALL)
EQUATION = re.compile(r"\$\$ \(([\w-]+)\)")
REFERENCE = re.compile(r"\{prf:ref\}`([\w-]+)`")


def boxes(page: str) -> dict[str, str]:
    """The labels of a page's boxes, with the text of the proof of each, "" where none follows."""
    found = list(BOX.finditer(page))
    ends = [box.start() for box in found[1:]] + [len(page)] * bool(found)
    proofs = [PROOF.search(page, box.end(), end) for box, end in zip(found, ends, strict=True)]
    return {b.group(1): p.group(1) if p else "" for b, p in zip(found, proofs, strict=True)}


PROOFS = {label: proof for page in PAGES.values() for label, proof in boxes(page).items()}
LABELS = set(PROOFS) | {label for page in PAGES.values() for label in EQUATION.findall(page)}
RECORDS = [*claims.registry.values(), *theorems.registry.values()]


@pytest.mark.parametrize("each", RECORDS, ids=lambda r: f"{type(r).__name__} {r.id}".lower())
def test_a_record_names_its_box(each):
    assert each.title and each.title[0].isupper() and not each.title.endswith(".")
    assert each.box in LABELS or (not each.box and each.standing is Standing.OBSERVED)


@pytest.mark.parametrize("each", claims.registry.values(), ids=lambda r: r.id)
def test_a_claim_is_named_on_the_page_of_its_chapter(each):
    assert f"{{claim}}`{each.id}`" in PAGES[f"{each.chapter}.md"]


@pytest.mark.parametrize("each", RECORDS, ids=lambda r: f"{type(r).__name__} {r.id}".lower())
def test_what_a_record_uses_is_in_the_book(each):
    assert set(each.uses) <= LABELS


@pytest.mark.parametrize("each", RECORDS, ids=lambda r: f"{type(r).__name__} {r.id}".lower())
def test_what_is_proved_uses_the_results_that_its_proof_refers_to(each):
    if each.standing is Standing.PROVED and PROOFS.get(each.box):
        referred = set(REFERENCE.findall(PROOFS[each.box])) - {each.box}
        assert referred <= set(each.uses)
