"""Images as a recipe or a model sees them: its source, its size, its channels."""

from __future__ import annotations

import os
import warnings

from ddpm.base.geometry import parse_size
from ddpm.data import ImageData, ImageSet, image_set, open_images
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
    """Images to score or fit a model on: a source as the model was trained to see it, an array, or an ImageSet."""
    if isinstance(data, str | os.PathLike):
        return model_images(model, os.fspath(data), split=split)
    return image_set(data)


def training_images(model: Model, src: str | None = None, *, option: str = "data") -> ImageSet:
    """The images a model was trained on, where its recipe says they are, or at `src`; `option` names others."""
    if src is None and model.recipe.data is None:
        raise InputError(f"'{model.source}' names no training images: name them with {option}.")
    try:
        found = model_images(model, src or str(model.recipe.data), split="train")
    except InputError as error:
        raise InputError(f"the training images ({option} names others) cannot be used: {error}") from None
    if model.data_fingerprint not in ("", found.fingerprint):
        warnings.warn(f"'{found.name}' is not the very data that '{model.source}' was trained on.", stacklevel=3)
    return found


def model_images(model: Model, src: str, *, split: str | None = None) -> ImageSet:
    """Images as a model was trained to see them, sized by its rule; they must have its geometry then."""
    try:
        found = recipe_images(changed(model.recipe, {"data": src}), split=split)
    except MixedSizes:
        raise InputError(f"the images in '{src}' differ in size, those of the model are {model.geometry}.") from None
    if found.geometry != model.geometry:
        raise InputError(f"the images in '{src}' are {found.geometry}, those of the model {model.geometry}.")
    return found
