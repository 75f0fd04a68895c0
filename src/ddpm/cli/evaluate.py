"""ddpm evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm.cli import options
from ddpm.cli.bound import Result, bound_metrics
from ddpm.cli.codec import check_codec, codec_metric
from ddpm.cli.console import counted, print_result, progress_bar, say
from ddpm.cli.distance import compare_images, judge, measure, open_features, open_reference
from ddpm.cli.evaluate_options import Options
from ddpm.cli.sample import say_plan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ddpm.data import ImageSet
    from ddpm.evaluation.judged import Pictures, ToDraw
    from ddpm.model import Model

SHOWN = 8
NEAREST = 7

Run = Annotated[
    str, typer.Argument(help="A run folder or a checkpoint; for fid and kid also a source of images made elsewhere.")
]
Data = Annotated[
    str, typer.Option(help="Images to compare with, for instance digits:test; for fid also their statistics (.npz).")
]
Metrics = Annotated[
    list[str],
    typer.Option(
        help="fid, kid: Fréchet and kernel distance of pictures to the images; bits: the variational bound; rate: rate "
        "and distortion by level; ode: bits by the probability-flow ODE; codec: sizes of compressed files beside other "
        "formats; neighbours: how near pictures lie to the training images. May be repeated."
    ),
]
Features = Annotated[
    str | None,
    typer.Option(help="fid, kid: pixels, or the file of a torch.export program: uint8 (B, C, H, W) to floats (B, D)."),
]
Samples = Annotated[
    int | None,
    typer.Option(min=1, help="fid, kid, neighbours: how many pictures to draw, seeds 0 and up (2048; neighbours 256)."),
]
Seeds = Annotated[str | None, typer.Option(help="fid, kid, neighbours: the seeds themselves, such as 1000-3047.")]
Steps = Annotated[
    int | None,
    typer.Option(
        help="fid, kid, neighbours: levels to visit, a network call each (heun 2 N - 1; all if not given); ode: solver "
        "steps (40)."
    ),
]
Variance = Annotated[
    str | None,
    typer.Option(
        help="Of reverse steps, in bounds and in the ancestral sampler: large, small, or optimal (after ddpm tune); "
        "the model's own."
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        help="A folder. fid, kid: for the pictures, where a stopped drawing goes on; others: rate.png, .json, .csv; "
        "full sums; codec.png, .json and the files; neighbours.png."
    ),
]
SaveStatistics = Annotated[
    str | None, typer.Option(help="fid: an .npz for the statistics of --data, which may be --data later.")
]

BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images a call (128), pictures drawn and judged at a time (64).")
]


def evaluate(
    run: Run,
    data: Data,
    metric: Metrics,
    features: Features = None,
    samples: Samples = None,
    seeds: Seeds = None,
    sampler: options.Sampler = None,
    steps: Steps = None,
    spacing: options.Spacing = None,
    eta: options.Eta = None,
    variance: Variance = None,
    threshold: options.Threshold = "static",
    class_name: options.ClassName = None,
    guidance: options.Guidance = 1.0,
    calls: Annotated[int | None, typer.Option(help="bits, rate, ode: network calls in all (4096).")] = None,
    full: Annotated[bool, typer.Option("--full", help="bits, rate: every level of every image; resumable.")] = False,
    shard: Annotated[str | None, typer.Option(help="With --full: this process's share, 1/4 to 4/4.")] = None,
    levels: Annotated[int | None, typer.Option(help="bits, rate: only the best K levels (after ddpm tune).")] = None,
    limit: Annotated[
        int | None, typer.Option(help="bits, rate, ode, codec: only so many images, drawn by seed (codec 200).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="bits, rate, ode: which images, levels and noises (0).")] = None,
    training_data: Annotated[str | None, typer.Option(help="The training images, if they moved since.")] = None,
    weights: options.Weights = "averaged",
    keep: Keep = None,
    save_statistics: SaveStatistics = None,
    batch_size: BatchSize = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Measure a model, or pictures made elsewhere: how far from real images? How many bits? Are they copies?"""
    asked = Options(**locals())  # its fields are named after these parameters
    asked.check()
    from ddpm.evaluation.rate import without_nan

    table, lines = compare_images(asked) if asked.of_images else _model_metrics(asked)
    print_result(without_nan(table), lines, as_json=as_json)


def _model_metrics(asked: Options) -> Result:
    """Everything is opened and checked before the first network call; the metrics that need pictures share them."""
    import ddpm
    from ddpm.data import ImageSet
    from ddpm.evaluation.distance import question
    from ddpm.evaluation.judged import ToDraw
    from ddpm.opened import model_images

    model = ddpm.load(asked.run, weights=asked.weights, device=asked.device)
    if "codec" in asked.metrics:
        check_codec(model, asked)
    keep = Path(asked.keep) if asked.keep is not None and asked.distances else None
    drawn = ToDraw(model, asked.numbers, asked.sampling, keep) if asked.draws else None
    missing = len(drawn.missing()) if drawn is not None else 0
    extractor = open_features(asked, model.geometry, model.device) if asked.distances else None
    reference = open_reference(asked, lambda src: model_images(model, src))
    asking = None
    if drawn is not None and extractor is not None:
        asking = question(drawn, reference, extractor, metrics=asked.distances)
    results: list[Result] = []
    memory = None
    if isinstance(reference, ImageSet) and "neighbours" in asked.metrics:
        memory = _training_and_held_out(model, asked.training_data, reference)
    if isinstance(reference, ImageSet) and asked.bounds:
        results.append(bound_metrics(model, reference, asked))
    if isinstance(reference, ImageSet) and "codec" in asked.metrics:
        results.append(codec_metric(model, reference, asked))
    side = measure(asking, asked) if asking is not None else None
    if drawn is not None:
        pictures = _draw(drawn, missing, asked.drawn_at_once)
        if memory is not None:
            results.append(_neighbours(model, pictures, *memory, asked.keep))
        if side is not None:
            results.append(judge(side, pictures, asked))
    return _joined(results)


def _joined(results: list[Result]) -> Result:
    """One table, and the lines of each with an empty one between them."""
    table: dict[str, Any] = {}
    lines: list[str] = []
    for found, said in results:
        table |= found
        lines += ["", *said] if lines else said
    return table, lines


def _draw(drawn: ToDraw, missing: int, batch_size: int) -> Pictures:
    """Draw what is missing, and say so."""
    plan = drawn.model.plan(drawn.sampling)
    if missing:
        say_plan(drawn.model, plan)
    if missing < drawn.count:
        say(f"{drawn.count - missing:,} of {drawn.count:,} pictures are there already.")
    with progress_bar("Sampling", missing * plan.chain.steps) as bar:
        return drawn.draw(batch_size=batch_size, on_step=counted(bar))


def _training_and_held_out(
    model: Model, training_data: str | None, held_out: ImageSet
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    from ddpm.evaluation import require_held_out
    from ddpm.opened import training_images

    training, others = training_images(model, training_data).array(), held_out.array()
    require_held_out(others, training)
    return training, others


def _neighbours(
    model: Model, drawn: Pictures, training: NDArray[np.uint8], held_out: NDArray[np.uint8], keep: str | None
) -> Result:
    from ddpm.evaluation import neighbour_report

    pictures = drawn.tensor()
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
    return {"neighbours": report.as_dict()}, lines


def _save(pictures: Tensor, training: NDArray[np.uint8], path: Path) -> None:
    """A row a picture: the picture, then its nearest training images (Ho et al. 2020, Fig. 15)."""
    import torch

    import ddpm

    _, indices = ddpm.nearest_neighbours(pictures.numpy(), training, count=NEAREST)
    near = torch.from_numpy(training[indices])
    rows = torch.cat([pictures[:, None], near], dim=1)
    ddpm.save_grid(rows.flatten(0, 1), path, columns=rows.shape[1])
