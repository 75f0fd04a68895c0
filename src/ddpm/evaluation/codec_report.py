"""What the codec is worth, with plots: rate against distortion, where a file's bytes go, what its prefixes show."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm.base.files import whole_file
from ddpm.base.progress import Progress, progress_of
from ddpm.base.tensors import Pixels
from ddpm.codec.codec_data import SIDECAR, Codec, make_codec, required_codec_data
from ddpm.codec.decode import decode, open_file
from ddpm.codec.encode import encode
from ddpm.data import ImageData
from ddpm.evaluation.codec_measurement import CodecReport, measure_codec, unseen_rows
from ddpm.evaluation.image_formats import psnr, smallest_webp
from ddpm.model.checkpoint import results_folder
from ddpm.model.datasets import images_for
from ddpm.model.model import Model, checked_model
from ddpm.model.scoring import check_fits

if TYPE_CHECKING:
    from matplotlib.axes import Axes


INK = {"PNG": "C7", "WebP": "C1", "JPEG": "C3", "AVIF": "C4", "JPEG XL": "C2"}
STRIP_BYTES = (20, 40, 80, 160)
STRIP_ROWS = 4


def evaluate_codec(
    model: Model,
    data: ImageData,
    *,
    limit: int | None = None,
    out: str | Path | None = None,
    progress: Progress | bool = True,
) -> CodecReport:
    """Compress images to files on disk, read them back, and set them beside PNG, WebP, JPEG, AVIF and JPEG XL.

    data   images that the codec was not fitted on (see tune_codec)
    limit  only so many of them, drawn by seed 0; None is 200
    out    folder for codec.json, three plots and the files; None is evaluation/ in the run

    Errors: InputError for a model whose codec data were not made, and for images of another geometry.
    """
    report_to = progress_of(progress)
    made = required_codec_data(checked_model(model))
    images = images_for(model, data)
    check_fits(model, images)
    folder = results_folder(model.source, out)
    codec, rows = make_codec(model, made), unseen_rows(made, images, limit)
    report_to.say(f"Codec: {SIDECAR.path(model)}; {len(rows):,} images of {images.name}.")
    with report_to.stage("Images", len(rows)) as advance:
        report = measure_codec(codec, images, rows, folder / "codec", advance=advance)
    about = {"model": model.source, "fingerprint": made.own_sha256, "data": images.name}
    for file in write_report(report, codec, list(images.array(rows[:STRIP_ROWS].tolist())), folder, about):
        report_to.say(str(file))
    return report


def write_report(
    report: CodecReport, codec: Codec, images: Sequence[Pixels], folder: Path, about: dict[str, Any]
) -> list[Path]:
    """Write codec.json, codec.png, codec-strip.png and codec-bytes.png to a folder; returns the files.

    images  some of those measured, for the last two
    """
    plot, strip, bytes_, table = (folder / f"codec{end}" for end in (".png", "-strip.png", "-bytes.png", ".json"))
    plot_report(report, plot)
    plot_strip(codec, images[:STRIP_ROWS], strip)
    plot_bytes(codec, images[0], bytes_)
    with whole_file(table) as temporary:
        temporary.write_text(json.dumps({**about, **report.table()}, indent=1) + "\n", encoding="utf-8")
    return [plot, strip, bytes_, table]


def plot_report(report: CodecReport, path: Path) -> None:
    """PSNR against bytes, ours and others', and the theoretical rate of the chain."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(report.prefixes, report.psnr, marker=".", color="C0", label="ddpm, bytes on disk")
    axes.plot(report.theory[1:], report.psnr[1:], linestyle=":", color="C0", label="its chain in theory, no header")
    for name in dict.fromkeys(one.name for one in report.others):
        lossy = sorted((one.bytes, one.psnr) for one in report.others if one.name == name and one.psnr is not None)
        if lossy:
            axes.plot(*zip(*lossy, strict=True), marker=".", linewidth=1, color=INK[name], label=name)
    _mark_lossless(axes, report)
    axes.set_xscale("log")
    axes.set_xlabel("bytes a file")
    axes.set_ylabel("PSNR (dB, mean of the images)")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    with whole_file(path) as temporary:
        figure.savefig(temporary)


def _mark_lossless(axes: Axes, report: CodecReport) -> None:
    """A line where each format's exact files lie, its name at a height of its own."""
    ends = [("ddpm", report.lossless), *((one.name, one.bytes) for one in report.others if one.psnr is None)]
    names = list(dict.fromkeys(name for name, _ in ends))
    low, high = axes.get_ylim()
    for place, name in enumerate(names):
        size = min(size for other, size in ends if other == name)
        axes.axvline(size, color=INK.get(name, "C0"), linewidth=0.8, linestyle="--")
        height = low + (0.02 + 0.06 * place) * (high - low)
        axes.text(size, height, f"{name} lossless ", fontsize=7, ha="right", color=INK.get(name, "C0"))


def plot_bytes(codec: Codec, image: Pixels, path: Path) -> None:
    """Where the bytes of one lossless file go: each step of the chain, then the rest, with the PSNR reached by then."""
    from matplotlib.figure import Figure

    file = encode(codec, [image])[0]
    lossy = encode(codec, [image], most_bytes=[10**6])[0].data
    ends = np.cumsum([0, *codec.chain.bits]) / 8
    header = len(lossy) - 2 - int(np.ceil(ends[-1]))
    reached = [_prefix(codec, lossy, header + int(np.ceil(end))) for end in ends]
    levels = [psnr(one, image) for one in reached if one is not None]
    figure = Figure(figsize=(7.5, 4.2), dpi=110, layout="constrained")
    near, whole = figure.subplots(2, 1, height_ratios=(3, 1))
    for axes in (near, whole):
        axes.barh(0, header, color="C7", label=f"header, {header} bytes")
        name: str | None = f"{len(ends) - 1} steps of the chain, {ends[-1]:.0f} bytes"
        for number, (begin, end) in enumerate(itertools.pairwise(ends)):
            axes.barh(0, end - begin, left=header + begin, label=name, color="C0", alpha=0.5 if number % 2 else 0.9)
            name = None
    start = header if file.stored else header + ends[-1]
    rest = len(file.data) - start
    words = "stored as PNG" if file.stored else "what makes it exact"
    whole.barh(0, rest, left=start, color="C3" if file.stored else "C1", label=f"{words}, {rest:.0f} bytes")
    for axes in (near, whole):
        axes.set_yticks([])
    whole.set_xlabel("bytes of one file, and the front of it above")
    whole.set_xlim(0, len(file.data) * 1.01)
    whole.set_ylim(-0.5, 1.9)
    whole.legend(fontsize=8, loc="upper right", ncols=3)
    near.set_xlim(0, (header + ends[-1]) * 1.02)
    near.set_ylim(-0.4, 3)
    above = near.twinx()
    above.plot(header + ends, levels, color="black", marker=".", linewidth=1)
    above.set_ylabel("PSNR of the prefix (dB)")
    with whole_file(path) as temporary:
        figure.savefig(temporary)


def plot_strip(codec: Codec, images: Sequence[Pixels], path: Path) -> None:
    """Images at a few bytes, exact, and as WebP at its smallest; a row an image, with bytes and PSNR."""
    from matplotlib.figure import Figure

    rows = []
    for image in images:
        lossless, lossy = (encode(codec, [image], most_bytes=limit)[0].data for limit in (None, [10**6]))
        sizes = [*(size for size in STRIP_BYTES if size < len(lossy)), len(lossy)]
        coarse = [_prefix(codec, lossy, size) for size in sizes]
        row = [
            (one, f"{size} B, {psnr(one, image):.1f} dB")
            for one, size in zip(coarse, sizes, strict=True)
            if one is not None
        ]
        other, size = smallest_webp(image)
        rows.append(
            [*row, (image, f"{len(lossless)} B, exact"), (other, f"WebP, {size} B, {psnr(other, image):.1f} dB")]
        )
    figure = Figure(figsize=(1.5 * len(rows[0]), 1.72 * len(rows)), dpi=110, layout="constrained")
    panels = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes, (shown, words) in zip(panels.ravel(), itertools.chain.from_iterable(rows), strict=True):
        axes.imshow(shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
        axes.set_title(words, fontsize=8)
        axes.set_axis_off()
    with whole_file(path) as temporary:
        figure.savefig(temporary)


def _prefix(codec: Codec, data: bytes, size: int) -> Pixels | None:
    """The image that the first bytes of a file give."""
    return decode(codec, [open_file(codec, data, size)])[0].image
