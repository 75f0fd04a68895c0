"""diffusers' UNet2DModel as settings of a recipe: which options give the same function, and which do not.

With the right options it is the paper's network exactly. Its class defaults give a network of the same size that
computes something else, so an option left out is checked like one that is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddpm.base.geometry import parse_size
from ddpm.conversion.options import Options, is_count
from ddpm.errors import InputError

CLASS = "UNet2DModel"
DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
AVERAGE = {"decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"}
IGNORED = frozenset({"num_train_timesteps", *AVERAGE})  # the first: of a learned time embedding only
REQUIRED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "freq_shift": (1,),
    "flip_sin_to_cos": (False,),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (0,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "norm_eps": (1e-6,),
    "resnet_time_scale_shift": ("default",),
    "add_attention": (True,),
    "class_embed_type": (None,),
}
DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}  # whether it attends
UP = {"UpBlock2D": False, "AttnUpBlock2D": True}


def network_tables(options: Options, size: str | None) -> dict[str, dict[str, Any]]:
    """The [image] and [network] tables of the recipe whose network is the one described; an InputError if none is.

    size  "H" or "HxW", for a network whose options leave its images' size open
    """
    options.require(REQUIRED)
    options.require({"in_channels": (1, 2, 3, 4), "out_channels": (options["in_channels"],)})
    widths, groups = options.sequence("block_out_channels", int), options.count("norm_num_groups")
    if any(width < 1 or width % widths[0] for width in widths):
        raise options.refusal("block_out_channels", "widths that are whole multiples of the first")
    attention_levels = _attention_levels(options)
    options.require({"attn_norm_num_groups": (None, groups), "time_embedding_dim": (None, 4 * widths[0])})
    if any(options["attention_head_dim"] not in (None, widths[level]) for level in (*attention_levels, -1)):
        raise options.refusal("attention_head_dim", "null (one head)")
    network = {
        "channels": widths[0],
        "multipliers": tuple(width // widths[0] for width in widths),
        "blocks": options.count("layers_per_block"),
        "attention_levels": attention_levels,
        "dropout": options["dropout"],
        "groups": groups,
        "space_to_depth": 1,
        "classes": 0 if options["num_class_embeds"] is None else options.count("num_class_embeds"),
    }
    height, width = _size(options, size)
    image = {"channels": options.count("in_channels"), "height": height, "width": width}
    return {"image": image, "network": network}


def _attention_levels(options: Options) -> tuple[int, ...]:
    """The levels that attend, on both ways the same."""
    levels = len(options["block_out_channels"])
    down, up = _blocks(options, "down_block_types", DOWN), _blocks(options, "up_block_types", UP)
    if len(down) != levels:
        raise options.refusal("down_block_types", f"a list of {levels}, one for each of block_out_channels")
    if up != down[::-1]:
        raise options.refusal("up_block_types", "down_block_types in reverse")
    return tuple(level for level, attends in enumerate(down) if attends)


def _blocks(options: Options, name: str, kinds: Mapping[str, bool]) -> list[bool]:
    """For each block whether it attends; an old prefix of the names is ignored, as diffusers does."""
    types = [kind.removeprefix("UNetRes") for kind in options.sequence(name, str)]
    if not set(types) <= set(kinds):
        raise options.refusal(name, f"a list of {' and '.join(kinds)}")
    return [kinds[kind] for kind in types]


def _size(options: Options, size: str | None) -> tuple[int, int]:
    """(height, width) from the option, or from the user where that is null."""
    said = options["sample_size"]
    sides = [said, said] if is_count(said) else said
    if sides is None:
        if size is None:
            raise InputError(f"'{options.path}' has sample_size = null; say the images' size with --size HxW.")
        return parse_size(size)
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(map(is_count, sides)):
        raise options.refusal("sample_size", "a whole number or [height, width]")
    height, width = sides
    if size is not None and parse_size(size) != (height, width):
        raise InputError(f"'{options.path}' has sample_size = {height}x{width}, not --size {size}; leave --size out.")
    return height, width
