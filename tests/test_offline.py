"""The book as a zip and on paper, from pages that the test writes."""

from concurrent.futures import ThreadPoolExecutor
from zipfile import ZipFile

import offline
import pytest
from pypdf import PdfReader

PAGE = """<!doctype html><html lang="en"><head><title>{0} — Descent</title></head><body><h1>{0}</h1>
<style>@media print {{ .hide:not([open]) {{ display: none }} }}</style>
<details><summary>Solution</summary><p>folded words</p></details>
<details class="hide"><summary>Show the code</summary><p>folded code</p></details></body></html>"""


@pytest.fixture
def pages(tmp_path):
    folder = tmp_path / "html"
    (folder / "part").mkdir(parents=True)
    (folder / "first.html").write_text(PAGE.format("First"))
    (folder / "part/second.html").write_text(PAGE.format("Second"))
    (folder / "objects.inv").write_text("")
    return folder


def printed(site, names, folder):
    """In a thread of its own: Playwright runs one loop a thread, and the other tests share one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(offline.print_pages, site, names, folder).result()


def test_the_zip_holds_the_pages_in_a_folder_of_its_own(pages, tmp_path):
    archive = ZipFile(offline.pack(pages, tmp_path / "book.zip"))
    assert archive.namelist() == ["book/first.html", "book/part/second.html"]


def test_each_page_is_printed_unfolded_and_the_book_has_an_outline(pages, tmp_path):
    book = printed(pages, ["first", "part/second"], tmp_path / "pdf")
    words = PdfReader(tmp_path / "pdf/part/second.pdf").pages[0].extract_text()
    assert "folded words" in words and "code" not in words
    assert [item.title for item in PdfReader(book).outline] == ["First", "Second"]


def test_letters_far_down_a_page_are_printed(site, tmp_path):
    """The vector of ones is bold, which no formula at the top of that page is."""
    book = PdfReader(printed(site, ["foundations/gradients"], tmp_path))
    fonts = [
        font.get_object() for page in book.pages for font in page["/Resources"]["/Font"].values()
    ]
    assert any(font.get("/BaseFont", "").endswith("KaTeX_Main-Bold") for font in fonts)
