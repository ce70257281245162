"""Named protocols: their choices, and the traps that each choice decides."""

import json
import math

import numpy as np
import pytest
import skimage
from skimage.metrics import structural_similarity

from recon.errors import ConfigError, InputError
from recon.metrics.evaluate import evaluate
from recon.metrics.protocols import PROTOCOLS, find_protocol

IMAGE, FASTMRI, VOLUME = PROTOCOLS["image01"], PROTOCOLS["fastmri"], PROTOCOLS["volume"]


@pytest.fixture(scope="module")
def camera() -> tuple[np.ndarray, np.ndarray]:
    """A photograph of range 0.8 in [0, 1], and the same with noise 0.05, as stacks (1, 1, Y, X)."""
    truth = skimage.data.camera()[None, None].astype(float) / 255 * 0.8
    return truth + 0.05 * np.random.default_rng(0).standard_normal(truth.shape), truth


def random_stack(shape: tuple[int, ...] = (3, 1, 24, 20)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    truth = rng.random(shape)
    return truth + 0.1 * rng.standard_normal(shape), truth


def test_hand_computed_image01() -> None:
    truth = np.zeros((2, 1, 12, 12))
    truth[:, :, 0, 0] = 1.0
    recon = truth.copy()
    recon[0] += 0.1 * (truth[0] == 0)  # 143 of 144 values off by 0.1
    recon[1] += 0.2 * (truth[1] == 0)
    scores = evaluate(recon, truth, IMAGE, 1.0)
    each = [10 * math.log10(144 / (143 * e * e)) for e in (0.1, 0.2)]
    assert scores["psnr"] == pytest.approx(np.mean(each))
    assert scores["nmse"] == pytest.approx(143 * (0.01 + 0.04) / 2)
    assert scores["items"] == 2
    assert scores["data_range"] == [0.0, 1.0]


def test_declared_range_against_the_truths_maximum(camera: tuple[np.ndarray, np.ndarray]) -> None:
    declared, guessed = evaluate(*camera, IMAGE, 1.0), evaluate(*camera, FASTMRI)
    assert (declared["data_range_source"], guessed["data_range_source"]) == ("declared", "truth")
    noisy = camera[0].clip(0, 1) - camera[1]
    assert declared["psnr"] == pytest.approx(-10 * math.log10(np.mean(noisy**2)))
    raw = -10 * math.log10(np.mean((np.abs(camera[0]) - camera[1]) ** 2))
    assert guessed["psnr"] == pytest.approx(raw + 20 * math.log10(0.8))
    assert guessed["ssim"] == pytest.approx(0.433, abs=0.01)


def test_ssim_windows(camera: tuple[np.ndarray, np.ndarray]) -> None:
    recon, truth = camera[0].clip(0, 1), camera[1]
    gaussian = structural_similarity(
        truth[0, 0], recon[0, 0], data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert evaluate(*camera, IMAGE, 1.0)["ssim"] == pytest.approx(gaussian, abs=1e-12)
    uniform = structural_similarity(truth[0, 0], np.abs(camera[0][0, 0]), data_range=0.8)
    assert evaluate(*camera, FASTMRI)["ssim"] == pytest.approx(uniform, abs=1e-12)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_an_affine_bias_is_not_normalised_away(protocol: object, camera: tuple[np.ndarray, np.ndarray]) -> None:
    truth = camera[1] / 0.8
    scores = evaluate(0.5 * truth + 0.3, truth, protocol, 1.0)  # type: ignore[arg-type]
    assert scores["psnr"] == pytest.approx(-10 * math.log10(np.mean((0.3 - 0.5 * truth) ** 2)))
    assert scores["psnr"] < 20


def test_fastmri_pools_the_volume_and_averages_ssim_over_slices() -> None:
    recon, truth = random_stack()
    truth[1] *= 0.1  # a dark slice keeps the volume's range
    scores = evaluate(recon, truth, FASTMRI)
    recon, truth = np.abs(recon)[:, :, 2:22], truth[:, :, 2:22]  # 20 rows about the centre of 24
    peak = truth.max()
    assert scores["psnr"] == pytest.approx(10 * math.log10(peak**2 / np.mean((recon - truth) ** 2)))
    assert scores["nmse"] == pytest.approx(np.sum((recon - truth) ** 2) / np.sum(truth**2))
    slices = [structural_similarity(t[0], r[0], data_range=peak) for r, t in zip(recon, truth, strict=True)]
    assert scores["ssim"] == pytest.approx(np.mean(slices))
    assert scores["data_range"] == [0.0, peak]


def test_fastmri_ignores_a_declared_range_and_keeps_wide_images() -> None:
    recon, truth = random_stack((2, 1, 9, 14))
    assert evaluate(recon, truth, FASTMRI, 255.0) == evaluate(recon, truth, FASTMRI)
    assert evaluate(recon, truth, FASTMRI)["data_range"] == [0.0, truth.max()]


def test_volume_uses_a_three_dimensional_window() -> None:
    recon, truth = random_stack((13, 1, 14, 15))
    scores = evaluate(recon, truth, VOLUME)
    expected = structural_similarity(
        truth[:, 0],
        recon[:, 0],
        data_range=truth.max(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert scores["ssim"] == pytest.approx(expected)
    assert scores["psnr"] == pytest.approx(10 * math.log10(truth.max() ** 2 / np.mean((recon - truth) ** 2)))


def test_volume_thinner_than_the_window_has_no_ssim() -> None:
    scores = evaluate(*random_stack((5, 1, 20, 20)), VOLUME)
    assert scores["ssim"] is None
    assert scores["psnr"] is not None


def test_clipping_to_the_declared_range() -> None:
    truth = np.linspace(0, 1, 144).reshape(1, 1, 12, 12)
    recon = np.where(truth == 1, 5.0, truth)
    assert evaluate(recon, truth, IMAGE, 1.0)["psnr"] is None  # 5 is clipped to 1
    assert evaluate(recon, truth, VOLUME)["psnr"] == pytest.approx(10 * math.log10(144 / 16))


def test_equal_images_are_null_in_json() -> None:
    truth = random_stack()[1]
    text = json.dumps(evaluate(truth, truth, IMAGE, 1.0), allow_nan=False)
    assert json.loads(text)["psnr"] is None
    assert json.loads(text)["ssim"] == pytest.approx(1.0)
    assert json.loads(text)["nmse"] == 0.0


def test_zero_background_raises_psnr_and_the_mask_takes_it_back() -> None:
    recon, truth = random_stack((1, 1, 30, 30))
    recon, truth = recon.clip(0, 1), truth.clip(0, 1)
    alone = evaluate(recon, truth, IMAGE, 1.0)
    wide = [np.pad(a, ((0, 0), (0, 0), (0, 30), (0, 30))) for a in (recon, truth)]
    mask = np.zeros((60, 60), np.uint8)
    mask[:30, :30] = 7
    padded = evaluate(wide[0], wide[1], IMAGE, 1.0, mask)
    assert padded["psnr"] == pytest.approx(alone["psnr"] + 20 * math.log10(2))
    assert padded["psnr_masked"] == pytest.approx(alone["psnr"])
    assert padded["nmse_masked"] == pytest.approx(alone["nmse"])
    assert padded["ssim_masked"] < padded["ssim"]
    assert {k: padded[k] for k in ("psnr", "ssim")} == {
        k: evaluate(wide[0], wide[1], IMAGE, 1.0)[k] for k in ("psnr", "ssim")
    }


def test_mask_per_item_skips_items_without_foreground() -> None:
    recon, truth = random_stack((2, 1, 16, 16))
    mask = np.zeros((2, 1, 16, 16))
    mask[1] = 1
    one = evaluate(recon[1:], truth[1:], IMAGE, 1.0)
    both = evaluate(recon, truth, IMAGE, 1.0, mask)
    assert both["psnr_masked"] == pytest.approx(one["psnr"])
    assert both["ssim_masked"] == pytest.approx(one["ssim"])


@pytest.mark.parametrize("protocol", [FASTMRI, VOLUME], ids=["fastmri", "volume"])
def test_full_mask_changes_nothing(protocol: object) -> None:
    recon, truth = random_stack((12, 1, 16, 13))
    scores = evaluate(recon, truth, protocol, mask=np.ones((16, 13)))  # type: ignore[arg-type]
    for name in ("psnr", "ssim", "nmse"):
        assert scores[f"{name}_masked"] == pytest.approx(scores[name])


def test_range_without_a_declared_one() -> None:
    recon, truth = random_stack()
    scores = evaluate(recon, truth, IMAGE)
    assert (scores["data_range"], scores["data_range_source"]) == ([0.0, truth.max()], "truth")
    hounsfield = 1000 * truth - 800
    scores = evaluate(1000 * recon - 800, hounsfield, IMAGE)
    assert scores["data_range"] == [hounsfield.min(), hounsfield.max()]


def test_declared_low_and_high() -> None:
    recon, truth = random_stack()
    shifted = evaluate(2 * recon - 1, 2 * truth - 1, IMAGE, (-1.0, 1.0))
    assert shifted["psnr"] == pytest.approx(evaluate(recon, truth, IMAGE, 1.0)["psnr"])


def test_complex_data_are_compared_by_magnitude() -> None:
    recon, truth = random_stack()
    phase = np.exp(1j * np.linspace(0, 6, 20))
    assert evaluate(recon.clip(0) * phase, truth * phase.conj(), IMAGE, 1.0)["psnr"] == pytest.approx(
        evaluate(recon, truth, IMAGE, 1.0)["psnr"]
    )
    assert evaluate(truth * phase, truth, FASTMRI)["nmse"] == pytest.approx(0.0, abs=1e-20)


def test_real_values_keep_their_sign_under_image01() -> None:
    truth = random_stack()[1] - 0.5
    assert evaluate(-truth, truth, IMAGE)["nmse"] > 1
    assert evaluate(-truth, truth, FASTMRI)["nmse"] == 0.0


def test_colour_stack() -> None:
    recon, truth = random_stack((2, 3, 16, 16))
    scores = evaluate(recon, truth, IMAGE, 1.0)
    per_channel = [evaluate(recon[:, [c]], truth[:, [c]], IMAGE, 1.0)["ssim"] for c in range(3)]
    assert scores["ssim"] == pytest.approx(np.mean(per_channel))


@pytest.mark.parametrize(
    ("recon_shape", "truth_shape"),
    [((1, 1, 8, 8), (1, 1, 8, 9)), ((1, 1, 8, 8), (2, 1, 8, 8)), ((8, 8), (8, 8)), ((1, 3, 8, 8), (1, 1, 8, 8))],
)
def test_shapes_must_match(recon_shape: tuple[int, ...], truth_shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="one shape"):
        evaluate(np.ones(recon_shape), np.ones(truth_shape), IMAGE)


def test_refusals() -> None:
    recon, truth = random_stack((1, 1, 12, 12))
    with pytest.raises(InputError, match="reconstruction has values that are not finite"):
        evaluate(np.where(recon > 0.5, np.nan, recon), truth, IMAGE)
    with pytest.raises(InputError, match="data range above 0"):
        evaluate(recon, np.zeros_like(truth), FASTMRI)
    with pytest.raises(InputError, match="no foreground"):
        evaluate(recon, truth, IMAGE, mask=np.zeros((12, 12)))
    for shape in ((11, 12), (1, 12, 12), (2, 1, 12, 12)):
        with pytest.raises(InputError, match="mask of shape"):
            evaluate(recon, truth, IMAGE, mask=np.ones(shape))


def test_protocols_describe_every_choice() -> None:
    for name, protocol in PROTOCOLS.items():
        facts = json.loads(json.dumps(protocol.describe()))
        assert facts["name"] == name
        assert {"data_range", "crop", "clip", "mask", "reduction", "ssim_window", "ssim_library"} <= set(facts)
    assert IMAGE.describe()["ssim_window"] == {
        "kind": "gaussian", "sigma": 1.5, "width": 11, "sample_covariance": False, "k1": 0.01, "k2": 0.03,
        "dimensions": 2,
    }  # fmt: skip
    assert FASTMRI.describe()["ssim_window"]["width"] == 7


def test_unknown_protocol_names_the_nearest() -> None:
    assert find_protocol("fastmri") is FASTMRI
    with pytest.raises(ConfigError, match="did you mean 'fastmri'"):
        find_protocol("fastmr")
