"""Operators of volumes: blocks over slices, and averages of neighbouring slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from battery import check_operator

from recon.errors import ConfigError
from recon.operators import slices
from recon.operators.inpaint import Inpaint
from recon.operators.mri import CartesianMRI
from recon.operators.registry import build, draw
from recon.operators.slices import Slicewise, chosen_of


def mask(seed: int, share: float = 0.6) -> torch.Tensor:
    return (torch.rand(6, 5, generator=torch.Generator().manual_seed(seed)) < share).float()


def maps(seed: int) -> torch.Tensor:
    return torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.complex64)


OPERATORS = {
    "one for all": lambda: Slicewise([Inpaint((1, 6, 5), mask(0))], 4),
    "MRI, a mask for each": lambda: Slicewise([CartesianMRI(mask(k)) for k in range(3)]),
    "MRI, maps for each, complex": lambda: Slicewise([CartesianMRI(mask(k), maps(k), True) for k in range(3)]),
    "tomography": lambda: Slicewise([build(draw("ct", {"angles": 5}, (1, 6, 5), 0))], 3),
    "slice-average": lambda: build(draw("slice-average", {"factor": 3}, (2, 6, 5, 4), 0)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_battery(name):
    check_operator(OPERATORS[name](), tol32=2e-6, tol64=1e-10)


@pytest.mark.parametrize("together", [1, 60, 10**6])
def test_each_slice_is_measured_by_its_own_operator_whatever_goes_together(monkeypatch, together):
    monkeypatch.setattr(slices, "TOGETHER", together)
    parts = [CartesianMRI(mask(k), maps(k)) for k in range(4)]
    shared = Slicewise([parts[0]], 4)
    each = Slicewise(parts)
    x = torch.randn(2, 1, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    for volume, of in ((each, parts), (shared, [parts[0]] * 4)):
        y = volume.forward(x)
        assert y.shape == (2, 4, 2, 6, 5)
        for z, part in enumerate(of):
            assert torch.allclose(y[:, z], part.forward(x[:, :, z]), atol=1e-6)
            assert torch.allclose(volume.adjoint(y)[:, :, z], part.adjoint(y[:, z]), atol=1e-5)
            assert torch.allclose(volume.normal(x)[:, :, z], part.normal(x[:, :, z]), atol=1e-5)
        assert volume.measured() == sum(part.measured() for part in of)
        inner = volume.part(1, 2)
        assert torch.allclose(inner.forward(x[:, :, 1:3]), y[:, 1:3], atol=1e-6)


def test_slices_that_make_no_volume_are_refused():
    with pytest.raises(ConfigError, match="linear operator"):
        Slicewise([build(draw("phase-retrieval", {}, (1, 8, 8), 0))], 3)
    with pytest.raises(ConfigError, match="do not make a volume"):
        Slicewise([CartesianMRI(mask(0)), CartesianMRI(mask(1), maps(1))])
    with pytest.raises(ConfigError, match="do not make a volume"):
        Slicewise([CartesianMRI(mask(0)), CartesianMRI(mask(1))], 3)


def test_thick_slices_are_means_of_thin_ones():
    operator = build(draw("slice-average", {"factor": 2}, (1, 4, 1, 2), 0))
    x = torch.tensor(np.arange(8.0).reshape(1, 1, 4, 1, 2), dtype=torch.float32)
    assert operator.forward(x).flatten().tolist() == [1, 2, 5, 6]
    assert operator.pinv(torch.tensor([[[[[1.0, 2.0]], [[5.0, 6.0]]]]])).flatten().tolist() == [1, 2, 1, 2, 5, 6, 5, 6]
    with pytest.raises(ConfigError, match="do not divide"):
        build(draw("slice-average", {"factor": 3}, (1, 4, 5, 5), 0))
    with pytest.raises(ConfigError, match="expects a volume"):
        build(draw("slice-average", {}, (1, 5, 5), 0))


@pytest.mark.parametrize("shared", [False, True])
def test_some_slices_are_measured_as_among_all(shared):
    masks = [(torch.rand(4, 4, generator=torch.Generator().manual_seed(z)) < 0.5).float() for z in range(5)]
    parts = [Inpaint((1, 4, 4), mask) for mask in masks]
    whole = 2.0 * (Slicewise(parts[:1], 5) if shared else Slicewise(parts))
    x = torch.randn(1, 1, 5, 4, 4, generator=torch.Generator().manual_seed(9))
    some = chosen_of(whole, [3, 0, 4])
    assert some is not None
    assert torch.equal(some.forward(x[:, :, [3, 0, 4]]), whole.forward(x)[:, [3, 0, 4]])
    assert chosen_of(build(draw("slice-average", {"factor": 2}, (1, 4, 8, 8), 0)), [0]) is None
