"""How the book cites: the names of authors in the text, whole entries as plain Markdown."""

import re

from pybtex.backends.markdown import Backend


class PlainMarkdown(Backend):
    """Escapes only what would be read as markup; pybtex's own escapes every full stop."""

    symbols = {"ndash": "–", "newblock": " ", "nbsp": " "}

    def format_str(self, text: str) -> str:
        return re.sub(r"([*_`$\[\]])", r"\\\1", text)

    def format_href(self, url: str, text: str, external: bool = False) -> str:
        return f"[{text}]({url})" if text else ""


def authors(entry) -> str:
    names = [
        " ".join(map(str, person.rich_prelast_names + person.rich_last_names))
        for person in entry.persons["author"]
    ]
    return f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
