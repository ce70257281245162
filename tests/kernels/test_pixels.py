"""The compiled filtered backprojection against the one in torch, for all geometries."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray_cases import cones, fans, parallel

from recon.kernels import compiled, pixels
from recon.kernels.fbp import filtered_backprojection
from recon.kernels.parallel import ParallelGeometry
from recon.kernels.point_source import cone_backprojection, fan_backprojection
from recon.kernels.scans import ConeGeometry, FanGeometry

pytestmark = pytest.mark.skipif(compiled.library().handle is None, reason=compiled.library().reason)
RETURNS = {
    ParallelGeometry: filtered_backprojection,
    FanGeometry: fan_backprojection,
    ConeGeometry: cone_backprojection,
}
VIEWS = {"full": np.arange(14) * 360 / 14, "short": 20 + np.arange(14) * 215 / 14}


def fan(views=VIEWS["full"], curved=False, source=90.0):
    return FanGeometry((33, 41), views, 53, 1.7, source, 1.5 * source, 0.9, 1.3, curved)


def cone(views=VIEWS["full"], shape=(21, 18, 19)):
    return ConeGeometry(shape, views, (23, 29), (1.3, 1.6), 60, 95, 1.1, 0.7, (0.8, -1.1))


def data(geometry, batch=1, dtype=torch.float64, seed=0):
    shape = (batch, *geometry.out_shape)
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def both(geometry, y):
    found = []
    for kernels in ("compiled", "reference"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RECON_KERNELS", kernels)
            found.append(RETURNS[type(geometry)](y, geometry))
    return found


def agree(geometry, y, limit):
    fast, plain = both(geometry, y)
    assert fast.dtype == plain.dtype and fast.shape == plain.shape == (len(y), *geometry.in_shape)
    assert float((fast - plain).abs().max()) <= limit * float(plain.abs().max())


@settings(max_examples=60, deadline=None)
@given(geometry=st.one_of(parallel(), fans(), cones()), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_it_is_the_torch_path(geometry, batch, seed):
    agree(geometry, data(geometry, batch, seed=seed), 1e-11)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("make", [fan, lambda v: fan(v, True), cone])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_short_and_full_scans_in_both_types(make, views, dtype, limit):
    agree(make(VIEWS[views]), data(make(VIEWS[views]), 2, dtype), limit)


@pytest.mark.parametrize("source", [26.0, 40.0, 400.0])
def test_angles_are_as_exact_near_the_source(source):
    agree(fan(curved=True, source=source), data(fan(source=source)), 1e-11)


@pytest.mark.parametrize("shape", [(1, 3, 9), (40, 8, 17), (7, 1, 1), (3, 16, 8)])
def test_patches_and_windows_end_anywhere(shape):
    for dtype, limit in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
        agree(cone(shape=shape), data(cone(), dtype=dtype), limit)


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("geometry", [fan(), fan(curved=True), cone()])
def test_results_do_not_depend_on_threads(monkeypatch, threads, geometry):
    y, found = data(geometry, 2, torch.float32), []
    for count in (1, threads):
        monkeypatch.setattr(compiled.torch, "get_num_threads", lambda count=count: count)
        found.append(RETURNS[type(geometry)](y, geometry))
    assert torch.equal(*found)


@pytest.mark.parametrize("geometry", [fan(), cone()])
def test_items_stay_apart(geometry):
    y = data(geometry, 2)
    y[0, 3] = math.nan
    found = RETURNS[type(geometry)](y, geometry)
    assert bool(found[0].isnan().any()) and bool(found[1].isfinite().all())


@pytest.mark.parametrize("geometry", [fan(), cone(shape=(3, 4, 5))])
def test_gradients_go_through_the_torch_path(geometry):
    y = data(geometry).requires_grad_()
    assert not pixels.serves(y) and pixels.serves(y.detach())
    x = RETURNS[type(geometry)](y, geometry)
    weights = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((x * weights).sum(), y)
    change = data(geometry, seed=2)
    moved = (RETURNS[type(geometry)](change, geometry) * weights).sum()
    torch.testing.assert_close((gradient * change).sum(), moved)
    with torch.no_grad():
        assert pixels.serves(y)


def test_other_tensors_are_left_to_torch(monkeypatch):
    assert not pixels.serves(torch.zeros(1, dtype=torch.float16)) and not pixels.serves(torch.zeros(1, device="meta"))
    monkeypatch.setenv("RECON_KERNELS", "reference")
    assert not pixels.serves(torch.zeros(1))
