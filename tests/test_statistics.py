import pytest
import torch

from descent.statistics import mcnemar, wilson


def test_wilson_solves_its_quadratic():
    # the ends are the rates p at which (successes / runs - p) is z standard deviations of p
    for successes, runs in ((0, 10), (3, 10), (150, 200), (200, 200)):
        for p in wilson(successes, runs):
            deviation = (successes / runs - p) ** 2
            assert deviation == pytest.approx(1.96**2 * p * (1 - p) / runs, abs=1e-12)


def test_more_successes_than_runs_are_refused():
    with pytest.raises(ValueError, match="successes must be between 0 and runs = 3, got 4"):
        wilson(4, 3)


def test_mcnemar_counts_only_the_pairs_that_differ():
    one = torch.tensor([True] * 9 + [False] * 4 + [True] * 100)
    other = torch.tensor([False] * 9 + [True] * 4 + [True] * 100)
    assert mcnemar(one, other) == pytest.approx(5 / 13**0.5)
    assert mcnemar(other, one) == -mcnemar(one, other)
    assert mcnemar(one, one) == 0
