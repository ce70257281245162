"""The noise of a sample is a function of the seed and its index alone."""

import pytest
import torch

from recon.samplers.base import SeededNoise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_noise_of_a_sample_is_bitwise_the_same_in_any_batch(dtype):
    alone, batch = SeededNoise(11, [7]), SeededNoise(11, [5, 7, 9])
    for _ in range(3):
        one = alone.normal((1, 2, 3, 5), dtype)
        many = batch.normal((3, 2, 3, 5), dtype)
        assert one.dtype == dtype
        assert torch.equal(one[0], many[1])
        assert not torch.equal(many[0], many[1])


def test_seeds_and_indices_do_not_collide_and_parts_have_unit_variance():
    shape = (1, 1, 64, 64)
    draws = [SeededNoise(s, [i]).normal(shape) for s, i in ((0, 1), (1, 0), (1, 1), (2, 0))]
    for a in range(4):
        for b in range(a):
            assert abs(float((draws[a] * draws[b]).mean())) < 0.1
    z = SeededNoise(0, [0]).normal(shape, torch.complex64)
    assert abs(float(z.real.std()) - 1) < 0.05 and abs(float(z.imag.std()) - 1) < 0.05


def test_batch_must_match_and_the_global_generator_stays():
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="generators"):
        SeededNoise(0, [0, 1]).normal((3, 1, 2, 2))
    SeededNoise(0, [0]).normal((1, 1, 2, 2))
    assert torch.equal(state, torch.get_rng_state())
