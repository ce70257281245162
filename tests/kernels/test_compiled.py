"""The compiled kernels against the reference's matrix, entry by entry in effect, and each other."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray_cases import cones, fans, parallel

from recon.kernels import compiled
from recon.kernels.compiled import CompiledProjector, library
from recon.kernels.parallel import ParallelGeometry
from recon.kernels.reference import matrix_of
from recon.kernels.scans import ConeGeometry, FanGeometry

pytestmark = pytest.mark.skipif(library().handle is None, reason=library().reason)


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def check(geometry, batch):
    rays = geometry.rays()
    projector, matrix = CompiledProjector(rays), matrix_of(rays, np.float64)
    scale = np.sqrt((matrix.data**2).sum()) + 1e-300
    for dtype, tolerance, adjoint_tolerance in ((torch.float32, 2e-5, 1e-6), (torch.float64, 1e-11, 1e-12)):
        x, y = normal(batch, rays.pixels, dtype=dtype), normal(batch, matrix.shape[0], dtype=dtype, seed=1)
        ax, aty = projector.forward(x).double(), projector.adjoint(y).double()
        assert np.linalg.norm(ax.numpy() - (matrix @ x.double().numpy().T).T) <= tolerance * scale * batch
        assert np.linalg.norm(aty.numpy() - (matrix.T @ y.double().numpy().T).T) <= tolerance * scale * batch
        for against in (y.double(), ax):
            back = projector.adjoint(against.to(dtype)).double()
            gap = abs(float((ax * against).sum() - (x.double() * back).sum()))
            # a single ray may sum to almost nothing: then the other product is the scale
            larger = max(float(ax.norm() * against.norm()), float(x.double().norm() * back.norm()))
            assert gap <= adjoint_tolerance * larger + 1e-30


batches = st.sampled_from([1, 2, 3, 5, 8, 9])


@settings(max_examples=60, deadline=None)
@given(geometry=parallel(), batch=batches)
def test_any_parallel_scan(geometry, batch):
    check(geometry, batch)


@settings(max_examples=60, deadline=None)
@given(geometry=fans(), batch=batches)
def test_any_fan(geometry, batch):
    check(geometry, batch)


@settings(max_examples=40, deadline=None)
@given(geometry=cones(), batch=st.sampled_from([1, 2, 4, 8]))
def test_any_cone(geometry, batch):
    check(geometry, batch)


@pytest.mark.parametrize("offset", [0.0, 1e-9, -1e-9, 0.5, 40.0, -40.0, 1e12])
def test_rays_on_and_beside_the_pixels_edges(offset):
    for step in (1.0, 1.0 + 1e-12, 0.5, 2.0):
        check(ParallelGeometry((15, 15), np.arange(24) * 15.0, 23, step, offset), 1)


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("batch", [1, 8])
def test_results_do_not_depend_on_threads(monkeypatch, threads, batch):
    for geometry in (
        ParallelGeometry((70, 61), np.arange(40) * 4.5, 95),
        FanGeometry((70, 61), np.arange(40) * 9.0, 120, 1.1, 110, 170),
        ConeGeometry((7, 30, 21), np.arange(20) * 18.0, (9, 50), (1.1, 1.2), 60, 100),
    ):
        projector = CompiledProjector(geometry.rays())
        rays = projector.rays
        x = normal(batch, rays.pixels, dtype=torch.float32)
        y = normal(batch, rays.views * rays.rays_per_view, dtype=torch.float32)
        monkeypatch.setattr(compiled.torch, "get_num_threads", lambda: 1)
        alone = projector.forward(x), projector.adjoint(y)
        monkeypatch.setattr(compiled.torch, "get_num_threads", lambda: threads)
        assert torch.equal(projector.forward(x), alone[0]) and torch.equal(projector.adjoint(y), alone[1])


def test_arguments_may_be_views():
    projector = CompiledProjector(ParallelGeometry((6, 5), np.arange(4) * 45.0, 9).rays())
    wide = normal(3, 60, dtype=torch.float32)
    assert torch.equal(projector.forward(wide[:, ::2]), projector.forward(wide[:, ::2].contiguous()))


def test_copies_and_pickles_project_alike():
    projector = CompiledProjector(FanGeometry((6, 5), np.arange(4) * 45.0, 9, 1.0, 20, 30).rays())
    x = normal(1, 30)
    again, deep = pickle.loads(pickle.dumps(projector)), copy.deepcopy(projector)
    assert torch.equal(again.forward(x), projector.forward(x)) and torch.equal(deep.forward(x), projector.forward(x))


def test_values_that_are_not_finite_stay_where_they_are():
    projector = CompiledProjector(ParallelGeometry((9, 9), np.array([0.0]), 9).rays())
    x = torch.zeros(1, 9, 9)
    x[0, 4, 4] = torch.nan
    assert projector.forward(x.flatten(1)).isnan().sum() <= 3


def test_no_matrix_is_stored():
    projector = CompiledProjector(ParallelGeometry((512, 512), np.arange(720) / 4, 725).rays())
    assert sum(array.nbytes for array in projector._kept) < 20e6
