"""The codec on real images: bytes on disk, PSNR, seconds, and how far two machines' floats are apart.

    pip install -c constraints.txt imagecodecs     (the extra "codecs", for JPEG XL)

    ddpm train compress --data 'data/cifar10-first4000.zip[0:3500]' --out runs/cifar10-compress
    ddpm tune codec runs/cifar10-compress
    ddpm tune codec linear --data 'data/cifar10-first4000.zip[0:3500]' --out runs/cifar10-linear
    python benchmarks/codec.py cifar10 --data 'data/cifar10-first4000.zip[3500:3700]'

    python benchmarks/codec.py fashion-mnist --data 'data/fashion-mnist:test[0:200]'

    python benchmarks/codec.py photograph          (a 256 x 256 crop of scikit-learn's china.jpg, in tiles)
    python benchmarks/codec.py margin --data 'data/cifar10-first4000.zip[3500:3700]'

Each writes results/codec-NAME.json, and plots beside it. Images are taken from the front of --data, all of them; no
image of theirs was trained, tuned or fitted on (but see the text of `photograph`). Timings are of one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, write_result

import ddpm
from ddpm.codec import pixel_model, progressive
from ddpm.codec.codec_data import CPU_TILES, Codec, make_codec, read_codec_data
from ddpm.codec.decode import decode, open_file
from ddpm.codec.encode import MARGIN, encode
from ddpm.evaluation.codec_measurement import CodecReport, codec_for, measure_codec
from ddpm.evaluation.codec_report import coded, plot_bytes, plot_report, plot_strip
from ddpm.evaluation.image_formats import measure_others, psnr

NETWORK, LINEAR, FASHION = "runs/cifar10-compress", "runs/cifar10-linear", "models/fashion-mnist"
FILES = Path("runs") / "codec-files"
CROP, CORNER = 256, (100, 200)
PREFIXES = (20, 40, 60, 80, 100, 117, 120, 135, 160, 200)


def opened(run: str) -> Codec:
    """A run's codec."""
    model = ddpm.load(run, device="cpu")
    made = read_codec_data(model)
    assert made is not None, f"ddpm tune codec {run} comes first"
    return make_codec(model, made)


def measured(run: str, data: str) -> tuple[Codec, CodecReport, list[np.ndarray]]:
    """A run's codec on all images of a source."""
    images = ddpm.images(data)
    codec, rows = codec_for(ddpm.load(run, device="cpu"), images, len(images))
    report = measure_codec(codec, images, rows, FILES / Path(run).name)
    print(run, round(report.bits_per_dim, 4), report.psnr_at(135), report.bytes_at(28.0), flush=True)
    return codec, report, list(images.array())


def row(report: CodecReport, run: str, codec: Codec) -> dict[str, Any]:
    """A report for JSON, with ratios of what was paid to what theory asks, by image."""
    files = [one for one in report.files if not one["stored"]]
    index = np.array([one["index_bits"] for one in files])
    theory = np.array([one["divergence"] for one in files])
    delivered = np.array([one["delivered"] for one in files])
    excess = np.array([one["residual_bytes"] - one["ideal_bytes"] for one in files])
    allowed = np.array([0.005 * one["ideal_bytes"] + 8 for one in files])
    model = ddpm.show(run)
    return {
        "run": run,
        "fingerprint": codec.fingerprint,
        "images_seen": model["images_seen"],
        "parameters": model["parameters"],
        "levels": codec.chain.levels,
        "bits_of_steps": codec.chain.bits,
        "psnr_of_prefixes": {str(size): round(report.psnr_at(size), 3) for size in PREFIXES},
        "index_bits_over_delivered_divergence": round(float(index.sum() / delivered.sum()), 4),
        "index_bits_over_theoretical_rate": round(float(index.sum() / theory.sum()), 4),
        "residual_over_ideal_worst": round(float(max((excess + 0.0) / [one["ideal_bytes"] for one in files])), 5),
        "residual_within_half_a_percent_and_8_bytes": bool((excess <= allowed).all()),
        "reseeded": sum(one["reseeded"] for one in files),
        **report.table(),
    }


def cifar10(data: str) -> None:
    """The network against a linear codec of the same images, and both against ordinary formats."""
    codec, network, images = measured(NETWORK, data)
    other, linear, _ = measured(LINEAR, data)
    plot_report(network, RESULTS / "codec-cifar10.png")
    shown = coded(codec, images[:4])
    plot_strip(codec, shown, RESULTS / "codec-cifar10-strip.png")
    plot_bytes(codec, shown[2], RESULTS / "codec-cifar10-bytes.png")
    at = {"network": network.bytes_at(28.0), "linear": linear.bytes_at(28.0)}
    table = {
        "data": data,
        "bytes_at_28_db": at,
        "network_saves": 1 - at["network"] / at["linear"],
        "split": split(codec, images[:8]),
        "network": row(network, NETWORK, codec),
        "linear": row(linear, LINEAR, other),
    }
    write_result("codec-cifar10", table, seed=0)


def fashion(data: str) -> None:
    """Grey images of 28 x 28 as single files."""
    codec, report, images = measured(FASHION, data)
    plot_report(report, RESULTS / "codec-fashion-mnist.png")
    plot_strip(codec, coded(codec, images[:4]), RESULTS / "codec-fashion-mnist-strip.png")
    best = min((one.bytes, one.name, one.choice) for one in report.others if one.psnr is None)
    table = {
        "data": data,
        "best_ordinary_format": best,
        "under_it_by": 1 - report.lossless / best[0],
        "split": split(codec, images[:8]),
        "network": row(report, FASHION, codec),
    }
    write_result("codec-fashion-mnist", table, seed=0)


def photograph() -> None:
    """A crop of a photograph by tiles of 32 x 32, with the network that was trained on the CIFAR-10 images and with the
    linear model that comes with the package; that one was measured on this very photograph, which flatters it."""
    from sklearn.datasets import load_sample_image

    top, left = CORNER
    crop = load_sample_image("china.jpg")[top : top + CROP, left : left + CROP].transpose(2, 0, 1)
    crop = np.ascontiguousarray(crop)
    table: dict[str, Any] = {"image": f"china.jpg[{top}:{top + CROP}, {left}:{left + CROP}]", "size": list(crop.shape)}
    shown = [(crop, "the crop")]
    for run in (NETWORK, "linear"):
        codec = opened(run)
        start = time.perf_counter()
        made = encode(codec, [crop])[0]
        middle = time.perf_counter()
        back = decode(codec, [open_file(codec, made.data)])[0]
        seconds = {"encode": middle - start, "decode": time.perf_counter() - middle}
        assert np.array_equal(back.image, crop)
        lossy = encode(codec, [crop], most_bytes=[10**7])[0].data
        header = len(open_file(codec, lossy).packet.header.pack())
        curve = []
        for step in range(0, len(codec.chain.steps) + 1, 4):
            size = header + -(-64 * sum(codec.chain.bits[:step]) // 8)
            found = decode(codec, [open_file(codec, lossy, size)])[0].image
            curve.append({"bytes": min(size, len(lossy)), "psnr": round(psnr(found, crop), 2)})
            if (run == NETWORK and step in (8, 16)) or step + 4 > len(codec.chain.steps):
                shown.append((found, f"{run}, {curve[-1]['bytes']:,} B, {curve[-1]['psnr']} dB"))
        table[run] = {
            "lossless_bytes": len(made.data),
            "bits_per_dim": 8 * len(made.data) / crop.size,
            "stored": made.stored,
            "progressive_bytes": made.index_bits // 8,
            "residual_bytes": made.residual_bytes,
            "prefixes": curve,
            "seconds": seconds,
        }
    table["others"] = [vars(one) for one in measure_others([crop])]
    show_photograph(shown, RESULTS / "codec-photograph.png")
    write_result("codec-photograph", table, seed=0)


def show_photograph(shown: list[tuple[np.ndarray, str]], path: Path) -> None:
    """The crop and what prefixes look like, small enough for a repository."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.4 * -(-len(shown) // 4)), dpi=68, layout="constrained")
    panels = figure.subplots(-(-len(shown) // 4), 4, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (image, words) in zip(panels, shown, strict=False):
        axes.imshow(image.transpose(1, 2, 0))
        axes.set_title(words, fontsize=7)
    figure.savefig(path)


def split(codec: Codec, images: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Seconds an image of encoding and decoding, alone (one image at a time), and of their parts."""
    found: dict[str, dict[str, float]] = {}
    for name, work in (
        ("encode", lambda image: encode(codec, [image])[0].data),
        ("decode", lambda data: decode(codec, [open_file(codec, data)])),
    ):
        inputs = images if name == "encode" else [encode(codec, [image])[0].data for image in images]
        with timed() as seconds:
            start = time.perf_counter()
            for one in inputs:
                work(one)
            total = time.perf_counter() - start
        parts = {part: spent / len(inputs) for part, spent in seconds.items()}
        found[name] = {"total": total / len(inputs), **parts}
    return found


@contextmanager
def timed() -> Any:
    """Add up the seconds spent in the network, the trellis and the pixel model."""
    seconds = {"network": 0.0, "trellis": 0.0, "pixels": 0.0}
    places: list[tuple[Any, str, str]] = [
        (progressive.Chain, "x0", "network"),
        (progressive, "simulate", "trellis"),
        (progressive, "noise", "trellis"),
        (pixel_model.CausalModel, "encode", "pixels"),
        (pixel_model.CausalModel, "decode", "pixels"),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]

    def clocked(call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                seconds[part] += time.perf_counter() - start

        return run

    for (owner, name, part), call in zip(places, before, strict=True):
        setattr(owner, name, clocked(call, part))
    try:
        yield seconds
    finally:
        for (owner, name, _), call in zip(places, before, strict=True):
            setattr(owner, name, call)


# ---- how far floats are apart ---------------------------------------------------------------------------------------

WAYS: dict[str, dict[str, str]] = {
    "two threads": {"OMP_NUM_THREADS": "2"},
    "alone in its batch": {"CODEC_BATCH": "1"},
    "contiguous memory": {"CODEC_LAYOUT": "contiguous"},
    "no oneDNN": {"CODEC_ONEDNN": "0"},
    "ATen without vectors": {"ATEN_CPU_CAPABILITY": "default"},
    "ATen AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
    "oneDNN SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
}


def margin(data: str) -> None:
    """The guesses at the end of the chain, computed in many ways in processes of their own: how far apart?"""
    table: dict[str, Any] = {"data": data, "margin": MARGIN, "unit": "sixteenths of a grey level", "runs": {}}
    for run in (NETWORK, LINEAR):
        base = guesses(run, data, {})
        apart = {name: float(np.abs(guesses(run, data, way) - base).max()) for name, way in WAYS.items()}
        nearest = np.abs(base - np.floor(base) - 0.5).reshape(len(base), -1).min(1)
        table["runs"][run] = {
            "tiles": len(base),
            "largest_difference": apart,
            "tiles_that_would_take_another_seed": {
                f"{bound:g}": int((nearest < bound).sum()) for bound in (1e-9, MARGIN, 1e-6, 1e-5, 1e-4)
            },
        }
        print(run, table["runs"][run], flush=True)
    write_result("codec-margin", table, seed=0)


def guesses(run: str, data: str, way: dict[str, str]) -> np.ndarray:
    """In a process of its own, because some settings count only at its start."""
    out = FILES / "guesses.npy"
    out.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **way}
    subprocess.run([sys.executable, __file__, "guess", "--data", data, "--run", run], env=environment, check=True)
    return np.load(out)


def guess(run: str, data: str, count: int = 16) -> None:
    """Decode the files that `measured` left behind down to the guesses."""
    if os.environ.get("CODEC_ONEDNN") == "0":
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    codec = opened(run)
    network = codec.chain.denoiser.network
    assert isinstance(network, torch.nn.Module)
    if os.environ.get("CODEC_LAYOUT") == "contiguous":
        network.to(memory_format=torch.contiguous_format)
    files = sorted((FILES / Path(run).name).glob("*.dpc"))[:count]
    rows = np.stack([open_file(codec, file.read_bytes()).packet.bits for file in files])
    size = int(os.environ.get("CODEC_BATCH", str(CPU_TILES)))
    found = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        bits = np.split(part, np.cumsum(codec.chain.bits)[:-1], axis=1)
        counts = np.full(len(part), len(codec.chain.steps))
        x = codec.chain.decode(bits, codec.chain.start([(0, 0)] * len(part), codec.geometry.shape), counts)
        found.append((codec.chain.clean(x.cpu(), counts, batch_size=size) + 1) * (127.5 * 16))
    np.save(FILES / "guesses.npy", torch.cat(found).numpy())


def main() -> None:
    """Do one of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("what", choices=["cifar10", "fashion-mnist", "photograph", "margin", "guess"])
    parser.add_argument("--data", default="")
    parser.add_argument("--run", default="")
    options = parser.parse_args()
    if options.what == "guess":
        guess(options.run, options.data)
        return
    torch.set_num_threads(1)
    work = {"cifar10": cifar10, "fashion-mnist": fashion, "margin": margin}
    photograph() if options.what == "photograph" else work[options.what](options.data)


if __name__ == "__main__":
    main()
