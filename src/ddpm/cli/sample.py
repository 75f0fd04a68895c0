"""ddpm sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm.cli.bound import say_tuned
from ddpm.cli.console import counted, progress_bar, say
from ddpm.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

SLOTS = 20


def sample(
    run: Annotated[str, typer.Argument(help="A run folder or a checkpoint.")],
    out: Annotated[str, typer.Option(help="A .png is a grid, a .npz an array, no suffix a folder of PNGs.")],
    seeds: Annotated[str, typer.Option(help="One picture a seed: 7, 0-63 or 1,5,10-19.")] = "0-63",
    sampler: Annotated[str, typer.Option(help="ancestral is the paper's.")] = "ancestral",
    steps: Annotated[int | None, typer.Option(help="Network calls: levels spread evenly; all if not given.")] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="Draw only this class (name or number).")] = None,
    variance: Annotated[
        str | None,
        typer.Option(help="Of reverse steps: large, small (cleaner with few), or optimal (after ddpm tune)."),
    ] = None,
    weights: Annotated[str, typer.Option(help="averaged or raw.")] = "averaged",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures drawn at a time; it changes none of them.")] = 64,
    progressive: Annotated[
        bool, typer.Option("--progressive", help="A row a seed: the picture as predicted along the chain (Fig. 6).")
    ] = False,
) -> None:
    """Draw pictures from a model, one per seed."""
    import ddpm
    from ddpm.denoiser import OPTIMAL
    from ddpm.pictures import check_grid, save_grid
    from ddpm.samplers import Sampling
    from ddpm.seeding import parse_seeds

    numbers = parse_seeds(seeds)
    how = Sampling(sampler, steps, variance, class_name)
    _check(out, progressive=progressive)
    model = ddpm.load(run, weights=weights, device=device)
    model.check(how)
    if out.endswith(".png"):
        check_grid(len(numbers) * (SLOTS if progressive else 1), model.geometry)
    per_picture = steps or model.recipe.process.steps
    say(f"Drawing by {sampler}, {per_picture} network calls a picture, {weights} weights of {model.source}.")
    if variance == OPTIMAL:
        say_tuned(model)
    with progress_bar("Sampling", len(numbers) * per_picture) as bar:
        advance = counted(bar)
        if progressive:
            rows = model.draw_progressively(numbers, how, slots=SLOTS, batch_size=batch_size, on_step=advance)
            save_grid(rows.flatten(0, 1), out, columns=rows.shape[1])
        else:
            _write(model.draw_batches(numbers, how, batch_size=batch_size, on_step=advance), Path(out))
    print(f"{len(numbers)} {'picture' if len(numbers) == 1 else 'pictures'} in {out}")


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


def _write(batches: Iterator[tuple[Sequence[int], Tensor]], out: Path) -> None:
    """A folder grows with every batch; a grid or an array is written when all are there."""
    from ddpm.files import whole_file
    from ddpm.pictures import save_folder, save_grid

    if not out.suffix:
        for seeds, pictures in batches:
            save_folder(pictures, out, names=seeds)
        return
    import numpy as np
    import torch

    parts = list(batches)
    pictures = torch.cat([part for _, part in parts])
    if out.suffix == ".png":
        save_grid(pictures, out)
        return
    numbers = np.concatenate([np.asarray(part) for part, _ in parts])
    with whole_file(out) as temporary:  # arr_0: uint8 (B, H, W, C), the layout other tools read
        np.savez_compressed(temporary, arr_0=pictures.permute(0, 2, 3, 1).numpy(), seeds=numbers)
