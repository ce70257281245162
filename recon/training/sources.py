"""From the data section of a training to its random crops and its held-out images: one entry a kind.

A new kind of data is a section in `recon.training.config` and an entry in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recon.data import Volume
from recon.errors import ConfigError, InputError, ResourceError
from recon.io.registry import read_volume
from recon.priors.catalog import file_sha256
from recon.training.config import DataFile, IdxData, ImageData, PhantomData, SliceData, TrainConfig, VorticityData
from recon.training.idx import idx_picture, read_idx
from recon.training.images import central_square, decode, pyramid, random_picture_crop
from recon.training.intensity import foreground_quantile
from recon.training.phantoms import from_hounsfield, random_phantom, reduced
from recon.training.slices import prepare_volume, random_crop
from recon.training.vorticity import UNIT, Simulation, open_fields, random_field

_HELD_OUT = 0x7E57  # first word of the held-out phantoms' seeds; a training's are (its seed, step)
CropSource = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """How one kind of data is opened: (folder, data section, crop side) -> crops, and -> held-out images (C, Y, X)."""

    crops: Callable[[Path, Any, int], CropSource]
    held_out: Callable[[Path, Any, int], list[np.ndarray]]


def crop_source(config: TrainConfig, folder: Path) -> CropSource:
    """Return rng -> one random crop (C, Y, X), float32, in the prior's units; everything is read here, once.

    Raises ResourceError for a missing file, InputError for one with another hash, ConfigError for a crop that
    does not fit.
    """
    return SOURCES[config.data.kind].crops(folder, config.data, config.crop)


def held_out_images(config: TrainConfig, folder: Path) -> list[np.ndarray]:
    """Return the held-out images (C, Y, X), float32, in the prior's units. Raises as `crop_source` does."""
    images = SOURCES[config.data.kind].held_out(folder, config.data, config.crop)
    if not images:
        raise ConfigError("the training configuration names no test data", "add [[data.test]]")
    return images


def data_path(folder: Path, entry: DataFile) -> Path:
    """Return where a data file lies, after its hash was compared.

    Raises ResourceError where it is missing, InputError where it is another file than the configuration's.
    """
    path = folder / entry.path
    if not path.is_file():
        raise ResourceError(f"training data {entry.path} is not in {folder}", f"fetch it: {entry.source}")
    if entry.sha256 is not None and file_sha256(path) != entry.sha256:
        raise InputError(f"{entry.path} is not the file of the configuration: its SHA-256 differs")
    return path


def weighted(entries: Sequence[DataFile]) -> np.ndarray:
    """Return the probability of each entry."""
    weights = np.array([entry.weight for entry in entries])
    return weights / weights.sum()


def _slice_crops(folder: Path, data: SliceData, size: int) -> CropSource:
    volumes = []
    for entry in data.volumes:
        volume = read_volume(data_path(folder, entry))
        spacing = volume.geometry.spacing or (1.0, 1.0, 1.0)
        volumes.append(prepare_volume(volume.array, (spacing[0], spacing[1], spacing[2]), entry.weight))
    return lambda rng: random_crop(volumes, size, rng)[None]


def _slice_held_out(folder: Path, data: SliceData, size: int) -> list[np.ndarray]:
    return [image for entry in data.test for image in _test_slices(read_volume(data_path(folder, entry)))]


def _test_slices(volume: Volume) -> list[np.ndarray]:
    """Return three slices of a test volume (axis 2 at 0.45 and 0.55, axis 0 at 0.45) in [-1, 1]-like units."""
    q = foreground_quantile(volume.array)
    scaled = 2 * np.clip(volume.array.astype(np.float32) / q, 0, 1.2) - 1
    n0, _, n2 = scaled.shape
    return [scaled[None, :, :, int(0.45 * n2)], scaled[None, :, :, int(0.55 * n2)], scaled[None, int(0.45 * n0)]]


def _idx_crops(folder: Path, data: IdxData, size: int) -> CropSource:
    stacks = [read_idx(data_path(folder, entry)) for entry in data.train]
    for entry, stack in zip(data.train, stacks, strict=True):
        padded = tuple(n + 2 * data.pad for n in stack.shape[1:])
        if padded != (size, size):
            raise ConfigError(f"{entry.path} holds pictures of {padded} pixels with their border, got crop = {size}")
    chances = weighted(data.train)

    def crop(rng: np.random.Generator) -> np.ndarray:
        stack = stacks[rng.choice(len(stacks), p=chances)]
        picture = idx_picture(stack, int(rng.integers(len(stack))), data.pad)
        return picture[..., ::-1].copy() if data.flip and rng.random() < 0.5 else picture

    return crop


def _idx_held_out(folder: Path, data: IdxData, size: int) -> list[np.ndarray]:
    stacks = [read_idx(data_path(folder, entry)) for entry in data.test]
    return [idx_picture(stack, index, data.pad) for stack in stacks for index in range(len(stack))]


def _image_crops(folder: Path, data: ImageData, size: int) -> CropSource:
    longest, shortest = data.longest, max(data.shortest, size)
    pyramids = [pyramid(decode(data_path(folder, entry)), longest, shortest) for entry in data.train]
    for entry, levels in zip(data.train, pyramids, strict=True):
        if min(levels[0].shape[:2]) < size:
            raise ConfigError(f"{entry.path} is {levels[0].shape[:2]} pixels, smaller than crop = {size}")
    chances = weighted(data.train)

    def crop(rng: np.random.Generator) -> np.ndarray:
        return random_picture_crop(pyramids[rng.choice(len(pyramids), p=chances)], size, data.grey, rng)

    return crop


def _image_held_out(folder: Path, data: ImageData, size: int) -> list[np.ndarray]:
    return [central_square(decode(data_path(folder, entry)), data.test_size) for entry in data.test]


def _phantom_crops(folder: Path, data: PhantomData, size: int) -> CropSource:
    return lambda rng: random_phantom(size, rng)[None]


def _phantom_held_out(folder: Path, data: PhantomData, size: int) -> list[np.ndarray]:
    """Return the real slices, then phantoms of a stream of random numbers that no training draws from."""
    slices = [hu for entry in data.test for hu in _ct_slices(read_volume(data_path(folder, entry)))]
    phantoms = [
        random_phantom(data.test_size, np.random.default_rng([_HELD_OUT, k])) for k in range(data.test_phantoms)
    ]
    return [from_hounsfield(reduced(hu, data.test_size))[None] for hu in slices] + [u[None] for u in phantoms]


def _ct_slices(volume: Volume) -> list[np.ndarray]:
    """Return a slice, or five of a volume, evenly spread over its last axis."""
    array = volume.array.reshape(*volume.array.shape[:2], -1)
    count = array.shape[-1]
    places = [count // 2] if count < 5 else [(2 * k + 1) * count // 10 for k in range(5)]
    return [array[..., place] for place in places]


def _vorticity_chunks(folder: Path, data: VorticityData, size: int) -> tuple[Simulation, list[np.ndarray]]:
    simulation = Simulation(size, data.test_chunks + data.chunks, data.per_chunk, data.snapshots, seed=data.seed)
    return simulation, open_fields(folder / data.folder, simulation)


def _vorticity_crops(folder: Path, data: VorticityData, size: int) -> CropSource:
    simulation, chunks = _vorticity_chunks(folder, data, size)
    return lambda rng: random_field(chunks[data.test_chunks :], simulation.flow.wavenumber, rng)


def _vorticity_held_out(folder: Path, data: VorticityData, size: int) -> list[np.ndarray]:
    """Return the fields of the first chunks, whose trajectories no training sees."""
    _, chunks = _vorticity_chunks(folder, data, size)
    fields = np.concatenate([chunk.reshape(-1, 1, size, size) for chunk in chunks[: data.test_chunks]])
    return list(fields / np.float32(UNIT))


def training_fields(config: TrainConfig, folder: Path, count: int = 2048) -> np.ndarray:
    """Return random training crops (count, Y, X), first channel, for statistics of the data; the seed fixes them."""
    crop, rng = crop_source(config, folder), np.random.default_rng(config.seed)
    return np.stack([crop(rng)[0] for _ in range(count)])


SOURCES: dict[str, Kind] = {
    "mri-slices": Kind(_slice_crops, _slice_held_out),
    "idx": Kind(_idx_crops, _idx_held_out),
    "images": Kind(_image_crops, _image_held_out),
    "phantoms": Kind(_phantom_crops, _phantom_held_out),
    "vorticity": Kind(_vorticity_crops, _vorticity_held_out),
}
