"""Images as a recipe or a model sees them: its source, its size, its channels."""

from __future__ import annotations

import os
import warnings

from ddpm.base.geometry import parse_size
from ddpm.data.sources import ImageData, ImageSet, image_set, open_images
from ddpm.errors import InputError, MixedSizes
from ddpm.model.model import Model
from ddpm.model.recipe import Recipe, changed


def recipe_images(recipe: Recipe, *, split: str | None = "train") -> ImageSet:
    """The images a recipe names, sized by its rule; `split` as in images."""
    if recipe.data is None:
        raise InputError("the recipe names no data: give it with --data (or data=...).")
    size = None if recipe.size is None else parse_size(recipe.size)
    return open_images(
        recipe.data,
        size=size,
        fit=recipe.fit,
        channels=recipe.image.channels,
        on_bad_image=recipe.on_bad_image,
        default_split=split,
    )


def images_for(model: Model, data: ImageData, *, split: str | None = None) -> ImageSet:
    """Images to score or fit a model on: a source, sized by the model's rule, an array, or an ImageSet."""
    if not isinstance(data, str | os.PathLike):
        return image_set(data)
    src = os.fspath(data)
    try:
        found = recipe_images(changed(model.recipe, {"data": src}), split=split)
    except MixedSizes:
        raise InputError(f"the images in '{src}' differ in size, those of the model are {model.geometry}.") from None
    check_geometry(model, found)
    return found


def check_geometry(model: Model, images: ImageSet) -> None:
    """Raise InputError unless images have the model's geometry."""
    if images.geometry != model.geometry:
        raise InputError(f"the images in '{images.name}' are {images.geometry}, those of the model {model.geometry}.")


def training_images(model: Model, data: ImageData | None = None, *, option: str = "--data") -> ImageSet:
    """Images to fit something to a model on: `data`, or None for those its recipe names; `option` names others."""
    if data is not None:
        return images_for(model, data, split="train")
    if model.recipe.data is None:
        raise InputError(f"the recipe of '{model.source}' names no training images: name them with {option}.")
    try:
        found = images_for(model, model.recipe.data, split="train")
    except InputError as error:
        raise InputError(f"the training images ({option} names others) cannot be used: {error}") from None
    if model.data_fingerprint not in ("", found.fingerprint):
        warnings.warn(f"'{found.name}' is not the very data that '{model.source}' was trained on.", stacklevel=3)
    return found
