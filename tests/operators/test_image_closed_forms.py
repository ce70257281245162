"""The image operators against closed forms, independent code, and random sizes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from battery import check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from image_cases import MASK, image, make

from recon.operators.base import LinearOperator
from recon.operators.convolution import CircularBlur, PaddedBlur
from recon.operators.direct_blur import DirectBlur
from recon.operators.motion import motion_kernel
from recon.operators.registry import draw
from recon.operators.separable import Separable

# inpainting


def test_dps_box_is_128_pixels_inside_the_margin() -> None:
    for seed in range(20):
        mask = draw("inpaint", {"size": 128, "margin": 16}, (3, 256, 256), seed).arrays["mask"]
        rows, columns = np.where(mask == 0)
        assert len(rows) == 128**2 and np.ptp(rows) == np.ptp(columns) == 127
        assert min(rows.min(), columns.min()) >= 16 and max(rows.max(), columns.max()) < 256 - 16


def test_fractions_give_the_same_box_on_any_size() -> None:
    mask = draw("inpaint", {"size": [0.5, 0.25], "position": "centre", "margin": 0}, (1, 20, 40), 0).arrays["mask"]
    expected = np.ones((20, 40))
    expected[5:15, 15:25] = 0
    np.testing.assert_array_equal(mask, expected)


def test_box_sides_are_drawn_from_the_published_range() -> None:
    sides = set()
    for seed in range(60):
        spec = draw("inpaint", {"size": 105, "size_max": 179, "margin": 32}, (3, 256, 256), seed)
        rows, columns = np.where(spec.arrays["mask"] == 0)
        sides |= {np.ptp(rows) + 1, np.ptp(columns) + 1}
        assert min(rows.min(), columns.min()) >= 32 and max(rows.max(), columns.max()) < 224
    assert min(sides) >= 105 and max(sides) <= 179 and len(sides) > 30


@pytest.mark.parametrize(
    ("params", "measured"),
    [({"missing": 0.29}, 71), ({"kept": 0.29}, 29), ({"kept": 0.999}, 99), ({"missing": 0.0}, 100)],
)
def test_random_masks_have_exact_counts(params: dict[str, float], measured: int) -> None:
    op = make("inpaint", {"mask": "random", **params}, (3, 10, 10))
    assert op.measured() == 3 * measured


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.floats(0, 0.7), st.floats(0, 0.29), st.integers(0, 99))
def test_random_masks_stay_in_their_range(rows: int, columns: int, low: float, width: float, seed: int) -> None:
    mask = draw("inpaint", {"mask": "random", "missing": [low, low + width]}, (1, rows, columns), seed).arrays["mask"]
    missing = (mask == 0).sum()
    assert int(rows * columns * low) <= missing <= rows * columns * (low + width) + 1e-6


def test_missing_pixels_are_zero_and_the_others_kept() -> None:
    op = make("inpaint", {"mask": "array"}, (3, 15, 13), {"mask": MASK * 255}).to(dtype=torch.float64)
    x = image(3, 15, 13)
    np.testing.assert_array_equal(op.forward(x).numpy(), x.numpy() * MASK)


# downsampling


@pytest.mark.parametrize(("n", "factor"), [(32, 4), (30, 3), (33, 4), (25, 2)])
def test_bicubic_keeps_constants_and_ramps(n: int, factor: int) -> None:
    op = make("downsample", {"factor": factor}, (1, n, n)).to(dtype=torch.float64)
    count = -(-n // factor)
    assert op.out_shape == (1, count, count)
    assert torch.allclose(op.forward(torch.ones(1, 1, n, n).double()), torch.ones(1).double(), atol=1e-6)
    i = torch.arange(n).double()
    y = op.forward((2 * i[:, None] - 3 * i)[None, None])[0, 0]
    centres = (torch.arange(count) - (count - 1) / 2) * factor + (n - 1) / 2
    expected = 2 * centres[:, None] - 3 * centres
    inner = slice(3, -3)  # the kernel reaches two output pixels across the border
    assert torch.allclose(y[inner, inner], expected[inner, inner].double(), atol=1e-4)


def test_bicubic_agrees_with_antialiased_interpolation_inside() -> None:
    x = image(3, 64, 48)
    y = make("downsample", {}, (3, 64, 48)).to(dtype=torch.float64).forward(x)
    expected = torch.nn.functional.interpolate(x, scale_factor=0.25, mode="bicubic", antialias=True)
    assert torch.allclose(y[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], atol=1e-6)


def test_bicubic_mirrors_the_border() -> None:
    op = make("downsample", {"factor": 2}, (1, 12, 12)).to(dtype=torch.float64)
    x = image(1, 12, 12)
    mirrored = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (12, 12), (12, 12)), mode="symmetric"))
    larger = make("downsample", {"factor": 2}, (1, 36, 36)).to(dtype=torch.float64)
    assert torch.allclose(op.forward(x), larger.forward(mirrored)[..., 6:12, 6:12], atol=1e-6)


@pytest.mark.parametrize(("rows", "columns", "factor"), [(64, 48, 4), (12, 18, 2), (9, 6, 3)])
def test_bicubic_with_a_cut_border_is_torchvisions(rows: int, columns: int, factor: int) -> None:
    x = image(3, rows, columns)
    op = make("downsample", {"factor": factor, "border": "cut"}, (3, rows, columns)).to(dtype=torch.float64)
    size = (rows // factor, columns // factor)
    expected = torch.nn.functional.interpolate(x, size=size, mode="bicubic", antialias=True)
    torch.testing.assert_close(op.forward(x), expected, rtol=0, atol=1e-6)


def test_a_kernels_reduction_keeps_every_other_pixel_of_the_blur() -> None:
    kernel, x = np.random.default_rng(4).standard_normal((4, 3)), image(2, 8, 12)
    op = make("downsample", {"filter": "array", "factor": 2}, (2, 8, 12), {"kernel": kernel}).to(dtype=torch.float64)
    expected = [scipy.ndimage.convolve(plane, kernel, mode="wrap")[::2, ::2] for plane in x[0].numpy()]
    np.testing.assert_allclose(op.forward(x)[0].numpy(), np.stack(expected), atol=1e-6)


@pytest.mark.parametrize("rho", [1e-3, 1.0, 50.0])
def test_a_kernels_reduction_has_the_published_closed_form(rho: float) -> None:
    f = 3
    op = make("downsample", {"filter": "gaussian", "factor": f}, (1, 9, 12)).to(dtype=torch.float64)
    z, y = image(1, 9, 12), image(1, 3, 4) + 1
    impulse = torch.zeros(1, 1, 9, 12, dtype=torch.float64)
    impulse[..., 0, 0] = 1
    blur = make("blur", {"size": 7, "sigma": 1.6, "boundary": "circular"}, (1, 9, 12)).to(dtype=torch.float64)
    h = torch.fft.fft2(blur.forward(impulse))[0, 0]
    spread = torch.zeros_like(z)
    spread[..., ::f, ::f] = y
    r = h.conj() * torch.fft.fft2(spread)[0, 0] + rho * torch.fft.fft2(z)[0, 0]

    def aliases(v: torch.Tensor) -> torch.Tensor:
        return v.unflatten(0, (f, -1)).unflatten(2, (f, -1)).mean((0, 2))

    ratio = aliases(h * r) / (aliases(h.abs() ** 2) + rho)
    expected = torch.fft.ifft2((r - h.conj() * ratio.repeat(f, f)) / rho).real
    found = op.prox(z, rho, y)
    assert found is not None
    torch.testing.assert_close(found[0, 0], expected, rtol=0, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_kernels_reduction_of_any_size_passes_the_battery(data: st.DataObject) -> None:
    factor = data.draw(st.integers(1, 4))
    rows, columns = (factor * data.draw(st.integers(1, 5)) for _ in range(2))
    ky, kx = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    kernel = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal((ky, kx))
    op = make("downsample", {"factor": factor, "filter": "array"}, (2, rows, columns), {"kernel": kernel})
    assert op.out_shape == (2, rows // factor, columns // factor)
    check_operator(op)


def test_bicubic_pseudo_inverse_is_a_right_inverse() -> None:
    op = make("downsample", {"factor": 3}, (2, 20, 23)).to(dtype=torch.float64)
    y = image(*op.out_shape)
    x = op.pinv(y)
    assert x is not None
    assert torch.allclose(op.forward(x), y, atol=1e-9)
    dense = op.forward(torch.eye(2 * 20 * 23).double().reshape(-1, 2, 20, 23)).flatten(1).T
    assert torch.allclose(x.flatten(), torch.linalg.pinv(dense) @ y.flatten(), atol=1e-8)


def test_box_average_known_answer() -> None:
    op = make("downsample", {"filter": "box", "factor": 2}, (1, 4, 4))
    y = op.forward(torch.arange(16.0).reshape(1, 1, 4, 4))
    assert y.tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    x = op.pinv(y)
    assert x is not None and x[0, 0, :2].tolist() == [[2.5, 2.5, 4.5, 4.5]] * 2
    assert torch.equal(op.forward(x), y)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 24), st.integers(3, 24), st.integers(1, 3), st.integers(0, 9))
def test_bicubic_of_any_size_passes_the_battery(rows: int, columns: int, factor: int, seed: int) -> None:
    check_operator(make("downsample", {"factor": factor}, (1, rows, columns)), seed=seed)


# blur


@pytest.mark.parametrize("boundary", ["reflect", "circular", "valid"])
@pytest.mark.parametrize("kernel", ["gaussian", "motion"])
def test_blur_of_a_constant_is_constant(boundary: str, kernel: str) -> None:
    op = make("blur", {"kernel": kernel, "size": 9, "boundary": boundary}, (3, 20, 17))
    y = op.forward(torch.full((1, 3, 20, 17), 2.0))
    assert torch.allclose(y, torch.tensor(2.0), atol=1e-5)
    assert op.out_shape == ((3, 12, 9) if boundary == "valid" else (3, 20, 17))


def test_gaussian_blur_agrees_with_scipy() -> None:
    x = image(1, 70, 66)
    op = make("blur", {}, (1, 70, 66)).to(dtype=torch.float64)
    expected = scipy.ndimage.gaussian_filter(x[0, 0].numpy(), 3.0, mode="mirror")
    np.testing.assert_allclose(op.forward(x)[0, 0].numpy(), expected, atol=1e-6)
    assert isinstance(op, Separable)


@pytest.mark.parametrize("shape", [(5, 7), (4, 6), (1, 3), (9, 1)])
def test_given_kernels_are_convolved(shape: tuple[int, int]) -> None:
    kernel, x = np.random.default_rng(2).standard_normal(shape), image(1, 12, 11)
    for boundary, mode in (("reflect", "mirror"), ("circular", "wrap")):
        op = make("blur", {"boundary": boundary}, (1, 12, 11), {"kernel": kernel}).to(dtype=torch.float64)
        expected = scipy.ndimage.convolve(x[0, 0].numpy(), kernel, mode=mode)
        np.testing.assert_allclose(op.forward(x)[0, 0].numpy(), expected, atol=1e-5)
    op = make("blur", {"boundary": "valid"}, (1, 12, 11), {"kernel": kernel}).to(dtype=torch.float64)
    expected = scipy.signal.convolve2d(x[0, 0].numpy(), kernel, mode="valid")
    np.testing.assert_allclose(op.forward(x)[0, 0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
def test_the_image_of_a_point_is_the_kernel(boundary: str) -> None:
    kernel = np.arange(1.0, 16.0).reshape(3, 5)
    kernel[0, 0] = 40.0
    point = torch.zeros(1, 1, 11, 13)
    point[0, 0, 5, 6] = 1
    y = make("blur", {"boundary": boundary}, (1, 11, 13), {"kernel": kernel}).forward(point)[0, 0].numpy()
    np.testing.assert_allclose(y[4:7, 4:9], kernel, atol=1e-5)
    assert abs(y).sum() == pytest.approx(kernel.sum(), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_summation_and_fft_are_the_same_blur(data: st.DataObject) -> None:
    ky, kx = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    rows, columns = data.draw(st.integers(ky, 12)), data.draw(st.integers(kx, 12))
    boundary = data.draw(st.sampled_from(["reflect", "circular", "valid"]))
    kernel = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal((ky, kx))
    ways = ("fft", "direct", "auto")
    ops = [
        make("blur", {"boundary": boundary, "by": by}, (2, rows, columns), {"kernel": kernel}).to(dtype=torch.float64)
        for by in ways
    ]
    assert isinstance(ops[1], DirectBlur) and isinstance(ops[0], PaddedBlur | CircularBlur)
    x = image(2, rows, columns)
    y = image(*ops[0].out_shape)
    for op in ops[1:]:
        assert isinstance(op, LinearOperator)
        torch.testing.assert_close(op.forward(x), ops[0].forward(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(op.adjoint(y), ops[0].adjoint(y), rtol=0, atol=1e-5)
    check_operator(ops[1])


@pytest.mark.parametrize("boundary", ["reflect", "circular", "valid"])
@pytest.mark.parametrize("by", ["fft", "direct"])
def test_a_correlation_mirrors_the_kernel(boundary: str, by: str) -> None:
    kernel, x = np.random.default_rng(3).standard_normal((3, 5)), image(1, 9, 11)
    op = make("blur", {"boundary": boundary, "by": by, "correlation": True}, (1, 9, 11), {"kernel": kernel})
    border = {"reflect": "reflect", "circular": "circular", "valid": None}[boundary]
    padded = x if border is None else torch.nn.functional.pad(x, (2, 2, 1, 1), mode=border)
    published = torch.nn.functional.conv2d(padded, torch.from_numpy(kernel)[None, None])
    torch.testing.assert_close(op.to(dtype=torch.float64).forward(x), published, rtol=0, atol=1e-5)


def test_circular_pseudo_inverse_is_a_wiener_filter() -> None:
    op = make("blur", {"size": 5, "boundary": "circular"}, (1, 8, 8)).to(dtype=torch.float64)
    back = op.pinv(torch.full((1, 1, 8, 8), 2.0).double())
    assert back is not None and torch.allclose(back, torch.tensor(2 / 1.01).double(), atol=1e-6)
    assert isinstance(op, CircularBlur)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_padded_blur_of_any_size_passes_the_battery(data: st.DataObject) -> None:
    ky, kx = data.draw(st.integers(2, 6)), data.draw(st.integers(2, 6))
    rows, columns = data.draw(st.integers(ky, 14)), data.draw(st.integers(kx, 14))
    boundary = data.draw(st.sampled_from(["reflect", "valid"]))
    kernel = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal((ky, kx))
    op = make("blur", {"boundary": boundary}, (2, rows, columns), {"kernel": kernel})
    assert isinstance(op, PaddedBlur)
    check_operator(op)


def test_motion_kernels_are_weights_of_their_own() -> None:
    kernels = [motion_kernel(61, 0.5, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all(k.shape == (61, 61) and k.min() >= 0 and k.sum() == pytest.approx(1) for k in kernels)
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).sum() > 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 20), st.floats(0, 1), st.integers(0, 999))
def test_motion_kernels_of_any_size_are_weights(half: int, intensity: float, seed: int) -> None:
    k = motion_kernel(2 * half + 1, intensity, np.random.default_rng(seed))
    assert k.shape == (2 * half + 1,) * 2 and k.min() >= 0 and k.sum() == pytest.approx(1)


def test_motion_without_intensity_is_straight() -> None:
    y, x = np.mgrid[:61, :61]
    seen = []
    for seed in range(8):
        k = motion_kernel(61, 0.0, np.random.default_rng(seed))
        dy, dx = y - (k * y).sum(), x - (k * x).sum()
        moments = np.array([[(k * dy * dy).sum(), (k * dy * dx).sum()], [(k * dy * dx).sum(), (k * dx * dx).sum()]])
        seen.append(np.linalg.eigvalsh(moments))
    assert max(low for low, _ in seen) < 1.5  # as wide as the pen: less than 1.3 pixels
    assert max(high for _, high in seen) > 50  # and long


def test_given_kernels_are_scaled_only_when_asked() -> None:
    arrays = {"kernel": np.full((3, 3), 4.0)}
    assert draw("blur", {}, (1, 8, 8), 0, arrays).arrays["kernel"].sum() == 36
    assert draw("blur", {"normalise": True}, (1, 8, 8), 0, arrays).arrays["kernel"].sum() == pytest.approx(1)


# colour and matrix


def test_colour_known_answers() -> None:
    x = torch.tensor([1.0, 0.5, 0.25]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    luma = make("colour-mix", {}, (3, 2, 2)).forward(x)
    assert luma.shape == (1, 1, 2, 2) and torch.allclose(luma, torch.tensor(0.299 + 0.2935 + 0.0285))
    mean = make("colour-mix", {"mix": "mean"}, (3, 2, 2))
    assert torch.allclose(mean.forward(x), torch.tensor(1.75 / 3))
    grey = mean.pinv(mean.forward(x))
    assert grey is not None and torch.allclose(grey, torch.tensor(1.75 / 3), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99), st.sampled_from(["f4", "f8"]))
def test_sparse_and_dense_matrices_agree(rows: int, height: int, width: int, seed: int, kind: str) -> None:
    columns = height * width
    random = np.random.default_rng(seed)
    arrays = {
        "data": random.standard_normal(2 * rows).astype(kind),  # columns repeat in a row, and are in any order
        "indices": random.integers(0, columns, 2 * rows),
        "indptr": np.arange(0, 2 * rows + 1, 2),
    }
    dense = np.zeros((rows, columns))
    np.add.at(dense, (np.arange(rows).repeat(2), arrays["indices"]), arrays["data"])
    op = make("matrix", {}, (1, height, width), arrays).to(dtype=torch.float64)
    x, y = image(1, height, width), image(rows)
    np.testing.assert_allclose(op.forward(x).numpy()[0], dense @ x.numpy().ravel(), atol=1e-5)
    np.testing.assert_allclose(op.adjoint(y).numpy().ravel(), y.numpy()[0] @ dense, atol=1e-5)
