"""Samples as files: a grid, an array, or a folder of PNGs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Unpack

from ddpm.base.files import check_output, check_room
from ddpm.base.image_io import check_grid, save_grid
from ddpm.base.progress import Progress, progress_of
from ddpm.errors import InputError
from ddpm.generation.draw import described, draw, draw_progressively, plan_for
from ddpm.generation.resumable import ARRAY, PNG_FACTOR, Drawing
from ddpm.model.model import Model
from ddpm.samplers.plan import Sampling, SamplingOptions

SLOTS = 20  # columns of a progressive grid


def save_samples(
    model: Model,
    out: str | Path,
    *,
    seeds: Iterable[int],
    progressive: bool = False,
    batch_size: int = 64,
    progress: Progress | bool = True,
    **how: Unpack[SamplingOptions],
) -> Path:
    """Draw one image per seed into a file or a folder; the same call goes on after a stop, unless it is a .png.

    out          a .png is a grid, a .npz an array (its keys: generation/array_file.py), no suffix a folder of PNGs
    progressive  a row a seed, the image as predicted along the trajectory (Ho et al. 2020, Fig. 6); a .png
    how          see `sample`

    Errors, before anything is drawn: another output, one that holds something else or has no room (InputError), an
    .npz of these very images that is damaged (DamagedFile); afterwards: images in the folder are not those that were
    drawn (DamagedFile).
    """
    path, report_to = _output(out, progressive=progressive), progress_of(progress)
    numbers, plan = list(seeds), plan_for(model, Sampling(**how))
    drawing, left = None, len(numbers)
    if path.suffix == ".png":
        cells = len(numbers) * (SLOTS if progressive else 1)
        check_grid(cells, model.geometry)
        check_output(path, folder=False)
        check_room(path, cells * math.prod(model.geometry.shape) // PNG_FACTOR)
    else:
        drawing = Drawing(model, plan, numbers, path)
        left = len(drawing.missing())
        if left < len(drawing.asked):
            report_to.say(f"{len(drawing.asked) - left:,} of {len(drawing.asked):,} images are there already.")
    for sentence in described(model, plan):
        report_to.say(sentence)
    with report_to.stage("Sampling", left * plan.chain.steps) as advance:
        if drawing is not None:
            drawing.draw(batch_size=batch_size, advance=advance)
        elif progressive:
            rows = draw_progressively(model, numbers, plan, slots=SLOTS, batch_size=batch_size, advance=advance)
            save_grid(rows.flatten(0, 1), path, columns=rows.shape[1])
        else:
            save_grid(draw(model, numbers, plan, batch_size=batch_size, advance=advance), path)
    return path


def _output(out: str | Path, *, progressive: bool) -> Path:
    """Refuse what is no output for samples, by its name."""
    path = Path(out)
    if not str(out) or path.suffix not in (".png", ARRAY, ""):
        raise InputError(f"'{out}' is not an output for samples: name a .png, a .npz or a folder.")
    if progressive and path.suffix != ".png":
        raise InputError("progressive samples make one image: the output must be a .png.")
    if path.suffix and str(out).endswith(("/", "\\")):
        raise InputError(f"'{out}' is a folder by its end and a file by its name: leave one out.")
    return path
