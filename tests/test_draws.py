"""Draws that stay: the published vectors of the generator, distributions, and what stays."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special, stats

from descent import draws, models, problems
from descent._threefry import threefry

ROOT = Path(__file__).parent.parent

# "kat_vectors" of the Random123 library, threefry4x32 with 20 rounds: counter, key, result
VECTORS = [
    ("00000000 " * 4, "00000000 " * 4, "9c6ca96a e17eae66 fc10ecd4 5256a7d8"),
    ("ffffffff " * 4, "ffffffff " * 4, "2a881696 57012287 f6c7446e a16a6732"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0 082efa98 ec4e6c89",
        "59cd1dbb b8879579 86b5d00c ac8b6d84",
    ),
]


def words(text):
    return np.array([int(word, 16) for word in text.split()], np.uint32)


@pytest.mark.parametrize(("counter", "key", "result"), VECTORS)
def test_the_words_are_those_published_for_threefry(counter, key, result):
    block = threefry(words(key), words(counter)[:, None].repeat(3, 1))
    assert (block == words(result)[:, None]).all()


# what the draws below gave when they were written
UNIFORM = ["0x1.e6f6aaf8ef589p-1", "0x1.a789043e460e0p-6"]
NORMAL = ["0x1.fb06697a6f8b5p-1", "0x1.3f4981e76e4bbp+0", "0x1.742bc24fa540ep-2"]
CHI_SQUARE = [0.005381291547508534, 999995459.120958]
PERMUTATION = [2, 1, 0, 4, 3, 5]


def test_the_first_numbers_of_a_seed_are_written_down_to_the_last_bit():
    """What a seed means may never change: pages, tables and other languages rely on it."""
    found = [float(x).hex() for x in draws.uniform(2024, "W_Q", (2,), runs=[3]).flatten()]
    assert found == UNIFORM
    assert [float(x).hex() for x in draws.normal(2024, "W_Q", (3,), runs=[2**40])[0]] == NORMAL
    assert draws.chi_square(2024, "L", torch.tensor([1, 10**9])).tolist() == CHI_SQUARE
    assert draws.permutation(2024, "digits", 6).tolist() == PERMUTATION


@pytest.mark.parametrize("draw", [draws.normal, draws.uniform])
def test_more_runs_and_longer_first_dimensions_keep_what_was_there(draw):
    few = draw(1, "W", (3, 5), runs=4)
    assert torch.equal(draw(1, "W", (3, 5), runs=2 * draws.CHUNK)[:4], few)
    assert torch.equal(draw(1, "W", (30, 5), runs=4)[:, :3], few)
    assert torch.equal(draw(1, "W", (3, 5)), few[0])
    assert torch.equal(draw(1, "W", (3, 5), runs=[3, 1]), few[[3, 1]])


def test_models_and_problems_keep_their_runs():
    problem, layer = problems.gaussian(N=3, n=2, D=5, seed=0), models.Attention(H=2, d=3)
    few, many = (layer.init(problem, seed=1, runs=runs) for runs in (3, 8))
    assert all(torch.equal(a, b[:3]) for a, b in zip(few, many, strict=True))
    assert torch.equal(problems.gaussian(N=7, n=2, D=5, seed=0).X[:3], problem.X)
    spans = [problems.gaussian_in_span(3, 2, D, seed=0) for D in (10, 10**9)]
    assert torch.equal(spans[0].y, spans[1].y) and torch.equal(spans[0].y, problem.y)


def test_seeds_names_runs_and_places_are_independent():
    base = draws.normal(0, "a", (2000,), runs=2)
    others = [draws.normal(1, "a", (2000,)), draws.normal(0, "b", (2000,)), base[1]]
    others += [draws.normal(2**32, "a", (2000,)), draws.normal(0, "a" * 17, (2000,))]
    others += [draws.normal(0, "a", (2000,), runs=[2**32])[0], base[0].roll(1), base[0].roll(2)]
    # 2000 pairs: a correlation of 0.1 would be 4.5 standard errors
    assert all(abs(np.corrcoef(base[0], x)[0, 1]) < 0.1 for x in others)


def test_numbers_are_distributed_as_they_say():
    assert stats.kstest(draws.uniform(5, "x", (10**5,)), "uniform").pvalue > 0.01
    assert stats.kstest(draws.normal(5, "x", (10**5,)), "norm").pvalue > 0.01
    pairs = draws.uniform(5, "x", (250, 400)).flatten().reshape(-1, 2)  # of one block
    counts = np.histogram2d(*pairs.T.numpy(), bins=16, range=[[0, 1]] * 2)[0]
    assert stats.chisquare(counts.ravel()).pvalue > 0.01


@pytest.mark.parametrize("freedom", [1, 2, 3, 12, 1000, 10**9])
def test_chi_square_numbers_are_exact_however_many_degrees_of_freedom(freedom):
    drawn = draws.chi_square(7, "x", torch.full((2 * 10**4,), freedom))
    assert stats.kstest(drawn, "chi2", (freedom,)).pvalue > 0.01
    runs = draws.chi_square(7, "x", torch.tensor([freedom, 5]), runs=6)
    assert torch.equal(runs[:2], draws.chi_square(7, "x", torch.tensor([freedom, 5]), runs=2))


def test_every_order_of_three_is_as_likely():
    seen = [tuple(draws.permutation(seed, "x", 3).tolist()) for seed in range(600)]
    counts = [seen.count(order) for order in sorted(set(seen))]
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 0.01


def test_the_quantile_is_that_of_the_normal_distribution_in_both_tails():
    u = np.concatenate([np.linspace(0.001, 0.999, 9999), 10.0 ** -np.arange(2, 16)])
    u = np.append(u, [2.0**-53, 1 - 2.0**-53])
    # the approximation's error is 1e-16 of the number; four roundings more on the way
    assert np.allclose(draws._quantile(u), special.ndtri(u), rtol=2e-15, atol=1e-15)
    assert (draws._quantile(1 - u[:99]) == -draws._quantile(1 - (1 - u[:99]))).all()


def test_the_logarithm_is_right_to_a_unit_or_two_in_the_last_place():
    x = np.concatenate([np.linspace(1e-3, 4, 10001), 2.0 ** -np.arange(1, 60), [1 - 2.0**-53]])
    assert np.allclose(draws._log(x), np.log(x), rtol=5e-16, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draws.normal(-1, "x", (2,)), "seed must be at least 0, got -1"),
        (lambda: draws.normal(2**64, "x", (2,)), "seed must be below 18446744073709551616"),
        (lambda: draws.normal(0, "x", (2,), runs=0), "runs must be at least 1, got 0"),
        (lambda: draws.normal(0, "x", (2,), runs=[-3]), "runs must be at least 0, got -3"),
        (lambda: draws.chi_square(0, "x", torch.tensor([3, 0])), "freedom must be at least 1"),
        (lambda: draws.chi_square(0, "x", [3, 1.5]), "parts of a degree: give whole numbers"),
    ],
)
def test_what_does_not_fit_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_whatever_is_random_in_library_and_pages_is_drawn_here():
    """Or more runs would move the first ones, and another machine would have other numbers."""
    other = re.compile(r"Generator\(|manual_seed|default_rng|torch\.rand|np\.random")
    assert other.search("torch.randn(3)")
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "book").rglob("*.md")]
    found = [str(file) for file in files if other.search(file.read_text("utf8"))]
    assert len(files) > 100 and found == []
