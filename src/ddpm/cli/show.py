"""ddpm show."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ddpm.cli import options
from ddpm.cli.console import print_result, toml_lines


def show(
    path: Annotated[str, typer.Argument(help="A run folder or a checkpoint; or a .dpc file.")],
    run: Annotated[
        str | None,
        typer.Argument(help="For a .dpc file: the run it wants, unless it is linear or in runs/ or models/ here."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Describe a model or a .dpc file: recipe, parameters, schedule and checkpoints, or what it holds by step."""
    import ddpm

    table = ddpm.show(path, run)
    print_result(table, _file_lines(path, table) if "kind" in table else _model_lines(table), as_json=as_json)


def _model_lines(table: dict[str, Any]) -> list[str]:
    image, older = table["recipe"]["image"], [row["checkpoint"] for row in table["by_checkpoint"][:-1]]
    return [
        f"checkpoint    {table['checkpoint']}",
        *(f"              {found}" for found in older),
        f"images        {image['channels']} x {image['height']} x {image['width']} (channels x height x width), "
        f"{table['images_seen']:,} seen",
        f"classes       {', '.join(table['class_names']) or 'none'}",
        f"parameters    {table['parameters']:,}",
        f"schedule      {table['recipe']['process']['schedule']}, {table['schedule']['steps']} steps, "
        f"alpha_bar ends at {table['schedule']['alpha_bar_end']:.3g}",
        f"weights       {_kinds(table)}; SHA-256 {table['sha256']['model.safetensors']}",
        *_side_file_lines(table["by_checkpoint"]),
        *(
            f"changed       {line['key']} = {line['to']} from {line['images']:,} images on, {line['from']} before, by "
            f"{line['by']}{': ' + line['why'] if 'why' in line else ''}"
            for line in table["changes"]
        ),
        "",
        *toml_lines(table["recipe"]),
    ]


def _kinds(table: dict[str, Any]) -> str:
    """The kinds of weights, the one that is used marked."""
    if table["weights"] is None:
        return "damaged"
    return ", ".join(f"{kind} (used)" if kind == table["chosen"] else kind for kind in table["weights"])


def _side_file_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The newest checkpoint's first; a codec's with what needs it."""
    return [
        f"tuned         {file}{f': .dpc files with fingerprint {needed} need this checkpoint' if needed else ''}"
        for row in reversed(rows)
        for file, needed in row["side_files"].items()
    ]


def _model_of(table: dict[str, Any]) -> str:
    if "model" not in table:
        return "not found here; name it behind the file for the table of steps"
    older = f", checkpoint {table['checkpoint']}, which is not its newest" if table["older"] else ""
    return f"{table['model']}{older}"


def _file_lines(path: str, table: dict[str, Any]) -> list[str]:
    lines = [
        f"file          {path}, {table['bytes']:,} bytes, {table['kind']}"
        f"{', ' + table['state'] if 'state' in table else ''}"
        f"{' as PNG: no prefix of it is an image' if table['kind'] == 'stored' else ''}",
        f"image         {table['height']} x {table['width']} (height x width)"
        f"{', grey on a colour model' if table['grey_on_colour'] else ''}",
        f"fingerprint   {table['fingerprint']}",
        f"model         {_model_of(table)}",
    ]
    if "steps" not in table:
        return lines
    lines += ["", "step  level  bytes  expected PSNR"]
    for row in table["steps"]:
        psnr = "mid-grey" if row["psnr"] is None else f"{row['psnr']:.1f} dB"
        mark = "" if row["there"] else "  (not in this file)"
        lines.append(f"{row['step']:4}  {row['level']:5}  {row['bytes']:5,}  {psnr}{mark}")
    lines += [
        "",
        f"tiles         {table['tiles']:,}; the header ends at byte {table['header_bytes']}, the progressive layer "
        f"reaches to {table['progressive_end']:,}, checksum included",
    ]
    if table["kind"] == "lossless":
        lines.append(f"lossless      {max(0, table['bytes'] - table['progressive_end']):,} bytes behind that")
    return lines
