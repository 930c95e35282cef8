"""`autotok tokens`: where the tokens of an image went."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import autotok

from .app import app, print_json, print_table
from .models import KeepOption, MethodOption, OptionOption, RemoveOption, build
from .options import AnyBackboneOption, CheckpointOption, ImageSizeOption, JsonFlag, WideFlag


@app.command("tokens")
def tokens_command(
    image: Annotated[str, typer.Argument(help="Image file, or demo:N or digits:N.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A best.yaml; or use --method.")
    ] = None,
    backbone: AnyBackboneOption = None,
    checkpoint: CheckpointOption = None,
    image_size: ImageSizeOption = None,
    method: MethodOption = None,
    keep: KeepOption = None,
    r: RemoveOption = None,
    option: OptionOption = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", "--out", help="Picture to draw, a .png file.")
    ] = Path("tokens.png"),
    json: JsonFlag = False,
    wide: WideFlag = False,
) -> None:
    """Say and draw which patches of an image were kept, merged, parked, recalled or removed."""
    autotok.check_image(image)
    autotok.check_output_file(output, suffix=".png")
    if config is None and method is None:
        raise autotok.ConfigError(
            "without --config and --method no token goes; give a best.yaml with --config, or"
            " --method tome -r 16"
        )
    model = build(config, backbone, checkpoint, image_size, method, keep, r, option)
    report = autotok.token_report(model, image, picture=output)
    if json:
        print_json(report)
        return
    heads, rows = autotok.token_rows(report)
    said = ""
    if "predicted" in report:
        said = f"; class {report['label']}, predicted {report['predicted']}"
    if "stopped_behind_block" in report:
        said += f"; stopped behind block {report['stopped_behind_block']}"
    title = f"{report['image']}: {report['patches']} patches, {report['method']}{said}"
    typer.echo(autotok.printable(title))
    print_table("", heads, rows, wide=wide)
    if "thresholds_found_on" in report:
        typer.echo(f"thresholds: found on {report['thresholds_found_on']}")
    typer.echo(f"picture: {report['picture']}")
