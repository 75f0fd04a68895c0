"""Make the golden files: once for a format version and a model, never again. `python tests/codec/make_golden.py`"""

from __future__ import annotations

import json

import numpy as np
from codecs_of_tests import GOLDEN, decoded, opened, pixels_hash
from sklearn.datasets import load_sample_image

from ddpm.codec import encode as encoding
from ddpm.codec.encode import encode, stored


def main() -> None:
    """Write them, with golden.json."""
    linear, fashion = opened("linear"), opened("fashion-mnist")
    photograph = np.ascontiguousarray(load_sample_image("flower.jpg").transpose(2, 0, 1))
    crop = photograph[:, 150:182, 300:332].copy()
    shirt = np.zeros((1, 28, 28), np.uint8)
    shirt[0, 4:24, 8:20] = np.linspace(90, 230, 240).reshape(20, 12)
    shirt[0, 4:10, 4:24] = 140
    files = {
        "colour.dpc": ("linear", "colour", encode(linear, [crop])[0].data),
        "tiles.dpc": ("linear", "tiles", encode(linear, [photograph[:, 180:225, 280:350].copy()])[0].data),
        "grey-on-colour.dpc": ("linear", "grey on colour", encode(linear, [crop[1:2]])[0].data),
        "stored.dpc": ("linear", "stored", stored(linear, crop[:, :8]).data),
        "lossy.dpc": ("linear", "colour", encode(linear, [crop], most_bytes=[90])[0].data),
        "grey.dpc": ("fashion-mnist", "grey", encode(fashion, [shirt])[0].data),
        "grey-tiles.dpc": (
            "fashion-mnist",
            "tiles",
            encode(fashion, [photograph[:1, 180:230, 280:320].copy()])[0].data,
        ),
    }
    encoding.MARGIN = 1e-4
    files["seeds.dpc"] = ("linear", "seeds", encode(linear, [photograph[:, 150:214, 300:364].copy()])[0].data)
    GOLDEN.mkdir(exist_ok=True)
    table = {}
    for name, (model, kind, data) in files.items():
        found = decoded(linear if model == "linear" else fashion, [data])[0]
        assert found.image is not None
        (GOLDEN / name).write_bytes(data)
        table[name] = {"model": model, "kind": kind, "status": found.status, "sha256": pixels_hash(found.image)}
    (GOLDEN / "golden.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
