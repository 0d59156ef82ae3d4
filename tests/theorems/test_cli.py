"""`python -m descent report`: a theorem on files of one's own."""

import json

import numpy as np
import pytest

from descent import theorems
from descent.__main__ import main


@pytest.fixture
def files(tmp_path):
    """Tokens of two sequences of two, labels, weights of two heads; a function for arguments."""
    draw = np.random.default_rng(0)
    arrays = {"tokens": draw.normal(size=(2, 2, 6)), "labels": draw.normal(size=(2, 2))}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    weights = {name: draw.normal(size=(2, 6, 3)) / 6**0.5 for name in "QKV"}
    np.savez(tmp_path / "weights.npz", **weights, O=draw.normal(size=(2, 3)))
    np.savez(tmp_path / "half.npz", Q=weights["Q"])

    def arguments(id, *more):
        paths = [f"--{name}={tmp_path}/{name}.npy" for name in arrays]
        return ["report", id, *paths, *(word.replace("AT", str(tmp_path)) for word in more)]

    return arguments


def test_the_table_shows_what_is_asked_and_promised(files, capsys):
    assert main(files("song2024-theorem-1", "--H=2", "--d=3", "--runs=4")) == 0
    out = capsys.readouterr().out
    assert out.startswith("song2024-theorem-1: Training the values\n")
    assert "met in 4 of 4" in out and "a millionth of f_0 after" in out


def test_with_steps_every_promise_is_held_against_a_run(files, capsys):
    command = files("song2024-theorem-2", "--weights=AT/weights.npz", "--steps=20", "--json")
    assert main(command) == 1  # the conditions are not met, as hardly ever
    found = json.loads(capsys.readouterr().out)
    assert found["theorem"] == "song2024-theorem-2" and found["standing"] == "proved"
    assert [h["met"] for h in found["hypotheses"][:2]] == [True, False]
    assert {c["name"] for c in found["conclusions"]} == set(found["promises"])
    assert found["largest_step"] > 0


def test_a_lemma_with_a_start_of_its_own_kind_is_about_attention_too(files, capsys):
    assert main(files("span-lemma", "--steps=5")) == 0
    assert "the losses are those of the small problem" in capsys.readouterr().out
    assert main(files("kernel-factorisation", "--steps=5")) == 0
    assert "kernel-factorisation, at the start" in capsys.readouterr().out
    assert main(files("convex-rate")) == 2
    assert "convex-rate is not about an attention layer" in capsys.readouterr().err


def test_a_statement_about_the_start_needs_no_steps(files, capsys):
    assert main(files("rank-threshold", "--kernel=gaussian", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["constants"]["rank B_0"] == [4.0]


def refuse(word):
    raise AssertionError(f"{word} is not JSON")


@pytest.mark.parametrize(
    "id", ["song2024-theorem-1", "song2024-theorem-2", "song2024-theorem-3-53"]
)
def test_what_is_infinite_is_null_in_json(files, tmp_path, capsys, id):
    """Equal tokens leave no rank: condition numbers and conditions are infinite, never negative."""
    np.save(tmp_path / "tokens.npy", np.ones((2, 2, 6)))
    kernel = "gaussian" if "theorem-3" in id else "softmax"
    assert main(files(id, "--weights=AT/weights.npz", f"--kernel={kernel}", "--json")) == 1
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found["hypotheses"][0]["met"] is False
    if id == "song2024-theorem-1":
        assert found["constants"]["κ(G)"] is None
    if id == "song2024-theorem-3-53":
        assert found["hypotheses"][1]["left"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--weights=AT/half.npz"], "half.npz lacks K, V, O: expected Q, K, V and O"),
        (["--kernel=cosine"], "unknown kernel 'cosine'"),
        (["--weights=AT/nowhere.npz"], "No such file"),
    ],
)
def test_bad_files_are_told_in_a_line(files, capsys, more, message):
    assert main(files("song2024-theorem-1", *more)) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_theorem_is_answered_with_those_of_nearest_name(files, capsys):
    assert main(files("song2024-theorem-9")) == 2
    said = capsys.readouterr().err
    many = len(theorems.registry)
    assert f"unknown theorem 'song2024-theorem-9': expected one of {many}, such as 'song" in said
    assert "'song2024-theorem-1'" in said and "'pl-" not in said and len(said) < 300


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"tokens", "is no such file of numpy: give a .npy of real numbers"),
        (b"", "is no such file of numpy: give a .npy of real numbers"),
        (np.array([{}], object), "is no such file of numpy: give a .npy of real numbers"),
        (np.ones((2, 2, 6)) * 1j, "must be an array of real numbers"),
    ],
    ids=["a text", "nothing", "objects", "complex numbers"],
)
def test_a_file_without_real_numbers_is_refused_in_a_line(files, tmp_path, capsys, content, said):
    if isinstance(content, bytes):
        (tmp_path / "tokens.npy").write_bytes(content)
    else:
        np.save(tmp_path / "tokens.npy", content)
    assert main(files("song2024-theorem-1")) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.splitlines()) == 1


def test_weights_that_are_one_array_are_refused_in_a_line(files, capsys):
    assert main(files("song2024-theorem-1", "--weights=AT/labels.npy")) == 2
    assert "give an .npz with Q, K, V and O" in capsys.readouterr().err
