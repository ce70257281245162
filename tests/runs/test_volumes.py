"""Volumes as one sample: joined slices, noise of each, slices written back; operators of volumes; refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recon.config.schema import Config
from recon.data import Geometry, Measurement, Volume, to_stack
from recon.errors import ConfigError, InputError
from recon.io.registry import read_volume, write_measurement, write_volume
from recon.operators.registry import build
from recon.priors.base import PriorInfo
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.slices import Slices
from recon.priors.store import save_prior
from recon.runs.device import choose_slices, slices_that_fit
from recon.runs.execute import execute
from recon.runs.plan import make_plan
from recon.runs.reconstruct import RunRequest, plan_request, reconstruct
from recon.runs.simulate import simulate
from recon.runs.volumes import parts

TINY = UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4)
DDS = {"steps": 3, "weighting": "matched", "eta": 1.0}


def weights() -> dict[str, torch.Tensor]:
    """Weights of an untrained network, none of them zero."""
    return {k: v + 0.05 * torch.randn_like(v) for k, v in UNet(TINY).state_dict().items()}


@pytest.fixture
def prior(tmp_path: Path) -> str:
    """A weight file of an untrained network."""
    path = tmp_path / "tiny.safetensors"
    torch.manual_seed(0)
    save_prior(path, weights(), TINY, 0.5, PriorInfo("tiny", 1, multiple=TINY.multiple), torch.float32)
    return str(path)


def config(named: str, method: str = "dds-3d", params: dict[str, Any] | None = None, **sections: Any) -> Config:
    run = {"device": "cpu", "threads": 1, **sections.pop("run", {})}
    content = {
        "operator": {"kind": "mri", "acceleration": 2.0},
        "method": {"name": method, **(DDS if params is None else params)},
        "noise": {"sigma": 0.01},
        "prior": {"name": named},
    }
    return Config.model_validate({**content, "run": run, **sections})


def head(slices: int = 4) -> Volume:
    rng = np.random.default_rng(0)
    base = np.add.outer(np.hanning(12), np.hanning(8)) * 80
    array = np.stack([base * (1 + 0.05 * z) for z in range(slices)]) + rng.uniform(0, 4, (slices, 12, 8))
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    return Volume(array.astype(np.float32), Geometry(("z", "y", "x"), affine, (3.0, 1.0, 1.0), "mm"))


def test_a_volume_is_one_problem_and_comes_back_as_slices(prior):
    cfg = config(prior)
    plan = make_plan(cfg, simulate(head(), cfg))
    assert isinstance(plan.prior, Slices) and plan.is_volume and plan.chunk == 1
    assert any("4 slices are reconstructed together" in line for line in plan.notices)
    (part,) = parts(plan.input, plan.method)
    assert part.operator.in_shape == (1, 4, 12, 8) and part.y.shape == (1, 4, 1, 12, 8)
    seen = []
    outcome = execute(plan, seen.append)
    assert outcome.samples.shape == (1, 4, 1, 12, 8) and len(outcome.residual) == 1
    assert [p.done for p in seen] == [1, 2, 3] and seen[-1].total == 3
    assert outcome.nfe == plan.describe()["network_evaluations"] == 3 * 4
    assert outcome.operator_calls == 3 * 12, "the operator sees the volume"


@pytest.mark.parametrize("method", ["dds", "tv"])
def test_methods_of_images_go_slice_by_slice(prior, method):
    cfg = config(prior, method, {} if method == "tv" else DDS)
    plan = make_plan(cfg, simulate(head(), cfg))
    assert not plan.is_volume and len(list(parts(plan.input, plan.method))) == 4
    outcome = execute(plan)
    assert outcome.samples.shape == (1, 4, 1, 12, 8) and len(outcome.residual) == 4


def test_uncoupled_slices_have_the_noise_and_the_result_of_images(prior):
    """With rho = 0 and conjugate gradients that converge, the volume is what its slices are by themselves."""
    cfg = config(prior, params={**DDS, "rho": 0.0, "cg_iterations": 60})
    measurement = simulate(head(), cfg)
    together = execute(make_plan(cfg, measurement)).samples
    single = config(prior, "dds", {**DDS, "cg_iterations": 60})
    apart = execute(make_plan(single, measurement)).samples
    assert np.abs(together - apart).max() < 1e-3 * np.abs(apart).max()


@pytest.mark.parametrize("chunk", [2, 3, 4])
def test_the_result_does_not_depend_on_the_chunk(prior, chunk):
    cfg = config(prior)
    measurement = simulate(head(), cfg)
    alone = execute(make_plan(cfg, measurement)).samples
    plan = make_plan(config(prior, run={"chunk": chunk}), measurement)
    assert plan.chunk == chunk and isinstance(plan.prior, Slices) and plan.prior.chunk == chunk
    assert np.abs(execute(plan).samples - alone).max() < 1e-4 * np.abs(alone).max()


def test_samples_of_a_volume_are_drawn_one_by_one(prior):
    cfg = config(prior, run={"samples": 2, "chunk": 4})
    outcome = execute(make_plan(cfg, simulate(head(), cfg)))
    assert outcome.samples.shape == (2, 4, 1, 12, 8) and outcome.nfe == 2 * 3 * 4
    first = execute(make_plan(config(prior, run={"chunk": 4}), simulate(head(), cfg))).samples
    assert np.array_equal(outcome.samples[:1], first)


def test_from_file_to_file_with_geometry_and_scores(prior, tmp_path):
    cfg = config(prior)
    write_volume(tmp_path / "truth.nii.gz", head())
    write_measurement(tmp_path / "y.h5", simulate(read_volume(tmp_path / "truth.nii.gz"), cfg))
    request = RunRequest(
        tmp_path / "y.h5", tmp_path / "out.nii.gz", cfg, "p", truth=tmp_path / "truth.nii.gz", keep_state=True
    )
    report = reconstruct(request, lambda plan: None, None)
    found, truth = read_volume(tmp_path / "out.nii.gz"), read_volume(tmp_path / "truth.nii.gz")
    assert found.array.shape == truth.array.shape and np.allclose(found.geometry.affine, truth.geometry.affine)
    assert report.metrics["psnr"] is not None
    sidecar = json.loads((tmp_path / "out.nii.gz.json").read_text())["Recon"]
    assert sidecar["Chunk"] == 1 and sidecar["Plan"]["together"] == "slices of a volume"
    assert not (tmp_path / "out.nii.gz.state.npz").exists()


def test_independent_images_are_not_joined(prior):
    cfg = config(prior)
    stack = Volume(head().array, Geometry(("n", "y", "x")))
    with pytest.raises(ConfigError, match="4 images of the input are independent"):
        make_plan(cfg, simulate(stack, cfg))
    single = make_plan(cfg, simulate(Volume(head().array[:1], Geometry(("n", "y", "x"))), cfg))
    assert execute(single).samples.shape == (1, 1, 1, 12, 8)


def test_an_operator_of_volumes_is_simulated_and_reconstructed_whole(prior, tmp_path):
    cfg = config(prior, operator={"kind": "slice-average", "factor": 2})
    measurement = simulate(head(), cfg)
    assert measurement.y.shape == (1, 1, 2, 12, 8)
    clean = simulate(head(), config(prior, operator=cfg.operator.model_dump(), noise={"kind": "none"}))
    assert np.allclose(clean.y[0, 0, 0], head().array[:2].mean(0), atol=1e-4)
    for method, params in (("dds-3d", DDS), ("dds", DDS), ("cg", {})):
        plan = make_plan(config(prior, method, params, operator=cfg.operator.model_dump()), measurement)
        assert plan.is_volume and plan.input.image_shape == (4, 1, 12, 8)
        outcome = execute(plan)
        assert outcome.samples.shape == (1, 4, 1, 12, 8)
        assert plan.describe()["network_evaluations"] == (12 if method != "cg" else 0)
    with pytest.raises(InputError, match="sees the slices of a volume together"):
        simulate(head(), cfg, index=1)
    with pytest.raises(InputError, match="independent images"):
        simulate(Volume(head().array, Geometry(("n", "y", "x"))), cfg)


def test_thick_slices_of_a_picture_become_thin_ones_in_their_place(prior, tmp_path):
    cfg = config(prior, operator={"kind": "slice-average", "factor": 2})
    thick = head(3)
    write_volume(tmp_path / "thick.nii.gz", thick)
    plan, _ = plan_request(RunRequest(tmp_path / "thick.nii.gz", tmp_path / "thin.nii.gz", cfg, "p"))
    assert plan.operator.in_shape == (1, 6, 12, 8)
    geometry = plan.input.measurement.geometry
    assert geometry is not None and geometry.affine is not None and geometry.spacing is not None
    z = geometry.axes.index("z")
    assert geometry.spacing[z] == 1.5
    # two thin slices lie around their thick one: voxel centres -0.75 and 0.75 mm about z = 0
    places = [(geometry.affine @ [0, 0, k, 1])[2] for k in range(2)]
    assert np.allclose(places, [-0.75, 0.75])
    assert to_stack(read_volume(tmp_path / "thick.nii.gz")).shape == (3, 1, 12, 8)
    with pytest.raises(InputError, match="independent images"):
        stack = Measurement(to_stack(thick), geometry=Geometry(("n", "y", "x")))
        make_plan(cfg, stack)


def test_a_mask_for_each_slice_makes_a_volume(prior):
    """A scanner's k-space: each slice has the operator that was made for it."""
    from recon.data import OperatorSpec, Scan

    rng = np.random.default_rng(1)
    truth = to_stack(head())[:, 0]
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(truth, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))[:, None]
    masks = rng.random((4, 1, 1, 8)) < 0.6
    masks[..., 2:6] = True
    scan = Measurement((k * masks).astype(np.complex64), OperatorSpec("mri", {}, ()), scan=Scan())
    cfg = config(prior, scan={"sigma": 0.5, "phase": "none"})
    plan = make_plan(cfg, scan)
    (part,) = parts(plan.input, plan.method)
    assert len({bytes(p.mask.numpy()) for p in part.operator.parts}) > 1
    assert execute(plan).samples.shape == (1, 4, 1, 12, 8)


def test_chunks_follow_the_free_memory():
    assert slices_that_fit(free=10_000, volumes=2_000, each=1_000, slices=256) == 4
    assert slices_that_fit(free=10_000, volumes=20_000, each=1_000, slices=256) == 1
    assert slices_that_fit(free=10**9, volumes=0, each=1, slices=256) == 64
    assert slices_that_fit(free=10**9, volumes=0, each=1, slices=5) == 5
    device = torch.device("cpu")
    nothing: Any = None
    assert choose_slices(0, 9, nothing, (1, 4, 4), torch.float32, device) == 1
    assert choose_slices(99, 9, nothing, (1, 4, 4), torch.float32, device) == 9


def test_cone_beams_go_from_a_truth_to_a_reconstruction():
    cfg = Config.model_validate(
        {
            "operator": {"kind": "ct-cone", "angles": 12},
            "method": {"name": "cg"},
            "noise": {"sigma": 0.01},
            "run": {"device": "cpu", "threads": 1},
        }
    )
    measurement = simulate(head(), cfg)
    assert measurement.operator is not None and build(measurement.operator).in_shape == (1, 4, 12, 8)
    found = execute(make_plan(cfg, measurement)).samples
    assert found.shape == (1, 4, 1, 12, 8)
    assert np.corrcoef(found.ravel(), head().array.ravel())[0, 1] > 0.9


def test_a_second_prior_for_the_other_plane(prior, tmp_path):
    info = PriorInfo("second", 1, multiple=TINY.multiple)
    torch.manual_seed(1)
    save_prior(tmp_path / "second.safetensors", weights(), TINY, 0.5, info, torch.float32)
    second, few = str(tmp_path / "second.safetensors"), {"steps": 4}
    measurement = simulate(head(), config(prior))
    both = make_plan(config(prior, "tpdm", few, prior={"name": prior, "auxiliary": second}), measurement)
    assert isinstance(both.prior, Slices) and both.prior.along(3).inner.info.name == "second"
    alone = execute(make_plan(config(prior, "tpdm", few), measurement)).samples
    assert np.isfinite(alone).all() and not np.allclose(execute(both).samples, alone)
    with pytest.raises(ConfigError, match="is of method 'tpdm'"):
        make_plan(config(prior, prior={"name": prior, "auxiliary": second}), measurement)
    save_prior(
        tmp_path / "second.safetensors",
        weights(),
        TINY,
        0.5,
        PriorInfo("second", 1, multiple=TINY.multiple, value_range=(0.0, 1.0)),
        torch.float32,
    )
    with pytest.raises(ConfigError, match="have the ranges"):
        make_plan(config(prior, "tpdm", few, prior={"name": prior, "auxiliary": second}), measurement)


def test_total_variation_of_a_volume_uses_the_neighbours():
    """Equal slices with noise of their own: differences along z average it away."""
    truth = Volume(np.repeat(head(1).array, 5, axis=0), Geometry(("z", "y", "x")))
    errors = []
    for dimensions in (2, 3):
        cfg = Config.model_validate(
            {
                "operator": {"kind": "denoise"},
                "method": {"name": "tv", "dimensions": dimensions},
                "noise": {"sigma": 0.1},
                "run": {"device": "cpu", "threads": 1},
            }
        )
        plan = make_plan(cfg, simulate(truth, cfg))
        assert plan.is_volume == (dimensions == 3)
        errors.append(float(np.abs(execute(plan).mean[:, 0] - truth.array).mean()))
    assert errors[1] < 0.9 * errors[0]
