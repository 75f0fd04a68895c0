"""The verbs: what `import ddpm` shows and the command line stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ddpm.checkpoint import describe as show
from ddpm.checkpoint import load_model as load
from ddpm.codec.verbs import compress, decompress
from ddpm.codec.verbs import prepare_codec as tune_codec
from ddpm.convert import convert
from ddpm.data import ImageSet, open_images
from ddpm.data import inspect_source as inspect
from ddpm.evaluation import FullSum, OdeBound, compare, nearest_neighbours, ode_bound, tune_variance
from ddpm.evaluation import full_sum as full_sum_of
from ddpm.evaluation.criterion import criterion_on
from ddpm.evaluation.placing import check_placing, place_each
from ddpm.evaluation.rate import write_profile
from ddpm.files import writable_folder
from ddpm.geometry import parse_size
from ddpm.likelihood.estimate import Bound, estimate_bound
from ddpm.likelihood.profile import Profile, estimate_profile
from ddpm.model import Model
from ddpm.opened import recipe_images, training_images
from ddpm.pictures import save_grid
from ddpm.recipe import Recipe, changed, load_recipe, resolve
from ddpm.samplers import Sampling
from ddpm.samplers.sampling import FAST
from ddpm.scored import Manner, scoring_for
from ddpm.training import Progress
from ddpm.training import train as train_run

__all__ = [
    "bits_per_dim",
    "compare",
    "compress",
    "convert",
    "decompress",
    "full_sum",
    "images",
    "inspect",
    "load",
    "nearest_neighbours",
    "ode_bits_per_dim",
    "place_levels",
    "rate_distortion",
    "recipe",
    "sample",
    "save_grid",
    "save_profile",
    "show",
    "train",
    "tune",
    "tune_codec",
]


def recipe(name: str, /, **changes: Any) -> Recipe:
    """A recipe by name or TOML file, with changes: recipe("digits", train_images="50k", network={"channels": 32})."""
    return load_recipe(name, changes)


def images(src: str, *, size: str | None = None, fit: str = "crop", split: str | None = None) -> ImageSet:
    """Open a source of images (see the README for the grammar of sources).

    size   "H" or "HxW" to scale to; None leaves all images as they are and wants them equal
    fit    "crop" keeps the aspect and cuts the centre, "resize" does not
    split  taken where the source has splits and `src` names none
    """
    return open_images(src, size=None if size is None else parse_size(size), fit=fit, default_split=split)


def train(
    recipe: Recipe,
    *,
    out: str | Path,
    data: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Path:
    """Train a model; the same call again resumes.

    recipe       what is unset in it (geometry, classes) is taken from the data
    out          the run folder
    data         a source of images, instead of recipe.data
    on_progress  called after every step
    say          called with sentences worth showing
    returns      the run folder, for `load`
    """
    if data is not None:
        recipe = changed(recipe, {"data": data})
    found = recipe_images(recipe)
    resolved = resolve(recipe, found.geometry, len(found.class_names))
    held_out = None
    if resolved.validation is not None:
        held_out = recipe_images(changed(resolved, {"data": resolved.validation}), split=None)
    train_run(resolved, found, out, held_out=held_out, on_progress=on_progress, say=say)
    return Path(out)


def sample(
    model: Model,
    *,
    seeds: Iterable[int],
    sampler: str | None = None,
    steps: int | None = None,
    spacing: str | None = None,
    variance: str | None = None,
    eta: float | None = None,
    threshold: str = "static",
    class_name: str | None = None,
    guidance: float = 1.0,
    batch_size: int = 64,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> Tensor:
    """Draw one picture per seed, the same whatever the batch: uint8 (B, C, H, W).

    sampler ... guidance  see samplers.Sampling; without any, the paper's chain over all levels
    on_step               called after every step with the number of pictures it advanced
    """
    how = Sampling(sampler, steps, spacing, variance, eta, threshold, class_name, guidance)
    return model.draw(list(seeds), how, batch_size=batch_size, on_step=on_step)


def bits_per_dim(
    model: Model,
    images: ImageSet,
    *,
    calls: int = 4096,
    variance: str | None = None,
    levels: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> Bound:
    """Estimate the variational bound in bits per dimension: .total = .prior + .steps + .decoder, each with an error.

    calls     network calls in all
    variance  of the reverse steps: "large", "small", "optimal" (after `tune`) or the model's own (None)
    levels    K: only the best K levels for the bound, with optimal variances (after `tune`); None takes all
    limit     score only so many of the images, drawn by the seed
    on_calls  called after every batch with the number of calls made in it

    Errors: InputError for images of another geometry or class set, none at all, or those that were tuned on; for too
    few calls, and for variances that were not measured; WrongModel and DamagedFile for side files.
    """
    scoring = scoring_for(
        model, images, Manner(variance, levels), limit=limit, seed=seed, batch_size=batch_size, on_calls=on_calls
    )
    return estimate_bound(scoring, calls)


def rate_distortion(
    model: Model,
    images: ImageSet,
    *,
    calls: int = 4096,
    variance: str | None = None,
    levels: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> Profile:
    """Rate and distortion by level (Ho et al. 2020, Fig. 5, Table 4); arguments as in bits_per_dim, calls at least one
    a level."""
    scoring = scoring_for(
        model, images, Manner(variance, levels), limit=limit, seed=seed, batch_size=batch_size, on_calls=on_calls
    )
    return estimate_profile(scoring, calls)


def full_sum(
    model: Model,
    images: ImageSet,
    *,
    out: str | Path,
    variance: str | None = None,
    levels: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> FullSum:
    """Every level of every image, in shards below the folder `out`; arguments as in bits_per_dim.

    .compute() makes what is missing (again after a stop; .compute((i, n)) a share of it), then .bound() and .profile()
    add it up.
    """
    scoring = scoring_for(
        model, images, Manner(variance, levels), limit=limit, seed=seed, batch_size=batch_size, on_calls=on_calls
    )
    return full_sum_of(model, scoring, Path(out))


def save_profile(profile: Profile, folder: str | Path) -> list[Path]:
    """Write rate.png (Ho et al. 2020, Fig. 5), rate.json and rate.csv, every level; returns the files."""
    return write_profile(profile, writable_folder(folder), {})


def ode_bits_per_dim(
    model: Model,
    images: ImageSet,
    *,
    calls: int = 4096,
    steps: int = 40,
    variance: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> OdeBound:
    """Bits per dimension by the probability-flow ODE (Song et al. 2021), on as many images as the calls allow.

    steps     of the solver, four network calls each
    variance  of the decoder alone; otherwise as in bits_per_dim
    """
    scoring = scoring_for(
        model, images, Manner(variance), limit=limit, seed=seed, batch_size=batch_size, on_calls=on_calls
    )
    return ode_bound(scoring, calls=calls, steps=steps)


def tune(
    model: Model,
    images: ImageSet | None = None,
    *,
    calls: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> Path:
    """Measure the optimal reverse variances of a model and store them beside its checkpoint; returns the file.

    images  None: the model's own training images; never those that will be scored
    calls   network calls in all; None takes about 32 a level

    Errors: InputError, as for scoring; a folder that cannot be written to.
    """
    found = training_images(model, option="images") if images is None else images
    return tune_variance(model, found, calls=calls, seed=seed, batch_size=batch_size, on_calls=on_calls)[0]


def place_levels(
    model: Model,
    images: ImageSet | None = None,
    *,
    steps: Sequence[int],
    sampler: str = FAST,
    features: Sequence[str] = ("pixels",),
    trials: int = 32,
    pictures: int = 1024,
    seed: int = 0,
    batch_size: int = 64,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> Path:
    """Place the levels of short chains for a model and store them beside its checkpoint; returns the file.

    images    None: the model's own training images; never those that pictures will be compared with
    steps     numbers of levels, each placed by itself; `sample` with so many steps takes them
    features  what pictures are judged by, see distances.open_extractor; of several, the geometric mean counts
    trials    for each number of steps, each of so many `pictures`

    Errors: InputError, as for `compare`; a folder that cannot be written to; a model that predicts the mean.
    """
    found = training_images(model, option="images") if images is None else images
    check_placing(model, sampler, steps, trials)
    criterion = criterion_on(model, found, features, pictures=pictures, seed=seed)
    options: dict[str, Any] = {"trials": trials, "batch_size": batch_size, "on_calls": on_calls}
    return [path for path, _ in place_each(model, criterion, sampler, steps, **options)][-1]


def resolve_recipe(recipe: Recipe) -> Recipe:
    """Fill in what a recipe leaves to its data; one that names none must fix its geometry."""
    if recipe.data is None:
        return resolve(recipe, recipe.geometry, recipe.network.classes or 0)
    found = recipe_images(recipe)
    return resolve(recipe, found.geometry, len(found.class_names))
