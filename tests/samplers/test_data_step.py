"""The data step against closed forms and quadrature: every kind draws from the same density."""

import pytest
import torch
from sampler_doubles import BatchNoise, Dense, MaskedFourier, Saturating, dense_problem, generator, relative

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Poisson
from recon.operators.base import Operator
from recon.samplers.data_step import DataSettings, DataStep

EYE = torch.eye(4, dtype=torch.float64)
SHAPE = (1, 2, 2)


def scalar_problem(linear=True, sigma=0.5):
    operator = Dense(EYE, SHAPE) if linear else Saturating(2 * EYE, SHAPE)
    return Problem(operator, torch.full((1, 4), 0.6, dtype=torch.float64), Gaussian(sigma))


def moments(problem, centre, std, weight):
    """Mean and standard deviation of exp(-w L) N(c, r^2) of one number, by quadrature."""
    x = torch.linspace(-4, 4, 20001, dtype=torch.float64)
    z = problem.operator.forward(x[:, None, None, None].expand(-1, *SHAPE))[:, 0]
    loss = (z - 0.6) ** 2 / (2 * problem.likelihood.sigma**2)
    p = (-weight * loss - ((x - centre) / std) ** 2 / 2).exp()
    mean = float((p * x).sum() / p.sum())
    return mean, float((p * (x - mean) ** 2).sum() / p.sum()) ** 0.5


KINDS = {
    "exact": (DataSettings("exact"), 0.0, 0.0),
    "langevin": (DataSettings("langevin", steps=400), 0.004, 0.02),
    "hmc": (DataSettings("hmc", steps=200, momentum=0.7), 0.004, 0.02),
    "mala": (DataSettings("mala", steps=100), 0.04, 0.0),
    "hmc-exact": (DataSettings("hmc-exact", steps=90, leapfrog=3), 0.03, 0.0),
    "metropolis": (DataSettings("metropolis", steps=150), 0.15, 0.0),
}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("convention", ["legacy", "main"])
def test_every_kind_draws_from_the_density(kind, linear, convention):
    given, lr, slack = KINDS[kind]
    problem = scalar_problem(linear)
    settings = DataSettings(given.kind, given.steps, given.momentum, given.leapfrog, convention=convention)
    if kind == "exact" and not linear:
        with pytest.raises(ConfigError, match="linear"):
            DataStep(problem, settings, BatchNoise(0))
        return
    centre = torch.full((3000, *SHAPE), -0.2, dtype=torch.float64)
    x = DataStep(problem, settings, BatchNoise(0)).draw(centre, 0.4, lr)
    mean, std = moments(problem, -0.2, 0.4, 2.0 if convention == "main" else 1.0)
    error = std / x.numel() ** 0.5
    assert abs(float(x.mean()) - mean) < 5 * error + slack * std
    assert abs(float(x.std()) / std - 1) < 5 / (2 * x.numel()) ** 0.5 + slack


@pytest.mark.parametrize("kind", ["exact", "mala"])
def test_spread_may_differ_between_items_and_pixels(kind):
    problem, count = scalar_problem(), 20000
    std = torch.full((count, *SHAPE), 0.4, dtype=torch.float64)
    std[..., 1, 1] = 0.15
    centre = torch.zeros(count, *SHAPE, dtype=torch.float64)
    step = DataStep(problem, DataSettings(kind, steps=60), BatchNoise(1))
    x = step.draw(centre, std, 0.03)
    for pixel, r in ((x[..., 0, 0], 0.4), (x[..., 1, 1], 0.15)):
        mean, spread = moments(problem, 0.0, r, 1.0)
        assert abs(float(pixel.mean()) - mean) < 5 * spread / count**0.5
        assert abs(float(pixel.std()) / spread - 1) < 5 / (2 * count) ** 0.5
    if kind == "exact":
        single = step.draw(centre, std[:, :, 1:, 1:], 0.03)
        assert abs(float(single.std()) / moments(problem, 0.0, 0.15, 1.0)[1] - 1) < 5 / (8 * count) ** 0.5


def test_tau_and_convention_set_the_weight():
    """main at tau is exactly the Gaussian likelihood with tau/sqrt 2; legacy that with tau itself."""
    problem = scalar_problem(sigma=0.05)
    x = torch.randn(3, *SHAPE, generator=generator(0), dtype=torch.float64)
    misfit = problem.operator.forward(x) - problem.y
    for convention, factor in (("main", 1.0), ("legacy", 0.5)):
        step = DataStep(problem, DataSettings(tau=0.01, convention=convention), BatchNoise(0))
        loss, slope = step.gradient(x)
        assert torch.allclose(loss, factor * (misfit**2).sum(1) / 0.01**2)
        assert torch.allclose(slope, factor * 2 * misfit.reshape(x.shape) / 0.01**2)
    own = DataStep(problem, DataSettings(), BatchNoise(0)).gradient(x)[0]
    assert torch.allclose(own, (misfit**2).sum(1) / (2 * 0.05**2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradient_by_the_adjoint_is_that_of_autograd(dtype):
    mask = (torch.rand(6, 5, generator=generator(0)) < 0.6).double()
    operator = MaskedFourier(mask, dtype)
    y = operator.forward(torch.randn(1, 1, 6, 5, generator=generator(1), dtype=dtype))
    problem = Problem(operator, y, Gaussian(0.3))
    x = torch.randn(3, 1, 6, 5, generator=generator(2), dtype=dtype)

    class Hidden(Operator):
        in_shape, out_shape, in_dtype, out_dtype = operator.in_shape, operator.out_shape, dtype, torch.complex128

        def _forward(self, x):
            return operator.forward(x)

    loss, slope = DataStep(problem, DataSettings("mala"), BatchNoise(0)).gradient(x)
    auto = DataStep(Problem(Hidden(), y, Gaussian(0.3)), DataSettings("mala"), BatchNoise(0)).gradient(x)
    assert relative(auto[0], loss) < 1e-12 and relative(auto[1], slope) < 1e-12


def test_poisson_gradient_is_that_of_the_loss():
    likelihood = Poisson(20.0, 0.5, torch.full((1, 4), 0.5, dtype=torch.float64))
    problem = Problem(Dense(EYE, SHAPE), torch.full((1, 4), 0.4, dtype=torch.float64), likelihood)
    step = DataStep(problem, DataSettings(), BatchNoise(0))
    assert step.kind == "langevin"
    x = torch.rand(2, *SHAPE, generator=generator(0), dtype=torch.float64)
    rate = 20 * (0.5 * x + 0.5)
    expected = 10 * (1 - 20 * 0.7 / rate)
    assert torch.allclose(step.gradient(x)[1], expected)
    with pytest.raises(ConfigError, match="Gaussian"):
        DataStep(problem, DataSettings("exact"), BatchNoise(0))
    assert DataStep(problem, DataSettings("auto", tau=0.1), BatchNoise(0)).kind == "exact"


def test_gradient_limit_clamps_the_squared_norms_gradient():
    problem = scalar_problem()
    step = DataStep(problem, DataSettings("langevin", steps=1, tau=0.1, gradient_limit=0.3), BatchNoise(0))
    x = torch.tensor([[[[0.65, 5.0], [-5.0, 0.55]]]], dtype=torch.float64)
    found = step.draw(x, 1e9, 1e-3)
    z = BatchNoise(0).normal(x.shape, x.dtype)
    clamped = (2 * (x - 0.6)).clamp(-0.3, 0.3) / (2 * 0.1**2)
    assert torch.allclose(found, x - 1e-3 * clamped + (2e-3) ** 0.5 * z)
    assert float((2 * (x - 0.6)).abs().max()) > 0.3


def test_black_boxes_take_metropolis_alone():
    class Box(Operator):
        in_shape, out_shape, in_dtype, out_dtype = SHAPE, (4,), torch.float64, torch.float64
        differentiable = False

        def _forward(self, x):
            return x.detach().flatten(1)

    problem = Problem(Box(), torch.full((1, 4), 0.6, dtype=torch.float64), Gaussian(0.5))
    with pytest.raises(ConfigError, match="gradient"):
        DataStep(problem, DataSettings("langevin"), BatchNoise(0))
    assert DataStep(problem, DataSettings(), BatchNoise(0)).kind == "metropolis"
    step = DataStep(problem, DataSettings("metropolis", steps=150), BatchNoise(0))
    x = step.draw(torch.full((3000, *SHAPE), -0.2, dtype=torch.float64), 0.4, 0.15)
    mean, std = moments(scalar_problem(), -0.2, 0.4, 1.0)
    assert abs(float(x.mean()) - mean) < 5 * std / x.numel() ** 0.5


def test_exact_data_get_a_small_noise_level():
    problem = scalar_problem(sigma=0.0)
    step = DataStep(problem, DataSettings(), BatchNoise(0))
    assert step.kind == "exact"
    assert step.sigma == pytest.approx(6e-4)
    x = step.draw(torch.zeros(5, *SHAPE, dtype=torch.float64), 1.0, 0.0)
    assert float((x - 0.6).abs().max()) < 5e-3


def test_operator_calls_are_counted():
    class Counting(Dense):
        calls = 0

        def _forward(self, x):
            Counting.calls += 1
            return super()._forward(x)

        def _adjoint(self, y):
            Counting.calls += 1
            return super()._adjoint(y)

    base = dense_problem(6, SHAPE, torch.float64)
    problem = Problem(Counting(base.operator.matrix, SHAPE), base.y, base.likelihood)
    for kind in KINDS:
        step = DataStep(problem, DataSettings(kind, steps=8, leapfrog=4, cg_iterations=7), BatchNoise(0))
        Counting.calls = 0
        step.draw(torch.zeros(2, *SHAPE, dtype=torch.float64), 0.4, 1e-4)
        assert Counting.calls == step.calls, kind


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "gibbs"},
        {"convention": "paper"},
        {"steps": 0},
        {"leapfrog": 0},
        {"cg_iterations": 0},
        {"momentum": 1.5},
        {"tau": 0.0},
        {"tau": float("nan")},
        {"gradient_limit": -1.0},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        DataSettings(**bad)
