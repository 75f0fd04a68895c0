"""Which tensor of diffusers' UNet2DModel becomes which of the U-Net here.

The two differ in names, and in attention's projections: dense layers there, 1 x 1 convolutions here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ddpm.base.tensor_files import is_plain
from ddpm.errors import InputError

NAMES = (  # ours to theirs, in this order
    (r"^time([12])\.", r"time_embedding.linear_\1."),
    (r"^label\.", "class_embedding."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^(down|up)sample\.(\d+)\.", r"\1_blocks.\2.\1samplers.0."),
    (r"^(down|up)\.(\d+)\.(\d+)\.block\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.(\d+)\.attention\.", r"\1_blocks.\2.attentions.\3."),
    (r"^middle\.block\.", "mid_block.resnets.0."),
    (r"^middle\.attention\.", "mid_block.attentions.0."),
    (r"^middle_block\.", "mid_block.resnets.1."),
    (r"(\.resnets\.\d+\.)embedding\.", r"\1time_emb_proj."),
    (r"(\.resnets\.\d+\.)shortcut\.", r"\1conv_shortcut."),
    (r"(\.attentions\.\d+\.)norm\.", r"\1group_norm."),
    (r"(\.attentions\.\d+\.)([qkv])(uery|ey|alue)\.", r"\1to_\2."),
    (r"(\.attentions\.\d+\.)out\.", r"\1to_out.0."),
)
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before diffusers 0.14


def translated(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """diffusers' tensors under the names and in the shapes of the U-Net here.

    An InputError names a tensor that is missing, left over or of another shape.

    ours  a state dict with the names and shapes to fill
    path  of diffusers' file, for error messages
    """
    modern = {_modern(name): tensor for name, tensor in theirs.items()}
    wanted = {name: _their_name(name) for name in ours}
    _refuse(path, "lacks the tensor", [name for name in wanted.values() if name not in modern])
    known = set(wanted.values())
    surplus = [name for name in theirs if _modern(name) not in known]
    doubled = [name for name in theirs if _modern(name) != name and _modern(name) in theirs]
    _refuse(path, "holds a tensor that the network has no place for,", surplus + doubled)
    return {name: _fitted(modern[wanted[name]], like, wanted[name], path) for name, like in ours.items()}


def _their_name(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _modern(name: str) -> str:
    """An attention's tensor by the name that newer files give it."""
    return re.sub(r"(?<=\.)(query|key|value|proj_attn)(?=\.(weight|bias)$)", lambda match: OLD_NAMES[match[0]], name)


def _fitted(tensor: Tensor, like: Tensor, name: str, path: Path) -> Tensor:
    """One tensor in the shape of `like`; a dense layer's weight becomes that of a 1 x 1 convolution."""
    fitted = tensor[:, :, None, None] if tensor.ndim == 2 and like.ndim == 4 else tensor
    if not is_plain(fitted, tuple(like.shape)):
        raise InputError(
            f"'{path}' holds {name} as {tensor.dtype} of shape {tuple(tensor.shape)}, "
            f"but the configuration beside it wants floats of shape {tuple(like.shape)}."
        )
    return fitted


def _refuse(path: Path, what: str, names: Sequence[str]) -> None:
    """Name the first of some tensors that should not be as they are, if there are any."""
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise InputError(f"'{path}' {what} {names[0]}{more}; it does not belong to the config.json beside it.")
