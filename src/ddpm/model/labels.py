"""Classes of images as a model counts them: met by name, mapped by name, or left out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ddpm.base.seeding import generator
from ddpm.base.tensors import Integers
from ddpm.data.sources import ImageSet
from ddpm.errors import InputError, some
from ddpm.model.model import Model

MATCH, IGNORE = "match", "ignore"
GRAMMAR = f"{MATCH} (by name), {IGNORE}, or pairs of names such as Katze=cat,Hund=dog"
NAMED = 20  # classes in a sentence

Labels = str | Mapping[str, str]
"""How the classes of images become a model's: "match" by name; "ignore"; or by name of the images' class the model's,
as a mapping or written "Katze=cat,Hund=dog", where names that are left out are met by name."""


@dataclass(frozen=True, eq=False)
class Labelling:
    """Which class of a model each image is scored with.

    classes   of the model, 0 for one without
    no_class  its label of no class, None for a model that always needs one
    numbers   (K,) for each class of the images; None: they have none, or these are left out
    remark    what a report says of it, "" where every class was met by name
    """

    classes: int
    no_class: int | None = None
    numbers: Integers | None = None
    remark: str = ""

    def of(self, images: ImageSet, rows: Integers, seed: int = 0) -> Integers | None:
        """Labels (B,) of rows as the network takes them; None for a model without classes.

        Where a class is needed and left out it is drawn, from the seed and the row alone: the mean cost is then above
        that under the mixture of all classes (Jensen), as the bound is.
        """
        if not self.classes:
            return None
        if self.numbers is not None and images.labels is not None:
            return self.numbers[images.labels[rows]]
        if self.no_class is not None:
            return np.full(len(rows), self.no_class, np.int64)
        return generator("class", seed).integers(self.classes, size=len(images))[rows]


def labelling(model: Model, images: ImageSet, labels: Labels | None = None) -> Labelling:
    """How a model meets the classes of images.

    labels  see Labels; None: by name, where the caller can choose nothing else

    A model that was also trained without its classes (label drop-out) scores images of classes that it does not know,
    or of none, without a class. Errors (InputError): such images, for another model; names that are not there.
    """
    choice = _read(labels)
    if not model.recipe.network.classes:
        if not isinstance(choice, str):
            raise InputError(f"the model in '{model.source}' was trained without classes: leave the labels out.")
        return Labelling(0)
    found = Labelling(model.recipe.network.classes, model.no_class)
    advice = f"; --labels says how: {GRAMMAR}" if labels is not None else ""
    if images.labels is None:
        if model.no_class is None and choice != IGNORE:
            raise InputError(
                f"the model in '{model.source}' needs a class with each image ({some(model.class_names, NAMED)}), and "
                f"'{images.name}' has none{advice}."
            )
        return _without(found, "the images have no classes")
    if choice == IGNORE:
        return _without(found, "the classes of the images are left out")
    pairs = {} if isinstance(choice, str) else dict(choice)
    _check(pairs, model, images)
    there = {images.class_names[number] for number in np.unique(images.labels).tolist()}
    met = {name: pairs.get(name, name) for name in images.class_names}
    strange = [name for name in images.class_names if met[name] not in model.class_names and name in there]
    if strange and model.no_class is None:
        raise InputError(
            f"the images in '{images.name}' have classes that the model in '{model.source}' does not know: "
            f"{some(strange, NAMED)}; it knows {some(model.class_names, NAMED)}{advice}."
        )
    absent = -1 if model.no_class is None else model.no_class
    order = {name: number for number, name in enumerate(model.class_names)}
    numbers = np.array([order.get(met[name], absent) for name in images.class_names], np.int64)
    mapped = [f"{name} as {pairs[name]}" for name in images.class_names if name in pairs]
    unknown = f"classes that the model does not know are scored without one: {some(strange, NAMED)}" if strange else ""
    remark = "; ".join(filter(None, [f"classes met as named: {some(mapped, NAMED)}" if mapped else "", unknown]))
    return replace(found, numbers=numbers, remark=remark)


def _without(found: Labelling, why: str) -> Labelling:
    how = "without one" if found.no_class is not None else "with a class drawn by the seed"
    return replace(found, remark=f"{why}: each is scored {how}")


def _read(labels: Labels | None) -> str | dict[str, str]:
    """MATCH, IGNORE, or pairs."""
    if labels is None or labels in (MATCH, IGNORE):
        return labels or MATCH
    if not isinstance(labels, str):
        return dict(labels)
    parts = [part.partition("=") for part in labels.split(",")]
    names = [theirs.strip() for theirs, _, _ in parts]
    if not all(theirs.strip() and ours.strip() for theirs, _, ours in parts):
        raise InputError(f"labels '{labels}' are not understood: write {GRAMMAR}.")
    twice = next((a for a, b in itertools.pairwise(sorted(names)) if a == b), None)
    if twice is not None:
        raise InputError(f"labels '{labels}' name class '{twice}' twice: give each class of the images once.")
    return {theirs.strip(): ours.strip() for theirs, _, ours in parts}


def _check(pairs: Mapping[str, str], model: Model, images: ImageSet) -> None:
    """Both sides of each pair must be there."""
    for theirs, ours in pairs.items():
        for name, where, names in ((theirs, images.name, images.class_names), (ours, model.source, model.class_names)):
            if name not in names:
                raise InputError(
                    f"'{where}' has no class '{name}' (in labels '{theirs}={ours}'): {some(names, NAMED)}."
                )
