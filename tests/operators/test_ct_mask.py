"""Scans with rays that were not measured: dead detectors and masks of single rays."""

import numpy as np
import pytest
import torch
from battery import check_operator

from recon.errors import ConfigError, InputError
from recon.operators.registry import build, draw

RNG = np.random.default_rng(0)
CASES = [
    ("ct", {"angles": 7}, (1, 8, 9), (7, 13)),
    ("ct", {"angles": 7}, (1, 3, 8, 9), (7, 13)),
    ("ct-fan", {"angles": 6, "detectors": 15}, (1, 8, 9), (15,)),
    ("ct-cone", {"angles": 5, "detector_rows": 4, "detector_columns": 16}, (1, 3, 8, 9), (4, 16)),
]


def make(kind, params, shape, given=None):
    return build(draw(kind, params | {"allow_truncation": True}, shape, 0, given))


@pytest.mark.parametrize(("kind", "params", "shape", "rays"), CASES)
def test_masked_rays_are_zero_and_the_others_unchanged(kind, params, shape, rays):
    plain = make(kind, params, shape)
    mask = (RNG.random(rays) < 0.7).astype(np.uint8)
    op = make(kind, params, shape, {"mask": mask})
    check_operator(op)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(op.forward(x), torch.from_numpy(mask) * plain.forward(x))
    assert op.measured() == int(np.broadcast_to(mask, plain.out_shape).sum()) < plain.measured()


def test_the_mask_belongs_to_the_specification():
    mask = np.ones((7, 13), bool)
    mask[:, 3] = False
    assert np.array_equal(draw("ct", {"angles": 7}, (1, 8, 9), 0, {"mask": mask}).arrays["mask"], mask)
    assert set(draw("ct", {"angles": 7}, (1, 8, 9), 0).arrays) == {"angles"}


@pytest.mark.parametrize(("kind", "params", "shape", "rays"), CASES)
def test_masks_that_do_not_fit_are_named(kind, params, shape, rays):
    for mask, message in (
        (np.ones((*rays[:-1], rays[-1] + 1)), "mask' has shape"),
        (np.ones((2, 2, 2, *rays)), "mask' has shape"),
        (np.full(rays, 2.0), "0 .missing. and 1"),
        (np.zeros(rays), "0 .missing. and 1"),
        (np.full(rays, np.nan), "'mask'"),
    ):
        with pytest.raises(InputError, match=message):
            make(kind, params, shape, {"mask": mask})
    with pytest.raises(ConfigError, match="takes no array 'masks'"):
        make(kind, params, shape, {"masks": np.ones(rays)})
