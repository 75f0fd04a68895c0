"""Drawing: from a model, seeds and a plan to images. One seed is one image, the same in any batch."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ddpm.base.device_memory import within_memory
from ddpm.base.noise import HALF, NOISE_VERSION, halves, stream_keys
from ddpm.base.precision import STRICT, computed_in
from ddpm.base.progress import Advance, unheard
from ddpm.base.units import images_begun, x_to_images
from ddpm.diffusion.denoiser import OPTIMAL, Guided, Network
from ddpm.errors import InputError
from ddpm.model.model import Model
from ddpm.model.timesteps import SIDECAR, tuned_for
from ddpm.model.variances import denoiser_for, read_variances
from ddpm.networks.replayed import Replayed
from ddpm.samplers.base import State
from ddpm.samplers.plan import TUNED, Plan, Sampling, plan
from ddpm.samplers.trajectory import numbers_of, predicted_images, trajectory

T = TypeVar("T")

MOST_SHOWN = 20  # levels in a sentence
AHEAD = 1  # batches that a GPU draws while the one before is copied from it, and used
RECORDED_ON = "cuda"  # the kind of device whose calls are recorded
LEAST_REPLAYED = 30  # steps of all batches from which recording a call pays


def plan_for(model: Model, sampling: Sampling) -> Plan:
    """The levels and the sampler that a Sampling means for a model; InputError if it cannot draw so. Cheap."""
    labels_for(model, [0], sampling.class_name)
    most = model.recipe.process.steps
    if (sampling.steps or 0) > most:
        raise InputError(f"{sampling.steps} steps are more than the {most} of the process; choose 1 to {most}.")
    tuned = tuned_for(model, sampling.method, sampling.steps or 0) if sampling.may_be_tuned else None
    if tuned is None and sampling.spacing == TUNED:
        raise InputError(
            f"no {sampling.steps} timesteps were tuned for sampler '{sampling.method}' of '{model.source}': run "
            f"{SIDECAR.made_by(model)} with --sampler {sampling.method} --steps {sampling.steps}."
        )
    found = plan(sampling, model.recipe.process.make_schedule(), tuned)
    if sampling.guidance != 1 and not model.recipe.training.label_dropout:
        raise InputError(
            f"guidance needs a model that was also trained without its classes (training.label_dropout above 0), "
            f"unlike '{model.source}': leave it 1."
        )
    if model.recipe.objective.prediction == "mean" and found.chain.levels.dtype.kind != "i":
        raise InputError(
            f"the model in '{model.source}' predicts the mean, which is defined at whole levels only; choose --spacing "
            "uniform."
        )
    learned = sampling.method == "ancestral" and denoiser_for(model, sampling.variance).variance == "learned"
    if learned and found.chain.levels.tolist() != list(range(most + 1)):
        raise InputError(
            "variances learned pixel by pixel belong to the full chain: with fewer steps choose --variance large, "
            "small or optimal."
        )
    return found


def described(model: Model, plan: Plan) -> Iterator[str]:
    """How images will be drawn, in sentences: sampler, levels, network calls, and the side files that are used."""
    levels = plan.chain.levels[1:].tolist()
    eta = "" if plan.eta is None else f", eta {plan.eta:.3g}"
    where = "all levels" if plan.spacing == "all" else f"{len(levels):,} levels, {plan.spacing}"
    if plan.spacing != "all" and len(levels) <= MOST_SHOWN:
        where += f" ({', '.join(f'{level:.4g}' for level in reversed(levels))})"
    yield (
        f"Drawing by {plan.sampling.method}{eta}: {where}; {plan.calls:,} network calls (NFE) an image; "
        f"{model.weights} weights of {model.source}."
    )
    how = plan.sampling
    usual = {"variance": None, "threshold": "static", "guidance": 1.0, "precision": STRICT}
    extra = [f"{name} {getattr(how, name)}" for name, value in usual.items() if getattr(how, name) != value]
    if extra:
        yield f"With {', '.join(extra)}{'; the timesteps were tuned without' if plan.spacing == TUNED else ''}."
    if plan.spacing == TUNED:
        yield f"Timesteps: {SIDECAR.path(model)}."
    if how.variance == OPTIMAL:
        yield f"Variances: {read_variances(model).measured.source}."


def protocol(model: Model, plan: Plan) -> dict[str, Any]:
    """All that an image depends on but its seed, as plain values: two equal protocols draw equal images."""
    sampling = plan.sampling
    ancestral, label = sampling.method == "ancestral", labels_for(model, [0], sampling.class_name)
    return {
        "weights": model.weights,
        "weights_sha256": model.weights_sha256,
        "sampler": sampling.method,
        "steps": plan.chain.steps,
        "calls": plan.calls,
        "spacing": plan.spacing,
        "levels": "all" if plan.spacing == "all" else plan.chain.levels[1:].tolist(),
        "eta": plan.eta,
        "variance": denoiser_for(model, sampling.variance).variance if ancestral else None,
        "measured_sha256": read_variances(model).own_sha256 if ancestral and sampling.variance == OPTIMAL else None,
        "threshold": sampling.threshold,
        "guidance": sampling.guidance,
        "class": None if sampling.class_name is None or label is None else int(label[0]),
        "precision": sampling.precision,
        "noise": NOISE_VERSION,
    }


def draw_batches(
    model: Model,
    seeds: Sequence[int],
    plan: Plan,
    *,
    batch_size: int = 64,
    asked: int | None = None,
    advance: Advance = unheard,
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Draw one image per seed, a batch at a time: its seeds, and uint8 (B, C, H, W) on the CPU.

    A GPU draws the next batch while what one gave is used.

    batch_size  images drawn at a time; it changes none of them
    asked       images of the whole command, where some were drawn before it was stopped: the network is called as if
                none were, so that its sums agree to the last bit
    advance     told after every step of a batch how many images are in it
    """
    parts = _parts(seeds, batch_size)
    states = _states_of(model, plan, advance, asked or len(seeds), batch_size)

    def begun() -> Iterator[Callable[[], Tensor]]:
        for part in parts:
            with within_memory(len(part), model.device):
                (last,) = collections.deque(states(part), maxlen=1)
                images = images_begun(last.x)
            yield images

    yield from zip(parts, behind(begun(), AHEAD if model.device.type == "cuda" else 0), strict=True)


def behind(begun: Iterable[Callable[[], T]], count: int) -> Iterator[T]:
    """Finish what was begun, in order, each when `count` more were begun after it."""
    waiting: collections.deque[Callable[[], T]] = collections.deque()
    for one in begun:
        waiting.append(one)
        if len(waiting) > count:
            yield waiting.popleft()()
    for one in waiting:
        yield one()


def draw(model: Model, seeds: Sequence[int], plan: Plan, *, batch_size: int = 64, advance: Advance = unheard) -> Tensor:
    """Draw one image per seed: uint8 (B, C, H, W) on the CPU. Options as in draw_batches."""
    shape, done = (len(seeds), *model.geometry.shape), 0
    try:
        images = torch.from_numpy(np.empty(shape, np.uint8))  # before the work: it may be too much
    except MemoryError:
        raise InputError(
            f"{len(seeds):,} images take {math.prod(shape):,} bytes, more memory than there is: draw them into a "
            "folder."
        ) from None
    for part, drawn in draw_batches(model, seeds, plan, batch_size=batch_size, advance=advance):
        images[done : done + len(part)] = drawn
        done += len(part)
    return images


def draw_progressively(
    model: Model, seeds: Sequence[int], plan: Plan, *, slots: int = 20, batch_size: int = 64, advance: Advance = unheard
) -> Tensor:
    """The clean images predicted along the trajectory (Ho et al. 2020, Fig. 6). Options as in draw_batches.

    slots    stretches of equally many levels; each gives the last prediction made in it
    returns  uint8 (B, up to slots, C, H, W) on the CPU, noisiest first, the finished image last
    """
    every = math.ceil(model.recipe.process.steps / slots)
    parts = _parts(seeds, batch_size)
    states, rows = _states_of(model, plan, advance, len(seeds), batch_size), []
    for part in parts:
        with within_memory(len(part), model.device):
            found = predicted_images(states(part), every=every)
            rows.append(torch.stack([x_to_images(x0) for x0 in reversed(found)], dim=1))
    return torch.cat(rows)


def _states_of(
    model: Model, plan: Plan, advance: Advance, asked: int, batch_size: int
) -> Callable[[Sequence[int]], Iterator[State]]:
    """From the seeds of a batch to its states; side files are read once, here, for all batches of a command."""
    sampling = plan.sampling
    guided = sampling.guidance != 1
    network: Network = computed_in(sampling.precision, model.device, model.network)
    if model.device.type == RECORDED_ON and -(-asked // batch_size) * plan.chain.steps >= LEAST_REPLAYED:
        network = Replayed(network, min(asked, batch_size) * (2 if guided else 1))
    if guided:
        network = Guided(network, weight=sampling.guidance, no_label=model.recipe.network.classes or 0)
    denoiser = replace(denoiser_for(model, sampling.variance), threshold=sampling.threshold, network=network)

    def states(seeds: Sequence[int]) -> Iterator[State]:
        labels = labels_for(model, seeds, sampling.class_name)
        for state in trajectory(denoiser, model.geometry, seeds, plan, labels=labels, device=model.device):
            advance(len(seeds))
            yield state

    return states


def labels_for(model: Model, seeds: Sequence[int], name: str | None = None) -> Tensor | None:
    """Class labels for images of these seeds: all of one class, or drawn from each seed.

    name     a class name, or its number where no name is one; None draws uniformly, a function of the seed alone
    returns  int64 (B,) on the model's device, None if the model takes no classes
    """
    classes = model.recipe.network.classes
    if not classes:
        if name is not None:
            raise InputError(f"the model in '{model.source}' was trained without classes; leave the class out.")
        return None
    if name is None:
        high, _ = halves(stream_keys("class", 0, numbers_of(seeds, model.device)), 1)
        return high[:, 0] * classes // HALF  # of uniforms, in integers: a float32 might round up to `classes`
    names, number = list(model.class_names), int(name) if re.fullmatch("[0-9]{1,9}", name) else classes
    numbered = not any(known.isdecimal() for known in names) and number < classes
    if name not in names and not numbered:
        raise InputError(f"the model in '{model.source}' knows no class '{name[:60]}'; it knows {', '.join(names)}.")
    label = names.index(name) if name in names else number
    return torch.full((len(seeds),), label, device=model.device)


def _parts(seeds: Sequence[int], batch_size: int) -> list[Sequence[int]]:
    if not seeds or batch_size < 1:
        raise InputError(
            f"{len(seeds)} seeds in batches of {batch_size} make no image: at least one of each is needed."
        )
    return [seeds[start : start + batch_size] for start in range(0, len(seeds), batch_size)]
