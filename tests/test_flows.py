"""Flows of clouds: against an accurate integrator, finite differences, and what they conserve."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from strategies import relative_gap

from descent import DivergenceWarning, _layout, descend, draws, flows
from descent.models import InContext, in_context
from descent.models.encoder import Activation
from descent.models.in_context import Neurons
from descent.steps import PrecisionWarning

BOTH = Activation(
    lambda Z: torch.tanh(Z) + torch.exp(-(Z**2) / 2),
    lambda Z: 1 - torch.tanh(Z) ** 2 - Z * torch.exp(-(Z**2) / 2),
)
MODEL = InContext(BOTH)
POPULATION = in_context.planted(3, 2, 60, seed=0, r=(1.0, 0.5))[0]


def cloud(d=6, runs=3, seed=1):
    return MODEL.init(POPULATION, d=d, seed=seed, runs=runs)


def test_euler_comes_to_the_flow_as_steps_get_short():
    start = cloud(runs=None)

    def flow(t, x):
        a, w = x[:12].reshape(6, 2), x[12:].reshape(6, 3)
        v = MODEL.velocities(Neurons(torch.from_numpy(a), torch.from_numpy(w)), POPULATION)
        return torch.cat([v.a.flatten(), v.w.flatten()]).numpy()

    x = torch.cat([start.a.flatten(), start.w.flatten()]).numpy()
    exact = solve_ivp(flow, (0, 1), x, rtol=1e-10, atol=1e-12).y[:, -1]
    gaps = []
    for steps in (200, 400):
        end = flows.euler(MODEL, start, POPULATION, dt=1 / steps, steps=steps, every=steps)
        found = np.concatenate([end.neurons.a[-1].flatten(), end.neurons.w[-1].flatten()])
        gaps.append(np.abs(found - exact).max())
    assert gaps[0] < 0.05 and 1.8 < gaps[0] / gaps[1] < 2.2  # of first order


@given(st.integers(0, 999))
def test_birth_and_death_dissipate_what_the_identity_says(seed):
    # with neurons that stay, dL/dt = -gamma * sum of mass * V^2; forward differences of order dt
    start, mass = cloud(seed=seed), 0.1 + draws.uniform(seed, "mass", (6,), 3)
    dt = 1e-6
    flow = flows.euler(MODEL, start, POPULATION, dt=dt, steps=1, train="", birth=2.0, mass=mass)
    V = MODEL.first_variation(flows.weighted(start, mass), POPULATION, start)
    promised = -2.0 * (flow.mass[0] * V.square()).sum(-1)
    found = (flow.loss[1] - flow.loss[0]) / dt
    assert torch.equal(flow.neurons.a[0], flow.neurons.a[1])
    assert ((found - promised).abs() <= 1e-3 * promised.abs() + 1e-8).all()
    assert (flow.mass.sum(-1) - 1).abs().max() < 1e-14


def test_masses_weigh_as_copies_do():
    start = cloud(d=3, runs=None)
    twice = Neurons(*(torch.cat([x, x[:1]]) for x in start))
    mass = torch.tensor([2.0, 1.0, 1.0]).double()
    one = flows.euler(MODEL, start, POPULATION, dt=0.01, steps=5, birth=1.0, mass=mass)
    two = flows.euler(MODEL, twice, POPULATION, dt=0.01, steps=5, birth=1.0)
    assert relative_gap(one.loss, two.loss) < 1e-10
    assert relative_gap(one.mass[-1, 0], two.mass[-1, 0] + two.mass[-1, 3]) < 1e-10


def test_what_does_not_train_stays():
    start = cloud()
    flow = flows.euler(MODEL, start, POPULATION, dt=0.01, steps=4, train="a", every=2)
    assert flow.neurons.a.shape == (3, 3, 6, 2) and flow.loss.shape == (5, 3)
    assert torch.equal(flow.neurons.w[2], start.w) and not torch.equal(flow.neurons.a[2], start.a)
    assert (flow.mass == flow.mass[0, 0, 0]).all() and abs(flow.mass[0, 0].sum() - 1) < 1e-15
    by_w = flows.euler(MODEL, start, POPULATION, dt=0.01, steps=4, train="w")
    assert torch.equal(by_w.neurons.a[-1], start.a)


def test_clouds_side_by_side_flow_as_alone():
    start = cloud()
    flow = flows.euler(MODEL, start, POPULATION, dt=0.01, steps=20, birth=0.5)
    alone = Neurons(start.a[1], start.w[1])
    one = flows.euler(MODEL, alone, POPULATION, dt=0.01, steps=20, birth=0.5)
    assert relative_gap(one.loss, flow.loss[:, 1]) < 1e-10


def test_how_many_clouds_are_followed_at_a_time_changes_nothing(monkeypatch):
    start, options = cloud(), {"dt": 0.01, "steps": 6, "every": 3, "birth": 0.5}
    nested = Neurons(*(torch.stack([x, 2 * x]) for x in start))
    flow = flows.euler(MODEL, nested, POPULATION, **options)
    monkeypatch.setattr(flows, "BLOCK", 1)
    one_by_one = flows.euler(MODEL, nested, POPULATION, **options)
    for a, b in ((flow.loss, one_by_one.loss), (flow.mass, one_by_one.mass)):
        assert a.shape == b.shape and relative_gap(a, b) < 1e-10
    assert flow.neurons.a.shape == one_by_one.neurons.a.shape == (3, *nested.a.shape)
    assert relative_gap(flow.neurons.w, one_by_one.neurons.w) < 1e-10


@pytest.mark.parametrize("train", ["aw", "wa", "w"])
def test_the_compiled_engine_follows_the_same_flow(monkeypatch, train):
    model, start = InContext("tanh"), cloud()
    nested = Neurons(*(torch.stack([x, 2 * x]) for x in start))
    options = {"dt": 0.01, "steps": 7, "every": 3, "train": train}
    fast = flows.euler(model, nested, POPULATION, **options)
    monkeypatch.setattr(_layout, "choose", lambda *_: _layout.Plain)
    slow = flows.euler(model, nested, POPULATION, **options)
    for ours, theirs in ((fast.loss, slow.loss), (fast.mass, slow.mass)):
        assert ours.shape == theirs.shape and relative_gap(ours, theirs) < 1e-10
    for ours, theirs in zip(fast.neurons, slow.neurons, strict=True):
        assert ours.shape == theirs.shape and relative_gap(ours, theirs) < 1e-10


def test_a_flow_passes_a_gradient_on_and_takes_arrays():
    model, start, options = InContext("tanh"), cloud(), {"dt": 0.01, "steps": 3}
    plain = flows.euler(model, start, POPULATION, **options).loss
    arrays = in_context.Population(*(x.numpy() for x in POPULATION))
    assert relative_gap(flows.euler(model, start, arrays, **options).loss, plain) < 1e-10
    leaf = Neurons(start.a.clone().requires_grad_(), start.w)
    flows.euler(model, leaf, POPULATION, **options).loss[-1].sum().backward()
    assert leaf.a.grad.abs().max() > 0
    with pytest.raises(TypeError, match="must be tensors: make them so"):
        descend(model, arrays, start, steps=1)


@given(st.integers(0, 999))
def test_a_step_of_euler_changes_the_second_moment_by_the_square_of_its_length(seed):
    start, dt = cloud(seed=seed), 0.01
    flow = flows.euler(MODEL, start, POPULATION, dt=dt, steps=1)
    Q = flow.neurons.a.mT @ flow.neurons.a / 6
    g = MODEL.velocities(start, POPULATION).a
    promised = dt**2 * g.mT @ g / 6
    scale = 1 + promised.abs().amax()
    condition = float(torch.linalg.cond(MODEL.moments(start, POPULATION).Sigma).max())
    assert (Q[1] - Q[0] - promised).abs().max() < 1e-13 * condition * scale


def test_a_pair_answers_evenly_and_rests():
    start = flows.paired(cloud())
    h = MODEL.features(start, POPULATION.X)
    assert relative_gap(h, MODEL.features(start, -POPULATION.X)) < 1e-14
    assert MODEL.moments(start, POPULATION).C.abs().max() < 1e-14
    with pytest.warns(PrecisionWarning, match="3 of 3 clouds start at a critical point"):
        flow = flows.euler(MODEL, start, POPULATION, dt=0.01, steps=3)
    assert (flow.loss[-1] - 0.75).abs().max() < 1e-12  # half the trace of r
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = flows.perturbed(start, 1e-8, 0)
        flows.euler(MODEL, moved, POPULATION, dt=0.01, steps=3)


def test_noise_has_the_covariance_asked_for():
    start = cloud(d=4, runs=None)
    theta = torch.cat([start.a, start.w], -1)
    for length in (None, 2.0):
        moved = flows.perturbed(start, 0.5, 3, length=length, runs=20_000)
        field = torch.cat([moved.a - start.a, moved.w - start.w], -1) / 0.5
        found = torch.einsum("rde,rfe->df", field, field) / (20_000 * 5)
        apart = torch.cdist(theta, theta).square() / 8
        wanted = torch.eye(4).double() if length is None else torch.exp(-apart)
        # of 100 000 products each, with standard deviation at most sqrt(2 / 100 000)
        assert (found - wanted).abs().max() < 5 * (2 / 100_000) ** 0.5
    two = flows.perturbed(start, 0.5, 3, length=2.0, runs=[0, 7])
    assert torch.equal(two.a[1], flows.perturbed(start, 0.5, 3, length=2.0, runs=8).a[7])


def test_a_neuron_without_mass_stays_without():
    mass = torch.tensor([0.0, 1, 1, 1, 1, 1]).double()
    flow = flows.euler(MODEL, cloud(), POPULATION, dt=0.1, steps=5, birth=1.0, mass=mass)
    assert (flow.mass[..., 0] == 0).all() and flow.loss.isfinite().all()


def test_neurons_of_zero_and_too_few_have_a_flow_without_nan():
    zero = Neurons(torch.zeros(4, 2).double(), torch.zeros(4, 3).double())
    with pytest.warns(PrecisionWarning, match="1 of 1 clouds"):
        flow = flows.euler(MODEL, zero, POPULATION, dt=0.1, steps=3)
    assert (flow.loss - 0.75).abs().max() < 1e-12
    few = flows.euler(MODEL, cloud(d=1), POPULATION, dt=1e-3, steps=50)
    assert flow.loss.isfinite().all() and (few.loss[-1] < few.loss[0]).all()


@pytest.mark.parametrize(
    ("model", "size", "dt"),
    [(MODEL, 1e-80, 0.01), (InContext("relu"), 1e-150, 1e10)],
    ids=["torch", "compiled"],
)
def test_a_cloud_that_leaves_the_numbers_says_so_and_spares_the_others(model, size, dt):
    start = cloud(d=3, runs=2)
    start = Neurons(start.a.clone(), start.w)
    start.a[0] *= size  # B is as large as a is small, and so is the first step
    with pytest.warns(DivergenceWarning, match="1 of 2 clouds went beyond"):
        flow = flows.euler(model, start, POPULATION, dt=dt, steps=5)
    assert (flow.loss[1:, 0] == torch.inf).all() and flow.loss[:, 1].isfinite().all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dt": 0}, "dt must be"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"train": "b"}, "train must name"),
        ({"birth": -1}, "birth must be zero or more"),
        ({"birth": float("nan")}, "birth must be zero or more"),
        ({"mass": torch.ones(5).double()}, "mass has shape"),
        ({"mass": -torch.ones(6).double()}, "mass must not be negative"),
        ({"mass": torch.zeros(6).double()}, "mass must not be negative, and not all zero"),
        ({"mass": torch.full((6,), torch.nan).double()}, "mass has 6 entries that are NaN"),
        ({"every": 0}, "every must be at least 1"),
    ],
)
def test_bad_input_is_named(change, says):
    with pytest.raises((ValueError, TypeError), match=says):
        flows.euler(MODEL, cloud(), POPULATION, **({"dt": 0.1, "steps": 2} | change))


def test_noise_of_no_size_is_refused():
    for bad in ({"size": -1.0}, {"size": 0.1, "length": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            flows.perturbed(cloud(), seed=0, **bad)
