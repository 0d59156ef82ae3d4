"""Runs that are too long for a page and that no sweep makes, kept as what they wrote.

    python tools/record.py prompts --steps 400 --out src/descent/tables/in-context-prompts-few.json
    python tools/record.py widths --runs 50 --out src/descent/tables/in-context-widths.json
    python tools/record.py vision --runs 6 --out src/descent/tables/vision.json

The first takes ``--device cuda`` where there is a GPU, and then more ``--inputs``. Each file holds the
command that made it.
"""

import argparse
import datetime
import json
import platform
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from descent import draws
from descent.claims.kim2024 import dynamics
from descent.claims.wu2023 import vision as digits
from descent.models import InContext, in_context
from descent.models.in_context import Neurons, Population

# ------------------------------------------------------------------ neurons and W at one speed


class Size(NamedTuple):
    """What is said of the experiment of Kim and Suzuki, and what we add."""

    D: int = 20
    k: int = 5
    neurons: int = 500
    prompts: int = 10_000
    pairs: int = 1_000
    inputs: int = 20_000  #: that the prompts draw from
    dt: float = 0.01


def prompts(asked: argparse.Namespace) -> dict:
    """Neurons and W trained on all prompts, beside the same neurons with W always at its best."""
    size = Size(inputs=asked.inputs)
    joint, alone = (Joint(size, asked.seed, asked.device) for _ in range(2))
    rows = [joint.step() | {"alone": alone.step_alone()} for _ in tqdm(range(asked.steps + 1))]
    kept = {name: [row[name] for row in rows[:: asked.every]] for name in rows[0]}
    return size._asdict() | {"every": asked.every, "rows": kept}


class Joint:
    """Neurons, W and a fixed set of prompts, in single precision.

    At the start the features are mixed so that they are uncorrelated, and W is the identity: the
    best that there is for infinite prompts.
    """

    model = InContext()

    def __init__(self, size: Size, seed: int, device: str) -> None:
        D, k, m = size.D, size.k, size.inputs
        self.dt = size.dt
        drawn, _ = in_context.planted(D, k, m // 2, seed, r=(1.0,) * k, steepness=3.0)
        self.population = Population(*(part.float().to(device) for part in drawn))
        a, w = self.model.init(drawn, d=size.neurons, seed=seed)
        values, vectors = torch.linalg.eigh(self.model.moments(Neurons(a, w), drawn).Sigma)
        a = a @ vectors / values.sqrt() @ vectors.mT
        self.neurons = Neurons(a.float().to(device), w.float().to(device))
        self.W = torch.eye(k, device=device)
        place = (m * draws.uniform(seed, "place", (size.prompts, size.pairs + 1))).long()
        v = draws.normal(seed, "v", (size.prompts, k)).float()
        y = torch.einsum("Nnk,Nk->Nn", drawn.F.float()[place], v)
        self.query, self.answer = place[:, 0].to(device), y[:, 0].to(device)
        # row N has y_i / n at the place of each pair of prompt N: it takes h to the context
        prompt = torch.arange(size.prompts).repeat_interleave(size.pairs)
        pairs = torch.stack([prompt, place[:, 1:].flatten()])
        read = torch.sparse_coo_tensor(
            pairs, y[:, 1:].flatten() / size.pairs, (size.prompts, m), check_invariants=True
        ).coalesce()
        self.read = read.to_sparse_csr().to(device)
        self.back = read.mT.coalesce().to_sparse_csr().to(device)

    def step(self) -> dict[str, float]:
        """One step down the loss of the prompts, of neurons and W alike.

        Returns the losses before it: of these prompts, of infinite ones with this W and with the
        best.
        """
        at = self.model.moments(self.neurons, self.population)
        context, asked = self.read @ at.h, at.h[self.query]
        off = ((context @ self.W) * asked).sum(1) - self.answer
        with_W = self.population.F - at.h @ (at.C @ self.W).mT
        losses = {"prompts": off.square().mean(), "with_W": with_W.square().sum(1).mean()}
        losses["best_W"] = at.zeta.square().sum(1).mean()
        off = off[:, None] / len(off)
        push = self.back @ (off * (asked @ self.W.mT))
        push.index_add_(0, self.query, off * (context @ self.W))
        self.W = self.W - self.dt * context.mT @ (off * asked)
        self._move(self.model._moved(self.neurons, self.population.X, -push))
        return {name: float(loss) / 2 for name, loss in losses.items()}

    def step_alone(self) -> float:
        """One step of the flow of the loss of infinite prompts with the best W, and that loss."""
        at = self.model.moments(self.neurons, self.population)
        self._move(self.model._velocities(self.neurons, self.population, at))
        return float(at.zeta.square().sum(1).mean()) / 2

    def _move(self, along: Neurons) -> None:
        pairs = zip(self.neurons, along, strict=True)
        self.neurons = Neurons(*(x + self.dt * v for x, v in pairs))


# ------------------------------------------------------------------ the map over width

WIDTHS = (2, 3, 4, 5, 6, 8, 12)


def widths(asked: argparse.Namespace) -> dict:
    """Quasi-Newton from many starts at each width: the last loss and the longest inner weight."""
    ends = [dynamics.quasi_newton(d, run) for d in tqdm(WIDTHS) for run in range(asked.runs)]
    names = ("d", "run", "loss", "longest", "steps")
    return {"rows": {name: [end[i] for end in ends] for i, name in enumerate(names)}}


# ------------------------------------------------------------------ a small vision Transformer


def vision(asked: argparse.Namespace) -> dict:
    """One encoder with ten read-outs on digits, at four widths and both scalings."""
    return {"rows": digits.rows(range(asked.seed, asked.seed + asked.runs))}


# ------------------------------------------------------------------ what is written


RUNS = {"prompts": prompts, "widths": widths, "vision": vision}


def main() -> None:
    """Take the run that is asked for, and write it with the command, the machine and the date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--steps", type=int, default=400, help="of the prompts' run")
    parser.add_argument("--every", type=int, default=1, help="steps from one kept loss to the next")
    parser.add_argument("--inputs", type=int, default=Size().inputs, help="that prompts draw from")
    parser.add_argument("--runs", type=int, default=50, help="starts of each setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    asked, began = parser.parse_args(), time.perf_counter()
    found = RUNS[asked.run](asked)
    record = {
        "command": f"python tools/record.py {' '.join(sys.argv[1:])}",
        "seed": asked.seed,
        "machine": machine(asked.device),
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.perf_counter() - began),
    }
    asked.out.write_text(json.dumps(record | found, indent=1) + "\n")


def machine(device: str) -> str:
    """What the run was taken on."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{names[0] if names else platform.processor()}, {threads} threads, {torch.__version__}"


if __name__ == "__main__":
    main()
