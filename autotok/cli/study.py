"""`autotok study list | run`: the tables of papers, run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import autotok

from .app import Verbs, app, interrupted, print_json, print_table
from .options import ClassNamesOption, DeviceOption, JsonFlag, PrecisionOption, QuietFlag, WideFlag

study_app = Verbs(help="Published tables: list them, or run one.", no_args_is_help=True)
app.add_typer(study_app, name="study")


@study_app.command("list")
def study_list(json: JsonFlag = False, wide: WideFlag = False) -> None:
    """List the published tables that can be run, with their rows."""
    studies = [autotok.load_study(name) for name in autotok.list_studies()]
    if json:
        print_json([{**vars(s), "rows": [row.name for row in s.rows]} for s in studies])
        return
    rows = [[s.name, s.title, s.source, len(s.rows)] for s in studies]
    caption = "`autotok study run NAME`; `--json` lists the rows for --only"
    print_table("studies", ["study", "what", "source", "rows"], rows, caption=caption, wide=wide)


@study_app.command("run")
def study_run(
    name: Annotated[str, typer.Argument(help="Study name; see `autotok study list`.")],
    data: Annotated[
        str | None, typer.Option(help="Image folder; without it the demo stands in.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Row to run; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; runs/study-NAME.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images at most; 1000, or 200 of the demo.")
    ] = None,
    finetune: Annotated[
        int, typer.Option(min=0, help="Steps of a short fine-tune of retrained rows; 0: none.")
    ] = 0,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option("--checkpoint", help="BACKBONE=FILE of weights; may be repeated."),
    ] = None,
    class_names: ClassNamesOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Run a published table and write own rows beside the printed ones."""
    checkpoints = autotok.parse_files(checkpoint or [])

    from .progress import StepProgress

    with StepProgress("study", quiet=quiet) as bar:
        try:
            result = autotok.run_study(
                name,
                data=data,
                only=only or (),
                output=output,
                num_images=images,
                finetune_steps=finetune,
                checkpoints=checkpoints,
                class_names=class_names,
                precision=precision,
                device=device,
                on_progress=bar.update,
            )
        except KeyboardInterrupt as error:
            interrupted(error, "rows that ran are kept; the same command goes on")
    if json:
        print_json(list(result.rows))
        return
    for line in [*result.table.splitlines(), "", f"written to {result.folder}"]:
        typer.echo(autotok.printable(line))
