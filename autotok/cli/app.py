"""The Typer application and what all commands share: output, verbosity, the model arguments."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import autotok

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="autotok",
    help="Find how to compress a Vision Transformer's tokens so that it fits a device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
WideFlag = Annotated[bool, typer.Option("--wide", help="Show all columns, beyond 80.")]
QuietFlag = Annotated[bool, typer.Option("-q", "--quiet", help="Print results only.")]
VerboseFlag = Annotated[bool, typer.Option("-v", "--verbose", help="Log one line per step.")]
_BACKBONE = typer.Option(
    "--backbone", "-b", help="Model name; see `autotok backbones`. Or hf:org/name, hf:folder."
)
BackboneOption = Annotated[str, _BACKBONE]
AnyBackboneOption = Annotated[str | None, _BACKBONE]
BackbonesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone",
        "-b",
        show_default="autoformer_demo",
        help="Model name; see `autotok backbones`. Or hf:org/name, hf:folder. Repeated: one search"
        " of all of them.",
    ),
]
"""Where a configuration file may name it; around `Annotated`, `| None` would hide the option."""
CheckpointOption = Annotated[
    Path | None, typer.Option(help="Weight file to read instead of downloading.")
]
ClassNamesOption = Annotated[
    Path | None,
    typer.Option(
        help="The model's class names in order, one a line or JSON; for class folders, or"
        " a labels.csv of file,class in the images' folder."
    ),
]
MeasureOnOption = Annotated[
    str | None,
    typer.Option(help="Time on 'local', ssh://user@host[:port] or ray:RESOURCE[@HOST:PORT]."),
]


def spelt(name: str | None) -> str | None:
    """The device, which is one by its name; `--measure-on` is named where that is meant."""
    if name is not None:
        autotok.check_device(name)
    return name


DeviceOption = Annotated[
    str, typer.Option(help="Where models run: auto, cpu, cuda[:N] or mps.", callback=spelt)
]


def _format(name: str) -> str:
    autotok.check_precision(name)
    return name


QualityOption = Annotated[
    str,
    typer.Option(
        help="auto, top1, agreement, kl, feature, knn, knn_top1; own, own_loss: --evaluator's."
    ),
]
EvaluatorOption = Annotated[
    str | None,
    typer.Option(help="Your own quality: MODULE:FUNCTION of a model and a batch of images."),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="What models are judged in: float32, bfloat16, float16; auto: the fastest that agrees"
        " with float32.",
        callback=_format,
    ),
]
FormerDevice = Annotated[str, typer.Option("--device", hidden=True, callback=spelt)]
"""What --measure-on was called; answered with that."""
ImageSizeOption = Annotated[
    int | None, typer.Option(min=16, max=4096, help="Input side in pixels (timm models).")
]
TrialsOption = Annotated[
    int | None, typer.Option("--trials", min=1, help="Different configurations to evaluate.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", min=0, help="Seconds for the whole command; 0: no limit."),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", "-j", min=1, help="Jobs at a time.")
]
EngineOption = Annotated[str, typer.Option(help="local or ray.")]
RayAddressOption = Annotated[
    str | None, typer.Option(help="A running Ray cluster, or 'auto'; else Ray starts here.")
]
ResourceOption = Annotated[
    list[str] | None,
    typer.Option(help="What a job needs on Ray: CPU=1, GPU=0.5, jetson=1; may be repeated."),
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(autotok.__version__)
        raise typer.Exit


def configure_logging(*, verbose: bool, quiet: bool) -> None:
    """Log lines go to stderr; warnings by default, one line per step with -v."""
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_escape)
    logging.getLogger("autotok").setLevel(level)


def interrupted(error: KeyboardInterrupt, go_on: str) -> NoReturn:
    """End the command, saying how to go on."""
    sys.stderr.write(f"autotok: {str(error) or 'interrupted'}; {go_on}\n")
    # as shells have it: 128 and the number of SIGINT
    raise typer.Exit(130) from None


def _escaped(text: str) -> str:
    """The text with control characters, which names of files may hold, as escapes; line by line."""
    return "\n".join(map(autotok.printable, text.split("\n")))


def _escape(record: logging.LogRecord) -> bool:
    """A log filter that lets everything pass, escaped."""
    record.msg, record.args = _escaped(record.getMessage()), None
    return True


def console(*, wide: bool = False) -> Console:
    """A rich console on stdout, 80 columns unless `wide` or a terminal has more."""
    from rich.console import Console

    width = 160 if wide else None if sys.stdout.isatty() else 80
    return Console(highlight=False, soft_wrap=False, width=width)


def print_json(data: object) -> None:
    """JSON on stdout."""
    typer.echo(json.dumps(data, indent=2, default=str))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    wide: bool = False,
) -> None:
    """A titled table on stdout; columns whose header ends in a unit are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, caption=caption or None, box=SIMPLE_HEAD, title_justify="left")
    table.caption_justify = "left"
    for column in columns:
        table.add_column(column, justify="left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else _escaped(str(cell))) for cell in row))
    console(wide=wide).print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Aligned `name  value` lines on stdout; mappings as 'key: value, ...'."""
    width = max(map(len, facts), default=0)
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name}: {each}" for name, each in value.items())
        typer.echo(_escaped(f"{key:<{width}}  {value}"))
