"""What attention cannot be asked to select is named at every door, in one line with a remedy."""

import re

import pytest
import torch

from descent import descend, draws, margin, problems, steps, theorems
from descent.models import Selection
from descent.models.selection import chosen, scores

THEOREMS = [theorem for id, theorem in theorems.registry.items() if id.startswith("vasudeva2024")]
#: A layer of each container, and one whose goal asks for an optimal token.
LAYERS = {"whole": Selection(), "in factors": Selection(d=2)}
LOGARITHM = Selection(goal="log excess")


def through(layer, problem, u):
    """The doors of a layer: the same names for all."""
    weights = layer.init(problem, seed=0, u=u)
    yield "forward", lambda: layer.forward(weights, problem)
    yield "attention", lambda: layer.attention(weights, problem)
    yield "predict", lambda: layer.predict(weights, problem)
    yield "loss", lambda: layer.loss(weights, problem)
    yield "gradient", lambda: layer.loss_and_gradient(weights, problem, layer.trainable[:-1])
    first = torch.zeros(problem.N, dtype=torch.int64)
    yield "soft_margins", lambda: layer.soft_margins(weights, problem, first)


def trained(layer, problem, u):
    """The ways to train it."""
    weights, train = layer.init(problem, seed=0, u=u), layer.trainable[:-1]
    for name, step in {"constant": 0.1, "normalised": steps.normalised(0.1)}.items():
        yield (
            name,
            lambda step=step: descend(layer, problem, weights, train=train, step=step, steps=2),
        )


def of_data(problem, u):
    """Every door that looks at tokens and labels, whatever they are scored."""
    for layer in LAYERS.values():
        yield from through(layer, problem, u)
        yield from trained(layer, problem, u)
    last = torch.full((problem.N,), problem.n - 1)
    yield "svm of given tokens", lambda: margin.svm(problem, selected=last)
    yield "orthonormal", lambda: margin.orthonormal(problem, last)
    yield from of_scores(problem, u)


def of_scores(problem, u):
    """Every door that asks which token is the optimal one."""
    yield from through(LOGARITHM, problem, u)
    yield from trained(LOGARITHM, problem, u)
    yield "svm", lambda: margin.svm(problem, u)
    yield "nuclear", lambda: margin.nuclear(problem, u)
    yield from of_margins(problem, u)


def of_margins(problem, u):
    """Every theorem object of the part."""
    weights = LOGARITHM.init(problem, seed=0, u=u)
    for theorem in THEOREMS:
        yield theorem.id, lambda theorem=theorem: theorem(LOGARITHM, problem, weights)


def unchanged():
    return problems.planted(N=3, n=3, D=12, seed=0)


def turned(problem, u):
    """The same in other coordinates, where rounding differs from token to token."""
    Q = torch.linalg.qr(draws.normal(0, "turn", (12, 12)))[0]
    return problems.Problem(problem.X @ Q, problem.y), u @ Q


def alike(value):
    """All tokens with the same score, in coordinates where that is so up to rounding only."""
    problem, u = unchanged()
    X = problem.X.clone()
    X[..., 0] = value
    return turned(problems.Problem(X, problem.y), u)


def with_X(change):
    problem, u = unchanged()
    X = problem.X.clone()
    return problems.Problem(change(X), problem.y), u


def with_y(*labels):
    problem, u = unchanged()
    return problems.Problem(problem.X, torch.tensor(labels, dtype=torch.float64)), u


def silent(X):
    X[1, 0] = 0
    return X


def identical(X):
    X[1] = X[1, :1]
    return X


def deaf():
    problem, u = unchanged()
    return problem, 0 * u


NO_WAY = "all tokens (have|of every sequence have) the same score in .*: give another u"
CASES = {
    "one token": (lambda: with_X(lambda X: X[:, :1]), of_data, "one token.*: give each two"),
    "identical tokens": (lambda: with_X(identical), of_data, "the same in 1 sequences.*: leave"),
    "a zero query": (lambda: with_X(silent), of_data, "is zero in 1 sequences.*: ask with another"),
    "label 0": (lambda: with_y(0, 1, -1), of_data, r"labels \+1 and -1.*: take the sign"),
    "label 2": (lambda: with_y(2, 1, -1), of_data, r"labels \+1 and -1.*: take the sign"),
    "a decoder of zeros": (deaf, of_scores, NO_WAY),
    "equal scores": (lambda: alike(1.0), of_scores, NO_WAY),
    "scores that are rounding": (lambda: alike(0.0), of_scores, NO_WAY),
    "infeasible": (
        lambda: problems.planted(N=6, n=4, D=2, seed=0),
        of_margins,
        "no W selects these tokens.*: select other tokens, or take tokens of more dimensions",
    ),
}


def refusal_of(door):
    """What a door says; None where it takes what it is given."""
    try:
        door()
    except ValueError as refusal:
        return refusal
    return None


@pytest.mark.parametrize("case", CASES)
def test_it_is_named_at_every_door_in_one_line_with_a_remedy(case):
    made, doors, words = CASES[case]
    for name, door in doors(*made()):
        refusal = refusal_of(door)
        assert refusal is not None, f"{name} takes it"
        assert re.search(words, str(refusal)), f"{name}: {refusal}"
        assert "\n" not in str(refusal) and str(refusal).endswith(refusal.remedy), name


@pytest.mark.parametrize("made", [unchanged, lambda: turned(*unchanged())])
def test_what_can_be_selected_passes_every_door(made):
    problem, u = made()
    for name, door in of_data(problem, u):
        assert name == "orthonormal" or refusal_of(door) is None, name


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_decoder_that_is_trained_may_begin_where_all_scores_are_equal(value):
    problem, u = alike(value)
    start = Selection().init(problem, seed=0, u=u)
    run = descend(Selection(), problem, start, train="Wu", step=0.1, steps=20)
    assert run.loss[-1] < run.loss[0]


def test_scores_are_told_apart_as_far_as_they_are_known():
    problem, u = alike(1.0)
    assert 0 < (scores(problem, u).amax(-1) - scores(problem, u).amin(-1)).max() < 1e-14
    X = problem.X.clone()
    X[:, 1] += 1e-12 * (problem.y[:, None] * u)  # a thousand times the rounding
    assert chosen(problems.Problem(X, problem.y), u).tolist() == [1, 1, 1]


@pytest.mark.parametrize("goal", ["loss", "log excess"])
def test_a_gradient_that_underflows_is_named(goal):
    # far along a trap the second sequence attends to its wrong token for good
    problem, u = problems.trap()
    W = torch.zeros(3, 3, dtype=torch.float64)
    W[:, 2] = 1e3 * (problem.X[0, 1] - problem.X[0, 0])
    start = Selection().init(problem, seed=0, u=u)._replace(W=W)
    step = steps.polyak_of_logarithm(0.5)
    with pytest.warns(steps.PrecisionWarning, match="Let the logarithm .*, take shorter steps, or"):
        run = descend(Selection(goal=goal), problem, start, train="W", step=step, steps=5)
    assert torch.equal(run.weights.W, W)


@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.id)
def test_a_theorem_is_asked_of_one_data_set(theorem):
    one, u = problems.orthonormal_tokens(3, 4, 16, seed=0)
    two = problems.Problem(one.X.expand(2, -1, -1, -1), one.y.expand(2, -1))
    start = Selection().init(two, seed=0, u=u)
    start = type(start)(*(W.expand(2, *W.shape) for W in start))
    with pytest.raises(ValueError, match=r"more than one problem: give one problem, \(N, n, D\)"):
        theorem(Selection(), two, start)


def test_each_run_its_own_decoder_is_refused():
    problem, u = problems.orthonormal_tokens(3, 4, 16, seed=0)
    with pytest.raises(ValueError, match=r"\(2, 16\).*\(16,\) are drawn: give all runs one u"):
        Selection().init(problem, seed=0, u=torch.stack([u, u]))
    Selection().init(problem, seed=0, runs=2, u=torch.stack([u, u]))  # one for each run
