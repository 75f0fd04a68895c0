"""diffusers' schedulers as settings of a recipe: the noise schedule, the variance, and what the network predicts.

DDPMScheduler is the paper's ancestral sampler. The DDIM and PNDM schedulers have the same forward process; how they
sample is not kept, it is chosen at `ddpm sample`.
"""

from __future__ import annotations

import json
from typing import Any

from ddpm.base.progress import Progress
from ddpm.conversion.options import Options
from ddpm.errors import InputError
from ddpm.model.limits import MOST_STEPS

CLASSES = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")
DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
    "thresholding": False,
    "rescale_betas_zero_snr": False,
}
IGNORED = frozenset(
    {
        "dynamic_thresholding_ratio",  # of thresholding only
        "sample_max_value",
        "timestep_spacing",  # which levels a shortened chain visits, and how the others sample
        "steps_offset",
        "set_alpha_to_one",
        "skip_prk_steps",
        "tensor_format",  # of the oldest versions
    }
)
REQUIRED: dict[str, tuple[Any, ...]] = {
    "trained_betas": (None,),
    "clip_sample": (True,),
    "clip_sample_range": (1,),
    "thresholding": (False,),
    "rescale_betas_zero_snr": (False,),
}
SCHEDULES = {"linear": "linear", "scaled_linear": "quad", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large", "fixed_large_log": "large"}


def process_tables(options: Options, progress: Progress) -> dict[str, dict[str, Any]]:
    """The [process] and [objective] tables of the same process; an InputError if there are none."""
    name = options.given.get("_class_name")
    if name not in CLASSES:
        raise InputError(f"'{options.path}' has _class_name = {json.dumps(name)}: only {', '.join(CLASSES)} are read.")
    options.require(REQUIRED)
    process = {
        "schedule": options.chosen("beta_schedule", SCHEDULES),
        "steps": options.count("num_train_timesteps", MOST_STEPS),
        "beta_start": options["beta_start"],
        "beta_end": options["beta_end"],
        "variance": options.chosen("variance_type", VARIANCES),
    }
    if name != "DDPMScheduler":
        progress.say(
            f"'{options.path}' is a {name}: its process is kept, not its sampler; variance {process['variance']}."
        )
    return {"process": process, "objective": {"prediction": options.chosen("prediction_type", PREDICTIONS)}}
