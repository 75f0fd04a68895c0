"""Recipes: everything that defines a run, in one frozen value that can be stored, compared and rebuilt.

A recipe file holds only what differs from the defaults below, which are the paper's CIFAR-10 settings
(Ho et al. 2020, App. B). What is left unset is taken from the data, or from the run's length, when it starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from ddpm.base.fields import complaint
from ddpm.base.files import read_bytes
from ddpm.base.geometry import Geometry, check_pixels, parse_size
from ddpm.base.precision import PRECISIONS
from ddpm.base.tables import parse_toml
from ddpm.data.sizing import ALPHA, FITS
from ddpm.data.sources import ON_BAD_IMAGE
from ddpm.diffusion.denoiser import LEARNED
from ddpm.errors import InputError, known
from ddpm.model import limits
from ddpm.model.lengths import Lengths, lengths
from ddpm.model.limits import Positive, Rate
from ddpm.model.recipe_tables import ImageTable, NetworkTable, ObjectiveTable, ProcessTable, Table, TrainingTable
from ddpm.networks.size import NetworkSize, unet_size

ATTENTION_SIDE = 16
MOST_BYTES = 2**16  # of a recipe's file
COMPILE = ("auto", "on", "off")
RENAMED = {"average_decay": "ema_decay", "average_ramp": "ema_ramp"}  # keys of earlier versions


class Recipe(Table):
    """A whole run: the data, the network, the process, the objective and the training."""

    data: str | None = None
    validation: str | None = None
    size: Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)] | None = None
    fit: Literal[*FITS] = "crop"  # type: ignore[valid-type]
    train_images: Positive = 102_400_000
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] = 0
    batch_size: limits.BatchSize = 128
    learning_rate: Rate = 2e-4
    device: str = "auto"
    micro_batch: limits.BatchSize | None = None
    checkpointing: Annotated[bool, Field(strict=True)] = False
    precision: Literal[*PRECISIONS] = "float32"  # type: ignore[valid-type]
    compile: Literal[*COMPILE] = "auto"  # type: ignore[valid-type]
    on_bad_image: Literal[*ON_BAD_IMAGE] = "stop"  # type: ignore[valid-type]
    alpha: Literal[*ALPHA] | None = None  # type: ignore[valid-type]
    image: ImageTable = ImageTable()
    network: NetworkTable = NetworkTable()
    process: ProcessTable = ProcessTable()
    objective: ObjectiveTable = ObjectiveTable()
    training: TrainingTable = TrainingTable()

    @property
    def geometry(self) -> Geometry:
        """The images' shape; an InputError if the recipe leaves some of it to data that has not been seen."""
        image = self.image
        if image.channels is None or image.height is None or image.width is None:
            raise InputError(
                "the recipe takes its geometry from the data: name it with --data, or "
                "--set image.channels=, image.height= and image.width=."
            )
        return Geometry(image.channels, image.height, image.width)

    @property
    def lengths(self) -> Lengths:
        """The warm-up and the intervals, where they are unset as they suit the run's length."""
        return lengths(self.training, self.train_images, self.batch_size)


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    folder = resources.files("ddpm") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe and apply changes.

    name     one of recipe_names(), or the path of a TOML file
    changes  nested like the recipe: {"train_images": "300k", "network": {"channels": 64}}
    """
    return make_recipe(_merged(_read(name), changes or {}), origin=f"recipe '{name}'")


def make_recipe(table: Mapping[str, Any], *, origin: str = "recipe") -> Recipe:
    """Check a table of settings; the InputError names the key, and the nearest valid one if it is unknown."""
    try:
        recipe = Recipe.model_validate(_merged({}, table))
        if recipe.size is not None:
            height, width = parse_size(recipe.size)
            image = recipe.image.model_copy(update={"height": height, "width": width})
            recipe = recipe.model_copy(update={"image": image})
        for check in (_check_network, _check_objective, _check_geometry, _check_micro_batch, _check_averages):
            check(recipe)
        limits.check_size(network_size(recipe))
    except ValidationError as error:
        raise InputError(f"{origin}: {complaint(error, Recipe)}.") from None
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None
    return recipe


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with some settings replaced, checked again."""
    return make_recipe(_merged(recipe.model_dump(), changes))


def resolve(recipe: Recipe, geometry: Geometry, classes: int) -> Recipe:
    """Fill in what the recipe left to the data: geometry, classes (at least 2 count) and attention levels."""
    image = {"channels": geometry.channels, "height": geometry.height, "width": geometry.width}
    for key, value in image.items():
        fixed = getattr(recipe.image, key)
        if fixed not in (None, value):
            raise InputError(
                f"the recipe is for images of {key} {fixed}, the data has {value}; "
                f"--size scales images, --set image.{key}={value} changes the recipe."
            )
    wanted = recipe.network.classes
    if wanted and wanted != classes:
        raise InputError(f"the recipe has network.classes = {wanted}, the data has {classes} classes.")
    network: dict[str, Any] = {"classes": (classes if classes > 1 else 0) if wanted is None else wanted}
    if recipe.training.label_dropout and not network["classes"]:
        raise InputError("training.label_dropout drops class labels, and this recipe has none; leave it 0.")
    if recipe.network.attention_levels is None:
        network["attention_levels"] = _attention_levels(recipe, min(geometry.size))
    whole = changed(recipe, {"image": image, "network": network})
    limits.check_batch(network_size(whole), whole.batch_size)
    return whole


def with_lengths(recipe: Recipe) -> Recipe:
    """Fill in what the recipe left to the length of the run."""
    return changed(recipe, {"training": recipe.lengths._asdict()})


def _attention_levels(recipe: Recipe, side: int) -> tuple[int, ...]:
    """The first level of at most 16 pixels a side (Ho et al. 2020, App. B: attention at 16 x 16)."""
    sides = [side // recipe.network.space_to_depth >> level for level in range(len(recipe.network.multipliers))]
    return tuple(level for level, pixels in enumerate(sides) if pixels <= ATTENTION_SIDE)[:1]


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix == ".toml":
        if not path.exists():
            raise InputError(f"there is no recipe file '{name}'.")
    else:
        known("recipe", name, recipe_names())
        path = Path(str(resources.files("ddpm") / "recipes" / f"{name}.toml"))
    content = read_bytes(path, MOST_BYTES)
    try:
        return parse_toml(content)
    except UnicodeDecodeError:
        raise InputError(f"recipe file '{name}' is not UTF-8 text.") from None
    except ValueError as error:
        raise InputError(f"recipe file '{name}' is not TOML: {error}.") from None


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes on top of a base, table by table, all keys by today's names."""
    merged: dict[str, Any] = {}
    for key, value in [*base.items(), *changes.items()]:
        below = merged.get(key)
        if isinstance(value, Mapping):  # no table has tables below: what else is there is refused as it is
            renamed = {RENAMED.get(name, name): one for name, one in value.items()}
            merged[key] = (below if isinstance(below, dict) else {}) | renamed
        else:
            merged[key] = value
    return merged


def _check_network(recipe: Recipe) -> None:
    network = recipe.network
    for multiplier in network.multipliers:
        if network.channels * multiplier % network.groups:
            raise InputError(
                f"network.groups = {network.groups} does not divide the width {network.channels * multiplier} "
                f"(network.channels x a multiplier); change one of them."
            )
    if any(level >= len(network.multipliers) for level in network.attention_levels or ()):
        raise InputError(f"network.attention_levels count from 0 to {len(network.multipliers) - 1} here.")
    try:
        recipe.process.make_schedule()
    except InputError as error:
        keys = "process.schedule, process.steps, process.beta_start and process.beta_end"
        raise InputError(f"{keys} do not fit together: {error}") from None


def network_size(recipe: Recipe) -> NetworkSize:
    """The size of a recipe's network; what is left to the data counts as little as it can."""
    network, image = recipe.network, recipe.image
    shape = (image.channels or 1, image.height or 1, image.width or 1)
    if network.linear == "alone":
        return NetworkSize(0, 0)
    return unet_size(
        shape,
        shape[0] * (2 if recipe.process.variance in LEARNED else 1),
        channels=network.channels,
        multipliers=network.multipliers,
        blocks=network.blocks,
        attention_levels=network.attention_levels or (),
        classes=network.classes + bool(recipe.training.label_dropout) if network.classes else None,
        space_to_depth=network.space_to_depth,
    )


def _check_objective(recipe: Recipe) -> None:
    """A learned variance needs a loss that trains it, "hybrid" needs a learned variance, and the bound says itself what
    each level counts."""
    loss, variance, weighting = recipe.objective.loss, recipe.process.variance, recipe.objective.weighting
    if recipe.network.linear != "none" and recipe.objective.prediction != "eps":
        raise InputError(
            f'network.linear = "{recipe.network.linear}" predicts the noise: set objective.prediction to "eps", '
            f'not "{recipe.objective.prediction}".'
        )
    if loss == "simple" and variance in LEARNED:
        raise InputError(
            f'objective.loss = "simple" does not train process.variance = "{variance}": set objective.loss to "bound" '
            'or "hybrid".'
        )
    if loss == "bound" and weighting != "none":
        raise InputError(
            f'objective.loss = "bound" has weights of its own: set objective.weighting to "none", not "{weighting}".'
        )
    if loss == "bound" and recipe.objective.levels == "log-normal":
        raise InputError(
            'objective.loss = "bound" sums over all levels alike: set objective.levels to "uniform" or "importance", '
            'not "log-normal".'
        )
    if loss == "hybrid" and variance not in LEARNED:
        raise InputError(
            f'objective.loss = "hybrid" trains a variance, but process.variance = "{variance}" is fixed: set it to '
            '"range".'
        )


def _check_micro_batch(recipe: Recipe) -> None:
    part, whole = recipe.micro_batch or recipe.batch_size, recipe.batch_size
    if part < whole and whole % part:
        raise InputError(f"micro_batch = {part} does not divide batch_size = {whole}: choose a number that does.")


def _check_averages(recipe: Recipe) -> None:
    lengths = recipe.training.ema_lengths
    if len(set(lengths)) < len(lengths):
        raise InputError(f"training.ema_lengths = {list(lengths)} names a length twice: name each once.")


def _check_geometry(recipe: Recipe) -> None:
    factor = recipe.network.space_to_depth * 2 ** (len(recipe.network.multipliers) - 1)
    size = [side for side in (recipe.image.height, recipe.image.width) if side is not None]
    check_pixels(*size)
    if recipe.network.linear != "none" and max(size, default=0) > limits.LONGEST_LINEAR:
        raise InputError(
            f"network.linear takes images of up to {limits.LONGEST_LINEAR:,} pixels a side: choose a smaller size."
        )
    if any(side % factor for side in size):
        fits = "x".join(str(max(round(side / factor), 1) * factor) for side in size)
        raise InputError(
            f"this network takes images whose sides are multiples of {factor}, not {'x'.join(map(str, size))}: "
            f"give --size {fits}."
        )
