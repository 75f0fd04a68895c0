"""Make what the codec needs: levels and the errors there, the bits of each step, the pixel model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.base.progress import Progress, progress_of
from ddpm.base.tensors import Floats, Integers, Pixels
from ddpm.codec.codec_data import SIDECAR, CodecData, check_codes, read_codec_data, write_codec_data
from ddpm.codec.mixture import SIXTEENTHS
from ddpm.codec.trellis import fewest_bits
from ddpm.data.sources import ImageData, ImageSet
from ddpm.data.subsets import chosen_rows, hashes
from ddpm.diffusion.schedule import Schedule
from ddpm.errors import InputError
from ddpm.likelihood.monte_carlo import Scoring
from ddpm.model.checkpoint import check_tunable
from ddpm.model.datasets import training_images
from ddpm.model.model import Model
from ddpm.model.scoring import scoring_for
from ddpm.tuning.pixel_model_fit import fit_causal

STOP_LOG_SNR = 3.9
"""Where the chain ends and the pixel model begins: noise of 18 grey levels, images of about 30 dB."""
STEP_BITS = 32
"""Divergence of a step, about; fewer bits a step mean more network calls and a little less rate."""
SHORT = 0.75
"""A last step of less than this share of STEP_BITS becomes part of the one before."""
OVERHEAD = 1.12
"""Index bits for each bit of divergence, see trellis.py."""
PROBED, PROBE_IMAGES = 40, 256
IMAGES, PIXELS, DRAWS = 16384, 2**24, 2
"""Guesses that the pixel model is fitted on, and their pixels, at most; guesses of each image if images are few."""
FIT_STEPS = 8000
LEAST_IMAGES = 16
HASHED = 2048
"""Images whose hashes are kept, so that measuring on them can be refused."""


@dataclass(frozen=True, eq=False)
class CodecDataReport:
    """What `ddpm.tune_codec` returns: the file it wrote, and what is in it."""

    file: Path
    made: CodecData

    def table(self) -> dict[str, Any]:
        """As plain values."""
        made = self.made
        return {"file": str(self.file), "fingerprint": made.own_sha256, "levels": made.levels, "bits": made.bits}

    def lines(self) -> list[str]:
        """For a person."""
        size, psnr = sum(self.made.bits) / 8, 10 * math.log10(4 / self.made.errors[-1])
        return [
            f"{self.file}: {len(self.made.bits)} steps, {size:,.0f} bytes a tile for {psnr:.1f} dB",
            f"fingerprint {self.made.own_sha256}",
        ]


def tune_codec(
    model: Model,
    data: ImageData | None = None,
    *,
    seed: int = 0,
    fit_steps: int = FIT_STEPS,
    batch_size: int = 128,
    force: bool = False,
    progress: Progress | bool = True,
) -> CodecDataReport:
    """Make the codec data of a model, and store them beside its checkpoint; takes minutes.

    data        None: the model's own training images; not those that the codec will be measured on
    fit_steps   of the pixel model's optimiser
    batch_size  images in a network call
    force       replace codec data that are there: files compressed with them can then no longer be read

    Errors (InputError): codec data that are there already, images of another geometry, too few of them, channels that
    the codec cannot hold, a folder that cannot be written to.
    """
    report_to = progress_of(progress)
    _check(model, force=force)
    images = training_images(model, data)
    if len(images) < LEAST_IMAGES:
        raise InputError(f"'{images.name}' holds {len(images)} images; a codec is fitted on at least {LEAST_IMAGES}.")
    report_to.say(
        f"The codec data of '{model.source}' are made once, on {images.name}: {calls_made(model, images):,} network "
        f"calls, then {fit_steps:,} steps of the pixel model, which takes some minutes."
    )
    with SIDECAR.lock(model):  # of two processes at once, the second finds the first one's data and stops
        _check(model, force=force)
        made = make_codec_data(model, images, seed=seed, batch_size=batch_size, fit_steps=fit_steps, progress=report_to)
        file = write_codec_data(model, made)
    written = read_codec_data(model)
    assert written is not None
    return CodecDataReport(file, written)


def _check(model: Model, *, force: bool) -> None:
    """Raise InputError for a model that can have no codec data, or has some already (unless `force`)."""
    check_codes(model)
    check_tunable(model.source)
    if SIDECAR.path(model).exists() and not force:
        raise InputError(
            f"'{SIDECAR.path(model)}' is there already, and files compressed with it cannot be read without it: keep "
            "it, or replace it with --force."
        )


def make_codec_data(
    model: Model, images: ImageSet, *, seed: int, batch_size: int, fit_steps: int, progress: Progress
) -> CodecData:
    """Everything, from images to integers."""
    with progress.stage("Network calls", calls_made(model, images)) as advance:
        used, times = fitted_on(model, len(images))
        probing, fitting = (
            replace(scoring_for(model, images, limit=limit, seed=seed, batch_size=batch_size), advance=advance)
            for limit in (PROBE_IMAGES, used)
        )
        levels, errors, bits = place_steps(probing)
        guesses, pixels = training_guesses(fitting, levels[-1], times)
    with progress.stage("Pixel model", fit_steps) as advance:
        causal = fit_causal(guesses, pixels, steps=fit_steps, seed=seed, advance=advance)
    rows = chosen_rows(len(images), HASHED, seed).tolist()
    parts = (images.array(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size))
    kept = tuple(one for part in parts for one in hashes(part))
    return CodecData(images.name, images.fingerprint, seed, levels, errors, bits, causal, kept)


def calls_made(model: Model, images: ImageSet) -> int:
    """Network calls that measuring takes."""
    probing = len(probed_levels(model.denoiser.process.schedule)) * min(len(images), PROBE_IMAGES)
    return probing + math.prod(fitted_on(model, len(images)))


def fitted_on(model: Model, count: int) -> tuple[int, int]:
    """How many of `count` images the pixel model is fitted on, and guesses of each: memory grows with their pixels."""
    most = max(LEAST_IMAGES, min(IMAGES, PIXELS // (model.geometry.height * model.geometry.width)))
    return min(count, most), DRAWS if count * DRAWS <= most else 1


def place_steps(scoring: Scoring) -> tuple[tuple[int, ...], tuple[float, ...], tuple[int, ...]]:
    """Levels (K + 1,), errors (K + 1,) and index bits (K,) of a codec's chain.

    From T down, each step goes as far as STEP_BITS of divergence reach: D / 2 log2(1 + (SNR_s - SNR_t) w_t) bits.
    """
    schedule = scoring.denoiser.process.schedule
    stop, probed = stop_level(schedule), probed_levels(schedule)
    if stop == schedule.steps:
        raise InputError("the process has no levels above the codec's last one: train with a noisier schedule.")
    measured = np.array([squared_error(scoring, int(level)) for level in probed])
    error = np.interp(np.arange(schedule.steps + 1), probed, measured)

    def divergence(start: int, end: int | Integers) -> Floats:
        rise = schedule.snr[end] - schedule.snr[start]
        return np.asarray(scoring.dimensions / 2 * np.log2(1 + rise * error[start]))

    levels = [schedule.steps]
    while levels[-1] > stop:
        below = np.arange(stop, levels[-1])
        far = below[divergence(levels[-1], below) >= STEP_BITS]
        levels.append(int(far[-1]) if len(far) else stop)
    if len(levels) > 2 and divergence(levels[-2], stop) < SHORT * STEP_BITS:
        del levels[-2]
    bits = [
        max(fewest_bits(scoring.dimensions), round(OVERHEAD * float(divergence(start, end))))
        for start, end in itertools.pairwise(levels)
    ]
    return tuple(levels), tuple(float(error[level]) for level in levels), tuple(bits)


def probed_levels(schedule: Schedule) -> Integers:
    """Levels, rising, whose errors are measured: up to PROBED of them, uniform in the log-SNR down to the stop's."""
    stop = stop_level(schedule)
    even = np.linspace(schedule.log_snr[stop], schedule.log_snr[-1], PROBED)
    places = np.interp(-even, -schedule.log_snr[stop:], np.arange(stop, schedule.steps + 1))
    return np.unique(np.rint(places).astype(np.int64))


def stop_level(schedule: Schedule) -> int:
    """The level nearest to the stop's log-SNR."""
    return 1 + int(np.argmin(np.abs(schedule.log_snr[1:] - STOP_LOG_SNR)))


def squared_error(scoring: Scoring, level: int) -> float:
    """Mean squared error of x0 at one level, over all images, each once."""
    pairs = _guessed(scoring, level, "codec errors", 0)
    total = sum(float(((clean - guess) ** 2).sum()) for clean, guess in pairs)
    return total / (len(scoring.images) * scoring.dimensions)


def training_guesses(scoring: Scoring, level: int, times: int) -> tuple[Integers, Pixels]:
    """What the chain's last image may look like, for the pixel model: guesses and pixels, (N, C, H, W).

    times  guesses of each image
    """
    guesses, pixels = [], []
    for draw in range(times):
        for _, guess in _guessed(scoring, level, "codec guesses", draw):
            guesses.append(((guess + 1) * (127.5 * SIXTEENTHS)).round().to(torch.int16))
        pixels.append(scoring.images.read(np.arange(len(scoring.images))))
    return torch.cat(guesses).numpy().astype(np.int64), np.concatenate(pixels)


def _guessed(scoring: Scoring, level: int, purpose: str, draw: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Clean images and the network's guesses of them at one level, a batch at a time."""
    count = len(scoring.images)
    denoiser = replace(scoring.denoiser, threshold="static")  # as in the chain
    for start in range(0, count, scoring.batch_size):
        rows = np.arange(start, min(start + scoring.batch_size, count))
        x0, noise, labels = scoring.inputs(rows, rows + draw * count, purpose)
        with torch.no_grad(), scoring.guarded():
            xt = denoiser.process.q_sample(x0, level, noise=noise)
            guess = denoiser.x0(xt, level, labels)
        yield x0.cpu(), guess.cpu()
        scoring.advance(len(rows))
