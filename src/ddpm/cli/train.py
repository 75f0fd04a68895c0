"""ddpm train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm.base.progress import duration
from ddpm.cli import options
from ddpm.cli.console import PROGRESS, giga, parse_changes, rounded, toml_lines
from ddpm.errors import Stopped

if TYPE_CHECKING:
    from ddpm.model.recipe import Recipe


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or the path of a .toml file.")],
    data: Annotated[str | None, typer.Option(help="A source of images [default: the recipe's data].")] = None,
    out: Annotated[str | None, typer.Option(help="The run folder [default: runs/RECIPE].")] = None,
    size: Annotated[
        str | None, typer.Option(help="Scale images to H or HxW pixels [default: as they are, if they are equal].")
    ] = None,
    fit: Annotated[
        str | None, typer.Option(help="How --size scales: crop (keeps the aspect) or resize [default: crop].")
    ] = None,
    alpha: options.Alpha = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of the recipe, such as network.channels=64; repeatable [default: none].",
        ),
    ] = None,
    allow_change: Annotated[
        bool, typer.Option("--allow-change", help="Resume with other settings; where they changed is written down.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the recipe and what it will cost.")] = False,
) -> None:
    """Train a model. The same command again resumes; a larger train_images continues."""
    import ddpm
    from ddpm.base.files import check_output

    given = {"data": data, "size": size, "fit": fit, "alpha": alpha}
    changes = parse_changes(settings or []) | {key: value for key, value in given.items() if value is not None}
    chosen = ddpm.recipe(recipe, **changes)
    if dry_run:
        print("\n".join(_dry_run(chosen)))
        return
    folder = check_output(f"runs/{Path(recipe).stem}" if out is None else out, folder=True)
    try:
        ddpm.train(chosen, out=folder, allow_change=allow_change, progress=PROGRESS)
    except KeyboardInterrupt as stop:
        raise Stopped(str(stop) or "stopped.") from None
    newest = Path(ddpm.show(folder)["checkpoint"]).name
    print(
        f"Trained on {int(newest):,} images. In {folder}:\n"
        f"  checkpoints/{newest}  the model\n"
        f"  samples/{newest}.png  16 samples of it\n"
        f"  {', '.join(entry.name for entry in sorted(folder.glob('[!.]*')) if entry.is_file())}"
    )


def _dry_run(recipe: Recipe) -> list[str]:
    """The resolved recipe, its cost and what to expect of it, as lines."""
    import ddpm
    from ddpm.training.expectations import meaning, recognisable

    resolved, cost = ddpm.cost(recipe)
    batch = f"a batch of {recipe.batch_size}{f' in parts of {recipe.micro_batch}' if recipe.micro_batch else ''}"
    return [
        *toml_lines(resolved.model_dump(mode="json")),
        "",
        f"parameters           {cost.parameters:,}",
        f"multiply-adds        {cost.macs:,} a network call on one image ({giga(2 * cost.macs)} GFLOP)",
        f"memory               about {giga(cost.memory)} GB at the peak of a step, for {batch}",
        f"speed                about {rounded(cost.images_per_second)} images/s on this machine as it is now",
        f"time                 about {duration(cost.seconds)} for {recipe.train_images:,} images",
        "",
        *recognisable(resolved, cost.images_per_second),
        *meaning(resolved),
    ]
