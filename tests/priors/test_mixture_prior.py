"""The Gaussian mixture prior against densities, Tweedie's formula and Monte Carlo."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.errors import ConfigError
from recon.operators.base import LinearOperator
from recon.priors.mixture import MixturePrior

SHAPE = (1, 2, 3)


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _mixture(full, seed=0, count=3, shape=SHAPE):
    g = _generator(seed)
    size = torch.Size(shape).numel()
    weights = torch.rand(count, generator=g) + 0.2
    means = 2 * torch.randn(count, *shape, generator=g, dtype=torch.float64)
    if full:
        root = torch.randn(count, size, size, generator=g, dtype=torch.float64)
        return MixturePrior(weights, means, root @ root.mT / size + 0.05 * torch.eye(size))
    return MixturePrior(weights, means, torch.rand(count, *shape, generator=g, dtype=torch.float64) + 0.05)


def _log_density(prior, x, sigma):
    """ln p of x = x0 + sigma n from torch's own densities, for one image."""
    means, covariances = prior.moments()
    noisy = covariances + sigma**2 * torch.eye(covariances.shape[-1], dtype=torch.float64)
    parts = torch.distributions.MultivariateNormal(means.flatten(1), noisy).log_prob(x.flatten())
    return torch.logsumexp(prior.weights.log() + parts, 0)


@given(st.booleans(), st.floats(0.05, 20), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_denoiser_obeys_tweedie(full, sigma, seed):
    prior = _mixture(full, seed)
    x = (3 * torch.randn(SHAPE, generator=_generator(seed + 1), dtype=torch.float64)).requires_grad_()
    density = _log_density(prior, x, sigma)
    (score,) = torch.autograd.grad(density, x)
    found = prior(x.detach()[None], sigma).x0[0]
    assert torch.allclose(found, x.detach() + sigma**2 * score, rtol=1e-7, atol=1e-8)
    own = prior.log_density(x.detach()[None], torch.tensor([sigma], dtype=torch.float64))
    assert float(own) == pytest.approx(float(density.detach()), rel=1e-9)


def test_levels_are_per_sample_and_single_precision_works():
    prior = _mixture(True)
    x = torch.randn(2, *SHAPE, generator=_generator(0))
    both = prior(x, torch.tensor([0.1, 3.0])).x0
    assert both.dtype == torch.float32
    for item, sigma in enumerate((0.1, 3.0)):
        alone = prior(x[item : item + 1].double(), sigma).x0
        assert torch.allclose(both[item : item + 1].double(), alone, atol=1e-4)


@pytest.mark.parametrize("full", [False, True])
def test_jacobian_is_symmetric(full):
    prior = _mixture(full)
    x = torch.randn(6, generator=_generator(0), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: prior(v.reshape(1, *SHAPE), 0.7).x0.flatten(), x)
    assert torch.allclose(jacobian, jacobian.T, atol=1e-12)
    assert float(jacobian.abs().max()) > 0.1


def test_diagonal_and_full_forms_agree():
    diagonal = _mixture(False)
    full = MixturePrior(diagonal.weights, *diagonal.moments())
    x = torch.randn(4, *SHAPE, generator=_generator(0), dtype=torch.float64)
    assert torch.allclose(diagonal(x, 0.4).x0, full(x, 0.4).x0, atol=1e-10)


@pytest.mark.parametrize("full", [False, True])
def test_samples_have_the_moments_of_the_mixture(full):
    prior = _mixture(full)
    x = prior.sample(20000, _generator(5), torch.float64).flatten(1)
    means, covariances = prior.moments()
    flat, w = means.flatten(1), prior.weights
    mean = w @ flat
    centred = flat - mean
    covariance = (w[:, None, None] * (covariances + centred[:, :, None] * centred[:, None])).sum(0)
    scale = covariance.diagonal().max()
    assert float((x.mean(0) - mean).abs().max()) < 5 * float(scale / 20000) ** 0.5
    assert float((torch.cov(x.T) - covariance).abs().max()) < 0.05 * float(scale)
    assert torch.equal(x, prior.sample(20000, _generator(5), torch.float64).flatten(1))


class Rows(LinearOperator):
    def __init__(self, matrix):
        self.matrix, self.in_shape, self.out_shape = matrix, SHAPE, (len(matrix),)
        self.in_dtype = self.out_dtype = matrix.dtype

    def _forward(self, x):
        return x.flatten(1) @ self.matrix.T

    def _adjoint(self, y):
        return (y @ self.matrix).reshape(-1, *SHAPE)


@pytest.mark.parametrize("full", [False, True])
def test_posterior_is_proportional_to_prior_times_likelihood(full):
    prior, sigma = _mixture(full), 0.4
    matrix = torch.randn(3, 6, generator=_generator(8), dtype=torch.float64)
    y = torch.randn(1, 3, generator=_generator(9), dtype=torch.float64)
    posterior = prior.posterior(Rows(matrix), y, sigma)
    assert float(posterior.weights.sum()) == pytest.approx(1)
    points = torch.randn(5, *SHAPE, generator=_generator(10), dtype=torch.float64)
    gaps = []
    for x in points:
        likelihood = -0.5 * ((y[0] - matrix @ x.flatten()) ** 2).sum() / sigma**2
        gaps.append(float(_log_density(prior, x, 0.0) + likelihood - _log_density(posterior, x, 0.0)))
    # the gap is ln p(y): the same at every point
    assert max(gaps) - min(gaps) < 1e-8
    assert max(abs(g) for g in gaps) > 1e-3


def test_far_component_has_no_share():
    means = torch.stack([torch.zeros(SHAPE), torch.full(SHAPE, 50.0)]).double()
    prior = MixturePrior(torch.ones(2), means, 0.1 * torch.ones_like(means))
    operator = Rows(torch.eye(6, dtype=torch.float64))
    posterior = prior.posterior(operator, torch.zeros(1, 6, dtype=torch.float64), 0.1)
    assert float(posterior.weights[0]) == 1.0
    assert bool(torch.isfinite(posterior(torch.zeros(1, *SHAPE), 0.1).x0).all())


def test_wrong_arguments_are_refused():
    means = torch.zeros(2, *SHAPE)
    with pytest.raises(ConfigError, match="do not fit"):
        MixturePrior(torch.ones(2), means, torch.ones(2, 5, 5))
    with pytest.raises(ConfigError, match="weights"):
        MixturePrior(torch.ones(3), means, torch.ones_like(means))
    with pytest.raises(ConfigError, match="weights"):
        MixturePrior(torch.tensor([1.0, 0.0]), means, torch.ones_like(means))
    with pytest.raises(ConfigError, match=">= 0"):
        MixturePrior(torch.ones(2), means, -torch.ones_like(means))
