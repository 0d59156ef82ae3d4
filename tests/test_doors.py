"""Every public function of a layer looks at what it is given, and says what it cannot take."""

import numpy as np
import pytest
import torch
from strategies import relative_gap

from descent import (
    DivergenceWarning,
    descend,
    exact,
    landscape,
    models,
    optimise,
    problems,
    queries,
    spectra,
)


def setting(**layer):
    problem = problems.gaussian(N=2, n=3, D=4, seed=0)
    layer = models.Attention(**{"kernel": "gaussian", "H": 1, "d": 3} | layer)
    return layer, problem, layer.init(problem, seed=1, runs=2)


def slice_(layer, problem, weights):
    offsets = landscape.offsets(1.0, 3)
    along = landscape.directions(layer, weights, seed=0)
    return landscape.surface(layer, problem, weights, along, offsets, offsets)


#: Every door at which a layer, data and weights come in together.
DOORS = {
    "predict": lambda layer, problem, weights: layer.predict(weights, problem),
    "loss": lambda layer, problem, weights: layer.loss(weights, problem),
    "gradient": lambda layer, problem, weights: layer.loss_and_gradient(weights, problem)[0],
    "features": lambda layer, problem, weights: layer.features(weights, problem),
    "gram": lambda layer, problem, weights: layer.gram(weights, problem),
    "jacobian": lambda layer, problem, weights: layer.jacobian(weights, problem)["Q"],
    "attention_jacobian": lambda layer, problem, weights: layer.attention_jacobian(
        weights, problem
    ),
    "ntk": lambda layer, problem, weights: layer.ntk(weights, problem),
    "objective": lambda layer, problem, weights: layer.objective(weights, problem, "QK")({})[0],
    "objective of V": lambda layer, problem, weights: layer.objective(weights, problem, "V")(
        {"V": torch.as_tensor(weights.V)}
    )[0],
    "smoothness": lambda layer, problem, weights: layer.smoothness(weights, problem, "QKV"),
    "smoothness of V": lambda layer, problem, weights: layer.smoothness(weights, problem, "V"),
    "descend": lambda layer, problem, weights: descend(layer, problem, weights, steps=2).loss,
    "optimise": lambda layer, problem, weights: optimise(
        layer, problem, weights, torch.optim.SGD, steps=2, lr=0.01
    )[0],
    "scores_jacobian": lambda layer, problem, weights: queries.scores_jacobian(
        layer, weights, problem
    ),
    "pl": lambda layer, problem, weights: queries.pl(layer, weights, problem).rows,
    "interval": lambda layer, problem, weights: queries.interval(layer, weights, problem)[0],
    "floor": lambda layer, problem, weights: queries.floor(layer, weights, problem),
    "surface": slice_,
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
class TestDoors:
    def test_weights_of_another_size_are_refused(self, door):
        layer, problem, _ = setting()
        for change in ({"d": 4}, {"H": 2}):
            other = models.Attention("gaussian", **{"H": 1, "d": 3} | change)
            with pytest.raises(ValueError, match=r"W_Q has shape .*, but the layer has H = 1, d ="):
                door(layer, problem, other.init(problem, seed=1, runs=2))

    def test_weights_that_are_no_numbers_are_refused(self, door):
        layer, problem, weights = setting()
        weights.K[0, 0, 1, 1] = torch.nan
        with pytest.raises(ValueError, match="W_K has 1 entries that are NaN or infinite: init"):
            door(layer, problem, weights)

    def test_runs_that_do_not_go_together_are_refused(self, door):
        layer, problem, weights = setting()
        three = layer.init(problem, seed=1, runs=3)
        with pytest.raises(ValueError, match="runs do not go together"):
            door(layer, problem, weights._replace(K=three.K))

    def test_what_is_no_container_or_no_problem_is_refused(self, door):
        layer, problem, weights = setting()
        with pytest.raises(TypeError, match="weights must be .*: draw some with"):
            door(layer, problem, dict(weights._asdict()))
        with pytest.raises(TypeError, match="problem must be a Problem"):
            door(layer, problem.X, weights)

    def test_another_precision_is_refused(self, door):
        layer, problem, weights = setting()
        with pytest.raises(ValueError, match="W_Q is torch.float64 on cpu, but the tokens are"):
            door(layer, problem.to(torch.float32), weights)
        with pytest.raises(TypeError, match="W_V must hold float32 or float64, got torch.complex"):
            door(layer, problem, weights._replace(V=weights.V.to(torch.complex128)))

    def test_arrays_and_lists_are_taken_as_numbers(self, door):
        layer, problem, weights = setting()
        lists = problems.Problem(problem.X.tolist(), problem.y.numpy())
        arrays = type(weights)(weights.Q.numpy(), weights.K.tolist(), *weights[2:])
        found, expected = (door(layer, *given) for given in ((lists, arrays), (problem, weights)))
        assert relative_gap(found, expected) < 1e-14


def test_the_exact_gradient_looks_too():
    layer, problem, _ = setting()
    one = models.Attention("gaussian", d=4).init(problem, seed=1)
    with pytest.raises(ValueError, match="W_Q has shape"):
        exact.gradient(layer, one, problem)


class TestProblem:
    X, y = [[[1, 2], [3, 4]]], [[0, 1]]

    def test_whole_numbers_and_lists_become_float64(self):
        for X in (self.X, np.array(self.X), torch.tensor(self.X), np.array(self.X, np.float32)):
            problem = problems.Problem(X, self.y)
            assert problem.X.dtype == problem.y.dtype == torch.float64
            assert problem.X.tolist() == self.X

    @pytest.mark.parametrize(
        ("X", "message"),
        [
            (
                torch.ones(1, 2, 2, dtype=torch.bool),
                "X must hold float32 or float64, got .*bool: c",
            ),
            (torch.ones(1, 2, 2, dtype=torch.half), "X must hold .* got torch.float16: convert"),
            (torch.ones(1, 2, 2, dtype=torch.complex64), "X must hold .*complex64: convert"),
            (torch.ones(1, 2, 2).to_sparse(), "X must hold .*: convert it with .to_dense"),
            (
                np.ones((1, 2, 2), bool),
                r"X must be an array of real numbers, got .* \(bool\): give",
            ),
            ([[[1, 2], [3]]], "X is no array of numbers: .*: give a tensor, an array or nested"),
            ([[["a", "b"]]], "X must be an array of real numbers, .*: give a tensor, an array"),
            (None, "X must be an array of real numbers, got None"),
        ],
    )
    def test_what_is_no_array_of_real_numbers_is_refused(self, X, message):
        with pytest.raises(TypeError, match=message):
            problems.Problem(X, self.y)

    def test_what_a_mask_hides_is_not_taken_for_numbers(self):
        X = np.ma.array(np.array(self.X, float), mask=[[[1, 0], [0, 0]]])
        with pytest.raises(ValueError, match="X has masked entries: fill them, or drop their rows"):
            problems.Problem(X, self.y)
        assert problems.Problem(X.filled(5), self.y).X[0, 0, 0] == 5

    def test_what_no_machine_holds_is_refused_with_its_size(self):
        for draw in (problems.gaussian, problems.gaussian_in_span):
            with pytest.raises(
                MemoryError, match=r"the tokens.* numbers\) need .*: choose smaller"
            ):
                draw(N=10**9, n=10**6, D=10**16, seed=0)
        problem = problems.gaussian(1, 1, 1, seed=0)
        with pytest.raises(MemoryError, match="weights of all runs"):
            models.Attention(H=10**12, d=10**12).init(problem, seed=0)

    def test_a_seed_of_more_than_64_bits_is_refused(self):
        assert problems.gaussian(1, 1, 1, seed=2**64 - 1).X.isfinite().all()
        with pytest.raises(ValueError, match=f"seed must be below {2**64}, got {2**64}"):
            problems.gaussian(1, 1, 1, seed=2**64)


@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("D", [4, 40])
def test_data_that_ask_for_a_gradient_are_trained_on_as_they_are(D, reduce):
    problem = problems.gaussian(N=2, n=3, D=D, seed=0)
    leaves = problems.Problem(problem.X.clone().requires_grad_(), problem.y)
    layer = models.Attention(H=1, d=3)
    weights = layer.init(problem, seed=1, runs=2)
    given = {"step": 0.01, "steps": 3, "reduce": reduce}
    found, expected = (descend(layer, x, weights, **given).loss for x in (leaves, problem))
    assert torch.equal(found, expected) and not found.requires_grad
    loss, _ = optimise(layer, leaves, weights, torch.optim.SGD, steps=2, lr=0.01)
    assert not loss.requires_grad


def test_steps_for_each_run_may_be_an_array_or_a_list():
    given, steps = setting(), torch.tensor([0.01, 0.02], dtype=torch.float64)
    expected = descend(*given, step=steps, steps=3).loss
    for step in (steps.tolist(), tuple(steps.tolist()), steps.numpy()):
        assert torch.equal(descend(*given, step=step, steps=3).loss, expected)
    with pytest.raises(ValueError, match=r"step has shape \(3,\), but there are runs of shape"):
        descend(*given, step=[0.1, 0.2, 0.3], steps=3)


class TestOptimise:
    def test_a_name_is_no_optimiser(self):
        with pytest.raises(TypeError, match="optimiser must be a function, got 'adam'"):
            optimise(*setting(), "adam", steps=1)

    @pytest.mark.parametrize(
        ("rule", "options"),
        [
            (torch.optim.SGD, {"lr": -1.0}),
            (torch.optim.SGD, {"rate": 1.0}),
            (torch.optim.LBFGS, {}),
            (lambda parameters: None, {}),
        ],
    )
    def test_what_it_does_not_take_is_said_in_a_line(self, rule, options):
        with pytest.raises(
            (TypeError, ValueError), match="does not work on gradients alone: .*see"
        ):
            optimise(*setting(), rule, steps=1, **options)

    @pytest.mark.parametrize("batches", [[], [[]], [[0], [2]]])
    def test_batches_must_be_of_sequences_that_there_are(self, batches):
        with pytest.raises(ValueError, match="some of the 2 sequences each, got .*: number them"):
            optimise(*setting(), torch.optim.SGD, steps=1, batches=batches, lr=0.1)

    def test_a_run_that_diverges_is_told(self):
        with pytest.warns(DivergenceWarning, match="2 of 2 runs are no numbers any more: try a sm"):
            optimise(*setting(), torch.optim.SGD, train="V", steps=99, lr=1e4)


class TestSlices:
    def test_curvature_of_a_slice_that_is_no_square(self):
        a, b = landscape.offsets(1.0, 9), landscape.offsets(0.5, 5)
        A, B = torch.meshgrid(a, b, indexing="ij")
        # curvatures 6 and 4 at the middle; the cubic term has others elsewhere
        f = 3 * A**2 + 2 * B**2 + 5 * A**3
        assert float(landscape.curvature(f, 0.25)) == pytest.approx(6)
        with pytest.raises(ValueError, match="f has 8 x 5 points, and none in the middle: give"):
            landscape.curvature(f[1:], 0.25)

    def test_problems_side_by_side_are_cut_one_by_one(self):
        layer, _, _ = setting()
        singles = [problems.gaussian(N=2, n=3, D=4, seed=s) for s in range(3)]
        X, y = (torch.stack([getattr(p, part) for p in singles]) for part in "Xy")
        weights = layer.init(problems.Problem(X, y), seed=1)
        along, offsets = landscape.directions(layer, weights, seed=0), landscape.offsets(1.0, 3)
        f = landscape.surface(layer, problems.Problem(X, y), weights, along, offsets, offsets)
        for single, found in zip(singles, f, strict=True):
            alone = landscape.surface(layer, single, weights, along, offsets, offsets)
            assert relative_gap(found, alone) < 1e-13

    def test_a_plain_is_no_rough_surface(self):
        assert landscape.roughness(torch.ones(5, 5)) == 0

    @pytest.mark.parametrize("look", [landscape.minima, landscape.roughness])
    def test_what_has_no_inside_or_no_numbers_is_refused(self, look):
        with pytest.raises(ValueError, match="f has 2 x 5 points, and none with neighbours"):
            look(torch.ones(2, 5))
        with pytest.raises(ValueError, match="f has 15 entries that are NaN or infinite: take"):
            look(torch.full((3, 5), torch.nan))


def test_the_example_of_the_paper_has_one_head():
    with pytest.raises(ValueError, match="the example is of one head with d = 2, got H = 2"):
        queries.two_by_two(models.Attention(H=2, d=2), u=(1, 2), y=(0, 1), runs=1, seed=0)


def test_singular_values_of_nothing_are_refused():
    for A in (torch.ones(3), torch.ones(0, 3), torch.full((2, 2), torch.nan)):
        for function in (spectra.rank, spectra.sigma_min):
            with pytest.raises(ValueError, match="A (must have|is empty|has 4 entries)"):
                function(A)
