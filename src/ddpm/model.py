"""A model: a recipe, weights that fit it, and what they were trained on."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ddpm.denoiser import LEARNED, OPTIMAL, Denoiser, Guided
from ddpm.errors import InputError
from ddpm.geometry import Geometry
from ddpm.networks import LinearDenoiser, UNet
from ddpm.process import Process
from ddpm.recipe import Recipe
from ddpm.samplers import Plan, Sampling, State, Tuned, plan, progressive, run_chain
from ddpm.samplers.sampling import TUNED
from ddpm.schedule import VARIANCES, Schedule
from ddpm.seeding import generator
from ddpm.tuned import Variances
from ddpm.units import x_to_images

PAPER = Sampling()


def _never_tuned() -> Variances:
    raise InputError("variance 'optimal' needs a checkpoint that `ddpm tune` has measured.")


@dataclass(frozen=True)
class Model:
    """What `ddpm.load` hands out: everything needed to sample, score or compress.

    recipe       fully resolved
    network      in evaluation mode, on its device
    class_names  one per class, () if the model takes no classes
    images_seen  in training
    weights      which weights the network holds, "averaged" or "raw"
    source       the folder it was read from
    data_fingerprint  of the training images, "" if unknown
    weights_sha256    of the file the weights came from, "" if they came from none
    read_tuned        reads the variances that `ddpm tune` stored beside the checkpoint
    read_levels       reads the levels that it placed for a sampler and a number of steps, None if it did not
    """

    recipe: Recipe
    network: nn.Module
    class_names: tuple[str, ...]
    images_seen: int
    weights: str
    source: str
    data_fingerprint: str = ""
    weights_sha256: str = ""
    read_tuned: Callable[[], Variances] = _never_tuned
    read_levels: Callable[[str, int], Tuned | None] = lambda sampler, steps: None

    @property
    def geometry(self) -> Geometry:
        """The shape of its images."""
        return self.recipe.geometry

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return some_weight(self.network).device

    @property
    def denoiser(self) -> Denoiser:
        """The network with its output's meaning."""
        return build_denoiser(self.recipe, self.network)

    def denoiser_with(self, variance: str | None) -> Denoiser:
        """The denoiser with another variance of the reverse steps; None keeps the model's own.

        "optimal" needs what `ddpm tune` measured; a learned variance needs a network that was taught it.
        """
        own = self.recipe.process.variance
        if variance in (None, own):
            return self.denoiser
        if variance in LEARNED:
            raise InputError(
                f"the model in '{self.source}' was not trained with variance '{variance}'; "
                f"{', '.join(dict.fromkeys([own, *VARIANCES, OPTIMAL]))} would fit."
            )
        measured = self.read_tuned().measured if variance == OPTIMAL else None
        return replace(self.denoiser, variance=str(variance), measured=measured)

    def plan(self, sampling: Sampling) -> Plan:
        """The levels and the sampler that a Sampling means for this model; InputError if it cannot draw so. Cheap."""
        self.labels([0], sampling.class_name)
        if (sampling.steps or 0) > self.recipe.process.steps:
            most = self.recipe.process.steps
            raise InputError(f"{sampling.steps} steps do not fit a process of {most}; 1 to {most} would.")
        tuned = self.read_levels(sampling.method, sampling.steps or 0) if sampling.may_be_tuned else None
        if tuned is None and sampling.spacing == TUNED:
            raise InputError(
                f"no {sampling.steps} levels were placed for sampler '{sampling.method}' of '{self.source}'; "
                f"`ddpm tune {self.source} --sampler {sampling.method} --steps {sampling.steps}"
                f"{'' if self.weights == 'averaged' else f' --weights {self.weights}'}` does it."
            )
        found = plan(sampling, self.recipe.process.make_schedule(), tuned)
        if sampling.guidance != 1 and not self.recipe.training.label_dropout:
            raise InputError(
                f"guidance needs a model that also learned without its classes (training.label_dropout above 0), and "
                f"'{self.source}' did not."
            )
        whole = found.chain.levels.dtype.kind == "i"
        if self.recipe.objective.prediction == "mean" and not whole:
            raise InputError(
                f"the model in '{self.source}' predicts the mean, which is defined at whole levels only; --spacing "
                "uniform would fit."
            )
        if sampling.method == "ancestral":
            self._check_variance(sampling.variance, found.chain)
        return found

    def protocol(self, sampling: Sampling | Plan) -> dict[str, Any]:
        """All that a picture depends on but its seed, as plain values: two equal protocols draw equal pictures."""
        found = sampling if isinstance(sampling, Plan) else self.plan(sampling)
        sampling = found.sampling
        ancestral, label = sampling.method == "ancestral", self.labels([0], sampling.class_name)
        return {
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "sampler": sampling.method,
            "steps": found.chain.steps,
            "calls": found.calls,
            "spacing": found.spacing,
            "levels": "all" if found.spacing == "all" else found.chain.levels[1:].tolist(),
            "eta": found.eta,
            "reach": found.reach,
            "variance": self.denoiser_with(sampling.variance).variance if ancestral else None,
            "measured_sha256": self.read_tuned().own_sha256 if ancestral and sampling.variance == OPTIMAL else None,
            "threshold": sampling.threshold,
            "guidance": sampling.guidance,
            "class": None if sampling.class_name is None or label is None else int(label[0]),
        }

    def _check_variance(self, variance: str | None, chain: Schedule) -> None:
        whole = chain.levels.tolist() == list(range(self.recipe.process.steps + 1))
        if self.denoiser_with(variance).variance == "learned" and not whole:
            raise InputError(
                "variances learned pixel by pixel belong to the full chain; with fewer steps --variance large, small "
                "or optimal would fit."
            )

    def draw_batches(
        self,
        seeds: Sequence[int],
        sampling: Sampling | Plan = PAPER,
        *,
        batch_size: int = 64,
        on_step: Callable[[int], None] = lambda pictures: None,
    ) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Draw one picture per seed, a batch at a time: its seeds, and uint8 (B, C, H, W) on the CPU.

        batch_size  pictures drawn at a time; it changes none of them
        on_step     called after every step of a batch with the number of pictures in it
        """
        states = self._states_of(sampling, on_step)
        for part in _parts(seeds, batch_size):
            (last,) = collections.deque(states(part), maxlen=1)
            yield part, x_to_images(last.x)

    def draw(
        self,
        seeds: Sequence[int],
        sampling: Sampling | Plan = PAPER,
        *,
        batch_size: int = 64,
        on_step: Callable[[int], None] = lambda pictures: None,
    ) -> Tensor:
        """Draw one picture per seed: uint8 (B, C, H, W) on the CPU. Options as in draw_batches."""
        batches = self.draw_batches(seeds, sampling, batch_size=batch_size, on_step=on_step)
        return torch.cat([pictures for _, pictures in batches])

    def draw_progressively(
        self,
        seeds: Sequence[int],
        sampling: Sampling | Plan = PAPER,
        *,
        slots: int = 20,
        batch_size: int = 64,
        on_step: Callable[[int], None] = lambda pictures: None,
    ) -> Tensor:
        """The clean pictures predicted along the chain (Ho et al. 2020, Fig. 6). Options as in draw_batches.

        slots    stretches of equally many levels; each gives the last prediction made in it
        returns  uint8 (B, up to slots, C, H, W) on the CPU, noisiest first, the finished picture last
        """
        every = math.ceil(self.recipe.process.steps / slots)
        states, rows = self._states_of(sampling, on_step), []
        for part in _parts(seeds, batch_size):
            found = progressive(states(part), every=every)
            rows.append(torch.stack([x_to_images(x0) for x0 in reversed(found)], dim=1))
        return torch.cat(rows)

    def _states_of(
        self, sampling: Sampling | Plan, on_step: Callable[[int], None]
    ) -> Callable[[Sequence[int]], Iterator[State]]:
        """From the seeds of a batch to its states; side files are read once, here, for all batches."""
        found = sampling if isinstance(sampling, Plan) else self.plan(sampling)
        sampling = found.sampling
        denoiser = replace(self.denoiser_with(sampling.variance), threshold=sampling.threshold)
        if sampling.guidance != 1:
            guided = Guided(self.network, weight=sampling.guidance, no_label=self.recipe.network.classes or 0)
            denoiser = replace(denoiser, network=guided)

        def states(seeds: Sequence[int]) -> Iterator[State]:
            labels = self.labels(seeds, sampling.class_name)
            try:
                for state in run_chain(denoiser, self.geometry, seeds, found, labels=labels, device=self.device):
                    on_step(len(seeds))
                    yield state
            except torch.OutOfMemoryError:
                raise InputError(
                    f"{len(seeds)} pictures at a time are too many for the memory of {self.device}; "
                    "a smaller batch size would fit."
                ) from None

        return states

    def labels(self, seeds: Sequence[int], name: str | None = None) -> Tensor | None:
        """Class labels for pictures of these seeds: all of one class, or drawn from each seed.

        name     a class name, or its number where no name is one; None draws uniformly, a function of the seed alone
        returns  int64 (B,) on the model's device, None if the model takes no classes
        """
        classes = self.recipe.network.classes
        if not classes:
            if name is not None:
                raise InputError(f"the model in '{self.source}' was trained without classes; leave the class out.")
            return None
        if name is None:
            drawn = [int(generator("class", seed).integers(classes)) for seed in seeds]
            return torch.tensor(drawn, device=self.device)
        names = list(self.class_names)
        numbered = not any(known.isdecimal() for known in names) and name.isdecimal() and int(name) < classes
        if name not in names and not numbered:
            raise InputError(f"the model in '{self.source}' knows no class '{name}'; it knows {', '.join(names)}.")
        label = names.index(name) if name in names else int(name)
        return torch.full((len(seeds),), label, device=self.device)


def _parts(seeds: Sequence[int], batch_size: int) -> list[Sequence[int]]:
    if not seeds or batch_size < 1:
        raise InputError(f"{len(seeds)} seeds in batches of {batch_size} make no picture; one of each would.")
    return [seeds[start : start + batch_size] for start in range(0, len(seeds), batch_size)]


def some_weight(network: nn.Module) -> Tensor:
    """One that tells dtype and device; a linear denoiser alone has no parameters, only what it measured."""
    return next(itertools.chain(network.parameters(), network.buffers()))


def build_network(recipe: Recipe) -> nn.Module:
    """A resolved recipe's network, with initial weights drawn from its seed, laid out for the fastest convolutions."""
    linear = recipe.network.linear
    unet = None if linear == "alone" else _build_unet(recipe)
    if linear == "none":
        assert unet is not None
        return unet
    return LinearDenoiser(recipe.geometry.shape, recipe.process.make_schedule().log_snr[1:], unet)


def _build_unet(recipe: Recipe) -> UNet:
    network, channels = recipe.network, recipe.geometry.channels
    with torch.random.fork_rng(devices=[]):  # PyTorch's layers draw weights of their own first
        unet: UNet = UNet(
            channels,
            channels * (2 if recipe.process.variance in LEARNED else 1),
            channels=network.channels,
            multipliers=network.multipliers,
            blocks=network.blocks,
            attention_levels=network.attention_levels or (),
            dropout=network.dropout,
            classes=network.classes + bool(recipe.training.label_dropout) if network.classes else None,
            groups=network.groups,
            space_to_depth=network.space_to_depth,
            seed=recipe.seed,
        )
    return unet.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def build_denoiser(recipe: Recipe, network: nn.Module) -> Denoiser:
    """Give a network's output its meaning."""
    process = Process(recipe.process.make_schedule())
    dtype = some_weight(network).dtype
    return Denoiser(network, process, recipe.objective.prediction, recipe.process.variance, dtype=dtype)


def resolve_device(name: str) -> torch.device:
    """The device a recipe names; "auto" is the accelerator PyTorch sees, else the CPU."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(f"there is no device '{name}' here; auto or cpu would fit.") from None
    return device
