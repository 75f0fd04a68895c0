"""ddpm evaluate --metric fid and kid: what is opened, in which order, and what is said of the numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ddpm.cli.bound import Result
from ddpm.cli.console import counted, progress_bar, say
from ddpm.cli.evaluate_options import DISTANCES, Options
from ddpm.errors import InputError, MixedSizes

if TYPE_CHECKING:
    import torch

    from ddpm.data import ImageSet
    from ddpm.distances import Estimate, Extractor, Statistics
    from ddpm.evaluation.distance import Comparison, Question, Reference
    from ddpm.evaluation.judged import Pictures
    from ddpm.geometry import Geometry

HASH_SHOWN = 12
SLOW_DIMENSIONS = 1024  # from here on, a Fréchet distance takes about a second
KID_SCALE = 1000  # papers print a kernel distance times this


def compare_images(asked: Options) -> Result:
    """Judge images that are there already."""
    from ddpm.distances import Statistics
    from ddpm.evaluation.distance import question
    from ddpm.evaluation.judged import given_pictures
    from ddpm.model import resolve_device

    device = resolve_device(asked.device)
    reference = open_reference(asked, _images)
    geometry = None if isinstance(reference, Statistics) else reference.geometry
    pictures = given_pictures(_pictures(asked.run, geometry))
    extractor = open_features(asked, pictures.geometry, device)
    return judge(measure(question(pictures, reference, extractor, metrics=asked.distances), asked), pictures, asked)


def open_reference(asked: Options, open_images: Callable[[str], ImageSet]) -> ImageSet | Statistics:
    """What --data names: images, or, where only distances are asked for, perhaps statistics."""
    from ddpm.distances import is_statistics, load_statistics

    only_distances = set(asked.metrics) <= set(DISTANCES)
    return load_statistics(asked.data) if only_distances and is_statistics(asked.data) else open_images(asked.data)


def open_features(asked: Options, geometry: Geometry, device: torch.device) -> Extractor:
    """Open what --features names, for images of one geometry."""
    from ddpm.distances import open_extractor

    assert asked.features is not None
    return open_extractor(asked.features, geometry, device)


def measure(question: Question, asked: Options) -> Reference:
    """Compute the reference's features, and keep their statistics if that was asked for."""
    from ddpm.distances import save_statistics

    with progress_bar("Features of the reference", question.images) as bar:
        found = question.measure(batch_size=asked.drawn_at_once, on_images=counted(bar))
    if asked.save_statistics is not None and found.statistics is not None:
        say(f"{save_statistics(asked.save_statistics, found.statistics)}: statistics of {question.side.source}.")
    return found


def judge(reference: Reference, pictures: Pictures, asked: Options) -> Result:
    """Compute the distances: what goes into the JSON, and lines for a person."""
    from ddpm.distances import BLOCKS

    if reference.statistics is not None and reference.statistics.dimensions >= SLOW_DIMENSIONS:
        say(f"After the features, {BLOCKS + 1} Fréchet distances in {reference.statistics.dimensions:,} dimensions.")
    with progress_bar("Features", pictures.count) as bar:
        found = reference.judge(pictures, batch_size=asked.drawn_at_once, on_images=counted(bar))
    table: dict[str, Any] = {}
    for name, estimate in (("fid", found.fid), ("kid", found.kid)):
        if estimate is not None:
            table[name] = _as_dict(estimate)
    return table | {"protocol": found.protocol}, [*_protocol_lines(found.protocol), *_lines(found)]


def _images(src: str) -> ImageSet:
    import ddpm

    try:
        return ddpm.images(src)
    except MixedSizes:
        raise InputError(f"the images in '{src}' differ in size; images of one size would fit.") from None


def _pictures(src: str, reference: Geometry | None) -> ImageSet:
    """Pictures to judge, with as many channels as the reference where that loses nothing."""
    from ddpm.data import open_images

    try:
        found = _images(src)
    except InputError as error:
        raise InputError(f"'{src}' is no run, and no images either: {error}") from None
    if reference is not None and found.geometry != reference and found.geometry.size == reference.size:
        with suppress(InputError):
            return open_images(src, channels=reference.channels, default_split=None)
    return found


def _as_dict(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "error": estimate.error,
        "interval": list(estimate.interval),
        "bias": estimate.bias,
        "corrected": estimate.corrected,
    }


# ---- for a person ---------------------------------------------------------------------------------------------------


def _protocol_lines(protocol: dict[str, Any]) -> list[str]:
    pictures, reference, extractor = (protocol[key] for key in ("pictures", "reference", "extractor"))
    counts = protocol["counts"]
    first = f"{counts['pictures']:,} pictures of {pictures['source']}"
    if "images_seen" in pictures:
        first += f", {pictures['model']['weights']} weights, {pictures['images_seen']:,} images seen"
    if "seeds" in pictures:
        first += f", seeds {pictures['seeds']}"
    drawn = [_drawn_line(pictures["model"])] if "model" in pictures else []
    count = "an unknown number of" if counts["reference"] is None else f"{counts['reference']:,}"
    other = f"{count} reference images of {reference['source']}, {protocol['geometry']}"
    if reference["given_as"] == "statistics":
        other += ", by their statistics"
    known_by = "" if extractor["name"] == extractor["sha256"] else f", sha256 {extractor['sha256'][:HASH_SHOWN]}"
    return [first, *drawn, other, f"features {extractor['name']}, {extractor['dimensions']:,} dimensions{known_by}"]


def _drawn_line(model: dict[str, Any]) -> str:
    """How pictures were drawn; what is as usual is not said."""
    levels = "all levels" if model["spacing"] == "all" else f"{model['steps']:,} levels, {model['spacing']}"
    more = [
        f"eta {model['eta']:g}" if model["eta"] is not None else "",
        f"variance {model['variance']}" if model["variance"] is not None else "",
        f"threshold {model['threshold']}" if model["threshold"] != "static" else "",
        f"class {model['class']}" if model["class"] is not None else "",
        f"guidance {model['guidance']:g}" if model["guidance"] != 1 else "",
    ]
    how = ", ".join([model["sampler"], *filter(None, more)])
    return f"drawn by {how}: {levels}; {model['calls']:,} network calls a picture"


def _lines(found: Comparison) -> list[str]:
    lines = []
    if found.fid is not None:
        bias = f"bias about {found.fid.bias:.4f}, {found.fid.corrected:.4f} without it"
        lines.append(f"  fid  {_number(found.fid, 4)}   {bias}")
    if found.kid is not None:
        scaled = f"{found.kid.value * KID_SCALE:.3f} ± {found.kid.error * KID_SCALE:.3f}"
        lines.append(f"  kid  {_number(found.kid, 6)}   no bias; times {KID_SCALE:,}: {scaled}")
    return [*lines, f"± one standard error; {found.protocol['errors']}"]


def _number(estimate: Estimate, digits: int) -> str:
    low, high = estimate.interval
    return f"{estimate.value:.{digits}f} ± {estimate.error:.{digits}f}   95 %: {low:.{digits}f} to {high:.{digits}f}"
