"""`autotok methods | backbones | targets`: what there is to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import autotok

from .app import Verbs, app, heard, print_json, print_table
from .options import JsonFlag, WideFlag

methods_app = Verbs(help="Token-compression methods: list them, or show one.")
app.add_typer(methods_app, name="methods")
targets_app = Verbs(help="Devices: list them, show one, check a file.")
app.add_typer(targets_app, name="targets")


@methods_app.callback(invoke_without_command=True)
@heard
def methods_command(
    ctx: typer.Context,
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-b", help="Show which methods fit this model.")
    ] = None,
    json: JsonFlag = False,
    wide: WideFlag = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table in Markdown.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write a page for each method to this folder.")
    ] = None,
) -> None:
    """List the token-compression methods, and whether they fit a backbone."""
    if ctx.invoked_subcommand is not None:
        return
    if markdown:
        typer.echo(autotok.methods_markdown(), nl=False)
        return

    if write is not None:
        typer.echo(f"{len(autotok.write_method_pages(write))} pages written to {write}")
        return
    rows = autotok.describe_methods(backbone)
    if json:
        print_json(rows)
        return
    columns = ["method", "paper", "kind", "acts", "training", "count"]
    if backbone is not None:
        columns.append("fits")
    table = [[row[column] for column in columns] for row in rows]
    print_table(
        f"methods on {backbone}" if backbone else "methods",
        columns,
        table,
        wide=wide,
        caption="`autotok methods show NAME` prints everything known about one",
    )
    missing = [[entry.name, entry.title, entry.reason] for entry in autotok.not_built()]
    if missing and backbone is None:
        print_table("not built", ["method", "paper", "why not"], missing, wide=wide)


@methods_app.command("show")
def methods_show(
    name: Annotated[str, typer.Argument(help="Method name.")],
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-b", help="Give ranges and schedules for it.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show one method: idea, paper, departures, options, training, published numbers."""
    page = autotok.describe_method(name, backbone)
    if json:
        print_json(page)
        return
    typer.echo(autotok.method_text(page), nl=False)


@app.command("backbones")
def backbones_command(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, e.g. 'deit*'.")] = "*",
    json: JsonFlag = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of what runs in Markdown.")
    ] = False,
) -> None:
    """List the models that can be named with --backbone."""
    if markdown:
        typer.echo(autotok.backbones_markdown(), nl=False)
        return
    names = autotok.known_backbones(pattern)
    if not names:
        raise autotok.UnknownName(
            "backbone pattern", pattern, ["*", "deit*", "vit_small*", "autoformer*"]
        )
    if json:
        print_json(names)
        return
    for name in names:
        typer.echo(name)


@targets_app.callback(invoke_without_command=True)
@heard
def targets_command(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List the devices that can be named with --target."""
    if ctx.invoked_subcommand is not None:
        return
    rows = []
    for name in autotok.list_targets():
        rows.append(autotok.target_row(name))
    if json:
        print_json(rows)
        return
    print_table(
        "targets",
        ["target", "title", "runtime", "predictions checked against"],
        [list(row.values()) for row in rows],
        caption="`autotok targets show NAME` prints every number with its source",
    )


@targets_app.command("show")
def targets_show(
    name: Annotated[str, typer.Argument(help="Target name or YAML file.")], json: JsonFlag = False
) -> None:
    """Show a target's numbers with their sources, and predictions against published points."""
    report = autotok.describe_target(name)
    if json:
        print_json(report)
        return
    print_table(
        f"{report['name']}: {report['title']}; predictions are of {report['predictions_of']}",
        ["what", "value", "source"],
        [[row["what"], row["value"], row["source"]] for row in report["numbers"]],
    )
    if report["points"]:
        columns = ["point", "published", "predicted", "error_pct", "role"]
        print_table(
            f"predicted against {'published' if report['calibration'] is None else 'measured'}",
            columns,
            [[row[column] for column in columns] for row in report["points"]],
            caption=report["summary"],
        )
    else:
        typer.echo(
            "This target was never checked against a measurement: its predictions are guesses."
        )
    for note in report["notes"]:
        typer.echo(f"note: {note}")


@targets_app.command("validate")
def targets_validate(file: Annotated[Path, typer.Argument(help="A target YAML file.")]) -> None:
    """Check a user's target file; says what is wrong with it in one sentence."""
    target = autotok.load_target(str(file))
    typer.echo(f"{file}: a valid target named '{target.name}'")
