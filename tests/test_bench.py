import importlib
import json
from importlib import resources
from pathlib import Path

import pytest
import torch

import descent

FOLDER = Path(__file__).parent.parent / "bench"


@pytest.fixture
def bench(monkeypatch):
    """The script, without what it needs JAX for."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("JAX_ENABLE_X64", "1")  # as it sets it, and put back afterwards
    return importlib.import_module("bench")


def test_the_rivals_take_the_steps_that_we_take(bench):
    layer, problem, weights = bench.instance(6, runs=2)
    ours = bench.engine(layer, problem, weights)(5)
    losses = {"descend": ours}
    for rival in (bench.rivals.autograd_loop, bench.rivals.vmapped):
        losses[rival.__name__] = rival(layer, problem, weights)(5)
    bench.must_agree(losses)


def test_the_rivals_know_every_model_that_has_lanes(bench):
    settings = bench.in_the_book()
    with_lanes = set(bench.rivals.LOSSES) - {descent.models.InContext}
    assert {type(model) for model, *_ in settings.values()} == with_lanes
    for name, (model, problem, eta, train, drawn) in settings.items():
        weights = model.init(problem, runs=2, seed=1, **drawn)
        assert model.on_lanes(weights, problem, train) is not None, name
        losses = {"descend": bench.engine(model, problem, weights, step=eta, train=train)(5)}
        for rival in (bench.rivals.autograd_loop, bench.rivals.vmapped):
            losses[rival.__name__] = rival(model, problem, weights, eta, train)(5)
        bench.must_agree(losses)


def test_the_loop_takes_our_steps_where_each_run_has_its_own_data(bench):
    bench.must_agree({name: train(5) for name, train in bench.with_own_data(3).items()})


def test_both_ways_to_the_tangent_kernel_give_the_same(bench):
    closed, jacobian = (compute(1) for compute in bench.kernels_of(5).values())
    assert closed.shape == (8, 10, 10)
    assert (closed - jacobian).abs().max() < 1e-12 * jacobian.abs().max()


def test_the_normalised_rival_takes_our_normalised_steps(bench):
    model, problem, eta, train, drawn = bench.in_the_book()["selection"]
    weights = model.init(problem, runs=2, seed=1, **drawn)
    step = bench.rules.normalised(eta)
    ours = bench.engine(model, problem, weights, step=step, train=train)
    loop = bench.rivals.autograd_loop(model, problem, weights, eta, train, normalise=True)
    bench.must_agree({"descend": ours(5), "loop": loop(5)})


def test_the_rivals_follow_the_flow_of_neurons(bench):
    losses = {name: train(5) for name, train in bench.flowing(2, jax=False).items()}
    bench.must_agree(losses)
    assert (losses["descend"] < bench.flowing(2, jax=False)["descend"](1)).all()


def test_a_bench_that_is_broken_off_leaves_what_was_written(bench, tmp_path, monkeypatch):
    file = tmp_path / "bench.json"
    bench.write(file, "old\n")
    with monkeypatch.context() as full:
        full.setattr(Path, "replace", lambda *a: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space left"):
            bench.write(file, "new\n")
    assert file.read_text() == "old\n"
    bench.write(file, "new\n")
    assert file.read_text() == "new\n" and list(tmp_path.iterdir()) == [file]


def test_a_rival_that_does_something_else_stops_the_bench(bench):
    ours = torch.tensor([1.0, 2.0], dtype=torch.float64)
    with pytest.raises(SystemExit, match="bench: cheat is off by 5.0e-01 after 5 steps"):
        bench.must_agree({"descend": ours, "cheat": [1.0, 3.0]})


def test_setting_up_is_not_counted_as_steps(bench, monkeypatch):
    now, calls = [0.0], []
    for clock in ("perf_counter", "process_time"):
        monkeypatch.setattr(bench.time, clock, lambda: now[0])

    def train(steps):  # a second to begin with, a hundredth for a step
        calls.append(steps)
        waits = 3600 if len(calls) == 2 else 0  # something else ran at the first of all
        now[0] += 1 + 0.01 * steps + waits

    monkeypatch.setattr(bench, "enough", lambda train: 100)
    seconds = bench.in_turn("test", {"it": train}, rounds=3)["it"]
    assert calls == [100, 1, 100, 1, 100, 1, 100] and seconds == pytest.approx([0.01] * 3)


def test_a_rate_is_the_median_of_its_rounds(bench):
    assert bench.rate(10, [1.0, 0.5, 100.0]) == {"median": 10.0, "low": 0.1, "high": 20.0}


def test_the_times_that_the_book_shows_are_complete():
    kept = json.loads((resources.files(descent) / "bench.json").read_text())
    figures = {"rivals", "models", "sequences", "way", "rules", "dimension", "runs", "memory"}
    assert set(kept) == {"machine", "widths", "flows", "selection", "data", *figures}
    assert [table["D"] for table in kept["rivals"]] == [32, 512, 4096]
    for table in kept["rivals"]:
        assert set(table["rates"]) == {"descend", *table["ratios"]}
        assert {"autograd loop", "vmap(grad)", "jax", "jax, reduced"} == set(table["ratios"])
    for row in kept["models"]:
        assert {"in torch", "autograd loop", "vmap(grad)", "jax"} == set(row["ratios"])
    assert {"autograd loop", "jax"} == set(kept["selection"]["ratios"])
    assert kept["selection"]["svm"] > 0 and kept["selection"]["slopes"] > 0
    assert [row["N"] for row in kept["sequences"]] == [8, 64, 256]
    for row in kept["sequences"]:
        assert {"in torch", "jax, reduced"} == set(row["ratios"])
    assert [row["D"] for row in kept["dimension"]][-1] == 10**6
    assert [row["runs"] for row in kept["runs"]][-1] == 4096
    (flow,) = kept["flows"]
    assert {"autograd loop", "vmap(grad)", "jax"} == set(flow["ratios"])
    (own,) = kept["data"]
    assert {"in torch", "autograd loop", "one data set for all"} == set(own["ratios"])
    assert [row["width"] for row in kept["widths"]] == [128, 1024, 16384]
    for row in kept["widths"]:
        assert set(row["seconds"]) == {"closed form", "torch.func"}
        assert set(row["memory"]) == {*row["seconds"], "a step"}


def test_the_times_of_a_gpu_that_the_book_shows_are_complete():
    kept = json.loads((resources.files(descent) / "bench-cuda.json").read_text())
    assert set(kept) == {"machine", "devices"} and kept["machine"]["device"]
    assert [(row["N"], row["runs"]) for row in kept["devices"]][-1] == (256, 1024)
    for row in kept["devices"]:
        assert {"descend, processor", "vmap(grad)", "jax"} == set(row["ratios"])


def test_a_gpu_is_timed_into_a_file_of_its_own_and_only_if_it_agrees(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a device")
    try:
        gpu = importlib.reload(bench)
        assert gpu.OUTPUT.name == "bench-cuda.json" and gpu.OUTPUT.parent.name == "descent"
        said, order = tmp_path / "said.json", []
        monkeypatch.setattr(gpu, "must_agree_with_a_processor", lambda: order.append("agrees"))
        for name in gpu.ON_A_GPU:
            monkeypatch.setitem(gpu.ON_A_GPU, name, lambda rounds, name=name: order.append(name))
            monkeypatch.setitem(gpu.PRINTED, name, lambda table: "")
        monkeypatch.setattr("sys.argv", ["bench", "--output", str(said)])
        monkeypatch.setenv("DESCENT_BOOK", "1")  # as it sets it, and put back afterwards
        gpu.main()
        assert order == ["agrees", *gpu.ON_A_GPU]
        assert json.loads(said.read_text())["machine"]["device"] == "a device"
    finally:
        monkeypatch.delenv("DEVICE")
        importlib.reload(bench)
