"""The renoising rules against the VP formulas they translate."""

import math

import pytest
import torch
from sampler_doubles import generator, relative

from recon.priors.base import Prediction
from recon.samplers.renoise import (
    ancestral,
    ddim_a,
    ddim_b,
    euler,
    guided_ddim_b,
    langevin_corrector,
    reverse_diffusion,
)
from recon.schedules import sigma_from_alpha_bar, vp_alpha_bars

AB = vp_alpha_bars()
PAIRS = [(999, 998), (980, 960), (500, 480), (20, 0), (1, 0)]


def _state(t: int, s: int):
    x0, eps, z = (torch.randn(2, 1, 5, 5, generator=generator(k), dtype=torch.float64) for k in range(3))
    ab_t, ab_s = float(AB[t]), float(AB[s])
    return x0, eps, z, ab_t, ab_s, float(sigma_from_alpha_bar(ab_t)), float(sigma_from_alpha_bar(ab_s))


@pytest.mark.parametrize(("t", "s"), PAIRS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_rules_are_the_vp_rules(t, s, eta):
    x0, eps, z, ab_t, ab_s, sigma_t, sigma_s = _state(t, s)
    c1 = eta * math.sqrt((1 - ab_t / ab_s) * (1 - ab_s) / (1 - ab_t))
    vp_a = math.sqrt(ab_s) * x0 + c1 * z + math.sqrt(1 - ab_s - c1**2) * eps
    assert relative(ddim_a(x0, eps, sigma_t, sigma_s, eta, z), vp_a / math.sqrt(ab_s)) < 1e-12
    vp_b = math.sqrt(ab_s) * x0 + math.sqrt(1 - ab_s) * (eta * z + math.sqrt(1 - eta**2) * eps)
    assert relative(ddim_b(x0, eps, sigma_t, sigma_s, eta, z), vp_b / math.sqrt(ab_s)) < 1e-12


@pytest.mark.parametrize("uncond", [False, True])
@pytest.mark.parametrize("sigma_s", [0.0, 0.6])
def test_the_guided_rule_is_ddim_b_with_the_networks_noise(uncond, sigma_s):
    x, x0, other, change, z = (torch.randn(2, 1, 5, 5, generator=generator(k), dtype=torch.float64) for k in range(5))
    seen = Prediction(x0, x0_uncond=other if uncond else None)
    corrected, moved = guided_ddim_b(x, seen, change, 1.3, sigma_s, 0.8, z)
    assert relative(corrected, x0 + change) < 1e-14
    assert relative(moved, ddim_b(x0 + change, seen.eps(x, 1.3), 1.3, sigma_s, 0.8, z)) < 1e-13
    assert relative(guided_ddim_b(x, seen, None, 1.3, sigma_s, 0.0, None)[0], x0) == 0


@pytest.mark.parametrize(("t", "s"), PAIRS)
@pytest.mark.parametrize("learned", [False, True])
def test_ancestral_is_the_ddpm_posterior(t, s, learned):
    x0, eps, z, ab_t, ab_s, sigma_t, sigma_s = _state(t, s)
    x = math.sqrt(ab_t) * x0 + math.sqrt(1 - ab_t) * eps
    b = 1 - ab_t / ab_s
    low = b * (1 - ab_s) / (1 - ab_t)
    mean = b * math.sqrt(ab_s) / (1 - ab_t) * x0 + (1 - ab_s) * math.sqrt(1 - b) / (1 - ab_t) * x
    mix = torch.rand(x.shape, generator=generator(9), dtype=torch.float64) if learned else None
    log_variance = math.log(low) if mix is None else mix * math.log(b) + (1 - mix) * math.log(low)
    vp = mean + torch.as_tensor(log_variance / 2, dtype=torch.float64).exp() * z
    assert relative(ancestral(x0, eps, sigma_t, sigma_s, z, mix), vp / math.sqrt(ab_s)) < 1e-12
    if mix is None:
        assert relative(ddim_a(x0, eps, sigma_t, sigma_s, 1.0, z), vp / math.sqrt(ab_s)) < 1e-12


def test_last_step_returns_the_estimate():
    x0, eps, z = (torch.randn(1, 1, 4, 4, generator=generator(k)) for k in range(3))
    for last in (
        ddim_a(x0, eps, 0.01, 0.0, 0.7, z),
        ddim_b(x0, eps, 0.01, 0.0, 0.7, z),
        ancestral(x0, eps, 0.01, 0.0, z, torch.full_like(z, 0.3)),
        euler(x0, eps, 0.01, 0.0, z, vp_scaled=True),
        euler(x0, eps, 0.01, 0.0, None, vp_scaled=False),
    ):
        assert torch.equal(last, x0)
        assert last is not x0


def test_unscaled_ode_step_is_the_euler_step_of_edm():
    x0, eps, _ = (torch.randn(1, 1, 4, 4, generator=generator(k), dtype=torch.float64) for k in range(3))
    x, t, s = x0 + 2.0 * eps, 2.0, 1.5
    assert relative(euler(x0, eps, t, s, None, vp_scaled=False), x + (s - t) * (x - x0) / t) < 1e-14


def test_predictor_and_corrector_are_those_of_score_sde():
    x0, eps, z = (torch.randn(2, 1, 5, 5, generator=generator(k), dtype=torch.float64) for k in range(3))
    t, s, snr = 2.0, 1.5, 0.16
    x, score = x0 + t * eps, -eps / t
    predicted = x + (t**2 - s**2) * score + math.sqrt(t**2 - s**2) * z
    assert relative(reverse_diffusion(x0, eps, t, s, z), predicted) < 1e-14
    assert torch.equal(reverse_diffusion(x0, eps, t, 0.0, z), x0)
    corrected = langevin_corrector(x0, eps, t, snr, z)
    for k in range(2):
        step = 2 * (snr * z[k].norm() / score[k].norm()) ** 2
        assert relative(corrected[k], x[k] + step * score[k] + torch.sqrt(2 * step) * z[k]) < 1e-13
    still = langevin_corrector(x0, 0 * eps, t, snr, 0 * z)
    assert torch.equal(still, x0)
    pairs = torch.randn(1, 1, 3, 3, generator=generator(0), dtype=torch.complex64)
    assert langevin_corrector(pairs, pairs, t, snr, pairs).dtype == torch.complex64
