"""`autotok finetune`: train a compressed model a little, so that it recovers what it lost."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

import autotok

from .app import app, interrupted, show
from .models import KeepOption, MethodOption, OptionOption
from .options import (
    AnyBackboneOption,
    CheckpointOption,
    ClassNamesOption,
    DeviceOption,
    JsonFlag,
    QuietFlag,
)


@app.command("finetune")
def finetune_command(
    config: Annotated[
        Path | None,
        typer.Argument(help="A best.yaml, or the folder of a bundle; or use --method and --keep."),
    ] = None,
    method: MethodOption = None,
    keep: KeepOption = None,
    option: OptionOption = None,
    exits: Annotated[
        str | None,
        typer.Option(help="KIND@LAYERS where images may stop, e.g. linear@3,6,9 or lgvit@2,4,6,8."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="'demo', 'digits', 'cifar10' or a folder with train/ and val/; demo."),
    ] = None,
    class_names: ClassNamesOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the result; under runs/.")
    ] = None,
    length: Annotated[
        str | None, typer.Option(help="'500 steps', '3 epochs' or '5 minutes'; 200 steps.")
    ] = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=WEIGHT, may be repeated; soft=1.0. Names: ce, soft, deit_soft, standardised,"
            " hard, dkd, nkd, cosine, mimic, relations, tokens, exits_distill, exits_weighted."
        ),
    ] = None,
    lr: Annotated[
        str | None,
        typer.Option(help="Highest learning rate; auto: a short probe finds it. Default: auto."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per batch.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches per step.")] = None,
    ema: Annotated[
        float | None, typer.Option(help="Decay of averaged weights; 0: the last ones.")
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="none, crop-flip or resized-crop-flip.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="deit: all of the following as DeiT trains; or a YAML of settings."),
    ] = None,
    mixup: Annotated[float | None, typer.Option(help="alpha of mixup; 0: none.")] = None,
    cutmix: Annotated[float | None, typer.Option(help="alpha of CutMix; 0: none.")] = None,
    randaugment: Annotated[
        str | None, typer.Option(help="As timm writes it: rand-m9-mstd0.5-inc1.")
    ] = None,
    random_erasing: Annotated[
        float | None, typer.Option(help="Share of images that lose a rectangle.")
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of a label that all classes share.")
    ] = None,
    drop_path: Annotated[
        float | None, typer.Option(help="Stochastic depth, the last block's rate.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="A timm model or backbone to learn from; the uncompressed model."),
    ] = None,
    teacher_checkpoint: Annotated[
        Path | None, typer.Option(help="The teacher's weights, instead of downloading.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Order of the images and the like.")] = None,
    backbone: AnyBackboneOption = None,
    checkpoint: CheckpointOption = None,
    images: Annotated[int | None, typer.Option(min=1, help="Validation images; 500.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, bfloat16 or float32.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted one in --output.")
    ] = False,
    device: DeviceOption = "auto",
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Fine-tune a compressed model, by distillation from the uncompressed one, or --teacher.

    Quality is measured before and after on the validation images; the result is a bundle.
    """
    changes: dict[str, Any] = {
        "length": length,
        "losses": autotok.parse_loss_weights(loss or []) or None,
        "lr": _rate(lr),
        "batch_size": batch_size,
        "accumulate": accumulate,
        "ema_decay": ema,
        "augment": augment,
        "seed": seed,
        "mixup": mixup,
        "cutmix": cutmix,
        "randaugment": randaugment,
        "random_erasing": random_erasing,
        "label_smoothing": label_smoothing,
        "drop_path": drop_path,
        "teacher": teacher,
        "teacher_checkpoint": None if teacher_checkpoint is None else str(teacher_checkpoint),
    }
    others: dict[str, Any] = {
        "data": data,
        "backbone": backbone,
        "checkpoint": checkpoint,
        "class_names": class_names,
        "num_images": images,
        "precision": precision,
        "recipe": recipe,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    others = {key: value for key, value in others.items() if value is not None}
    autotok.FineTuneSpec(**changes)  # numbers are told before anything heavy is imported
    what, given = (config, method, keep, option or [], exits), [*changes, *others]
    begun = _stored(output, given) if resume and output is not None else {}
    chosen = begun["model"] if "model" in begun and not any(what) else _chosen(*what)
    folder = output or autotok.fresh_finetune_folder(chosen, backbone)
    autotok.torch_device(device)
    if resume:
        others = begun or _stored(folder, given)
        others.pop("model", None)
    else:
        others["changes"] = changes
    _run(chosen, folder, {**others, "device": device}, resume=resume, json=json, quiet=quiet)


def _chosen(
    config: Path | None,
    method: str | None,
    keep: str | None,
    option: list[str],
    exits: str | None = None,
) -> Path | autotok.CompressionConfig:
    """The bundle to train, or a configuration made of the options."""
    if config is not None:
        if method is not None or keep is not None or option or exits is not None:
            raise autotok.ConfigError("give either a best.yaml or --method with --keep, not both")
        return config
    policy = None if exits is None else autotok.parse_exits(exits)
    if method is None and (keep is not None or option):
        raise autotok.ConfigError("--keep and --option belong to a method; name it with --method")
    options = autotok.parse_options(option)
    autotok.get_method(method or "none").resolve_options(options)  # told before anything is loaded
    if policy is not None and method in (None, "none") and keep is None:
        return autotok.CompressionConfig(exits=policy)
    if method is None or keep is None:
        raise autotok.ConfigError(
            "say what to train: give a best.yaml, --method with --keep, or --exits"
        )
    reductions = tuple(
        autotok.Reduction(layer, ratio) for layer, ratio in autotok.parse_keep(keep).items()
    )
    return autotok.CompressionConfig(method, reductions, options, exits=policy)


def _run(
    config: Path | autotok.CompressionConfig,
    folder: Path,
    arguments: dict[str, Any],
    *,
    resume: bool,
    json: bool,
    quiet: bool,
) -> None:
    from .progress import StepProgress

    autotok.reuse_large_blocks()
    first = autotok.is_first_process()
    with StepProgress("fine-tuning", quiet=quiet or not first) as bar:
        try:
            result = autotok.finetune(
                config, output=folder, resume=resume, on_progress=bar.update, **arguments
            ).to_dict()
        except KeyboardInterrupt as error:
            again = f"autotok finetune {_words(config)} -o {shlex.quote(str(folder))}"
            interrupted(error, f"go on with `{again} --resume`")
    if not first:
        return
    show(result if json else _in_words(result), json)


def _in_words(result: dict[str, Any]) -> dict[str, Any]:
    """The figures with each list of them as one line, and without what did not happen."""
    words: dict[str, Any] = {key: value for key, value in result.items() if value not in (None, [])}
    for key in ("before", "after"):
        words[f"held_out_{key}"] = _loss(result[f"held_out_{key}"])
    if result["probe"]:
        words["probe_start"] = f"{result['probe_start']:.4g}"
        words["probe"] = ", ".join(
            f"{one['lr']:g}: {_loss(one['loss'])}" for one in result["probe"]
        )
    if result["back_offs"]:
        words["back_offs"] = "; ".join(
            f"{one['lr']:g} from step {one['step']} ({one['why']})" for one in result["back_offs"]
        )
    return words


def _loss(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4g}"


def _rate(text: str | None) -> float | str | None:
    """`--lr` as a fine-tune's settings take it."""
    if text in (None, "auto"):
        return text
    try:
        return float(text)
    except ValueError:
        raise autotok.ConfigError(
            f"learning rate '{text}' is not understood; give a number or auto"
        ) from None


def _words(config: Path | autotok.CompressionConfig) -> str:
    """The arguments that name what is trained."""
    if isinstance(config, Path):
        return shlex.quote(str(config))
    keep = ",".join(f"{r.keep_ratio!r}@{r.layer}" for r in config.reductions)
    given = "".join(
        f" --option {shlex.quote(autotok.option_text(name, value))}"
        for name, value in config.options.items()
    )
    reducing = f"--method {config.method} --keep '{keep}'{given}" if config.reductions else ""
    if config.exits is None:
        return reducing
    return f"{reducing} --exits {config.exits.words}".strip()


def _stored(folder: Path, given: list[str]) -> dict[str, Any]:
    """The arguments that an interrupted fine-tune was started with."""
    if given:
        name = given[0].replace("_", "-")
        raise autotok.ConfigError(
            f"--resume goes on as it was started, so '{name}' cannot be given; leave it out"
        )
    return autotok.read_question(folder)
