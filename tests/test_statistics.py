import numpy as np
import pytest
import torch

from descent.statistics import log_slopes, mcnemar, wilson


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


def test_mcnemar_takes_the_truth_values_of_numpy_and_no_numbers():
    one, other = np.array([True, True, False]), np.array([False, False, False])
    assert mcnemar(one, other) == mcnemar(list(one), list(other)) == pytest.approx(2**0.5)
    with pytest.raises(TypeError, match="a line of truth values"):
        mcnemar([1, 1, 0], [0, 0, 0])


def test_the_slope_of_a_power_law_is_its_power():
    x = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)
    assert log_slopes(x, torch.stack([x**2, 5 / x], 1)).tolist() == pytest.approx([2, -1])


@pytest.mark.parametrize(
    ("x", "y"), [([2, 2], [1, 3]), ([2], [3]), ([1, 2], [0, 1]), ([1, float("inf")], [1, 2])]
)
def test_where_there_is_no_line_through_the_logarithms_it_is_said(x, y):
    with pytest.raises(ValueError, match="give"):
        log_slopes(x, y)


def test_an_interval_of_a_rate_ends_at_one():
    assert wilson(10**15, 10**15)[1] == 1 and wilson(0, 7)[0] == 0
