"""The parallel-beam projector: against a ray-by-ray Joseph, analytic line integrals, and its exact transpose."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.errors import ResourceError
from recon.kernels.fbp import angular_weights, filtered_backprojection, ramp_filter
from recon.kernels.parallel import ParallelGeometry, projection_matrix
from recon.kernels.sparse import sparse_product, to_csr

geometries = st.builds(
    ParallelGeometry,
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    angles=st.lists(st.floats(-400, 400), min_size=1, max_size=6).map(np.array),
    detectors=st.integers(1, 16),
    spacing=st.floats(0.3, 3),
    offset=st.floats(-4, 4),
    pixel_size=st.floats(0.1, 10),
)


def evenly(shape, count, detectors, arc=180.0, **more):
    return ParallelGeometry(shape, np.arange(count) * arc / count, detectors, **more)


def project(geometry, image):
    matrix, _ = projection_matrix(geometry, np.float64)
    return (matrix @ image.ravel()).reshape(-1, geometry.detectors)


def joseph(geometry, image):
    """Walk along each ray, row by row or column by column, and interpolate linearly across."""
    rows, columns = image.shape
    y, x = geometry.pixel_axes()

    def between(line, position):
        i = math.floor(position)
        take = [line[j] if 0 <= j < len(line) else 0.0 for j in (i, i + 1)]
        return take[0] * (i + 1 - position) + take[1] * (position - i)

    out = np.zeros((len(geometry.angles), geometry.detectors))
    for a, theta in enumerate(np.radians(geometry.angles)):
        c, s = math.cos(theta), math.sin(theta)
        for m, t in enumerate(geometry.detector_axis()):
            if abs(c) >= abs(s):  # the ray is x = (t - y s) / c
                walk = [between(image[j], (t - y[j] * s) / c - x[0]) for j in range(rows)]
            else:
                walk = [between(image[:, k], y[0] - (t - x[k] * c) / s) for k in range(columns)]
            out[a, m] = sum(walk) / max(abs(c), abs(s)) * geometry.pixel_size
    return out


def ellipse(geometry, x0, y0, a, b, turn, supersampling=5):
    """An antialiased ellipse of density 1 and its exact line integrals, in pixels."""
    y, x = geometry.pixel_axes()
    c, s = math.cos(turn), math.sin(turn)
    image = np.zeros(geometry.shape)
    fine = (np.arange(supersampling) + 0.5) / supersampling - 0.5
    for dy in fine:
        for dx in fine:
            u, v = x[None] + dx - x0, y[:, None] + dy - y0
            image += ((u * c + v * s) / a) ** 2 + ((v * c - u * s) / b) ** 2 < 1
    theta = np.radians(geometry.angles)[:, None]
    radius2 = (a * np.cos(theta - turn)) ** 2 + (b * np.sin(theta - turn)) ** 2
    t = geometry.detector_axis() - (x0 * np.cos(theta) + y0 * np.sin(theta))
    return image / supersampling**2, 2 * a * b * np.sqrt(np.maximum(radius2 - t**2, 0)) / radius2


@settings(max_examples=40, deadline=None)
@given(geometry=geometries, seed=st.integers(0, 99))
def test_matrix_is_josephs_method_ray_by_ray(geometry, seed):
    image = np.random.default_rng(seed).normal(size=geometry.shape)
    expected = joseph(geometry, image)
    assert np.allclose(project(geometry, image), expected, rtol=0, atol=1e-9 * (1 + np.abs(expected).max()))


@settings(max_examples=25, deadline=None)
@given(geometry=geometries)
def test_transpose_holds_the_same_entries_in_order(geometry):
    matrix, transposed = projection_matrix(geometry)
    assert matrix.dtype == np.float32 and matrix.indices.dtype == matrix.indptr.dtype == np.int32
    assert (matrix.T != transposed).nnz == 0
    for each in (matrix, transposed):
        rows = np.repeat(np.arange(each.shape[0]), np.diff(each.indptr))
        assert (np.diff(rows * each.shape[1] + each.indices) > 0).all()
        assert (each.data > 0).all()


@pytest.mark.parametrize("spacing", [1.0, 0.7])
def test_ellipses_within_one_percent_of_their_line_integrals(spacing):
    geometry = evenly((128, 128), 45, math.ceil(182 / spacing), spacing=spacing, offset=0.3)
    image, exact = np.zeros(geometry.shape), np.zeros((45, geometry.detectors))
    for density, *shape in ((1, 5, -3, 50, 38, 0.4), (-0.6, 10, 8, 20, 12, 1.2), (0.8, -20, -10, 6, 9, 0)):
        one, integrals = ellipse(geometry, *shape)
        image, exact = image + density * one, exact + density * integrals
    error = np.linalg.norm(project(geometry, image) - exact) / np.linalg.norm(exact)
    assert error < 0.01


def test_right_angles_sum_columns_and_rows():
    image = np.random.default_rng(0).normal(size=(5, 7))
    y = project(ParallelGeometry((5, 7), np.array([0, 90, 180, 270]), 7), image)
    assert np.allclose(y[0], image.sum(0)) and np.allclose(y[2], image.sum(0)[::-1])
    assert np.allclose(y[1, 1:6], image.sum(1)[::-1]) and np.allclose(y[3, 1:6], image.sum(1))
    assert not y[1, [0, 6]].any()


def test_orientation_agrees_with_scikit_image():
    from skimage.transform import radon

    geometry = evenly((61, 61), 12, 61)
    image = ellipse(geometry, 9, 6, 14, 5, 0.5)[0] + ellipse(geometry, -12, 2, 4, 7, 0.1)[0]
    theirs = radon(image, geometry.angles, circle=True).T
    ours = project(geometry, image)
    assert np.linalg.norm(ours - theirs) < 0.03 * np.linalg.norm(theirs)


def test_lengths_scale_and_offsets_shift():
    image = np.random.default_rng(0).normal(size=(12, 9))
    plain = project(evenly((12, 9), 8, 21), image)
    assert np.allclose(project(evenly((12, 9), 8, 21, pixel_size=0.5), image), 0.5 * plain)
    assert np.allclose(project(evenly((12, 9), 8, 21, offset=2.0), image)[:, :-2], plain[:, 2:])
    assert np.allclose(project(evenly((12, 9), 8, 11, spacing=2.0), image), plain[:, ::2])


def test_memory_is_known_beforehand():
    geometry = evenly((64, 48), 30, 93)
    matrix, transposed = projection_matrix(geometry)
    held = sum(part.nbytes for m in (matrix, transposed) for part in (m.data, m.indices, m.indptr))
    assert geometry.bytes_needed() == pytest.approx(held, rel=0.02)
    with pytest.raises(ResourceError, match="entries"):
        projection_matrix(evenly((4000, 4000), 720, 5657))


def csr(seed=0, dtype=np.float64):
    matrix, transposed = projection_matrix(evenly((4, 5), 3, 7), dtype)
    return to_csr(matrix), to_csr(transposed)


def test_product_has_the_transpose_as_its_gradient():
    matrix, transposed = csr()
    x = torch.randn(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.allclose(sparse_product(matrix, transposed, x), x @ matrix.to_dense().T)
    (gradient,) = torch.autograd.grad(sparse_product(matrix, transposed, x).pow(3).sum(), x, create_graph=True)
    dense = matrix.to_dense()
    assert torch.allclose(gradient, 3 * (x @ dense.T) ** 2 @ dense)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert torch.allclose(second, 6 * ((x @ dense.T) * dense.sum(1)) @ dense)


@pytest.mark.slow
def test_product_has_forward_derivatives():
    matrix, transposed = csr()
    x = torch.randn(1, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: sparse_product(matrix, transposed, v), (x,), check_forward_ad=True)


def test_product_of_one_item_is_that_of_a_batch():
    matrix, transposed = csr(dtype=np.float32)
    x = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    batch = sparse_product(matrix, transposed, x)
    assert batch.is_contiguous() and batch.shape == (4, 21)
    for i in range(4):
        assert torch.allclose(sparse_product(matrix, transposed, x[i : i + 1])[0], batch[i], atol=1e-5)
    assert torch.equal(batch, sparse_product(matrix, transposed, x))


@pytest.mark.parametrize(
    "angles, expected",
    [
        (np.arange(180), np.full(180, 1.0)),
        (np.arange(0, 360, 2), np.full(180, 1.0)),
        (np.arange(120), np.full(120, 1.0)),
        (np.arange(100)[::-1] - 50, np.full(100, 1.0)),
        (np.array([0, 0, 90]), np.array([45, 45, 90])),
        (np.array([10.0, 30, 90, 120]), np.array([45, 40, 45, 50])),
        (np.array([33.0]), np.array([180])),
    ],
)
def test_angular_weights_follow_the_gaps(angles, expected):
    assert np.allclose(np.degrees(angular_weights(angles)), expected)


@pytest.mark.parametrize("at", [0, 4, 8])
def test_ramp_filter_is_the_sampled_kernel_without_wrapping(at):
    impulse = torch.zeros(1, 9, dtype=torch.float64)
    impulse[0, at] = 1
    n = np.arange(9) - at
    expected = np.where(n % 2 == 0, 0, -1 / (np.pi * np.where(n == 0, 1, n)) ** 2)
    expected[at] = 0.25
    assert np.allclose(ramp_filter(impulse, 0.5).numpy()[0], expected / 0.5)


@pytest.mark.parametrize(
    "count, arc, spacing, size", [(180, 180, 1.0, 1.0), (181, 360, 0.8, 1.0), (180, 180, 1.3, 0.25)]
)
def test_fbp_returns_a_discs_density(count, arc, spacing, size):
    geometry = evenly((96, 90), count, math.ceil(140 / spacing), arc=arc, spacing=spacing, pixel_size=size)
    _, exact = ellipse(geometry, 6, -4, 25, 25, 0)
    fbp = filtered_backprojection(torch.from_numpy(exact * size)[None], geometry)[0].numpy()
    y, x = np.meshgrid(*geometry.pixel_axes(), indexing="ij")
    inside = (x - 6) ** 2 + (y + 4) ** 2 < 20**2
    assert abs(fbp[inside].mean() - 1) < 0.01
    assert np.abs(fbp[np.hypot(x - 6, y + 4) < 3] - 1).max() < 0.02
    assert abs(fbp[np.hypot(x - 6, y + 4) > 32].mean()) < 0.01


def test_fbp_of_two_arcs_adds_up_to_the_whole():
    y = torch.randn(1, 60, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = filtered_backprojection(y, evenly((20, 22), 60, 31))
    parts = [ParallelGeometry((20, 22), np.arange(60)[half] * 3.0, 31) for half in (slice(0, 25), slice(25, 60))]
    halves = [filtered_backprojection(y[:, :25], parts[0]), filtered_backprojection(y[:, 25:], parts[1])]
    assert torch.allclose(halves[0] + halves[1], whole, rtol=0, atol=1e-12)
