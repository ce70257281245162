"""Kinds of training data: idx files, photographs, their licences, hashes and held-out parts."""

from __future__ import annotations

import gzip
import hashlib
import struct
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from recon.errors import ConfigError, InputError, ResourceError
from recon.runs.training import read_train_config
from recon.training.config import TrainConfig
from recon.training.idx import read_idx
from recon.training.images import central_square, decode, pyramid, random_picture_crop
from recon.training.sources import SOURCES, crop_source, held_out_images

# what may be in weights that we give away
ALLOWED = {"BSD-2-Clause", "BSD-3-Clause", "MIT", "Apache-2.0", "CC0-1.0", "Public-Domain", "CC-BY-2.0", "CC-BY-4.0"}
SHIPPED = sorted(p.name[:-5] for p in files("recon.training.configs").iterdir() if p.name.endswith(".toml"))
NEVER_TRAINED_ON = ("camera", "astronaut", "chelsea", "ch2", "t10k")


def entry(path: str, **more: object) -> dict[str, object]:
    return {"path": path, "source": "synthetic", "licence": "CC0-1.0"} | more


def config(data: dict[str, object], crop: int, **more: object) -> TrainConfig:
    return TrainConfig.model_validate({"name": "t", "description": "tests", "crop": crop, "data": data} | more)


def write_idx(path: Path, pictures: np.ndarray) -> None:
    content = struct.pack(">4B3I", 0, 0, 8, 3, *pictures.shape) + pictures.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def pictures(tmp_path: Path) -> np.ndarray:
    """Five different pictures of 4x4 in a.idx and a.idx.gz; each pixel's value tells its place."""
    stack = (np.arange(5)[:, None, None] * 50 + np.arange(16).reshape(4, 4)).astype(np.uint8)
    write_idx(tmp_path / "a.idx", stack)
    write_idx(tmp_path / "a.idx.gz", stack)
    return stack


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a large and a small colour picture, a grey one and a flat one."""
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "large.png")
    Image.fromarray(smooth[:40, :40]).save(tmp_path / "small.jpg", quality=95)
    Image.fromarray(smooth[..., 0]).save(tmp_path / "grey.png")
    return tmp_path


def photo_config(*names: str, **more: object) -> TrainConfig:
    data = {"kind": "images", "train": [entry(n) for n in names], "longest": 96, "shortest": 24} | more
    return config(data, 16, network={"in_channels": 3})


@pytest.mark.parametrize("name", ["a.idx", "a.idx.gz"])
def test_idx_files_are_read_plain_and_gzipped(tmp_path, pictures, name):
    np.testing.assert_array_equal(read_idx(tmp_path / name), pictures)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00\x08\x01" + bytes(12),
        struct.pack(">4B3I", 0, 0, 8, 3, 2, 4, 4) + bytes(31),
        struct.pack(">4B3I", 0, 0, 8, 3, 2, 4, 4) + bytes(33),
        struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 2**31),
    ],
    ids=["empty", "labels", "short", "long", "absurd"],
)
def test_damaged_idx_files_are_refused(tmp_path, content):
    (tmp_path / "bad.idx").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.idx"):
        read_idx(tmp_path / "bad.idx")
    (tmp_path / "bad.idx.gz").write_bytes(gzip.compress(content)[:-4])
    with pytest.raises(InputError, match=r"bad\.idx"):
        read_idx(tmp_path / "bad.idx.gz")


def test_idx_crops_are_whole_pictures_with_a_black_border(tmp_path, pictures):
    settings = config({"kind": "idx", "train": [entry("a.idx")], "test": [entry("a.idx.gz")], "pad": 1}, 6)
    crop, rng = crop_source(settings, tmp_path), np.random.default_rng(0)
    drawn = [crop(rng) for _ in range(60)]
    wanted = {np.pad(p.astype(np.float32) / 127.5 - 1, 1, constant_values=-1)[None].tobytes() for p in pictures}
    assert {c.tobytes() for c in drawn} == wanted
    held_out = held_out_images(settings, tmp_path)
    assert len(held_out) == 5 and held_out[0].shape == (1, 6, 6)


def test_idx_flips_only_if_asked(tmp_path, pictures):
    settings = config({"kind": "idx", "train": [entry("a.idx")], "pad": 0, "flip": True}, 4)
    crop, rng = crop_source(settings, tmp_path), np.random.default_rng(0)
    assert len({crop(rng).tobytes() for _ in range(200)}) == 10


def test_idx_pictures_of_another_size_than_the_crop_are_refused(tmp_path, pictures):
    with pytest.raises(ConfigError, match=r"\(8, 8\)"):
        crop_source(config({"kind": "idx", "train": [entry("a.idx")]}, 6), tmp_path)


def test_photo_crops_are_in_range_varied_and_fixed_by_the_generator(photos):
    crop = crop_source(photo_config("large.png", "small.jpg", "grey.png"), photos)
    drawn = [crop(np.random.default_rng(k)) for k in range(60)]
    for image in drawn:
        assert image.shape == (3, 16, 16) and image.dtype == np.float32 and image.flags.c_contiguous
        assert image.min() >= -1 and image.max() <= 1
    assert len({c.tobytes() for c in drawn}) == 60
    again = crop_source(photo_config("large.png", "small.jpg", "grey.png"), photos)
    np.testing.assert_array_equal(again(np.random.default_rng(7)), drawn[7])


def test_grey_share_gives_equal_channels(photos):
    rng = np.random.default_rng(0)
    for share, expected in ((0.0, 0), (1.0, 30)):
        crop = crop_source(photo_config("large.png", grey=share), photos)
        equal = [np.ptp(crop(rng), axis=0).max() < 1e-5 for _ in range(30)]
        assert sum(equal) == expected


def test_files_are_drawn_by_their_weights(photos):
    data = {"kind": "images", "train": [entry("large.png", weight=9), entry("grey.png")], "shortest": 24, "grey": 0}
    crop, rng = crop_source(config(data, 16), photos), np.random.default_rng(0)
    grey = np.mean([np.ptp(crop(rng), axis=0).max() < 1e-5 for _ in range(400)])
    assert 0.05 < grey < 0.16


def test_smaller_versions_average_areas_and_never_enlarge():
    picture = np.kron([[0, 200], [100, 50]], np.ones((20, 20)))[..., None].repeat(3, 2).astype(np.uint8)
    versions = pyramid(picture, longest=20, shortest=5)
    assert [v.shape[0] for v in versions] == [20, 14, 10, 7, 5]
    np.testing.assert_array_equal(versions[2][::9, ::9, 0], [[0, 200], [100, 50]])
    assert all(abs(v.mean() - 87.5) < 3 for v in versions)
    assert [v.shape for v in pyramid(picture, 4000, 400)] == [(40, 40, 3)]


def test_nearly_flat_crops_are_mostly_drawn_again():
    picture = np.full((64, 64, 3), 120, np.uint8)
    picture[:20, :20] = np.random.default_rng(0).integers(0, 256, (20, 20, 3))
    rng = np.random.default_rng(1)
    flat = np.mean([random_picture_crop([picture], 16, 0.0, rng).std() < 0.02 for _ in range(300)])
    blind = np.mean([np.ptp(picture[y : y + 16, x : x + 16]) == 0 for y, x in rng.integers(0, 49, (300, 2))])
    assert blind > 0.7 and flat < 0.6 * blind


def test_pictures_are_decoded_as_stored(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 4)).astype(np.uint8)
    Image.fromarray(values[..., :3]).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(decode(tmp_path / "rgb.png"), values[..., :3])
    values[..., 3] = 0
    Image.fromarray(values).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(decode(tmp_path / "clear.png"), np.full((5, 7, 3), 255))
    deep = (np.arange(35).reshape(5, 7) * 1800).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(decode(tmp_path / "deep.png")[..., 1], deep / 257, atol=0.5)


def test_damaged_pictures_are_refused(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    (tmp_path / "text.jpg").write_text("no picture")
    for name in ("bad.png", "text.jpg"):
        with pytest.raises(InputError, match=name):
            decode(tmp_path / name)


def test_pictures_smaller_than_a_crop_are_refused(photos):
    with pytest.raises(ConfigError, match=r"small\.jpg"):
        crop_source(photo_config("large.png", "small.jpg").model_copy(update={"crop": 48}), photos)


def test_held_out_pictures_are_their_middle(photos):
    settings = photo_config("small.jpg", test=[entry("large.png")], test_size=32)
    (image,) = held_out_images(settings, photos)
    np.testing.assert_allclose(
        (image.transpose(1, 2, 0) + 1) * 127.5, decode(photos / "large.png")[32:64, 48:80], atol=1e-4
    )
    assert central_square(decode(photos / "small.jpg"), 100).shape == (3, 40, 40)
    with pytest.raises(ConfigError, match="no test data"):
        held_out_images(photo_config("small.jpg"), photos)


def test_missing_and_changed_files_are_refused(photos, tmp_path):
    digest = hashlib.sha256((photos / "large.png").read_bytes()).hexdigest()
    good = {"kind": "images", "train": [entry("large.png", sha256=digest)], "shortest": 24}
    assert crop_source(config(good, 16), photos)(np.random.default_rng(0)).shape == (3, 16, 16)
    with pytest.raises(InputError, match="SHA-256"):
        crop_source(config(good | {"train": [entry("grey.png", sha256=digest)]}, 16), photos)
    with pytest.raises(ResourceError, match=r"none\.png"):
        crop_source(config(good | {"train": [entry("none.png")]}, 16), photos)


def test_kinds_are_told_apart_by_their_name_and_strict():
    assert config({"volumes": [entry("v.nii")]}, 16).data.kind == "mri-slices"
    with pytest.raises(ValidationError, match="pad"):
        config({"kind": "images", "train": [entry("a")], "pad": 2}, 16)
    with pytest.raises(ValidationError):
        config({"kind": "videos", "train": [entry("a")]}, 16)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_name_clean_licences_credits_and_hashes(name):
    data = read_train_config(name).data
    assert data.kind in SOURCES and data.scaling
    for file in [*data.files, *data.test]:
        assert file.licence in ALLOWED, file.path
        assert file.sha256 is not None and len(file.sha256) == 64, file.path
        assert file.credit or not file.licence.startswith("CC-BY"), file.path
    trained = {file.path for file in data.files}
    assert not trained & {file.path for file in data.test}
    assert not {file.sha256 for file in data.files} & {file.sha256 for file in data.test}
    assert not [path for path in trained if any(Path(path).name.startswith(n) for n in NEVER_TRAINED_ON)]
    assert len(trained) == len(data.files)
