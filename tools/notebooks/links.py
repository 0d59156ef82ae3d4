"""The public addresses of the book: what opens a notebook, and what installs the library."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from .read import ExportError


class Links:
    """Every public address, derived from the one setting ``repository`` of ``_config.yml``."""

    def __init__(self, config: dict, root: Path):
        repository, buttons = config["repository"], config.get("launch_buttons", {})
        self.url, self.branch = repository["url"].rstrip("/"), repository["branch"]
        found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", self.url)
        if not found:
            raise ExportError(
                f"_config.yml: repository.url is {self.url}, expected https://github.com/OWNER/NAME"
            )
        colab = buttons.get("colab_url", "https://colab.research.google.com")
        binder = buttons.get("binderhub_url", "https://mybinder.org")
        clone = f"{colab}/github/{found[1]}/blob/{self.branch}"
        tree = f"{binder}/v2/gh/{found[1]}/{self.branch}?urlpath=lab/tree"
        self.colab, self.binder = f"{clone}/notebooks", f"{tree}/notebooks"
        self.problems = {
            "Colab": f"{clone}/assignments/student",
            "Binder": f"{tree}/assignments/student",
        }
        self.source = f"{self.url}/blob/{self.branch}/{repository.get('path_to_book', 'book')}"
        # What pip installs need not be called what Python imports.
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
        self.package = project["name"]

    def badges(self, name: str) -> str:
        """Links in words: a picture of a badge would be fetched from another host."""
        return (
            f"[Open in Colab]({self.colab}/{name}.ipynb) · "
            f"[Open in Binder]({self.binder}/{name}.ipynb) · "
            f"[Source]({self.source}/{name}.md)"
        )

    def setup(self) -> str:
        return (
            f"# Only Colab lacks the library of this book: fetch it there, and nowhere else.\n"
            f"# It asks for minimum versions, so what Colab already has stays as it is.\n"
            f"import sys\n"
            f'if "google.colab" in sys.modules:\n'
            f'    %pip install -q "{self.package} @ git+{self.url}@{self.branch}"\n'
            f"import descent"
        )
