"""Single models: compress, count, predict, measure, evaluate, export."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from autotok.backbones.base import Backbone, evaluating, left_alone
from autotok.backbones.checkpoint import read_state_dict
from autotok.backbones.loading import as_backbone
from autotok.backbones.pruning import facts_under
from autotok.compression.compress import compress_backbone, with_networks
from autotok.compression.dense import DenseViT
from autotok.compression.folding import pinned
from autotok.compression.model import CompressedViT
from autotok.compression.official import load_official
from autotok.config import CompressionConfig, Options, Reduction
from autotok.counting.cost import Cost
from autotok.counting.macs import cost
from autotok.devices.device import measure_here
from autotok.devices.measurement import Measurement
from autotok.devices.placing import check_device, torch_device
from autotok.errors import ConfigError, ExportError, IncompatibleMethod
from autotok.evaluation.accuracy import Quality
from autotok.evaluation.own_quality import OwnFunction, OwnQuality
from autotok.export.best_yaml import read_best, trained_words
from autotok.export.bundle import load_bundle, load_uncompressed
from autotok.export.exported import ExportResult, export_model
from autotok.export.formats import FORMATS, check_suffix
from autotok.methods.author_units import from_num_removed
from autotok.methods.base import Training
from autotok.methods.folding import Folding
from autotok.methods.registry import get_method
from autotok.methods.thresholds import trains_thresholds
from autotok.metrics import own_quality
from autotok.names import check_number, check_precision
from autotok.report.export_report import RANDOM, random_images
from autotok.report.told_classes import told_class_names
from autotok.searching.running.judging import judge
from autotok.training.student import emitted

ConfigLike = CompressionConfig | str | Path


def compress(
    model: nn.Module,
    config: ConfigLike | None = None,
    *,
    method: str | None = None,
    keep: Mapping[int, float] | None = None,
    r: int | None = None,
    options: Options | None = None,
    weights: str | Path | None = None,
    untrained: bool = False,
    image_size: int | None = None,
) -> CompressedViT:
    """A compressed model that holds `model` (not a copy); nothing of it is changed.

    It is in the mode that `model` is in, training or evaluation. `torch.compile(fullgraph=True)`
    takes every method of static counts; what an adaptive one keeps depends on the image, which no
    one graph holds, so leave `fullgraph` out there. Hooks: see `CompressedViT`.

    Args:
        model: A ViT of timm or transformers, or any `Backbone`. One of transformers keeps its own
            call, `model(pixel_values=...)`, and its own output class: see `OwnOutputViT`.
        config: A `CompressionConfig`, or the path of a `best.yaml`.
        method: Instead of `config`: a method's name, with one of
        keep: keep ratio per layer, {3: 0.7, 6: 0.5, 9: 0.35}, of the initial patch tokens, or
        r: patch tokens removed in every layer; at most half of those that enter where the authors'
            code takes it so (`CompressedViT.schedule` says what that came to).
        options: The method's own options.
        weights: The method's own parameters, a file as its authors published it; ToCom's adapters.
        untrained: Accept a method whose parameters nobody trained, and one whose network's weights
            are not to be had: enough to count it, or to train the former.
        image_size: Side in pixels of the images that it will see; by default that of the model, or
            of its processor's file. Grid, schedule and costs are those of this size.

    Raises:
        ConfigError, IncompatibleMethod, UnsupportedBackbone, UnknownName
        CheckpointError: `weights` does not hold what the method needs, or the weights of a network
            that it looks at images with cannot be had.
    """
    backbone = as_backbone(model, image_size)
    if config is None:
        if method is None:
            raise ConfigError("say how to compress: give a config, or a method with keep or r")
        config = build_config(backbone, method, keep=keep, r=r, options=options)
    elif method is not None or keep is not None or r is not None or options is not None:
        raise ConfigError("give either a config or a method with keep or r, not both")
    chosen = read_config(config, backbone)
    if None not in (image_size, chosen.image_size) and image_size != chosen.image_size:
        raise ConfigError(
            f"image_size is {image_size}, and the configuration's is {chosen.image_size}; leave one"
            " of them out"
        )
    if backbone.is_resized and chosen.image_size is None:  # else it would mean the model's own size
        chosen = dataclasses.replace(chosen, image_size=backbone.facts.image_shape[1])
    trained = trained_words(chosen)
    if trained and not isinstance(config, CompressionConfig):
        raise ConfigError(
            f"'{config}' {trained}, so it needs its own weights, not the model's; rebuild it with"
            " autotok.load, or fine-tune the model itself"
        )
    folds = issubclass(get_method(chosen.method), Folding)
    chosen = pinned(chosen, Path(weights) if folds and weights is not None else None)
    compressed = compress_backbone(backbone, chosen)
    if weights is not None and not folds:
        load_official(compressed, read_state_dict(Path(weights)), origin=str(weights))
        if trains_thresholds(get_method(chosen.method)):
            compressed = emitted(compressed)  # theirs are not to be found again
    elif not untrained:
        _refuse_untrained(chosen)
    return compressed if untrained else with_networks(compressed)


def dense(model: nn.Module, *, fill: str = "nearest") -> DenseViT:
    """A module that gives features of every patch, (B, C, rows, columns), whatever was removed.

    For heads that segment, estimate depth or read images; it holds `model` (not a copy). Features
    are the tokens as the last norm leaves them: those of the uncompressed model, to the last bit,
    where nothing was removed. A merged patch gets those of the token that it went to.

    Args:
        model: What `compress` gives, or a model that is not compressed, to compare with.
        fill: What a dropped patch gets: 'nearest', what the nearest patch on the grid has that is
            left, or 'zeros'.

    Raises:
        UnknownName, UnsupportedBackbone
    """
    whole = model if isinstance(model, CompressedViT) else compress(model, CompressionConfig())
    return DenseViT(whole, fill=fill)


def _refuse_untrained(config: CompressionConfig) -> None:
    """Raise where the method's parameters would be those it was born with."""
    if config.mode != "retrain" and config.exits is not None:
        raise IncompatibleMethod(
            "exits have heads that must be trained before they are of any use; train them:"
            " `autotok finetune --exits linear@3,6,9 ...`"
        )
    if config.mode != "retrain" and config.reductions:
        if get_method(config.method).training_need is Training.REQUIRED:
            raise IncompatibleMethod(
                f"method '{config.method}' has parameters that must be trained before it is of any"
                " use; give weights, or train it: `autotok finetune --method"
                f" {config.method} ...`"
            )


def build_config(
    backbone: Backbone,
    method: str,
    *,
    keep: Mapping[int, float] | None = None,
    r: int | None = None,
    options: Options | None = None,
) -> CompressionConfig:
    """A configuration from one method's name and one knob."""
    chosen = get_method(method)
    if keep is not None and r is not None:
        raise ConfigError("give keep or r, not both")
    reductions: tuple[Reduction, ...] = ()
    if keep is not None:
        if not isinstance(keep, Mapping):
            raise ConfigError(f"keep is {keep!r}; give a ratio per layer, such as {{3: 0.7}}")
        reductions = tuple(Reduction(layer, keep_ratio=ratio) for layer, ratio in keep.items())
    elif r is not None:
        facts = backbone.facts
        reductions = from_num_removed(
            r, facts.num_patches, num_blocks=facts.num_blocks, at_most_half=chosen.halves_r
        )
    elif method != "none":
        raise ConfigError(
            f"method '{method}' needs keep (a ratio per layer) or r (tokens per layer)"
        )
    config = CompressionConfig(method, reductions, options or {})
    known = chosen.resolve_options(config.options)
    return pinned(
        dataclasses.replace(config, options={name: known[name] for name in config.options})
    )


def read_config(config: ConfigLike, backbone: Backbone) -> CompressionConfig:
    """The configuration itself, read from a `best.yaml` where a path is given.

    Raises:
        ConfigError: no `best.yaml`, or one that means something else on this backbone.
    """
    if isinstance(config, CompressionConfig):
        return config
    if not isinstance(config, (str, Path)):
        raise ConfigError(
            f"config is {config!r}; give a CompressionConfig (of plain data:"
            " CompressionConfig.from_dict), or the path of a best.yaml"
        )
    bundle = read_best(Path(config))
    bundle.check_fits((backbone if backbone.pruned is None else backbone.whole).facts)
    return bundle.config


def macs(model: nn.Module, config: ConfigLike | None = None) -> Cost:
    """Exact cost of a model under a configuration (by default its own, or uncompressed)."""
    if isinstance(model, CompressedViT):
        chosen = read_config(config or model.config, model.original.whole)
        return cost(model.backbone.own_facts, chosen)
    backbone = as_backbone(model)
    chosen = read_config(config or CompressionConfig(), backbone)
    return cost(facts_under(backbone, chosen.subnet), chosen)


def profile(
    model: nn.Module,
    *,
    reference: nn.Module | None = None,
    batch: int = 1,
    seed: int = 0,
    runtime: str = "eager",
) -> Measurement:
    """Measured latency and peak memory on this machine, interleaved with a reference model.

    The reference is the uncompressed backbone unless another is given; `runtime` is 'eager',
    'compile', 'onnxruntime', 'openvino' or 'executorch', or that of a plug-in's format, for both.
    """
    check_number("batch", batch)
    runnable = model if isinstance(model, CompressedViT) else as_backbone(model)
    if reference is None and isinstance(runnable, CompressedViT):
        reference = runnable.original.whole
    facts = (runnable.backbone if isinstance(runnable, CompressedViT) else runnable).own_facts
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, *facts.image_shape, generator=generator)
    with evaluating(runnable, *(() if reference is None else (reference,))):
        return measure_here(runnable, images, reference, runtime=runtime)


@left_alone
def evaluate(
    model: nn.Module | str | Path,
    data: str | Path,
    *,
    metric: str = "auto",
    num_images: int | None = None,
    seed: int = 0,
    uncompressed: nn.Module | None = None,
    class_names: str | Path | None = None,
    device: str | None = None,
    precision: str = "auto",
    evaluator: str | OwnFunction | None = None,
    mean_macs: float | None = None,
) -> Quality:
    """Quality of a compressed model on a data set, against labels or the uncompressed model.

    What `autotok evaluate` says: a method of thresholds that is only given amounts has them found
    first, on training images where there are some; what it then costs on average is in the result.

    Args:
        model: A model, or the path of a `best.yaml`.
        data: 'demo', 'digits', 'cifar10' or an image folder.
        metric: 'auto', 'top1', 'agreement', 'kl', 'feature', 'knn', 'knn_top1'; 'own_loss' where
            less of what `evaluator` says is better.
        num_images: All by default.
        seed: Which images come first.
        uncompressed: What a fine-tuned model came from; its own backbone by default, and for a path
            what that names.
        class_names: File of the model's class names in order, for class folders that need one; by
            default what a `best.yaml` was searched with.
        device: 'auto', 'cpu', 'cuda[:N]' or 'mps'; where the model is by default.
        precision: 'float32', 'bfloat16' or 'float16'; 'auto' is the fastest that agrees with
            float32 on the first images.
        evaluator: A quality of your own: a function of a model and a batch of images that gives one
            number per image, or `module:function`; see `autotok.evaluation.own_quality`.
        mean_macs: Multiply-accumulates that an image may cost on average, for a model with exits:
            the threshold by which images stop is found first, on training images.

    Raises:
        ConfigError, DataError, CheckpointError
    """
    check_precision(precision)
    check_device(device or "auto")
    own = None if evaluator is None else OwnQuality.of(evaluator)
    metric = own_quality(metric, None if own is None else own.name)
    original = None if uncompressed is None else as_backbone(uncompressed)
    if isinstance(model, (str, Path)):
        class_names = told_class_names(model, data, class_names)
        original = original or load_uncompressed(Path(model))
        runnable = with_networks(load_bundle(Path(model)))
    elif isinstance(model, CompressedViT):
        runnable = model
    else:
        runnable = compress(model, CompressionConfig())
    if device is not None:
        for part in filter(None, (runnable, original)):
            part.to(torch_device(device))
    found = judge(
        runnable,
        data,
        metric=metric,
        num_images=num_images,
        seed=seed,
        uncompressed=original,
        class_names=class_names,
        precision=precision,
        own=own,
        mean_macs=mean_macs,
    )
    return found.quality


def export(
    model: nn.Module,
    path: str | Path,
    *,
    images: Tensor | None = None,
    format: str = "onnx",
    batch: int = 1,
    dynamic_batch: bool = False,
    precision: str | None = None,
    opset: int | None = None,
    calibration: Tensor | None = None,
) -> ExportResult:
    """Write a model as ONNX, OpenVINO, ExecuTorch and others, and check the file.

    A model that stops early becomes a file for each part; `ExportResult.path` is then the JSON file
    that says how they are run.

    Args:
        path: With the suffix of the format's files.
        images: (n, C, H, W), normalised, that the check against torch runs on; random by default.
        format: One of `autotok.list_formats()`.
        batch: Images per run of the file.
        dynamic_batch: Let the file take any batch.
        precision: 'float32', 'float16' or 'int8'; by default what the configuration says.
        opset: Of ONNX; by default the exporter's own.
        calibration: (m, C, H, W), normalised, what int8 is calibrated on; by default `images`.
    """
    runnable = model if isinstance(model, CompressedViT) else compress(model, CompressionConfig())
    lowered = (precision or runnable.config.number_format) == "int8"
    if lowered and images is None and calibration is None:
        raise ExportError(
            "int8 is calibrated on images; give `calibration`, a few dozen like those it will see"
        )
    check_suffix(path, FORMATS.get(format))
    checked_on = RANDOM if images is None else "images"
    images = random_images(runnable, 4) if images is None else images
    return export_model(
        runnable,
        Path(path),
        images,
        format=format,
        batch=batch,
        dynamic_batch=dynamic_batch,
        precision=precision,
        opset=opset,
        calibration=calibration,
        checked_on=checked_on,
    )
