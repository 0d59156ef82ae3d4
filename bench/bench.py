"""``make bench``: what a step costs, against other ways to take it, on this machine.

``DEVICE=cuda make bench`` looks whether a GPU takes the steps that a processor takes, times it, and
writes src/descent/bench-cuda.json.

All measurements of one table are taken in turn, round after round, and their median is what is
written: a moment in which something else runs falls on all. Ratios within one run of this script
are what counts; times are those of this machine at that hour. Writes src/descent/bench.json at the end,
which the appendix "Run times" draws.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

import rivals
import torch
from tqdm import tqdm

from descent import _layout, descend, flows, margin, models, problems, span
from descent import steps as rules
from descent.claims.vasudeva2024.convergence import exponents

DEVICE = os.environ.get("DEVICE", "cpu")
NAME = "bench.json" if DEVICE == "cpu" else f"bench-{DEVICE}.json"
OUTPUT = Path(__file__).parent.parent / "src" / "descent" / NAME
SHAPE = {"N": 8, "n": 4}
HEADS = {"H": 2, "d": 8}
RUNS = 32
SECONDS = 0.2  # that one measurement should take


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=7, help="measurements of each figure")
    arguments.add_argument("--output", type=Path, default=OUTPUT, help="the JSON file to write")
    options = arguments.parse_args()
    warnings.simplefilter("error")
    os.environ["DESCENT_BOOK"] = "1"  # no progress bars within ours
    result = {"machine": machine()}
    tables = TABLES if DEVICE == "cpu" else ON_A_GPU
    if DEVICE != "cpu":
        must_agree_with_a_processor()
    for name, measure in tables.items():
        result[name] = measure(options.rounds)
        print(PRINTED[name](result[name]), flush=True)
    result["machine"]["load_after"] = os.getloadavg()[0]
    write(options.output, json.dumps(result, indent=1) + "\n")
    print(f"\n{result['machine']}\nwritten to {options.output}")


def write(file: Path, text: str) -> None:
    """All of it or, where this is broken off, nothing: what was there stays."""
    part = file.with_name(file.name + ".part")
    part.write_text(text)
    part.replace(file)


def machine() -> dict:
    """What the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        **({} if DEVICE == "cpu" else {"device": torch.cuda.get_device_name()}),
        "cores": cores(),
        "clock": "processor" if cores() == 1 else "wall",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


# -- measuring ------------------------------------------------------------------------------------


def instance(D: int, runs: int = RUNS, draw=problems.gaussian, shape=SHAPE, heads=HEADS):
    problem = draw(**shape, D=D, seed=0, device=DEVICE)
    layer = models.Attention("softmax", **heads)
    return layer, problem, layer.init(problem, runs=runs, seed=1)


def engine(layer, problem, weights, **options):
    """`descend`, the reduction to the span and the way back included."""
    options = {"step": rivals.step_size(problem)} | options
    return lambda steps: descend(layer, problem, weights, steps=steps, **options).loss[-1]


def clock(train, steps: int) -> float:
    """Seconds; on one core those of the processor, so that others on the machine do not count."""
    now = time.process_time if cores() == 1 else time.perf_counter
    began = now()
    train(steps)
    if DEVICE != "cpu":
        torch.cuda.synchronize()
    return now() - began


def enough(train) -> int:
    """A number of steps that takes about `SECONDS`, setting up not counted."""
    train(1)  # a first call may compile
    once, steps = clock(train, 1), 3
    while True:
        train(steps)
        if (took := clock(train, steps) - once) > SECONDS / 16:
            return max(2, int(steps * SECONDS / took))
        steps *= 8


def in_turn(name: str, candidates: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each candidate in each round; a round takes all of them in turn.

    Set-up is left out: what one step takes at best, since a busy machine only ever adds.
    """
    steps = {key: enough(train) for key, train in candidates.items()}
    for key, train in candidates.items():
        train(steps[key])  # compiled for the length that will be timed
    once, many = ({key: [] for key in candidates} for _ in range(2))
    for _ in tqdm(range(rounds), desc=name, file=sys.stderr):
        for key, train in candidates.items():
            once[key].append(clock(train, 1))
            many[key].append(clock(train, steps[key]))
    return {
        key: [(took - min(once[key])) / (steps[key] - 1) for took in many[key]]
        for key in candidates
    }


def rate(runs: int, seconds: list[float]) -> dict:
    """Run-steps a second: the median of the rounds, and the smallest and the largest."""
    rates = sorted(runs / s for s in seconds)
    return {"median": statistics.median(rates), "low": rates[0], "high": rates[-1]}


# -- the tables -----------------------------------------------------------------------------------


def rivalry(rounds: int) -> list[dict]:
    """`descend` against all rivals at three dimensions."""
    return [against(D, rounds) for D in (32, 512, 4096)]


def against(D: int, rounds: int) -> dict:
    """Run-steps a second of `descend` and its rivals, all on one problem, and the ratios."""
    layer, problem, weights = instance(D)
    reduction = span.reduce(problem)
    small = (layer, reduction.problem, reduction.restrict(weights))
    candidates = {
        "descend": engine(layer, problem, weights),
        "autograd loop": rivals.autograd_loop(layer, problem, weights),
        "vmap(grad)": rivals.vmapped(layer, problem, weights),
        "jax": rivals.jitted(layer, problem, weights),
        "jax, reduced": rivals.jitted(*small),
    }
    must_agree({key: train(5) for key, train in candidates.items()})
    taken = in_turn(f"D = {D}", candidates, rounds)
    return {"D": D, **compared(taken)}


def ratio(theirs: list[float], ours: list[float]) -> float:
    """How many times as long they take, the median of the rounds."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def must_agree(losses: dict) -> None:
    """All candidates must have come to the same losses: else they do not do the same thing."""
    ours = losses["descend"]
    for key, theirs in losses.items():
        # of lists torch makes float32 unless told
        theirs = torch.as_tensor(theirs, dtype=ours.dtype, device=ours.device)
        gap = float((theirs - ours).abs().max() / ours.abs().max())
        if gap > 1e-9:
            raise SystemExit(f"bench: {key} is off by {gap:.1e} after 5 steps")


def must_agree_with_a_processor() -> None:
    """Both kernels, several subsets of matrices and all rules: the same losses on both devices."""
    for kernel in ("softmax", "gaussian"):
        for train in ("V", "QK", "QKV"):
            problem = problems.gaussian(**SHAPE, D=64, seed=0)
            layer = models.Attention(kernel, **HEADS)
            weights = layer.init(problem, runs=RUNS, seed=1)
            for step in (rivals.step_size(problem), rules.normalised(1e-3), rules.polyak(0.0, 0.1)):
                options = {"train": train, "step": step, "steps": 5}
                losses = {
                    name: descend(layer, problem, weights, device=device, **options).loss[-1].cpu()
                    for name, device in (("descend", "cpu"), (f"{kernel} on the GPU", DEVICE))
                }
                must_agree(losses)


def the_way(rounds: int) -> dict:
    """Run-steps a second of one method written better and better, at D = 512."""
    layer, problem, weights = instance(512)
    reduction = span.reduce(problem)
    small = (layer, reduction.problem, reduction.restrict(weights))
    train = engine(layer, problem, weights)
    candidates = {
        "a loop with autograd": rivals.autograd_loop(layer, problem, weights),
        "all runs at once, in closed form": engine(layer, problem, weights, reduce=False),
        "in the span of the tokens": engine(*small, reduce=False),
        "runs innermost in memory": in_torch(train),
        "a run in each lane": train,
    }
    must_agree({"descend": train(5)} | {key: train(5) for key, train in candidates.items()})
    taken = in_turn("the way", candidates, rounds)
    return {"D": 512, "rates": {key: rate(RUNS, seconds) for key, seconds in taken.items()}}


def in_torch(train):
    """The same with its sums in torch, as on another device and where Numba does not run."""

    def without_numba(steps):
        with mock.patch.object(_layout, "compiled", lambda: None):
            return train(steps)

    return without_numba


def over_rules(rounds: int) -> list[dict]:
    """Run-steps a second by the step size: the same always, or asked for at each step."""
    layer, problem, weights = instance(32)
    eta = rivals.step_size(problem)
    sizes = {
        "constant": eta,
        "schedule": rules.schedule(lambda t: eta),
        "normalised": rules.normalised(1e-3),
        "normalised, shrinking": rules.normalised(lambda t: 1e-3 / (t + 1)),
        "Polyak": rules.polyak(),
        "Polyak of a logarithm": rules.polyak_of_logarithm(1e-9),
        "a rule of one's own": lambda loss, square: torch.full_like(loss, eta),
    }
    candidates = {}
    for name, rule in sizes.items():
        train = engine(layer, problem, weights, step=rule)
        candidates |= {name: train, f"{name}, in torch": in_torch(train)}
    taken = in_turn("rules", candidates, rounds)
    return [
        {
            "rule": name,
            **rate(RUNS, taken[name]),
            "over torch": ratio(taken[f"{name}, in torch"], taken[name]),
        }
        for name in sizes
    ]


def over_dimension(rounds: int) -> list[dict]:
    """Run-steps a second at D from 64 to a million, problems drawn in the span."""
    sizes = [64, 1_000, 10_000, 100_000, 1_000_000]
    candidates = {D: engine(*instance(D, draw=problems.gaussian_in_span)) for D in sizes}
    taken = in_turn("dimensions", candidates, rounds)
    return [{"D": D, **rate(RUNS, taken[D])} for D in sizes]


def over_runs(rounds: int) -> list[dict]:
    """Run-steps a second of 1 to 4096 runs at once."""
    counts = [1, 4, 16, 32, 64, 256, 1024, 4096]
    candidates = {runs: engine(*instance(32, runs)) for runs in counts}
    taken = in_turn("runs", candidates, rounds)
    return [{"runs": runs, **rate(runs, taken[runs])} for runs in counts]


def over_devices(rounds: int) -> list[dict]:
    """Run-steps a second of few and many sequences and runs, on a GPU and on its processor."""
    sizes = [(8, 32), (8, 32768), (64, 1024), (256, 1024)]
    return [on_both(N, runs, rounds) for N, runs in sizes]


def on_both(N: int, runs: int, rounds: int) -> dict:
    """As `against`, with D = N n, so that nothing is left to reduce, and with the processor."""
    layer, problem, weights = instance(4 * N, runs, problems.gaussian_in_span, {"N": N, "n": 4})
    candidates = {
        "descend": engine(layer, problem, weights),
        "descend, processor": engine(layer, problem, weights, device="cpu"),
        "vmap(grad)": rivals.vmapped(layer, problem, weights),
        "jax": rivals.jitted(layer, problem, weights),
    }
    must_agree({key: train(5) for key, train in candidates.items()})
    name = f"{runs} runs of {4 * N} tokens"
    return {"name": name, "N": N, "runs": runs, **compared(in_turn(name, candidates, rounds), runs)}


def over_models(rounds: int) -> list[dict]:
    """Run-steps a second of each model that states its step on lanes, and of its rivals."""
    return [model_against(name, *setting, rounds) for name, setting in in_the_book().items()]


def in_the_book() -> dict[str, tuple]:
    """A model, a problem of the size that its part has, the step and what is trained."""
    labelled, u = problems.planted(N=6, n=4, D=60, seed=0)
    ten = problems.sequences(N=10, n=3, D=15, seed=0, length=1.0)
    tokens = problems.gaussian(**SHAPE, D=32, seed=0)
    eta = rivals.step_size(tokens)
    return {
        "softmax attention": (models.Attention("softmax", **HEADS), tokens, eta, "QKV", {}),
        "Gaussian attention": (models.Attention("gaussian", **HEADS), tokens, eta, "QKV", {}),
        "encoder, d = 8": (models.Encoder(8), ten, 1e-3, "QKVO", {}),
        "encoder, d = 128": (models.Encoder(128), ten, 1e-4, "QKVO", {}),
        "selection": (models.Selection(), labelled, 0.5, "W", {"u": u}),
    }


def model_against(name: str, model, problem, eta: float, train: str, drawn: dict, rounds: int):
    """As `against`, for any model, on the problem as it is."""
    weights = model.init(problem, runs=RUNS, seed=1, **drawn)
    ours, one = (
        engine(model, problem, weights, step=eta, train=train),
        (problem, weights, eta, train),
    )
    candidates = {
        "descend": ours,
        "in torch": in_torch(ours),
        "autograd loop": rivals.autograd_loop(model, *one),
        "vmap(grad)": rivals.vmapped(model, *one),
        "jax": rivals.jitted(model, *one),
    }
    must_agree({key: train(5) for key, train in candidates.items()})
    return {"model": name, **compared(in_turn(name, candidates, rounds))}


def over_data(rounds: int) -> list[dict]:
    """Run-steps a second of runs on data of each one's own, and of as many that share theirs."""
    candidates = with_own_data(RUNS)
    must_agree({key: train(5) for key, train in candidates.items()})
    candidates["one data set for all"] = engine(*instance(32))
    taken = in_turn("data", candidates, rounds)
    return [{"runs": RUNS, "machine": machine(), **compared(taken)}]


def with_own_data(runs: int) -> dict:
    """Descent in which run r has the r-th draw of the data, by `descend` and by a loop."""
    layer, _, weights = instance(32, runs)
    drawn = [problems.gaussian(**SHAPE, D=32, seed=seed) for seed in range(runs)]
    problem = problems.Problem(*(torch.stack([getattr(p, x) for p in drawn]) for x in "Xy"))
    each = zip(drawn, *(W.split(1) for W in weights), strict=True)
    loops = [rivals.autograd_loop(layer, one, type(weights)(*W)) for one, *W in each]
    ours = engine(layer, problem, weights)
    return {
        "descend": ours,
        "in torch": in_torch(ours),
        "autograd loop": lambda steps: [loss for loop in loops for loss in loop(steps)],
    }


def of_flows(rounds: int) -> list[dict]:
    """Run-steps a second of clouds of 60 neurons in one batch, and of the rivals."""
    candidates = flowing(RUNS)
    must_agree({key: train(5) for key, train in candidates.items()})
    return [{"neurons": 60, "cores": cores(), **compared(in_turn("flows", candidates, rounds))}]


def flowing(runs: int, jax: bool = True) -> dict:
    """Euler's steps of clouds of sigmoid neurons, by `flows.euler` and by the rivals.

    The flow is minus d times the gradient: theirs go d times as far along it.
    """
    population, _ = models.in_context.planted(6, 3, 100, seed=0, r=(2.25, 1.0, 0.49))
    model, dt = models.InContext(), 1e-3
    cloud = model.init(population, d=60, seed=1, runs=runs)

    def ours(steps):
        options = {"dt": dt, "steps": steps, "every": steps}
        return flows.euler(model, cloud, population, **options).loss[-1]

    given = (model, population, cloud, 60 * dt, "aw")
    candidates = {
        "descend": ours,
        "autograd loop": rivals.autograd_loop(*given),
        "vmap(grad)": rivals.vmapped(*given),
    }
    return candidates | ({"jax": rivals.jitted(*given)} if jax else {})


def over_selection(rounds: int) -> dict:
    """What Part IV asks for: normalised descent of 64 runs, a large SVM, a chapter's exponents."""
    model, problem, _, train, drawn = in_the_book()["selection"]
    eta = 1e-3  # short: a run that comes to where float64 ends stands still, and costs nothing
    weights, large = model.init(problem, runs=64, seed=1, **drawn), problems.planted(64, 16, 64, 0)
    one = (model, problem, weights, eta, train, True)
    ours = engine(model, problem, weights, step=rules.normalised(eta), train=train)
    candidates = {
        "descend": ours,
        "autograd loop": rivals.autograd_loop(*one),
        "jax": rivals.jitted(*one),
    }
    must_agree({key: train(5) for key, train in candidates.items()})
    taken = in_turn("selection", candidates, rounds)
    margin.svm(*large)  # a first call imports the solver
    return {
        "machine": machine(),
        **compared(taken, runs=64),
        "svm": statistics.median(processor(lambda: margin.svm(*large)) for _ in range(rounds)),
        "slopes": processor(exponents),
    }


def processor(work) -> float:
    """Seconds of the processor."""
    began = time.process_time()
    work()
    return time.process_time() - began


def compared(taken: dict[str, list[float]], runs: int = RUNS) -> dict:
    """Run-steps a second of all candidates, and how many times ours are those of the others."""
    return {
        "rates": {key: rate(runs, seconds) for key, seconds in taken.items()},
        "ratios": {key: ratio(s, taken["descend"]) for key, s in taken.items() if key != "descend"},
    }


def over_sequences(rounds: int) -> list[dict]:
    """Run-steps a second of more and more sequences, with D = N n and every token counted.

    And the floating-point operations a second, in units of one large matrix product.
    """
    return [with_sequences(N, rounds) for N in (8, 64, 256)]


def with_sequences(N: int, rounds: int) -> dict:
    setting = instance(4 * N, RUNS, problems.gaussian_in_span, {"N": N, "n": 4})
    train, A = engine(*setting), torch.ones(1024, 1024, dtype=torch.float64)
    candidates = {
        "descend": train,
        "in torch": in_torch(train),
        "jax, reduced": rivals.jitted(*setting),
    }
    must_agree({key: train(5) for key, train in candidates.items()})
    candidates["product"] = lambda steps: [A @ A for _ in range(steps)]
    taken = in_turn(f"N = {N}", candidates, rounds)
    product = statistics.median(taken.pop("product"))
    done = operations(N, RUNS) / statistics.median(taken["descend"])
    return {
        "N": N,
        "tokens": 4 * N,
        **compared(taken),
        "operations": operations(N, RUNS),
        "share": done * product / (2 * 1024**3),
        "gigaflops_of_a_product": 2 * 1024**3 / product / 1e9,
    }


def operations(N: int, runs: int) -> float:
    """Of one step: the product in token space, and three sums over queries, keys and features."""
    n, H, d = 4, HEADS["H"], HEADS["d"]
    product = 2 * (N * n) ** 2 * (2 * H * d + H)
    sums = 3 * 2 * N * n * n * H * d
    return runs * (product + sums)


def over_widths(rounds: int) -> list[dict]:
    """Seconds for the tangent kernels of eight encoders, in closed form and by `torch.func`.

    And the megabytes that a process holds at most for each, beyond what stood before.
    """
    return [tangent_kernels(d, rounds) for d in (128, 1024, 16384)]


def wide(d: int):
    """An encoder, ten sequences of three tokens, and eight draws of its weights."""
    problem = problems.sequences(N=10, n=3, D=15, seed=0, length=1.0)
    encoder = models.Encoder(d, initialisation="ntk")
    return encoder, problem, encoder.init(problem, runs=8, seed=1)


def kernels_of(d: int) -> dict:
    """Both ways to the tangent kernels of `wide`, as functions of how often."""
    encoder, problem, weights = wide(d)
    return {
        "closed form": lambda times: [encoder.ntk(weights, problem) for _ in range(times)][-1],
        "torch.func": lambda times: [
            rivals.tangent_kernels(encoder, problem, weights) for _ in range(times)
        ][-1],
    }


def tangent_kernels(d: int, rounds: int) -> dict:
    candidates = kernels_of(d)
    ours, theirs = (compute(1) for compute in candidates.values())
    must_agree({"descend": ours, "torch.func": theirs})
    taken = in_turn(f"width {d}", candidates, rounds)
    return {
        "width": d,
        "cores": cores(),
        "seconds": {key: statistics.median(seconds) for key, seconds in taken.items()},
        "ratio": ratio(taken["torch.func"], taken["closed form"]),
        "memory": {key: held(d, key) for key in candidates} | {"a step": held(d, "a step")},
    }


def once(d: int, what: str):
    """One kernel in either way, or one step of descent on all four weights; for `held`."""
    if what != "a step":
        compute = kernels_of(d)[what]
        return lambda: compute(1)
    encoder, problem, weights = wide(d)
    return lambda: encoder.loss_and_gradient(weights, problem)


def held(d: int, what: str) -> float:
    """Megabytes beyond what stood before, weights included, that a process of its own holds."""
    before, after = in_a_child(HOLD.format(here=str(Path(__file__).parent), d=d, what=what))
    return after - before


HOLD = """
import sys
sys.path.insert(0, {here!r})
import bench
bench.once(2, {what!r})()
compute = bench.once({d}, {what!r})
before = bench.high_water()
compute()
print(before, bench.high_water())
"""

CHILD = """
import sys
sys.path.insert(0, {here!r})
import bench
train = bench.engine(*bench.instance({D}, {runs}))
before = bench.high_water()
train(100)
print(before, bench.high_water())
"""


def high_water() -> float:
    """Megabytes that this process has held at most; ru_maxrss would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def memory(rounds: int) -> list[dict]:
    """Peak memory of the usual batch, of many runs, and of wide tokens."""
    return [peak_memory(D, runs) for D, runs in ((32, RUNS), (32, 4096), (4096, RUNS))]


def peak_memory(D: int, runs: int) -> dict:
    """Megabytes that a process holds at most, and before `descend` began (weights included)."""
    before, after = in_a_child(CHILD.format(here=str(Path(__file__).parent), D=D, runs=runs))
    return {"D": D, "runs": runs, "before": before, "peak": after}


def in_a_child(code: str) -> tuple[float, float]:
    """The two numbers that it prints."""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    before, after = map(float, answer.split())
    return before, after


# -- what is printed ------------------------------------------------------------------------------


def print_compared(axis: str):
    def lines(table: dict):
        yield f"\n{axis} = {table[axis]}: run-steps a second, median (low to high), and ratio"
        for key, r in table["rates"].items():
            ratio = f"{table['ratios'][key]:8.1f}x" if key in table["ratios"] else ""
            yield f"  {key:14} {spread(r)} {ratio}"

    return lambda tables: "\n".join(line for table in tables for line in lines(table))


def print_way(table: dict) -> str:
    rows = [f"  {name:34} {spread(r)}" for name, r in table["rates"].items()]
    return "\n".join([f"\none method at D = {table['D']}, run-steps a second", *rows])


def print_rules(rows: list[dict]) -> str:
    lines = [
        f"  {row['rule']:22} {spread(row)}, {row['over torch']:.1f} times torch" for row in rows
    ]
    return "\n".join(["\nrun-steps a second by rule", *lines])


def print_rates(axis: str):
    return lambda rows: "\n".join(
        [f"\nrun-steps a second over {axis}"] + [f"  {row[axis]:10} {spread(row)}" for row in rows]
    )


def spread(r: dict) -> str:
    return f"{r['median']:10.0f} ({r['low']:.0f} to {r['high']:.0f})"


def print_sequences(rows: list[dict]) -> str:
    lines = print_compared("tokens")(rows).splitlines()
    lines.append(f"share of a matrix product's {rows[0]['gigaflops_of_a_product']:.0f} Gflop/s")
    return "\n".join(lines + [f"  {row['tokens']:6} tokens {row['share']:8.1%}" for row in rows])


def print_widths(rows: list[dict]) -> str:
    lines = ["\ntangent kernels of eight encoders"]
    for row in rows:
        took, memory = row["seconds"]["closed form"], row["memory"]
        lines.append(
            f"  width {row['width']:6}: {took * 1e3:8.2f} ms, torch.func {row['ratio']:.1f} times that;"
            f" MB held: " + ", ".join(f"{key} {value:.0f}" for key, value in memory.items())
        )
    return "\n".join(lines)


def print_memory(rows: list[dict]) -> str:
    return "\n".join(
        ["\npeak memory, MB"]
        + [
            f"  D = {r['D']:5} runs = {r['runs']:5}: {r['peak']:.0f}, {r['before']:.0f} before"
            for r in rows
        ]
    )


TABLES = {
    "rivals": rivalry,
    "models": over_models,
    "selection": over_selection,
    "sequences": over_sequences,
    "way": the_way,
    "rules": over_rules,
    "dimension": over_dimension,
    "runs": over_runs,
    "memory": memory,
    "widths": over_widths,
    "flows": of_flows,
    "data": over_data,
}
#: What is timed on a GPU, and only there.
ON_A_GPU = {"devices": over_devices}
PRINTED = {
    "rivals": print_compared("D"),
    "models": print_compared("model"),
    "selection": lambda table: print_compared("name")([table | {"name": "normalised, 64 runs"}]),
    "sequences": print_sequences,
    "way": print_way,
    "rules": print_rules,
    "dimension": print_rates("D"),
    "runs": print_rates("runs"),
    "memory": print_memory,
    "widths": print_widths,
    "flows": print_compared("neurons"),
    "data": print_compared("runs"),
    "devices": print_compared("name"),
}

if __name__ == "__main__":
    main()
