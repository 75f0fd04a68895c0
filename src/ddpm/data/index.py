"""dataset.json, in which EDM and StyleGAN keep labels: {"labels": [["00000/img00000000.png", 3], ...]}, or null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ddpm.base.tables import parse_json
from ddpm.data.arrays import MOST_CLASSES
from ddpm.data.contents import INDEX, Tree
from ddpm.errors import InputError

MOST_BYTES = 2**22
BYTES_AN_IMAGE, BYTES_A_CHARACTER = 100, 6
"""A dataset.json may have so many bytes, and more for each image and its path; memory holds up to 30 times as many."""


def read_index(tree: Tree, folder: str, images: Sequence[str]) -> dict[str, int] | None:
    """{path: class number} from the dataset.json in a folder ("" or with "/" at its end).

    images   paths of those that the tree holds, which bound the size
    returns  {} for labels that are null, None where there is no key "labels": then the file is of another kind

    Errors (InputError): too large, no JSON, a wrong field.
    """
    path = f"{folder}{INDEX}"
    name = f"{path} in {tree.where}"
    try:
        most = MOST_BYTES + sum(BYTES_AN_IMAGE + BYTES_A_CHARACTER * len(image) for image in images)
        table = parse_json(tree.whole(path, most))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{name} is not valid JSON ({error}): repair or remove it.") from None
    if isinstance(table, dict) and "labels" not in table:
        return None
    pairs = table["labels"] if isinstance(table, dict) else table
    wanted = f'{name} should hold {{"labels": [[name, class number], ...]}} or "labels": null'
    if pairs is None and isinstance(table, dict):
        return {}
    if not isinstance(table, dict) or not isinstance(pairs, list):
        raise InputError(f"{wanted}, and holds {_short(pairs)}.")
    found: dict[str, int] = {}
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int):
            raise InputError(f"{wanted}; {_short(pair)} is no such pair.")
        image, number = f"{folder}{pair[0]}", pair[1]
        if not 0 <= number < MOST_CLASSES:
            raise InputError(
                f"{name} gives {pair[0]} the label {_short(number)}: it must lie in 0 to {MOST_CLASSES - 1:,}."
            )
        if found.setdefault(image, number) != number:
            raise InputError(f"{name} gives {pair[0]} two labels, {found[image]} and {number}: remove one.")
    return found


def classes_by_index(
    members: Mapping[str, Sequence[str]], numbers: Mapping[str, int], where: str
) -> dict[str, list[str] | None]:
    """The class of each path by split, its number as a string; a split of several that is never named has none.

    Errors (InputError): some images have a label and others have none.
    """
    found: dict[str, list[str] | None] = {}
    for split, paths in members.items():
        missing = next((path for path in paths if path not in numbers), None)
        if not numbers or (missing is not None and len(members) > 1 and not any(path in numbers for path in paths)):
            found[split] = None
        elif missing is not None:
            raise InputError(f"{INDEX} in {where} has no label for {missing}: add it, or remove the image.")
        else:
            found[split] = [str(numbers[path]) for path in paths]
    return found


def _short(value: object) -> str:
    """A value as an error shows it."""
    text = str(value) if not isinstance(value, int) or abs(value) < 10**20 else "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."
