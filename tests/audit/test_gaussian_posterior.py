"""The dense posterior of images against the Fourier-diagonal one."""

import torch

from recon.audit.gaussian import dense_posterior
from recon.operators.base import LinearOperator
from recon.priors.gaussian import GaussianPrior, power_law_spectrum


class Circular(LinearOperator):
    """y = F^H H F x; real images with an even, real H, or complex images with any H."""

    def __init__(self, transfer, in_dtype):
        self.transfer, self.in_shape, self.out_shape = transfer, tuple(transfer.shape), tuple(transfer.shape)
        self.in_dtype = self.out_dtype = in_dtype

    def _forward(self, x):
        y = torch.fft.ifft2(self.transfer * torch.fft.fft2(x))
        return y if self.in_dtype.is_complex else y.real

    def _adjoint(self, y):
        x = torch.fft.ifft2(self.transfer.conj() * torch.fft.fft2(y))
        return x if self.in_dtype.is_complex else x.real


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _covariance(spectrum, dtype):
    """Dense prior covariance: columns F^H S F e_i, real-stacked for complex images."""
    whole = Circular(spectrum.to(torch.complex128), dtype)
    size = spectrum.numel() * (2 if dtype.is_complex else 1)
    units = torch.eye(size, dtype=torch.float64)
    if not dtype.is_complex:
        return whole.forward(units.reshape(-1, *spectrum.shape)).flatten(1).T
    units = torch.view_as_complex(units.reshape(size, -1, 2)).reshape(size, *spectrum.shape)
    return torch.view_as_real(whole.forward(units)).flatten(1).T


def _check(shape, dtype, transfer):
    spectrum = power_law_spectrum(shape, 2.0, 0.7)
    mean = torch.randn(shape, generator=_generator(0), dtype=dtype)
    y = torch.randn(shape, generator=_generator(1), dtype=dtype)
    fast = GaussianPrior(spectrum, mean).posterior(y, 0.3, transfer)
    operator = Circular(transfer.to(torch.complex128), dtype)
    dense = dense_posterior(operator, _covariance(spectrum, dtype), mean, y[None], 0.3)
    flat = torch.view_as_real(fast.mean).flatten() if dtype.is_complex else fast.mean.flatten()
    assert torch.allclose(dense.mean, flat, atol=1e-10)
    assert torch.allclose(dense.covariance, _covariance(fast.spectrum, dtype), atol=1e-10)


def test_real_blur():
    shape = (1, 5, 6)
    f = [torch.fft.fftfreq(n, dtype=torch.float64) for n in shape[1:]]
    transfer = torch.exp(-8 * (f[0][:, None] ** 2 + f[1] ** 2))[None]
    _check(shape, torch.float64, transfer)
    _check(shape, torch.float64, torch.ones(shape, dtype=torch.float64))


def test_complex_masked_fourier():
    shape = (1, 4, 5)
    transfer = (torch.rand(shape, generator=_generator(4)) < 0.5).double() * torch.exp(
        1j * torch.rand(shape, generator=_generator(5), dtype=torch.float64)
    )
    _check(shape, torch.complex128, transfer)
