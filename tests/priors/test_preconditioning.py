"""The preconditionings against their closed forms, and the denoiser that they share."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recon.errors import ConfigError
from recon.priors.base import PriorInfo
from recon.priors.edm import EDMDenoiser
from recon.priors.networks.dhariwal import DhariwalConfig
from recon.priors.networks.layers import BlockStyle, UNetBlock, attend, fir_down, fir_kernel, fir_up
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.preconditioning import EDM, IDDPM, KINDS, VE, VP, ScoreVE, VPTable

SIGMAS = (0.01, 0.3, 1.0, 12.0, 140.0)


class Recorder(nn.Module):
    """F = 0.3 x + c, and, twice as wide, a second half of sevens; remembers what it was called with."""

    def __init__(self, channels: int = 1, wide: bool = False, labels: int = 0) -> None:
        super().__init__()
        self.config = DhariwalConfig(8, channels, channels * (1 + wide), labels=labels)
        self.calls: list[tuple[torch.Tensor, ...]] = []

    def forward(self, x, c, labels=None):
        self.calls.append((x, c) if labels is None else (x, c, labels))
        out = 0.3 * x + c[:, None, None, None]
        return torch.cat([out, torch.full_like(out, 7.0)], dim=1) if self.config.out_channels > x.shape[1] else out


def denoiser(kind, network=None, sigma_max=1000.0, channels=1, multiple=1, **parameters):
    info = PriorInfo("tiny", channels, multiple=multiple, sigma_max=sigma_max)
    return PreconditionedDenoiser(network or Recorder(channels), info, kind, **parameters)


def closed_form(kind, s):
    """(c_skip, c_out, c_in, c_noise) at a level s, in double precision."""
    if kind == "edm":
        d = 0.7
        return d**2 / (s**2 + d**2), s * d / math.hypot(s, d), 1 / math.hypot(s, d), math.log(s) / 4
    if kind == "vp":
        return 1, -s, 1 / math.hypot(s, 1), 999 * (math.sqrt(0.01 + 39.8 * math.log1p(s * s)) - 0.1) / 19.9
    if kind == "ve":
        return 1, s, 1, math.log(s / 2)
    return 1, s * s, 1, s


@pytest.mark.parametrize("s", SIGMAS)
@pytest.mark.parametrize("kind", ["edm", "vp", "ve", "score-ve"])
def test_coefficients_are_the_closed_forms(kind, s):
    parameters = {"sigma_data": 0.7} if kind == "edm" else {}
    prior = denoiser(kind, **parameters)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    skip, out, inside, noise = closed_form(kind, s)
    expected = skip * x + out * (0.3 * inside * x + noise)
    torch.testing.assert_close(prior(x, s).x0, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prior.network.calls[0][0], inside * x, rtol=1e-9, atol=0)
    torch.testing.assert_close(prior.network.calls[0][1], torch.full((2,), noise, dtype=torch.float64))


def test_vp_time_is_the_inverse_of_its_noise_level():
    vp = VP()
    for t in (1e-5, 0.01, 0.5, 1.0):
        noise = vp.coefficients(torch.tensor([vp.sigma(t)], dtype=torch.float64)).noise
        assert float(noise) == pytest.approx(999 * t, rel=1e-6)
    assert vp.sigma(1.0) == pytest.approx(math.sqrt(math.expm1(10.05)), rel=1e-12)
    assert VP(1.0, 2.0).sigma(1.0) == pytest.approx(math.sqrt(math.expm1(2.5)), rel=1e-12)


def test_iddpm_takes_the_nearest_level_counted_from_the_end():
    levels = (100.0, 10.0, 1.0, 0.1, 0.0)
    prior = denoiser("iddpm", Recorder(wide=True), levels=list(levels))
    x = torch.randn(6, 1, 4, 4)
    sigma = torch.tensor([99.0, 54.9, 55.1, 1.0, 0.3, 0.02])
    found = prior(x, sigma).x0
    inside, noise = prior.network.calls[0]
    # index i of the nearest level is time len - 2 - i: 3 for the largest
    assert noise.tolist() == [3, 2, 3, 1, 0, -1]
    s = sigma[:, None, None, None]
    torch.testing.assert_close(inside, x / (s**2 + 1).sqrt())
    # the second half of F is left out
    torch.testing.assert_close(found, x - s * (0.3 * inside + noise[:, None, None, None]))
    assert prior(x, sigma).variance_mix is None


class Oracle(nn.Module):
    """A network that answers with one tensor."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.config = DhariwalConfig(8, 1, 1)
        self.answer = answer

    def forward(self, x, c):
        return self.answer


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v"])
@pytest.mark.parametrize("schedule", ["linear", "scaled-linear", "cosine"])
def test_a_perfect_network_of_every_prediction_gives_the_image(prediction, schedule):
    table = VPTable(schedule, prediction=prediction)
    x0, eps = torch.randn(2, 1, 1, 4, 4, dtype=torch.float64)
    for t in (0, 300, 990):
        ab = float(table.alpha_bars[t])
        answers = {"epsilon": eps, "sample": x0, "v": ab**0.5 * eps - (1 - ab) ** 0.5 * x0}
        prior = denoiser("vp-table", Oracle(answers[prediction]), schedule=schedule, prediction=prediction)
        sigma = math.sqrt((1 - ab) / ab)
        torch.testing.assert_close(prior(x0 + sigma * eps, sigma).x0, x0, rtol=1e-8, atol=1e-8)
        assert table.coefficients(torch.tensor([sigma])).noise.tolist() == [t]


def test_scaled_linear_betas_have_linear_square_roots():
    ab = VPTable("scaled-linear", 50, 0.01, 0.04).alpha_bars
    betas = 1 - ab[1:] / ab[:-1]
    roots = [0.1 + (0.2 - 0.1) * k / 49 for k in range(1, 50)]
    assert betas**0.5 == pytest.approx(roots, rel=1e-9) and ab[0] == pytest.approx(0.99)


@pytest.mark.parametrize("wrong", [{"schedule": "sigmoid"}, {"prediction": "x"}, {"count": 1}, {"beta_min": 0.5}])
def test_tables_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        VPTable(**wrong)


def test_edm_is_that_of_our_own_denoiser():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4))
        for p in network.parameters():
            nn.init.normal_(p, std=0.1)
    info = PriorInfo("tiny", 1, multiple=4, sigma_max=10.0)
    ours, theirs = EDMDenoiser(network, info, 0.4), PreconditionedDenoiser(network, info, "edm", sigma_data=0.4)
    x, sigma = torch.randn(3, 1, 9, 14), torch.tensor([0.1, 3.0, 40.0])
    torch.testing.assert_close(theirs(x, sigma).x0, ours(x, sigma).x0, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["edm", "vp", "ve", "score-ve"])
def test_a_level_above_sigma_max_is_evaluated_there_on_the_rescaled_input(kind):
    prior, x = denoiser(kind, sigma_max=10.0), 40 * torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(prior(x, 40.0).x0, prior(x / 4, 10.0).x0)
    torch.testing.assert_close(prior(x, 9.0).x0, denoiser(kind)(x, 9.0).x0)


def test_sizes_are_padded_by_reflection_and_cropped_back():
    prior = denoiser("ve", multiple=4)
    x = torch.randn(1, 1, 5, 8)
    assert prior(x, 1.0).x0.shape == x.shape
    inside = prior.network.calls[0][0]
    assert inside.shape[-2:] == (8, 8)
    torch.testing.assert_close(inside[..., 1:6, :], x)
    torch.testing.assert_close(inside[..., 0, :], x[..., 1, :])
    with pytest.raises(ConfigError, match="pixels a side"):
        prior(torch.randn(1, 1, 1, 8), 1.0)


def test_classes_reach_the_network_as_vectors():
    prior, x = denoiser("edm", Recorder(labels=3)), torch.randn(2, 1, 4, 4)
    prior(x, 1.0, torch.tensor([2, 0]))
    assert prior.network.calls[-1][2].tolist() == [[0, 0, 1], [1, 0, 0]]
    mixed = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    prior(x, 1.0, mixed)
    assert torch.equal(prior.network.calls[-1][2], mixed)
    prior(x, 1.0)
    assert len(prior.network.calls[-1]) == 2
    with pytest.raises(ConfigError, match="takes no classes"):
        denoiser("edm")(x, 1.0, torch.tensor([0, 1]))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_settings_are_plain_and_build_the_same_again(kind):
    parameters = {"levels": (3.0, 1.0, 0.0)} if kind == "iddpm" else {}
    prior = denoiser(kind, **parameters)
    assert prior.settings["kind"] == kind
    again = PreconditionedDenoiser(prior.network, prior.info, **prior.settings)
    assert again.preconditioning == prior.preconditioning


def test_kinds_are_those_of_their_classes():
    assert {c.kind: c for c in (EDM, VP, VE, IDDPM, ScoreVE)}.items() <= KINDS.items()


def test_moving_keeps_the_denoiser():
    prior = denoiser("vp")
    moved = prior.to("cpu")
    assert moved is not prior and moved.preconditioning == prior.preconditioning


def test_attention_is_the_softmax_of_scaled_products():
    q, k, v = torch.randn(3, 2, 5, 7, dtype=torch.float64)
    weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(5), dim=2)
    torch.testing.assert_close(attend(q, k, v), (weights @ v.transpose(1, 2)).transpose(1, 2))


def test_heads_take_neighbouring_channels_and_interleaved_qkv():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        block = UNetBlock(128, 128, BlockStyle(8), attention=True).double()
    assert block.heads == 2
    x = torch.randn(1, 128, 2, 3, dtype=torch.float64)
    qkv = block.qkv(block.norm2(x))[0].detach().reshape(128, 3, 6)
    heads = []
    for h in range(2):
        q, k, v = qkv[64 * h : 64 * h + 64].unbind(1)
        heads.append(v @ torch.softmax(q.T @ k / 8, dim=1).T)
    expected = block.proj(torch.cat(heads).reshape(1, 128, 2, 3))
    torch.testing.assert_close(block._attention(x), expected)


def test_fir_filters_are_adjoint_up_to_gain_and_keep_constants():
    kernel = fir_kernel((1, 3, 3, 1)).double()
    assert float(kernel.sum()) == pytest.approx(1.0)
    small, large = torch.randn(1, 2, 5, 6, dtype=torch.float64), torch.randn(1, 2, 10, 12, dtype=torch.float64)
    product = (fir_up(small, kernel) * large).sum()
    torch.testing.assert_close(product, 4 * (small * fir_down(large, kernel)).sum())
    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(fir_down(ones, kernel)[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2, dtype=torch.float64))
    torch.testing.assert_close(fir_up(ones, kernel)[..., 1:-1, 1:-1], torch.ones(1, 1, 14, 14, dtype=torch.float64))
    box = fir_kernel((1, 1)).double()
    torch.testing.assert_close(fir_down(large, box), nn.functional.avg_pool2d(large, 2))
    torch.testing.assert_close(fir_up(small, box), nn.functional.interpolate(small, scale_factor=2))
