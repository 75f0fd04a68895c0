"""What the codec is worth, with plots: rate against distortion, where a file's bytes go, what its prefixes show."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddpm.base.files import check_output, whole_file
from ddpm.base.image_io import MADE_BY
from ddpm.base.progress import Progress, progress_of
from ddpm.base.tensors import Pixels
from ddpm.codec.codec_data import SIDECAR, Codec
from ddpm.codec.decode import decode, open_file
from ddpm.codec.encode import Encoded, encode
from ddpm.data.sources import ImageData
from ddpm.evaluation.codec_measurement import MANY, CodecReport, codec_for, measure_codec
from ddpm.evaluation.image_formats import psnr, smallest_webp
from ddpm.evaluation.rate_plots import write_json
from ddpm.evaluation.result_files import ResultFiles
from ddpm.model.checkpoint import results_folder
from ddpm.model.datasets import images_for
from ddpm.model.model import Model
from ddpm.model.scoring import check_fits
from ddpm.model.trained_on import trained_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = {"PNG": "C7", "WebP": "C1", "JPEG": "C3", "AVIF": "C4", "JPEG XL": "C2"}
STRIP_BYTES = (20, 40, 80, 160)
STRIP_ROWS = 4
FILES = ("codec.png", "codec-strip.png", "codec-bytes.png", "codec.json")


def evaluate_codec(
    model: Model,
    data: ImageData,
    *,
    size: str | int | None = None,
    fit: str | None = None,
    alpha: str | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    progress: Progress | bool = True,
) -> CodecReport:
    """Compress images to files on disk, read them back, and set them beside PNG, WebP, JPEG, AVIF and JPEG XL.

    data       images that the codec was not fitted on (see tune_codec); their classes play no part
    size, fit, alpha  bring other images to the model's size and channels, see model.datasets.images_for
    limit      only so many of them, drawn by seed 0; None is 200
    out        folder for codec.json, three plots and the files; None is evaluation/ in the run

    Errors: InputError for a model whose codec data were not made, and for images of another geometry. A plot or a JSON
    file that cannot be written is a warning; the report's `lost` names it.
    """
    report_to = progress_of(progress)
    images = images_for(model, data, size=size, fit=fit, alpha=alpha)
    check_fits(model, images)
    codec, rows = codec_for(model, images, limit)
    kept = ResultFiles(results_folder(model.source, out), FILES)
    compressed = check_output(kept.folder / "codec", folder=True)
    report_to.say(f"Codec: {SIDECAR.path(model)}; {len(rows):,} images of {images.name}.")
    seen = trained_on(model, images, rows)
    with report_to.stage("Images", len(rows)) as advance:
        report = replace(measure_codec(codec, images, rows, compressed, advance=advance), seen=seen)
    about = {"model": model.source, "fingerprint": codec.fingerprint, "data": images.name}
    shown = coded(codec, list(images.array(rows[:STRIP_ROWS].tolist())))
    kept.write(FILES[0], lambda path: plot_report(report, path))
    kept.write(FILES[1], lambda path: plot_strip(codec, shown, path))
    kept.write(FILES[2], lambda path: plot_bytes(codec, shown[0], path))
    kept.write(FILES[3], lambda path: write_json(about | report.table(), path))
    for file in kept.written:
        report_to.say(str(file))
    return replace(report, lost=tuple(kept.lost))


def plot_report(report: CodecReport, path: Path) -> None:
    """PSNR against bytes, of the codec and of other formats, and the theoretical rate of the chain."""
    figure = _figure(7.5, 4.6)
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
    _save(figure, path)


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


@dataclass(frozen=True, eq=False)
class Coded:
    """An image of one tile, its lossless file, and the lossy file of all steps, whose prefixes are coarser images."""

    image: Pixels
    lossless: Encoded
    lossy: bytes

    def prefixes(self, codec: Codec, sizes: Sequence[int]) -> list[tuple[Pixels, float]]:
        """What prefixes of so many bytes show, and their PSNR in dB."""
        found = [one.image for one in decode(codec, [open_file(codec, self.lossy, size) for size in sizes])]
        return [(one, psnr(one, self.image)) for one in found if one is not None]


def coded(codec: Codec, images: Sequence[Pixels]) -> list[Coded]:
    """Compress some images for plot_strip and plot_bytes."""
    both = zip(images, encode(codec, images), encode(codec, images, most_bytes=[MANY] * len(images)), strict=True)
    return [Coded(image, lossless, lossy.data) for image, lossless, lossy in both]


def plot_bytes(codec: Codec, one: Coded, path: Path) -> None:
    """Where the bytes of a lossless file go: each step of the chain, then the rest, with the PSNR reached by then."""
    file = one.lossless
    ends = np.cumsum([0, *codec.chain.bits]) / 8
    header = len(one.lossy) - 2 - int(np.ceil(ends[-1]))
    levels = [decibels for _, decibels in one.prefixes(codec, [header + int(np.ceil(end)) for end in ends])]
    figure = _figure(7.5, 4.2)
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
    _save(figure, path)


def plot_strip(codec: Codec, some: Sequence[Coded], path: Path) -> None:
    """Images at a few bytes, exact, and as WebP at its smallest; a row an image, with bytes and PSNR."""
    rows = []
    for one in some:
        sizes = [*(size for size in STRIP_BYTES if size < len(one.lossy)), len(one.lossy)]
        coarse = zip(sizes, one.prefixes(codec, sizes), strict=True)
        row = [(image, f"{size} B, {decibels:.1f} dB") for size, (image, decibels) in coarse]
        row.append((one.image, f"{len(one.lossless.data)} B, exact"))
        other, size = smallest_webp(one.image)
        rows.append([*row, (other, f"WebP, {size} B, {psnr(other, one.image):.1f} dB")])
    figure = _figure(1.5 * len(rows[0]), 1.72 * len(rows))
    panels = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes, (shown, words) in zip(panels.ravel(), itertools.chain.from_iterable(rows), strict=True):
        axes.imshow(shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
        axes.set_title(words, fontsize=8)
        axes.set_axis_off()
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, metadata=MADE_BY)
