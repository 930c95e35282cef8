"""`best.yaml` and `best/`: one compressed model with everything needed to use it elsewhere.

`best.yaml` names the backbone, its checkpoint, the preprocessing, the configuration and the
evidence; it rebuilds the module wherever the backbone can be had. `best/` adds the weights
(safetensors), the exported model, the results of its check, its preprocessing as data, a program
that runs it without autotok, and a README. Nothing is ever pickled.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from autotok.backbones.base import Backbone, shrunk
from autotok.backbones.checkpoint import read_state_dict
from autotok.backbones.family import family_of, tensors_of
from autotok.backbones.loading import load_backbone, load_structure
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.schedule import needs_calibration
from autotok.errors import (
    CheckpointError,
    ConfigError,
    ExportError,
    IncompatibleMethod,
    failure,
)
from autotok.files import replacing_folder, write_text
from autotok.methods.base import Training
from autotok.methods.folding import adapters_of
from autotok.methods.registry import get_method
from autotok.methods.thresholds import Calibrated

from .best_yaml import (
    BackboneRef,
    Bundle,
    json_text,
    read_best,
    trained_words,
    write_best,
    yaml_of,
)
from .exported import export_model
from .formats import FORMATS
from .onnx import output_name
from .preprocessing_file import preprocessing_file
from .readme import not_rebuilt, readme
from .weights import (
    EXITS,
    REDUCERS,
    WEIGHTS,
    check_files,
    check_named,
    check_same,
    load_into,
    named_home,
    sha256_of,
    weights_home,
    write_weights,
)

_LOG = logging.getLogger(__name__)
_SAME = 1e-3
"""Of the largest output, by which a rebuilt model may differ."""
INFER = Path(__file__).with_name("infer.py")
"""Runs a bundle's ONNX file where autotok is not installed."""


def save_bundle(
    folder: Path,
    model: CompressedViT,
    bundle: Bundle,
    images: Tensor,
    *,
    formats: Sequence[str] = ("onnx",),
    calibration: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    checked_on: str = "images",
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The check results of a fresh bundle folder, which replaces an older one as a whole.

    A format that fails does not spoil the rest: its reason is in the results (and in `check.json`).
    The model loses what only training needs.

    Args:
        images: (n, C, H, W) normalised, real ones, to compare the exported files with torch. They
            are resized first where the configuration names an image size: files take that size.
        calibration: (m, C, H, W) normalised, what int8 files are calibrated on; by default
            `images`.
        checked_on: What `images` are: 'images', or 'random images'.
        class_names: What `infer.py` calls the classes; by default the model's own names.
        left_out: Formats that are not written, and why; README and check results say it.
    """
    model.deploy()
    images = shrunk(images, bundle.config.image_size)
    if calibration is not None:
        calibration = shrunk(calibration, bundle.config.image_size)
    with replacing_folder(folder) as fresh:
        has_reducers = write_weights(fresh, model, bundle.backbone.name)
        write_best(fresh / "config.yaml", bundle)
        exports: dict[str, Any] = {
            name: {"ok": False, "left_out": True, "error": why} for name, why in left_out.items()
        }
        for name in formats:
            path = fresh / f"model{FORMATS.get(name).suffix}"
            try:
                found = export_model(
                    *(model, path, images),
                    format=name,
                    calibration=calibration,
                    checked_on=checked_on,
                    strict=False,
                )
                exports[name] = {**found.to_dict(), "path": Path(found.path).name}
            except ExportError as error:
                exports[name] = {"ok": False, "error": str(error)}
        rebuilt = _rebuilt(fresh, model, images[:2])
        results = {
            "autotok": bundle.autotok,
            "torch": torch.__version__,
            "exports": exports,
            "rebuilt": rebuilt,
        }
        write_text(fresh / "check.json", json_text(results))
        if "path" in exports.get("onnx", {}):
            own = getattr(model.original.whole, "class_names", ())
            _write_runner(fresh, bundle, exports["onnx"], class_names or own)
        write_text(fresh / "README.md", readme(bundle, exports, has_reducers, rebuilt))
    return results


def _rebuilt(folder: Path, model: CompressedViT, images: Tensor) -> dict[str, Any]:
    """Whether what the folder says gives the same model again. One made from a model object may
    not: names leave open what arguments, or somebody's hands, changed."""
    like = next(model.parameters())
    images = images.to(like)
    found: dict[str, Any]
    try:
        again = load_bundle(folder).to(like)
        with torch.no_grad():
            expected, got = (CompressedViT.forward(m, images).float() for m in (model, again))
    except Exception as error:  # whatever it is, what was compressed is handed over all the same
        found = {"ok": False, "error": failure(error)}
    else:
        if expected.shape != got.shape:
            found = {"ok": False, "error": f"{got.shape[-1]} outputs, not {expected.shape[-1]}"}
        else:
            apart = float((expected - got).abs().max())
            allowed = _SAME * max(1.0, float(expected.abs().max()))
            found = {"ok": apart <= allowed, "max_abs_diff": apart}
    if not found["ok"]:
        _LOG.warning("%s", not_rebuilt(found, model.config))
    return found


def _write_runner(
    folder: Path, bundle: Bundle, found: Mapping[str, Any], class_names: Sequence[str]
) -> None:
    """What runs the ONNX file without autotok: the preprocessing as data, and a program."""
    if not bundle.preprocessing:
        return  # of a backbone that takes no image files
    classes = bundle.backbone.num_classes
    data = preprocessing_file(
        bundle.preprocessing,
        file=found["path"],
        batch=found["batch"],
        output=output_name(classes),
        classes=classes,
        side=bundle.config.image_size,
        class_names=class_names,
    )
    write_text(folder / "preprocessing.json", json.dumps(data, indent=1))
    write_text(folder / INFER.name, INFER.read_text("utf-8"))


def load_bundle(
    path: str | Path,
    *,
    backbone: str | None = None,
    checkpoint: str | Path | None = None,
    untrained: bool = False,
) -> CompressedViT:
    """The compressed model of a bundle folder or `best.yaml`, in evaluation mode.

    Weights come from the folder (for `best.yaml`, from the folder `best` beside it) if they are
    there, else from where the backbone had them, and are those that it was written with. A
    retrained configuration comes with the weights its YAML names, or not at all.

    Args:
        backbone: Another backbone to put the configuration on, by name.
        checkpoint: Weights to read instead.
        untrained: Accept a method whose own parameters are not to be had: enough to count it.

    Raises:
        ConfigError: see `read_best` and `load_backbone`.
        CheckpointError: weights are missing, or others than the YAML was written with.
        IncompatibleMethod: the method has to be trained, and was not.
    """
    path, given = Path(path), None if checkpoint is None else Path(checkpoint)
    bundle = read_best(path)
    own = given is None and backbone in (None, bundle.backbone.name)
    home = _proven_home(bundle, path, own)
    weights = home / WEIGHTS if own and (home / WEIGHTS).is_file() else None
    loaded = _backbone(bundle, path, backbone, weights or given)
    bundle.check_fits(loaded.facts)
    model = compress_backbone(loaded, bundle.config, is_folded=weights is not None).deploy()
    if own and weights is None:
        check_same(path, bundle.weights, model, bundle.backbone.name)
    if (home / REDUCERS).is_file():
        load_into(model.reducers, read_state_dict(home / REDUCERS), home / REDUCERS)
    elif not untrained and tensors_of(model.reducers):
        _check_trained(bundle, home)
    if model.exits is not None:
        load_into(model.exits, read_state_dict(home / EXITS), home / EXITS)
    return model.eval()


def _proven_home(bundle: Bundle, path: Path, own: bool) -> Path:
    """Where the weights are that a bundle goes with, unchanged where its YAML names them; `own`
    says that they shall be used, not others."""
    where, home = yaml_of(path), named_home(yaml_of(path), bundle.weights)
    if bundle.has_trained_weights:
        if not own:
            raise ConfigError(
                f"'{path}' {trained_words(bundle.config)}, so its weights fit no other backbone or"
                f" checkpoint than those of '{bundle.backbone.name}'; leave these out, or fine-tune"
                " it there: autotok finetune"
            )
        check_named(where, bundle.weights)
        check_files(where, bundle.weights, home, otherwise="fine-tune again")
    elif own and (home / WEIGHTS).is_file():
        again = "give weights with --checkpoint"
        check_files(where, bundle.weights, home, otherwise=again)
    return home


def _check_trained(bundle: Bundle, home: Path) -> None:
    """Raise where parameters of the method's own, which no file holds, were trained or have to be.

    Raises:
        CheckpointError, IncompatibleMethod
    """
    method = bundle.config.method
    if _says_all(bundle):
        return
    if (home / WEIGHTS).is_file() or any(Path(w.file).name == REDUCERS for w in bundle.weights):
        raise CheckpointError(
            f"'{home / REDUCERS}', the parameters of method '{method}', is not here; copy the whole"
            " bundle folder again"
        )
    if get_method(method).training_need is Training.REQUIRED:
        raise IncompatibleMethod(
            f"method '{method}' has parameters that must be trained before it is of any use, and"
            f" '{home / REDUCERS}' is not here; train it: `autotok finetune --method {method} ...`"
        )


def _says_all(bundle: Bundle) -> bool:
    """Whether thresholds are all that a method has of its own, and the configuration has them."""
    config = bundle.config
    found = issubclass(get_method(config.method), Calibrated) and not needs_calibration(config)
    return found and config.mode == "plug-in" and not adapters_of(config)


def bundle_structure(path: str | Path, *, backbone: str | None = None) -> CompressedViT:
    """What `load_bundle` gives, for counts and traces: shapes alone where no file is needed.

    Raises:
        ConfigError, CheckpointError: see `load_bundle`.
    """
    path = Path(path)
    bundle = read_best(path)
    ref, own = bundle.backbone, backbone in (None, bundle.backbone.name)
    if own and ref.checkpoint is not None:  # whose shapes may be its own
        return load_bundle(path, backbone=backbone, untrained=True)
    try:
        loaded = load_structure(
            backbone or ref.name,
            image_size=ref.image_shape[1] if own and _sized(ref) and _is_square(ref) else None,
            subnet=bundle.config.subnet,
        )
    except CheckpointError:  # what tells its shapes is gone, but the weights tell them too
        if own and (weights_home(path) / WEIGHTS).is_file():
            return load_bundle(path, untrained=True)
        raise
    bundle.check_fits(loaded.facts)
    return compress_backbone(loaded, bundle.config).eval()


def load_uncompressed(
    path: str | Path, *, backbone: str | None = None, checkpoint: str | Path | None = None
) -> Backbone:
    """The backbone a `best.yaml` was found for, before any fine-tuning, in evaluation mode.

    Args:
        backbone: Another one, by name.
        checkpoint: Weights to read instead.

    Raises:
        ConfigError, CheckpointError: see `load_bundle`.
    """
    path, given = Path(path), None if checkpoint is None else Path(checkpoint)
    bundle = read_best(path)
    if bundle.config.mode == "plug-in" and not adapters_of(bundle.config):
        plain = load_bundle(path, backbone=backbone, checkpoint=given, untrained=True)
        return plain.original.whole
    loaded = _backbone(bundle, path, backbone, given)
    bundle.check_fits(loaded.facts)
    return loaded.eval()


def _backbone(bundle: Bundle, path: Path, name: str | None, weights: Path | None) -> Backbone:
    """The backbone that a bundle or the caller names, from the weights given or its own."""
    ref = bundle.backbone
    own = name in (None, ref.name)
    if weights is None and own and ref.checkpoint is not None:
        weights = Path(ref.checkpoint)
        if not weights.is_file():
            raise CheckpointError(
                f"checkpoint '{weights}', which '{path}' names, is not here; give its place with"
                " --checkpoint, or keep the folder 'best' beside best.yaml"
            )
        if ref.checkpoint_sha256 not in (None, sha256_of(weights)):
            raise CheckpointError(
                f"checkpoint '{weights}' is not the file that '{path}' was written with (another"
                " sha256); restore it, or give weights with --checkpoint"
            )
    found = load_backbone(
        name or ref.name,
        checkpoint=weights,
        image_size=ref.image_shape[1] if own and _is_square(ref) else None,
        subnet=bundle.config.subnet,
    )
    if own and bundle.preprocessing:  # a model object's may be another than its name's
        told = {k: v for k, v in bundle.preprocessing.items() if k != "image_shape"}
        found.prepared = found.whole.prepared = told
    return found


def _is_square(ref: BackboneRef) -> bool:
    """Whether one number says the size; others are their model's own."""
    return ref.image_shape[1] == ref.image_shape[2]


def _sized(ref: BackboneRef) -> bool:
    """Whether the backbone takes an image size."""
    return family_of(ref.name).resizes
