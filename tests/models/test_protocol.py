"""A model with nothing but what the protocol asks for goes wherever a model goes."""

from typing import NamedTuple

import pytest
import torch
from logistic import Logistic
from torch import Tensor

from descent import descend, flows, landscape, models, optimise, problems, span, spectra, steps
from descent.models import in_context


def data(N=6, n=3, D=40):
    drawn = problems.gaussian(N=N, n=n, D=D, seed=0)
    return problems.Problem(drawn.X, drawn.y[:, 0].sign())


@pytest.fixture
def setting():
    problem, model = data(), Logistic()
    return model, problem, model.init(problem, seed=1, runs=5)


def test_five_members_are_the_protocol():
    members = [name for name in vars(Logistic) if not name.startswith("_")]
    assert members == ["trainable", "acts_on_tokens", "own", "init", "loss_and_gradient"]
    assert isinstance(Logistic(), models.Model) and isinstance(models.Attention(), models.Model)


def test_its_gradient_is_right_so_that_the_tests_below_mean_something(setting):
    model, problem, weights = setting
    moving = weights._make(W.clone().requires_grad_() for W in weights)
    model.loss_and_gradient(moving, problem, "")[0].sum().backward()
    closed = model.loss_and_gradient(weights, problem, "Wb")[1]
    assert torch.allclose(moving.W.grad, closed["W"], rtol=1e-12)
    assert torch.allclose(moving.b.grad, closed["b"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("step", [0.05, "1/L", steps.normalised(0.05)])
@pytest.mark.parametrize("train", [None, "b", "W"])
def test_descend_trains_it_and_its_span_as_it_is(setting, step, train):
    options = {"step": step, "train": train, "steps": 60}
    small, full = descend(*setting, **options), descend(*setting, **options, reduce=False)
    assert bool((small.loss[-1] < small.loss[0]).all()) and small.loss.shape == (61, 5)
    # a few hundred roundings of numbers around one
    assert torch.allclose(small.loss, full.loss, rtol=1e-12)
    for a, b in zip(small.weights, full.weights, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-13)
    for name in set("Wb") - set(train or "Wb"):
        assert torch.equal(getattr(small.weights, name), getattr(setting[2], name))


class ByAutograd(Logistic):
    """Its gradient by torch.autograd, which knows nothing of derivatives around it."""

    def loss_and_gradient(self, weights, problem, train):
        moving = weights._make(W.detach().clone().requires_grad_() for W in weights)
        loss, _ = super().loss_and_gradient(moving, problem, "")
        found = torch.autograd.grad(loss.sum(), [getattr(moving, W) for W in train])
        return loss.detach(), dict(zip(train, found, strict=True))


def test_a_gradient_that_cannot_be_differentiated_trains_with_a_number_for_a_step(setting):
    _, *rest = setting
    by_hand, by_autograd = (
        descend(m, *rest, step=0.1, steps=9).loss for m in (Logistic(), ByAutograd())
    )
    assert torch.allclose(by_hand, by_autograd, rtol=1e-12)
    with pytest.raises(
        ValueError, match="of ByAutograd cannot be differentiated .*: give step a number"
    ):
        descend(ByAutograd(), *rest, steps=9)


def test_descend_stops_and_watches_it(setting):
    run = descend(
        *setting, steps=300, step=0.5, until=0.5, watch=["weights", "gradient_norm"], at=[0, 9]
    )
    assert bool((run.stopped_at > 0).all()) and bool((run.loss[-1] <= 0.5 * run.loss[0]).all())
    assert run.watched["weights"].b.shape == (2, 5) and run.watched["gradient_norm"].shape == (2, 5)


def test_every_run_may_have_a_problem_of_its_own():
    model, drawn = Logistic(), [data(D=30), data(N=6, D=30)]
    drawn[1] = problems.Problem(2 * drawn[1].X, -drawn[1].y)
    X, y = (torch.stack([getattr(problem, part) for problem in drawn]) for part in "Xy")
    batch = problems.Problem(X, y)
    start = model.init(drawn[0], seed=1, runs=2)
    together = descend(model, batch, start, step=0.05, steps=40)
    for k, problem in enumerate(drawn):
        alone = descend(model, problem, start._make(W[k] for W in start), step=0.05, steps=40)
        assert torch.allclose(together.loss[:, k], alone.loss, rtol=1e-12)


def test_a_torch_optimiser_trains_it_on_batches(setting):
    losses, last = optimise(
        *setting, torch.optim.Adam, steps=30, batches=[[0, 1, 2], [3, 4, 5]], lr=0.05
    )
    assert losses.shape == (31, 5) and bool((losses[-1] < losses[0]).all())
    assert last.b.shape == (5,)
    plain, _ = optimise(*setting, torch.optim.SGD, steps=30, lr=0.05)
    assert torch.allclose(plain, descend(*setting, step=0.05, steps=30).loss, rtol=1e-12)


def test_slices_and_spectra_take_it(setting):
    model, problem, weights = setting
    along = landscape.directions(model, weights, seed=2, letters="Wb")
    alpha = landscape.offsets(1.0, 5)
    f = landscape.surface(model, problem, weights, along, alpha, alpha[:3])
    moved = weights._replace(
        W=weights.W + alpha[4] * along["W"], b=weights.b + alpha[0] * along["b"]
    )
    assert f.shape == (5, 5, 3)
    assert torch.allclose(f[:, 4, 0], model.loss_and_gradient(moved, problem, "")[0], rtol=1e-12)

    def objective(moving):
        return model.loss_and_gradient(weights._replace(**moving), problem, "Wb")

    L = spectra.top_hessian_eigenvalue(objective, weights._asdict(), 1)
    assert L.shape == (5,) and torch.allclose(
        descend(*setting, steps=1).eta, 1 / L, rtol=1e-6
    )  # one is iterated in the span, the other outside


def test_the_span_of_a_weight_without_heads_lifts_back(setting):
    model, problem, weights = setting
    reduction = span.reduce(problem, "W", model.own)
    small = reduction.restrict(weights)
    assert small.W.shape == (5, 18, 1)
    assert torch.allclose(
        problem.tokens @ weights.W, reduction.problem.tokens @ small.W, rtol=1e-10
    )
    assert torch.allclose(reduction.lift(weights, small).W, weights.W, rtol=1e-12)


class TestClouds:
    """Neurons on a population go the same ways, though it is no `Problem` of theirs."""

    def setting(self):
        model, population = models.InContext("tanh"), in_context.planted(3, 2, 20, 0, r=(1, 0.5))[0]
        return model, population, model.init(population, d=5, seed=1, runs=4)

    def test_descend_and_optimise_train_them(self):
        model, population, clouds = self.setting()
        for step in ("1/L", 0.05):
            run = descend(*self.setting(), step=step, steps=30, watch=["gradient_norm"], at=[30])
            assert (run.loss[-1] < run.loss[0]).all() and run.watched["gradient_norm"].min() > 0
        losses, _ = optimise(*self.setting(), torch.optim.SGD, steps=30, lr=0.05)
        assert torch.allclose(losses, run.loss, rtol=1e-12)
        flow = flows.euler(model, clouds, population, dt=0.05 / 5, steps=30)
        assert torch.allclose(flow.loss, run.loss, rtol=1e-12)
        with pytest.raises(TypeError, match="batches are of the sequences of a Problem"):
            optimise(*self.setting(), torch.optim.SGD, steps=1, batches=[[0]], lr=0.05)

    def test_slices_take_them(self):
        model, population, clouds = self.setting()
        along = landscape.directions(model, clouds, seed=2, letters="aw")
        alpha = landscape.offsets(1.0, 5)
        f = landscape.surface(model, population, clouds, along, alpha, alpha[:3])
        moved = in_context.Neurons(
            clouds.a + alpha[4] * along["a"], clouds.w + alpha[0] * along["w"]
        )
        assert f.shape == (4, 5, 3)
        assert torch.allclose(f[:, 4, 0], model.loss(moved, population), rtol=1e-12)

    def test_data_that_ask_for_gradients_get_none(self):
        model, population, clouds = self.setting()
        asking = in_context.Population(population.X.requires_grad_(), population.F)
        run = descend(model, asking, clouds, step=0.05, steps=3)
        assert not run.loss.requires_grad

    def test_runs_of_one_weight_go_with_each_of_the_other(self):
        model, population, clouds = self.setting()
        shared = in_context.Neurons(clouds.a, clouds.w[0])
        loss = model.loss(shared, population)
        whole = in_context.Neurons(clouds.a, clouds.w[:1].expand(4, 5, 3))
        assert torch.equal(loss, model.loss(whole, population))


class TestMessages:
    """What is wrong with a model is said at the door, by name."""

    @pytest.mark.parametrize("missing", ["trainable", "acts_on_tokens", "own", "init"])
    def test_a_member_is_missing(self, setting, missing):
        members = {k: v for k, v in vars(Logistic).items() if k[0] != "_" and k != missing}
        model = type("Half", (), members)()
        for train in (descend, lambda *a, **k: optimise(*a, torch.optim.SGD, **k)):
            with pytest.raises(TypeError, match=f"Half is no model: it lacks {missing}"):
                train(model, *setting[1:], steps=1)

    def test_weights_are_no_container_of_its_letters(self, setting):
        model, problem, weights = setting
        with pytest.raises(TypeError, match="weights must be a NamedTuple of arrays, got {"):
            descend(model, problem, weights._asdict(), steps=1)
        other = NamedTuple("Other", [("W", Tensor), ("c", Tensor)])(*weights)
        with pytest.raises(TypeError, match="do not name the same letters: b, c"):
            descend(model, problem, other, steps=1)

    def test_a_vector_is_said_to_act_on_tokens(self, setting):
        model = type("Narrow", (Logistic,), {"acts_on_tokens": "b"})()
        with pytest.raises(TypeError, match="acts_on_tokens names b of fewer than two"):
            descend(model, *setting[1:], steps=1)

    def test_a_letter_is_unknown(self, setting):
        with pytest.raises(ValueError, match=r"train must name some of the matrices W, b, .*'V'"):
            descend(*setting, train="V", steps=1)

    def test_runs_do_not_go_together(self, setting):
        model, problem, weights = setting
        with pytest.raises(ValueError, match=r"runs do not go together.*W \(5,\), b \(3,\)"):
            descend(model, problem, weights._replace(b=weights.b[:3]), steps=1)

    def test_numbers_are_not_finite_or_of_another_precision(self, setting):
        model, problem, weights = setting
        with pytest.raises(ValueError, match="b has 5 entries that are NaN"):
            descend(model, problem, weights._replace(b=weights.b / 0), steps=1)
        with pytest.raises(ValueError, match="b is torch.float32 on cpu, but the tokens"):
            descend(model, problem, weights._replace(b=weights.b.float()), steps=1)

    @pytest.mark.parametrize(
        ("name", "method"), [("attention", "attention"), ("sigma_min", "features")]
    )
    def test_what_it_cannot_show_is_not_watched(self, setting, name, method):
        with pytest.raises(TypeError, match=f"watch='{name}' needs a method '{method}', which Log"):
            descend(*setting, steps=1, step=0.1, watch=name, at=[0])

    @pytest.mark.parametrize("step", [0.1, "1/L"])
    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda loss, g: (loss.sum(), g), r"a loss of shape \(\), but the runs are \(5,\)"),
            (lambda loss, g: (loss, {W: x.sum() for W, x in g.items()}), r"W a gradient of shape"),
            (lambda loss, g: (loss, {"W": g["W"]}), "b a gradient of shape None"),
        ],
        ids=["one loss for all", "one gradient for all", "no gradient"],
    )
    def test_what_would_be_spread_over_runs_without_a_word_is_refused(
        self, setting, spoil, said, step
    ):
        def spoilt(self, weights, problem, train):
            return spoil(*Logistic.loss_and_gradient(self, weights, problem, train))

        model = type("Spoilt", (Logistic,), {"loss_and_gradient": spoilt})()
        with pytest.raises(TypeError, match=said):
            descend(model, *setting[1:], steps=1, step=step)
        with pytest.raises(TypeError, match=said):
            optimise(model, *setting[1:], torch.optim.SGD, steps=1, lr=0.1)

    def test_a_class_is_no_model(self, setting):
        with pytest.raises(
            TypeError, match=r"the class Logistic, .*: make one with Logistic\(...\)"
        ):
            descend(Logistic, *setting[1:], steps=1)
