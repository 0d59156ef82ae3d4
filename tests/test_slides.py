"""Slides are made of the chapters, with their figures, and need no other host."""

import re
from pathlib import Path

import pytest
from course import slides
from notebooks.number import Book

ROOT = Path(__file__).parents[1]
EVERY_SLIDE = """async () => {
  const frame = () => new Promise(requestAnimationFrame);
  const found = [];
  for (const slide of Reveal.getSlides()) {
    const place = Reveal.getIndices(slide);
    Reveal.slide(place.h, place.v);
    for (let i = 0; i < 5; i++) await frame();
    const here = Reveal.getCurrentSlide();
    found.push({
      place: [place.h, place.v],
      reached: here === slide,
      high: here.scrollHeight - Reveal.getConfig().height,
      wide: here.scrollWidth - here.clientWidth,
      blank: !here.innerText.trim() && !here.querySelector("svg"),
      knobs: here.querySelectorAll(".descent-control").length,
    });
  }
  return found;
}"""


@pytest.fixture(scope="module")
def book():
    return Book(ROOT)


@pytest.fixture(scope="module")
def decks(site, tmp_path_factory):
    """All decks, from what the built book ran; their folder."""
    folder = tmp_path_factory.mktemp("slides")
    slides.write(folder)
    return folder


def cells(book, name, outputs=None):
    page = book.pages[name]
    count = sum(block.kind == "code-cell" for block in page.blocks)
    writer = slides.SlideWriter(book, page, outputs or [[]] * count, lambda tex, _: f"[{tex}]")
    found = list(writer.deck())
    return [(c.metadata["slideshow"]["slide_type"], writer.show(c.source)) for c in found]


def test_a_theorem_is_on_a_slide_and_its_proof_in_the_notes(book):
    found, (chapter,) = cells(book, "song2024/values"), book.pages["song2024/values"].chapter
    (theorem,) = [kind for kind, text in found if text.startswith(f"**Theorem {chapter}.1**")]
    assert theorem == "subslide"
    assert all(kind == "notes" for kind, text in found if "*Proof.*" in text or "∎" in text)


def test_a_chapter_opens_with_its_title_and_its_first_sentences(book):
    (kind, title), (below, first), *_ = cells(book, "song2024/queries")
    (chapter,) = book.pages["song2024/queries"].chapter
    assert (kind, title, below) == ("slide", f"# {chapter}. Training the queries", "-")
    assert first.startswith("With the values frozen") and first.endswith(
        "does gradient descent find it?"
    )


def test_a_claim_that_is_left_out_leaves_no_gap(book):
    found = " ".join(text for _, text in cells(book, "wu2023/index"))
    assert "with a constant. The consequence" in found and " ; along" not in found
    assert not re.search(r"\w [.,;:](\s|$)", found)


def test_a_drill_is_asked_before_it_is_answered(book):
    found = cells(book, "song2024/values")
    kinds = [kind for kind, _ in found if kind in ("subslide", "fragment")][-8:]
    assert kinds == ["subslide", "fragment"] * 4
    questions = [text for _, text in found if text.startswith("**Question.** ")]
    assert len(questions) == 4 and not any("Drill" in text for text in questions)


def test_each_formula_of_a_question_is_set_from_its_first_letter_on(book):
    """Also where the question begins with one."""
    first = [text for _, text in cells(book, "song2024/values") if "How many heads" in text]
    assert first[0].startswith("**Question.** [N = 2], [n = 2], [D = 3]. How many heads")
    for page in book.pages.values():
        if page.chapter:
            shown = [text for _, text in cells(book, page.name) if "**Question.**" in text]
            assert not [text for text in shown if "$" in text], page.name


def test_a_formula_that_ends_the_opening_sentence_is_on_its_slide(book):
    """The chapter numbers only the formulas that it comes back to."""
    found = cells(book, "foundations/layer")
    shown = [text for kind, text in found if kind != "notes"]
    (place,) = [i for i, text in enumerate(shown) if text.startswith("Two tokens")]
    assert shown[place].endswith("and so on:") and "W_K = " in shown[place + 1]
    kinds = {kind for kind, text in found if "S^\\top r = " in text}
    assert kinds == {"notes"}, "a formula within the argument"


def test_each_chapter_has_four_questions_with_answers_to_ask_oneself(book):
    """On the page the answer is folded below the question, on a slide it comes one step later."""
    for page in book.pages.values():
        if not page.chapter or page.name.endswith("/index"):
            continue
        folded = {b.title for b in page.blocks if b.kind.startswith("solution") and b.folded}
        exercises = [b.label for b in page.blocks if b.kind.startswith("exercise") and b.label]
        assert len([label for label in exercises if label in folded]) >= 4, page.name
        assert set(slides.drills(page)) <= folded and len(slides.drills(page)) >= 3, page.name


def test_all_that_a_chapter_says_is_on_a_slide_or_in_the_notes(book):
    """But for what is left out by name, and what only stands in the repository."""
    found = " ".join(text for _, text in cells(book, "foundations/span"))
    page = (ROOT / "book/foundations/span.md").read_text()
    prose = page.split("## Exercises")[0].split("\n---\n", 1)[1]
    prose = re.sub(r"```.*?```|:::.*?:::", "", prose, flags=re.S)
    sentences = [s for s in re.findall(r"[A-Z][a-z ,]{30,}\.", prose)]
    assert len(sentences) > 5 and not [s for s in sentences if s not in found]


def test_a_figure_is_no_slide_within_a_slide():
    html = slides._typeset_output(
        '<section class="descent-explorer">$("section.descent-x")</section>'
    )
    assert html == '<div class="descent-explorer">$("div.descent-x")</div>'
    assert slides.FIGURE.search(html)


def test_each_part_has_a_deck_with_the_figures_of_its_chapters(book, decks):
    of = slides.figures(ROOT)
    for name, (_, chapters) in slides.parts(book).items():
        text = (decks / f"{name}.html").read_text()
        drawn = sum(len(cell) for chapter in chapters for cell in of(chapter))
        assert drawn == len(
            slides.FIGURE.findall(
                re.sub(r"<style.*?</style>|<script.*?</script>", "", text, flags=re.S)
            )
        )
        assert drawn >= len(chapters) and "◊" not in text and "$$" not in text


def test_slides_fit_work_and_ask_no_other_host(decks, visit):
    from conftest import serving

    with serving(decks) as base:
        for deck in sorted(decks.glob("*.html")):
            seen = visit(base, deck.name)
            found = seen.page.evaluate(EVERY_SLIDE)
            seen.page.close()
            assert not seen.errors and not seen.foreign and not seen.failed
            bad = [
                s for s in found if not s["reached"] or s["high"] > 1 or s["wide"] > 2 or s["blank"]
            ]
            assert not bad, (deck.name, bad)
            assert sum(s["knobs"] > 0 for s in found) >= 1, "a figure that can be moved"
