"""Held-out reports and the model card, on tiny networks and known denoisers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recon.errors import ConfigError, OutputExistsError
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.runs.model_card import CardRequest, check_card, kept_sections, write_card
from recon.runs.training import TrainRequest, losses_on_test, report_on_test, run_training
from recon.training.config import TrainConfig
from recon.training.report import by_denoiser, denoising_report, held_out_loss, non_local_means, spread


class Wiener(Denoiser):
    """The exact denoiser of white Gaussian images of variance v: D = v/(v + s^2) x."""

    def __init__(self, variance: float, channels: int = 1, value_range: tuple[float, float] = (-1.0, 1.0)) -> None:
        self.info = PriorInfo("wiener", channels, value_range=value_range)
        self.variance = variance
        self.seen: list[float] = []

    def _denoise(self, x, sigma, cond):
        self.seen.append(float(sigma[0]))
        gain = self.variance / (self.variance + sigma**2)
        return Prediction(gain.reshape(-1, 1, 1, 1) * x)


def tiny_config(**changes: object) -> TrainConfig:
    base = {
        "name": "tiny",
        "description": "coloured squares",
        "crop": 16,
        "batch": 2,
        "steps": 4,
        "ema": [0.1, 0.9],
        "log_every": 1,
        "network": {
            "in_channels": 3,
            "channels": [8, 16],
            "blocks": [1, 1],
            "unshuffle": 2,
            "embedding": 16,
            "groups": 4,
            "attention": 2,
        },
        "data": {
            "kind": "images",
            "train": [{"path": "a.png", "source": "synthetic A", "licence": "CC-BY-4.0", "credit": "A. Painter"}],
            "test": [{"path": "b.png", "source": "synthetic B", "licence": "CC0-1.0"}],
            "shortest": 16,
            "test_size": 24,
        },
    }
    return TrainConfig.model_validate(base | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> TrainRequest:
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    for name in "ab":
        blocks = np.kron(rng.integers(0, 256, (5, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(blocks).save(folder / f"{name}.png")
    request = TrainRequest(tiny_config(), folder, folder / "state")
    run_training(request, lambda row: None)
    return request


def test_scores_are_the_closed_form_of_a_known_denoiser():
    images = [np.random.default_rng(k).normal(0, 0.5, (1, 64, 64)).astype(np.float32) for k in range(2)]
    rows = denoising_report(Wiener(0.25), images, (0.5,), seed=0)
    for row in rows:
        # error variance v s^2/(v + s^2)
        assert row.prior == pytest.approx(10 * np.log10(4 / (0.25 * 0.25 / 0.5)), abs=0.15)
        assert row.noisy == pytest.approx(10 * np.log10(4 / 0.25), abs=0.15)
        assert row.tv_oracle < row.prior and row.gain == row.prior - row.tv_oracle


def test_scores_follow_the_width_of_the_value_range():
    image = np.random.default_rng(0).normal(0, 0.5, (1, 32, 32)).astype(np.float32)
    narrow, wide = (
        denoising_report(Wiener(0.25, value_range=(-w, w)), [image], (0.3,), seed=0)[0].prior for w in (1.0, 10.0)
    )
    assert wide - narrow == pytest.approx(20, abs=1e-4)


def test_clipping_scores_what_a_picture_can_hold():
    image = np.ones((1, 16, 16), np.float32)
    free, clipped = (denoising_report(Wiener(1e6), [image], (0.2,), 0, clip=c)[0] for c in (False, True))
    assert free.noisy == clipped.noisy == pytest.approx(free.prior, abs=1e-3)
    assert clipped.prior > free.prior + 2


def test_another_denoiser_is_asked_in_its_own_range_and_channels():
    inner = Wiener(0.25, channels=1, value_range=(0.0, 1.0))
    noisy = np.random.default_rng(0).normal(0, 1, (3, 8, 8)).astype(np.float32)
    (found,) = by_denoiser(inner, (-1.0, 1.0))(noisy, 0.4)
    assert inner.seen == [pytest.approx(0.2)]
    gain = 0.25 / (0.25 + 0.04)
    np.testing.assert_allclose(found, 2 * gain * (noisy + 1) / 2 - 1, atol=1e-5)


def test_non_local_means_denoises_repeated_structure():
    image = np.tile(np.kron([[-0.5, 0.5], [0.5, -0.5]], np.ones((4, 4))), (3, 4, 4)).astype(np.float32)
    noisy = (image + 0.3 * np.random.default_rng(0).standard_normal(image.shape)).astype(np.float32)
    best = min(float(np.mean((found - image) ** 2)) for found in non_local_means(noisy, 0.3))
    assert best < 0.35 * 0.09


def test_held_out_loss_is_the_closed_form_and_needs_whole_tiles():
    config = tiny_config(sigma_data=0.5, log_sigma_mean=-0.7, log_sigma_std=0.8)
    images = [np.random.default_rng(k).normal(0, 0.5, (3, 40, 35)).astype(np.float32) for k in range(4)]
    # lambda(s) v s^2/(v + s^2) = 1 where v = sigma_data^2
    found = held_out_loss(Wiener(0.25, channels=3), images, config)
    assert found == pytest.approx(1.0, abs=0.02)
    assert held_out_loss(Wiener(0.25, channels=3), images, config) == found
    assert held_out_loss(Wiener(0.5, channels=3), images, config) > found
    with pytest.raises(ConfigError, match="smaller than crop"):
        held_out_loss(Wiener(0.25, channels=3), [np.zeros((3, 15, 40), np.float32)], config)


def test_a_long_test_set_is_thinned_evenly():
    images = [np.full((1, 1, 1), k) for k in range(100)]
    assert [int(i[0, 0, 0]) for i in spread(images, 4)] == [12, 37, 62, 87]
    assert len(spread(images, 200)) == 100


def test_report_of_a_training_compares_with_every_baseline(trained):
    rows = report_on_test(trained, 1, (0.1, 0.5))
    assert [(r.image, r.sigma) for r in rows] == [(0, 0.1), (0, 0.5)]
    assert all(set(r.baselines) == {"nl_means"} and np.isfinite(r.prior) for r in rows)
    losses = losses_on_test(trained)
    assert len(losses) == 2 and losses[0] != losses[1] and min(losses) > 0
    with pytest.raises(ConfigError, match="got index 2"):
        report_on_test(trained, 2)


def test_the_card_says_it_all_and_keeps_what_was_written_by_hand(trained, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "cards").mkdir()
    request = CardRequest(tmp_path / "cards" / "tiny.md", tmp_path / "pictures", samples=6, columns=3)
    rows = report_on_test(trained, 1, (0.1, 0.5))
    write_card(trained, request, 1, rows, [1.5, 1.25], "recon train tiny", force=False)
    card = request.card.read_text()
    for part in (
        "# tiny\n\nColoured squares.",
        "self-attention with 2 heads",
        "u = 2 v / 255 - 1",
        "| synthetic A | A. Painter | CC-BY-4.0 | 100.0% |",
        "| synthetic B |  | CC0-1.0 |",
        "4 steps of 2 crops of 16x16 (8 crops)",
        "1.5000 (decay 0.1), 1.2500 (decay 0.9, this one)",
        f"| 0.5 | {rows[1].noisy:.1f} | {rows[1].tv_oracle:.1f} | {rows[1].baselines['nl_means']:.1f} | "
        f"{rows[1].prior:.1f} | {rows[1].gain:.1f} |",
        "](../pictures/tiny-samples.png)",
        "## Known failures\n\nNone recorded yet.",
    ):
        assert part in card, part
    with Image.open(request.sheet("tiny")) as sheet:
        assert sheet.size == (3 * 32 + 4, 2 * 32 + 2)
    by_hand = card.replace("None recorded yet.", "It is tiny.") + "\n## Reconstruction\n\nNot at all.\n"
    request.card.write_text(by_hand)
    with pytest.raises(OutputExistsError):
        check_card(request, "tiny", force=False)
    write_card(trained, request, 1, rows, [1.5, 1.25], "recon train tiny", force=True)
    assert request.card.read_text() == by_hand


def test_sections_are_found_whatever_the_line_ends():
    card = "# a\r\n\r\n## Data\r\n\r\nx\r\n\r\n## Known failures\r\n\r\ny\r\n\r\n### part\r\nz\r\n"
    assert kept_sections(card) == {"Known failures": "y\n\n### part\nz"}


def test_an_unchanged_training_is_not_written_again(trained):
    path = Path(trained.folder) / "state.safetensors"
    before = path.stat().st_mtime_ns
    state = run_training(TrainRequest(trained.config, trained.data, trained.folder, 0.0, resume=True), lambda row: None)
    assert state.step == 4 and path.stat().st_mtime_ns == before
