"""Options that commands share, as types of their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import autotok

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
BudgetOption = Annotated[
    list[str] | None,
    typer.Option(
        show_default="2.3GFLOPs",
        help="'2.3GFLOPs', '50%', '26ms', '1500img/s', '600MB'; may be repeated.",
    ),
]
ObjectiveOption = Annotated[
    list[str] | None,
    typer.Option(
        help="quality (top1, agreement, kl, feature, knn, knn_top1), macs, params, latency,"
        " throughput, memory, energy; up to four, the first decides what is best; quality and macs"
        " by default."
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(min=1, help="Images at a time that latency, throughput and memory mean."),
]
FinetunesOption = Annotated[
    int | None,
    typer.Option("--finetunes", min=0, help="At most this many promotions; 0: no fine-tune."),
]
TrialTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--trial-timeout",
        min=0,
        help="Seconds for one trial's images; one that takes longer hangs and fails; 0: none.",
    ),
]
