"""`best.yaml` and `best/`: one compressed model with everything needed to use it elsewhere.

`best.yaml` names the backbone, its checkpoint, the preprocessing, the configuration and the
evidence; it rebuilds the module wherever the backbone can be had. `best/` adds the weights
(safetensors), the exported model, the results of its check, its preprocessing as data, a program
that runs it without autotok, and a README. Nothing is ever pickled.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import autotok
from autotok.backbones.base import Backbone, shrunk
from autotok.backbones.checkpoint import read_state_dict
from autotok.backbones.family import family_of
from autotok.backbones.loading import load_backbone, load_structure
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.documents import read_yaml
from autotok.errors import CheckpointError, ConfigError, ExportError
from autotok.facts import BackboneFacts
from autotok.files import replacing_folder, write_text
from autotok.methods.folding import adapters_of
from autotok.plain_data import checked_keys, to_plain, typed

from .exported import export_model
from .formats import FORMATS
from .onnx import output_name
from .preprocessing_file import preprocessing_file
from .readme import readme
from .weights import (
    EXITS,
    REDUCERS,
    WEIGHTS,
    WeightFile,
    checked_files,
    describe_weights,
    load_into,
    sha256_of,
    weights_home,
    write_weights,
)

FORMAT = 1
INFER = Path(__file__).with_name("infer.py")
"""Runs a bundle's ONNX file where autotok is not installed."""


@dataclass(frozen=True)
class BackboneRef:
    """Which backbone a configuration was found for."""

    name: str
    num_blocks: int
    grid: tuple[int, int]
    image_shape: tuple[int, int, int]
    num_classes: int
    family: str
    checkpoint: str | None = None
    """File the weights were read from; None for built-in or downloaded ones."""
    checkpoint_sha256: str | None = None

    @classmethod
    def of(
        cls, facts: BackboneFacts, *, name: str | None = None, checkpoint: Path | None = None
    ) -> BackboneRef:
        """The reference of a backbone; `name` is what `load_backbone` was asked for."""
        return cls(
            name=name or facts.name,
            num_blocks=facts.num_blocks,
            grid=facts.grid,
            image_shape=facts.image_shape,
            num_classes=facts.num_classes,
            family=facts.family,
            checkpoint=None if checkpoint is None else str(checkpoint),
            checkpoint_sha256=(
                sha256_of(checkpoint) if checkpoint is not None and checkpoint.is_file() else None
            ),
        )


@dataclass(frozen=True)
class Bundle:
    """The contents of a `best.yaml`."""

    backbone: BackboneRef
    config: CompressionConfig
    preprocessing: Mapping[str, Any]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Plain data: costs, quality with interval, budget, target, seed."""
    weights: tuple[WeightFile, ...] = ()
    """The files a retrained configuration means nothing without; filled in when written."""
    autotok: str = autotok.__version__
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for YAML."""
        return {
            "format": self.format,
            "autotok": self.autotok,
            "backbone": to_plain(self.backbone),
            "preprocessing": dict(self.preprocessing),
            "config": self.config.to_dict(),
            **({"weights": to_plain(self.weights)} if self.weights else {}),
            "evidence": dict(self.evidence),
        }

    @property
    def has_trained_weights(self) -> bool:
        """Whether the configuration means nothing without the files beside it: it was fine-tuned,
        or heads of exits were."""
        return self.config.mode == "retrain" or self.config.exits is not None

    def check_fits(self, facts: BackboneFacts) -> None:
        """Raise `ConfigError` where the configuration would mean something else here."""
        ref = self.backbone
        counted = any(r.num_keep is not None for r in self.config.reductions)
        if ref.num_blocks != facts.num_blocks or (counted and ref.grid != facts.grid):
            raise ConfigError(
                f"the configuration was made for '{ref.name}' ({ref.num_blocks} blocks, grid"
                f" {ref.grid[0]}x{ref.grid[1]}), but '{facts.name}' has {facts.num_blocks}"
                " blocks and"
                f" grid {facts.grid[0]}x{facts.grid[1]}; give the model it was made for"
            )


def write_best(path: Path, bundle: Bundle) -> Path:
    """`path`, now holding the bundle as YAML with a line on how to use it.

    A retrained one names its weights, which `save_bundle` must have written to the folder beside it
    (`best/` for `best.yaml`) before.

    Raises:
        ConfigError: those weights are not there.
    """
    if bundle.has_trained_weights:
        bundle = dataclasses.replace(bundle, weights=describe_weights(path))
        if not bundle.weights:
            raise ConfigError(
                f"'{path}' cannot be written: its configuration has trained weights, and none"
                f" are in '{path.parent / path.stem}'; save the bundle folder first"
            )
    plain = json.loads(json.dumps(bundle.to_dict(), default=_plain))
    body = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
    use = f"Use it: autotok.compress(model, {path.name!r}),\n# or on the command line:"
    if bundle.has_trained_weights:
        use = "Its weights are fine-tuned and lie\n# where `weights` says; use both:"
    header = f"# Found by autotok {bundle.autotok}. {use} autotok evaluate {path.name}\n"
    return write_text(path, header + body)


def read_best(path: Path) -> Bundle:
    """The bundle in a `best.yaml`, or in a folder that holds one (or `config.yaml`).

    Raises:
        ConfigError: missing, too large, not YAML, or with a key or value that cannot be.
    """
    data, place = read_yaml(_yaml_of(path), like="a best.yaml, or the folder of a bundle")
    found = checked_keys(data, Bundle, place).get("format", FORMAT)
    if found != FORMAT:
        raise ConfigError(
            f"{place / 'format'}: the file has format {found!r}, but this autotok reads format"
            f" {FORMAT}; it may come from another version"
        )
    return typed(Bundle, data, place)


def save_bundle(
    folder: Path,
    model: CompressedViT,
    bundle: Bundle,
    images: Tensor,
    *,
    formats: Sequence[str] = ("onnx",),
    batch: int = 1,
    calibration: Tensor | None = None,
) -> dict[str, Any]:
    """The check results of a fresh bundle folder, which replaces an older one as a whole.

    A format that fails does not spoil the rest: its reason is in the results (and in `check.json`).
    The model loses what only training needs.

    Args:
        images: (n, C, H, W) normalised, real ones, to compare the exported files with torch. They
            are resized first where the configuration names an image size: files take that size.
        batch: Images per run of the exported files.
        calibration: (m, C, H, W) normalised, what int8 files are calibrated on; by default
            `images`.
    """
    model.deploy()
    images = shrunk(images, bundle.config.image_size)
    if calibration is not None:
        calibration = shrunk(calibration, bundle.config.image_size)
    with replacing_folder(folder) as fresh:
        has_reducers = write_weights(fresh, model, bundle.backbone.name)
        write_best(fresh / "config.yaml", bundle)
        exports: dict[str, Any] = {}
        for name in formats:
            path = fresh / f"model{FORMATS.get(name).suffix}"
            try:
                found = export_model(
                    *(model, path, images),
                    format=name,
                    batch=batch,
                    calibration=calibration,
                    strict=False,
                )
                exports[name] = {**found.to_dict(), "path": path.name}
            except ExportError as error:
                exports[name] = {"ok": False, "error": str(error)}
        results = {"autotok": bundle.autotok, "torch": torch.__version__, "exports": exports}
        write_text(fresh / "check.json", json.dumps(results, indent=1, default=_plain))
        if "path" in exports.get("onnx", {}):
            _write_runner(fresh, bundle, exports["onnx"])
        write_text(fresh / "README.md", readme(bundle, exports, has_reducers))
    return results


def _write_runner(folder: Path, bundle: Bundle, found: Mapping[str, Any]) -> None:
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
    )
    write_text(folder / "preprocessing.json", json.dumps(data, indent=1))
    write_text(folder / INFER.name, INFER.read_text("utf-8"))


def load_bundle(
    path: str | Path, *, backbone: str | None = None, checkpoint: str | Path | None = None
) -> CompressedViT:
    """The compressed model of a bundle folder or `best.yaml`, in evaluation mode.

    Weights come from the folder (for `best.yaml`, from the folder `best` beside it) if they are
    there, else from where the backbone had them. A retrained configuration comes with the weights
    its YAML names, or not at all.

    Args:
        backbone: Another backbone to put the configuration on, by name.
        checkpoint: Weights to read instead.

    Raises:
        ConfigError, CheckpointError: see `read_best`, `load_backbone` and `checked_files`.
    """
    path, given = Path(path), None if checkpoint is None else Path(checkpoint)
    bundle = read_best(path)
    own = given is None and backbone in (None, bundle.backbone.name)
    home = weights_home(path)
    if bundle.has_trained_weights:
        if not own:
            raise ConfigError(
                f"'{path}' was fine-tuned from '{bundle.backbone.name}', so its weights fit no"
                " other backbone or checkpoint; leave these out, or fine-tune it there: autotok"
                " finetune"
            )
        home = checked_files(_yaml_of(path), bundle.weights)
    weights = home / WEIGHTS if own and (home / WEIGHTS).is_file() else None
    loaded = _backbone(bundle, path, backbone, weights or given)
    bundle.check_fits(loaded.facts)
    model = compress_backbone(loaded, bundle.config, is_folded=weights is not None).deploy()
    if (home / REDUCERS).is_file():
        load_into(model.reducers, read_state_dict(home / REDUCERS), home / REDUCERS)
    if model.exits is not None:
        load_into(model.exits, read_state_dict(home / EXITS), home / EXITS)
    return model.eval()


def bundle_structure(path: str | Path, *, backbone: str | None = None) -> CompressedViT:
    """What `load_bundle` gives, for counts and traces: shapes alone where no file is needed.

    Raises:
        ConfigError, CheckpointError: see `load_bundle`.
    """
    path = Path(path)
    bundle = read_best(path)
    ref, own = bundle.backbone, backbone in (None, bundle.backbone.name)
    if own and ref.checkpoint is not None:  # whose shapes may be its own
        return load_bundle(path, backbone=backbone)
    try:
        loaded = load_structure(
            backbone or ref.name,
            image_size=ref.image_shape[1] if own and _sized(ref) else None,
            subnet=bundle.config.subnet,
        )
    except CheckpointError:  # what tells its shapes is gone, but the weights tell them too
        if own and (weights_home(path) / WEIGHTS).is_file():
            return load_bundle(path)
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
        return load_bundle(path, backbone=backbone, checkpoint=given).original.whole
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
    return load_backbone(
        name or ref.name,
        checkpoint=weights,
        image_size=ref.image_shape[1] if own else None,
        subnet=bundle.config.subnet,
    )


def _sized(ref: BackboneRef) -> bool:
    """Whether the backbone takes an image size."""
    return family_of(ref.name).resizes


def _yaml_of(path: Path) -> Path:
    """The YAML of a bundle: the path itself, or the one in the folder."""
    names = (path / name for name in ("best.yaml", "config.yaml"))
    return next((p for p in names if p.is_file()), path) if path.is_dir() else path


def _plain(value: object) -> object:
    """NumPy and torch scalars, tuples and mappings as JSON knows them."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
