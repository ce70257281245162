"""SeededNoise: a pure function of seed, index and the calls before; standard normal."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.samplers.base import SeededNoise

FEW = settings(max_examples=30, deadline=None)
INDICES = st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.complex64, torch.complex128])
ITEM = (2, 3, 5)


def draws(seed: int, indices: list[int], dtype: torch.dtype = torch.float32) -> dict[int, torch.Tensor]:
    """Return two draws of each index, (2, *ITEM), made in one batch."""
    source = SeededNoise(seed, indices)
    both = torch.stack([source.normal((len(indices), *ITEM), dtype) for _ in range(2)], dim=1)
    return dict(zip(indices, both, strict=True))


@FEW
@given(st.integers(0, 2**31), INDICES, DTYPES, st.data())
def test_noise_does_not_depend_on_batch_order_or_chunk(seed, indices, dtype, data):
    whole = draws(seed, indices, dtype)
    order = data.draw(st.permutations(indices))
    cut = data.draw(st.integers(0, len(indices)))
    chunks = [c for c in (order[:cut], order[cut:]) if c]
    for found in [draws(seed, chunk, dtype) for chunk in chunks] + [draws(seed, [i], dtype) for i in indices]:
        for index, noise in found.items():
            assert noise.dtype == dtype and torch.equal(noise, whole[index])


@FEW
@given(st.integers(0, 2**31), st.integers(0, 10**6), st.integers(1, 1000), DTYPES)
def test_neighbouring_seeds_and_indices_and_later_calls_differ(seed, index, step, dtype):
    here = draws(seed, [index], dtype)[index]
    others = [draws(seed + step, [index], dtype)[index], draws(seed, [index + step], dtype)[index + step]]
    swapped = draws(index, [seed], dtype)[seed]
    for other in others + ([swapped] if seed != index else []):
        assert not bool((here == other).any())
    assert not bool((here[0] == here[1]).any())


def test_moments_and_independence_of_real_noise():
    """64 samples of 16384 numbers: standard error of the mean 1e-3, of the variance 1.4e-3, of a correlation 7.8e-3."""
    z = SeededNoise(0, range(64)).normal((64, 1, 128, 128)).double().flatten(1)
    assert abs(float(z.mean())) < 5e-3
    assert abs(float(z.var()) - 1) < 7e-3
    assert abs(float((z**3).mean())) < 0.02 and abs(float((z**4).mean()) - 3) < 0.05
    correlation = (z @ z.T) / z.shape[1] - torch.eye(64)
    off_diagonal = correlation[~torch.eye(64, dtype=torch.bool)]
    assert float(off_diagonal.abs().max()) < 0.045  # 2016 pairs, 5.7 standard errors
    assert abs(float(off_diagonal.std()) - 128**-1) < 1e-3


def test_complex_noise_has_unit_variance_in_each_part_and_none_in_common():
    z = SeededNoise(3, range(16)).normal((16, 1, 128, 128), torch.complex64).to(torch.complex128)
    assert abs(float(z.real.var()) - 1) < 0.015 and abs(float(z.imag.var()) - 1) < 0.015
    assert abs(float((z.real * z.imag).mean())) < 0.01
    assert abs(complex(z.mean())) < 0.01


def test_drawing_leaves_the_global_generators_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    SeededNoise(0, [0, 1]).normal((2, 3))
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
