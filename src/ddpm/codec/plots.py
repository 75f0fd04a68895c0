"""The codec in pictures: rate against distortion, where one file's bytes go, and what its prefixes look like."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ddpm.codec.decode import decode
from ddpm.codec.encode import encode
from ddpm.codec.measure import CodecReport
from ddpm.codec.others import psnr, smallest_webp
from ddpm.codec.tables import Codec
from ddpm.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pixels = NDArray[np.uint8]

INK = {"PNG": "C7", "WebP": "C1", "JPEG": "C3", "AVIF": "C4", "JPEG XL": "C2"}
STRIP_BYTES = (20, 40, 80, 160)
STRIP_ROWS = 4


def write_report(
    report: CodecReport, codec: Codec, pictures: Sequence[Pixels], folder: Path, about: dict[str, Any]
) -> list[Path]:
    """Write codec.json, codec.png, codec-strip.png and codec-bytes.png to a folder; returns the files.

    pictures  some of those measured, for the last two
    """
    plot, strip, bytes_, table = (folder / f"codec{end}" for end in (".png", "-strip.png", "-bytes.png", ".json"))
    plot_report(report, plot)
    plot_strip(codec, pictures[:STRIP_ROWS], strip)
    plot_bytes(codec, pictures[0], bytes_)
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


def plot_bytes(codec: Codec, picture: Pixels, path: Path) -> None:
    """Where the bytes of one lossless file go: each step of the chain, then the rest, with the PSNR reached by then."""
    from matplotlib.figure import Figure

    file = encode(codec, [picture])[0]
    lossy = encode(codec, [picture], most_bytes=[10**6])[0].data
    ends = np.cumsum([0, *codec.chain.bits]) / 8
    header = len(lossy) - 2 - int(np.ceil(ends[-1]))
    reached = [decode(codec, [lossy], most_bytes=header + int(np.ceil(end)))[0].picture for end in ends]
    levels = [psnr(one, picture) for one in reached if one is not None]
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
    words = "stored by ordinary means" if file.stored else "what makes it exact"
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


def plot_strip(codec: Codec, pictures: Sequence[Pixels], path: Path) -> None:
    """Pictures at a few bytes, exact, and as WebP at its smallest; a row a picture, with bytes and PSNR."""
    from matplotlib.figure import Figure

    rows = []
    for picture in pictures:
        lossless, lossy = (encode(codec, [picture], most_bytes=limit)[0].data for limit in (None, [10**6]))
        sizes = [*(size for size in STRIP_BYTES if size < len(lossy)), len(lossy)]
        coarse = [decode(codec, [lossy], most_bytes=size)[0].picture for size in sizes]
        row = [
            (one, f"{size} B, {psnr(one, picture):.1f} dB")
            for one, size in zip(coarse, sizes, strict=True)
            if one is not None
        ]
        other, size = smallest_webp(picture)
        rows.append(
            [*row, (picture, f"{len(lossless)} B, exact"), (other, f"WebP, {size} B, {psnr(other, picture):.1f} dB")]
        )
    figure = Figure(figsize=(1.5 * len(rows[0]), 1.72 * len(rows)), dpi=110, layout="constrained")
    panels = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes, (shown, words) in zip(panels.ravel(), itertools.chain.from_iterable(rows), strict=True):
        axes.imshow(shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
        axes.set_title(words, fontsize=8)
        axes.set_axis_off()
    with whole_file(path) as temporary:
        figure.savefig(temporary)
