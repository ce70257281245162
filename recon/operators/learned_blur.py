"""Non-linear blur by a learned kernel network, as in DPS and DAPS.

    y = low + (high - low) clip(N(w, k), 0, 1),     w = (x - low)/(high - low),     k = scale n

N is the network of `recon.operators.kernel_network`, k the code of one blur: n is standard normal, drawn once for a
measurement. Source: Tran et al., CVPR 2021; operator "nonlinear_blur" of DPS (Chung et al., ICLR 2023) and of DAPS.
Departures: DPS draws another k at each call, so that data and guidance see different blurs; here k belongs to the
measurement, as in DAPS. Images whose sides are no multiple of the network's are mirrored at the lower and right edge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.operators.base import Operator, Shape
from recon.operators.checks import black_and_white, image_size, numeric
from recon.operators.family import Arrays, Family
from recon.operators.kernel_network import UNUSED, KernelNetwork, infer_network

KIND = "learned-blur"


@final
@dataclass(frozen=True)
class LearnedBlurParams:
    """The code of the blur; the network comes from a file, as the array `weights` of an operator file.

    code: "normal" (drawn from the seed), "daps" (that of DAPS, one code for every measurement), or "array" (from a
        file).
    scale: standard deviation of the code's entries.
    low, high: image values of black and white; simulations and pictures bring their own.
    """

    code: Literal["normal", "daps", "array"] = "normal"
    scale: float = 1.2
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise ConfigError(f"operator '{KIND}': scale = {self.scale}", "give 0 or more, such as 1.2")
        black_and_white(KIND, self.low, self.high)


@final
class LearnedBlur(Operator):
    """The blur of one code, for x (B, C, Y, X); y of the same shape.

    network, weights: see `recon.operators.kernel_network`.  code: (K, Y', X').  value_range: black and white.
    """

    def __init__(
        self,
        in_shape: Shape,
        network: KernelNetwork,
        weights: Mapping[str, Tensor],
        code: Tensor,
        value_range: tuple[float, float],
    ) -> None:
        self.in_shape = self.out_shape = in_shape
        self.network, self.weights, self.code, self.value_range = network, dict(weights), code, value_range
        self.low, self.width = value_range[0], value_range[1] - value_range[0]
        self.rows, self.columns = (torch.from_numpy(_mirrored(n, network.multiple)) for n in in_shape[1:])

    def _forward(self, x: Tensor) -> Tensor:
        if x.is_complex():
            raise ConfigError(
                f"operator '{KIND}' takes real images: its network mixes real channels", "give magnitudes"
            )
        unit = (x - self.low) / self.width
        whole = unit[..., self.rows[:, None], self.columns]
        blurred = self.network.blurred(self.weights, whole, self.code.expand(len(x), -1, -1, -1))
        return self.low + self.width * blurred[..., : x.shape[-2], : x.shape[-1]].clamp(0, 1)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> LearnedBlur:
        moved = super().to(device, dtype)
        assert isinstance(moved, LearnedBlur)
        moved.weights = {name: value.to(device=device, dtype=dtype) for name, value in self.weights.items()}
        return moved


def packed(tensors: Mapping[str, Tensor], name: str) -> np.ndarray:
    """Return the array "weights" of a network's tensors: the bytes of a safetensors file, as uint8.

    name: of their file, for errors. Parts that blur nothing are left out. Raises ConfigError where the tensors are not
    those of the network, InputError where they are complex or not finite.
    """
    kept = {key: value for key, value in tensors.items() if not key.startswith(UNUSED)}
    infer_network({key: tuple(value.shape) for key, value in kept.items()}, name)
    for key, value in kept.items():
        if value.is_complex() or not bool(torch.isfinite(value).all()):
            what = "complex, where the network is real" if value.is_complex() else "not finite"
            raise InputError(f"{name}: tensor {key} is {what}", "get the file again")
    single = {key: np.ascontiguousarray(value.detach().to(torch.float32).numpy()) for key, value in kept.items()}
    return np.frombuffer(save(single), np.uint8)


def draw(params: LearnedBlurParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return {"weights": (n,), "code": (K, Y', X')}. Raises ConfigError without weights, InputError on bad arrays."""
    if "weights" not in given:
        raise ConfigError(
            f"operator '{KIND}' came without the weights of its network",
            "name their file in an operator file (--operator FILE): [arrays] weights = 'GOPRO_wVAE.pth'; "
            "'nonlinear-blur' is an analytic model that needs none",
        )
    network, _ = _network(given["weights"], in_shape)
    shape = _code_shape(network, in_shape)
    if params.code == "daps":
        code = params.scale * np.random.RandomState(0).standard_normal(shape)
    elif "code" in given:
        code = given["code"]
    elif params.code == "array":
        raise ConfigError(f"operator '{KIND}' with code = 'array' came without the array 'code'", "use code = 'normal'")
    else:
        code = params.scale * rng.standard_normal(shape)
    return {"weights": given["weights"], "code": _checked_code(code, shape)}


def build(params: LearnedBlurParams, in_shape: Shape, arrays: Arrays) -> LearnedBlur:
    """Return the operator of the arrays "weights" and "code"."""
    for name in ("weights", "code"):
        if name not in arrays:
            raise InputError(f"operator '{KIND}' has no array '{name}'", "give it in the operator or measurement file")
    network, weights = _network(arrays["weights"], in_shape)
    code = torch.from_numpy(_checked_code(arrays["code"], _code_shape(network, in_shape)))
    return LearnedBlur(in_shape, network, weights, code, (params.low, params.high))


def reads_shape(params: LearnedBlurParams, arrays: Arrays, y_shape: Shape) -> Shape:
    """Return the image's shape, which is the measurement's."""
    return y_shape


def never_invented(params: LearnedBlurParams) -> frozenset[str]:
    """Return the weights, and the code unless the parameters determine it."""
    return frozenset({"weights"} if params.code == "daps" else {"weights", "code"})


def _network(array: np.ndarray, in_shape: Shape) -> tuple[KernelNetwork, dict[str, Tensor]]:
    """Return the network and its tensors, checked against each other and against the image."""
    image_size(KIND, in_shape)
    if array.dtype != np.uint8 or array.ndim != 1:
        raise InputError(
            f"array 'weights' has shape {array.shape} and type {array.dtype}, expected the bytes of a safetensors file",
            "give a .pth or .safetensors file",
        )
    try:
        tensors = {key: torch.from_numpy(value.astype(np.float32)) for key, value in load(array.tobytes()).items()}
    except (SafetensorError, ValueError, TypeError, KeyError) as err:
        raise InputError("array 'weights' is no readable safetensors file", "get the file again") from err
    network = infer_network({key: tuple(value.shape) for key, value in tensors.items()}, "array 'weights'")
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise InputError("array 'weights' holds values that are not finite", "get the file again")
    if len(in_shape) != 3 or in_shape[0] != network.channels:
        raise ConfigError(
            f"operator '{KIND}' expects an image of shape ({network.channels}, Y, X), got {in_shape}",
            "its network is made for that many channels",
        )
    return network, tensors


def _code_shape(network: KernelNetwork, in_shape: Shape) -> Shape:
    return network.code, *(-(-n // network.multiple) for n in in_shape[1:])


def _checked_code(code: np.ndarray, shape: Shape) -> np.ndarray:
    code = numeric("code", code).astype(np.float32)
    if code.shape not in (shape, (1, *shape)):
        raise InputError(f"array 'code' has shape {code.shape}, expected {shape}", "one entry for each block of pixels")
    return code.reshape(shape)


def _mirrored(count: int, multiple: int) -> np.ndarray:
    """Return pixel numbers up to the next multiple, mirrored at the last pixel without repeating it."""
    index = np.arange(-(-count // multiple) * multiple) % max(2 * count - 2, 1)
    return np.minimum(index, 2 * count - 2 - index) if count > 1 else index


FAMILY = Family(
    KIND,
    LearnedBlurParams,
    draw,
    build,
    {
        "weights": "the network: a .pth or .safetensors file of the authors' tensors",
        "code": "(K, Y/128, X/128) the code of the blur, rounded up, real",
    },
    reads_shape,
    never_invented,
)
