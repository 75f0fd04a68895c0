"""ddpm evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm.cli.bound import bound_metrics
from ddpm.cli.bound_options import BOUND_METRICS, Options
from ddpm.cli.console import counted, print_result, progress_bar, say
from ddpm.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ddpm.model import Model
    from ddpm.samplers import Sampling

SAMPLES = 256
SHOWN = 8
NEAREST = 7


def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder or a checkpoint.")],
    data: Annotated[str, typer.Option(help="Held-out images, for instance digits:test.")],
    metric: Annotated[
        list[str],
        typer.Option(
            help="bits: the variational bound; rate: rate and distortion by level; ode: bits by the probability-flow "
            "ODE; neighbours: how near samples lie to the training images. May be repeated."
        ),
    ],
    calls: Annotated[int | None, typer.Option(help="bits, rate, ode: network calls in all (4096).")] = None,
    full: Annotated[bool, typer.Option("--full", help="bits, rate: every level of every image; resumable.")] = False,
    shard: Annotated[str | None, typer.Option(help="With --full: this process's share, 1/4 to 4/4.")] = None,
    levels: Annotated[int | None, typer.Option(help="bits, rate: only the best K levels (after ddpm tune).")] = None,
    limit: Annotated[
        int | None, typer.Option(help="bits, rate, ode: score only so many images, drawn by seed.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="neighbours: how many pictures to draw, seeds 0 and up (256).")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="ode: solver steps (40); neighbours: network calls a picture (all levels).")
    ] = None,
    training_data: Annotated[str | None, typer.Option(help="The training images, if they moved since.")] = None,
    variance: Annotated[
        str | None, typer.Option(help="Of reverse steps: large, small, or optimal (after ddpm tune); the model's own.")
    ] = None,
    weights: Annotated[str, typer.Option(help="averaged or raw.")] = "averaged",
    seed: Annotated[int | None, typer.Option(help="bits, rate, ode: which images, levels and noises (0).")] = None,
    keep: Annotated[
        str | None, typer.Option(help="Folder for files: rate.png, .json, .csv; full sums; neighbours.png.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="bits, rate, ode: images a call.")] = 128,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model: how many bits do images cost, and are its pictures copies of the training images?"""
    import ddpm
    from ddpm import api
    from ddpm.evaluation import METRICS
    from ddpm.evaluation.rate import without_nan
    from ddpm.files import check_output
    from ddpm.samplers import Sampling

    for name in metric:
        if name not in METRICS:
            raise InputError(f"there is no metric '{name}'; there are {', '.join(METRICS)}.")
    bound = (calls, full, shard, levels, steps, variance, limit, seed, batch_size)
    options = Options(run, tuple(metric), *bound, keep, samples, training_data)
    options.check()
    if keep is not None:
        check_output(keep, folder=True)
    model = ddpm.load(run, weights=weights, device=device)
    how = Sampling(steps=steps, variance=variance)
    table: dict[str, Any] = {}
    lines: list[str] = []
    if "neighbours" in metric:
        model.check(how)
    if set(metric) & set(BOUND_METRICS):
        found, lines = bound_metrics(model, api.model_images(model, data), options)
        table |= found
    if "neighbours" in metric:
        report, more = _neighbours(model, data, training_data, samples or SAMPLES, how, keep)
        table["neighbours"] = report
        lines += more
    print_result(without_nan(table), lines, as_json=as_json)


def _neighbours(
    model: Model, data: str, training_data: str | None, samples: int, how: Sampling, keep: str | None
) -> tuple[dict[str, Any], list[str]]:
    from ddpm import api
    from ddpm.evaluation import neighbour_report, require_held_out

    training = api.training_images(model, training_data).array()
    held_out = api.model_images(model, data).array()
    require_held_out(held_out, training)
    with progress_bar("Sampling", samples * (how.steps or model.recipe.process.steps)) as bar:
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
    return report.as_dict(), lines


def _save(pictures: Tensor, training: NDArray[np.uint8], path: Path) -> None:
    """A row a picture: the picture, then its nearest training images (Ho et al. 2020, Fig. 15)."""
    import torch

    import ddpm

    _, indices = ddpm.nearest_neighbours(pictures.numpy(), training, count=NEAREST)
    near = torch.from_numpy(training[indices])
    rows = torch.cat([pictures[:, None], near], dim=1)
    ddpm.save_grid(rows.flatten(0, 1), path, columns=rows.shape[1])
