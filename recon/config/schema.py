"""The typed configuration that a preset, a user file, the environment, --set and flags resolve to.

Sections `operator` and `method` carry the parameters of their kind beside its name; those are checked against the
family's and the method's own dataclasses when they are built.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OperatorSection(_Section):
    """Forward operator: `kind`, and the parameters of that kind."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the kind."""
        return dict(self.model_extra or {})


class NoiseSection(_Section):
    """Noise of the measurement.

    sigma: Gaussian standard deviation relative to the data range of the image (each of real and imaginary parts).
    peak: Poisson counts that a measured value equal to the data range gives.
    photons, attenuation: transmission: counts of a ray that nothing attenuates, and nepers (each divides a ray by e)
        that a measured value equal to the data range attenuates.
    clip: cut the data at the image's black and white, before and after the noise, as DPS does with Poisson noise.
    """

    kind: Literal["gaussian", "poisson", "transmission", "none"] = "gaussian"
    sigma: float = Field(default=0.0, ge=0)
    peak: float = Field(default=1000.0, gt=0)
    photons: float = Field(default=1e5, gt=0)
    attenuation: float = Field(default=0.03, gt=0)
    clip: bool = False


class PriorSection(_Section):
    """Diffusion prior: the name of a shipped one, or a weight file; and how it sees the images.

    tile: side of tiles in pixels, for large images and for priors of one size; 0 for the whole image.
    overlap: of neighbouring tiles, in pixels.
    symmetry: mirror and turn what the network sees, and back: "own" (what the prior was trained on), "none", "mirror"
    (left-right) or "dihedral" (and turned by 90 degrees).  symmetry_calls: "one" element for each noise level, or the
    mean over "all", at 2 or 8 times the work.
    label: class of a class-conditional prior.  null_label: the class that stands for none, where it always takes one.
    guidance: weight w of the class, D_0 + w (D_c - D_0); none for the class alone, at half the work.
    guidance_mode: "cfg", or "cfg++" (w at most 1; steps add the unconditional noise again).
    auxiliary: of method 'tpdm', the prior of the other plane's slices; none for the same prior.
    split: let a prior of one real channel see every channel, or real and imaginary part, as an image of its own.
    """

    name: str
    tile: int = Field(default=0, ge=0)
    overlap: int = Field(default=32, ge=0)
    symmetry: Literal["own", "none", "mirror", "dihedral"] = "own"
    symmetry_calls: Literal["one", "all"] = "one"
    label: int | None = Field(default=None, ge=0)
    null_label: int | None = Field(default=None, ge=0)
    guidance: float | None = Field(default=None, gt=0)
    guidance_mode: Literal["cfg", "cfg++"] = "cfg"
    split: bool = False
    auxiliary: str | None = None


class MethodSection(_Section):
    """Method: `name`, and its settings."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def params(self) -> dict[str, Any]:
        """The method's settings."""
        return dict(self.model_extra or {})


class ScalingSection(_Section):
    """How image units map to the prior's value range.

    mode "auto": the file's declared range where its type has one (8 or 16 bit), else estimated from the measurement.
    mode "fixed": `low` and `high`, in image units, map to the ends of the range.
    quantile: of the foreground of a first reconstruction, mapped to the top of the range when estimating.
    unit_norm: scale the operator to norm 1, so that method settings do not depend on its units.
    """

    mode: Literal["auto", "fixed"] = "auto"
    low: float = 0.0
    high: float | None = None
    quantile: float = Field(default=0.995, gt=0, le=1)
    unit_norm: bool = False


class ScanSection(_Section):
    """What is inferred from a scanner's own k-space, which comes without a complete operator.

    mask: "auto": the file's, else the samples that are not zero; "infer": those in any case; "preset": the preset's
    mask laid over them, to undersample a full scan after the fact.
    maps: "auto": those given, else ESPIRiT for several coils; "rough": low-resolution images; "none".
    coils: compress more coils than that to as many virtual ones, slice by slice; none: keep all.
    calibration: most samples a side of the measured centre of k-space that maps and phase are taken from.
    kernel, threshold: of ESPIRiT, patch side and least singular value relative to the largest.
    phase: "auto": of the low-resolution image, moved into the maps where the image is real; "absorb"; "none".
    sigma: noise of each real and imaginary part in k-space's units; none: from the outer corners of k-space.
    oversampling: remove that of the readout.  crop: cut the image to the part that the scanner shows.
    """

    mask: Literal["auto", "infer", "preset"] = "auto"
    maps: Literal["auto", "espirit", "rough", "none"] = "auto"
    coils: int | None = Field(default=None, ge=2)
    calibration: int = Field(default=24, ge=2)
    kernel: int = Field(default=6, ge=2, le=12)
    threshold: float = Field(default=0.02, gt=0, lt=1)
    phase: Literal["auto", "absorb", "none"] = "auto"
    sigma: float | None = Field(default=None, ge=0)
    oversampling: bool = True
    crop: bool = True


class RunSection(_Section):
    """How to run: number of samples, seed, device, threads (0: all cores), samples per chunk (0: chosen).

    together: inputs of a batch that go through the network together, where they are alike (0: chosen).
    backend: what evaluates the network; "auto": ONNX Runtime where it is installed, can and is worth it, else torch.
    std_factor: what the standard deviation is multiplied by, from `recon audit --calibrate`.
    """

    samples: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    threads: int = Field(default=0, ge=0)
    chunk: int = Field(default=0, ge=0)
    together: int = Field(default=0, ge=0)
    backend: Literal["auto", "eager", "compile", "onnxruntime"] = "auto"
    std_factor: float = Field(default=1.0, gt=0)


class MetricsSection(_Section):
    """Named metric protocol."""

    protocol: str = "image01"


class Config(_Section):
    """A complete configuration: problem, prior, method, scaling and run."""

    description: str = ""
    citation: str = ""
    operator: OperatorSection
    noise: NoiseSection = NoiseSection()
    prior: PriorSection = PriorSection(name="brain-mri")
    method: MethodSection
    scaling: ScalingSection = ScalingSection()
    scan: ScanSection = ScanSection()
    run: RunSection = RunSection()
    metrics: MetricsSection = MetricsSection()
