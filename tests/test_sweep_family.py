"""Sweeps over problems, models and optimisers of one's own, and the way back from a row."""

from functools import partial

import numpy as np
import pytest
import torch
from logistic import Logistic

import descent
from descent.__main__ import main
from descent.models import Attention, Selection
from descent.problems import Problem, digits, gaussian


def own(N=3, n=2, D=4, seed=7, scale=1.0):
    drawn = gaussian(N, n, D, seed)
    return Problem(scale * drawn.X, drawn.y)


@pytest.fixture
def file(tmp_path):
    problem = own()
    np.savez(tmp_path / "own.npz", X=problem.X, y=problem.y)
    return tmp_path / "own.npz"


def alone(problem, seed, start, *, step, **options):
    layer = Attention(d=2)
    weights = layer.init(problem, seed=seed, runs=[start])
    return descent.descend(layer, problem, weights, step=step, steps=20, **options)


def test_a_problem_of_ones_own_has_no_axes_and_is_the_same_for_all_runs():
    table = descent.sweep(
        problem=own(), d=2, steps=20, step=[0.01, 0.02], seed=range(2), start=[0, 5]
    )
    assert len(table) == 8 and set(table["N"]) == {3} and set(table["D"]) == {4}
    for row in table.itertuples():
        run = alone(own(), row.seed, row.start, step=float(row.step))
        assert row.last_loss == pytest.approx(float(run.loss[-1]), rel=1e-9)


def test_several_problems_by_name_are_an_axis():
    table = descent.sweep(problem={"small": own(), "loud": own(scale=3.0)}, d=2, steps=5, step=0.01)
    assert table["problem"].tolist() == ["small", "loud"]
    assert table["first_loss"].nunique() == 2


def test_tokens_come_from_a_file(file):
    there, here = (descent.sweep(problem=p, d=2, steps=5, step=0.01) for p in (str(file), own()))
    assert there["last_loss"].tolist() == here["last_loss"].tolist()


@pytest.mark.parametrize("problem", [digits, "digits", "descent.problems:digits"], ids=range(3))
def test_what_makes_problems_brings_its_arguments_as_axes(problem):
    table = descent.sweep(
        problem=problem, N=[2, 3], patch=[4, 8], d=2, steps=3, step=1e-3, train="V"
    )
    assert table.groupby("patch")["n"].first().to_dict() == {4: 4, 8: 1}
    assert table["patch"].dtype == int and table["positions"].dtype == bool
    image = digits(3, seed=0, patch=4)
    run = descent.descend(Attention(d=2), image, Attention(d=2).init(image, seed=0), train="V",
                          step=1e-3, steps=3)  # fmt: skip
    row = table[(table["N"] == 3) & (table["patch"] == 4)].iloc[0]
    assert row["last_loss"] == pytest.approx(float(run.loss[-1]), rel=1e-9)


def test_a_model_of_ones_own_needs_only_the_protocol():
    def labelled(N, D, seed):
        drawn = gaussian(N, 2, D, seed)
        return Problem(drawn.X, drawn.y[:, 0].sign())

    table = descent.sweep(
        model=Logistic(), problem=labelled, N=4, D=[5, 9], seed=range(3), steps=30
    )
    assert len(table) == 6 and set(table["train"]) == {"Wb"}
    assert (table["last_loss"] < table["first_loss"]).all() and table["rank"].isna().all()


def test_a_class_of_models_brings_its_arguments_as_axes():
    def labelled(N, seed):
        drawn = gaussian(N, 3, 5, seed)
        return Problem(drawn.X, drawn.y[:, 0].sign())

    table = descent.sweep(
        model=Selection, problem=labelled, N=4, ell=["logistic", "exponential"], train="W",
        steps=5, step=0.1,
    )  # fmt: skip
    assert table["ell"].tolist() == ["logistic", "exponential"] and set(table["train"]) == {"W"}


def test_optimisers_are_an_axis_beside_descent():
    optimisers = {
        "descent": None,
        "adam": torch.optim.Adam,
        "momentum": partial(torch.optim.SGD, momentum=0.9),
    }
    table = descent.sweep(
        problem=own(), optimiser=optimisers, d=2, steps=20, step=[0.001, 0.01], seed=range(2)
    )
    assert table.groupby("optimiser")["last_loss"].nunique().to_dict() == dict.fromkeys(
        optimisers, 4
    )
    layer, weights = Attention(d=2), Attention(d=2).init(own(), seed=1, runs=[0])
    losses, _ = descent.optimise(layer, own(), weights, torch.optim.Adam, steps=20, lr=0.01)
    one = table[(table["optimiser"] == "adam") & (table["seed"] == 1) & (table["step"] == "0.01")]
    assert one["last_loss"].item() == pytest.approx(float(losses[-1]), rel=1e-9)


@pytest.mark.parametrize("step", [0.02, "1/L", "polyak"])
def test_a_row_leads_back_to_its_run_in_one_call(step):
    table = descent.sweep(N=2, n=2, D=[3, 9], d=2, steps=30, step=step, seed=range(3), start=[0, 2])
    row = table.iloc[7]
    again = descent.rerun(row, watch="weights", at=[0, 30])
    assert float(again.run.loss[-1]) == pytest.approx(row["last_loss"], rel=1e-7)
    assert again.problem.ambient == row["D"] and again.run.watched["weights"].Q.shape[0] == 2


def test_a_row_of_other_problems_and_optimisers_leads_back_too():
    family = {"problem": {"a": own(), "b": own(scale=2.0)}, "optimiser": {"adam": torch.optim.Adam}}
    table = descent.sweep(**family, d=2, steps=10, step=0.01, seed=range(2))
    again = descent.rerun(table.iloc[3], **family)
    assert float(again.run.loss[-1]) == pytest.approx(table["last_loss"][3], rel=1e-9)
    with pytest.raises(ValueError, match="row lacks N, n, D"):
        descent.rerun(table.iloc[3][["problem", "d", "H", "kernel"]].drop([]))
    with pytest.raises(ValueError, match="row was run with problem 'b', optimiser 'adam': give"):
        descent.rerun(table.iloc[3])


def test_other_contents_under_one_name_are_another_sweep(tmp_path):
    options = {"d": 2, "steps": 3, "step": 0.01, "out": tmp_path / "t.parquet"}
    descent.sweep(problem={"mine": own()}, **options)
    descent.sweep(problem={"mine": own()}, **options)
    with pytest.raises(ValueError, match="holds a sweep over another grid"):
        descent.sweep(problem={"mine": own(scale=2.0)}, **options)


def test_layers_of_other_sizes_are_other_models(tmp_path):
    options = {"problem": own(), "steps": 3, "step": 0.01}
    descent.sweep(model=Attention(H=1, d=2), out=tmp_path / "t.parquet", **options)
    with pytest.raises(ValueError, match="holds a sweep over another grid"):
        descent.sweep(model=Attention(H=3, d=2), out=tmp_path / "t.parquet", **options)


def test_the_command_line_takes_files_and_names(tmp_path, file, capsys):
    out = tmp_path / "t.parquet"
    grid = tmp_path / "grid.yaml"
    grid.write_text("problem: digits\nN: 2\npatch: [4, 8]\nd: 2\nsteps: 3\nstep: 0.001\n")
    assert main(["sweep", str(grid), "--out", str(out)]) == 0
    assert "2 runs" in capsys.readouterr().out
    there = tmp_path / "own.parquet"
    assert (
        main(["sweep", "--problem", str(file), "--d", "2", "--steps", "3", "--out", str(there)])
        == 0
        and there.exists()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem": own(), "N": 3}, "unknown axis 'N'"),
        ({"problem": "nothing"}, "unknown 'nothing': give a name of descent.problems"),
        ({"problem": "nothing.npz"}, "problem 'nothing.npz' cannot be read"),
        ({"problem": {}}, "problem is empty: name at least one"),
        ({"problem": {"a": own(), "b": digits}}, "problems of one sweep must take the same"),
        ({"problem": own(), "optimiser": torch.optim.Adam}, "step '1/L' is for gradient descent"),
        ({"problem": own(), "optimiser": torch.optim.Adam, "step": 0.1, "until": 0.5}, "until is for"),
        ({"problem": own(), "model": {"a": Attention(), "b": Logistic()}}, "say which to train"),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_family_that_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        descent.sweep(**options)


def test_a_function_that_makes_no_problem_is_named():
    with pytest.raises(TypeError, match="problem gave a tuple: return a descent.problems.Problem"):
        descent.sweep(problem=lambda N: (own(), 1), N=2)
