"""The book to take along: ``offline.py zip`` packs the pages, ``offline.py pdf`` prints them.

Both need a built book. The pages work as files, so that the zip is unpacked and opened; the PDFs
are what the browser prints, one a chapter and one of the whole book, in ``_build/pdf``.
"""

import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from environment import chromium
from playwright.sync_api import sync_playwright
from pypdf import PdfWriter
from sphinx_external_toc.parsing import parse_toc_yaml

# What only the building of pages needs, or a server.
LEFT_OUT = {".map", ".inv", ".doctree"}
# What is folded is printed, but for the code of figures.
UNFOLD = """document.querySelectorAll('details:not(.descent-menu, .hide)')
  .forEach(box => box.open = true)"""
# A face that nothing has drawn yet would leave its letters blank.
FETCH_FACES = "Promise.all([...document.fonts].map(face => face.load()))"
NUMBER = '<p style="width: 100%; text-align: center; font-size: 8px" class="pageNumber"></p>'


def pack(site, target):
    """Put the pages of a folder into a zip, below one folder of the zip's own name."""
    with ZipFile(target, "w", ZIP_DEFLATED) as archive:
        for file in sorted(site.rglob("*")):
            if file.is_file() and file.suffix not in LEFT_OUT:
                archive.write(file, Path(target.stem) / file.relative_to(site))
    return target


def print_pages(site, names, folder):
    """Print each page into a PDF of its own, light, boxes unfolded but for code, and all into one."""
    book = PdfWriter()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 1200}, color_scheme="light")
        for name in names:
            page.goto((site / f"{name}.html").as_uri())
            page.evaluate(UNFOLD)
            page.evaluate(FETCH_FACES)
            file = folder / f"{name}.pdf"
            file.parent.mkdir(parents=True, exist_ok=True)
            page.pdf(
                path=file,
                prefer_css_page_size=True,
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=NUMBER,
                tagged=True,
            )
            book.append(file, outline_item=page.title().removesuffix(" — Descent"))
        browser.close()
    book.write(folder / "descent.pdf")
    return folder / "descent.pdf"


def main(what):
    root = Path(__file__).parents[1]
    site = root / "_build" / "html"
    if what == "zip":
        return pack(site, root / "_build" / "descent.zip")
    return print_pages(site, list(parse_toc_yaml(root / "_toc.yml")), root / "_build" / "pdf")


if __name__ == "__main__":
    print(main(sys.argv[1]))
