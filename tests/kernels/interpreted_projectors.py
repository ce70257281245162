"""The Triton projectors in Triton's interpreter, against the reference's matrix.

Triton reads TRITON_INTERPRET when it is first imported, so `test_triton_projectors.py` runs this file in a process of
its own. Time goes with programs and loop steps, not with numbers: images are small and blocks large.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton.runtime import interpreter

from recon.errors import ResourceError
from recon.kernels import dispatch
from recon.kernels.parallel import ParallelGeometry
from recon.kernels.projector import backproject, project
from recon.kernels.reference import matrix_of
from recon.kernels.scans import ConeGeometry, FanGeometry
from recon.kernels.triton.projector import Blocks, TritonProjector
from recon.operators import registry

assert os.environ.get("TRITON_INTERPRET") == "1", "run test_triton_projectors.py"

# checks of 32-bit overflow, which triple the time; exactness is what the comparisons are for
interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
sys.path.insert(0, str(Path(__file__).parent))

SMALL = Blocks(2, 16, 2, 8, (4, 8), (2, 2, 4))
few = settings(max_examples=6, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
degrees = st.one_of(st.floats(-400, 400), st.sampled_from([0, 30, 45, 90, 135, 180, 270]))
angles = st.lists(degrees, min_size=1, max_size=3).map(lambda drawn: np.array(drawn, float))
sides, shapes = st.integers(1, 8), st.tuples(st.integers(1, 8), st.integers(1, 8))


@st.composite
def parallel(draw):
    spacing = draw(st.one_of(st.just(1.0), st.floats(0.3, 3), st.floats(20, 900)))
    shift = draw(st.one_of(st.just(0.0), st.floats(-9, 9), st.floats(-1e5, 1e5)))
    return ParallelGeometry(
        draw(shapes), draw(angles), draw(st.integers(1, 12)), spacing, shift, draw(st.floats(0.1, 9))
    )


@st.composite
def fans(draw):
    shape, size = draw(shapes), draw(st.floats(0.1, 3))
    source = size * math.hypot(shape[0] + 1, shape[1] + 1) / 2 * draw(st.floats(1.1, 6))
    lengths = (
        size * draw(st.floats(0.5, 3)),
        source,
        source * draw(st.floats(1.1, 3)),
        size,
        size * draw(st.floats(-3, 3)),
    )
    return FanGeometry(shape, draw(angles), draw(st.integers(1, 12)), *lengths, draw(st.booleans()))


@st.composite
def cones(draw):
    shape, size, thickness = draw(st.tuples(*[st.integers(1, 5)] * 3)), draw(st.floats(0.3, 3)), draw(st.floats(0.4, 3))
    source = size * math.hypot(shape[1] + 1, shape[2] + 1) / 2 * draw(st.floats(1.5, 4))
    pitch = thickness * draw(st.floats(0.6, 3)), size * draw(st.floats(0.8, 3))
    lengths = (
        source,
        source * draw(st.floats(1.1, 2)),
        size,
        thickness,
        (0.4 * thickness, size * draw(st.floats(-2, 2))),
    )
    return ConeGeometry(shape, draw(angles)[:2], (draw(sides), draw(sides)), pitch, *lengths)


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def check(geometry, batch, blocks=None, types=(torch.float32, torch.float64)):
    rays = geometry.rays()
    projector, matrix = TritonProjector(geometry, blocks=blocks), matrix_of(rays, np.float64)
    scale = np.sqrt((matrix.data**2).sum()) + 1e-300
    for dtype in types:
        tolerance, adjoint_tolerance = {torch.float32: (2e-6, 1e-6), torch.float64: (1e-12, 1e-12)}[dtype]
        x, y = normal(batch, rays.pixels, dtype=dtype), normal(batch, matrix.shape[0], dtype=dtype, seed=1)
        ax, aty = projector.forward(x).double(), projector.adjoint(y).double()
        assert np.linalg.norm(ax.numpy() - (matrix @ x.double().numpy().T).T) <= tolerance * scale * batch
        assert np.linalg.norm(aty.numpy() - (matrix.T @ y.double().numpy().T).T) <= tolerance * scale * batch
        gap = abs(float((ax * y.double()).sum() - (x.double() * aty).sum()))
        # a single ray may sum to almost nothing: then the other product is the scale
        larger = max(float(ax.norm() * y.double().norm()), float(x.double().norm() * aty.norm()))
        assert gap <= adjoint_tolerance * larger + 1e-30


IMAGES = {
    "odd": ParallelGeometry((7, 12), np.array([0.0, 17.0, 45.0, 130.0]), 13, 0.9, 0.3, 2.0),
    "on the pixels' edges": ParallelGeometry((5, 6), np.arange(8) * 45.0, 9),
    "fine": ParallelGeometry((4, 3), np.array([80.0]), 11, 0.1),
    "one detector": ParallelGeometry((3, 5), np.array([10.0]), 1),
    "beside the image": ParallelGeometry((3, 3), np.array([20.0, 90.0]), 4, 1.0, 1e6),
    "wide": ParallelGeometry((3, 3), np.array([20.0, 200.0]), 9, 800.0),
    "one pixel": ParallelGeometry((1, 1), np.array([33.0]), 3, 0.5),
    "flat fan": FanGeometry((7, 12), np.array([3.0, 53.0, 135.0]), 17, 1.5, 20, 30, 1.0, 0.7),
    "curved fan": FanGeometry((7, 12), np.array([3.0, 53.0, 135.0]), 17, 1.5, 20, 30, 1.0, 0.7, True),
    "near fan": FanGeometry((6, 5), np.array([40.0, 200.0]), 9, 2.0, 4.8, 9),
    "curved fan of one detector": FanGeometry((3, 1), np.array([30.0]), 1, 1.0, 4.5, 9, curved=True),
    "near curved fan": FanGeometry((6, 5), np.array([40.0, 200.0]), 9, 2.0, 4.8, 9, curved=True),
}
VOLUMES = {
    "cone": ConeGeometry((3, 4, 7), np.array([3.0, 135.0]), (4, 6), (1.5, 1.9), 12, 20),
    "flat": ConeGeometry((1, 3, 3), np.array([70.0]), (3, 4), (0.4, 1.5), 9, 15, 1.0, 0.7, (0.2, 0.3)),
    "grazing": ConeGeometry(
        (1, 1, 1), np.array([1.0]), (1, 2), (1.0, 1.125), 8**0.5, 3.3587572106361008, offset=(0.4, 1.75)
    ),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", IMAGES)
def test_images(name, batch):
    check(IMAGES[name], batch)


@pytest.mark.parametrize("batch, name", [(1, "cone"), (3, "cone"), (1, "flat"), (1, "grazing")])
def test_volumes(name, batch):
    check(VOLUMES[name], batch, types=(torch.float64 if name == "flat" else torch.float32,))


@few
@given(geometry=parallel(), batch=st.sampled_from([1, 3]))
def test_images_of_any_parallel_scan(geometry, batch):
    check(geometry, batch)


@few
@given(geometry=fans(), batch=st.sampled_from([1, 3]))
def test_images_of_any_fan(geometry, batch):
    check(geometry, batch)


@few
@given(geometry=cones())
def test_volumes_of_any_cone(geometry):
    check(geometry, 1, types=(torch.float32,))


@pytest.mark.parametrize("name", ["odd", "flat fan"])
def test_images_in_many_blocks(name):
    check(IMAGES[name], 3, SMALL, (torch.float32,))


def test_volumes_in_many_blocks():
    check(ConeGeometry((3, 3, 5), np.array([53.0]), (3, 9), (1.5, 1.9), 12, 20), 2, SMALL, (torch.float32,))


def test_images_so_wide_that_float32_would_misplace_rays():
    geometry = ParallelGeometry((3, 4000), np.array([90.0, 89.9, 60.0]), 41, 95.0)
    projector, matrix = TritonProjector(geometry, blocks=Blocks(1, 128, image=(4, 4096))), matrix_of(geometry.rays())
    y = normal(1, projector.rays, dtype=torch.float32)
    exact = torch.from_numpy((matrix.T @ y.double().numpy().T).T)
    assert float((projector.adjoint(y).double() - exact).norm()) <= 2e-7 * float(exact.norm())


def test_images_of_values_that_are_not_finite_stay_where_they_are():
    for geometry in (IMAGES["on the pixels' edges"], IMAGES["flat fan"]):
        projector, matrix = TritonProjector(geometry), matrix_of(geometry.rays())
        y = torch.zeros(1, projector.rays)
        y[0, 12] = torch.nan
        assert set(projector.adjoint(y).isnan().nonzero()[:, 1].tolist()) <= set(matrix[12].indices.tolist())


def test_images_have_gradients_and_complex_values(monkeypatch):
    monkeypatch.setenv("RECON_KERNELS", "triton")
    projector = dispatch.projector(IMAGES["one pixel"], 1e9)
    assert isinstance(projector, TritonProjector)
    x = torch.ones(2, 1, dtype=torch.complex128, requires_grad=True)
    y = project(projector, x)
    (gradient,) = torch.autograd.grad(y.abs().square().sum(), x)
    torch.testing.assert_close(gradient, 2 * backproject(projector, y.detach()))
    assert gradient.abs().min() > 0


def test_images_of_the_operator_as_compiled_ones(monkeypatch):
    scan = registry.draw("ct", {"angles": 3, "detectors": 11}, (1, 7, 6), seed=0)
    x = normal(1, 1, 7, 6, dtype=torch.float32)
    expected = registry.build(scan).forward(x)
    monkeypatch.setenv("RECON_KERNELS", "triton")
    operator = registry.build(scan)
    assert operator.projector.name == "triton"
    torch.testing.assert_close(operator.forward(x), expected)
    assert operator.to("cpu", torch.float64).projector is operator.projector


def test_images_by_copies_and_pickles():
    projector = TritonProjector(IMAGES["one pixel"])
    x = normal(1, 1)
    for other in (copy.deepcopy(projector), pickle.loads(pickle.dumps(projector))):
        assert torch.equal(other.forward(x), projector.forward(x))


def test_images_of_other_types_and_too_large_ones_are_refused():
    projector = TritonProjector(IMAGES["one pixel"])
    with pytest.raises(ResourceError, match="float16"):
        projector.forward(torch.ones(1, 1, dtype=torch.float16))
    with pytest.raises(ResourceError, match="10000 pixels"):
        TritonProjector(ParallelGeometry((1, 10001), np.zeros(1), 1))
    with pytest.raises(ResourceError, match="pixels apart"):
        TritonProjector(ParallelGeometry((9, 9), np.zeros(1), 9, 1e-5))
    with pytest.raises(ResourceError, match="10000 slices"):
        TritonProjector(ConeGeometry((4, 9, 8), np.zeros(1), (6, 13), (1e5, 1.5), 30, 50))
