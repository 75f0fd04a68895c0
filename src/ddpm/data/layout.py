"""One rule for folders and zips: from relative paths, and perhaps a dataset.json, to splits and classes.

1. One folder that holds all is looked through: in a zip always, in a folder where splits, classes or a dataset.json lie
   below it. It stops at a dataset.json.
2. Folders called train, val or test (see splits.py) are splits. What lies beside them is in none. Where there are none,
   such folders deeper below are refused, unless a dataset.json at the root says what is there.
3. Labels come from a dataset.json at the root or in a split, else from the next level of folders, if every image of the
   split lies in one; numbered folders such as 00000/ only keep folders small and are no classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddpm.data.splits import SPLIT_NAMES, split_named
from ddpm.errors import NAMED, InputError, some

BUCKET = re.compile(r"\d{5,}")


@dataclass(frozen=True)
class Layout:
    """Where splits are, and what lies beside them.

    root     the folder that was looked through, "" or with "/" at its end
    places   {split: its folder, with "/" at its end}; {"": root} without splits
    members  {split: paths of its images, sorted}
    stray    paths of images in no split, where there are splits
    """

    root: str
    places: dict[str, str]
    members: dict[str, list[str]]
    stray: list[str]

    def empty_folders(self, folders: Sequence[str], classes: Mapping[str, Sequence[str] | None]) -> list[str]:
        """Those of the folders that could be a split or a class and hold no image."""
        images = [*self.stray, *(path for paths in self.members.values() for path in paths)]
        found, searched = [], [self.places[split] for split, names in classes.items() if names is not None]
        for place in searched if "" in self.places else [self.root, *searched]:
            tops = {first_folder(path, place) for path in folders if path.startswith(place)}
            full = {first_folder(path, place) for path in images if path.startswith(place)}
            found += [f"{place}{top}/" for top in sorted(tops - full - {""})]
        return found


def lay_out(
    images: Sequence[str], labelled: Callable[[str], bool], source: Path, where: str, *, zipped: bool
) -> Layout:
    """Find the root and the splits of the paths of images.

    labelled  whether a folder has a dataset.json
    source    the folder or zip; where: what an error calls it

    Errors (InputError): two folders for one split, splits that lie deeper.
    """
    root = _root(images, labelled, zipped)
    groups: dict[str, list[str]] = {}
    for path in images:
        groups.setdefault(first_folder(path, root), []).append(path)
    named = {top: split for top in groups if top and (split := split_named(top))}
    if not named:
        if not labelled(root):
            _check_no_split_deeper(images, root, source, where, zipped)
        return Layout(root, {"": root}, {"": list(images)}, [])
    for split in named.values():
        twice = [f"{root}{top}/" for top in named if named[top] == split]
        if len(twice) > 1:
            raise InputError(f"{where} has {' and '.join(twice)}, and both mean {split}: put them into one.")
    order = sorted(named, key=_order)
    stray = [path for path in images if first_folder(path, root) not in named]
    return Layout(root, {named[t]: f"{root}{t}/" for t in order}, {named[t]: groups[t] for t in order}, stray)


def _check_no_split_deeper(images: Sequence[str], root: str, source: Path, where: str, zipped: bool) -> None:
    """Refuse images of different splits that would be taken together."""
    found = dict.fromkeys(pair for image in images if (pair := _split_in(image, root)) is not None)
    if not found:
        return
    places, names = (list(dict.fromkeys(side)) for side in zip(*found, strict=True))
    names.sort(key=_order)
    advice = f"unpack it, and name one of them, such as {places[0]}"
    if not zipped:
        advice = f"name one of them, such as '{source / places[0]}'"
    raise InputError(f"{where} has {_listed(names)} below {_listed(places)}: {advice}, or rename what is no split.")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) <= NAMED else some(names)


def _order(name: str) -> int:
    """Of a folder that is called as a split."""
    return list(SPLIT_NAMES).index(str(split_named(name)))


def _split_in(image: str, root: str) -> tuple[str, str] | None:
    """The folder in which the first folder of an image's path that is called as a split lies, and that name."""
    parts = image[len(root) :].split("/")[:-1]
    number = next((number for number, part in enumerate(parts) if split_named(part)), None)
    return None if number is None else (f"{root}{'/'.join(parts[:number])}/", parts[number])


def first_folder(path: str, root: str) -> str:
    """The first folder of a path below the root; "" if the path lies in the root itself."""
    top, slash, _ = path[len(root) :].partition("/")
    return top if slash else ""


def _root(images: Sequence[str], labelled: Callable[[str], bool], zipped: bool) -> str:
    """The root, "" or with "/" at its end."""
    root = ""
    while not labelled(root) and (top := _sole_folder(images, root)):
        root = f"{root}{top}/"
    if zipped or labelled(root):
        return root
    tops = {first_folder(path, root) for path in images}
    structured = "" not in tops and len(tops) > 1 and not _are_buckets(tops)
    return root if structured or any(map(split_named, tops)) else ""


def _sole_folder(images: Sequence[str], root: str) -> str:
    """The one folder that holds all images below the root, unless it is a split; else ""."""
    top = first_folder(images[0], root)
    alone = top and split_named(top) is None and all(path.startswith(f"{root}{top}/") for path in images)
    return top if alone else ""


def _are_buckets(names: set[str]) -> bool:
    return all(map(BUCKET.fullmatch, names))


def classes_by_folder(members: Sequence[str], place: str) -> tuple[list[str] | None, str]:
    """The class of each path below a split's place, or None with the reason, "" where there are no folders at all."""
    names = [first_folder(path, place) for path in members]
    different = set(names)
    if _are_buckets(different):
        return None, f"numbered folders such as {place}{names[0]}/ are no classes"
    if "" not in different:
        return names, ""
    loose = [path for path, name in zip(members, names, strict=True) if not name]
    if len(different) == 1:
        return None, ""
    lies = f"{len(loose)} of {len(members)} images lie" if len(loose) > 1 else f"1 of {len(members)} images lies"
    return None, f"no classes{f' in {place}' if place else ''}, because {lies} in no folder ({loose[0]})"
