"""ddpm evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm.cli.console import counted, print_result, progress_bar, say
from ddpm.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

SHOWN = 8
NEAREST = 7


def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder or a checkpoint.")],
    data: Annotated[str, typer.Option(help="Held-out images, for instance digits:test.")],
    metric: Annotated[list[str], typer.Option(help="neighbours: how near samples lie to the training images.")],
    samples: Annotated[int, typer.Option(min=1, help="How many pictures to draw, seeds 0 and up.")] = 256,
    steps: Annotated[int | None, typer.Option(help="Network calls a picture; all levels if not given.")] = None,
    training_data: Annotated[str | None, typer.Option(help="The training images, if they moved since.")] = None,
    variance: Annotated[str | None, typer.Option(help="Of reverse steps: large, or small (cleaner with few).")] = None,
    keep: Annotated[str | None, typer.Option(help="Write neighbours.png to this folder.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model: are its pictures copies of the training images?"""
    import ddpm
    from ddpm import api
    from ddpm.evaluation import METRICS, neighbour_report, require_held_out
    from ddpm.files import check_output
    from ddpm.samplers import Sampling

    for name in metric:
        if name not in METRICS:
            raise InputError(f"there is no metric '{name}'; there is {', '.join(METRICS)}.")
    if keep is not None:
        check_output(keep, folder=True)
    model = ddpm.load(run, device=device)
    how = Sampling(steps=steps, variance=variance)
    model.check(how)
    training = api.training_images(model, training_data).array()
    held_out = api.model_images(model, data).array()
    require_held_out(held_out, training)
    with progress_bar("Sampling", samples * (steps or model.recipe.process.steps)) as bar:
        pictures = model.draw(range(samples), how, on_step=counted(bar))
    report = neighbour_report(pictures.numpy(), training, held_out)
    if keep is not None:
        path = Path(keep) / "neighbours.png"
        _save(pictures[:SHOWN], training, path)
        say(f"{path}: left a picture, then its {NEAREST} nearest training images.")
    lines = [
        f"{report.samples} samples of {model.source}, {report.held_out} held-out and {report.training} training images",
        f"median distance to the nearest training image: samples {report.median:.1f}, held-out "
        f"{report.held_out_median:.1f} grey levels (ratio {report.ratio:.3f})",
        f"samples no farther than the held-out's first percentile: {report.copies:.1%} "
        "(1 % is ideal; many would be copies)",
    ]
    print_result({"neighbours": report.as_dict()}, lines, as_json=as_json)


def _save(pictures: Tensor, training: NDArray[np.uint8], path: Path) -> None:
    """A row a picture: the picture, then its nearest training images (Ho et al. 2020, Fig. 15)."""
    import torch

    import ddpm

    _, indices = ddpm.nearest_neighbours(pictures.numpy(), training, count=NEAREST)
    near = torch.from_numpy(training[indices])
    rows = torch.cat([pictures[:, None], near], dim=1)
    ddpm.save_grid(rows.flatten(0, 1), path, columns=rows.shape[1])
