"""Filtered backprojection of fan-beam data, and of circular cone-beam data (Feldkamp, Davis and Kress).

    flat     f(p) = sum_a w_a (R/L)^2 q_a(R a/L),     q = (m cos(gamma) g) * h,     cos(gamma) = R/sqrt(R^2 + s^2 + v^2)
    curved   f(p) = sum_a w_a R/K^2 q_a(gamma),       q = (m cos(gamma) g) * ((gamma/sin gamma)^2 h)

with L the distance of p from the source along the central ray, a its distance across, K that from the source, and s, v
the detector's coordinates scaled to the axis of rotation. m shares a line that is measured twice among both views; h
is the Ram-Lak filter (`fbp.py`).
Sources: A. C. Kak, M. Slaney, Principles of Computerized Tomographic Imaging, 1988, sections 3.4 and 3.6; L. A.
Feldkamp, L. C. Davis, J. W. Kress, J. Opt. Soc. Am. A 1(6), 1984; m: F. Noo et al., Phys. Med. Biol. 47, 2002, eq. 22.
Departure: w_a follow the gaps between angles, as for the parallel beam. `pixels.py` takes the sums where it serves.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from recon.kernels import pixels
from recon.kernels.fbp import BLOCK, angular_weights, convolve, ramp_kernel
from recon.kernels.parallel import directions
from recon.kernels.scans import ConeGeometry, FanGeometry

TAPER = 10.0  # degrees over which the weight of the ends of an arc falls to zero
CONE_BLOCK = {"cpu": 2**17, "gpu": 2**23}  # interpolated values held at once, of a cone


def fan_backprojection(sinogram: Tensor, geometry: FanGeometry) -> Tensor:
    """Return the image of line integrals: (B, views, detectors) -> (B, Y, X), in values per mm."""
    filtered = _filtered(sinogram[:, :, None], geometry, np.zeros(1))[:, :, 0]
    y, x = _pixel_axes(geometry.shape, geometry.pixel_size)
    if pixels.serves(filtered):
        return pixels.backproject_plane(filtered, _sight(geometry), geometry.shape)
    batch, views, count = filtered.shape
    padded = torch.nn.functional.pad(filtered, (1, 1))
    image = filtered.new_zeros(batch, y.size * x.size)
    origin = geometry.detector_axis()[0]
    cos, sin = directions(geometry.angles)
    together = max(1, BLOCK // (batch * y.size * x.size))
    for first in range(0, views, together):
        block = slice(first, first + together)
        across, along = _seen(x, y[:, None], cos[block, None, None], sin[block, None, None], geometry.source_distance)
        if geometry.curved:
            u, gain = np.arctan2(across, along), geometry.source_distance / (across**2 + along**2)
        else:
            u, gain = across / along, (geometry.source_distance / along) ** 2
        position = (u * geometry.detector_distance - origin) / geometry.pitch + 1
        position = torch.from_numpy(position).to(filtered.device).clamp_(0, count + 1).flatten(1)
        left = position.long().clamp_max_(count)
        fraction = (position - left).to(filtered.dtype)
        left = left.expand(batch, *left.shape)
        low, high = (padded[:, block].gather(2, left + k) for k in (0, 1))
        image += (torch.from_numpy(gain).flatten(1).to(filtered) * torch.lerp(low, high, fraction)).sum(1)
    return image.reshape(batch, *geometry.shape)


def cone_backprojection(data: Tensor, geometry: ConeGeometry) -> Tensor:
    """Return the volume of line integrals: (B, views, rows, columns) -> (B, Z, Y, X), in values per mm.

    Each voxel takes the bilinear interpolation of every filtered view where its centre is seen. The adjoint of the
    projector would do with fewer operations, but its weights are even only where rays are as dense as voxels.
    """
    fan, (rows, columns) = geometry.fan(), geometry.detectors
    images = _filtered(data, fan, geometry.row_axis())
    if pixels.serves(images):
        magnification = geometry.detector_distance / geometry.pitch[0]
        climb = geometry.slice_distance * magnification, float(geometry.row_axis()[0]) / geometry.pitch[0]
        return pixels.backproject_volume(images, _sight(fan), geometry.shape, *climb)
    images = images.transpose(0, 1)
    (y, x), (cos, sin) = _pixel_axes(fan.shape, fan.pixel_size), directions(geometry.angles)
    z = (np.arange(geometry.shape[0]) - (geometry.shape[0] - 1) / 2) * geometry.slice_distance
    heights, plane = torch.from_numpy(z).to(data)[:, None], y.size * x.size
    # one view a thread, and as many slices as a processor's cache holds; the sums' order is that of the views
    together = min(max(4, torch.get_num_threads()), 16)
    block_size = CONE_BLOCK["cpu" if data.device.type == "cpu" else "gpu"]
    slices = max(1, block_size // (together * plane * len(data)))
    volume = data.new_zeros(data.shape[0], z.size, plane)
    middle = data.new_tensor((1 - 2 * geometry.row_axis()[0] / geometry.pitch[0]) / rows - 1)
    for first in range(0, len(cos), together):
        block = slice(first, first + together)
        across, along = _seen(x, y[:, None], cos[block, None, None], sin[block, None, None], geometry.source_distance)
        scale = geometry.detector_distance / along
        # grid_sample counts from -1 to 1 between the outer edges of the first and the last detector
        column = (2 * (across * scale - fan.detector_axis()[0]) / fan.pitch + 1) / columns - 1
        seen = (column, 2 * scale / (geometry.pitch[0] * rows), (geometry.source_distance / along) ** 2)
        column, rise, gain = (torch.from_numpy(part).to(data).reshape(-1, 1, plane) for part in seen)
        grid = data.new_empty(len(column), slices, plane, 2)
        grid[..., 0] = column
        for low in range(0, z.size, slices):
            part = grid[:, : z.size - low]
            part[..., 1] = torch.addcmul(middle, rise, heights[low : low + slices])
            values = torch.nn.functional.grid_sample(images[block], part, align_corners=False)
            for value, weight in zip(values, gain, strict=True):
                volume[:, low : low + slices].addcmul_(value, weight)
    return volume.reshape(data.shape[0], *geometry.shape)


def redundancy(degrees: np.ndarray, fan_angles: np.ndarray) -> np.ndarray:
    """Return the share of each ray in its line, (views, detectors): 1 for lines that are measured once.

    degrees: of the views.  fan_angles: in radians, as `FanGeometry.fan_angles` gives them. The share
    is c(theta)/(c(theta) + c(theta')), with theta' the view of the opposite ray; c falls to zero at the ends of an arc,
    and is 1 on a full circle.
    """
    folded = np.sort(np.asarray(degrees, float).ravel() % 360)
    gaps = np.diff(folded, append=folded[0] + 360)
    widest = int(np.argmax(gaps))
    mean = (360 - gaps[widest]) / max(1, len(gaps) - 1)
    start, arc = folded[(widest + 1) % len(folded)] - mean / 2, 360 - gaps[widest] + mean
    if gaps[widest] <= 4 * max(mean, 1e-6):
        return np.full((len(folded), len(fan_angles)), 0.5)

    def share(angle: np.ndarray) -> np.ndarray:
        at = (angle - start) % 360
        edge = np.clip(np.minimum(at, arc - at) / TAPER, 0, 1)
        return np.sin(math.pi / 2 * edge) ** 2

    view = np.asarray(degrees, float).reshape(-1, 1)
    own, other = share(view), share(view + 180 - 2 * np.degrees(fan_angles))
    return own / np.maximum(own + other, 1e-12)


def _filtered(data: Tensor, fan: FanGeometry, rise: np.ndarray) -> Tensor:
    """Return weighted, filtered data: (B, views, rows, detectors) of rows at heights `rise` on the detector."""
    u, gamma, distance = fan.detector_axis(), fan.fan_angles(), fan.detector_distance
    if fan.curved:
        cosine, spacing = np.cos(gamma)[None], fan.pitch / distance
        n = np.arange(-fan.detectors, fan.detectors + 1) * spacing
        bend = 1 / np.sinc(n / math.pi) ** 2
    else:
        cosine = distance / np.sqrt(distance**2 + u**2 + rise[:, None] ** 2)
        spacing, bend = fan.pitch * fan.source_distance / distance, np.ones(2 * fan.detectors + 1)
    weight = angular_weights(fan.angles, 360.0)[:, None] * redundancy(fan.angles, gamma)
    scaled = data * torch.from_numpy(weight[:, None] * cosine).to(data)
    kernel = ramp_kernel(fan.detectors) * bend[fan.detectors :]
    return convolve(scaled, kernel / spacing)


def _seen(
    x: np.ndarray, y: np.ndarray, cos: np.ndarray | float, sin: np.ndarray | float, distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far points are across and along the central ray, as seen from the source."""
    return x * cos + y * sin, distance - x * sin + y * cos


def _sight(fan: FanGeometry) -> pixels.Sight:
    """Return how a compiled kernel finds where pixels are seen."""
    y, x = _pixel_axes(fan.shape, fan.pixel_size)
    scale, origin = fan.detector_distance / fan.pitch, float(fan.detector_axis()[0]) / fan.pitch
    return pixels.sight(x, y, directions(fan.angles), scale, origin, fan.source_distance, fan.curved)


def _pixel_axes(shape: tuple[int, ...], size: float) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = shape
    return ((rows - 1) / 2 - np.arange(rows)) * size, (np.arange(columns) - (columns - 1) / 2) * size
