"""The command: write all notebooks, those of some pages, or only compare."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from .number import Book
from .read import ExportError
from .write import Writer


def export(root: Path, names: list[str] | None = None) -> dict[str, str]:
    """The notebooks' texts by the names of their pages: those named, or all of ``_toc.yml``."""
    book = Book(root)
    names = [re.sub(r"^(?:book/)?(.*?)(?:\.md)?$", r"\1", name) for name in names or book.pages]
    for name in names:
        if name not in book.pages:
            raise ExportError(f"{name} is no page of _toc.yml, which has {', '.join(book.pages)}")
    return {name: Writer(book, book.pages[name]).notebook() for name in names}


def stale(folder: Path, pages: dict[str, str]) -> list[Path]:
    """Notebooks whose page has left the table of contents."""
    kept = {folder / f"{name}.ipynb" for name in pages}
    return [
        file
        for file in sorted(folder.rglob("*.ipynb"))
        if file not in kept and ".ipynb_checkpoints" not in file.parts
    ]


def main(arguments: list[str] | None = None, root: Path = Path(__file__).parents[2]) -> int:
    parser = argparse.ArgumentParser(description="Write notebooks/ from the pages of book/.")
    parser.add_argument("pages", nargs="*", help="such as song2024/values (default: all)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 if a notebook is out of step"
    )
    options = parser.parse_args(arguments)
    try:
        texts = export(root, options.pages)
    except ExportError as error:
        print(error, file=sys.stderr)
        return 1
    folder = root / "notebooks"
    files = {folder / f"{name}.ipynb": text.encode() for name, text in texts.items()}
    changed = {
        file: text for file, text in files.items() if not file.exists() or file.read_bytes() != text
    }
    gone = [] if options.pages else stale(folder, texts)
    return (check if options.check else update)(folder, changed, gone)


def check(folder: Path, changed: dict[Path, bytes], gone: list[Path]) -> int:
    for file in changed:
        print(f"notebooks/{file.relative_to(folder)} differs from its page", file=sys.stderr)
    for file in gone:
        print(f"notebooks/{file.relative_to(folder)} has no page in _toc.yml", file=sys.stderr)
    if changed or gone:
        print("run: make notebooks", file=sys.stderr)
    return int(bool(changed or gone))


def update(folder: Path, changed: dict[Path, bytes], gone: list[Path]) -> int:
    for file, text in changed.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text)
        print(f"wrote notebooks/{file.relative_to(folder)}")
    for file in gone:
        file.unlink()
        print(f"removed notebooks/{file.relative_to(folder)}: its page has left _toc.yml")
    if not changed and not gone:
        print("notebooks/ agrees with book/: nothing to write")
    return 0
