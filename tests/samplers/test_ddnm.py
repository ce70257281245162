"""DDNM and DDNM+ against the authors' VP form, and closed forms under a Gaussian prior."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from sampler_doubles import BatchNoise, EpsNet, MaskedFourier, VPDenoiser, dense_problem, generator, relative
from spectral_cases import (
    SHAPE,
    check_batch_independence,
    check_few_looks,
    fourier_prior,
    known_matrix,
    matrix_problem,
    operator_problem,
    recorded,
    vp_eps,
)

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Poisson
from recon.operators.base import LinearOperator
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.gaussian import GaussianPrior
from recon.samplers.base import SeededNoise, Status
from recon.samplers.ddnm import DDNM
from recon.samplers.ddrm import DDRM


def published_times(steps, length, repeat):
    """RePaint's walk over times, as the authors' code takes it."""
    left = dict.fromkeys(range(0, steps - length, length), repeat - 1)
    t, times = steps, []
    while t >= 1:
        t -= 1
        times.append(t)
        if left.get(t, 0) > 0:
            left[t] -= 1
            for _ in range(length):
                t += 1
                times.append(t)
    return [*times, -1]


def authors_form(eps, matrix, y, noise, steps, eta, sigma_y, times, cutoff):
    """The published loop (svd_ddnm.py) in VP coordinates; yields (x0_t, state) of each step down.

    Lambda and Lambda_noise are those of the general SVD operator; singular values below the cutoff are zero.
    """
    u, s, vh = torch.linalg.svd(matrix.to(torch.complex128 if matrix.is_complex() else torch.float64))
    u, vh, s = u.to(y.dtype), vh.to(y.dtype), s.to(y.real.dtype)
    s = torch.cat([torch.where(s >= cutoff * s[0], s, 0), torch.zeros(36 - len(s), dtype=s.dtype)])
    inverse = torch.where(s > 0, 1 / s, 0)
    v_t = lambda image: vh @ image.reshape(-1)  # noqa: E731
    v = lambda c: (vh.mH @ c).reshape(SHAPE)  # noqa: E731

    def a_pinv(r):
        return v(inverse * torch.cat([u.mH @ r.reshape(-1), torch.zeros(24, dtype=r.dtype)]))

    bars, skip = schedules.vp_alpha_bars(), 1000 // steps
    x = x0 = noise.normal(SHAPE, y.dtype)
    for i, j in pairwise(times):
        ab_next = bars[j * skip] if j >= 0 else 1.0
        if j > i:
            x = math.sqrt(ab_next) * x0 + math.sqrt(1 - ab_next) * noise.normal(SHAPE, x.dtype)
            continue
        ab = bars[i * skip]
        et = eps(x, i * skip)
        x0 = (x - et * math.sqrt(1 - ab)) / math.sqrt(ab)
        z = noise.normal(SHAPE, x.dtype) if j >= 0 else torch.zeros_like(x)
        a, sigma_t = math.sqrt(ab_next), math.sqrt(1 - ab_next)
        back = a_pinv((matrix.to(x.dtype) @ x0.reshape(-1)) - y.reshape(-1))
        if sigma_y == 0:
            x0_hat = x0 - back
            c1, c2 = sigma_t * eta, sigma_t * math.sqrt(1 - eta**2)
            x = a * x0_hat + c1 * z + c2 * et
        else:
            worse = sigma_t < a * sigma_y * inverse
            better = sigma_t > a * sigma_y * inverse
            weight = torch.where(worse, s * sigma_t * math.sqrt(1 - eta**2) / a / sigma_y, 1.0)
            x0_hat = x0 - v(weight * v_t(back))
            d1 = torch.full_like(s, sigma_t * eta)
            d2 = torch.full_like(s, sigma_t * math.sqrt(1 - eta**2))
            d2 = torch.where(worse, 0.0, d2)
            d1 = torch.where(better, (sigma_t**2 - a**2 * sigma_y**2 * inverse**2).clamp_min(0).sqrt(), d1)
            d2 = torch.where(better, 0.0, d2)
            d1 = torch.where(inverse == 0, sigma_t * eta, d1)
            d2 = torch.where(inverse == 0, sigma_t * math.sqrt(1 - eta**2), d2)
            x = a * x0_hat + v(d1 * v_t(z) + d2 * v_t(et))
        yield x0, x


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.6])
@pytest.mark.parametrize(("eta", "length", "repeat"), [(0.85, 1, 1), (0.4, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128])
def test_matches_the_authors_code_step_by_step(sigma, eta, length, repeat, dtype):
    problem, steps = matrix_problem(dtype, sigma), 20
    if dtype.is_complex:
        prior = fourier_prior(SHAPE[1:])
        network = vp_eps(prior)
    else:
        net = EpsNet(1, False)
        prior, network = VPDenoiser(net), lambda x, t: net(x, t)
    method = DDNM(steps=steps, eta=eta, travel_length=length, travel_repeat=repeat)
    ours, result = recorded(method, prior, problem, SeededNoise(3, [0]), SHAPE)
    times = published_times(steps, length, repeat)
    theirs = list(
        authors_form(network, known_matrix(dtype), problem.y, SeededNoise(3, [0]), steps, eta, sigma, times, 0.03)
    )
    limit = 1e-3 if dtype == torch.float32 else 1e-8
    assert len(ours) == len(theirs) == method.network_calls == result.stats.nfe
    assert max(relative(a, b) for a, (b, _) in zip(ours, theirs, strict=True)) < limit
    assert relative(result.samples, theirs[-1][1]) < limit
    assert result.samples.dtype == dtype and result.status is Status.OK
    assert result.stats.operator_calls == result.stats.nfe * (2 if sigma == 0 else 1)


@pytest.mark.parametrize("steps", [7, 10, 20])
@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("repeat", [1, 2, 4])
def test_time_travel_takes_the_published_walk(steps, length, repeat):
    method = DDNM(steps=steps, travel_length=length, travel_repeat=repeat)
    jumps, previous = [], None
    for time in published_times(steps, length, repeat):
        # consecutive ways back are one
        if previous is not None and time > previous and len(jumps) > 1 and jumps[-1] > jumps[-2]:
            jumps.pop()
        jumps.append(time)
        previous = time
    assert [steps - 1 - i for i in method._path(steps)] == jumps
    assert method.network_calls == sum(b < a for a, b in pairwise(jumps))


def test_noisy_form_is_ddrm_with_full_weight():
    """But for the first state and exact ties, DDNM+ in the singular basis is DDRM with eta_b = 1."""
    problem, prior = matrix_problem(torch.float64, 0.1), VPDenoiser(EpsNet(1, False))
    start = torch.zeros(SHAPE, dtype=torch.float64)
    runs = [
        method.sample(prior, problem, start, SeededNoise(0, [0]), SHAPE).samples
        for method in (DDNM(steps=20), DDRM(steps=20))
    ]
    assert relative(*runs) < 1e-12


def test_exact_data_are_met_exactly():
    for kind, params, shape in (
        ("downsample", {"factor": 2}, (1, 8, 6)),
        ("mri", {"mask": "given", "complex_image": True}, (1, 6, 5)),
        ("mri", {"mask": "given"}, (1, 6, 5)),
        ("inpaint", {"mask": "random"}, (2, 6, 5)),
        ("colour-mix", {"mix": "luma"}, (3, 4, 4)),
    ):
        problem = operator_problem(kind, params, shape, 0.0)
        x = DDNM(steps=10).sample(fourier_prior(shape), problem, None, SeededNoise(0, [0]), (1, *shape)).samples
        assert relative(problem.operator.forward(x), problem.y) < 1e-10


def test_noise_free_inpainting_of_a_white_prior_is_the_prior_in_the_hole():
    """The null space walks as DDIM-B: with eta = 0 and many steps, the hole is drawn from the prior."""
    shape, std = (1, 6, 6), 0.4
    problem = operator_problem("inpaint", {"size": 0.5, "margin": 0.0, "position": "centre"}, shape, 0.0)
    prior = GaussianPrior(torch.full(shape, std**2))
    x = DDNM(steps=500, eta=0.0).sample(prior, problem, None, BatchNoise(0), (200, *shape)).samples
    hole = problem.operator.support == 0
    assert int(hole.sum()) == 9
    assert float(x[..., hole].std()) == pytest.approx(std, rel=0.04)
    assert abs(float(x[..., hole].mean())) < 4 * std / (200 * 9) ** 0.5
    kept = (problem.operator.support != 0).expand(shape)
    assert torch.allclose(x[:, kept], problem.y[:, kept].expand(200, -1))


class OwnInverse(LinearOperator):
    """y = 2 x on some pixels, with a pseudo-inverse but no SVD."""

    def __init__(self, base):
        self.base = base
        self.in_shape, self.out_shape = base.in_shape, base.out_shape
        self.in_dtype, self.out_dtype, self.support = base.in_dtype, base.out_dtype, base.support

    def _forward(self, x):
        return 2 * self.base.forward(x)

    def _adjoint(self, y):
        return 2 * self.base.adjoint(y)

    def pinv(self, y):
        return self.base.adjoint(y) / 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_scalar_form_is_the_published_one_with_a_measured_gain(dtype):
    """lambda and gamma of eqs. 17 to 19 in VP coordinates: a = sqrt(ab_s), and the noise of A^+ y is g sigma_y."""
    shape, sigma_y, eta, steps = (1, 1, 24, 20), 0.8, 0.6, 20
    mask = (torch.rand(24, 20, generator=generator(0)) < 0.5).double()
    operator = OwnInverse(MaskedFourier(mask, dtype))
    y = mask * torch.randn(1, *shape[1:], generator=generator(1), dtype=dtype.to_complex())
    problem = Problem(operator, y, Gaussian(sigma_y))
    prior = fourier_prior(shape[1:])
    ours, result = recorded(DDNM(steps=steps, eta=eta), prior, problem, SeededNoise(3, [0]), shape)
    n = torch.randn(1, *shape[1:], generator=generator(0), dtype=y.dtype) * 2**0.5
    found = operator.pinv(n)
    count = found.numel() * (2 if dtype.is_complex else 1)
    g = float(found.norm()) / count**0.5
    assert g == pytest.approx(float(mask.mean()) ** 0.5 / 2, rel=0.1)
    noise, eps, bars = SeededNoise(3, [0]), vp_eps(prior), schedules.vp_alpha_bars()
    x = noise.normal(shape, dtype)
    regimes = set()
    for t in range(950, -1, -50):
        ab, ab_s = bars[t], bars[t - 50] if t > 0 else 1.0
        et = eps(x, t)
        x0 = (x - math.sqrt(1 - ab) * et) / math.sqrt(ab)
        assert relative(ours[19 - t // 50], x0) < 1e-8
        a, sigma_t = math.sqrt(ab_s), math.sqrt(1 - ab_s)
        enough = sigma_t >= a * sigma_y * g
        regimes.add(enough)
        lam = 1.0 if enough else sigma_t / (a * sigma_y * g)
        gamma = math.sqrt(sigma_t**2 - (a * sigma_y * g) ** 2) if enough else 0.0
        z = noise.normal(shape, dtype) if t > 0 else torch.zeros_like(x)
        x0_hat = x0 - lam * operator.pinv(operator.forward(x0) - y)
        x = a * x0_hat + gamma * (math.sqrt(1 - eta**2) * et + eta * z)
    assert regimes == {True, False}
    assert relative(result.samples, x) < 1e-8
    assert result.stats.operator_calls == 2 * steps


@pytest.mark.parametrize("form", ["plain", "spectral", "scalar"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_sample_does_not_depend_on_its_batch(form, dtype):
    params = {"mask": "given", "complex_image": dtype.is_complex}
    problem = operator_problem("mri", params, (1, 6, 5), 0.1, torch.float32)
    check_batch_independence(DDNM(steps=20, form=form, travel_repeat=2), problem, fourier_prior((1, 6, 5)))


def test_divergence_stops_early_and_returns_finite_values():
    shape, seen = (1, 4, 4), []

    class Explodes(Denoiser):
        info = PriorInfo(name="explodes", channels=1)

        def _denoise(self, x, sigma, cond):
            return Prediction(0.1 * x + (float("inf") if len(seen) >= 30 else 0.0))

    problem = operator_problem("denoise", {}, shape, 0.1)
    result = DDNM().sample(Explodes(), problem, None, SeededNoise(0, [0]), (1, *shape), seen.append)
    assert result.status is Status.DIVERGED and result.stats.nfe == 50
    assert torch.equal(result.samples, seen[29].x0)


@pytest.mark.parametrize("form", ["plain", "spectral"])
def test_the_loop_waits_for_the_device_seldom(monkeypatch, form):
    problem = operator_problem("mri", {"mask": "given"}, (1, 6, 6), 0.1, torch.float32)
    check_few_looks(DDNM(form=form), problem, fourier_prior((1, 6, 6)), monkeypatch, 100, 0)


def test_conjugate_gradients_stand_in_for_a_pseudo_inverse():
    """With as many iterations as there are data they are A^+, so the samples are those of the operator's own."""
    shape = (1, 6, 5)
    problem = operator_problem("mri", {"mask": "given"}, shape, 0.1, torch.float64)
    prior, drawn = fourier_prior(shape), {}
    for inverse in ("pinv", "cg"):
        method = DDNM(steps=20, form="scalar", inverse=inverse, iterations=40)
        drawn[inverse] = method.sample(prior, problem, None, SeededNoise(0, [0, 1]), (2, *shape))
    assert relative(drawn["cg"].samples, drawn["pinv"].samples) < 1e-8
    # A, and with it A^+ alone, or A^H and A^H A (two calls) an iteration
    assert drawn["pinv"].stats.operator_calls == 20 * 2 and drawn["cg"].stats.operator_calls == 20 * (1 + 81)


def test_an_operator_without_a_pseudo_inverse_is_taken_by_conjugate_gradients():
    problem = dense_problem(20, SHAPE[1:], torch.float32)
    assert isinstance(problem.operator, LinearOperator) and not problem.operator.has_pinv()
    exact = replace(problem, likelihood=Gaussian(0.0))
    method = DDNM(steps=20, iterations=40)
    result = method.sample(VPDenoiser(EpsNet(1, False)), exact, None, SeededNoise(0, [0]), SHAPE)
    assert relative(problem.operator.forward(result.samples), problem.y) < 1e-3


def test_unfit_problems_are_refused():
    prior, problem, noise = VPDenoiser(EpsNet(1, False)), matrix_problem(torch.float32, 0.1), SeededNoise(0, [0])
    with pytest.raises(ConfigError, match="linear"):
        DDNM().sample(prior, dense_problem(20, SHAPE[1:], torch.float32, linear=False), None, noise, SHAPE)
    with pytest.raises(ConfigError, match="no pseudo-inverse"):
        DDNM(inverse="pinv").sample(prior, dense_problem(20, SHAPE[1:], torch.float32), None, noise, SHAPE)
    with pytest.raises(ConfigError, match="singular value"):
        ct = operator_problem("ct", {"angles": 4}, SHAPE[1:], 0.1, torch.float32)
        DDNM(form="spectral").sample(prior, ct, None, noise, SHAPE)
    with pytest.raises(ConfigError, match="Gaussian noise, got Poisson"):
        poisson = replace(problem, likelihood=Poisson(1.0, 1.0, torch.zeros(1, 12)))
        DDNM().sample(prior, poisson, None, noise, SHAPE)
    with pytest.raises(ConfigError, match="prior"):
        DDNM().sample(None, problem, None, noise, SHAPE)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"eta": 1.1},
        {"travel_length": 0},
        {"travel_repeat": 0},
        {"cutoff": 1.0},
        {"grid": "x"},
        {"iterations": 0},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        DDNM(**bad)
