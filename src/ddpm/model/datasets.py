"""Images as a recipe or a model sees them: its source, its size, its channels."""

from __future__ import annotations

import os
import warnings

from ddpm.base.geometry import parse_size
from ddpm.data.sizing import FITS
from ddpm.data.sources import ImageData, ImageSet, image_set, open_images
from ddpm.errors import InputError, MixedSizes, known
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
        alpha=recipe.alpha,
        default_split=split,
    )


def images_for(
    model: Model,
    data: ImageData,
    *,
    split: str | None = None,
    size: str | int | None = None,
    fit: str | None = None,
    alpha: str | None = None,
) -> ImageSet:
    """Images to score a model on, of its geometry: a source, an array or an ImageSet.

    split  of a source that has splits and names none; None: it must name one
    size   "H" or "HxW": the model's own is the only one that can be asked for
    fit    "crop" or "resize" brings images of other sizes to it; None: as the model's training images came to it
    alpha  "keep", "drop", "white" or "black"; None: as with the training images
    """
    known("fit", fit, FITS)
    if size is not None and parse_size(str(size)) != model.geometry.size:
        raise InputError(f"size {size} is not that of the model's images, {model.geometry}: leave the size out.")
    if size is not None or fit is not None:
        return _opened(model, data, split, alpha, fit or model.recipe.fit)
    try:
        return _opened(model, data, split, alpha)
    except MixedSizes as error:
        raise InputError(f"{str(error)[:-1]}; --fit crop or --fit resize brings them to that size.") from None


def _opened(
    model: Model, data: ImageData, split: str | None, alpha: str | None = None, fit: str | None = None
) -> ImageSet:
    """Images in the model's geometry: as its training images came to it, or from any size by `fit`."""
    alpha, (height, width) = alpha or model.recipe.alpha, model.geometry.size
    if isinstance(data, str | os.PathLike):
        sized = {"size": f"{height}x{width}", "fit": fit} if fit else {}
        try:
            recipe = changed(model.recipe, {"data": os.fspath(data), "alpha": alpha, **sized})
            found = recipe_images(recipe, split=split)
        except MixedSizes:
            sizes = f"differ in size, those of the model are {model.geometry}"
            raise MixedSizes(f"the images in '{data}' {sizes}.") from None
    else:
        found = image_set(data, size=model.geometry.size if fit else None, fit=fit or FITS[0], alpha=alpha)
    check_geometry(model, found)
    return found


def check_geometry(model: Model, images: ImageSet) -> None:
    """Raise InputError unless images have the model's geometry; MixedSizes where it is their size that differs."""
    if images.geometry != model.geometry:
        error = InputError if images.geometry.size == model.geometry.size else MixedSizes
        raise error(f"the images in '{images.name}' are {images.geometry}, those of the model {model.geometry}.")


def training_images(model: Model, data: ImageData | None = None, *, option: str = "--data") -> ImageSet:
    """Images to fit something to a model on: `data`, or None for those its recipe names; `option` names others."""
    if data is not None:
        return _opened(model, data, "train")
    if model.recipe.data is None:
        raise InputError(f"the recipe of '{model.source}' names no training images: name them with {option}.")
    try:
        found = _opened(model, model.recipe.data, "train")
    except InputError as error:
        raise InputError(f"the training images ({option} names others) cannot be used: {error}") from None
    if model.data_fingerprint not in ("", found.fingerprint):
        warnings.warn(f"'{found.name}' is not the very data that '{model.source}' was trained on.", stacklevel=3)
    return found
