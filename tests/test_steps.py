"""Rules of `descent.steps` by themselves; `test_descend.py` has them at work."""

import pytest
import torch

from descent import steps
from descent.models import LeastSquares

FLAT = torch.zeros(2, dtype=torch.float64)
QUADRATIC = LeastSquares(lambda theta: theta * torch.tensor([1.0, 3.0], dtype=torch.float64))


def test_normalised_steps_may_shrink_as_one_says():
    start = torch.tensor([4.0, 1.0], dtype=torch.float64)
    path = QUADRATIC.path(start, step=steps.normalised(lambda t: (t + 1) ** -0.5), steps=4)
    moved = torch.linalg.vector_norm(path[1:] - path[:-1], dim=-1)
    assert torch.allclose(moved, torch.arange(1, 5).double() ** -0.5)


def test_polyak_on_the_logarithm_takes_polyaks_steps():
    # F = log f has gradient grad f / f, so that both move by factor * f grad f / |grad f|^2
    f, square = torch.tensor([3.0, 1e-9]).double(), torch.tensor([2.0, 5e-9]).double()
    step = steps.polyak(factor=0.5)(f, square)
    logarithmic = steps.polyak_of_logarithm(0.5)(f.log(), square / f.square())
    assert torch.allclose(step, logarithmic / f)


@pytest.mark.parametrize("rule", [steps.normalised(0.1), steps.polyak_of_logarithm()])
def test_where_float64_ends_a_run_stands_still_and_says_so(rule):
    square = torch.tensor([1.0, 1e-310]).double()
    with pytest.warns(steps.PrecisionWarning, match="gradient of 1 of 2 runs"):
        step = rule(FLAT, square)
    assert float(step[0]) > 0 and float(step[1]) == 0


@pytest.mark.parametrize("make", [steps.polyak_of_logarithm, lambda x: steps.polyak(factor=x)])
def test_factors_must_be_positive(make):
    with pytest.raises(ValueError, match="factor must be positive and finite, got -1"):
        make(-1.0)
