"""The configurations of a diffusers folder: the network's and the scheduler's, with the library's defaults."""

from __future__ import annotations

import math
from typing import Any

from recon.errors import ConfigError
from recon.priors.networks.diffusers_unet import DiffusersConfig
from recon.priors.preconditioning import Flow, VPTable
from recon.priors.published.limits import printable

DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}
UP = {"UpBlock2D": False, "AttnUpBlock2D": True}
# keys that change the network, and the only values of them that are known here
FIXED: dict[str, tuple[Any, ...]] = {
    "time_embedding_type": ("positional",),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "downsample_padding": (0, 1),
    "class_embed_type": (None,),
}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled-linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v"}
# schedulers over the levels of DDPM, which differ in how they sample
SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DDIMInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)
# straight paths from image to noise; its other keys say how it samples
FLOW = "FlowMatchEulerDiscreteScheduler"
HINT = "only UNet2DModel with DownBlock2D, AttnDownBlock2D, UpBlock2D and AttnUpBlock2D is known here"


class _Keys:
    """A configuration; a value of another type than expected is an error that names its key."""

    def __init__(self, found: Any, what: str, name: str) -> None:
        if not isinstance(found, dict):
            raise ConfigError(f"{name}: the {what} configuration is no JSON object")
        self.found, self.where = found, f"{name}: the {what}'s"

    def whole(self, key: str, default: int | None, least: int = 1) -> int:
        value = self.found.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**6:
            raise self.wrong(key, value, f"a whole number of at least {least}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.found.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(key, value, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.found.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def one_of(self, key: str, default: Any, known: tuple[Any, ...]) -> Any:
        value = self.found.get(key, default)
        if value not in known:
            raise self.wrong(key, value, " or ".join(str(k) for k in known))
        return value

    def row(self, key: str, default: tuple[Any, ...], kind: type) -> tuple[Any, ...]:
        value = self.found.get(key, default)
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= 16:
            raise self.wrong(key, value, "a list of 1 to 16")
        if not all(isinstance(v, kind) and not isinstance(v, bool) for v in value):
            raise self.wrong(key, value, f"a list of {kind.__name__}")
        return tuple(value)

    def wrong(self, key: str, value: Any, expected: str) -> ConfigError:
        return ConfigError(f"{self.where} {key} is {printable(value)}, expected {expected}", HINT)


def read_unet(found: Any, name: str) -> tuple[DiffusersConfig, bool]:
    """Return the architecture that a network's config.json describes, and whether F has the variance as well.

    name: of the prior. Raises ConfigError naming the key that is missing, of another type or not known.
    """
    keys = _Keys(found, "network", name)
    keys.one_of("_class_name", "UNet2DModel", ("UNet2DModel",))
    defaults = {"resnet_time_scale_shift": "default", "downsample_padding": 1, "class_embed_type": None}
    chosen = {key: keys.one_of(key, defaults.get(key, known[0]), known) for key, known in FIXED.items()}
    widths = keys.row("block_out_channels", (224, 448, 672, 896), int)
    if min(widths) < 1:
        raise keys.wrong("block_out_channels", widths, "widths of at least 1")
    down = keys.row("down_block_types", ("DownBlock2D", *["AttnDownBlock2D"] * 3), str)
    up = keys.row("up_block_types", (*["AttnUpBlock2D"] * 3, "UpBlock2D"), str)
    for key, types, known in (("down_block_types", down, DOWN), ("up_block_types", up, UP)):
        if len(types) != len(widths) or any(found not in known for found in types):
            raise keys.wrong(key, ", ".join(types), f"{len(widths)} of {', '.join(known)}")
    in_channels, out_channels = keys.whole("in_channels", 3), keys.whole("out_channels", 3)
    if out_channels not in (in_channels, 2 * in_channels):
        raise keys.wrong("out_channels", out_channels, f"{in_channels} or {2 * in_channels}")
    groups = keys.whole("norm_num_groups", 32)
    adaptive = chosen["resnet_time_scale_shift"] == "scale_shift"
    # the library leaves the middle's attention without normalisation where blocks scale and shift
    middle = 0 if adaptive else groups
    if keys.found.get("attn_norm_num_groups") is not None:
        middle = keys.whole("attn_norm_num_groups", None)
    config = DiffusersConfig(
        in_channels,
        out_channels,
        widths,
        blocks=keys.whole("layers_per_block", 2),
        attention_down=tuple(level for level, kind in enumerate(down) if DOWN[kind]),
        attention_up=tuple(level for level, kind in enumerate(reversed(up)) if UP[kind]),
        middle_attention=keys.flag("add_attention", True),
        head_channels=keys.whole("attention_head_dim", 8) if keys.found.get("attention_head_dim", 8) is not None else 0,
        groups=groups,
        middle_groups=middle,
        eps=keys.number("norm_eps", 1e-5),
        scale_shift=adaptive,
        middle_scale=keys.number("mid_block_scale_factor", 1.0),
        cosine_first=keys.flag("flip_sin_to_cos", True),
        frequency_shift=keys.number("freq_shift", 0.0),
        corner_padding=chosen["downsample_padding"] == 0,
        centred=keys.flag("center_input_sample", False),
        labels=keys.whole("num_class_embeds", None) if keys.found.get("num_class_embeds") is not None else 0,
    )
    return config, out_channels == 2 * in_channels


def read_scheduler(found: Any, name: str) -> tuple[VPTable | Flow, str]:
    """Return the table of levels, or the flow, that a scheduler_config.json describes, and its type of variance.

    name: of the prior. Raises ConfigError naming the key that is of another type or not known.
    """
    keys = _Keys(found, "scheduler", name)
    if keys.one_of("_class_name", SCHEDULERS[0], (*SCHEDULERS, FLOW)) == FLOW:
        keys.one_of("invert_sigmas", False, (False,))
        return Flow(scale=float(keys.whole("num_train_timesteps", 1000))), "none"
    keys.one_of("trained_betas", None, (None,))
    keys.one_of("rescale_betas_zero_snr", False, (False,))
    table = VPTable(
        schedule=SCHEDULES[keys.one_of("beta_schedule", "linear", tuple(SCHEDULES))],
        count=keys.whole("num_train_timesteps", 1000, least=2),
        beta_min=keys.number("beta_start", 1e-4),
        beta_max=keys.number("beta_end", 0.02),
        prediction=PREDICTIONS[keys.one_of("prediction_type", "epsilon", tuple(PREDICTIONS))],
    )
    return table, str(keys.found.get("variance_type", "fixed_small"))
