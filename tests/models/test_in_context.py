import itertools

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import differentiable, relative_gap

from descent import DivergenceWarning, descend, draws, flows, optimise, theorems
from descent.models import InContext, in_context
from descent.models.encoder import Activation
from descent.models.in_context import Neurons, Population
from descent.steps import PrecisionWarning

OWN = Activation(torch.sin, torch.cos)


@st.composite
def clouds(draw):
    """A model, a small population and two clouds with at least as many neurons as features."""
    k, D, d, m = (draw(st.integers(*of)) for of in ((1, 3), (2, 4), (4, 6), (5, 12)))
    seed = draw(st.integers(0, 999))
    population = Population(draws.normal(seed, "X", (m, D)), draws.normal(seed, "F", (m, k)))
    model = InContext(draw(st.sampled_from(["sigmoid", "tanh", OWN])))
    return model, population, model.init(population, d=d, seed=seed + 1, runs=2)


def attention(neurons, seed=7):
    k = neurons.a.shape[-1]
    return draws.normal(seed, "W", (k, k), 2)


def by_hand(model, neurons, X):
    """The integral over the cloud, neuron by neuron."""
    pairs = list(zip(neurons.a, neurons.w, strict=True))
    return torch.stack(
        [sum(a * model.sigma.value(w @ x) for a, w in pairs) / len(pairs) for x in X]
    )


@given(clouds())
def test_features_are_the_integral_neuron_by_neuron(instance):
    model, population, neurons = instance
    found = model.features(neurons, population.X)
    for r in range(2):
        one = Neurons(neurons.a[r], neurons.w[r])
        assert relative_gap(found[r], by_hand(model, one, population.X)) < 1e-13


@given(clouds())
def test_velocities_are_minus_d_times_the_gradient_of_autograd(instance):
    model, population, neurons = instance
    leaves = differentiable(neurons)
    gradient = torch.autograd.grad(model.loss(leaves, population).sum(), leaves)
    d = neurons.a.shape[-2]
    # digits go with the condition of Sigma, which autograd differentiates through
    condition = float(torch.linalg.cond(model.moments(neurons, population).Sigma).max())
    for v, g in zip(model.velocities(neurons, population), gradient, strict=True):
        assert relative_gap(v, -d * g) < 1e-13 * condition + 1e-12


@given(clouds())
def test_first_variation_is_the_derivative_as_mass_moves(instance):
    model, population, neurons = instance
    other = Neurons(draws.normal(3, "a", (1, neurons.a.shape[-1])), neurons.w[0, :1])
    at, share = model.moments(neurons, population), 1e-5
    # mass moves from the cloud, and back into it: the features are linear in the masses
    new = model.features(other, population.X)
    m = len(new)

    def moved(s):
        h = (1 - s) * at.h + s * new
        B = (population.F.mT @ h) @ torch.linalg.pinv(h.mT @ h, hermitian=True)
        return (population.F - h @ B.mT).square().sum((-2, -1)) / (2 * m)

    slope = (moved(share) - moved(-share)) / (2 * share)
    found = model.first_variation(neurons, population, other)[..., 0]
    # differences of second order err by the third derivative, of the size of cond(Sigma)^2 or so
    condition = float(torch.linalg.cond(at.Sigma).max())
    assume(condition < 1e4)
    assert (found - slope).abs().max() < 1e-5 * (1 + slope.abs().max()) * max(1, condition)


@given(clouds())
def test_the_first_variation_has_mean_zero_over_the_cloud(instance):
    model, population, neurons = instance
    found = model.first_variation(neurons, population, neurons)
    condition = float(torch.linalg.cond(model.moments(neurons, population).Sigma).max())
    assert found.mean(-1).abs().max() < 1e-13 * condition * (1 + found.abs().max())


def test_the_finite_loss_is_the_mean_over_all_prompts_of_two():
    # three inputs, k = 1, n = 2: 27 triples, and E v^2 = 1 leaves the squares of the coefficients
    population = Population(draws.normal(0, "X", (3, 2)), draws.normal(0, "F", (3, 1)))
    model, s = InContext("tanh"), 0.7
    neurons = model.init(population, d=4, seed=1)
    W = torch.tensor([[0.8]], dtype=torch.float64)
    h, f = model.features(neurons, population.X)[:, 0], population.F[:, 0]
    total = 0.0
    for i, j, q in itertools.product(range(3), repeat=3):
        read = 0.8 * h[q] / 2
        of_task = f[q] - read * (f[i] * h[i] + f[j] * h[j])
        of_noise = s**2 * read**2 * (h[i] ** 2 + h[j] ** 2)
        total += (of_task**2 + of_noise) / 2
    found = model.finite_loss(neurons, W, population, 2, s)
    assert abs(found - total / 27) < 1e-14


@given(clouds(), st.integers(1, 30), st.floats(0, 2))
def test_the_best_attention_has_no_gradient(instance, n, noise):
    model, population, neurons = instance
    W = model.best_attention(neurons, population, n, noise).requires_grad_()
    loss = model.finite_loss(neurons, W, population, n, noise)
    (gradient,) = torch.autograd.grad(loss.sum(), W)
    scale = model.prompt_moment(neurons, population, n, noise) @ W.detach()
    assert gradient.abs().max() < 1e-9 * (1 + scale.abs().max())


@given(clouds())
def test_many_pairs_are_as_good_as_infinitely_many(instance):
    model, population, neurons = instance
    W = attention(neurons)
    found = model.finite_loss(neurons, W, population, 10**9)
    limit = model.loss_with(neurons, W, population)
    G = model.prompt_moment(neurons, population, 1)
    at_most = (G @ W @ model.moments(neurons, population).Sigma @ W.mT).abs().sum((-2, -1))
    assert ((found - limit).abs() <= 1e-9 * (1 + at_most) + 1e-11 * limit).all()


@given(clouds())
def test_infinite_prompts_are_solved_best_by_the_inverse(instance):
    model, population, neurons = instance
    W = model.best_attention(neurons, population)
    best, loss = model.loss_with(neurons, W, population), model.loss(neurons, population)
    assert relative_gap(best, loss) < 1e-8
    assert (model.loss_with(neurons, W + 0.1 * attention(neurons), population) >= loss - 1e-9).all()


def test_the_loss_forgets_an_invertible_mixture_of_the_features():
    population, _ = in_context.planted(3, 2, 40, seed=0, r=(1.0, 0.5))
    model = InContext()
    neurons = model.init(population, d=5, seed=1, runs=3)
    mixed = neurons._replace(a=neurons.a @ draws.normal(2, "R", (2, 2)))
    gap = model.loss(neurons, population) - model.loss(mixed, population)
    assert gap.abs().max() < 1e-11


def test_inputs_themselves_are_features_too():
    # neurons that pass each coordinate on: linear attention without an MLP, four features for two
    population, _ = in_context.planted(4, 2, 40, seed=0, r=(1.0, 0.5))
    plain = InContext(Activation(lambda Z: Z, torch.ones_like))
    eye = torch.eye(4).double()
    raw = Neurons(4 * eye, eye)
    fit = population.X @ torch.linalg.lstsq(population.X, population.F).solution
    least = (population.F - fit).square().sum(1).mean() / 2
    assert abs(plain.loss(raw, population) - least) < 1e-12
    W = plain.best_attention(raw, population, 9)
    assert W.shape == (4, 4) and plain.finite_loss(raw, W, population, 9) > least


def test_a_prompt_is_answered_pair_by_pair():
    population, _ = in_context.planted(3, 2, 40, seed=0, r=(1.0, 0.5))
    model = InContext("relu")
    neurons = model.init(population, d=5, seed=1)
    prompts = in_context.prompts(population, N=4, n=3, seed=2, noise=0.5)
    W = attention(neurons)[0]
    for j in range(4):
        query = by_hand(model, neurons, prompts.query[j : j + 1])[0]
        h = by_hand(model, neurons, prompts.X[j])
        answer = sum(y * x @ W @ query for y, x in zip(prompts.y[j], h, strict=True)) / 3
        assert abs(model.predict(neurons, W, prompts)[j] - answer) < 1e-13


def test_prompts_bear_labels_of_one_task_each():
    population, _ = in_context.planted(4, 2, 50, seed=0, r=(1.0, 0.5))
    prompts = in_context.prompts(population, N=3, n=6, seed=1)
    X = torch.cat([prompts.X, prompts.query[:, None]], 1)
    y = torch.cat([prompts.y, prompts.answer[:, None]], 1)
    for j in range(3):
        place = [int((population.X == x).all(1).nonzero()[0]) for x in X[j]]
        F = population.F[place]
        assert (F @ torch.linalg.lstsq(F, y[j, :, None]).solution - y[j, :, None]).norm() < 1e-12
    noisy = in_context.prompts(population, N=3000, n=6, seed=1, noise=0.5)
    # 18 000 numbers: their standard deviation is off by 5 / sqrt(36 000) at most, 2.6 %
    clean = in_context.prompts(population, N=3000, n=6, seed=1)
    assert abs((noisy.y - clean.y).std() / 0.5 - 1) < 0.026
    assert torch.equal(noisy.answer, clean.answer)


def test_planted_features_have_the_moments_asked_for():
    r = (2.25, 1.0, 0.49)
    population, teachers = in_context.planted(5, 3, 60, seed=3, r=r, steepness=2.0)
    F, X = population.F, population.X
    assert relative_gap(F.mT @ F / len(F), torch.tensor(r, dtype=F.dtype).diag()) < 1e-12
    assert relative_gap(InContext("tanh").features(teachers, X), F) < 1e-13
    assert torch.equal(X[:60], -X[60:])
    assert relative_gap(teachers.w @ teachers.w.mT, 4 * torch.eye(3).double()) < 1e-12


def test_planted_features_do_not_depend_on_the_signs_of_eigenvectors(monkeypatch):
    given = {"D": 4, "k": 3, "m": 30, "seed": 0, "r": (2.25, 1.0, 0.49)}
    (_, F), (a, _) = in_context.planted(**given)
    plain = torch.linalg.eigh
    for signs in itertools.product((1.0, -1.0), repeat=3):

        def turned(S, signs=signs):
            values, vectors = plain(S)
            return values, vectors * torch.tensor(signs).to(S)

        monkeypatch.setattr(torch.linalg, "eigh", turned)
        population, teachers = in_context.planted(**given)
        assert torch.equal(population.F, F) and torch.equal(teachers.a, a)


def test_training_never_rises_and_each_cloud_goes_its_own_way():
    population, _ = in_context.planted(3, 2, 40, seed=0, r=(1.0, 0.5))
    model = InContext()
    start = model.init(population, d=6, seed=1, runs=3)
    end, losses = model.train(start, population, 60)
    assert losses.shape == (61, 3) and (losses.diff(dim=0) <= 0).all()
    assert (losses[-1] < 0.5 * losses[0]).all()
    assert relative_gap(model.loss(end, population), losses[-1]) < 1e-12
    alone, _ = model.train(Neurons(start.a[1], start.w[1]), population, 60)
    assert relative_gap(alone.w, end.w[1]) < 1e-8


def test_neurons_of_zero_learn_nothing_and_say_no_nan():
    population, _ = in_context.planted(3, 2, 20, seed=0, r=(1.0, 0.5))
    zero = Neurons(torch.zeros(4, 2).double(), torch.zeros(4, 3).double())
    model = InContext("tanh")
    assert abs(model.loss(zero, population) - 0.75) < 1e-12
    assert all((v == 0).all() for v in model.velocities(zero, population))
    few = model.init(population, d=1, seed=0)  # one neuron cannot carry two features
    at = model.moments(few, population)
    residual = population.F - at.h @ torch.linalg.lstsq(at.h, population.F, driver="gelsd").solution
    assert abs(model.loss(few, population) - residual.square().sum(1).mean() / 2) < 1e-12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m, p, c: m.loss(tuple(c), p), "neurons must be Neurons"),
        (lambda m, p, c: m.loss(c, tuple(p)), "population must be a Population"),
        (lambda m, p, c: m.loss(c._replace(a=c.a[:2]), p), "one row of each for each neuron"),
        (lambda m, p, c: m.loss(c._replace(a=c.a * torch.nan), p), "a has 10 entries that are NaN"),
        (lambda m, p, c: m.loss(c, p._replace(F=p.F[1:])), "one row of each for each input"),
        (lambda m, p, c: m.loss(c, p._replace(X=p.X[:, 1:])), "w has shape"),
        (lambda m, p, c: m.finite_loss(c, torch.eye(3).double(), p, 5), "W has shape"),
        (lambda m, p, c: m.finite_loss(c, torch.eye(2).double(), p, 0), "n must be at least 1"),
        (lambda m, p, c: m.prompt_moment(c, p, 5, noise=-1.0), "noise must be zero or more"),
        (
            lambda m, p, c: in_context.prompts(p, 2, 3, 0, noise=-1.0),
            "zero or more, and finite, got -1.0",
        ),
        (lambda m, p, c: in_context.planted(1, 2, 9, 0, r=(1.0, 1.0)), "D must be at least 2"),
        (lambda m, p, c: in_context.planted(3, 2, 9, 0, r=(1.0,)), "r must be 2 values"),
        (lambda m, p, c: InContext("swish"), "unknown activation"),
        (lambda m, p, c: m.best_attention(c, p, 0), "must be at least 1, got 0"),
        (lambda m, p, c: in_context.prompts(p, 2, 0, 0), "n must be at least 1, got 0"),
        (
            lambda m, p, c: in_context.planted(3, 2, 9, 0, r=(1.0, 1.0), steepness=1e-200),
            "depend on one another at 9 inputs: take more inputs, or another steepness",
        ),
    ],
)
def test_bad_input_is_named(change, says):
    population, _ = in_context.planted(3, 2, 20, seed=0, r=(1.0, 0.5))
    model = InContext()
    with pytest.raises((ValueError, TypeError), match=says):
        change(model, population, model.init(population, d=5, seed=1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: {"y": p.y * torch.nan}, r"prompts\.y has 6 entries"),
        (lambda p: {"query": p.query * torch.nan}, r"prompts\.query has 6 entries"),
        (lambda p: {"y": p.y[:, :2]}, r"y \(2, 2\).*give a label to each pair"),
        (lambda p: {"query": p.query[:1]}, r"query \(1, 3\).*a query to each prompt"),
        (lambda p: {"X": p.X[0]}, r"prompts\.X must have at least 3 dimensions"),
        (lambda p: {"X": p.X[:, None]}, r"prompts\.X has shape .*: give 3 dimensions"),
        (lambda p: {"X": p.X[:, :0], "y": p.y[:, :0]}, r"prompts\.X is empty, \(2, 0, 3\)"),
        (lambda p: {"y": None}, r"prompts\.y must be an array of real numbers, got None"),
        (lambda p: {"y": p.y.float()}, r"prompts\.y is torch\.float32 on cpu, but"),
    ],
)
def test_prompts_that_are_none_are_refused(change, says):
    population, _ = in_context.planted(3, 2, 20, seed=0, r=(1.0, 0.5))
    model, prompts = InContext(), in_context.prompts(population, N=2, n=3, seed=0)
    bad, neurons = prompts._replace(**change(prompts)), model.init(population, d=5, seed=1)
    with pytest.raises((ValueError, TypeError), match=says):
        model.predict(neurons, torch.eye(2).double(), bad)
    arrays = in_context.Prompts(*(part.numpy() for part in prompts))
    answers = (model.predict(neurons, torch.eye(2).double(), each) for each in (prompts, arrays))
    assert torch.equal(*answers)


def test_descent_from_a_critical_point_warns_in_either_precision():
    model, neurons, population = even_cloud()
    for precision in (torch.float64, torch.float32):
        cloud = Neurons(*(part.to(precision) for part in neurons))
        given = model, population.to(precision), cloud
        with pytest.warns(
            PrecisionWarning, match="1 of 1 clouds start at a critical point"
        ) as seen:
            descend(*given, step=1e-3, steps=1)
            optimise(*given, torch.optim.SGD, steps=1, lr=1e-3)
        assert [each.filename for each in seen] == [__file__] * 2
        descend(*given[:2], flows.perturbed(cloud, 1e-2, 0), step=1e-3, steps=1)


def test_fewer_neurons_than_features_are_said_to_be():
    model, _, population = even_cloud()
    one = model.init(population, d=1, seed=0)
    says = "Sigma is singular: 2 features are made of d = 1: take d = 2 neurons or more"
    for door in (
        lambda: model.escape_matrix(one, population),
        lambda: theorems.get("saddles-of-the-flow")(model, one, population),
        lambda: theorems.get("escape-spectrum")(model, one, population),
    ):
        with pytest.raises(ValueError, match=says):
            door()


# ---------------------------------------------------------------------------- the landscape


@st.composite
def featured(draw):
    """A population, two sets of features that no neurons need to make, and a change of them."""
    k, p, m = (draw(st.integers(*of)) for of in ((1, 3), (1, 3), (8, 12)))
    seed = draw(st.integers(0, 999))
    X, F = draws.normal(seed, "X", (m, 1)), draws.normal(seed, "F", (m, k))
    h, change = (draws.normal(seed, name, (m, p), 2) for name in ("h", "change"))
    return Population(X, F), h, change


@given(featured())
def test_variations_are_the_derivatives_of_autograd_wherever_one_is(instance):
    population, h, change = instance
    at = in_context.regress(h, population)
    condition = float(torch.linalg.cond(at.Sigma).max())
    for r in range(2):

        def loss(s, r=r):
            g = h[r] + s * change[r]
            B = torch.linalg.solve(g.mT @ g, g.mT @ population.F).mT
            return (population.F - g @ B.mT).square().sum() / (2 * len(g))

        zero = torch.zeros((), dtype=torch.float64)
        first = torch.func.grad(loss)(zero)
        second = torch.func.grad(torch.func.grad(loss))(zero)
        found = in_context.variations(at, change)
        assert relative_gap(found[0][r], first) < 1e-13 * condition**2
        assert relative_gap(found[1][r], second) < 1e-13 * condition**2


def test_a_change_that_mixes_the_features_changes_nothing():
    population, h = (
        Population(*(draws.normal(0, n, (9, 2)) for n in "XF")),
        draws.normal(1, "h", (9, 2)),
    )
    first, second = in_context.variations(
        in_context.regress(h, population), h @ draws.normal(2, "T", (2, 2))
    )
    assert first.abs() < 1e-14 and second.abs() < 1e-13


def test_no_orthogonal_matrix_promises_a_steeper_homotopy():
    population, h = (
        Population(*(draws.normal(0, n, (9, 3)) for n in "XF")),
        draws.normal(1, "h", (9, 3)),
    )
    at = in_context.regress(h, population)

    def slope(R):
        return in_context.variations(at, population.F @ R.mT - h)[0]

    others = torch.linalg.qr(draws.normal(3, "R", (3, 3), 200))[0]
    best = in_context.steepest(at)
    assert relative_gap(best @ best.mT, torch.eye(3).double()) < 1e-13
    assert (slope(others) >= slope(best)).all() and slope(best) < slope(others).min() - 1e-3


def even_cloud(seed=1, d=20, runs=None):
    """Neurons of tanh z + exp(-z^2/2) in pairs that make even features, while the true are odd."""
    bump = Activation(
        lambda Z: torch.tanh(Z) + torch.exp(-Z * Z / 2),
        lambda Z: 1 - torch.tanh(Z).square() - Z * torch.exp(-Z * Z / 2),
    )
    population, _ = in_context.planted(4, 2, 60, seed=0, r=(1.5, 0.5))
    a, w = draws.normal(seed, "a", (d, 2), runs), draws.normal(seed, "w", (d, 4), runs)
    return InContext(bump), Neurons(torch.cat([a, a], -2), torch.cat([w, -w], -2)), population


def test_the_escape_matrix_has_the_growth_exponents_of_the_flow():
    model, neurons, population = even_cloud(runs=2)
    found = torch.linalg.eigvalsh(model.escape_matrix(neurons, population))
    for r in range(2):
        sizes = [part[r].numel() for part in neurons]

        def flow(v, r=r, sizes=sizes):
            cloud = Neurons(
                *(x.reshape(part[r].shape) for x, part in zip(v.split(sizes), neurons, strict=True))
            )
            at = model._moments(cloud, population)
            return torch.cat([x.flatten() for x in model._velocities(cloud, population, at)])

        jacobian = torch.func.jacfwd(flow)(torch.cat([part[r].flatten() for part in neurons]))
        values = torch.linalg.eigvalsh((jacobian + jacobian.mT) / 2)
        assert relative_gap(values[-4:], found[r]) < 1e-10
        assert values[:-4].abs().max() < 1e-9


def test_growth_exponents_are_refused_where_something_is_learned():
    model, neurons, population = even_cloud()
    with pytest.raises(ValueError, match="choose neurons whose features are orthogonal to f°"):
        model.escape_matrix(neurons._replace(w=neurons.w + 0.1), population)
    with pytest.raises(ValueError, match="Sigma is singular"):
        InContext().escape_matrix(neurons, population)  # sigmoids of a pair add up to one


@given(clouds())
def test_joint_velocities_are_the_gradient_of_the_loss_with_w(instance):
    model, population, neurons = instance
    leaves, W = differentiable(neurons), attention(neurons).requires_grad_()
    loss = model.loss_with(leaves, W, population).sum()
    *by, by_W = torch.autograd.grad(loss, (*leaves, W))
    moved, moved_W = model.joint_velocities(neurons, W.detach(), population)
    for v, g in zip(moved, by, strict=True):
        assert relative_gap(v, -neurons.a.shape[-2] * g) < 1e-12
    assert relative_gap(moved_W, -by_W) < 1e-12


def test_with_w_at_its_best_the_joint_flow_is_that_of_the_least_loss():
    population, _ = in_context.planted(3, 2, 40, seed=0, r=(1.0, 0.5))
    model = InContext()
    neurons = model.init(population, d=6, seed=1, runs=3)
    W = model.best_attention(neurons, population)
    joint, still = model.joint_velocities(neurons, W, population)
    for a, b in zip(joint, model.velocities(neurons, population), strict=True):
        assert relative_gap(a, b) < 1e-9
    assert still.abs().max() < 1e-12


def test_relaxing_w_solves_its_flow():
    population, _ = in_context.planted(3, 2, 40, seed=0, r=(1.0, 0.5))
    model = InContext()
    neurons = model.init(population, d=6, seed=1, runs=3)
    start, h = attention(neurons).repeat(2, 1, 1)[:3], 1e-4
    for t in (0.1, 3.0):
        ahead, behind = (model.relax(neurons, start, population, t + s) for s in (h, -h))
        W = model.relax(neurons, start, population, t)
        _, velocity = model.joint_velocities(neurons, W, population)
        assert relative_gap((ahead - behind) / (2 * h), velocity) < 1e-7  # h^2, and 1e-16 |W| / h
    assert relative_gap(model.relax(neurons, start, population, 1e-9), start) < 1e-8
    together = model.relax(neurons, start, population, torch.tensor([0.1, 3.0, 9.0]))
    for r, t in enumerate((0.1, 3.0, 9.0)):
        alone = model.relax(neurons, start, population, t)[r]
        assert relative_gap(together[r], alone) < 1e-9  # the inverse of Sigma is known to that
    rested = model.relax(neurons, start, population, 1e9)
    gap = model.loss_with(neurons, rested, population) - model.loss(neurons, population)
    assert gap.abs().max() < 1e-12


def test_joint_steps_follow_the_joint_flow_to_first_order():
    population, _ = in_context.planted(3, 2, 40, seed=0, r=(1.0, 0.5))
    model = InContext()
    neurons, ratio = model.init(population, d=6, seed=1, runs=2), torch.tensor([1.0, 20.0])
    start = model.best_attention(neurons, population) + attention(neurons)

    def follow(steps, step):
        state = (*neurons, start)
        for _ in range(steps):
            state = step(*state)
        return state

    def split(steps):
        def step(a, w, W):
            cloud, W = model.joint_step(Neurons(a, w), W, population, 1 / steps, ratio)
            return *cloud, W

        return follow(steps, step)

    def fine(a, w, W, eta=1e-3):
        def slope(a, w, W):
            moved, by_W = model.joint_velocities(Neurons(a, w), W, population)
            return *moved, ratio[:, None, None] * by_W

        state = (a, w, W)
        middle = tuple(x + eta / 2 * v for x, v in zip(state, slope(*state), strict=True))
        return tuple(x + eta * v for x, v in zip(state, slope(*middle), strict=True))

    exact = follow(1000, fine)
    errors = []
    for steps in (100, 200, 400):
        found = split(steps)
        errors.append(max(float((x - y).abs().max()) for x, y in zip(found, exact, strict=True)))
    assert 1.7 < errors[0] / errors[1] < 2.3 and 1.7 < errors[1] / errors[2] < 2.3


@pytest.mark.parametrize("time", [torch.tensor([1.0, -1.0]), torch.ones(3), -1.0, torch.nan])
def test_times_that_cannot_be_are_refused(time):
    population, _ = in_context.planted(3, 2, 20, seed=0, r=(1.0, 0.5))
    model = InContext()
    neurons = model.init(population, d=5, seed=1, runs=2)
    with pytest.raises(ValueError, match="time"):
        model.relax(neurons, torch.eye(2).double(), population, time)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: in_context.regress(p.F[1:], p), "h has shape"),
        (lambda p: in_context.regress(p.F * torch.nan, p), "h has 80 entries that are NaN"),
        (lambda p: in_context.variations(in_context.regress(p.F, p), p.F[:, :1]), "change has"),
        (lambda p: in_context.variations(p, p.F), "at must be Moments"),
        (
            lambda p: in_context.variations(in_context.regress(0 * p.F, p), p.F),
            "Sigma is singular",
        ),
    ],
)
def test_features_that_do_not_fit_are_named(change, says):
    population, _ = in_context.planted(3, 2, 20, seed=0, r=(1.0, 0.5))
    with pytest.raises((ValueError, TypeError), match=says):
        change(population)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_loss_does_not_depend_on_the_unit_of_a_feature(unit, dtype):
    """In both engines: W makes up for it."""
    population = in_context.planted(3, 2, 8, seed=0, r=(1.0, 0.5))[0].to(dtype)
    model, units = InContext(), torch.tensor([1.0, unit], dtype=dtype)
    cloud = model.init(population, d=5, seed=1, runs=3)
    scaled = cloud._replace(a=cloud.a * units)
    once, again = (model.loss(each, population) for each in (cloud, scaled))
    assert relative_gap(again, once) < (1e-9 if dtype == torch.float64 else 1e-3)
    run = descend(model, population, scaled, step=1e-30, steps=1)
    assert relative_gap(run.loss[0], once) < (1e-9 if dtype == torch.float64 else 1e-3)
    at = in_context.regress(model.features(scaled, population.X), population)
    in_context.variations(at, at.h)  # no Sigma is singular by its units


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
def test_what_only_rounding_makes_a_feature_is_none(dtype):
    population = in_context.planted(3, 2, 8, seed=0, r=(1.0, 0.5))[0].to(dtype)
    model = InContext()
    cloud = model.init(population, d=9, seed=1, runs=20)
    twice = cloud._replace(a=torch.cat([cloud.a, cloud.a @ cloud.a.new_ones(2, 1) / 3], -1))
    once, again = (model.loss(each, population) for each in (cloud, twice))
    run = descend(model, population, twice, step=1e-30, steps=1)
    for found in (again, run.loss[0]):
        assert relative_gap(found, once) < (1e-9 if dtype == torch.float64 else 1e-3)


def test_a_cloud_at_rest_is_told_in_single_precision_too():
    population = in_context.planted(3, 2, 8, seed=0, r=(1.0, 0.5))[0].to(torch.float32)
    cloud = flows.paired(InContext("relu").init(population, d=5, seed=1))
    with pytest.warns(PrecisionWarning):
        InContext("relu").train(cloud, population, steps=1)
    exponents = torch.linalg.eigvalsh(InContext("relu").escape_matrix(cloud, population))
    double = in_context.Population(*(x.double() for x in population))
    wide = in_context.Neurons(*(x.double() for x in cloud))
    exact = torch.linalg.eigvalsh(InContext("relu").escape_matrix(wide, double))
    assert relative_gap(exponents.double(), exact) < 1e-3


def test_a_run_that_goes_beyond_all_numbers_leaves_the_others_alone():
    population = in_context.planted(5, 3, 8, seed=0, r=(1.0, 0.5, 0.25))[0]
    model = InContext("relu")
    clouds = model.init(population, d=7, seed=0, runs=3)
    steps_ = torch.tensor([0.1, 1e100, 0.1], dtype=torch.float64)
    alone = descend(model, population, Neurons(*(x[[0, 2]] for x in clouds)), step=0.1, steps=3)
    with pytest.warns(DivergenceWarning, match="1 of 3 runs"):
        run = descend(model, population, clouds, step=steps_, steps=3, reduce=False)
    assert relative_gap(run.loss[:, [0, 2]], alone.loss) < 1e-12
