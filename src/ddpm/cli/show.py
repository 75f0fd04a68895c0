"""ddpm show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm.cli.console import print_result, toml_lines
from ddpm.errors import DamagedFile, DdpmError, InputError, WrongModel

if TYPE_CHECKING:
    from ddpm.codec.tables import CodecData

PLACES = ("models", "runs")


def show(
    run: Annotated[Path, typer.Argument(help="A run folder or a checkpoint; or a .dpc file.")],
    model: Annotated[
        str | None,
        typer.Argument(help="For a .dpc file: the run it wants, unless it is linear or in runs/ or models/ here."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a model is: recipe, parameters, schedule, checkpoints; or what a .dpc file holds, step by step."""
    import ddpm

    if run.is_file():
        _show_file(run, model, as_json=as_json)
        return
    table = ddpm.show(run)
    image, older = table["recipe"]["image"], table["checkpoints"][:-1]
    lines = [
        f"checkpoint    {table['checkpoint']}",
        *(f"              {found}" for found in older),
        f"images        {image['channels']} x {image['height']} x {image['width']} (channels x height x width), "
        f"{table['images_seen']:,} seen",
        f"classes       {', '.join(table['class_names']) or 'none'}",
        f"parameters    {table['parameters']:,}",
        f"schedule      {table['recipe']['process']['schedule']}, {table['schedule']['steps']} steps, "
        f"alpha_bar ends at {table['schedule']['alpha_bar_end']:.3g}",
        f"weights       SHA-256 {table['sha256']['model.safetensors']}",
        *(f"tuned         {file}" for file in table["side_files"]),
        "",
        *toml_lines(table["recipe"]),
    ]
    print_result(table, lines, as_json=as_json)


def _show_file(path: Path, model: str | None, *, as_json: bool) -> None:
    from ddpm.cli.compress import SUFFIX
    from ddpm.cli.decompress import read_file
    from ddpm.codec.container import MAGIC
    from ddpm.codec.verbs import describe_file, describe_steps

    data = read_file(str(path))
    if path.suffix != SUFFIX and not data.startswith(MAGIC):
        raise InputError(f"'{path}' is no run folder, no checkpoint and no {SUFFIX} file.")
    try:
        table = describe_file(data)
        found = _wanted(table["fingerprint"], model)
        if found is not None:
            table |= {"model": found[0]} | describe_steps(data, *found[1:])
    except (DamagedFile, WrongModel) as error:
        raise type(error)(f"'{path}': {error}") from None
    lines = [
        f"file          {path}, {table['bytes']:,} bytes, {table['kind']}"
        f"{', ' + table['state'] if 'state' in table else ''}"
        f"{' by ordinary means: no prefix of it is a picture' if table['kind'] == 'stored' else ''}",
        f"picture       {table['height']} x {table['width']} (height x width)"
        f"{', grey on a colour model' if table['grey_on_colour'] else ''}",
        f"fingerprint   {table['fingerprint']}",
        f"model         {table.get('model', 'not found here; name it behind the file for the table of steps')}",
    ]
    if "steps" in table:
        lines += _step_lines(table)
    print_result(table, lines, as_json=as_json)


def _wanted(fingerprint: str, model: str | None) -> tuple[str, CodecData, tuple[int, int, int]] | None:
    """The model a file wants, its codec data and the shape of its tiles: the one named, or one that lies about."""
    from ddpm.checkpoint import LINEAR, is_run

    near = [str(entry) for place in PLACES for entry in sorted(Path(place).glob("*")) if is_run(entry)]
    for name in [model] if model is not None else [LINEAR, *near]:
        try:
            found = _codec_data(name)
        except DdpmError:
            if model is not None:
                raise
            continue
        for made, shape in found:
            if made.own_sha256.startswith(fingerprint):
                return name, made, shape
        if model is not None:
            own = " and ".join(made.own_sha256 for made, _ in found) or "none, its codec was never made"
            raise WrongModel(f"it wants the model with fingerprint {fingerprint}, and that of '{model}' is {own}.")
    return None


def _codec_data(run: str) -> list[tuple[CodecData, tuple[int, int, int]]]:
    """All that was made for a run's newest checkpoint, for averaged and raw weights."""
    from ddpm.checkpoint import MODEL_FILE, WEIGHTS, find_checkpoint, read_config
    from ddpm.codec.tables import read_codec_data

    folder = find_checkpoint(Path(run))
    config = read_config(folder)
    found = [read_codec_data(folder, weights, config.sha256[MODEL_FILE]) for weights in WEIGHTS]
    return [(made, config.recipe.geometry.shape) for made in found if made is not None]


def _step_lines(table: dict[str, Any]) -> list[str]:
    lines = ["", "step  level  bytes  expected PSNR"]
    for row in table["steps"]:
        psnr = "mid-grey" if row["psnr"] is None else f"{row['psnr']:.1f} dB"
        mark = "" if row["there"] else "  (not in this file)"
        lines.append(f"{row['step']:4}  {row['level']:5}  {row['bytes']:5,}  {psnr}{mark}")
    whole = f"to {table['progressive_end']:,}, checksum included"
    lines += [
        "",
        f"tiles         {table['tiles']:,}; the header ends at byte {table['header_bytes']}, the progressive layer "
        f"reaches {whole}",
    ]
    if table["kind"] == "lossless":
        lines.append(f"lossless      {max(0, table['bytes'] - table['progressive_end']):,} bytes behind that")
    return lines
