"""NCSN++: the score network of score_sde checkpoints (variance exploding, continuous noise levels).

score(x, sigma) = h(2 x - 1, log sigma) / sigma for x in [0, 1], h(x, log sigma) / sigma where images are centred:
Gaussian Fourier features of log sigma, two linear layers, BigGAN residual blocks with FIR resampling (1, 3, 3, 1), each
sum divided by sqrt(2). The encoder may take a downsampled image at each level, the
decoder may sum images of each level.
Source: Song et al. 2021 (score SDE), appendix H. The modules lie in one list, `all_modules.{i}`, in the order of use,
as in the checkpoints. Departure: attention belongs to levels, not to sides, so that other image sizes work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon.priors.networks.layers import ResampledConv, attend, fir_down, fir_kernel, fir_up, group_norm, resampled

EPS = 1e-6
TAPS = (1.0, 3.0, 3.0, 1.0)


@dataclass(frozen=True)
class NCSNppConfig:
    """Architecture of `NCSNpp`.

    channels: of the image.  width: base width.  multipliers: width of each level.  blocks: residual blocks a level.
    attention: levels (0 is the full size) that have self-attention; the middle always has.
    image_in: "none" | "input_skip" | "residual".  image_out: "none" | "output_skip".
    centred: whether F takes images as they are, in [-1, 1], and not from [0, 1] to there itself.
    """

    channels: int = 3
    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (4,)
    image_in: str = "input_skip"
    image_out: str = "output_skip"
    centred: bool = False

    @property
    def multiple(self) -> int:
        """Spatial sizes must divide by this."""
        return int(2 ** (len(self.multipliers) - 1))


class GaussianFourier(nn.Module):
    """[sin, cos] of 2 pi W v for fixed random W: (B,) -> (B, 2 width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(width), requires_grad=False)

    def forward(self, v: Tensor) -> Tensor:
        # the phase reaches thousands: its rounding, and so the order of these products, matters
        phase = v[:, None] * self.W[None, :] * 2 * math.pi
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class Pointwise(nn.Module):
    """A linear map of the channels, W (in, out) and b."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(c_in, c_out))
        self.b = nn.Parameter(torch.zeros(c_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,cd->bdhw", x, self.W) + self.b[:, None, None]


class AttentionBlock(nn.Module):
    """One head of self-attention over all positions, added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(width, EPS)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (Pointwise(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.NIN_0, self.NIN_1, self.NIN_2))
        return (x + self.NIN_3(attend(q, k, v).reshape(x.shape))) / math.sqrt(2)


class BigGANBlock(nn.Module):
    """norm-SiLU-(resample)-conv-(+ conditioning)-norm-SiLU-conv, plus the (resampled, convolved) input."""

    kernel: Tensor

    def __init__(self, c_in: int, c_out: int, embedding: int, direction: str = "") -> None:
        super().__init__()
        self.direction = direction
        self.GroupNorm_0 = group_norm(c_in, EPS)
        self.Conv_0 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.Dense_0 = nn.Linear(embedding, c_out)
        self.GroupNorm_1 = group_norm(c_out, EPS)
        self.Conv_1 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.Conv_2 = nn.Conv2d(c_in, c_out, 1) if c_in != c_out or direction else None
        self.register_buffer("kernel", fir_kernel(TAPS), persistent=False)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = F.silu(self.GroupNorm_0(x))
        if self.direction:
            h, x = (resampled(image, self.kernel, self.direction) for image in (h, x))  # type: ignore[arg-type]
        h = self.Conv_0(h) + self.Dense_0(F.silu(emb))[:, :, None, None]
        h = self.Conv_1(F.silu(self.GroupNorm_1(h)))
        return ((x if self.Conv_2 is None else self.Conv_2(x)) + h) / math.sqrt(2)


class Combine(nn.Module):
    """Add an image, after a 1x1 convolution, to features."""

    def __init__(self, c_image: int, c_out: int) -> None:
        super().__init__()
        self.Conv_0 = nn.Conv2d(c_image, c_out, 1)

    def forward(self, image: Tensor, h: Tensor) -> Tensor:
        return self.Conv_0(image) + h


class StridedConv(nn.Module):
    """FIR downsampling fused with a 3x3 convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.Conv2d_0 = ResampledConv(c_in, c_out, 3, "down", TAPS, fused=True, stored=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.Conv2d_0(x)


class NCSNpp(nn.Module):
    """score(x, sigma): (B, C, Y, X), (B,) -> (B, C, Y, X)."""

    kernel: Tensor

    def __init__(self, config: NCSNppConfig) -> None:
        super().__init__()
        self.config = config
        plan = _Plan(config)
        self.all_modules = nn.ModuleList(plan.modules)
        self._steps = tuple(plan.steps)
        self.register_buffer("kernel", fir_kernel(TAPS), persistent=False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        fourier, dense0, dense1, conv = (self.all_modules[i] for i in range(4))
        emb = dense1(F.silu(dense0(fourier(sigma.log()))))
        image = x if self.config.centred else 2 * x - 1
        h = conv(image)
        skips: list[Tensor] = []
        out: Tensor | None = None
        for step, i in self._steps:
            if step == "keep":
                skips.append(h)
            elif step == "join":
                h = self.all_modules[i](torch.cat([h, skips.pop()], dim=1), emb)
            elif step == "block":
                h = self.all_modules[i](h, emb)
            elif step == "attend":
                h = self.all_modules[i](h)
            elif step == "image skip":
                image = fir_down(image, self.kernel)
                h = self.all_modules[i](image, h)
            elif step == "image residual":
                image = h = (self.all_modules[i](image) + h) / math.sqrt(2)
            else:
                found = self.all_modules[i + 1](F.silu(self.all_modules[i](h)))
                out = found if out is None else fir_up(out, self.kernel) + found
        assert out is not None
        return out / sigma[:, None, None, None]


class _Plan:
    """The modules of an NCSN++, and the steps of its pass: (what is done, index of the module)."""

    def __init__(self, config: NCSNppConfig) -> None:
        self.config = config
        self.modules: list[nn.Module] = []
        self.steps: list[tuple[str, int]] = []
        width = config.width
        self.embedding = 4 * width
        self.modules += [GaussianFourier(width), nn.Linear(2 * width, 4 * width), nn.Linear(4 * width, 4 * width)]
        self.modules.append(nn.Conv2d(config.channels, width, 3, padding=1))
        skips = self._encode()
        self._add("block", BigGANBlock(skips[-1], skips[-1], self.embedding))
        self._add("attend", AttentionBlock(skips[-1]))
        self._add("block", BigGANBlock(skips[-1], skips[-1], self.embedding))
        self._decode(skips)

    def _add(self, step: str, *modules: nn.Module) -> None:
        self.steps.append((step, len(self.modules)))
        self.modules.extend(modules)

    def _encode(self) -> list[int]:
        config = self.config
        c, image = config.width, config.channels
        skips = [c]
        self._add("keep")
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.blocks):
                self._add("block", BigGANBlock(c, config.width * multiplier, self.embedding))
                c = config.width * multiplier
                if level in config.attention:
                    self._add("attend", AttentionBlock(c))
                skips.append(c)
                self._add("keep")
            if level + 1 == len(config.multipliers):
                break
            self._add("block", BigGANBlock(c, c, self.embedding, "down"))
            if config.image_in == "input_skip":
                self._add("image skip", Combine(image, c))
            elif config.image_in == "residual":
                self._add("image residual", StridedConv(image, c))
                image = c
            skips.append(c)
            self._add("keep")
        return skips

    def _decode(self, skips: list[int]) -> None:
        config = self.config
        c = skips[-1]
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for _ in range(config.blocks + 1):
                self._add("join", BigGANBlock(c + skips.pop(), config.width * multiplier, self.embedding))
                c = config.width * multiplier
            if level in config.attention:
                self._add("attend", AttentionBlock(c))
            if config.image_out == "output_skip" or level == 0:
                self._add("image out", group_norm(c, EPS), nn.Conv2d(c, config.channels, 3, padding=1))
            if level > 0:
                self._add("block", BigGANBlock(c, c, self.embedding, "up"))
