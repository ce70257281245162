"""Exact draws pass every bar and have the stated distribution; wrong samples fail."""

import pytest
import torch

from recon.audit.cases import build_case, prior_rows
from recon.audit.noise import generator
from recon.audit.statistics import MEAN_BAR, measure

CASES = ["gaussian-inpaint-16", "gaussian-fourier-complex-16", "mixture-2", "mixture-8", "scalar-amplitude"]


def _count(case):
    return 1000 * case.info.share


def _draws(case, seed):
    return case.exact.draw(_count(case), generator(seed, "draws"))


@pytest.mark.parametrize("name", CASES)
def test_exact_draws_are_within_every_bar(name):
    case = build_case(name)
    for seed in range(3):
        found = measure(_draws(case, seed), case, seed)
        assert found.within, found
        for band in found.std.values():
            assert abs(band.value - 1) < 5 * band.error + 0.005
        assert found.mean.value < 2 * MEAN_BAR and found.data_use == pytest.approx(1, abs=0.1)
        assert found.covariance.value < 2 * found.covariance.floor
        assert found.wasserstein.value < 3 * found.wasserstein.floor
        for level, inside in found.coverage.items():
            assert abs(100 * inside.value - float(level)) < 500 * inside.error
        assert found.residual.value == pytest.approx(found.residual.floor, rel=0.06)


def test_the_quoted_errors_are_those_of_repeated_audits():
    """Jackknife errors against the scatter of the statistics over independent runs."""
    case = build_case("gaussian-inpaint-16")
    runs = [measure(_draws(case, 100 + seed), case, seed) for seed in range(12)]
    for band in case.bands.names:
        values = torch.tensor([run.std[band].value for run in runs])
        quoted = torch.tensor([run.std[band].error for run in runs]).mean()
        assert 0.5 < float(values.std() / quoted) < 2.0
        assert abs(float(values.mean()) - 1) < 4 * float(quoted) / 12**0.5 + 0.002
    cover = torch.tensor([run.coverage["90"].value for run in runs])
    assert abs(float(cover.mean()) - 0.9) < 0.003


def test_the_mean_bias_is_unbiased():
    """A known shift is measured as such, with the samples' own error taken off."""
    case = build_case("gaussian-inpaint-16")
    for shift in (0.05, 0.3):
        found = measure(_draws(case, 5) + shift * case.exact.std, case)
        assert found.mean.value == pytest.approx(shift, abs=0.01)
        assert found.mean.error < 0.02


@pytest.mark.parametrize("name", CASES)
def test_ten_percent_of_spread_or_of_bias_miss_the_bars(name):
    case = build_case(name)
    rows, exact = _draws(case, 7), case.exact
    for wrong in (
        exact.mean + 0.9 * (rows - exact.mean),
        exact.mean + 1.1 * (rows - exact.mean),
        rows + 0.1 * exact.std,
    ):
        assert not measure(wrong, case).within


def test_one_wrong_band_misses_the_bar():
    case = build_case("gaussian-inpaint-16")
    rows, exact = _draws(case, 8), case.exact
    parts = case.bands.split(rows - exact.mean)
    before = measure(rows, case).std
    for index, name in enumerate(case.bands.names):
        scale = torch.ones(len(parts), 1, 1, dtype=torch.float64)
        scale[index] = 0.9
        found = measure(exact.mean + (scale * parts).sum(0), case)
        assert not found.within and found.std[name].value == pytest.approx(0.9 * before[name].value)
        others = [band for band in found.std if band != name]
        assert all(found.std[band].value == pytest.approx(before[band].value) for band in others)


@pytest.mark.parametrize("name", ["mixture-2", "mixture-8", "scalar-amplitude"])
def test_a_lost_mode_misses_the_bars(name):
    case = build_case(name)
    rows, exact = _draws(case, 9), case.exact
    if name == "scalar-amplitude":
        kept = rows[rows[:, 0] > 0]
    else:
        top = int(exact.weights.argmax())
        nearest = torch.cdist(rows, exact.means).argmin(1)
        kept = rows[nearest == top]
    found = measure(kept, case)
    assert not found.within
    assert found.wasserstein.value > 3 * found.wasserstein.floor
    assert found.coverage["95"].value < 0.9


def test_the_prior_ignores_its_data():
    case = build_case("gaussian-inpaint-16")
    found = measure(prior_rows(case, 1000, 0), case)
    assert abs(found.data_use) < 0.1 and not found.within and found.residual.value > 2
    assert min(band.value for band in found.std.values()) > 1.02


def test_statistics_do_not_depend_on_global_randomness():
    case = build_case("mixture-2")
    rows = _draws(case, 0)
    torch.manual_seed(1)
    first = measure(rows, case, 3)
    torch.manual_seed(2)
    assert measure(rows, case, 3) == first != measure(rows, case, 4)
