"""Draws from Gaussian posteriors against dense solutions."""

import pytest
import torch
from chain_doubles import normal

from recon.operators.base import LinearOperator
from recon.solvers.dense import dense_matrix, linear_gaussian_posterior, real_rows
from recon.solvers.gaussian_draw import draw_correlated, draw_diagonal, draw_isotropic
from recon.solvers.lanczos import square_root_times
from recon.solvers.prox import proximal_map

COUNT = 20000


def _generator(seed):
    return torch.Generator().manual_seed(seed)


class _Dense(LinearOperator):
    def __init__(self, matrix, in_shape):
        self.matrix, self.in_shape, self.out_shape = matrix, in_shape, (len(matrix),)
        self.in_dtype = self.out_dtype = matrix.dtype

    def _forward(self, x):
        return x.flatten(1) @ self.matrix.T

    def _adjoint(self, y):
        return (y @ self.matrix.conj()).reshape(-1, *self.in_shape)


class _Fourier(LinearOperator):
    """A masked Fourier transform of real images."""

    def __init__(self, mask):
        self.mask, self.in_shape, self.out_shape = mask, (1, *mask.shape), (1, *mask.shape)
        self.in_dtype, self.out_dtype, self.support = torch.float64, torch.complex128, mask

    def _forward(self, x):
        return self.mask * torch.fft.fft2(x, norm="ortho")

    def _adjoint(self, y):
        return torch.fft.ifft2(self.mask * y, norm="ortho").real


class _Picking(LinearOperator):
    """Inpainting with a closed-form prox, which counts its calls."""

    def __init__(self, mask):
        self.mask, self.in_shape, self.out_shape, self.support = mask, tuple(mask.shape), tuple(mask.shape), mask
        self.in_dtype = self.out_dtype = torch.float64
        self.calls = []

    def _forward(self, x):
        return self.mask * x

    def _adjoint(self, y):
        return self.mask * y

    def prox(self, z, rho, y):
        self.calls.append(rho)
        return (self.mask * y + rho * z) / (self.mask + rho)


def _case(kind):
    if kind == "fourier":
        return _Fourier((torch.rand(3, 4, generator=_generator(0)) < 0.6).double())
    dtype = torch.complex128 if kind == "complex" else torch.float64
    return _Dense(torch.randn(5, 8, generator=_generator(1), dtype=dtype), (2, 2, 2))


def _compare(drawn, exact):
    rows = real_rows(drawn)
    spread = exact.covariance.diagonal().sqrt()
    worst_mean = float(((rows.mean(0) - exact.mean) / spread).abs().max()) * len(rows) ** 0.5
    found = torch.cov(rows.T) / (spread[:, None] * spread)
    expected = exact.covariance / (spread[:, None] * spread)
    worst_cov = float((found - expected).abs().max()) * (len(rows) / 2) ** 0.5
    assert worst_mean < 5 and worst_cov < 5, (worst_mean, worst_cov)


@pytest.mark.parametrize("kind", ["real", "complex", "fourier"])
@pytest.mark.parametrize("spread", ["number", "pixels"])
def test_diagonal_prior_gives_the_posterior(kind, spread):
    operator = _case(kind)
    shape, dtype = operator.in_shape, operator.in_dtype
    y = operator.forward(torch.randn(1, *shape, generator=_generator(2), dtype=dtype))
    centre = torch.randn(1, *shape, generator=_generator(3), dtype=dtype)
    std = torch.tensor(0.7).double()
    if spread == "pixels":
        std = 0.2 + torch.rand(1, *shape, generator=_generator(4), dtype=torch.float64)
        drawn = draw_diagonal(operator, y, 0.3, centre.expand(COUNT, *shape), std, normal(5), 30)
    else:
        prox = proximal_map(operator, 30)
        drawn = draw_isotropic(operator, prox, y, 0.3, centre.expand(COUNT, *shape), 0.7, normal(5))
    parts = 2 if dtype.is_complex else 1
    variance = (std * torch.ones(1, *shape, dtype=torch.float64)).flatten().repeat_interleave(parts) ** 2
    exact = linear_gaussian_posterior(
        dense_matrix(operator), torch.diag(variance), real_rows(centre)[0], real_rows(y)[0], 0.3
    )
    _compare(drawn, exact)


def test_each_item_has_its_own_spread_and_data():
    operator = _case("real")
    std = torch.tensor([0.2, 1.0]).double().repeat(COUNT // 2).reshape(-1, 1, 1, 1)
    centre = torch.zeros(COUNT, 2, 2, 2, dtype=torch.float64)
    y = torch.randn(2, 5, generator=_generator(2), dtype=torch.float64).repeat(COUNT // 2, 1)
    drawn = draw_isotropic(operator, proximal_map(operator, 30), y, 0.3, centre, std, normal(5))
    same = draw_diagonal(operator, y, 0.3, centre, std, normal(5), 30)
    assert torch.allclose(drawn, same, atol=1e-6)
    for item in range(2):
        eye = torch.eye(8, dtype=torch.float64) * float(std[item]) ** 2
        exact = linear_gaussian_posterior(operator.matrix, eye, torch.zeros(8, dtype=torch.float64), y[item], 0.3)
        _compare(drawn[item::2], exact)


def test_closed_form_prox_is_used_and_equals_conjugate_gradients():
    mask = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).double()
    operator = _Picking(mask)
    y = mask * torch.tensor([[[0.3, 9.0], [9.0, -0.4]]]).double()
    centre = torch.randn(4, 1, 2, 2, generator=_generator(0), dtype=torch.float64)
    closed = draw_isotropic(operator, proximal_map(operator), y[None], 0.1, centre, 0.5, normal(1))
    assert operator.calls == [pytest.approx(0.04)]
    iterated = draw_diagonal(operator, y[None], 0.1, centre, torch.full_like(centre, 0.5), normal(1))
    assert torch.allclose(closed, iterated, atol=1e-9)


@pytest.mark.parametrize("form", ["isotropic", "diagonal"])
def test_unseen_pixels_keep_the_draw_from_the_prior_even_in_single_precision(form):
    """At a spread 10^5 times the noise level, a solve for x itself would spoil them by rounding."""

    class Open(_Picking):
        def prox(self, z, rho, y):
            return None

    operator = Open(torch.tensor([[[1.0, 0.0], [0.5, 0.2]]]))
    operator.in_dtype = operator.out_dtype = torch.float32
    y, centre = torch.zeros(1, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    if form == "isotropic":
        drawn = draw_isotropic(operator, proximal_map(operator, 30), y, 1e-3, centre, 100.0, normal(1))
    else:
        drawn = draw_diagonal(operator, y, 1e-3, centre, torch.full_like(centre, 100.0), normal(1), 30)
    prior = 100.0 * normal(1)((3, 1, 2, 2), torch.float32)
    assert torch.equal(drawn[..., 0, 1], prior[..., 0, 1])
    assert float(drawn[..., 0, 0].abs().max()) < 0.01


@pytest.mark.parametrize("kind", ["real", "complex", "fourier"])
def test_correlated_prior_gives_the_posterior(kind):
    operator = _case(kind)
    shape, dtype = operator.in_shape, operator.in_dtype
    size = 12 if kind == "fourier" else 8
    root = torch.randn(size, size, generator=_generator(7), dtype=dtype)
    covariance = root @ root.mH / size

    def times(v):
        return (v.flatten(1) @ covariance.T).reshape(v.shape)

    y = operator.forward(torch.randn(1, *shape, generator=_generator(2), dtype=dtype))
    centre = torch.randn(1, *shape, generator=_generator(3), dtype=dtype)
    noise = normal(5)
    white = noise((8000, *shape), dtype)
    prior = centre + square_root_times(times, white, (2 if dtype.is_complex else 1) * size)
    drawn = draw_correlated(operator, y, 0.3, prior, times, noise, 15, 1e-9)
    full = covariance
    if dtype.is_complex:  # (re, im) interleaved: C v as a real matrix
        columns = torch.view_as_complex(torch.eye(2 * size, dtype=torch.float64).reshape(-1, size, 2))
        full = real_rows(columns @ covariance.T).T
    exact = linear_gaussian_posterior(dense_matrix(operator), full, real_rows(centre)[0], real_rows(y)[0], 0.3)
    _compare(drawn, exact)
