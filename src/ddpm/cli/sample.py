"""ddpm sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm.cli import options
from ddpm.cli.bound import say_tuned
from ddpm.cli.console import counted, progress_bar, rounded, say
from ddpm.errors import InputError

if TYPE_CHECKING:
    from ddpm.model import Model
    from ddpm.samplers import Plan, Sampling

SLOTS = 20


def sample(
    run: Annotated[str, typer.Argument(help="A run folder or a checkpoint.")],
    out: Annotated[
        str, typer.Option(help="A .png is a grid, a .npz an array, no suffix a folder of PNGs; the last two resume.")
    ],
    seeds: Annotated[str, typer.Option(help="One picture a seed: 7, 0-63 or 1,5,10-19.")] = "0-63",
    sampler: options.Sampler = None,
    steps: options.Steps = None,
    spacing: options.Spacing = None,
    eta: options.Eta = None,
    variance: options.SamplingVariance = None,
    threshold: options.Threshold = "static",
    class_name: options.ClassName = None,
    guidance: options.Guidance = 1.0,
    weights: options.Weights = "averaged",
    device: options.Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures drawn at a time; it changes none of them.")] = 64,
    progressive: Annotated[
        bool, typer.Option("--progressive", help="A row a seed: the picture as predicted along the chain (Fig. 6).")
    ] = False,
) -> None:
    """Draw pictures from a model, one per seed."""
    import ddpm
    from ddpm.pictures import check_grid
    from ddpm.samplers import Sampling
    from ddpm.seeding import parse_seeds

    numbers = parse_seeds(seeds)
    how = Sampling(sampler, steps, spacing, variance, eta, threshold, class_name, guidance)
    _check(out, progressive=progressive)
    model = ddpm.load(run, weights=weights, device=device)
    plan = model.plan(how)
    if out.endswith(".png"):
        check_grid(len(numbers) * (SLOTS if progressive else 1), model.geometry)
    say_plan(model, plan)
    if progressive:
        _progressive(model, how, plan, numbers, out, batch_size)
    else:
        _draw(model, how, plan, numbers, out, batch_size)
    print(f"{len(numbers)} {'picture' if len(numbers) == 1 else 'pictures'} in {out}")


def say_plan(model: Model, plan: Plan) -> None:
    """Say how pictures are drawn: sampler, levels, network calls, and the side files that are used."""
    from ddpm.denoiser import OPTIMAL
    from ddpm.placed import levels_file

    levels = plan.chain.levels[1:].tolist()
    eta = "" if plan.eta is None else f", eta {plan.eta:.3g}"
    eta += "" if plan.reach is None else f", reach {plan.reach:.3g}"
    where = "all levels" if plan.spacing == "all" else f"{len(levels):,} levels, {plan.spacing}"
    if plan.spacing != "all" and len(levels) <= 20:
        where += f" ({', '.join(rounded(level) for level in reversed(levels))})"
    say(
        f"Drawing by {plan.sampling.method}{eta}: {where}; {plan.calls:,} network calls a picture; "
        f"{model.weights} weights of {model.source}."
    )
    extra = [f"{name} {value}" for name, value, usual in _unusual(plan.sampling) if value != usual]
    if extra:
        say(f"With {', '.join(extra)}{'; the levels were placed without' if plan.spacing == 'tuned' else ''}.")
    if plan.spacing == "tuned":
        say(f"Levels: {levels_file(Path(model.source), model.weights)}.")
    if plan.sampling.variance == OPTIMAL:
        say_tuned(model)


def _unusual(how: Sampling) -> list[tuple[str, object, object]]:
    return [("variance", how.variance, None), ("threshold", how.threshold, "static"), ("guidance", how.guidance, 1.0)]


def _draw(model: Model, how: Sampling, plan: Plan, seeds: list[int], out: str, batch_size: int) -> None:
    from ddpm.drawn import drawing
    from ddpm.pictures import save_grid

    if out.endswith(".png"):
        with progress_bar("Sampling", len(seeds) * plan.chain.steps) as bar:
            save_grid(model.draw(seeds, how, batch_size=batch_size, on_step=counted(bar)), out)
        return
    asked = drawing(model, seeds, how, out)
    left = len(asked.missing())
    if left < len(set(seeds)):
        say(f"{len(set(seeds)) - left:,} of {len(set(seeds)):,} pictures are there already.")
    with progress_bar("Sampling", left * plan.chain.steps) as bar:
        asked.draw(batch_size=batch_size, on_step=counted(bar))


def _progressive(model: Model, how: Sampling, plan: Plan, seeds: list[int], out: str, batch_size: int) -> None:
    from ddpm.pictures import save_grid

    with progress_bar("Sampling", len(seeds) * plan.chain.steps) as bar:
        rows = model.draw_progressively(seeds, how, slots=SLOTS, batch_size=batch_size, on_step=counted(bar))
    save_grid(rows.flatten(0, 1), out, columns=rows.shape[1])


def _check(out: str, *, progressive: bool) -> None:
    """Refuse an output that cannot be written, before anything is drawn."""
    from ddpm.files import check_output

    kind = Path(out).suffix
    if not out or kind not in (".png", ".npz", ""):
        raise InputError(f"--out '{out}' is no kind of output; a .png, a .npz or a folder would fit.")
    if progressive and kind != ".png":
        raise InputError("--progressive makes one picture: --out must be a .png.")
    if kind and out.endswith(("/", "\\")):
        raise InputError(f"--out '{out}' is a folder by its end and a file by its name; leave one out.")
    check_output(out, folder=not kind)
