"""Typed configuration of `recon train`; unknown keys are errors."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataFile(_Strict):
    """One file of data: how often it is drawn from, where it came from, under which licence and by whom."""

    path: str
    weight: float = Field(default=1.0, gt=0)
    source: str
    licence: str
    credit: str | None = None
    sha256: str | None = None


class SliceData(_Strict):
    """`mri-slices`: random planes cut out of volumes; see `recon.training.slices`."""

    scaling: ClassVar[str] = (
        "u = 2 v / q - 1, q = 99.5 % quantile of the foreground (above a tenth of the 99.9 % quantile)"
    )
    symmetry: ClassVar[str] = "dihedral"
    kind: Literal["mri-slices"] = "mri-slices"
    volumes: list[DataFile] = Field(min_length=1)
    test: list[DataFile] = []

    @property
    def files(self) -> list[DataFile]:
        """The files that the crops are drawn from."""
        return self.volumes


class IdxData(_Strict):
    """`idx`: pictures of one size in idx files (MNIST's format), with a black border of `pad` pixels."""

    scaling: ClassVar[str] = "u = 2 v / 255 - 1 of the 8-bit value v"
    kind: Literal["idx"]
    train: list[DataFile] = Field(min_length=1)
    test: list[DataFile] = []
    pad: int = Field(default=2, ge=0)
    flip: bool = False

    @property
    def symmetry(self) -> str:
        """Group that the crops are drawn by."""
        return "mirror" if self.flip else "none"

    @property
    def files(self) -> list[DataFile]:
        """The files that the crops are drawn from."""
        return self.train


class ImageData(_Strict):
    """`images`: random crops of photographs at several sizes; see `recon.training.images`.

    longest: pixels of the longer side of a picture's largest version.  shortest: of the shorter side of its smallest.
    grey: share of the crops that are made grey (equal channels).  test_size: side of the held-out central squares.
    """

    scaling: ClassVar[str] = "u = 2 v / 255 - 1 of the 8-bit sRGB value v as stored; grey: three equal channels"
    symmetry: ClassVar[str] = "dihedral"
    kind: Literal["images"]
    train: list[DataFile] = Field(min_length=1)
    test: list[DataFile] = []
    longest: int = Field(default=1600, gt=0)
    shortest: int = Field(default=160, gt=0)
    grey: float = Field(default=0.2, ge=0, le=1)
    test_size: int = Field(default=256, gt=0)

    @property
    def files(self) -> list[DataFile]:
        """The files that the crops are drawn from."""
        return self.train


class PhantomData(_Strict):
    """`phantoms`: random CT phantoms, drawn while training; see `recon.training.phantoms`.

    test: real slices in Hounsfield units, averaged down to at most `test_size` pixels.  test_phantoms: held-out
    phantoms of `test_size` pixels beside them.
    """

    origin: ClassVar[str] = "random CT phantoms of `recon.training.phantoms`, no two alike; no image of a person"
    scaling: ClassVar[str] = (
        "u = 2 m / 2.2 - 1, m = 1 + HU/1000 the attenuation relative to water, clipped to HU <= 2080"
    )
    symmetry: ClassVar[str] = "dihedral"
    kind: Literal["phantoms"]
    test: list[DataFile] = []
    test_phantoms: int = Field(default=12, ge=0)
    test_size: int = Field(default=256, gt=0)

    @property
    def files(self) -> list[DataFile]:
        """The files that the crops are drawn from: none."""
        return []


class VorticityData(_Strict):
    """`vorticity`: fields of two-dimensional turbulence, simulated on first use; see `recon.training.vorticity`.

    folder: where they are kept, in the data folder.  chunks: of training fields.  test_chunks: held-out, other
    trajectories.  seed: of the simulation. Fields are as large as the training's crop.
    """

    origin: ClassVar[str] = "forced Navier-Stokes at Re = 200, simulated by `recon.training.vorticity`"
    scaling: ClassVar[str] = "u = w / 10 of the vorticity w, for lengths in units of the torus' side over 2 pi"
    symmetry: ClassVar[str] = "none"
    kind: Literal["vorticity"]
    folder: str = "vorticity"
    chunks: int = Field(default=40, gt=0)
    test_chunks: int = Field(default=2, gt=0)
    per_chunk: int = Field(default=16, gt=0)
    snapshots: int = Field(default=16, gt=0)
    seed: int = 0

    @property
    def files(self) -> list[DataFile]:
        """The files that the crops are drawn from: none but the simulated ones."""
        return []

    @property
    def test(self) -> list[DataFile]:
        """Held-out files: none, the first chunks are."""
        return []


def _kind(data: Any) -> str:
    """The tag of a data section; the first configurations had none."""
    return str(data.get("kind", "mri-slices") if isinstance(data, dict) else getattr(data, "kind", None))


Data = Annotated[
    Annotated[SliceData, Tag("mri-slices")]
    | Annotated[IdxData, Tag("idx")]
    | Annotated[ImageData, Tag("images")]
    | Annotated[PhantomData, Tag("phantoms")]
    | Annotated[VorticityData, Tag("vorticity")],
    Discriminator(_kind),
]


class NetworkConfig(_Strict):
    """Architecture of the UNet; see `recon.priors.networks.unet.UNetConfig`."""

    in_channels: int = 1
    channels: tuple[int, ...] = (32, 64, 96, 128)
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    unshuffle: int = 2
    embedding: int = 128
    groups: int = 8
    attention: int = Field(default=0, ge=0)
    padding: Literal["zeros", "circular"] = "zeros"


class OptimiserConfig(_Strict):
    """AdamW with warm-up and inverse-square-root decay, so that a training can always go on.

    lr(step) = lr min(1, (step+1)/warmup) / sqrt(max(step/decay_after, 1)), times the training's cooldown
    """

    lr: float = Field(default=1e-3, gt=0)
    warmup: int = 200
    decay_after: int = 4000
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    clip: float = 1.0


class TrainConfig(_Strict):
    """Everything that determines a training.

    steps: where it ends.  cooldown: steps before the end over which the learning rate falls linearly to 0. A training
    that was started with other values of these two goes on with the new ones.
    """

    name: str
    description: str
    crop: int = 96
    batch: int = 8
    steps: int = Field(default=100_000, gt=0)
    cooldown: int = Field(default=0, ge=0)
    seed: int = 0
    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    log_sigma_mean: float = -1.2
    log_sigma_std: float = 1.4
    ema: tuple[float, ...] = (0.999,)
    value_range: tuple[float, float] = (-1.0, 1.0)
    checkpoint_seconds: float = 300.0
    log_every: int = 100
    data: Data
    network: NetworkConfig = NetworkConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
