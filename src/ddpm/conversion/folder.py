"""Finding and reading the files of a diffusers folder; no code in them is run.

    PIPELINE/  model_index.json  unet/{config.json, weights}  scheduler/scheduler_config.json
    UNET/      config.json  weights  [scheduler_config.json]      the scheduler may also lie in ../scheduler/

The first is what diffusers writes, the second also how the oldest published models lie on the hub (with their
model_index.json beside). The weights are diffusion_pytorch_model.safetensors or .bin.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ddpm.base.tables import read_json
from ddpm.base.tensor_files import read_pickled, read_safetensors
from ddpm.errors import DamagedFile, InputError

UNET_FOLDERS = ("unet_ema", "unet", ".")  # a training checkpoint of diffusers has both; the averaged ones are published
CONFIG, INDEX, SCHEDULER = "config.json", "model_index.json", "scheduler_config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
PIPELINES = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")


@dataclass(frozen=True)
class Folder:
    """The files of one model.

    config     of its network
    weights    of its network
    scheduler  of its process, None if there is none
    """

    config: Path
    weights: Path
    scheduler: Path | None


def find_folder(src: Path) -> Folder:
    """Find a model's files; an InputError says what is missing, or that the pipeline is another kind of model."""
    if not src.is_dir():
        raise InputError(f"there is no folder '{src}': name a diffusers DDPM folder.")
    unet = next((src / name for name in UNET_FOLDERS if (src / name / CONFIG).is_file()), None)
    if unet is None:
        raise InputError(f"'{src}' is not a diffusers DDPM folder: it holds neither unet/{CONFIG} nor {CONFIG}.")
    for folder in {unet, unet.parent} if unet.name.startswith("unet") else {unet}:
        _check_pipeline(folder / INDEX)
    weights = next((unet / name for name in WEIGHTS if (unet / name).is_file()), None)
    if weights is None:
        raise InputError(f"'{unet}' holds no weights: {' or '.join(WEIGHTS)} is missing.")
    places = (unet / SCHEDULER, unet / "scheduler" / SCHEDULER, unet.resolve().parent / "scheduler" / SCHEDULER)
    return Folder(unet / CONFIG, weights, next((path for path in places if path.is_file()), None))


def read_table(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object."""
    table = read_json(path)
    if not isinstance(table, dict):
        raise DamagedFile(f"'{path}' is damaged: it is not a JSON object.")
    return table


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a .safetensors or .bin file, on the CPU."""
    state = read_safetensors(path) if path.suffix == ".safetensors" else read_pickled(path)
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(f"'{path}' does not hold named tensors, as weights that diffusers wrote do.")
    return state


def _check_pipeline(index: Path) -> None:
    """Refuse another kind of pipeline: it uses its U-Net in another way, on latents for example."""
    if not index.is_file():
        return
    name = read_table(index).get("_class_name")
    if name not in PIPELINES:
        raise InputError(f"'{index}' has _class_name = {json.dumps(name)}: only {', '.join(PIPELINES)} are read.")
