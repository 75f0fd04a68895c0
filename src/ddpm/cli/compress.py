"""ddpm compress."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm.cli import options
from ddpm.cli.console import counted, duration, print_result, progress_bar, say
from ddpm.errors import InputError, NotVerified

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ddpm.codec.encode import Encoded
    from ddpm.codec.tables import Codec
    from ddpm.model import Model

SUFFIX = ".dpc"
GROUP = 8  # network calls whose tiles are written together

Run = Annotated[str, typer.Argument(help="A run folder or a checkpoint, or linear: the model without a network.")]
Out = Annotated[str, typer.Option(help="The folder to write to.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Tiles in a network call.")]
Device = Annotated[str, typer.Option(help="cpu, auto, cuda, ...; the network runs in float64.")]


def compress(
    run: Run,
    images: Annotated[list[str], typer.Argument(help="Grey or RGB pictures of any size.")],
    out: Out,
    rate: Annotated[float | None, typer.Option(help="Lossy: at most so many bits per dimension.")] = None,
    most_bytes: Annotated[
        int | None, typer.Option("--bytes", min=1, help="Lossy: at most so many bytes a file.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Decompress what was written, and compare.")
    ] = True,
    force: Force = False,
    weights: options.Weights = "averaged",
    batch_size: BatchSize = 16,
    device: Device = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Compress pictures to .dpc files, lossless unless --rate or --bytes is given; any prefix is a picture too."""
    import ddpm
    from ddpm.codec.verbs import codec_of

    targets = targets_in(images, out, SUFFIX, force=force)
    if rate is not None and most_bytes is not None:
        raise InputError("--rate and --bytes were both given; leave one of them out.")
    if rate is not None and not 0 < rate < math.inf:
        raise InputError(f"--rate {rate} bits per dimension is none; 0.5 would fit.")
    pictures = [read_picture(path) for path in images]
    model = ddpm.load(run, weights=weights, device=device)
    codec = codec_of(model, make=lambda: make_codec_data(model))
    limits = [_limit(codec, path, picture, rate, most_bytes) for path, picture in zip(images, pictures, strict=True)]
    start = time.monotonic()
    found = _write_all(codec, pictures, limits, targets, verify, batch_size)
    table = _compressed(images, targets, pictures, found, lossless=rate is None and most_bytes is None, verified=verify)
    print_result(table, _compressed_lines(table, time.monotonic() - start), as_json=as_json)


def _write_all(
    codec: Codec,
    pictures: Sequence[NDArray[np.uint8]],
    limits: Sequence[int | None],
    targets: Sequence[Path],
    verify: bool,
    batch_size: int,
) -> list[Encoded]:
    """Compress and write some pictures at a time, so that a stop loses only those in hand."""
    from ddpm.codec.encode import tiles_of
    from ddpm.codec.verbs import compress_all
    from ddpm.files import whole_file

    tiles = [tiles_of(codec, picture) for picture in pictures]
    found: list[Encoded] = []
    with progress_bar("Steps of tiles", sum(tiles) * len(codec.chain.steps) * (1 + verify)) as bar:
        advance = counted(bar)
        for rows in in_groups(tiles, GROUP * batch_size):
            limit = None if limits[rows[0]] is None else [limits[k] or 0 for k in rows]
            some = [pictures[k] for k in rows]
            made = compress_all(codec, some, limits=limit, verify=verify, batch_size=batch_size, on_step=advance)
            for k, one in zip(rows, made, strict=True):
                with whole_file(targets[k]) as temporary:
                    temporary.write_bytes(one.data)
                if verify and targets[k].read_bytes() != one.data:
                    raise NotVerified(f"'{targets[k]}' does not hold what was written to it; is the disk sound?")
            found += made
    return found


def in_groups(tiles: Sequence[int], most: int) -> Iterator[range]:
    """Whole pictures together, until they have so many tiles."""
    start, total = 0, 0
    for k, count in enumerate(tiles):
        total += count
        if total >= most or k == len(tiles) - 1:
            yield range(start, k + 1)
            start, total = k + 1, 0


def _limit(
    codec: Codec, path: str, picture: NDArray[np.uint8], rate: float | None, most_bytes: int | None
) -> int | None:
    """How many bytes a picture may take, None for lossless; refuses what no file can hold, by name."""
    from ddpm.codec.encode import check_limit, check_picture

    try:
        check_picture(codec, picture)
        limit = int(rate * picture.size / 8) if rate is not None else most_bytes
        if limit is not None:
            check_limit(codec, picture, limit)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from None
    return limit


def read_picture(path: str) -> NDArray[np.uint8]:
    """A grey or RGB picture file as uint8 (C, H, W), exactly as it is; anything else is refused."""
    import numpy as np

    from ddpm.data.decode import BadImage, decode

    try:
        picture = decode(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {(error.strerror or 'unreadable').lower()}.") from None
    except BadImage as error:
        raise InputError(f"'{path}' cannot be read: {error}.") from None
    if picture.mode not in ("L", "RGB"):
        raise InputError(f"'{path}' has mode {picture.mode}; 8-bit grey (L) and RGB would fit.")
    return np.array(picture.pixels)


def make_codec_data(model: Model, **settings: Any) -> Path:
    """Make a model's codec data, with a message and bars; settings as for verbs.prepare_codec."""
    from ddpm.codec.calibrate import FIT_STEPS, Progress, calls_made, check_tunable
    from ddpm.codec.tables import codec_file
    from ddpm.codec.verbs import prepare_codec
    from ddpm.opened import training_images

    check_tunable(model, force=bool(settings.get("force")))
    images = settings.pop("images", None) or training_images(model, option="ddpm tune --codec --data")
    settings.setdefault("fit_steps", FIT_STEPS)
    say(
        f"The codec of '{model.source}' is made once, on {images.name}: {calls_made(model, images):,} network calls, "
        f"then {settings['fit_steps']:,} steps of its pixel model; some minutes. It goes into "
        f"{codec_file(Path(model.source), model.weights)}."
    )
    start = time.monotonic()
    calls, steps = calls_made(model, images), settings["fit_steps"]
    with progress_bar("Network calls", calls) as first, progress_bar("Pixel model", steps) as second:
        path = prepare_codec(model, images, progress=Progress(counted(first), counted(second)), **settings)
    say(f"{path}: made in {duration(time.monotonic() - start)}.")
    return path


def _compressed(
    images: Sequence[str],
    targets: Sequence[Path],
    pictures: Sequence[NDArray[np.uint8]],
    found: Sequence[Encoded],
    *,
    lossless: bool,
    verified: bool,
) -> dict[str, Any]:
    rows = [
        {
            "image": image,
            "file": str(target),
            "bytes": len(one.data),
            "bits_per_dim": 8 * len(one.data) / picture.size,
            "stored": one.stored,
        }
        for image, target, picture, one in zip(images, targets, pictures, found, strict=True)
    ]
    dimensions = sum(picture.size for picture in pictures)
    total = sum(len(one.data) for one in found)
    return {
        "files": rows,
        "lossless": lossless,
        "verified": verified,
        "bytes": total,
        "bits_per_dim": 8 * total / dimensions,
        "stored": sum(one.stored for one in found),
    }


def _compressed_lines(table: dict[str, Any], seconds: float) -> list[str]:
    lines = [
        f"{row['file']}: {row['bytes']:,} bytes, {row['bits_per_dim']:.3f} bits per dimension"
        f"{', stored by ordinary means' if row['stored'] else ''}"
        for row in table["files"]
    ]
    kind = "lossless" if table["lossless"] else "lossy"
    compared = "decompressed and compared" if table["lossless"] else "decompressed again"
    checked = compared if table["verified"] else "not verified"
    summary = f"{len(lines)} {'file' if len(lines) == 1 else 'files'}, {kind}, {checked}: {table['bytes']:,} bytes, "
    summary += f"{table['bits_per_dim']:.3f} bits per dimension; {table['stored']} stored by ordinary means; "
    return [*lines, summary + duration(seconds)]


def targets_in(inputs: Sequence[str], out: str, suffix: str, *, force: bool) -> list[Path]:
    """Where each input's output goes; refuses two of one name and files that are there, before any work is done."""
    from ddpm.files import check_output, writable_folder

    folder = writable_folder(out)
    targets = [folder / f"{Path(path).stem}{suffix}" for path in inputs]
    for place, target in enumerate(targets):
        check_output(target, folder=False)
        if target in targets[:place]:
            first = inputs[targets.index(target)]
            if first == inputs[place]:
                raise InputError(f"'{first}' was given twice; once would fit.")
            raise InputError(f"'{first}' and '{inputs[place]}' would both become '{target}'; other names would fit.")
        if target.exists() and not force:
            raise InputError(f"'{target}' is there already; --force replaces it.")
    return targets
