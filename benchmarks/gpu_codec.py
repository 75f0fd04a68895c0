"""Part `codec` of gpu.py: seconds here and on one core of the CPU, and whether files decode on the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from on_device import MODEL, Bench, Figures, table

import ddpm
from ddpm.codec.codec_data import Codec, make_codec, read_codec_data
from ddpm.codec.decode import Decoded, decode, open_file
from ddpm.codec.encode import encode

IMAGES = 32


def codec(bench: Bench) -> Iterator[Figures]:
    """Encoding and decoding images that the model itself draws, all together, as `compress` and `decompress` do."""
    count = 2 if bench.tiny else IMAGES
    rows = []
    for name in (str(MODEL), "linear"):
        images = list(ddpm.sample(ddpm.load(name, device="cpu"), seeds=range(count), steps=10, progress=False))
        rows.append({"model": Path(name).name, "images": count, **codec_check(bench, name, images)})
        print(rows[-1], flush=True)
    yield {"rows": rows}


def codec_check(bench: Bench, model: str, images: list[np.ndarray]) -> Figures:
    """Seconds here and on one core of the CPU, and whether files made on either decode on the other, exactly."""
    here, on_cpu = _opened(model, bench.device), _opened(model, torch.device("cpu"))
    found: Figures = {}
    files = {}
    with one_thread():
        for place, made in (("here", here), ("one_core", on_cpu)):
            if place == "here":
                _decoded(made, [one.data for one in encode(made, images)])  # the warm-up; a core needs none
            start = time.perf_counter()
            files[place] = [one.data for one in encode(made, images)]
            middle = time.perf_counter()
            decoded = _decoded(made, files[place])
            end = time.perf_counter()
            found[f"{place}_encode"], found[f"{place}_decode"] = round(middle - start, 4), round(end - middle, 4)
            found[f"{place}_exact"] = _exact(decoded, images)
        found["made_here_exact_on_cpu"] = _exact(_decoded(on_cpu, files["here"]), images)
        found["made_on_cpu_exact_here"] = _exact(_decoded(here, files["one_core"]), images)
    found["equal_files"] = sum(one == other for one, other in zip(files["here"], files["one_core"], strict=True))
    slow, fast = (found[f"{place}_encode"] + found[f"{place}_decode"] for place in ("one_core", "here"))
    return {**found, "times_faster": round(slow / fast, 2)}


def _opened(model: str, device: torch.device) -> Codec:
    loaded = ddpm.load(model, device=str(device))
    made = read_codec_data(loaded)
    assert made is not None
    return make_codec(loaded, made)


def _decoded(made: Codec, files: list[bytes]) -> list[Decoded]:
    return decode(made, [open_file(made, data) for data in files])


def _exact(found: list[Decoded], images: list[np.ndarray]) -> int:
    """How many images came back exactly."""
    return sum(one.image is not None and np.array_equal(one.image, of) for one, of in zip(found, images, strict=True))


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def printed(figures: Figures) -> str:
    """Seconds, and the files."""
    lines, told = [], []
    for row in figures["rows"]:
        seconds = [f"{row[f'{place}_{work}']:.2f}" for work in ("encode", "decode") for place in ("here", "one_core")]
        lines.append([f"{row['model']}, {row['images']} images", *seconds, f"{row['times_faster']:.1f}"])
        across = f"{row['made_here_exact_on_cpu']} made here decode on the CPU and {row['made_on_cpu_exact_here']} back"
        told.append(f"{row['model']}: {row['equal_files']} of {row['images']} files are byte-equal, {across}")
    header = ["seconds", "encode", "on one core", "decode", "on one core", "times faster"]
    return f"{table(header, lines)}\n\n{'; '.join(told)}."
