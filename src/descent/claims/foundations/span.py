"""Claims of the chapter on the span of the tokens."""

from ... import problems, span
from ...descend import descend
from ...models import Attention
from .._record import Evidence, Verdict, claim


@claim(
    "span-lemma",
    paper="Descent",
    number="Lemma",
    statement=r"Gradient descent on $W_Q, W_K, W_V$ has the same losses on the tokens expressed "
    r"in an orthonormal basis of their span, and the weights lift back exactly.",
    verdict=Verdict.HOLDS,
    chapter="song2024/values",
    mutations={"a basis one vector short of the span": {"missing": 1}},
)
def span_lemma(missing: int = 0) -> Evidence:
    """Train both kernels in D = 64 dimensions and in the 12 that the tokens span."""
    problem = problems.gaussian(N=4, n=3, D=64, seed=0)
    reduction = span.reduce(problem)
    if missing:
        basis = reduction.basis[:, :-missing]
        reduction = span.Reduction(problems.Problem(problem.X @ basis, problem.y), basis, "QKV")
    gaps = {"loss": 0.0, "weights": 0.0}
    for kernel in ("softmax", "gaussian"):
        layer = Attention(kernel, H=2, d=4)
        start = layer.init(problem, runs=8, seed=1)
        full = descend(layer, problem, start, step=0.001, steps=500, reduce=False)
        small = descend(
            layer, reduction.problem, reduction.restrict(start), step=0.001, steps=500, reduce=False
        )
        lifted = reduction.lift(start, small.weights)
        gaps["loss"] = max(gaps["loss"], float((full.loss - small.loss).abs().max()))
        gaps["weights"] = max(
            gaps["weights"],
            *(float((a - b).abs().max()) for a, b in zip(full.weights, lifted, strict=True)),
        )
    return Evidence(
        {
            "losses agree to rounding": gaps["loss"] < 1e-11,
            "lifted weights agree to rounding": gaps["weights"] < 1e-11,
        },
        {
            "largest_loss_gap": gaps["loss"],
            "largest_weight_gap": gaps["weights"],
            "runs": 16,
            "steps": 500,
        },
    )
