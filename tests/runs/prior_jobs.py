"""Small priors and measurements for tests of runs."""

from __future__ import annotations

import numpy as np
import torch

from recon.config.schema import Config
from recon.data import Geometry, Volume
from recon.priors.base import PriorInfo
from recon.priors.networks.adm import ADM, ADMConfig
from recon.priors.networks.dhariwal import DhariwalConfig, DhariwalUNet
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.store import dump_prior
from recon.runs.plan import make_plan
from recon.runs.simulate import simulate


def network(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make()
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.1)
    return net


def weights(
    folder, channels=1, classes=None, complex_channels=False, sizes=None, value_range=(-1.0, 1.0), symmetry="none"
):
    """Return the weight file of an untrained prior; classes: "free" | "always"."""
    if classes is None:
        net = network(lambda: UNet(UNetConfig(channels, (8, 16), (1, 1), embedding=16, groups=4)))
    elif classes == "free":
        net = network(lambda: DhariwalUNet(DhariwalConfig(8, channels, channels, 64, (1,), 1, labels=3)))
    else:
        net = network(lambda: ADM(ADMConfig(channels, channels, 8, (32,), heads=4, labels=3)))
    info = PriorInfo(
        "tiny",
        channels,
        multiple=net.config.multiple,
        complex_channels=complex_channels,
        sizes=sizes,
        value_range=value_range,
        symmetry=symmetry,
    )
    path = folder / f"tiny{channels}{classes}{symmetry}.safetensors"
    path.write_bytes(dump_prior(PreconditionedDenoiser(net, info, "vp")))
    return str(path)


def config(prior, kind="denoise", method="dds", params=None, **section):
    content = {"operator": {"kind": kind, **(params or {})}, "method": {"name": method, "steps": 2}}
    run = {"device": "cpu", "threads": 1}
    return Config.model_validate(
        {**content, "noise": {"sigma": 0.05}, "run": run, "prior": {"name": prior, **section}}, strict=True
    )


def measured(cfg, channels=0, side=12):
    shape = (side, side) if not channels else (channels, side, side)
    array = np.random.default_rng(0).uniform(10, 100, shape).astype(np.float32)
    if cfg.operator.params.get("complex_image"):
        array = array * np.exp(0.3j * np.linspace(0, 1, side)).astype(np.complex64)
    return simulate(Volume(array, Geometry(("c", "y", "x") if channels else ("y", "x"))), cfg)


def planned(cfg, channels=0, side=12):
    return make_plan(cfg, measured(cfg, channels, side))
