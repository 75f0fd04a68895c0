"""The verbs: what `import ddpm` shows, and what each command of the command line calls.

Images go in as a source, an array or an ImageSet, and come out as NumPy uint8 (B, C, H, W). Verbs that take long have
`progress`: True shows a bar where stderr is a terminal, False shows nothing, a `Progress` of your own hears everything.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddpm.base.arguments import checked
from ddpm.base.files import read_bytes
from ddpm.base.geometry import parse_size
from ddpm.base.image_io import save_grid
from ddpm.base.progress import Console, Progress, progress_of
from ddpm.base.tensors import as_array
from ddpm.codec.codec_data import Codec, check_codes, make_codec, read_codec_data
from ddpm.codec.container import Cursor, read_header
from ddpm.codec.decode import DAMAGED, PARTIAL, check_reconstruct, decode, open_file
from ddpm.codec.describe import describe_file
from ddpm.codec.file_lists import MOST_BYTES, SUFFIX, dpc_plan, image_plan, is_dpc
from ddpm.codec.file_reports import CompressionReport, DecompressionReport
from ddpm.codec.from_files import Decompression
from ddpm.codec.lookup import Codecs
from ddpm.codec.to_files import UNLIKE, Compression, byte_limit, compress_all
from ddpm.conversion import convert
from ddpm.data.preflight import inspect_source as inspect
from ddpm.data.sources import ImageSet, open_images
from ddpm.errors import DamagedFile, InputError, NotVerified, PartialImageWarning, WrongModel
from ddpm.evaluation.codec_report import evaluate_codec
from ddpm.evaluation.comparison import evaluate_fid
from ddpm.evaluation.likelihood_report import evaluate_likelihood
from ddpm.evaluation.memorisation import evaluate_memorisation
from ddpm.generation.draw import draw, plan_for
from ddpm.generation.save import save_samples
from ddpm.metrics.neighbours import nearest_neighbours
from ddpm.model.checkpoint import describe
from ddpm.model.checkpoint import load_model as load
from ddpm.model.datasets import recipe_images
from ddpm.model.model import Model
from ddpm.model.pruning import PruneReport, prune_run
from ddpm.model.recipe import Recipe, changed, load_recipe, resolve, with_lengths
from ddpm.samplers.plan import Sampling, SamplingOptions
from ddpm.training.cost import Cost, estimate_cost
from ddpm.training.linear_model import linear_images, make_linear
from ddpm.training.loop import train as train_run
from ddpm.training.run_folder import with_changes
from ddpm.tuning.codec import CodecDataReport, tune_codec
from ddpm.tuning.timesteps import tune_timesteps
from ddpm.tuning.variances import tune_variance

# fmt: off
__all__ = [
    "Console", "Progress", "compress", "compress_files", "convert", "cost", "decompress", "decompress_files",
    "evaluate_codec", "evaluate_fid", "evaluate_likelihood", "evaluate_memorisation", "images", "inspect", "load",
    "nearest_neighbours", "prune", "recipe", "sample", "save_grid", "save_samples", "show", "train", "tune_codec",
    "tune_linear", "tune_timesteps", "tune_variance",
]
# fmt: on


def recipe(name: str | Path, /, **changes: Any) -> Recipe:
    """A recipe by name or TOML file, with changes: recipe("digits", train_images="50k", network={"channels": 32})."""
    return load_recipe(str(name), changes)


def images(
    src: str | Path,
    *,
    size: str | int | None = None,
    fit: str = "crop",
    split: str | None = None,
    alpha: str | None = None,
) -> ImageSet:
    """Open a source of images (see the README for the grammar of sources).

    size   "H" or "HxW" to scale to, in pixels; None leaves all images as they are and wants them equal
    fit    "crop" keeps the aspect and cuts the centre, "resize" does not
    split  taken where the source has splits and `src` names none
    alpha  "keep", "drop" (keeps the colours), or "white" or "black" (lays them over it); None refuses see-through
           images among others without alpha
    """
    pixels = None if size is None else parse_size(str(size))
    return open_images(str(src), size=pixels, fit=fit, alpha=alpha, default_split=split)


def train(
    recipe: Recipe,
    *,
    out: str | Path,
    data: str | Path | None = None,
    allow_change: bool = False,
    progress: Progress | bool = True,
) -> Path:
    """Train a model; the same call again resumes.

    recipe        what is unset in it is taken from the data (geometry, classes) or suits the run's length
    out           the run folder
    data          a source of images, instead of recipe.data
    allow_change  resume with other settings than the run has, such as learning_rate; where is written down
    returns       the run folder, for `load`
    """
    found, resolved = _resolved(recipe if data is None else changed(recipe, {"data": str(data)}))
    held_out = None
    if resolved.validation is not None:
        held_out = recipe_images(changed(resolved, {"data": resolved.validation}), split=None)
    train_run(resolved, found, out, held_out=held_out, allow_change=allow_change, progress=progress_of(progress))
    return Path(out)


def _resolved(recipe: Recipe) -> tuple[ImageSet, Recipe]:
    found = recipe_images(recipe)
    return found, resolve(recipe, found.geometry, len(found.class_names))


def cost(recipe: Recipe) -> tuple[Recipe, Cost]:
    """A recipe with everything filled in, and what running it will take; one without data must fix its geometry."""
    if recipe.data is not None:
        recipe = _resolved(recipe)[1]
    resolved = with_lengths(resolve(recipe, recipe.geometry, recipe.network.classes or 0))
    return resolved, estimate_cost(resolved)


def sample(
    model: Model,
    *,
    seeds: Iterable[int],
    batch_size: int = 64,
    progress: Progress | bool = True,
    **how: Unpack[SamplingOptions],
) -> NDArray[np.uint8]:
    """Draw one image per seed, the same whatever the batch: uint8 (B, C, H, W).

    how  sampler, steps, spacing, variance, eta, threshold, class_name, guidance, precision: see samplers.Sampling;
         without any, the paper's chain over all levels
    """
    plan, numbers = plan_for(model, Sampling(**how)), list(seeds)
    with progress_of(progress).stage("Sampling", len(numbers) * plan.chain.steps) as advance:
        return np.asarray(draw(model, numbers, plan, batch_size=batch_size, advance=advance))


def show(path: str | Path, run: str | Path | None = None) -> dict[str, Any]:
    """What a model is, as plain values (see model.checkpoint.describe), with the `changes` of its run's recipe; or what
    a .dpc file says of itself.

    run  for a .dpc file: the model it wants, unless that is `linear` or lies in runs/ or models/ here
    """
    if not Path(path).is_file():
        return with_changes(describe(path))
    data = read_bytes(path, MOST_BYTES)
    if not is_dpc(data, path):
        raise InputError(f"'{path}' is no run folder, no checkpoint and no {SUFFIX} file.")
    try:
        return describe_file(data, run)
    except (DamagedFile, WrongModel) as error:
        raise type(error)(f"'{path}': {error}") from None


def prune(run: str | Path, checkpoints: Sequence[str] = (), *, codec: bool = False) -> PruneReport:
    """Remove checkpoints of a run that are older than its newest two, and that nothing needs; never the newest one.

    What a longer run would go on from stays, and the model of a finished run that a longer one continued.

    checkpoints  instead these alone, by name, whatever they are for
    codec        also those with codec data: .dpc files that were made with them can then no longer be read
    """
    return prune_run(Path(run), checkpoints, codec=codec)


def tune_linear(
    data: str | Path, out: str | Path, *, device: str = "auto", fit_steps: int = 8000, progress: Progress | bool = True
) -> CodecDataReport:
    """Make a model without a network, like the packaged `linear`, of a source of images, with its codec data.

    out  its folder, which must not exist
    """
    measured = linear_images(data)
    return tune_codec(load(make_linear(measured, out), device=device), measured, fit_steps=fit_steps, progress=progress)


# ---- the codec ------------------------------------------------------------------------------------------------------


def compress(
    model: Model,
    image: ArrayLike,
    *,
    rate: float | None = None,
    most_bytes: int | None = None,
    verify: bool = True,
    progress: Progress | bool = True,
) -> bytes:
    """Compress one image to the bytes of a .dpc file; lossless unless a rate or a size is given.

    image       uint8 (C, H, W), grey or RGB, up to 2^24 pixels
    rate        bits/dim that the file may have
    most_bytes  or how many bytes
    verify      decompress the bytes and compare before they are returned

    The first call of a model without codec data makes them, on its training images, which takes minutes (tune_codec).
    Errors: InputError for what no file can hold, NotVerified.
    """
    array = as_array(image, "image")
    limit = byte_limit(array, rate, most_bytes)
    (found,) = compress_all(_codec(model, progress_of(progress)), [array], [limit], verify=verify)
    if found is None:
        raise NotVerified(UNLIKE)
    return found.data


def compress_files(
    model: Model,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    rate: float | None = None,
    most_bytes: int | None = None,
    verify: bool = True,
    force: bool = False,
    batch_size: int | None = None,
    progress: Progress | bool = True,
) -> CompressionReport:
    """Compress image files to .dpc files in a folder; options as in compress.

    paths       image files, and folders that are looked through for them; a file goes to OUT/NAME.dpc, one in a folder
                to OUT/its path below that folder
    force       replace files that are there; else those that are right are left and count as done: a lossless one by
                its checksums and, with verify, decompressed; a lossy one if compressing gives the same bytes
    batch_size  tiles in a network call; None is 16 on the CPU, and on a GPU as many as have 2^17 pixels

    What is wrong with an image is in its row, and stops no other.
    """
    report_to = progress_of(progress)
    codec = functools.cache(lambda: _codec(model, report_to))
    plan = image_plan([str(path) for path in paths], out)
    return Compression(codec, plan, rate, most_bytes, verify, force, batch_size, report_to).run()


def decompress(
    model: Model, data: bytes | bytearray | memoryview, *, most_bytes: int | None = None, reconstruct: str = "mean"
) -> NDArray[np.uint8]:
    """Decompress the bytes of a .dpc file, or of any prefix of one that holds its header: uint8 (C, H, W).

    most_bytes   read no more than this
    reconstruct  coarse images as "mean" or along the "flow", see codec.decode.decode

    A file that is cut gives the image so far and a PartialImageWarning. Errors: DamagedFile, whose `image` is what
    could still be read of it, never the exact one; WrongModel, which names both fingerprints.
    """
    content = bytes(data)
    codec, _ = Codecs(model).wanted(read_header(Cursor(content)).fingerprint.hex())
    found = decode(codec, [open_file(codec, content, most_bytes)], reconstruct=reconstruct)[0]
    if found.status == DAMAGED or found.image is None:
        error = DamagedFile(found.problem)
        error.image = found.image
        raise error
    if found.status == PARTIAL and found.problem:
        warnings.warn(found.problem, PartialImageWarning, stacklevel=3)
    return found.image


def decompress_files(
    model: Model,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    most_bytes: int | None = None,
    reconstruct: str = "mean",
    force: bool = False,
    batch_size: int | None = None,
    progress: Progress | bool = True,
) -> DecompressionReport:
    """Decompress .dpc files to PNGs in a folder; what is wrong with a file is in its row, and stops no other.

    paths  .dpc files, and folders that are looked through for them; see compress_files for where they go
    force  replace images that are there; else those that are right are left and count as done: by the checksum of a
           whole lossless file, else decompressed and compared

    A file that another checkpoint of the model's run compressed is decompressed by that one, and its row says so.
    """
    check_reconstruct(reconstruct)
    check_codes(model)
    plan = dpc_plan([str(path) for path in paths], out)
    options = most_bytes, reconstruct, force, batch_size, progress_of(progress)
    return Decompression(Codecs(model), plan, Path(out), *options).run()


def _codec(model: Model, progress: Progress) -> Codec:
    """A model's codec; where its codec data were never made, they are made."""
    check_codes(model)
    data = read_codec_data(model)
    if data is None:
        try:
            data = tune_codec(model, progress=progress).made
        except InputError:
            if (data := read_codec_data(model)) is None:  # else another process made them meanwhile
                raise
    return make_codec(model, data)


_ADVICE = {"model": "; ddpm.load(path) returns one", "recipe": "; ddpm.recipe(name) returns one"}
for _name in __all__:  # every verb checks the types of its arguments
    if not isinstance(globals()[_name], type):
        globals()[_name] = checked(globals()[_name], _ADVICE)
