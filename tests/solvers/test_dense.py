"""Explicit matrices and linear-Gaussian posteriors against independent formulas."""

import math

import pytest
import torch

from recon.errors import ConfigError
from recon.operators.base import LinearOperator
from recon.solvers.dense import dense_matrix, linear_gaussian_posterior, real_rows


class HalfFourier(LinearOperator):
    """Rows of a Fourier matrix, of complex or real images."""

    def __init__(self, size, in_dtype):
        self.size, self.in_dtype, self.out_dtype = size, in_dtype, torch.complex64
        self.in_shape, self.out_shape = (1, size), (1, size // 2)

    def _forward(self, x):
        return torch.fft.fft(x, norm="ortho")[..., : self.size // 2]

    def _adjoint(self, y):
        image = torch.fft.ifft(torch.nn.functional.pad(y, (0, self.size - self.size // 2)), norm="ortho")
        return image if self.in_dtype.is_complex else image.real


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_matrix_acts_like_the_operator(dtype):
    operator = HalfFourier(6, dtype)
    matrix = dense_matrix(operator)
    exact = operator.to(dtype=torch.float64)
    x = torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(0), dtype=exact.in_dtype)
    assert matrix.shape == (6, 12 if dtype.is_complex else 6)
    assert torch.allclose(real_rows(x) @ matrix.T, real_rows(exact.forward(x)), atol=1e-12)
    y = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.complex128)
    assert torch.allclose(real_rows(y) @ matrix, real_rows(exact.adjoint(y)), atol=1e-12)


def test_posterior_matches_the_information_form_and_its_evidence_the_joint_density():
    g = torch.Generator().manual_seed(2)
    matrix = torch.randn(4, 6, generator=g, dtype=torch.float64)
    root = torch.randn(6, 6, generator=g, dtype=torch.float64)
    covariance, mean, sigma = root @ root.T, torch.randn(6, generator=g, dtype=torch.float64), 0.3
    y = torch.randn(4, generator=g, dtype=torch.float64)
    found = linear_gaussian_posterior(matrix, covariance, mean, y, sigma)
    precision = matrix.T @ matrix / sigma**2 + torch.linalg.inv(covariance)
    expected = torch.linalg.solve(precision, matrix.T @ y / sigma**2 + torch.linalg.solve(covariance, mean))
    assert torch.allclose(found.mean, expected, rtol=1e-8, atol=1e-8)
    assert torch.allclose(found.covariance, torch.linalg.inv(precision), rtol=1e-6, atol=1e-9)
    # p(y) = p(x) p(y | x)/p(x | y) at any x
    x = torch.randn(6, generator=g, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal
    bayes = (
        normal(mean, covariance).log_prob(x)
        - 0.5 * (((y - matrix @ x) / sigma) ** 2).sum()
        - len(y) * math.log(sigma * math.sqrt(2 * math.pi))
        - normal(found.mean, found.covariance).log_prob(x)
    )
    assert found.log_evidence == pytest.approx(float(bayes), rel=1e-7)


def test_too_large_and_singular_problems_are_refused():
    class Large(HalfFourier):
        def _forward(self, x):
            raise AssertionError("must be refused before any work")

    with pytest.raises(ConfigError, match="too large"):
        dense_matrix(Large(20000, torch.float32))
    eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    with pytest.raises(ConfigError, match="singular"):
        linear_gaussian_posterior(0 * eye, eye, zero, zero, 0.0)
