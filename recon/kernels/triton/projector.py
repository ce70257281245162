"""The projector on a GPU: tables of a scan on the device, and the kernels' launches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
import triton
from torch import Tensor

from recon.errors import ResourceError
from recon.kernels.parallel import ParallelGeometry
from recon.kernels.projector import Projector
from recon.kernels.rays import ConeRays
from recon.kernels.scans import ConeGeometry, FanGeometry
from recon.kernels.triton import cone, fan, parallel, rays, tables

INTERPRETED = not isinstance(rays.project_rays, triton.JITFunction)
TYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Blocks:
    """How many numbers one program computes, powers of two.

    batch: most images that share a ray's weights, of two dimensions.  rays: of the forward kernel of images.
    detector_rows, detector_columns: of the forward kernel of volumes.  image, volume: pixels of the adjoint kernels.
    """

    batch: int = 4
    rays: int = 128
    detector_rows: int = 16
    detector_columns: int = 32
    image: tuple[int, int] = (16, 32)
    volume: tuple[int, int, int] = (8, 1, 32)


def whole(geometry: ParallelGeometry | FanGeometry | ConeGeometry) -> Blocks:
    """Return blocks that hold as much of a scan as an interpreter takes at once."""
    *above, rows, columns = (triton.next_power_of_2(n) for n in geometry.in_shape)
    views, *over, detectors = (triton.next_power_of_2(n) for n in geometry.out_shape)
    image = min(rows, 128), min(columns, 128)
    deep = tuple(min(n, 32) for n in (*above, 1, rows, columns)[-3:])
    return Blocks(4, min(views * detectors, 2**14), min((*over, 1)[0], 64), min(views * detectors, 256), image, deep)


@final
class TritonProjector(Projector):
    """Joseph's method in Triton, of float32 and float64 tensors on a GPU; gathered both ways, without atomics."""

    name = "triton"

    def __init__(
        self,
        geometry: ParallelGeometry | FanGeometry | ConeGeometry,
        device: torch.device | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        """Put the scan's tables on a device. Raises ResourceError where fixed point does not reach across the scan."""
        tables.check_size(geometry.in_shape)
        self.geometry, self.device, self.blocks = geometry, _placed(device or torch.device("cpu")), blocks
        scan = geometry.rays()
        plane = scan.plane if isinstance(scan, ConeRays) else scan
        self.shape, self.walks = plane.shape, bool(plane.axis.any())
        self.rays, self.pixels = scan.views * scan.rays_per_view, scan.pixels
        self.slope = self._put(tables.slopes(plane))
        self.height = self._put(plane.height)
        if isinstance(geometry, ParallelGeometry):
            found, start = tables.parallel_tables(geometry, plane)
            self.start, self.neighbours = self._put(start), found.neighbours
            self.scan = [self._put(table) for table in (found.lines, found.scales, found.places)]
            return
        flat = geometry.fan() if isinstance(geometry, ConeGeometry) else geometry
        place = tables.fan_tables(flat, plane)
        self.start, self.scan = self._put(tables.starts(plane)), [self._put(place.poses), self._put(place.curve)]
        if isinstance(scan, ConeRays):
            assert isinstance(geometry, ConeGeometry)
            self.depth = [self._put(table) for table in (scan.depth, scan.deepening)]
            self.tilt, self.stack = self._put(scan.tilt), self._put(tables.stack_table(geometry))

    def forward(self, x: Tensor) -> Tensor:
        x, batch = self._checked(x, self.pixels), x.shape[0]
        y = x.new_empty(batch, self.rays)
        images = x.view(-1, *self.shape)
        turned = images.transpose(1, 2).contiguous() if self.walks else images
        blocks = self._blocks(batch)
        with _on(x):
            if isinstance(self.geometry, ConeGeometry):
                b = dict(BLOCK_ROWS=blocks.detector_rows, BLOCK_COLUMNS=blocks.detector_columns)
                parts = (self.start, self.slope, self.height, self.tilt, *self.depth, self.stack)
                sizes = *self.geometry.in_shape, *self._detectors()
                cone.project_cone[self._over_detectors(batch, blocks)](images, turned, y, *parts, *sizes, **b)
            else:
                b = dict(BLOCK_BATCH=blocks.batch, BLOCK_RAYS=blocks.rays)
                grid = triton.cdiv(self.rays, blocks.rays), triton.cdiv(batch, blocks.batch)
                parts = (self.start, self.slope, self.height)
                rays.project_rays[grid](images, turned, y, *parts, *self.shape, self.rays, batch, **b)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        y, batch = self._checked(y, self.rays), y.shape[0]
        x = y.new_empty(batch, self.pixels)
        blocks = self._blocks(batch)
        with _on(y):
            if isinstance(self.geometry, ConeGeometry):
                self._adjoint_of_cone(x, y, blocks)
                return x
            views, detectors = self.geometry.out_shape
            across, down = blocks.image[1], blocks.image[0]
            grid = _tiles(self.shape, blocks.image), triton.cdiv(batch, blocks.batch)
            sizes = (*self.shape, views, detectors, batch)
            b = dict(BLOCK_BATCH=blocks.batch, BLOCK_ROWS=down, BLOCK_COLUMNS=across)
            if isinstance(self.geometry, ParallelGeometry):
                parallel.backproject_parallel[grid](x, y, *self.scan, *sizes, NEIGHBOURS=self.neighbours, **b)
            else:
                weighed = y * self.height.to(y.dtype).flatten()
                parts = (self.start, self.slope, *self.scan)
                fan.backproject_fan[grid](x, weighed, *parts, *sizes, CURVED=self.geometry.curved, **b)
        return x

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> Projector:
        if device is None or _placed(device) == self.device:
            return self
        return TritonProjector(self.geometry, device, self.blocks)

    def _adjoint_of_cone(self, x: Tensor, y: Tensor, blocks: Blocks) -> None:
        geometry = self.geometry
        assert isinstance(geometry, ConeGeometry)
        weighed, batch, detectors = torch.empty_like(y), len(y), self._detectors()
        b = dict(BLOCK_ROWS=blocks.detector_rows, BLOCK_COLUMNS=blocks.detector_columns)
        parts = (self.height, self.tilt, self.stack)
        cone.weigh_cone[self._over_detectors(batch, blocks)](y, weighed, *parts, *detectors, **b)
        deep, down, across = blocks.volume
        b = dict(BLOCK_SLICES=deep, BLOCK_ROWS=down, BLOCK_COLUMNS=across)
        grid = _tiles(self.shape, (down, across)), triton.cdiv(geometry.shape[0], deep), batch
        density = geometry.detector_distance * geometry.slice_distance / (geometry.pixel_size * geometry.pitch[0])
        table = (self.start, self.slope, *self.depth, self.stack, *self.scan)
        cone.backproject_cone[grid](x, weighed, *table, *geometry.in_shape, *detectors, density, **b)

    def _over_detectors(self, batch: int, blocks: Blocks) -> tuple[int, int, int]:
        rows, columns, views = self._detectors()
        return triton.cdiv(views * columns, blocks.detector_columns), triton.cdiv(rows, blocks.detector_rows), batch

    def _detectors(self) -> tuple[int, int, int]:
        views, rows, columns = self.geometry.out_shape
        return rows, columns, views

    def _blocks(self, batch: int) -> Blocks:
        chosen = self.blocks or (whole(self.geometry) if INTERPRETED else Blocks())
        together = min(chosen.batch, triton.next_power_of_2(batch))
        return Blocks(together, *(getattr(chosen, name) for name in list(Blocks.__dataclass_fields__)[1:]))

    def _checked(self, values: Tensor, count: int) -> Tensor:
        if values.dtype not in TYPES:
            raise ResourceError(f"the Triton projector takes float32 and float64, got {values.dtype}")
        if values.device != self.device or not (values.is_cuda or INTERPRETED):
            raise ResourceError(
                f"the Triton projector is on {self.device}, the values are on {values.device}",
                "move both to one GPU, or unset RECON_KERNELS",
            )
        assert values.shape[1] == count
        return values.contiguous()

    def _put(self, table: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(table, order="C")).to(self.device)


def _tiles(shape: Sequence[int], tile: Sequence[int]) -> int:
    return triton.cdiv(shape[0], tile[0]) * triton.cdiv(shape[1], tile[1])


def _placed(device: torch.device) -> torch.device:
    """Return the device with its number, "cuda" as "cuda:0"."""
    return torch.empty(0, device=device).device


def _on(values: Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device(values.device) if values.is_cuda else nullcontext()
