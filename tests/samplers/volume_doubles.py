"""Volumes, priors and operators that the tests of volume methods share."""

from __future__ import annotations

import torch
from sampler_doubles import MaskedFourier, generator

from recon.data import Problem
from recon.likelihoods import Gaussian
from recon.operators.slices import Slicewise
from recon.samplers.base import SeededNoise
from recon.samplers.volume import SliceNoise


def slice_noise(slices, samples=1, seed=3):
    """Noise of each slice from a seed of its own."""
    return SliceNoise([SeededNoise(seed + z, range(samples)) for z in range(slices)])


def smooth_volume(shape, dtype=torch.float64):
    """A volume (1, C, Z, Y, X) whose slices are alike."""
    base = torch.randn(1, shape[1], 1, *shape[3:], generator=generator(7), dtype=torch.float64)
    change = torch.randn(shape, generator=generator(8), dtype=torch.float64)
    return (0.5 * base + 0.05 * change.cumsum(2)).to(dtype)


def fourier_volume(shape, dtype=torch.float64, sigma=0.05):
    """Undersampled Fourier samples of a volume, a mask for each slice."""
    masks = [(torch.rand(shape[3:], generator=generator(z)) < 0.5).to(dtype) for z in range(shape[2])]
    operator = Slicewise([MaskedFourier(mask, dtype) for mask in masks])
    truth = smooth_volume(shape, dtype)
    y = operator.forward(truth)
    noise = torch.randn(y.shape, generator=generator(9), dtype=torch.complex128).to(y.dtype)
    y = y + sigma * noise * operator.support
    return Problem(operator, y, Gaussian(sigma)), truth


def assert_resumes(method, prior, problem, shape, on_every=1):
    """Run a method whole, then again from the state after every step: the same bits, and nothing changed in place."""
    slices = shape[2]
    noise, kept = slice_noise(slices), []

    def keep(step):
        copies = {k: v.clone() for k, v in step.state.items()}
        kept.append((step.state, copies, noise.state()))

    whole = method.sample(prior, problem, None, noise, shape, keep)
    for state, copies, _ in kept:
        assert all(torch.equal(state[k], copies[k]) for k in copies), "a state was changed after its step"
    for done in range(0, len(kept), on_every):
        state, _, drawn = kept[done]
        again, steps = slice_noise(slices, seed=99), []
        again.restore(drawn)
        resumed = method.sample(prior, problem, None, again, shape, steps.append, state=state)
        assert torch.equal(resumed.samples, whole.samples)
        assert resumed.stats.nfe == whole.stats.nfe and resumed.stats.operator_calls == whole.stats.operator_calls
        assert torch.equal(torch.stack(resumed.stats.residuals), torch.stack(whole.stats.residuals))
        assert [s.index for s in steps] == list(range(done + 1, len(kept)))
