"""EnKG against the authors' loop, and what an ensemble must keep: batches, black boxes, complex data, contraction."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from sampler_doubles import BatchNoise, MaskedFourier, dense_problem, generator, relative
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Poisson
from recon.operators.base import Operator
from recon.operators.inpaint import Inpaint
from recon.priors.base import Denoiser, Prediction
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.samplers.base import SeededNoise, Status
from recon.samplers.enkg import EnKG
from recon.samplers.ensemble import errors, in_parts

SHAPE = (2, 4, 4)
PRIOR = GaussianPrior(power_law_spectrum(SHAPE, 2.0, 0.5))


def poly(count: int, top: float, low: float = 0.002, rho: float = 7.0) -> Tensor:
    i = torch.arange(count, dtype=torch.float64)
    return (top ** (1 / rho) + i / (count - 1) * (low ** (1 / rho) - top ** (1 / rho))) ** rho


def published(prior, problem, x, n, scale, updates, start, end, ratio):
    """The loop of the authors' code; yields the ensemble after each step."""
    t_steps = torch.cat([poly(n, 80.0), torch.zeros(1, dtype=torch.float64)])
    for i in range(n):
        t, t_next = float(t_steps[i]), float(t_steps[i + 1])
        if i < (n - int(end * n)) and i > start * n:
            points = min(1 + (n - i) // 4, 20)
            lr = scale * (1 - ratio) * (n - i) / n + ratio if ratio > 0.0 else scale
            for _ in range(updates):
                if points == 1:
                    images = prior(x, t).x0
                else:
                    images, inner = x, [*poly(points, t).tolist(), 0.0]
                    for a, b in pairwise(inner):
                        images = images + (b - a) * (images - prior(images, a).x0) / a
                ys = problem.operator.forward(images)
                ys_diff = (ys - ys.mean(0, keepdim=True)).reshape(len(ys), -1)
                coef = (ys - problem.y).reshape(len(ys), -1) @ ys_diff.T / len(x)
                dxs = coef @ (x - x.mean(0, keepdim=True)).reshape(len(x), -1)
                x = x - lr / torch.linalg.matrix_norm(coef) * dxs.reshape(x.shape)
        x = x + (t_next - t) * (x - prior(x, t).x0) / t
        yield x


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(
    "settings",
    [{}, {"updates": 1, "ratio": 1e-3, "scale": 3.5, "start": 0.1, "end": 0.1}, {"ratio": 0.4, "end": 0.0}],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_the_published_loop_step_by_step(settings, linear, dtype):
    n, count = 24, 10
    problem, seen = dense_problem(12, SHAPE, dtype, linear=linear), []
    method = EnKG(steps=n, batch=4, **settings)
    shape = (count, *SHAPE)
    result = method.sample(PRIOR, problem, None, SeededNoise(3, range(count)), shape, lambda s: seen.append(s.x0))
    start = 80 * SeededNoise(3, range(count)).normal(shape, dtype)
    given = {"scale": 2.0, "updates": 2, "start": 0.05, "end": 0.05, "ratio": 0.0} | settings
    theirs = list(published(PRIOR, problem, start, n, **given))
    levels = [*poly(n, 80.0).tolist(), 0.0]
    limit = 1e-8 if dtype == torch.float64 else 1e-4
    # our step reports D(X_i); theirs follows from X_{i+1} of the next step's own D where no update lies between
    assert relative(result.samples, theirs[-1]) < limit
    states, x = [], start
    for i, x0 in enumerate(seen):
        # the state after the update: x' with x_{i+1} = x' + (t' - t)/t (x' - x0)
        w = levels[i + 1] / levels[i]
        x = (theirs[i] - (1 - w) * x0) / w if w else theirs[i]
        states.append(relative(PRIOR(x, levels[i]).x0, x0) if w else relative(theirs[i], x0))
    assert max(states) < 100 * limit
    assert len(seen) == n and result.status is Status.OK and result.samples.dtype == dtype
    assert result.stats.nfe == method.network_calls


class Asked(Denoiser):
    """A prior that counts the images it was given."""

    def __init__(self, base: Denoiser) -> None:
        self.base, self.info, self.sizes = base, base.info, Counter()

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        self.sizes[len(x)] += 1
        return self.base(x, sigma)


class BlackBox(Operator):
    """A model that only says its values, and counts the images it was given."""

    differentiable = False

    def __init__(self, base: Operator) -> None:
        self.base, self.in_shape, self.out_shape, self.sizes = base, base.in_shape, base.out_shape, Counter()
        self.in_dtype, self.out_dtype = base.in_dtype, base.out_dtype

    def _forward(self, x: Tensor) -> Tensor:
        self.sizes[len(x)] += 1
        return torch.from_numpy(self.base.forward(x).numpy().copy())


def test_batches_change_nothing_and_the_remainder_is_denoised():
    problem = dense_problem(12, SHAPE, torch.float64)
    found = {}
    for batch in (64, 11, 4, 1):
        prior, box = Asked(PRIOR), BlackBox(problem.operator)
        result = EnKG(steps=16, batch=batch).sample(
            prior, replace(problem, operator=box), None, SeededNoise(0, range(11)), (11, *SHAPE)
        )
        found[batch] = result.samples
        parts = Counter(len(p) for p in torch.zeros(11).split(batch))
        assert set(prior.sizes) == set(box.sizes) == set(parts)
        assert sum(k * v for k, v in prior.sizes.items()) == 11 * result.stats.nfe
        assert sum(k * v for k, v in box.sizes.items()) == 11 * result.stats.operator_calls
    for batch in (11, 4, 1):
        assert relative(found[batch], found[64]) < 1e-9


def test_counts_of_the_published_settings():
    """71 guided levels of 80: 142 updates, as counted for Navier-Stokes."""
    method = EnKG()
    assert sum(bool(grid) for grid in method._levels()[1]) == 71
    assert (method._levels()[0][0], method._levels()[0][-2]) == pytest.approx((80, 0.002))
    assert method.network_calls == 80 + 2 * sum(min(1 + (80 - i) // 4, 20) for i in range(5, 76))


def test_a_members_noise_does_not_depend_on_how_many_there_are():
    """The first state of member k is the same in ensembles of any size; what follows is not."""
    problem, starts = dense_problem(12, SHAPE, torch.float64), {}
    for count in (3, 6):
        seen = []
        EnKG(steps=8, start=1.0).sample(
            PRIOR, problem, None, SeededNoise(5, range(count)), (count, *SHAPE), lambda s, seen=seen: seen.append(s.x0)
        )
        starts[count] = seen[-1]
    assert relative(starts[6][:3], starts[3]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.complex128, torch.float64])
def test_complex_data_are_pairs_of_real_numbers(dtype):
    """The same run with the measurement's parts stacked by hand."""
    shape = (1, 6, 5)
    operator = MaskedFourier((torch.rand(6, 5, generator=generator(0)) < 0.6).float(), dtype)
    prior = GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    y = operator.forward(prior.sample(1, generator(1), dtype))

    class Stacked(Operator):
        in_shape, in_dtype, out_dtype = shape, dtype, torch.float64
        out_shape = (*operator.out_shape, 2)

        def _forward(self, x):
            return torch.view_as_real(operator.forward(x)).contiguous()

    method, found = EnKG(steps=24, ode_steps=4, localisation="correlation"), []
    for op, data in ((operator, y), (Stacked(), torch.view_as_real(y))):
        problem = Problem(op, data, Gaussian(0.1))
        found.append(method.sample(prior, problem, None, SeededNoise(0, range(150)), (150, *shape)).samples)
    assert found[0].dtype == dtype and relative(found[0], found[1]) < 1e-10
    guess = operator.forward(prior.sample(150, generator(2), dtype))
    assert float((operator.forward(found[0]) - y).abs().mean()) < 0.5 * float((guess - y).abs().mean())


def half_seen():
    """White images of which the left half is measured, and the slices of both halves."""
    shape = (1, 8, 8)
    prior = GaussianPrior(torch.full(shape, 0.25))
    mask = torch.zeros(8, 8)
    mask[:, :4] = 1
    operator = Inpaint(shape, mask).to(dtype=torch.float64)
    truth = prior.sample(1, generator(3), torch.float64)
    problem = Problem(operator, operator.forward(truth), Gaussian(0.05))
    return shape, prior, problem, truth[0], (..., slice(0, 4)), (..., slice(4, 8))


def test_the_ensemble_contracts_to_the_data():
    """Where pixels are measured the mean nears y and the spread falls; elsewhere the prior's is left."""
    shape, prior, problem, truth, seen, hidden = half_seen()
    result = EnKG(updates=1, batch=256).sample(prior, problem, None, BatchNoise(0), (256, *shape))
    mean, std = result.samples.mean(0), result.samples.std(0)
    assert relative(mean[seen], truth[seen]) < 0.15
    assert float(std[seen].mean()) < 0.02
    assert 0.4 < float(std[hidden].mean()) < 0.55
    residuals = [float(r.mean()) for r in result.stats.residuals]
    assert residuals[-1] < 0.2 * residuals[0] and len(residuals) == 71
    ensemble = result.stats.ensemble
    assert ensemble is not None and len(ensemble.spreads) == 80
    assert float(ensemble.spreads[-1]) == pytest.approx(float((std**2).mean().sqrt()), rel=1e-6)
    unguided = EnKG(steps=40, start=1.0).sample(prior, problem, None, BatchNoise(0), (256, *shape))
    assert float(unguided.samples.std(0).mean()) == pytest.approx(0.5, rel=0.1)


def test_localisation_keeps_the_data_from_what_they_do_not_tell_of():
    shape, prior, problem, truth, seen, hidden = half_seen()
    strayed = {}
    for kind in ("none", "correlation"):
        method = EnKG(updates=1, batch=256, localisation=kind)
        mean = method.sample(prior, problem, None, BatchNoise(0), (256, *shape)).samples.mean(0)
        assert relative(mean[seen], truth[seen]) < 0.15
        strayed[kind] = float(mean[hidden].square().mean().sqrt())
    assert strayed["correlation"] < 0.6 * strayed["none"]


def test_exact_zero_updates_leave_the_ensemble_alone():
    """An operator that sees nothing gives C = 0, which must not become 0/0."""
    operator = Inpaint(SHAPE, torch.ones(4, 4)).to(dtype=torch.float64)
    blind = Problem(BlackBox(operator), torch.zeros(1, *SHAPE, dtype=torch.float64), Gaussian(0.1))
    blind.operator._forward = lambda x: torch.zeros_like(x)  # type: ignore[method-assign]
    free = EnKG(steps=12, start=1.0).sample(PRIOR, blind, None, SeededNoise(0, range(4)), (4, *SHAPE)).samples
    guided = EnKG(steps=12).sample(PRIOR, blind, None, SeededNoise(0, range(4)), (4, *SHAPE)).samples
    assert relative(guided, free) < 1e-12


@pytest.mark.parametrize("precedence", ["code", "corrected"])
def test_weights_of_the_updates(precedence):
    method = EnKG(scale=3.0, ratio=0.25, precedence=precedence)
    floor = 0.25 if precedence == "code" else 0.75
    assert method._weight(0) == pytest.approx(3 * 0.75 + floor)
    assert method._weight(40) == pytest.approx(3 * 0.75 / 2 + floor)
    assert EnKG(scale=3.0)._weight(70) == 3.0
    assert EnKG(scale=3.0, ratio=1.0, precedence="corrected")._weight(70) == 3.0


def test_inflation_gives_back_the_spread_that_an_update_takes():
    x = torch.randn(6, *SHAPE, generator=generator(0), dtype=torch.complex128)
    y = torch.randn(6, 5, generator=generator(1), dtype=torch.float64)
    plain, half, whole = (EnKG(inflation=f)._guided(x, y - 1, y, 0.7) for f in (0.0, 0.5, 1.0))
    assert torch.allclose(half.mean(0), plain.mean(0)) and torch.allclose(whole.mean(0), plain.mean(0))
    assert not torch.allclose(plain.std(0), x.std(0), rtol=1e-2)
    assert torch.allclose(whole.std(0), x.std(0))
    assert torch.allclose(half.std(0), (plain.std(0) + x.std(0)) / 2)


def test_errors_are_the_slope_of_the_noises_loss():
    z = torch.rand(3, 7, generator=generator(0), dtype=torch.float64) + 0.5
    y = torch.rand(1, 7, generator=generator(1), dtype=torch.float64) + 0.5
    assert torch.equal(errors(Gaussian(0.1), z, y), z - y)
    poisson = Poisson(50.0, 2.0, torch.full((1, 7), 0.3))
    rate, counts = 50 * (2 * z + 0.3), 50 * (2 * y + 0.3)
    assert torch.allclose(errors(poisson, z, y), 100 * (1 - counts / rate))


def test_parts_are_in_order():
    x = torch.arange(10.0)[:, None]
    assert torch.equal(in_parts(lambda v: 2 * v, x, 4), 2 * x)


# refusals


def test_what_cannot_work_is_refused():
    problem = dense_problem(12, SHAPE, torch.float64)
    with pytest.raises(ConfigError, match="needs a prior"):
        EnKG().sample(None, problem, None, BatchNoise(0), (4, *SHAPE))
    with pytest.raises(ConfigError, match="ensemble of 2 or more"):
        EnKG().sample(PRIOR, problem, None, BatchNoise(0), (1, *SHAPE))
    several = replace(problem, y=problem.y.expand(4, -1))
    with pytest.raises(ConfigError, match="one measurement"):
        EnKG().sample(PRIOR, several, None, BatchNoise(0), (4, *SHAPE))
    bad = ({"particles": 1}, {"batch": 0}, {"steps": 1}, {"updates": 0}, {"ode_steps": 0}, {"ode_every": 0})
    for settings in (*bad, {"start": -0.1}, {"end": 1.1}, {"scale": -1.0}, {"ratio": 1.1}, {"inflation": 1.1}):
        with pytest.raises(ConfigError, match="enkg needs"):
            EnKG(**settings)
    with pytest.raises(ConfigError, match="sigma_min"):
        EnKG(sigma_min=90.0)


def test_divergence_is_noticed():
    problem = dense_problem(12, SHAPE, torch.float64)
    broken = replace(problem, y=torch.full_like(problem.y, float("nan")))
    result = EnKG(steps=30).sample(PRIOR, broken, None, BatchNoise(0), (4, *SHAPE))
    assert result.status is Status.DIVERGED and bool(torch.isfinite(result.samples).all())
