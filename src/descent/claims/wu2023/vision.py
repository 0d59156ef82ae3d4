"""A small vision Transformer on digits, at both scalings: the paper's comparison, smaller.

The recorded runs are made again by ``tools/record.py vision``, in about half an hour.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ... import draws, tables
from ...models import Encoder
from ...problems import Problem
from ...statistics import interval
from ...theorems import Standing
from .._record import Evidence, Verdict, claim
from ._shared import PAPER

WIDTHS, SCALINGS, SEEDS = (16, 128, 512, 16384), ("d^-1/2", "d^-1"), 6
COLUMNS = ("seed", "d", "scaling", "loss", "accuracy", "moved")
#: Images to train on, images in a batch, times through all of them.
TRAIN, BATCH, EPOCHS = 1000, 100, 20


class Pictures(NamedTuple):
    """Digits as sequences of sixteen patches of two by two pixels, in random order."""

    X: Tensor  #: (images, 16, 20), float32: pixels over all images standardised, and the place
    digit: Tensor  #: (images)


def pictures() -> Pictures:
    """All 1797 digits of scikit-learn; the first `TRAIN` teach and the others test."""
    from sklearn.datasets import load_digits  # a second to import: only who asks for it pays

    images, digit = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = draws.permutation(0, "digits", len(images))
    pixels = images[order].float().reshape(-1, 8, 8)
    patches = pixels.unfold(1, 2, 2).unfold(2, 2, 2).reshape(len(images), 16, 4)
    patches = (patches - patches.mean()) / patches.std()
    place = 4 * torch.eye(16).expand(len(images), 16, 16)  # as long as a patch and its place
    return Pictures(torch.cat([patches, place], -1), digit[order])


class Trained(NamedTuple):
    """What came of one run."""

    loss: list[float]  #: mean cross-entropy over the images to train on, after each epoch
    accuracy: float  #: share of the others that are recognised
    moved: float  #: mean change of an attention weight on them
    before: Tensor  #: attention (4, 16, 16) on the first four of them
    after: Tensor


def trained(known: Pictures, d: int, scaling: str, seed: int, epochs: int = EPOCHS) -> Trained:
    """Stochastic descent with momentum, as in the paper: steps of 0.1, momentum 0.9."""
    encoder = Encoder(d, scaling, "lecun", pooling="mean")
    teach = Problem(known.X[:TRAIN], known.X.new_zeros(TRAIN))
    test = Problem(known.X[TRAIN:], known.X.new_zeros(len(known.X) - TRAIN))
    start = encoder.init(teach, seed=seed)
    read = draws.normal(seed, "read-out", (d, 10)).float() / d**0.5
    leaves = [W.clone().requires_grad_() for W in (*start[:3], read)]
    optimiser = torch.optim.SGD(leaves, lr=0.1, momentum=0.9)
    losses = []
    for epoch in range(epochs):
        order = draws.permutation(EPOCHS * seed + epoch, "order", TRAIN)
        for rows in order.split(BATCH):
            optimiser.zero_grad()
            loss = _loss(encoder, leaves, teach.X[rows], known.digit[rows])
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            losses.append(float(_loss(encoder, leaves, teach.X, known.digit[:TRAIN])))
    with torch.no_grad():
        before, _ = _seen(encoder, (*start[:3], read), test.X)
        after, logits = _seen(encoder, leaves, test.X)
    right = float((logits.argmax(-1) == known.digit[TRAIN:]).double().mean())
    return Trained(losses, right, float((after - before).abs().mean()), before[:4], after[:4])


def _seen(encoder: Encoder, W, X: Tensor) -> tuple[Tensor, Tensor]:
    """Attention, and ten numbers an image: one encoder, ten read-outs.

    Scores by the product of queries and keys, D x D, and not by those of each patch: at the width
    16384 that saves more than half of the time.
    """
    Q, K, V, read = W
    S = torch.softmax(X @ (encoder.tau_0 * Q @ K.mT) @ X.mT, -1)
    return S, (S @ X @ V).relu().mean(-2) @ read


def _loss(encoder: Encoder, W, X: Tensor, digit: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(_seen(encoder, W, X)[1], digit)


def rows(seeds: Iterable[int] = range(SEEDS)) -> dict[str, list]:
    """The recorded runs by column: every seed at every width and both scalings."""
    known, found = pictures(), {name: [] for name in COLUMNS}
    for seed in seeds:
        for d in WIDTHS:
            for scaling in SCALINGS:
                run = trained(known, d, scaling, seed)
                values = (seed, d, scaling, run.loss[-1], run.accuracy, run.moved)
                for name, value in zip(COLUMNS, values, strict=True):
                    found[name].append(value)
    return found


def by_setting(number: str) -> dict[tuple[str, int], Tensor]:
    """One column of the recorded runs, by scaling and width, (seeds)."""
    kept = tables.recorded("vision")["rows"]
    found: dict[tuple[str, int], list[float]] = {}
    for scaling, d, value in zip(kept["scaling"], kept["d"], kept[number], strict=True):
        found.setdefault((scaling, d), []).append(value)
    return {setting: torch.tensor(values).double() for setting, values in found.items()}


@claim(
    "wu2023-vision-transformer",
    title="A small vision Transformer",
    box="",
    standing=Standing.OBSERVED,
    paper=PAPER,
    number="Figure 4",
    statement=r"On digits, a vision Transformer of one layer learns more slowly at $\tau_0=d^{-1}$ "
    r"than at $d^{-1/2}$, far more so from width 128 on than at width 16, and its attention changes "
    r"less.",
    verdict=Verdict.HOLDS,
    chapter="wu2023/initialisations",
    mutations={"the two scalings exchanged": {"scalings": ("d^-1", "d^-1/2")}},
)
def vision_transformer(scalings: tuple[str, str] = SCALINGS) -> Evidence:
    """The recorded runs, paired by seed; one of them run again."""
    practice, limit = scalings
    right, moved = (by_setting(number) for number in ("accuracy", "moved"))
    gains = {d: interval(right[practice, d] - right[limit, d]) for d in WIDTHS}
    more = {d: float((moved[practice, d] / moved[limit, d]).min()) for d in WIDTHS}
    again = trained(pictures(), 16, "d^-1", seed=0)
    low, wide = WIDTHS[0], WIDTHS[1:]
    return Evidence(
        {
            "practice is ahead at the larger widths": all(
                gains[d][0] - gains[d][1] > 0.3 for d in wide
            ),
            "and less so at the smallest": all(
                gains[low][0] + gains[low][1] < gains[d][0] - gains[d][1] for d in wide
            ),
            "its attention moves ten times as far at the larger widths": all(
                more[d] > 10 for d in wide
            ),
            "a run again has the recorded accuracy": abs(
                again.accuracy - float(right["d^-1", 16][0])
            )
            < 0.05,
        },
        {f"gain_at_{d}": gain for d, (gain, _) in gains.items()}
        | {f"half_interval_at_{d}": half for d, (_, half) in gains.items()}
        | {f"least_ratio_of_moves_at_{d}": ratio for d, ratio in more.items()},
    )
