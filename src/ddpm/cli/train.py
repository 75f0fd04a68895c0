"""ddpm train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm.cli.console import duration, giga, parse_changes, progress_bar, rounded, say, toml_lines
from ddpm.errors import Stopped

if TYPE_CHECKING:
    from ddpm.recipe import Recipe
    from ddpm.training import Progress


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or the path of a .toml file.")],
    data: Annotated[str | None, typer.Option(help="Where the images are (instead of the recipe's data).")] = None,
    out: Annotated[str | None, typer.Option(help="The run folder; runs/RECIPE if not given.")] = None,
    size: Annotated[str | None, typer.Option(help="Scale images to H or HxW pixels.")] = None,
    fit: Annotated[str | None, typer.Option(help="How --size scales: crop (keeps the aspect) or resize.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the recipe and what it will cost.")] = False,
) -> None:
    """Train a model; the same command again resumes, a larger train_images continues."""
    from ddpm import api
    from ddpm.checkpoint import find_checkpoint
    from ddpm.files import check_output
    from ddpm.recipe import load_recipe

    changes = parse_changes(settings or [])
    given = {"data": data, "size": size, "fit": fit}
    chosen = load_recipe(recipe, changes | {key: value for key, value in given.items() if value is not None})
    if dry_run:
        print("\n".join(_dry_run(chosen)))
        return
    folder = check_output(f"runs/{Path(recipe).stem}" if out is None else out, folder=True)
    try:
        with progress_bar("Training", chosen.train_images) as bar:
            api.train(chosen, out=folder, say=say, on_progress=lambda progress: bar(progress.images, _note(progress)))
    except KeyboardInterrupt as stop:
        raise Stopped(str(stop) or "stopped.") from None
    newest = find_checkpoint(folder)
    print(
        f"Trained on {int(newest.name):,} images. In {folder}:\n"
        f"  checkpoints/{newest.name}  the model\n"
        f"  samples/{newest.name}.png  16 pictures it drew\n"
        f"  {', '.join(entry.name for entry in sorted(folder.glob('[!.]*')) if entry.is_file())}"
    )


def _note(progress: Progress) -> str:
    if progress.loss is None or progress.images_per_second is None or progress.seconds_left is None:
        return ""
    speed, left = progress.images_per_second, duration(max(progress.seconds_left, 0))
    return f"loss {progress.loss:.4f}  {speed:,.0f} images/s  {left} left"


def _dry_run(recipe: Recipe) -> list[str]:
    """The resolved recipe and its cost, as lines."""
    from ddpm import api
    from ddpm.training import estimate

    resolved = api.resolve_recipe(recipe)
    cost = estimate(resolved)
    return [
        *toml_lines(resolved.model_dump(mode="json")),
        "",
        f"parameters           {cost.parameters:,}",
        f"multiply-adds        {cost.macs:,} a network call on one image ({giga(2 * cost.macs)} GFLOP)",
        f"memory               about {giga(cost.memory)} GB for a batch of {recipe.batch_size}",
        f"speed                about {rounded(cost.images_per_second)} images/s on this machine as it is now",
        f"time                 about {duration(cost.seconds)} for {recipe.train_images:,} images",
    ]
