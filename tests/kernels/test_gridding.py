"""The compiled kernel of transforms off the grid against the torch path of the operator."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.errors import ConfigError
from recon.kernels import compiled
from recon.operators import registry

pytestmark = pytest.mark.skipif(compiled.library().handle is None, reason=compiled.library().reason)


def normal(*shape, dtype=torch.complex64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def make(shape, coils, samples=29, seed=0, dtype=torch.float32, kernels="", **params):
    """The operator of random frequencies and maps, with the kernels of that name."""
    rng = np.random.default_rng(seed)
    arrays = {
        "trajectory": rng.uniform(-0.5, 0.5, (samples, 2)),
        "maps": normal(coils, *shape, seed=seed).numpy(),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECON_KERNELS", kernels)
        spec = registry.draw("mri-nufft", {"trajectory": "given", **params}, (1, *shape), seed, arrays)
        return registry.build(spec).to(dtype=dtype)


def worst(found, expected):
    return float((found - expected).norm() / expected.norm().clamp_min(1e-300))


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.sampled_from([3, 4, 7, 10, 17]), st.sampled_from([3, 5, 8, 19])),
    coils=st.sampled_from([2, 4, 5, 9, 12]),
    batch=st.integers(1, 3),
    samples=st.sampled_from([5, 300]),
    complex_image=st.booleans(),
    double=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_torch_path(shape, coils, batch, samples, complex_image, double, seed):
    settings_ = {"samples": samples, "seed": seed, "complex_image": complex_image}
    settings_["dtype"] = torch.float64 if double else torch.float32
    plain, fast = (make(shape, coils, kernels=k, **settings_) for k in ("reference", ""))
    lanes = 4 if double else 8
    assert plain.scan is None and (fast.scan is not None) == (2 * coils >= -(-coils // lanes) * lanes)
    x = normal(batch, 1, *shape, dtype=plain.in_dtype, seed=seed)
    y = normal(batch, *plain.out_shape, dtype=plain.out_dtype, seed=seed + 1)
    limit = 1e-13 if double else 2e-6
    ax, aty = fast.forward(x), fast.adjoint(y)
    assert ax.dtype == plain.out_dtype and aty.dtype == plain.in_dtype
    assert worst(ax, plain.forward(x)) < limit and worst(aty, plain.adjoint(y)) < limit
    assert worst(fast.pinv(y), plain.pinv(y)) < limit
    products = [float(torch.vdot(a.flatten(), b.flatten()).real) for a, b in ((y, ax), (aty, x))]
    assert abs(products[0] - products[1]) <= limit * float(y.norm() * ax.norm() + aty.norm() * x.norm())


@pytest.mark.parametrize("threads", [2, 5])
def test_results_do_not_depend_on_threads(monkeypatch, threads):
    operator = make((50, 44), 9, samples=1700, complex_image=True)
    x, y = normal(2, *operator.in_shape), normal(2, *operator.out_shape)
    found = []
    for count in (1, threads):
        monkeypatch.setattr(compiled.torch, "get_num_threads", lambda count=count: count)
        found.append([operator.forward(x), operator.adjoint(y)])
    assert operator.scan is not None and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_gradients_are_the_adjoint():
    operator = make((6, 5), 4, dtype=torch.float64)
    x = normal(1, 1, 6, 5, dtype=torch.float64).requires_grad_()
    assert operator.scan is not None and torch.autograd.gradcheck(operator.forward, (x,))
    y = normal(1, *operator.out_shape, dtype=torch.complex128).requires_grad_()
    assert torch.autograd.gradcheck(operator.adjoint, (y,))


def test_copies_pickles_and_views_serve_alike():
    operator = make((9, 10), 8, complex_image=True)
    x, y = normal(1, *operator.in_shape), normal(1, *operator.out_shape)
    for other in (pickle.loads(pickle.dumps(operator)), operator.to("cpu")):
        assert other.scan is not None
        assert torch.equal(other.forward(x), operator.forward(x)) and torch.equal(other.adjoint(y), operator.adjoint(y))
    assert torch.equal(copy.deepcopy(operator.scan).forward(x).reshape_as(y), operator.forward(x))
    wide = normal(2, 1, 18, 10)[:, :, ::2]
    assert torch.equal(operator.forward(wide), operator.forward(wide.contiguous()))
    assert torch.equal(operator.forward(wide.conj()), operator.forward(wide.conj().resolve_conj()))


def test_shots_keep_their_layout():
    operator = registry.build(registry.draw("mri-nufft", {"shots": 5, "samples": 12, "coils": 8}, (1, 9, 8), seed=0))
    assert operator.scan is not None and operator.forward(torch.ones(2, 1, 9, 8)).shape == (2, 8, 5, 12)


def test_wrong_numbers_are_refused():
    with pytest.raises(ConfigError, match="complex64"):
        make((6, 10), 8).forward(normal(1, 1, 6, 10))


def test_values_that_are_not_finite_stay_in_their_item():
    operator = make((6, 10), 8, complex_image=True)
    x = normal(2, 1, 6, 10)
    x[0, 0, 2, 3] = math.nan
    found = operator.forward(x)
    assert bool(found[0].isnan().any()) and bool(found[1].isfinite().all())
