"""MCG against the authors' three loops, and projections on the data of any linear operator."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from sampler_doubles import (
    Dense,
    EpsNet,
    MaskedFourier,
    MultiCoil,
    VPDenoiser,
    dense_problem,
    generator,
    relative,
)

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.operators.colour import ColourMix
from recon.operators.inpaint import Inpaint
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.samplers.base import SeededNoise, Status
from recon.samplers.mcg import MCG

SHAPE = (1, 1, 6, 6)


def run_recording(method, prior, problem, noise, shape, x_init=None):
    seen = []
    result = method.sample(prior, problem, x_init, noise, shape, lambda step: seen.append(step.x0.clone()))
    return [*seen, result.samples], result


def inpainting_problem(dtype):
    operator = Inpaint(SHAPE[1:], (torch.rand(6, 6, generator=generator(0)) < 0.5).float()).to(dtype=dtype)
    truth = torch.randn(SHAPE, generator=generator(1), dtype=torch.float64).to(dtype)
    return Problem(operator, operator.forward(truth), Gaussian(0.0))


def authors_inpainting(net, problem, noise, times):
    """The published VP loop; yields x0hat of each step, then the final state (its known pixels clean)."""
    ab_all, m, ref = schedules.vp_alpha_bars(), problem.operator.mask, problem.y
    x = noise.normal(SHAPE, ref.dtype)
    for t, prev in zip(times, [*times[1:], -1], strict=True):
        ab, ab_prev = ab_all[t], ab_all[prev] if prev >= 0 else 1.0
        b = 1 - ab / ab_prev
        low = b * (1 - ab_prev) / (1 - ab)
        x = x.detach().requires_grad_()
        out = net(x, t)
        eps, v = out[:, :1], out[:, 1:]
        x0 = (x * math.sqrt(1 / ab) - math.sqrt(1 / ab - 1) * eps).clamp(-1, 1)
        new = b * math.sqrt(ab_prev) / (1 - ab) * x0 + (1 - ab_prev) * math.sqrt(1 - b) / (1 - ab) * x
        if prev >= 0:
            f = (v + 1) / 2
            log_variance = f * math.log(b) + (1 - f) * math.log(low)
            new = new + (0.5 * log_variance).exp() * noise.normal(SHAPE, x.dtype)
        (g,) = torch.autograd.grad(torch.linalg.norm(ref * m - x0 * m), x)
        yield x0.detach()
        pasted = ref
        if prev >= 0:
            pasted = math.sqrt(ab) * ref + math.sqrt(1 - ab) * noise.normal(SHAPE, x.dtype)
        x = (new * (1 - m) - g * (1 - m) + m * pasted).detach()
    yield x


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("steps", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_inpainting_matches_the_authors_code_step_by_step(dtype, steps):
    net, problem = EpsNet(1, True), inpainting_problem(dtype)
    times = [int(t) for t in np.arange(steps)[::-1] * (1000 // steps)]
    ours, result = run_recording(MCG(steps=steps), VPDenoiser(net), problem, SeededNoise(3, [0]), SHAPE)
    theirs = list(authors_inpainting(net, problem, SeededNoise(3, [0]), times))
    assert len(ours) == len(theirs) == steps + 1
    limit = 1e-8 if dtype == torch.float64 else 1e-4
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < limit
    assert relative(problem.operator.forward(result.samples), problem.y) < (1e-14 if dtype == torch.float64 else 1e-6)
    assert (result.stats.nfe, result.stats.backprops, len(result.stats.residuals)) == (steps, steps, steps)


def langevin(x, score, z, snr):
    step = (snr * z.norm() / score.norm()) ** 2 * 2
    return x + step * score + torch.sqrt(2 * step) * z


def orthogonal(size, seed=0):
    return torch.linalg.qr(torch.randn(size, size, generator=generator(seed), dtype=torch.float64))[0]


def authors_colour(prior, basis, grey, noise, steps, weight, shape):
    """The published VE predictor-corrector loop, its gradient taken off in image space, its misfit of the clean data.

    basis: the orthogonal (3, 3) whose first column gives the grey image; the rest as in the code.
    """

    def decouple(v):
        return torch.einsum("bihw,ij->bjhw", v, basis)

    def couple(v):
        return torch.einsum("bihw,ij->bjhw", v, basis.T)

    mask = torch.zeros(1, 3, 1, 1, dtype=grey.dtype)
    mask[:, 0] = 1
    sigmas = schedules.ve(steps)
    x = sigmas[0] * noise.normal(shape, grey.dtype)
    for t, s in pairwise(sigmas):
        for stage in ("corrector", "predictor"):
            x = x.detach().requires_grad_()
            x0 = prior(x, t).x0
            score = (x0 - x) / t**2
            last = stage == "predictor" and s == 0
            if stage == "corrector":
                moved = langevin(x, score, noise.normal(shape, x.dtype), 0.16)
            else:
                moved = x + (t**2 - s**2) * score  # the code returns the mean of the last step
                if not last:
                    moved = moved + math.sqrt(t**2 - s**2) * noise.normal(shape, x.dtype)
            data = decouple(grey)
            norm = torch.norm(couple(decouple(x0) * mask - data * mask))
            (g,) = torch.autograd.grad(norm, x)
            g = couple(decouple(g) * (1 - mask)) * weight
            if not last:
                data = data + t * decouple(noise.normal(shape, x.dtype))
            x = (couple(decouple(moved) * (1 - mask) + data * mask) - g).detach()
        yield x0.detach()
    yield x


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_colour_matches_the_authors_code_step_by_step(dtype):
    shape, basis = (1, 3, 4, 4), orthogonal(3)
    prior = GaussianPrior(power_law_spectrum(shape[1:], 2.0, 0.5))
    truth = prior.sample(1, generator(2), torch.float64)
    operator = ColourMix(shape[1:], basis[:, :1].T.contiguous()).to(dtype=dtype)
    operator = operator if dtype == torch.float32 else with_dtype(operator, dtype)
    y = operator.forward(truth.to(dtype))
    grey = torch.einsum("i,bhw->bihw", basis[:, 0].to(dtype), y[:, 0])
    method = MCG(form="corrector-predictor", steps=60, grid="ve", alpha=0.1, clip=False)
    ours, result = run_recording(method, prior, Problem(operator, y, Gaussian(0.0)), SeededNoise(4, [0]), shape)
    theirs = list(authors_colour(prior, basis.to(dtype), grey, SeededNoise(4, [0]), 60, 0.1, shape))
    assert len(ours) == len(theirs) == 61
    limit = 1e-8 if dtype == torch.float64 else 1e-4
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < limit
    assert relative(operator.forward(result.samples), y) < 1e-5
    assert result.stats.nfe == result.stats.backprops == 120 == method.network_calls


def with_dtype(operator, dtype):
    operator.in_dtype = operator.out_dtype = dtype
    return operator


class Views(Dense):
    """Some rows of an orthogonal matrix, "views", whose filtered backprojection weighs them as a full set's."""

    def pinv(self, y):
        return self._adjoint(y) * (self.matrix.shape[1] / len(self.matrix))


def authors_ct(prior, full, rows, y, noise, steps, weight, shape):
    """The published VE predictor-corrector loop for CT; `full` is orthogonal, the measured views are its first rows."""
    size = len(full)
    a, at = (lambda v: v.flatten(1) @ full[:rows].T), (lambda w: (w @ full[:rows]).reshape(shape))

    def a_dagger(w):
        return at(w) * size / rows

    def a_all(v):
        return v.flatten(1) @ full.T

    def a_dagger_all(w):
        return (w @ full).reshape(shape)

    mask = (torch.arange(size) < rows).to(y.dtype)
    norm_const = at(a(torch.ones(shape, dtype=y.dtype)))
    sigmas = schedules.ve(steps)
    x = sigmas[0] * noise.normal(shape, y.dtype)
    for i, (t, s) in enumerate(pairwise(sigmas)):
        x0 = prior(x, t).x0
        x = x + (t**2 - s**2) * (x0 - x) / t**2
        if s > 0:
            x = x + math.sqrt(t**2 - s**2) * noise.normal(shape, y.dtype)
        x = x.detach().requires_grad_()
        x0 = prior(x, t).x0
        moved = langevin(x, (x0 - x) / t**2, noise.normal(shape, y.dtype), 0.16)
        (g,) = torch.autograd.grad(torch.norm(a_dagger(y - a(x0))), x)
        g = a_dagger_all(a_all(weight * g) * (1.0 - mask))
        lamb = 1.0 + (0.6 - 1.0) * (i / steps)
        x = (moved + lamb * at(y - a(moved)) / norm_const - g).detach()
        yield x0.detach()
    yield x


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ct_matches_the_authors_code_step_by_step(dtype):
    shape, rows = (1, 1, 4, 4), 5
    full = orthogonal(16, 3)
    # a row of ones among the measured ones keeps A^T A 1 positive, as line integrals do
    full[0] = 0.25
    full = torch.linalg.qr(full.T)[0].T.contiguous()
    full[0] = full[0].abs()
    full = full.to(dtype)
    prior = GaussianPrior(power_law_spectrum(shape[1:], 1.0, 0.5), 0.5)
    y = prior.sample(1, generator(2), dtype).flatten(1) @ full[:rows].T
    problem = Problem(Views(full[:rows], shape[1:]), y, Gaussian(0.0))
    method = MCG(
        form="predictor-corrector", steps=60, grid="ve", alpha=0.1, norm="image", inverse="kaczmarz", noised="none",
        relax=(1.0, 0.6), share=rows / 16, clip=False,
    )  # fmt: skip
    ours, result = run_recording(method, prior, problem, SeededNoise(4, [0]), shape)
    theirs = list(authors_ct(prior, full, rows, y, SeededNoise(4, [0]), 60, 0.1, shape))
    assert len(ours) == len(theirs) == 61
    limit = 1e-8 if dtype == torch.float64 else 2e-4
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < limit
    assert (result.stats.nfe, result.stats.backprops, method.network_calls) == (120, 60, 120)


def operators(dtype):
    mask = (torch.rand(6, 6, generator=generator(0)) < 0.4).to(dtype.to_real())
    coils = torch.randn(3, 6, 6, generator=generator(1), dtype=dtype.to_complex())
    return {
        "dense": dense_problem(12, SHAPE[1:], dtype.to_real()).operator,
        "fourier": MaskedFourier(mask, dtype.to_complex()),
        "coils": MultiCoil(mask * (torch.rand(6, 6, generator=generator(4)) < 0.5), coils),
    }


@pytest.mark.parametrize("name", ["dense", "fourier", "coils"])
@pytest.mark.parametrize("noised", ["now", "next", "none"])
def test_any_linear_operator_ends_on_its_data(name, noised):
    operator = operators(torch.float64)[name]
    prior = GaussianPrior(power_law_spectrum(SHAPE[1:], 2.0, 0.5))
    y = operator.forward(prior.sample(1, generator(3), operator.in_dtype))
    method = MCG(steps=40, noised=noised, iterations=60)
    x = method.sample(prior, Problem(operator, y, Gaussian(0.0)), None, SeededNoise(0, [0, 1]), (2, *SHAPE[1:])).samples
    assert relative(operator.forward(x), y.expand(2, *y.shape[1:])) < 1e-4
    assert relative(x[:1], x[1:]) > 0.05


def test_noise_of_the_fitted_data_is_that_of_the_level():
    states = []

    class Spy(Denoiser):
        info = PriorInfo(name="spy", channels=1, value_range=(-9.0, 9.0))

        def _denoise(self, x, sigma, cond):
            states.append((x.detach().clone(), float(sigma[0])))
            return Prediction(0 * x)

    problem = inpainting_problem(torch.float64)
    known = problem.operator.mask > 0
    sigmas = schedules.grid("vp", 5)
    for noised, level in (("now", lambda i: sigmas[i - 1]), ("next", lambda i: sigmas[i]), ("none", lambda i: 0.0)):
        states.clear()
        problem = replace(problem, y=torch.zeros_like(problem.y))
        MCG(steps=5, noised=noised).sample(Spy(), problem, None, SeededNoise(0, range(200)), (200, *SHAPE[1:]))
        for i in range(1, 5):
            k = math.sqrt((1 + sigmas[i] ** 2) / (1 + sigmas[i - 1] ** 2)) if noised == "now" else 1.0
            spread = float(states[i][0][:, 0][:, known].std())
            assert abs(spread - k * level(i)) <= 0.05 * k * level(i)


def test_share_one_leaves_the_measured_part_of_the_gradient_out():
    """With the data fitted exactly, the gradient moves nothing that was measured; with share 0 it does."""
    operator = operators(torch.float64)["dense"]
    prior = VPDenoiser(EpsNet(1, False))
    problem = Problem(operator, dense_problem(12, SHAPE[1:], torch.float64).y, Gaussian(0.0))
    misfits = {}
    for share in (0.0, 1.0):
        x = MCG(steps=20, share=share, iterations=60).sample(prior, problem, None, SeededNoise(0, [0]), SHAPE).samples
        misfits[share] = relative(operator.forward(x), problem.y)
    assert misfits[1.0] < 1e-5 < 1e-3 < misfits[0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("form", ["ancestral", "corrector-predictor", "predictor-corrector"])
def test_sample_does_not_depend_on_its_batch(dtype, form):
    operator = operators(torch.float32)["fourier"] if dtype.is_complex else operators(torch.float32)["dense"]
    prior = GaussianPrior(power_law_spectrum(SHAPE[1:], 2.0, 0.5))
    y = operator.forward(prior.sample(1, generator(3), dtype))
    problem = Problem(operator, y, Gaussian(0.05))
    method = MCG(form=form, steps=20, grid="vp" if form == "ancestral" else "ve", alpha=0.2)
    alone = method.sample(prior, problem, None, SeededNoise(11, [7]), (1, *SHAPE[1:])).samples
    batch = method.sample(prior, problem, None, SeededNoise(11, [5, 6, 7]), (3, *SHAPE[1:])).samples
    assert alone.dtype == dtype
    assert relative(batch[2:], alone) < 1e-4 and relative(batch[:1], alone) > 1e-2
    per_sample_y = replace(problem, y=y.expand(3, *y.shape[1:]).clone())
    again = method.sample(prior, per_sample_y, None, SeededNoise(11, [5, 6, 7]), (3, *SHAPE[1:])).samples
    assert relative(again, batch) < 1e-4


@pytest.mark.parametrize(
    "settings",
    [{}, {"inverse": "pinv"}, {"inverse": "kaczmarz", "norm": "image"}, {"form": "corrector-predictor"}],
)
def test_operator_calls_are_counted_truly(settings):
    calls = []
    inner = inpainting_problem(torch.float32)

    class Counted(Dense.__mro__[1]):
        in_shape = out_shape = SHAPE[1:]

        def _forward(self, x):
            calls.append(1)
            return inner.operator.forward(x)

        def _adjoint(self, y):
            calls.append(1)
            return inner.operator.adjoint(y)

        def pinv(self, y):
            return self.adjoint(y)

    method = MCG(steps=8, iterations=3, **settings)
    problem = replace(inner, operator=Counted())
    result = method.sample(VPDenoiser(EpsNet(1, False)), problem, None, SeededNoise(0, [0]), SHAPE)
    setting_up = 2 if settings.get("inverse") == "kaczmarz" else 0  # A^H A 1
    guided = 16 if settings.get("form") else 8
    # backward passes through A, and through A^+, are calls that autograd makes
    backward = guided * (2 if settings.get("norm") == "image" else 1)
    assert len(calls) - setting_up + backward == result.stats.operator_calls


def test_rms_weighs_the_gradient_with_the_root_of_the_number_of_values():
    problem = inpainting_problem(torch.float64)
    scale = problem.operator.measured() ** 0.5
    found = [
        method.sample(VPDenoiser(EpsNet(1, False)), problem, None, SeededNoise(0, [0]), SHAPE).samples
        for method in (MCG(steps=8, alpha=0.1, norm="rms"), MCG(steps=8, alpha=0.1 * scale), MCG(steps=8, alpha=0.1))
    ]
    torch.testing.assert_close(found[0], found[1])
    assert relative(found[0], found[2]) > 1e-4


def test_divergence_stops_early_and_returns_finite_values():
    seen = []

    class Explodes(Denoiser):
        info = PriorInfo(name="explodes", channels=1)

        def _denoise(self, x, sigma, cond):
            return Prediction(0.1 * x + (float("nan") if len(seen) >= 30 else 0.0))

    method = MCG(steps=100)
    result = method.sample(Explodes(), inpainting_problem(torch.float32), None, SeededNoise(0, [0]), SHAPE, seen.append)
    assert result.status is Status.DIVERGED and result.stats.nfe == 50
    assert torch.equal(result.samples, seen[29].x0)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"iterations": 0},
        {"alpha": -1.0},
        {"snr": 0.0},
        {"share": 1.5},
        {"relax": (1.0, -0.1)},
        {"grid": "x"},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        MCG(**bad)


def test_unfit_problems_are_refused():
    prior, saturating = VPDenoiser(EpsNet(1, False)), dense_problem(20, SHAPE[1:], torch.float32, linear=False)
    with pytest.raises(ConfigError, match="linear"):
        MCG().sample(prior, saturating, None, SeededNoise(0, [0]), SHAPE)
    with pytest.raises(ConfigError, match="prior"):
        MCG().sample(None, saturating, None, SeededNoise(0, [0]), SHAPE)
    dense = dense_problem(20, SHAPE[1:], torch.float32)
    with pytest.raises(ConfigError, match=r"inverse=pinv|cannot use CG"):
        MCG(norm="image").sample(prior, dense, None, SeededNoise(0, [0]), SHAPE)


def test_grids_are_the_published_ones():
    assert MCG().network_calls == 1000
    assert MCG(form="predictor-corrector", grid="ve", steps=2000).network_calls == 4000
    levels = schedules.grid("ve", 2000)
    assert np.allclose(levels[:-1], np.exp(np.linspace(np.log(378), np.log(0.01), 2000))) and levels[-1] == 0
