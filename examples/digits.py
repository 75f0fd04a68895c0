"""The whole cycle on scikit-learn's handwritten digits: train, sample, score, compress. Some minutes on two CPU cores.

python examples/digits.py                   everything goes into runs/example
python examples/digits.py FOLDER --images 500k --seeds 64
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import ddpm

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/example"))
parser.add_argument("--images", default="200k", help="training images to see, counting repetitions")
parser.add_argument("--seeds", type=int, default=64, help="samples to draw")
parser.add_argument("--channels", type=int, default=64, help="width of the network")
given = parser.parse_args()

# Train. The same call again goes on where it stopped.
recipe = ddpm.recipe("digits", train_images=given.images, network={"channels": given.channels})
model = ddpm.load(ddpm.train(recipe, out=given.folder))

# Sample with twenty network calls an image: one seed is one image.
samples = ddpm.sample(model, seeds=range(given.seeds), steps=20)
ddpm.save_grid(samples, given.folder / "samples.png")

# Score: bits/dim of images that the model never saw, and how far its samples lie from them.
ddpm.tune_variance(model)
likelihood = ddpm.evaluate_likelihood(model, "digits:test", variance="optimal")
distances = ddpm.evaluate_fid(samples, "digits:test", features="pixels")
print(
    f"{likelihood.bound.total.value:.3f} ± {likelihood.bound.total.error:.3f} bits/dim, FID {distances.fid.value:.2f}"
)

# Compress one of them to real bytes, and read a prefix and the whole of them back.
ddpm.tune_codec(model, fit_steps=500)
image = ddpm.images("digits:test")[0]
data = ddpm.compress(model, image)
assert np.array_equal(ddpm.decompress(model, data), image)
ddpm.save_grid(np.stack([ddpm.decompress(model, data, most_bytes=len(data) // 2), image]), given.folder / "codec.png")
print(f"{len(data)} bytes for {image.size} pixels; samples.png and codec.png lie in {given.folder}")
