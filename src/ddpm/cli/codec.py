"""The metric of ddpm evaluate that writes files: the codec, beside ordinary formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.cli.console import counted, progress_bar, say
from ddpm.cli.evaluate_options import Options
from ddpm.errors import InputError

if TYPE_CHECKING:
    from ddpm.codec.measure import CodecReport
    from ddpm.codec.tables import CodecData
    from ddpm.data import ImageSet
    from ddpm.model import Model

SHOWN_BYTES = (20, 40, 60, 80, 100, 120, 135, 160, 200)

Result = tuple[dict[str, Any], list[str]]


def check_codec(model: Model, asked: Options) -> CodecData:
    """Refuse a model whose codec was not made, and a folder that cannot be written to; nothing is fitted here."""
    from ddpm.codec.tables import check_codes, codec_data_of
    from ddpm.files import writable_folder

    check_codes(model)
    made = codec_data_of(model)
    if made is None:
        raise InputError(f"the codec of '{model.source}' was not made yet; `ddpm tune {asked.run} --codec` does it.")
    writable_folder(asked.folder)
    return made


def codec_metric(model: Model, images: ImageSet, asked: Options) -> Result:
    """Compress, read back, compare: what goes into the JSON, and lines for a person."""
    from ddpm.codec.measure import LIMIT, chosen, measure_codec, require_unseen
    from ddpm.codec.plots import write_report
    from ddpm.codec.tables import codec_file, make_codec

    made = check_codec(model, asked)
    codec, rows = make_codec(model, made), chosen(images, asked.limit or LIMIT)
    require_unseen(made, images, rows)
    say(f"Codec: {codec_file(Path(model.source), model.weights)}; {len(rows):,} images of {images.name}.")
    with progress_bar("Images", len(rows)) as bar:
        report = measure_codec(codec, images, rows, asked.folder / "codec", on_images=counted(bar))
    about = {"model": model.source, "fingerprint": made.own_sha256, "data": images.name}
    for file in write_report(report, codec, list(images.array(rows[:4].tolist())), asked.folder, about):
        say(str(file))
    return {"codec": about | report.table()}, report_lines(report)


def report_lines(report: CodecReport) -> list[str]:
    """A table for a person."""
    lossless = {one.name: one.bytes for one in sorted(report.others, key=lambda one: -one.bytes) if one.psnr is None}
    rows = [("ddpm", report.lossless), *lossless.items()]
    width = max(len(name) for name, _ in rows)
    theory = sum(row["divergence"] for row in report.files)
    index = sum(row["index_bits"] for row in report.files)
    delivered = sum(row["delivered"] for row in report.files)
    return [
        f"{report.images:,} images, mean bytes of lossless files and bits per dimension",
        *(f"  {name:{width}}  {size:8.1f}  {8 * size / report.dimensions:.3f}" for name, size in rows),
        f"  stored by ordinary means {report.stored:.1%}",
        "bytes of a prefix, header included, and mean PSNR in dB",
        "  " + ", ".join(f"{size}: {report.psnr_at(size):.2f}" for size in SHOWN_BYTES if size >= report.prefixes[0]),
        f"index bits over delivered divergence {index / max(delivered, 1e-9):.3f}, over the theoretical rate "
        f"{index / max(theory, 1e-9):.3f}",
        f"seconds an image: encode {report.seconds['encode']:.2f}, decode {report.seconds['decode']:.2f}",
    ]
