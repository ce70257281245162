"""Known answers of PSNR, NMSE and SSIM."""

import math

import numpy as np
import pytest

from recon.metrics.fidelity import mse, nmse, psnr
from recon.metrics.ssim import SsimWindow, ssim

TRUTH = np.array([[0.0, 1.0], [2.0, 4.0]])
RECON = np.array([[0.0, 2.0], [2.0, 1.0]])  # squared errors 0, 1, 0, 9


def test_hand_computed() -> None:
    assert mse(RECON, TRUTH) == 2.5
    assert nmse(RECON, TRUTH) == pytest.approx(10 / 21)
    assert psnr(RECON, TRUTH, 4.0) == pytest.approx(10 * math.log10(16 / 2.5))


def test_mask_selects_values() -> None:
    mask = np.array([[True, True], [True, False]])
    assert mse(RECON, TRUTH, mask) == pytest.approx(1 / 3)
    assert nmse(RECON, TRUTH, mask) == pytest.approx(1 / 5)
    assert psnr(RECON, TRUTH, 4.0, mask) == pytest.approx(10 * math.log10(16 * 3))


def test_equal_images_have_infinite_psnr_not_a_cap() -> None:
    assert psnr(TRUTH, TRUTH, 1.0) == math.inf


def test_nmse_of_a_zero_truth() -> None:
    zero = np.zeros((2, 2))
    assert nmse(RECON, zero) == math.inf
    assert nmse(zero, zero) == 0.0


def test_complex_error_is_a_magnitude() -> None:
    assert mse(np.array([3 + 4j]), np.array([0j])) == 25.0


def test_half_precision_and_integers_do_not_overflow() -> None:
    assert mse(np.array([60000.0], np.float16), np.array([0.0], np.float16)) == pytest.approx(3.6e9, rel=1e-3)
    assert mse(np.array([1], np.uint8), np.array([3], np.uint8)) == 4.0


def test_small_scale_gives_the_same_psnr() -> None:
    assert psnr(RECON * 1e-4, TRUTH * 1e-4, 4e-4) == pytest.approx(psnr(RECON, TRUTH, 4.0))


@pytest.mark.parametrize("window", [SsimWindow("uniform", size=7), SsimWindow("gaussian", sigma=1.5)])
def test_ssim_of_constant_images(window: SsimWindow) -> None:
    a, b, span = 0.3, 0.7, 2.0
    c1 = (0.01 * span) ** 2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert ssim(np.full((1, 20, 20), a), np.full((1, 20, 20), b), span, window) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_one_uniform_window_by_hand() -> None:
    rng = np.random.default_rng(0)
    r, t, span = rng.random((7, 7)), rng.random((7, 7)), 1.5
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    cov = np.cov(r.ravel(), t.ravel())
    numerator = (2 * r.mean() * t.mean() + c1) * (2 * cov[0, 1] + c2)
    expected = numerator / ((r.mean() ** 2 + t.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2))
    assert ssim(r[None], t[None], span, SsimWindow("uniform", size=7)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_ssim_of_one_gaussian_window_by_hand(dimensions: int) -> None:
    rng = np.random.default_rng(1)
    shape = (11,) * dimensions
    r, t = rng.random(shape), rng.random(shape)
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.ones(())
    for _ in shape:
        weights = weights[..., None] * (line / line.sum())
    m_r, m_t = (weights * r).sum(), (weights * t).sum()
    v_r, v_t = (weights * r * r).sum() - m_r**2, (weights * t * t).sum() - m_t**2
    c_rt = (weights * r * t).sum() - m_r * m_t
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * m_r * m_t + c1) * (2 * c_rt + c2) / ((m_r**2 + m_t**2 + c1) * (v_r + v_t + c2))
    assert ssim(r[None], t[None], 1.0, SsimWindow("gaussian", sigma=1.5)) == pytest.approx(expected, rel=1e-9)


def test_ssim_averages_channels() -> None:
    rng = np.random.default_rng(2)
    r, t = rng.random((2, 3, 15, 15))
    window = SsimWindow("uniform", size=7)
    each = [ssim(r[i : i + 1], t[i : i + 1], 1.0, window) for i in range(3)]
    assert ssim(r, t, 1.0, window) == pytest.approx(np.mean(each))


def test_ssim_is_undefined_below_the_window() -> None:
    tiny = np.zeros((1, 6, 30))
    assert math.isnan(ssim(tiny, tiny, 1.0, SsimWindow("uniform", size=7)))


def test_ssim_mask_on_the_border_only_is_undefined() -> None:
    image, mask = np.random.default_rng(3).random((1, 20, 20)), np.zeros((1, 20, 20), bool)
    mask[:, :2] = True
    assert math.isnan(ssim(image, image, 1.0, SsimWindow("uniform", size=7), mask))
