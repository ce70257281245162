"""Non-Cartesian MRI against sums of exponentials, the Cartesian operator, and its own promises."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from battery import check_operator
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.data import OperatorSpec
from recon.errors import ConfigError, InputError, ResourceError
from recon.operators import mri_nufft, nufft
from recon.operators.coils import birdcage_maps
from recon.operators.mri_nufft import NonCartesianMRI
from recon.operators.nufft_gpu import Cufinufft
from recon.operators.registry import build, draw, family, parse_params
from recon.operators.trajectories import pipe_density, radial, radial_density, spiral

PATH = np.random.default_rng(5).uniform(-0.5, 0.5, (7, 9, 2))


def make(shape, arrays=None, **params):
    return build(draw("mri-nufft", {"shots": 5, "samples": 12, **params}, (1, *shape), 0, arrays))


def exact(path, image):
    """The samples (M,) of an image, from the definition."""
    phase = sum(
        path[:, d].reshape(-1, *(1,) * image.ndim)
        * (np.arange(n) - n // 2).reshape(-1, *(1,) * (image.ndim - 1 - axis))
        for axis, (d, n) in enumerate(zip(reversed(range(image.ndim)), image.shape, strict=True))
    )
    waves = np.exp(-2j * np.pi * phase)
    return (waves * image).reshape(len(path), -1).sum(1) / np.sqrt(image.size)


def noise(shape, seed=0):
    g = np.random.default_rng(seed)
    return g.standard_normal(shape) + 1j * g.standard_normal(shape)


def error(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("shape", [(16, 16), (15, 13), (9, 14), (1, 7)])
@pytest.mark.parametrize("complex_image", [False, True])
@pytest.mark.parametrize("coils", [None, 3])
@pytest.mark.parametrize("path", ["radial", "given"])
def test_battery(shape, complex_image, coils, path):
    arrays = {"trajectory": PATH} if path == "given" else None
    check_operator(make(shape, arrays, trajectory=path, coils=coils, complex_image=complex_image))


@settings(max_examples=8, deadline=None)
@given(
    shape=st.tuples(st.integers(3, 17), st.integers(3, 17)),
    shots=st.integers(1, 6),
    samples=st.integers(4, 15),
    kind=st.sampled_from(["radial", "spiral"]),
    golden=st.booleans(),
    width=st.integers(4, 7),
    seed=st.integers(0, 99),
)
def test_battery_of_any_scan(shape, shots, samples, kind, golden, width, seed):
    op = make(shape, trajectory=kind, shots=shots, samples=samples, golden=golden, width=width, coils=2)
    check_operator(op, seed=seed)


def test_battery_of_a_volume():
    path = np.random.default_rng(1).uniform(-0.5, 0.5, (40, 3))
    maps = noise((2, 5, 6, 7)).astype(np.complex64)
    check_operator(make((5, 6, 7), {"trajectory": path, "maps": maps}, trajectory="given", complex_image=True))


@pytest.mark.parametrize("shape", [(32, 32), (31, 24), (12, 9, 10)])
def test_samples_are_the_sums_of_exponentials(shape):
    path = np.random.default_rng(2).uniform(-0.5, 0.5, (300, len(shape)))
    x = noise(shape)
    op = make(shape, {"trajectory": path}, trajectory="given", complex_image=True)
    found = op.forward(torch.from_numpy(x)[None, None].to(torch.complex64))
    assert found.shape == (1, 1, 300)
    assert error(found.numpy()[0, 0], exact(path, x)) < 1e-4
    fine = make(shape, {"trajectory": path}, trajectory="given", complex_image=True, oversampling=2.0, width=10)
    fine = fine.to(dtype=torch.float64)
    assert error(fine.forward(torch.from_numpy(x)[None, None]).numpy()[0, 0], exact(path, x)) < 1e-8


def test_the_edge_of_k_space_wraps_round():
    path = np.array([[0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.4999, 0.0]])
    x = noise((20, 20))
    op = make((20, 20), {"trajectory": path}, trajectory="given", complex_image=True)
    assert error(op.forward(torch.from_numpy(x)[None, None].to(torch.complex64)).numpy()[0, 0], exact(path, x)) < 1e-4


@pytest.mark.parametrize("coils", [None, 4])
def test_a_path_through_the_grid_is_the_cartesian_scan(coils):
    n, m = 12, 15
    ky, kx = np.meshgrid((np.arange(n) - n // 2) / n, (np.arange(m) - m // 2) / m, indexing="ij")
    path = np.stack([kx, ky], -1)
    off = make((n, m), {"trajectory": path}, trajectory="given", coils=coils, complex_image=True, width=10)
    full = {"mask": np.ones((n, m))}
    on = build(draw("mri", {"mask": "given", "coils": coils, "complex_image": True}, (1, n, m), 0, full))
    x = torch.from_numpy(noise((2, 1, n, m))).to(torch.complex64)
    assert error(off.forward(x).numpy(), on.forward(x).numpy()) < 1e-5
    # a full grid needs no other weights than 1
    assert error(off.pinv(off.forward(x)).numpy(), x.numpy()) < 0.2


@pytest.mark.parametrize("shape", [(24, 24), (17, 22), (6, 7, 5)])
@pytest.mark.parametrize("complex_image", [False, True])
def test_toeplitz_is_the_normal_operator(shape, complex_image):
    path = np.random.default_rng(3).uniform(-0.5, 0.5, (60, len(shape)))
    arrays = {"trajectory": path, "maps": noise((3, *shape)).astype(np.complex64)}
    settings = {"trajectory": "given", "complex_image": complex_image}
    plain, fast = (make(shape, arrays, toeplitz=t, **settings) for t in (False, True))
    x = torch.from_numpy(noise((2, 1, *shape)))
    x = (x if complex_image else x.real).to(plain.in_dtype)
    assert error(fast.normal(x).numpy(), plain.normal(x).numpy()) < 1e-4
    assert torch.equal(fast.forward(x), plain.forward(x))
    double = fast.to(dtype=torch.float64)
    u, v = (torch.from_numpy(noise((1, 1, *shape), seed)) for seed in (1, 2))
    u, v = (u, v) if complex_image else (u.real, v.real)
    left, right = (torch.vdot(a.flatten(), b.flatten()) for a, b in ((double.normal(u), v), (u, double.normal(v))))
    assert abs(left - right) < 1e-12 * abs(left) + 1e-12 * float(u.norm() * v.norm())
    assert float(torch.vdot(u.flatten(), double.normal(u).flatten()).real) > 0


def test_toeplitz_matches_exact_sums():
    shape, path = (9, 8), PATH.reshape(-1, 2)
    op = make(shape, {"trajectory": PATH}, trajectory="given", toeplitz=True, complex_image=True)
    x = noise(shape)
    columns = np.stack([exact(path, e.reshape(shape)) for e in np.eye(72)], 1)
    expected = (columns.conj().T @ (columns @ x.ravel())).reshape(shape)
    found = op.to(dtype=torch.float64).normal(torch.from_numpy(x)[None, None])
    assert error(found.numpy()[0, 0], expected) < 1e-5


def test_radial_spokes_lie_where_they_should():
    path = radial(4, 6)
    assert path.shape == (4, 6, 2)
    np.testing.assert_allclose(path[0], np.stack([(np.arange(6) - 3) / 6, np.zeros(6)], -1))
    np.testing.assert_allclose(path[2], np.stack([np.zeros(6), (np.arange(6) - 3) / 6], -1), atol=1e-15)
    golden = radial(3, 6, golden=True)
    cosine = golden[0, 0] @ golden[1, 0] / (0.5 * 0.5)
    assert np.degrees(np.arccos(cosine)) == pytest.approx(111.246, abs=1e-3)


def test_spiral_arms_make_their_turns():
    path = spiral(4, 401, 2.5)
    radius = np.linalg.norm(path, axis=-1)
    assert radius[0, 0] == 0 and radius.max() < 0.5 and (np.diff(radius[0]) > 0).all()
    angle = np.unwrap(np.arctan2(path[1, 1:, 1], path[1, 1:, 0]))
    assert (angle[-1] - angle[0]) / (2 * np.pi) == pytest.approx(2.5, rel=0.01)
    full = make((32, 32), trajectory="spiral", shots=8, samples=None)
    arms = draw("mri-nufft", {"trajectory": "spiral", "shots": 8}, (1, 32, 32), 0).arrays["trajectory"]
    turns = np.unwrap(np.arctan2(arms[0, 1:, 1], arms[0, 1:, 0]))
    assert (turns[-1] - turns[0]) / (2 * np.pi) == pytest.approx(2, rel=0.05) and full.out_shape == (1, 8, 64)


def test_radial_weights_add_up_to_the_disc():
    for shots, samples in ((30, 64), (31, 65)):
        weights = radial_density(radial(shots, samples), (32, 32))
        assert weights.sum() == pytest.approx(32 * 32 * np.pi / 4, rel=0.02)


def test_pipe_finds_the_areas_where_they_are_known():
    """Of a full grid, all 1; of many spokes, those of the rings."""
    grid = np.stack(np.meshgrid(*[(np.arange(12) - 6) / 12] * 2), -1)
    np.testing.assert_allclose(pipe_density(grid, (12, 12)), 1, rtol=0.3)
    assert pipe_density(grid, (12, 12)).mean() == pytest.approx(1, rel=0.05)
    path = radial(80, 64)
    found, known = pipe_density(path, (32, 32)), radial_density(path, (32, 32))
    inner = slice(6, 28)
    np.testing.assert_allclose(found[:, inner].mean(0), known[:, inner].mean(0), rtol=0.15)


@pytest.mark.parametrize("kind", ["radial", "spiral"])
def test_the_gridding_reconstruction_shows_the_image(kind):
    y, x = np.mgrid[-24:24, -24:24] / 24
    image = torch.from_numpy(np.exp(-4 * ((x - 0.2) ** 2 + (y + 0.1) ** 2)).astype(np.float32))[None, None]
    op = make((48, 48), trajectory=kind, shots=80, samples=None, coils=4)
    found = op.pinv(op.forward(image))
    assert found.dtype == torch.float32 and error(found.numpy(), image.numpy()) < 0.05


def test_density_is_the_spokes_own_only_for_spokes():
    """A given trajectory gets Pipe's weights under any name, unless it is what the parameters say."""
    assert make((8, 8), {"trajectory": PATH}, shots=7, samples=9).density.std() > 0
    own = make((8, 8))
    torch.testing.assert_close(own.density.double(), torch.from_numpy(radial_density(radial(5, 12), (8, 8)).ravel()))


@pytest.mark.parametrize(
    ("path", "words", "hint"),
    [
        (2 * np.pi * PATH, "reaches 3.1", "radians"),
        (16 * PATH, "reaches", "field of view"),
        (PATH / 100, "less than one period", "cycles per pixel"),
        (PATH[..., :1], r"shape \(7, 9, 1\), expected", "last axis"),
        (np.full((4, 2), np.nan), "non-finite", ""),
        (PATH * 1j, "real", ""),
    ],
)
def test_bad_trajectories_are_named(path, words, hint):
    with pytest.raises(InputError, match=words) as caught:
        make((16, 16), {"trajectory": path}, trajectory="given")
    assert hint in (caught.value.hint or "") and "\n" not in caught.value.message


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"maps have shape \(3, 8, 9\), expected \(coils, 8, 8\)"):
        make((8, 8), {"maps": birdcage_maps(3, (8, 9))})
    with pytest.raises(ConfigError, match="coils = 2, but the array 'maps' has 3"):
        make((8, 8), {"maps": birdcage_maps(3, (8, 8))}, coils=2)
    with pytest.raises(ConfigError, match="without the array 'trajectory'"):
        make((8, 8), trajectory="given")
    with pytest.raises(ConfigError, match="without the array 'maps'"):
        make((8, 8), maps="given")
    with pytest.raises(InputError, match="no array 'trajectory'"):
        build(OperatorSpec("mri-nufft", {}, (1, 8, 8)))
    with pytest.raises(InputError, match="no array 'maps'"):
        build(OperatorSpec("mri-nufft", {"coils": 2}, (1, 8, 8), {"trajectory": PATH}))
    with pytest.raises(ConfigError, match=r"\(1, Y, X\)"):
        make((3, 8, 8, 8))
    with pytest.raises(ConfigError, match="two-dimensional"):
        make((4, 8, 8))
    with pytest.raises(ConfigError, match="birdcage maps are two-dimensional"):
        make((4, 8, 8), {"trajectory": np.zeros((3, 3)) + 0.3}, coils=2)


@pytest.mark.parametrize(
    "params",
    [{"shots": 0}, {"samples": 1}, {"coils": 0}, {"turns": 0.0}, {"oversampling": 1.0}, {"width": 2}, {"memory_gb": 0}],
)
def test_bad_parameters_are_refused(params):
    with pytest.raises(ConfigError, match="mri-nufft"):
        parse_params("mri-nufft", params)


def test_a_specification_rebuilds_the_same_operator():
    spec = draw("mri-nufft", {"coils": 3, "shots": 4, "samples": 8}, (1, 12, 10), 0)
    again = OperatorSpec(spec.kind, json.loads(json.dumps(spec.params)), spec.in_shape, spec.arrays)
    x = torch.randn(1, 1, 12, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(build(spec).forward(x), build(again).forward(x))
    fam = family("mri-nufft")
    assert fam.reads_shape(parse_params("mri-nufft", {}), {}, (1, 4, 8)) is None
    assert fam.never_invented(parse_params("mri-nufft", {})) == set()
    assert fam.never_invented(parse_params("mri-nufft", {"trajectory": "given", "coils": 2})) == {"trajectory", "maps"}


def test_second_derivatives_go_through():
    op = make((6, 5), complex_image=True).to(dtype=torch.float64)
    x = torch.from_numpy(noise((1, 1, 6, 5))).requires_grad_()
    assert torch.autograd.gradcheck(op.forward, (x,)) and torch.autograd.gradgradcheck(op.forward, (x,))
    y = torch.from_numpy(noise((1, *op.out_shape))).requires_grad_()
    assert torch.autograd.gradcheck(op.adjoint, (y,))


def test_groups_of_coils_change_nothing(monkeypatch):
    monkeypatch.setenv("RECON_KERNELS", "reference")
    op = make((10, 9), coils=7)
    x = torch.randn(2, 1, 10, 9, generator=torch.Generator().manual_seed(0))
    whole, back = op.forward(x), op.adjoint(op.forward(x))
    monkeypatch.setattr(nufft, "TOGETHER", 3)
    torch.testing.assert_close(op.forward(x), whole)
    torch.testing.assert_close(op.adjoint(op.forward(x)), back)


def test_large_matrices_go_to_finufft(monkeypatch):
    asked = []
    monkeypatch.setattr(mri_nufft, "Finufft", lambda path, image, coils: asked.append((len(path), coils)))
    monkeypatch.setattr(mri_nufft, "NonCartesianMRI", lambda *given: given)
    make((8, 8), coils=2, memory_gb=1e-6)
    make((8, 8), backend="finufft")
    assert asked == [(60, 2), (60, 1)]


def test_finufft_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "finufft", None)
    with pytest.raises(ResourceError, match="not installed") as caught:
        make((8, 8), backend="finufft")
    assert "diffusion-recon[nufft]" in caught.value.hint


@pytest.mark.parametrize("shape", [(16, 13), (5, 6, 7)])
def test_finufft_agrees_with_gridding(shape):
    pytest.importorskip("finufft")
    path = np.random.default_rng(2).uniform(-0.5, 0.5, (50, len(shape)))
    arrays = {"trajectory": path, "maps": noise((2, *shape)).astype(np.complex64)}
    settings = {"trajectory": "given", "complex_image": True}
    ours, theirs = (make(shape, arrays, backend=b, **settings) for b in ("gridding", "finufft"))
    x = torch.from_numpy(noise((3, 1, *shape))).to(torch.complex64)
    assert error(theirs.forward(x).numpy(), ours.forward(x).numpy()) < 1e-4
    check_operator(theirs, tol64=1e-10)


class ExactPlan:
    """cuFINUFFT's plan by exact sums, on any device: it takes what the package takes and refuses the rest."""

    def __init__(self, which, shape, together, *, eps, isign, dtype, modeord):
        assert modeord == 0 and dtype in ("complex64", "complex128") and 0 < eps < 1e-4
        self.which, self.shape, self.together, self.sign = which, shape, together, isign
        self.kind = getattr(torch, dtype)

    def setpts(self, *angles):
        assert len(angles) == len(self.shape)
        phase = torch.zeros((), dtype=torch.float64)
        for axis, (angle, n) in enumerate(zip(angles, self.shape, strict=True)):
            assert angle.dtype == self.kind.to_real() and angle.is_contiguous() and angle.ndim == 1
            along = (torch.arange(n) - n // 2).reshape(-1, *(1,) * (len(self.shape) - 1 - axis))
            phase = phase + angle.double().reshape(-1, *(1,) * len(self.shape)) * along
        self.waves = torch.polar(torch.ones_like(phase), self.sign * phase).flatten(1)

    def execute(self, data, out):
        given, found = (self.shape, (len(self.waves),))[:: 1 if self.which == 2 else -1]
        assert tuple(data.shape) == (self.together, *given) and tuple(out.shape) == (self.together, *found)
        assert data.dtype == out.dtype == self.kind and data.is_contiguous() and out.is_contiguous()
        waves = self.waves if self.which == 2 else self.waves.T
        out.copy_((data.flatten(1).to(waves.dtype) @ waves.T).reshape(out.shape))


@pytest.mark.parametrize(("shape", "coils"), [((8, 7), 3), ((9, 6), None), ((4, 5, 3), 2)])
def test_the_gpu_transform_is_the_same_by_exact_plans(monkeypatch, shape, coils):
    monkeypatch.setitem(sys.modules, "cufinufft", SimpleNamespace(Plan=ExactPlan))
    path = np.random.default_rng(2).uniform(-0.5, 0.5, (20, len(shape)))
    arrays = {"trajectory": path} | ({} if coils is None else {"maps": noise((coils, *shape)).astype(np.complex64)})
    ours = make(shape, arrays, trajectory="given", backend="gridding")
    for real in (torch.float32, torch.float64):
        by = Cufinufft(path, shape, coils or 1, 1e-5, real, torch.device("cpu"))
        maps = None if coils is None else torch.from_numpy(arrays["maps"])
        theirs = NonCartesianMRI(by, shape, (20,), torch.ones(20, dtype=torch.float64), maps)
        x = torch.from_numpy(noise((2, 1, *shape)).real).to(real)
        y = torch.from_numpy(noise((2, coils or 1, 20))).to(real.to_complex())
        gridded = ours.to(dtype=real)
        assert error(theirs.forward(x).numpy(), gridded.forward(x).numpy()) < 1e-4
        assert error(theirs.adjoint(y).numpy(), gridded.adjoint(y).numpy()) < 1e-4
        (gradient,) = torch.autograd.grad(theirs.forward(x.requires_grad_()), x, y)
        assert error(gradient.numpy(), theirs.adjoint(y).numpy()) < 1e-6


def test_finufft_moves_to_a_gpu_as_cufinufft(monkeypatch):
    pytest.importorskip("finufft")
    asked = []
    monkeypatch.setattr("recon.operators.nufft_gpu.Cufinufft", lambda *given: asked.append(given))
    path = PATH.reshape(-1, 2)
    by = nufft.Finufft(path, (8, 9), 2)
    by.to("cuda:1", torch.float64)
    assert asked == [(path, (8, 9), 2, 1e-13, torch.float64, torch.device("cuda:1"))]
    with pytest.raises(ResourceError, match="not on mps"):
        by.to("mps", None)


def test_cufinufft_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cufinufft", None)
    with pytest.raises(ResourceError, match="not installed") as caught:
        Cufinufft(PATH.reshape(-1, 2), (8, 8), 1, 1e-5, torch.float32, torch.device("cpu"))
    assert "pip install cufinufft" in caught.value.hint


def test_the_gpu_transform_comes_back_to_the_cpu(monkeypatch):
    pytest.importorskip("finufft")
    monkeypatch.setitem(sys.modules, "cufinufft", SimpleNamespace(Plan=ExactPlan))
    by = Cufinufft(PATH.reshape(-1, 2), (8, 8), 1, 1e-5, torch.float32, torch.device("cpu"))
    back = by.to("cpu", torch.float64)
    assert isinstance(back, nufft.Finufft) and back.accuracy == 1e-13
    x = torch.from_numpy(noise((1, 8, 8)))
    assert error(back.forward(x).numpy(), by.forward(x).numpy()) < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", [(16, 13), (5, 6, 7)])
def test_cufinufft_agrees_with_gridding(shape):
    pytest.importorskip("finufft")
    pytest.importorskip("cufinufft")
    arrays = {"trajectory": np.random.default_rng(2).uniform(-0.5, 0.5, (50, len(shape)))}
    ours, theirs = (make(shape, arrays, trajectory="given", backend=b) for b in ("gridding", "finufft"))
    x = torch.from_numpy(noise((2, 1, *shape)).real).float()
    assert error(theirs.to("cuda").forward(x.cuda()).cpu().numpy(), ours.forward(x).numpy()) < 1e-4
    check_operator(theirs, tol32=1e-5, tol64=1e-10, device="cuda")
