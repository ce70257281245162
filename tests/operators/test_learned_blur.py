"""The learned blur: the authors' outputs and gradients, their layout, codes, edges and refusals."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_weights import Shapes, layout, seeded
from nonlinear_battery import check_nonlinear, images
from torch import Tensor

from recon.data import OperatorSpec
from recon.errors import ConfigError, InputError
from recon.operators.base import Operator
from recon.operators.kernel_network import infer_network
from recon.operators.learned_blur import packed
from recon.operators.registry import build, draw, family, parse_params
from recon.operators.units import InUnits

FIXTURES = Path(__file__).parent / "fixtures"
GREY = {"channels": 1, "width": 2, "front": 1, "back": 1, "factors": (1, 2)}  # sides of the code: a sixteenth


def weights(seed: int = 0, **sizes: object) -> np.ndarray:
    return packed(seeded(layout(**(GREY | sizes)), seed), "test")  # type: ignore[arg-type]


def make(
    shape: tuple[int, ...] = (1, 16, 32), given: dict[str, np.ndarray] | None = None, **params: object
) -> Operator:
    return build(draw("learned-blur", params, shape, 0, {"weights": weights()} | (given or {})))


def published() -> tuple[Operator, Tensor, Tensor, dict[str, np.ndarray]]:
    """Return the operator in the units of DPS, images, what is pulled back, and the authors' results."""
    rng = np.random.default_rng(8)
    image, code = rng.random((2, 3, 128, 256)), 1.2 * rng.standard_normal((32, 1, 2))
    pull = torch.from_numpy(rng.standard_normal(image.shape))
    given = {"weights": packed(seeded(layout(back=3), 7), "test"), "code": code}
    op = build(draw("learned-blur", {"low": -1.0}, image.shape[1:], 0, given))
    with np.load(FIXTURES / "kernel-network.npz", allow_pickle=False) as stored:
        return op, torch.from_numpy(2 * image - 1), pull, dict(stored)


def test_outputs_and_gradients_are_the_authors() -> None:
    op, u, pull, expected = published()
    leaf = u.float().requires_grad_()
    y = op.forward(leaf)
    (slope,) = torch.autograd.grad(y, leaf, pull.float())
    for name, found in (("y", y.detach()), ("slope", slope)):
        theirs = torch.from_numpy(expected[name])
        assert float((found[..., ::8, ::8] - theirs).abs().max() / theirs.abs().max()) <= 1e-5, name
    assert 0.02 < float((torch.from_numpy(expected["y"]).abs() == 1).double().mean()) < 0.5


def test_the_published_sizes_are_inferred() -> None:
    named = json.loads(gzip.decompress((FIXTURES / "shapes-kernel-network.json.gz").read_bytes()))
    full: Shapes = {key: tuple(shape) for key, shape in named.items() if not key.startswith("kernel_extractor.")}
    assert len(full) < len(named)
    assert full == layout(64, 3, 10, 20)
    network = infer_network(full, "GOPRO_wVAE.pth")
    assert (network.channels, network.code, network.front, network.back) == (3, 512, 10, 20)
    assert network.multiple == 128


@pytest.mark.parametrize(("shape", "low", "high"), [((1, 16, 32), 0.0, 1.0), ((1, 21, 15), 0.0, 255.0)], ids=str)
def test_battery(shape: tuple[int, ...], low: float, high: float) -> None:
    op = make(shape, low=low, high=high)
    assert op.value_range == (low, high) and op.differentiable
    check_nonlinear(op, low, high)


def test_units_are_those_of_black_and_white() -> None:
    unit, byte = make().to(dtype=torch.float64), make(low=0.0, high=255.0).to(dtype=torch.float64)
    v = images(unit, 2, 0, 1)
    assert torch.allclose(byte.forward(255 * v), 255 * unit.forward(v), atol=1e-9)
    inner = InUnits(byte, 127.5, 127.5)  # a prior on [-1, 1]
    assert torch.allclose(inner.forward(2 * v - 1), 2 * unit.forward(v), atol=1e-12)
    assert inner.value_range == (-1.0, 1.0)


def test_other_sides_are_mirrored_to_the_next_multiple() -> None:
    small = make((1, 12, 20))
    code = draw("learned-blur", {}, (1, 12, 20), 0, {"weights": weights()}).arrays["code"]
    assert code.shape == (4, 1, 2)
    v = images(small, 1, 0, 1).float()
    whole = np.pad(v.numpy(), ((0, 0), (0, 0), (0, 4), (0, 12)), mode="reflect")
    large = make((1, 16, 32), {"code": code}).forward(torch.from_numpy(whole))
    assert torch.allclose(small.forward(v), large[..., :12, :20], atol=1e-6)
    assert make((1, 1, 3)).forward(v[..., :1, :3]).shape == (1, 1, 1, 3)


def test_codes_are_drawn_given_or_those_of_daps() -> None:
    given = {"weights": weights()}
    first, again, other = (draw("learned-blur", {}, (1, 16, 32), s, given).arrays["code"] for s in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert draw("learned-blur", {"scale": 0.0}, (1, 16, 32), 0, given).arrays["code"].any() == np.False_
    # numpy's own stream at seed 0 starts with 1.764052, 0.400157
    daps = draw("learned-blur", {"code": "daps"}, (1, 16, 32), 5, given).arrays["code"]
    np.testing.assert_allclose(daps.ravel()[:2], [1.2 * 1.764052, 1.2 * 0.400157], rtol=1e-6)
    kept = draw("learned-blur", {"code": "array"}, (1, 16, 32), 0, given | {"code": other[None]}).arrays["code"]
    assert np.array_equal(kept, other)
    v = images(make(), 1, 0, 1).float()
    one, two = (make(given={"code": code}).forward(v) for code in (first, other))
    assert float((one - two).abs().max()) > 1e-3
    fam = family("learned-blur")
    assert fam.never_invented(parse_params("learned-blur", {})) == {"weights", "code"}
    assert fam.never_invented(parse_params("learned-blur", {"code": "daps"})) == {"weights"}


def test_a_specification_rebuilds_the_same_operator() -> None:
    spec = draw("learned-blur", {"scale": 0.7}, (1, 16, 16), 3, {"weights": weights()})
    again = OperatorSpec(spec.kind, json.loads(json.dumps(spec.params)), spec.in_shape, spec.arrays)
    v = images(build(spec), 1, 0, 1).float()
    assert torch.equal(build(spec).forward(v), build(again).forward(v))


def change(**changes: Tensor | None) -> dict[str, Tensor]:
    """Return good tensors with some replaced or, with None, left out."""
    tensors = seeded(layout(**GREY), 0) | changes  # type: ignore[arg-type]
    return {key: value for key, value in tensors.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"feature_extractor.0.weight": None}, ConfigError, "no tensor feature_extractor.0.weight"),
        ({"feature_extractor.2.bias": None}, ConfigError, r"no tensor feature_extractor.2.bias, expected .*\(2,\)"),
        ({"recon_trunk.4.weight": None}, ConfigError, "no tensor recon_trunk.4.weight"),
        ({"feature_extractor.2.weight": torch.zeros(2, 3, 3, 3)}, ConfigError, r"\(2, 3, 3, 3\), expected \(2, 2, 3"),
        ({"adapter.model.down.0.weight": torch.zeros(2, 2)}, ConfigError, "expected four axes"),
        ({"adapter.model.submodule.up.1.weight": torch.zeros(4, 2, 4, 4)}, ConfigError, "a code of 0 channels"),
        ({"adapter.model.submodule.down.1.weight": None}, ConfigError, "1 levels"),
        ({"adapter.model.submodule.down.1.bias": torch.zeros(4)}, ConfigError, "does not have"),
        ({"feature_extractor.0.bias": torch.full((2,), torch.nan)}, InputError, "not finite"),
        ({"feature_extractor.0.bias": torch.zeros(2, dtype=torch.complex64)}, InputError, "complex"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_refused(changes: dict[str, Tensor | None], error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        packed(change(**changes), "w.pth")
    assert caught.value.hint and "w.pth" in caught.value.message and "\n" not in caught.value.message


def test_what_encodes_pairs_of_images_is_left_out() -> None:
    extra = {"kernel_extractor.model.1.weight": torch.full((3,), torch.nan)}
    assert np.array_equal(packed(change(**extra), "w"), weights())


def test_damaged_arrays_are_refused() -> None:
    good = weights()
    nan = good.copy()
    nan[-4:] = 255
    for bad, message in (
        (good[:-1], "no readable safetensors"),
        (good[:4], "no readable safetensors"),
        (good.astype(np.float32), "expected the bytes"),
        (good[None], "expected the bytes"),
        (nan, "not finite"),
    ):
        with pytest.raises(InputError, match=message):
            draw("learned-blur", {}, (1, 16, 16), 0, {"weights": bad})
    spec = draw("learned-blur", {}, (1, 16, 16), 0, {"weights": good})
    for arrays in ({"weights": good}, {"code": spec.arrays["code"]}):
        with pytest.raises(InputError, match="no array"):
            build(OperatorSpec("learned-blur", {}, (1, 16, 16), arrays))
    for code in (np.zeros((4, 1, 2)), np.zeros(4), np.zeros((4, 1, 1), complex), np.full((4, 1, 1), np.inf)):
        with pytest.raises(InputError, match="'code'"):
            draw("learned-blur", {}, (1, 16, 16), 0, {"weights": good, "code": code})


def test_what_cannot_be_blurred_is_refused() -> None:
    with pytest.raises(ConfigError, match="without the weights") as caught:
        draw("learned-blur", {}, (3, 128, 128), 0)
    assert "nonlinear-blur" in str(caught.value.hint)
    for shape in ((3, 16, 16), (1, 4, 16, 16)):
        with pytest.raises(ConfigError, match=r"expects an image of shape \(1, Y, X\)"):
            make(shape)
    with pytest.raises(ConfigError, match="real images: its network mixes real channels"):
        make().forward(torch.zeros(1, 1, 16, 32, dtype=torch.complex64))
    with pytest.raises(ConfigError, match="without the array 'code'"):
        make(code="array")
    with pytest.raises(ConfigError, match="scale = -1"):
        make(scale=-1.0)
