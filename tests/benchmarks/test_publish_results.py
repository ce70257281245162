"""The page of results: what is out of date is left out, the order is by PSNR, and gains are over the best oracle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SUITE = {
    "clothes": {
        "description": "one image",
        "problems": ["denoise"],
        "methods": ["tv-oracle", "wavelet-oracle", "dds", "ddrm"],
        "images": ["a"],
        "prior": "fashion32",
    }
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("results", "publish_results"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import publish_results  # type: ignore[import-not-found]

    return publish_results


def row(script: Any, method: str, psnr: float, **more: Any) -> dict[str, Any]:
    samples = 1 if "oracle" in method else 4
    settings = script.digest(script.configure("denoise", method, samples, "fashion32", []))
    found = {"suite": "clothes", "problem": "denoise", "method": method, "image": "a", "item": 0, "samples": samples}
    found |= {"settings": settings, "set": [], "psnr": psnr, "ssim": 0.9, "seconds_per_sample": 1.5}
    return found | {"single_psnr": psnr - 1, "residual": 1.02, "nfe": 100} | more


def test_the_page_orders_by_psnr_and_gains_are_over_the_best_oracle(script: Any) -> None:
    rows = [row(script, "tv-oracle", 20.0), row(script, "wavelet-oracle", 21.0), row(script, "dds", 25.5)]
    lines = [line for line in script.page(SUITE, rows).splitlines() if line.startswith("| ")][1:]
    assert lines == [
        "| **dds** (4) | 24.50 | 25.50 | 0.900 | 4.50 | 1.02 | 100 | 1.5 |",
        "| wavelet, oracle |  | 21.00 | 0.900 | 0.00 | 1.02 |  |  |",
        "| tv, oracle |  | 20.00 | 0.900 | -1.00 | 1.02 |  |  |",
    ]


def test_a_row_of_other_settings_is_left_out(script: Any) -> None:
    rows = [row(script, "dds", 25.0, settings="0" * 12)]
    assert "dds" not in script.page(SUITE, rows)


def test_a_method_that_was_refused_is_named_with_the_reason(script: Any) -> None:
    refused = {k: v for k, v in row(script, "ddrm", 0.0, error="needs an svd").items() if k != "psnr"}
    assert "Not possible: `ddrm`: needs an svd." in script.page(SUITE, [refused])


def test_a_problem_without_rows_says_how_to_measure_it(script: Any) -> None:
    page = script.page(SUITE, [])
    assert (
        "Not measured yet: `python benchmarks/publish_results.py --suite clothes`." in page and "| method" not in page
    )
    downloaded = {"clothes": SUITE["clothes"] | {"download": True}}
    assert "--suite clothes --folder DIR`" in script.page(downloaded, [])


def test_an_average_over_fewer_images_says_so(script: Any) -> None:
    rows = [row(script, "dds", 25.0), row(script, "dds", 27.0, image="b"), row(script, "dps", 20.0)]
    page = script.page(SUITE, rows)
    assert "Not measured yet: ddrm, tv-oracle, wavelet-oracle." in page
    assert "| **dds** (4) | 25.00 |" in page and "| **dps** (4), 1 of 2 images | 19.00 |" in page
