"""A trajectory says what it is, keeps itself on disk, and becomes a table or a figure."""

import builtins
import dataclasses
import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from descent import Trajectory, descend, models, plots, problems


@pytest.fixture(scope="module")
def run():
    problem, layer = problems.gaussian(2, 3, 4, seed=0), models.Attention(H=2, d=3)
    weights = layer.init(problem, seed=1, runs=3)
    L = layer.smoothness(weights, problem, "V")
    step = torch.tensor([1.0, 6.0, 0.5], dtype=torch.float64) / L
    with pytest.warns(UserWarning, match="1 of 3 runs diverged"):
        return descend(
            layer,
            problem,
            weights,
            train="V",
            step=step,
            steps=400,
            every=4,
            until=0.3,
            watch=("weights", "sigma_min"),
            at=[0, 40],
        )


def same(a, b):
    pairs = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
    return all(torch.equal(x.nan_to_num(nan=-7), y.nan_to_num(nan=-7)) for x, y in pairs)


def test_steps_are_counted_where_the_loss_was_recorded():
    loss = torch.tensor([[4.0, 4.0, 4.0], [2.0, 4.0, torch.nan], [1.0, 3.0, torch.nan]])
    never = torch.tensor([-1, -1, 1])
    thin = Trajectory(loss, (), never, torch.ones(3), never, every=5)
    assert thin.steps_to(0.5).tolist() == [5, -1, -1] and thin.steps_to(0.3).tolist() == [
        10,
        -1,
        -1,
    ]
    assert thin.steps.tolist() == [0, 5, 10] and thin.diverged.tolist() == [False, False, True]


def test_it_says_in_three_lines_what_became_of_the_runs(run):
    lines = repr(run).splitlines()
    assert lines[0] == "Trajectory of 3 runs over 400 steps" and len(lines) == 3
    assert lines[1].startswith(f"median loss {float(run.loss[0].median()):.3g} at first")
    stopped = int((run.stopped_at >= 0).sum())
    assert lines[2] == f"{2 - stopped} went to the end, {stopped} stopped early, 1 diverged"


def test_what_is_loaded_is_what_was_saved(run, tmp_path):
    run.save(tmp_path / "run.npz")
    again = Trajectory.load(tmp_path / "run.npz")
    for name in ("loss", "weights", "eta", "diverged_at", "stopped_at"):
        assert same(getattr(again, name), getattr(run, name)), name
    assert again.watched.keys() == run.watched.keys() and again.at == (0, 40) and again.every == 4
    assert all(same(again.watched[name], seen) for name, seen in run.watched.items())
    assert type(again.weights) is models.AttentionWeights and repr(again) == repr(run)
    assert (again.train, again.rule) == (run.train, run.rule) == ("V", "constant")


PART_V = {
    "clouds": (
        models.InContext(),
        models.in_context.planted(3, 2, 5, 0, r=(1.0, 0.5))[0],
        {"d": 4},
    ),
    "merged": (models.LinearAttention(H=2), problems.gaussian(2, 3, 4, seed=0), {}),
    "separate": (models.LinearAttention(H=2, rank=1), problems.gaussian(2, 3, 4, seed=0), {}),
}


@pytest.mark.parametrize("name", PART_V)
def test_loaded_weights_are_the_models_own(name, tmp_path):
    model, problem, size = PART_V[name]
    weights = model.init(problem, seed=1, runs=2, **size)
    run = descend(model, problem, weights, step=0.001, steps=3, watch="weights", at=[2])
    run.save(tmp_path / "run.npz")
    loaded = Trajectory.load(tmp_path / "run.npz")
    assert type(loaded.weights) is type(loaded.watched["weights"]) is type(weights)
    assert torch.allclose(model.loss(loaded.weights, problem), run.loss[-1], rtol=1e-12)


def test_weights_of_a_class_that_is_not_the_librarys_keep_their_names(run, tmp_path):
    class Own(NamedTuple):
        W: Tensor

    other = Trajectory(run.loss, Own(run.eta), run.diverged_at, run.eta, run.stopped_at)
    other.save(tmp_path / "own.npz")
    again = Trajectory.load(tmp_path / "own.npz").weights
    assert type(again).__name__ == "Own" and torch.equal(again.W, run.eta)


def test_a_file_that_is_none_or_newer_is_refused(run, tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    np.savez(tmp_path / "pickled.npz", content=np.array([{"a": print}], dtype=object))
    for name in ("text", "other", "pickled"):
        with pytest.raises(ValueError, match=f"{name}.npz is no saved trajectory"):
            Trajectory.load(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "newer.npz", content=np.array(json.dumps({"version": 99})))
    with pytest.raises(ValueError, match="has version 99, this library reads up to 1"):
        Trajectory.load(tmp_path / "newer.npz")
    with pytest.raises(ValueError, match="path must end in .npz"):
        run.save(tmp_path / "run.pt")


def test_a_file_that_is_not_there_or_damaged_is_refused_in_a_line(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*no.npz: give a file that Traj"):
        Trajectory.load(tmp_path / "no.npz")
    run.save(tmp_path / "run.npz")
    whole = (tmp_path / "run.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "folder.npz").mkdir()
    for said in ("1", "[]", '{"version": 1}', '{"version": null}'):
        np.savez(tmp_path / f"says {len(said)}.npz", content=np.array(said))
    for path in {*tmp_path.glob("*.npz")} - {tmp_path / "run.npz"}:
        with pytest.raises(ValueError, match="is no saved trajectory .*: give a file that Traject"):
            Trajectory.load(path)


def test_the_losses_become_a_table(run):
    table = run.to_pandas()
    assert table.shape == (101, 3) and table.index[:3].tolist() == [0, 4, 8]
    assert np.array_equal(table.to_numpy(), run.loss.numpy(), equal_nan=True)
    grid = Trajectory(run.loss[:, :2].unflatten(1, (1, 2)), *[None] * 4).to_pandas()
    assert grid.columns.names == ["run_0", "run_1"] and grid.columns[1] == (0, 1)
    assert Trajectory(run.loss[:, 0], *[None] * 4).to_pandas().columns.tolist() == [0]


def test_it_becomes_a_dataset_with_named_dimensions(run, monkeypatch):
    data = run.to_xarray()
    assert data["loss"].dims == ("step", "run_0") and data["eta"].dims == ("run_0",)
    assert data["loss"].sel(step=8).values[0] == run.loss[2, 0]
    assert data["watched_sigma_min"].dims == ("at", "run_0") and data["at"].values.tolist() == [
        0,
        40,
    ]

    weights = data["watched_weights_Q"]
    assert weights.dims == ("at", "run_0", *(f"weights_Q_{k}" for k in range(3)))
    assert np.array_equal(weights.values, run.watched["weights"].Q)
    whole = {"all": torch.tensor([1.0, 2.0]), "means": torch.ones(2, 4)}
    other = dataclasses.replace(run, watched=whole).to_xarray()
    assert other["watched_all"].dims == ("at",) and other["watched_means"].dims == ("at", "means_0")

    def without(name, *rest):
        if name == "xarray":
            raise ImportError
        return importing(name, *rest)

    importing = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install xarray"):
        run.to_xarray()


def test_few_runs_are_drawn_each(run):
    assert run.plot().html.count("<path") > 3 and "Trajectory of 3 runs" in run.plot().alt
    assert "Loss over its start" in run._repr_html_()


def test_runs_that_start_without_a_number_are_left_out(run):
    """As one does whose loss overflows, or is zero: 0 / 0 is no share."""
    first = torch.tensor([torch.nan, 0.0, 2.0])
    some = dataclasses.replace(run, loss=torch.stack([first, first / 2]))
    assert "Loss over its start" in some._repr_html_()
    none = dataclasses.replace(run, loss=0 * some.loss)
    assert none._repr_html_() == f"<p>{'<br>'.join(repr(none).splitlines())}</p>"
    with pytest.raises(ValueError, match="no run starts with a loss to draw: look at run.loss"):
        none.plot()


def test_negative_losses_are_drawn_themselves(run, monkeypatch):
    """A logarithm that falls from -1 to -5 is no share that grows from 1 to 5."""
    monkeypatch.setattr(plots, "figure", lambda picture, **words: picture)
    picture = dataclasses.replace(run, loss=torch.tensor([[-1.0, -1, -2], [-5, -5, -6]])).plot()
    assert [curve.y[-1] for curve in picture.curves] == [-5, -5, -6]
    assert picture.ylabel == "loss $f_t$" and picture.yscale == "linear"


def test_many_runs_are_drawn_as_their_median_and_tenths(monkeypatch):
    """Those that diverged count as the worst of all."""
    shares = 0.1 + 0.01 * torch.arange(41).double()
    shares[:3] = torch.nan
    loss = 7 * torch.stack([torch.ones(41), shares[torch.arange(41) * 2 % 41]])
    never = torch.full((41,), -1)
    monkeypatch.setattr(plots, "figure", lambda picture, **words: picture)
    many = Trajectory(loss, (), never, torch.ones(41), never)
    ends = {curve.label: float(curve.y[-1]) for curve in many.plot().curves}
    assert ends == pytest.approx({"worst tenth": 0.49, "median": 0.33, "best tenth": 0.17})
    assert len(many.plot(most=41).curves) == 41


def test_several_dimensions_of_runs_are_said():
    never = torch.full((2, 3), -1)
    grid = Trajectory(torch.ones(2, 2, 3), (), never, torch.ones(2, 3), never)
    assert repr(grid).startswith("Trajectory of 2 x 3 runs over 1 step\n")


def test_figures_show_themselves_where_a_cell_ends(run):
    picture = plots.Picture([plots.Curve("f", [0, 1], [1, 2])], "x", "y")
    assert plots.draw(picture)._repr_png_().startswith(b"\x89PNG")
