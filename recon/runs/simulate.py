"""Simulate a measurement: draw the operator's random parts, apply it, add noise.

Everything random derives from one seed; the noise of slice i does not depend on which slices are simulated with it.
"""

from __future__ import annotations

import numpy as np
import torch

from recon.config.schema import Config, NoiseSection
from recon.data import Measurement, NoiseSpec, OperatorSpec, Volume, take_item, to_stack
from recon.errors import InputError
from recon.operators.attenuation import line_integrals
from recon.operators.base import Operator
from recon.operators.registry import build, draw, sees_volumes
from recon.operators.value_range import with_range
from recon.runs.scaling import data_range

# separate streams of the one seed
NOISE_STREAM = 1


def simulate(truth: Volume, config: Config, index: int | None = None, spec: OperatorSpec | None = None) -> Measurement:
    """Return the measurement of a truth under the configuration's operator and noise.

    index: simulate one slice of a volume alone.  spec: an operator from a file, in place of the configuration's.
    Raises InputError for truths that the operator or the noise cannot take.
    """
    whole = to_stack(truth)
    stack, first = whole, 0
    if index is not None:
        truth = take_item(truth, index)
        stack, first = to_stack(truth), index % whole.shape[0]
        if stack.shape[0] != 1:
            raise InputError("the truth has items (n) and slices (z): one index does not choose an image of it")
    kind = config.operator.kind if spec is None else spec.kind
    if sees_volumes(kind) if spec is None else sees_volumes(kind, spec.in_shape, spec.arrays):
        stack = _as_volume(stack, truth, kind, index)
    if not stack.size or not np.isfinite(stack).all():
        raise InputError("the truth is empty, or holds NaN or infinite values", "mask or fill them first")
    in_shape = tuple(stack.shape[1:])
    # the range of the whole volume, so that a slice has the same noise alone
    width = data_range(whole[np.isfinite(whole)], truth.geometry)
    held = _value_range(config, truth, width)
    if spec is None:
        spec = draw(kind, with_range(kind, config.operator.params, held), in_shape, config.run.seed)
    else:
        if spec.in_shape and tuple(spec.in_shape) != in_shape:
            raise InputError(f"the operator file is for images of shape {tuple(spec.in_shape)}, got {in_shape}")
        spec = draw(spec.kind, with_range(spec.kind, spec.params, held), in_shape, config.run.seed, spec.arrays)
    operator = build(spec)
    if np.iscomplexobj(stack) and not operator.in_dtype.is_complex:
        raise InputError(
            f"the truth is complex, but operator '{spec.kind}' takes real images",
            "take its real part or magnitude, or set operator.complex_image = true where the operator has it",
        )
    noise = absolute_noise(config.noise, width)
    items = []
    for i, image in enumerate(stack):
        x = torch.from_numpy(np.ascontiguousarray(image))[None].to(operator.in_dtype)
        rng = np.random.default_rng([config.run.seed, NOISE_STREAM, first + i])
        z = operator.forward(x)[0].numpy()
        items.append(_clipped(add_noise(_clipped(z, config, held), operator, noise, rng), config, held))
    provenance = {"simulated": True, "seed": config.run.seed, "first_item": first}
    return Measurement(np.stack(items), spec, noise, truth.geometry, provenance)


def _clipped(z: np.ndarray, config: Config, held: tuple[float, float]) -> np.ndarray:
    """Return data cut at black and white, where the configuration asks for it. Raises InputError where complex."""
    if not config.noise.clip:
        return z
    if np.iscomplexobj(z):
        raise InputError("noise.clip cuts data at black and white; this operator gives complex ones")
    return z.clip(*held)


def _as_volume(stack: np.ndarray, truth: Volume, kind: str, index: int | None) -> np.ndarray:
    """Return slices (Z, C, Y, X) as one volume (1, C, Z, Y, X). Raises InputError where they are none."""
    if index is not None or "n" in truth.geometry.axes:
        raise InputError(
            f"operator '{kind}' sees the slices of a volume together, and the truth is "
            + ("one slice" if index is not None else "independent images (axis n)"),
            "give a volume with an axis z (--axes)",
        )
    return np.ascontiguousarray(stack.transpose(1, 0, 2, 3)[None])


def _value_range(config: Config, truth: Volume, width: float) -> tuple[float, float]:
    """Return the image values of black and white: those of the scaling, else of the file's type, else of the truth."""
    scaling = config.scaling
    if scaling.mode == "fixed" and scaling.high is not None:
        return scaling.low, scaling.high
    declared = truth.geometry.value_range
    return declared if declared is not None else (scaling.low, scaling.low + width)


def absolute_noise(section: NoiseSection, width: float) -> NoiseSpec:
    """Return noise in the measurement's units from noise relative to the image's data range `width`."""
    if section.kind == "gaussian":
        return NoiseSpec("gaussian", sigma=section.sigma * width)
    if section.kind == "poisson":
        return NoiseSpec("poisson", gain=section.peak / width)
    if section.kind == "transmission":
        return NoiseSpec("transmission", gain=section.photons, attenuation=section.attenuation / width)
    return NoiseSpec("none")


def add_noise(z: np.ndarray, operator: Operator, noise: NoiseSpec, rng: np.random.Generator) -> np.ndarray:
    """Return noisy data (*out_shape) of noise-free z, in z's type; unmeasured entries stay zero."""
    if noise.kind == "poisson":
        if np.iscomplexobj(z) or z.min() < -1e-6 * np.abs(z).max():
            raise InputError(
                "Poisson noise needs real, non-negative data; this operator gives other values",
                "use --set noise.kind=gaussian, or an operator with non-negative output",
            )
        noisy = rng.poisson(noise.gain * np.maximum(z, 0)) / noise.gain
    elif noise.kind == "transmission":
        if np.iscomplexobj(z):
            raise InputError("transmission noise needs real line integrals; this operator gives complex ones")
        counts = rng.poisson(noise.gain * np.exp(-noise.attenuation * z.astype(np.float64)))
        noisy = line_integrals(counts, noise.gain, 0.0) / noise.attenuation
    elif noise.kind == "gaussian" and noise.sigma > 0:
        noisy = z + noise.sigma * rng.standard_normal(z.shape)
        if np.iscomplexobj(z):
            noisy = noisy + 1j * noise.sigma * rng.standard_normal(z.shape)
    else:
        noisy = z
    if operator.support is not None:
        noisy = noisy * operator.support.numpy()
    return np.asarray(noisy, dtype=z.dtype)
