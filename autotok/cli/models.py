"""`autotok profile | compress | evaluate | export`: one model, one configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import autotok

from .app import app, print_facts, print_json, print_table, show
from .options import (
    AnyBackboneOption,
    CheckpointOption,
    ClassNamesOption,
    DeviceOption,
    EvaluatorOption,
    FormerDevice,
    ImageSizeOption,
    JsonFlag,
    MeasureOnOption,
    PrecisionOption,
    QualityOption,
    QuietFlag,
)

ConfigArgument = Annotated[
    Path | None, typer.Argument(help="A best.yaml; leave out to use --method.")
]
MethodOption = Annotated[str | None, typer.Option("--method", "-m", help="Method name.")]
KeepOption = Annotated[
    str | None, typer.Option(help="Keep ratio at layers, e.g. '0.7@3,0.5@6,0.35@9'.")
]
RemoveOption = Annotated[
    int | None, typer.Option("-r", min=0, help="Patch tokens removed in every layer.")
]
OptionOption = Annotated[
    list[str] | None, typer.Option("--option", help="A method's own option, NAME=VALUE.")
]


def build(
    config: Path | None,
    backbone: str | None,
    checkpoint: Path | None,
    image_size: int | None,
    method: str | None,
    keep: str | None,
    r: int | None,
    option: list[str] | None,
    *,
    shapes_alone: bool = False,
) -> autotok.CompressedViT:
    """The compressed model that the shared arguments name.

    With `shapes_alone` nothing is downloaded: it is for counts and predictions."""
    autotok.reuse_large_blocks()
    if config is None and method is None and not (keep is None and r is None and not option):
        raise autotok.ConfigError(
            "--keep, -r and --option belong to a method; name it with --method"
        )
    bare = shapes_alone and checkpoint is None
    if config is not None:
        _check_alone(config, method, keep, r, option, image_size)
        if bare:
            return autotok.bundle_structure(config, backbone=backbone)
        bundled = autotok.load_bundle(config, backbone=backbone, checkpoint=checkpoint)
        return bundled if shapes_alone else autotok.with_networks(bundled)
    ratios = None if keep is None else autotok.parse_keep(keep)
    options = autotok.parse_options(option or [])
    autotok.get_method(method or "none").resolve_options(options)  # names before weights
    name = backbone or "autoformer_demo"
    model = (
        autotok.load_structure(name, image_size=image_size)
        if bare
        else autotok.load_backbone(name, checkpoint=checkpoint, image_size=image_size)
    )
    return autotok.compress(
        model, method=method or "none", keep=ratios, r=r, options=options, untrained=shapes_alone
    )


def _check_alone(
    config: Path,
    method: str | None,
    keep: str | None,
    r: int | None,
    option: list[str] | None,
    image_size: int | None,
) -> None:
    """Raise where options would say again what a best.yaml says."""
    options = {"--method": method, "--keep": keep, "-r": r, "--option": option or None}
    options["--image-size"] = image_size
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise autotok.ConfigError(
            f"'{config}' says what {given[0]} would; give either a best.yaml or options, not both"
        )


def _uncompressed(config: Path | None, model: autotok.CompressedViT) -> Any:
    """What the model of a bundle came from, where its own weights are not that any more."""
    changed = model.config.mode == "retrain" or model.is_folded
    return autotok.load_uncompressed(config) if config is not None and changed else None


@app.command("profile")
def profile_command(
    config: ConfigArgument = None,
    backbone: AnyBackboneOption = None,
    checkpoint: CheckpointOption = None,
    image_size: ImageSizeOption = None,
    method: MethodOption = None,
    keep: KeepOption = None,
    r: RemoveOption = None,
    option: OptionOption = None,
    target: Annotated[str | None, typer.Option(help="Predict for this device.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Count the cost in two further ways.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Time it on the device.")
    ] = True,
    measure_on: MeasureOnOption = "local",
    device: FormerDevice = "auto",
    runtime: Annotated[
        str,
        typer.Option(
            help="On the local device: eager, compile, onnxruntime, openvino, executorch."
        ),
    ] = "eager",
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images per run: the target's, or 1.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say what a model costs: exact count, prediction for a target, measurement on a device."""
    if target is not None:
        autotok.load_target(target)

    from .progress import StepProgress

    if not measure and (measure_on not in (None, "local") or runtime != "eager"):
        raise autotok.ConfigError(
            "--measure-on and --runtime say how a model is timed, and --no-measure that it is not;"
            " leave one of them out"
        )
    where = in_runtime(measure_on or "local", runtime) if measure else None
    if where is not None:
        autotok.open_device(where).close()  # a name that is none is told before a model is loaded
    model = build(
        config, backbone, checkpoint, image_size, method, keep, r, option, shapes_alone=not measure
    )
    with StepProgress("profiling", quiet=json) as bar:
        if where is not None:
            doing = f"timing on {where} against the uncompressed model"
            bar.update(0.0, doing, important=True)
        report = autotok.profile_report(
            model, target=target, check=check, measure_on=where, batch=batch
        )
    if json:
        print_json(report)
    else:
        _show_profile(report)
    if check and report.get("check") != "equal":
        raise typer.Exit(1)


def _show_profile(report: dict[str, Any]) -> None:
    """Facts, then the table of blocks."""
    print_facts({k: v for k, v in report.items() if k not in ("blocks", "fvcore_uncounted")})
    heads, rows = autotok.block_rows(report)
    caption = "in brackets: the uncompressed model" if "uncompressed" in report["blocks"][0] else ""
    print_table("", heads, rows, caption=caption)


def in_runtime(device: str, runtime: str) -> str:
    """Device and runtime as one name; the other devices' runtimes stand in their own names."""
    if runtime == "eager" or device == "local":
        return device if runtime == "eager" else f"local?runtime={runtime}"
    raise autotok.ConfigError(
        f"--runtime {runtime} is for the local device; device '{device}' chooses its own, or write"
        " ssh://user@host?runtime=onnxruntime"
    )


@app.command("compress")
def compress_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the bundle to.")],
    config: ConfigArgument = None,
    backbone: AnyBackboneOption = None,
    checkpoint: CheckpointOption = None,
    image_size: ImageSizeOption = None,
    method: MethodOption = None,
    keep: KeepOption = None,
    r: RemoveOption = None,
    option: OptionOption = None,
    data: Annotated[
        str | None,
        typer.Option(help="Images to check the file on, and to find a method's thresholds on."),
    ] = None,
    class_names: ClassNamesOption = None,
    json: JsonFlag = False,
) -> None:
    """Compress a model one way and write it as a bundle: configuration, weights, README."""
    autotok.check_folder(output)
    autotok.check_format("onnx")
    autotok.check_data(data, class_names=class_names)

    from .progress import StepProgress

    model = build(config, backbone, checkpoint, image_size, method, keep, r, option)
    if data is not None:
        class_names = autotok.told_class_names(config, data, class_names)
    with StepProgress("compressing", quiet=json) as bar:
        bar.update(0.0, "writing weights, exporting ONNX and checking it", important=True)
        report = autotok.write_bundle(
            model,
            output,
            checkpoint=checkpoint,
            data=data,
            class_names=class_names,
            found_in=config,
        )
    show(report, json)


@app.command("evaluate")
def evaluate_command(
    config: ConfigArgument = None,
    backbone: AnyBackboneOption = None,
    checkpoint: CheckpointOption = None,
    image_size: ImageSizeOption = None,
    method: MethodOption = None,
    keep: KeepOption = None,
    r: RemoveOption = None,
    option: OptionOption = None,
    data: Annotated[
        str | None,
        typer.Option(help="'demo', 'digits', 'cifar10' or a folder; by default the best.yaml's."),
    ] = None,
    class_names: ClassNamesOption = None,
    quality: QualityOption = "auto",
    evaluator: EvaluatorOption = None,
    images: Annotated[int | None, typer.Option(min=1, help="Number of images; all.")] = None,
    mean_cost: Annotated[
        str | None,
        typer.Option(help="Of a model with exits: cost of an image on average, e.g. 1.5GFLOPs."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Which images come first.")] = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure the quality of a compressed model on images, with a 95 % interval."""
    quality = autotok.check_quality(quality, evaluator)
    if config is not None:
        _check_alone(config, method, keep, r, option, image_size)
    data = str(autotok.told_data(config, data))
    autotok.check_data(data, class_names=class_names)
    allowed = None if mean_cost is None else autotok.parse_macs(mean_cost)

    from .progress import StepProgress

    own = None if evaluator is None else autotok.OwnQuality.of(evaluator)
    placed = autotok.torch_device(device)
    model = build(config, backbone, checkpoint, image_size, method, keep, r, option).to(placed)
    class_names = autotok.told_class_names(config, data, class_names)
    original = _uncompressed(config, model)
    if original is not None:
        original.to(placed)
    with StepProgress("evaluating", quiet=quiet) as bar:
        report = autotok.quality_report(
            model,
            data,
            metric=quality,
            num_images=images,
            seed=seed,
            class_names=class_names,
            precision=precision,
            own=own,
            mean_macs=allowed,
            on_progress=bar.update,
            uncompressed=original,
        )
    show(report, json)


@app.command("export")
def export_command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write, with the format's own suffix.")
    ],
    config: ConfigArgument = None,
    backbone: AnyBackboneOption = None,
    checkpoint: CheckpointOption = None,
    image_size: ImageSizeOption = None,
    method: MethodOption = None,
    keep: KeepOption = None,
    r: RemoveOption = None,
    option: OptionOption = None,
    format: Annotated[
        str, typer.Option(help=f"One of: {', '.join(autotok.list_formats())}.")
    ] = "onnx",
    data: Annotated[
        str | None, typer.Option(help="Images to check the file on, and to calibrate int8.")
    ] = None,
    class_names: ClassNamesOption = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32, float16 or int8; by default as the configuration says."),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="Operator set of ONNX, such as 16 for TensorRT 8.5.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per run.")] = 1,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Let the file take any batch.")
    ] = False,
    images: Annotated[
        int, typer.Option(min=0, help="Images of --data that the file is judged on; 0: none.")
    ] = 0,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time it beside the uncompressed model's export.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Write a model for a device and check the file against torch."""
    autotok.check_output_file(output)
    autotok.check_format(format, precision=precision or "float32", opset=opset, output=output)
    if data is not None:
        autotok.check_data(data, class_names=class_names)
    elif class_names is not None:
        raise autotok.ConfigError(
            f"class names '{class_names}' are for folders of images; give these as --data"
        )
    elif images:
        raise autotok.ConfigError(
            f"--images {images} judges the file on images of --data; give --data too, or leave"
            " --images out"
        )

    from .progress import StepProgress

    model = build(config, backbone, checkpoint, image_size, method, keep, r, option)
    if data is not None:
        class_names = autotok.told_class_names(config, data, class_names)
    with StepProgress("exporting", quiet=json) as bar:
        bar.update(0.0, f"writing {format} and running it against torch", important=True)
        report = autotok.export_report(
            model,
            output,
            format=format,
            data=data,
            class_names=class_names,
            batch=batch,
            dynamic_batch=dynamic_batch,
            precision=precision,
            opset=opset,
            measured=measure,
            judged=images,
            uncompressed=_uncompressed(config, model) if images and data is not None else None,
        )
    show(report, json)
