"""Tiles: a partition of unity, exact for denoisers that see no further than the margin, and what it costs others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction, PriorInfo, per_item
from recon.priors.edm import EDMDenoiser
from recon.priors.networks.ffdnet import FFDNet, FFDNetConfig
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.tiled import Tiled, tiling_error


class Blur(Denoiser):
    """A mean over (2 reach + 1)^2 pixels, zeros beyond the image, plus sigma; counts its calls and their sizes."""

    def __init__(self, reach, multiple=1, sizes=None, extras=False):
        self.reach, self.extras, self.seen = reach, extras, []
        self.info = PriorInfo("blur", 1, multiple=multiple, sizes=sizes)

    def _denoise(self, x, sigma, cond):
        self.seen.append(tuple(x.shape))
        kernel = torch.ones(1, 1, 2 * self.reach + 1, 2 * self.reach + 1, dtype=x.dtype)
        x0 = F.conv2d(x, kernel / kernel.numel(), padding=self.reach) + per_item(sigma, x)
        if cond is not None:
            x0 = x0 + cond[:, None, None, None]
        return Prediction(x0, 0.5 * x0, 2 * x0) if self.extras else Prediction(x0)


def image(height, width, batch=2):
    return torch.randn(batch, 1, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(0, 11),
    st.floats(0.05, 1.0),
    st.sampled_from([1, 2, 4]),
)
def test_weights_sum_to_one(height, width, size, overlap, blend, multiple):
    inner = Blur(0, multiple)
    rounded = -(-size // multiple) * multiple
    tiled = Tiled(inner, size, min(overlap, rounded - multiple), blend)
    if min(height, width) * 2 < multiple + 2:
        return
    x = image(height, width)
    torch.testing.assert_close(tiled(x, 0.25).x0, x + 0.25, rtol=1e-12, atol=1e-12)
    assert all(max(shape[2:]) <= rounded for shape in inner.seen)


@pytest.mark.parametrize(("reach", "overlap", "blend"), [(0, 0, 1.0), (2, 8, 0.5), (3, 8, 0.25), (4, 9, 0.1)])
def test_a_denoiser_that_sees_no_further_than_the_margin_is_exact(reach, overlap, blend):
    inner = Blur(reach)
    tiled = Tiled(inner, 16, overlap, blend)
    assert tiled.margin == reach
    for shape in ((40, 37), (16, 50), (9, 16)):
        x = image(*shape)
        torch.testing.assert_close(tiled(x, 0.5).x0, inner(x, 0.5).x0, rtol=1e-12, atol=1e-12)


def test_a_denoiser_that_sees_further_is_not_exact_and_the_error_is_measured():
    near, far = (Tiled(Blur(3), 16, overlap) for overlap in (12, 4))
    x = image(40, 40)
    assert float(tiling_error(near, x, 0.1).max()) < 1e-12
    error = tiling_error(far, x, 0.1)
    assert error.shape == (2,) and 1e-4 < float(error.min()) and float(error.max()) < 0.3
    whole, tiled = Blur(3)(x, 0.1).x0, far(x, 0.1).x0
    for i in range(2):
        assert float(error[i]) == pytest.approx(float((tiled[i] - whole[i]).norm() / whole[i].norm()))


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = FFDNet(FFDNetConfig(1, 8, 3))
        for p in net.parameters():
            nn.init.normal_(p, std=0.2)
    return net


@pytest.mark.parametrize(("height", "width"), [(40, 36), (41, 33)])
def test_subsampling_grids_agree(height, width):
    # three convolutions on the unshuffled image see six pixels, and one more within a pair
    info = PriorInfo("f", 1, multiple=2, value_range=(0.0, 1.0), sigma_max=0.3)
    inner = PreconditionedDenoiser(network(), info, "direct")
    x = image(height, width).float()
    far, near = Tiled(inner, 20, 16, 0.1), Tiled(inner, 20, 16)
    assert far.margin == 7 and near.margin == 4
    torch.testing.assert_close(far(x, 0.1).x0, inner(x, 0.1).x0, rtol=1e-5, atol=1e-5)
    assert 1e-4 < float(tiling_error(near, x, 0.1).max()) < 0.05


def test_normalisation_over_the_image_is_not_local():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = UNet(UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4))
        for p in net.parameters():
            nn.init.normal_(p, std=0.1)
    inner = EDMDenoiser(net, PriorInfo("u", 1, multiple=4))
    x = image(64, 64).float()
    x[..., :32] *= 3
    error = tiling_error(Tiled(inner, 32, 16), x, 0.5)
    assert 1e-4 < float(error.max()) < 0.5


def test_levels_classes_and_all_parts_of_a_prediction_follow_their_item():
    inner = Blur(1, extras=True)
    x, sigma, cond = image(20, 30), torch.tensor([0.1, 3.0], dtype=torch.float64), torch.tensor([1.0, 2.0])
    whole = inner(x, sigma, cond)
    for batch in (1, 3, 100):
        seen = Tiled(inner, 12, 6, batch=batch)(x, sigma, cond)
        for part in ("x0", "variance_mix", "x0_uncond"):
            torch.testing.assert_close(getattr(seen, part), getattr(whole, part), rtol=1e-6, atol=1e-6)
        assert max(shape[0] for shape in inner.seen[1:]) == 2 * min(batch, 12)
        inner.seen[1:] = []


def test_gradients_go_through():
    tiled, x = Tiled(Blur(1), 8, 4), image(12, 15, 1).requires_grad_()
    v = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad(tiled(x, 0.1).x0, x, v)
    (expected,) = torch.autograd.grad(Blur(1)(x, 0.1).x0, x, v)
    torch.testing.assert_close(found, expected)


def test_a_prior_of_one_size_takes_larger_images():
    inner = Blur(0, sizes=(8, 8))
    x = image(19, 8)
    torch.testing.assert_close(Tiled(inner, 8, 2)(x, 0.5).x0, x + 0.5)
    assert set(inner.seen) == {(2, 1, 8, 8)} and Tiled(inner, 8, 2).info.sizes is None
    with pytest.raises(ConfigError, match=r"takes images of \(8, 8\) alone, not tiles of 16"):
        Tiled(inner, 16, 2)
    with pytest.raises(ConfigError, match="at least 8 pixels a side, got 7"):
        Tiled(inner, 8, 2)(image(7, 9), 0.5)


@pytest.mark.parametrize(
    ("size", "overlap", "blend"), [(0, 0, 0.5), (8, 8, 0.5), (8, -1, 0.5), (8, 2, 0.0), (8, 2, 1.5)]
)
def test_tiles_that_leave_no_step_are_refused(size, overlap, blend):
    with pytest.raises(ConfigError, match="cannot overlap"):
        Tiled(Blur(1), size, overlap, blend)


def test_moving_keeps_the_tiles():
    moved = Tiled(Blur(1), 8, 4, 0.3, 5).to("cpu")
    assert (moved.size, moved.overlap, moved.blend, moved.batch) == (8, 4, 0.3, 5)
