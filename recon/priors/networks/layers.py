"""Layers that the published EDM and score-SDE networks share; parameter names are those of their checkpoints.

Factor-2 resampling filters each channel with a separable FIR kernel: before dropping every second sample on the way
down; on the way up after inserting zeros, with gain 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Direction = Literal["up", "down"]


def fir_kernel(taps: tuple[float, ...]) -> Tensor:
    """Return the (1, 1, K, K) kernel of taps (K), with sum 1, on the CPU."""
    line = torch.tensor(taps, dtype=torch.float32, device="cpu")
    return (torch.outer(line, line) / line.sum().square())[None, None]


def fir_down(x: Tensor, kernel: Tensor, padding: int | None = None) -> Tensor:
    """Filter (B, C, Y, X) by a kernel (1, 1, K, K) and keep every second sample; padding: (K-1)//2 unless given."""
    pad, channels = (kernel.shape[-1] - 1) // 2 if padding is None else padding, int(x.shape[1])
    return F.conv2d(x, kernel.repeat(channels, 1, 1, 1), stride=2, padding=pad, groups=channels)


def fir_up(x: Tensor, kernel: Tensor) -> Tensor:
    """Double the sizes of (B, C, Y, X): zeros between samples, then 4 times the kernel (1, 1, K, K)."""
    channels = int(x.shape[1])
    weight = (4 * kernel).repeat(channels, 1, 1, 1)
    return F.conv_transpose2d(x, weight, stride=2, padding=(kernel.shape[-1] - 1) // 2, groups=channels)


def resampled(x: Tensor, kernel: Tensor, direction: Direction) -> Tensor:
    """Resample (B, C, Y, X) by a factor of 2 in a direction."""
    return fir_up(x, kernel) if direction == "up" else fir_down(x, kernel)


def positional_features(c: Tensor, width: int, endpoint: bool = False) -> Tensor:
    """Return [cos, sin] of c (B,) times `width`/2 frequencies 10000^(-k/n), (B, width).

    n: width/2, or with `endpoint` width/2 - 1.  c reaches 1000, so that phases, and with them the features, depend on
    how the frequencies are rounded: float32 powers, as the networks were trained with.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=c.device) / (half - int(endpoint))
    phase = torch.outer(c, torch.pow(1 / 10000, steps).to(c.dtype))
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Return a normalisation over groups of at least four channels, at most 32 groups."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=eps)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q^T k / sqrt(D)) v for (B, D, N) queries, keys and values, as (B, D, N)."""
    found = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return found.transpose(1, 2)


class ResampledConv(nn.Module):
    """Resampling by 2, then a convolution where `kernel` > 0; `fused`: the convolution comes first, at the full size.

    stored: whether checkpoints hold the FIR kernel, as `resample_filter`.
    """

    resample_filter: Tensor

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        direction: Direction,
        taps: tuple[float, ...],
        fused: bool = False,
        stored: bool = True,
    ) -> None:
        super().__init__()
        self.direction, self.fused = direction, fused
        self.weight = nn.Parameter(torch.zeros(c_out, c_in, kernel, kernel)) if kernel else None
        self.bias = nn.Parameter(torch.zeros(c_out)) if kernel else None
        self.register_buffer("resample_filter", fir_kernel(taps), persistent=stored)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return resampled(x, self.resample_filter, self.direction)
        pad = self.weight.shape[-1] // 2
        if self.fused:
            taps = self.resample_filter.shape[-1]
            # both paddings at once: nothing is cut between the two filters
            x = F.conv2d(x, self.weight, padding=pad + (taps - 1) // 2)
            return fir_down(x, self.resample_filter, padding=0) + self.bias[:, None, None]  # type: ignore[index]
        return F.conv2d(resampled(x, self.resample_filter, self.direction), self.weight, self.bias, padding=pad)


@dataclass(frozen=True)
class BlockStyle:
    """What the residual blocks of one network have in common.

    embedding: width of the conditioning.  adaptive: the conditioning scales and shifts (else it is added).
    head_channels: channels of an attention head; None for one head.  scale: factor after each sum.
    project: whether a resampled skip is also convolved.  taps: of the resampling.
    """

    embedding: int
    adaptive: bool = True
    head_channels: int | None = 64
    scale: float = 1.0
    eps: float = 1e-5
    project: bool = False
    taps: tuple[float, ...] = (1, 1)


class UNetBlock(nn.Module):
    """norm-SiLU-conv0-norm(conditioning)-SiLU-conv1 plus skip, then self-attention where it is asked for."""

    def __init__(
        self, c_in: int, c_out: int, style: BlockStyle, direction: Direction | None = None, attention: bool = False
    ) -> None:
        super().__init__()
        self.c_out, self.style = c_out, style
        self.heads = 0 if not attention else 1 if style.head_channels is None else c_out // style.head_channels
        self.norm0 = group_norm(c_in, style.eps)
        self.conv0 = _conv(c_in, c_out, 3, style, direction)
        self.affine = nn.Linear(style.embedding, c_out * (2 if style.adaptive else 1))
        self.norm1 = group_norm(c_out, style.eps)
        self.conv1 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip: nn.Module | None = None
        if c_in != c_out or direction is not None:
            kernel = 1 if style.project or c_in != c_out else 0
            self.skip = _conv(c_in, c_out, kernel, style, direction)
        if self.heads:
            self.norm2 = group_norm(c_out, style.eps)
            self.qkv = nn.Conv2d(c_out, 3 * c_out, 1)
            self.proj = nn.Conv2d(c_out, c_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        params = self.affine(emb)[:, :, None, None]
        if self.style.adaptive:
            scale, shift = params.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm1(h), scale + 1)
        else:
            h = self.norm1(h + params)
        x = (self.conv1(F.silu(h)) + (x if self.skip is None else self.skip(x))) * self.style.scale
        return (x + self._attention(x)) * self.style.scale if self.heads else x

    def _attention(self, x: Tensor) -> Tensor:
        # channels of qkv are ordered (head, channel, q/k/v)
        split = self.qkv(self.norm2(x)).reshape(x.shape[0] * self.heads, self.c_out // self.heads, 3, -1)
        return self.proj(attend(*split.unbind(2)).reshape(x.shape))


def _conv(c_in: int, c_out: int, kernel: int, style: BlockStyle, direction: Direction | None) -> nn.Module:
    if direction is None:
        return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
    return ResampledConv(c_in, c_out, kernel, direction, style.taps)
