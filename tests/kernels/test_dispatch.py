"""Which kernels are chosen, and that every choice projects alike."""

import numpy as np
import pytest
import torch

from recon.errors import ConfigError, ResourceError
from recon.kernels import compiled, dispatch
from recon.kernels.parallel import ParallelGeometry
from recon.kernels.projector import backproject, project
from recon.kernels.reference import StoredMatrix, StreamedMatrix
from recon.kernels.scans import ConeGeometry, FanGeometry

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GEOMETRIES = [
    ParallelGeometry((9, 8), np.arange(7) * 25.0, 13),
    FanGeometry((9, 8), np.arange(7) * 50.0, 13, 1.5, 30, 50),
    ConeGeometry((4, 9, 8), np.arange(7) * 50.0, (6, 13), (1.5, 1.5), 30, 50),
]
needs_library = pytest.mark.skipif(compiled.library().handle is None, reason=compiled.library().reason)


def absent(monkeypatch):
    monkeypatch.setattr(compiled, "library", lambda: compiled.Library(None, reason="no compiled kernels here"))


@needs_library
def test_the_cpu_takes_the_compiled_kernels_and_says_why():
    choice = dispatch.choose(CPU, {})
    assert choice.backend == "compiled" and compiled.library().instructions in choice.reason
    assert isinstance(dispatch.projector(GEOMETRIES[0], 1e9), compiled.CompiledProjector)


def test_without_a_compiler_the_reference_serves_and_says_why(monkeypatch):
    absent(monkeypatch)
    assert dispatch.choose(CPU, {}) == dispatch.Choice("reference", "no compiled kernels here")
    assert isinstance(dispatch.projector(GEOMETRIES[1], 1e9), StoredMatrix)
    with pytest.raises(ResourceError, match="no compiled kernels here"):
        compiled.CompiledProjector(GEOMETRIES[0].rays())


def test_the_compiled_kernels_refuse_a_gpu():
    with pytest.raises(ResourceError, match="RECON_KERNELS = compiled"):
        dispatch.choose(CUDA, {"RECON_KERNELS": "compiled"})


def test_the_environment_forces_a_choice(monkeypatch):
    monkeypatch.setenv("RECON_KERNELS", "reference")
    assert dispatch.choose(CPU) == dispatch.Choice("reference", "RECON_KERNELS is set")
    assert isinstance(dispatch.projector(GEOMETRIES[0], 1e9), StoredMatrix)
    with pytest.raises(ResourceError, match="triton"):
        dispatch.choose(CPU, {"RECON_KERNELS": "triton"})
    with pytest.raises(ConfigError, match="'fast' is unknown") as caught:
        dispatch.choose(CPU, {"RECON_KERNELS": "fast"})
    assert "reference" in str(caught.value.hint)
    absent(monkeypatch)
    with pytest.raises(ResourceError, match="no compiled kernels"):
        dispatch.choose(CPU, {"RECON_KERNELS": "compiled"})


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["parallel", "fan", "cone"])
@pytest.mark.parametrize("memory", [1e9, 1e3])
def test_the_reference_projects_as_the_default_does(monkeypatch, geometry, memory):
    chosen = dispatch.projector(geometry, memory)
    monkeypatch.setenv("RECON_KERNELS", "reference")
    reference = dispatch.projector(geometry, memory)
    assert isinstance(reference, StoredMatrix if memory == 1e9 else StreamedMatrix)
    x = torch.randn(2, int(np.prod(geometry.in_shape)), generator=torch.Generator().manual_seed(0))
    y = chosen.forward(x)
    torch.testing.assert_close(reference.forward(x), y, rtol=0, atol=1e-5 * float(y.abs().max()))
    back = chosen.adjoint(y)
    torch.testing.assert_close(reference.adjoint(y), back, rtol=0, atol=1e-5 * float(back.abs().max()))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["parallel", "fan", "cone"])
def test_gradients_of_any_order_and_forward_derivatives(geometry):
    projector = dispatch.projector(geometry, 1e9).to(None, torch.float64)
    x = torch.randn(1, int(np.prod(geometry.in_shape)), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    y = project(projector, x)
    (gradient,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, backproject(projector, 3 * y**2))
    (second,) = torch.autograd.grad(gradient.sum(), x)
    torch.testing.assert_close(second, backproject(projector, 6 * y * project(projector, torch.ones_like(x))))
    tangent = torch.ones_like(x)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), tangent)
        found = torch.autograd.forward_ad.unpack_dual(project(projector, dual)).tangent
    torch.testing.assert_close(found, project(projector, tangent))


def test_complex_gradients_go_by_parts():
    projector = dispatch.projector(GEOMETRIES[0], 1e9)
    x = torch.randn(2, 72, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = project(projector, x)
    torch.testing.assert_close(y.imag, project(projector, x.detach().imag))
    (gradient,) = torch.autograd.grad(y.abs().square().sum(), x)
    torch.testing.assert_close(gradient, 2 * backproject(projector, y.detach()))


def test_moving_keeps_what_works_there():
    memory, geometry = 1e9, GEOMETRIES[0]
    chosen = dispatch.projector(geometry, memory)
    assert dispatch.moved(chosen, geometry, memory, CPU, torch.float64).name == chosen.name
    stored = StoredMatrix(torch.eye(2).to_sparse_csr(), torch.eye(2).to_sparse_csr())
    double = dispatch.moved(stored, geometry, memory, CPU, torch.float64)
    assert isinstance(double, StoredMatrix) and double.matrix.dtype == torch.float64
