"""`best.yaml` and `best/`: one compressed model with everything needed to use it elsewhere.

`best.yaml` names the backbone, its checkpoint, the preprocessing, the configuration and the
evidence; it rebuilds the module wherever the backbone can be had. `best/` adds the weights
(safetensors), the exported model, the results of its check and a README. Nothing is ever pickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

import autotok
from autotok.backbones.base import Backbone
from autotok.backbones.checkpoint import read_state_dict
from autotok.backbones.loading import load_backbone
from autotok.backbones.supernet import SupernetView
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, checked_keys
from autotok.errors import CheckpointError, ConfigError, ExportError
from autotok.facts import BackboneFacts
from autotok.files import replacing_folder, write_text

from .exported import FORMATS, export_model

__all__ = ["Bundle", "BackboneRef", "load_bundle", "read_best", "save_bundle", "write_best"]

FORMAT = 1
MAX_BYTES = 2**20
WEIGHTS, REDUCERS = "weights.safetensors", "reducers.safetensors"


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
            checkpoint_sha256=None if checkpoint is None else _sha256(checkpoint),
        )


@dataclass(frozen=True)
class Bundle:
    """The contents of a `best.yaml`."""

    backbone: BackboneRef
    config: CompressionConfig
    preprocessing: Mapping[str, Any]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Plain data: costs, quality with interval, budget, target, seed."""
    autotok: str = autotok.__version__
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for YAML."""
        ref = dataclasses.asdict(self.backbone)
        ref.update(grid=list(self.backbone.grid), image_shape=list(self.backbone.image_shape))
        return {
            "format": self.format,
            "autotok": self.autotok,
            "backbone": ref,
            "preprocessing": dict(self.preprocessing),
            "config": self.config.to_dict(),
            "evidence": dict(self.evidence),
        }

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
    """`path`, now holding the bundle as YAML with a line on how to use it."""
    plain = json.loads(json.dumps(bundle.to_dict(), default=_plain))
    body = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
    header = (
        f"# Found by autotok {bundle.autotok}. Use it: autotok.compress(model, {path.name!r}),\n"
        f"# or on the command line: autotok evaluate {path.name}\n"
    )
    return write_text(path, header + body)


def read_best(path: Path) -> Bundle:
    """The bundle in a `best.yaml`, or in a folder that holds one (or `config.yaml`).

    Raises:
        ConfigError: missing, too large, not YAML, or with a key or value that cannot be.
    """
    if path.is_dir():
        path = next((path / n for n in ("best.yaml", "config.yaml") if (path / n).is_file()), path)
    if not path.is_file():
        raise ConfigError(f"'{path}' does not exist; give a best.yaml, or the folder of a bundle")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"'{path}' is larger than 1 MB and no best.yaml; give the right file")
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"'{path}' is not readable YAML ({reason}); was it edited?") from error
    values = checked_keys(data, Bundle, str(path))
    if values.get("format") != FORMAT:
        raise ConfigError(
            f"'{path}' has format {values.get('format')!r}, but this autotok reads format {FORMAT};"
            " it may come from another version"
        )
    missing = [key for key in ("backbone", "config", "preprocessing") if key not in values]
    if missing:
        raise ConfigError(f"'{path}' lacks the key '{missing[0]}'; it is no complete best.yaml")
    ref = checked_keys(values["backbone"], BackboneRef, f"{path}: backbone")
    try:
        ref.update(grid=tuple(ref["grid"]), image_shape=tuple(ref["image_shape"]))
        values["backbone"] = BackboneRef(**ref)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"'{path}': backbone is incomplete ({error}); search again") from error
    values["config"] = CompressionConfig.from_dict(values["config"], where=f"{path}: config")
    return Bundle(**values)


def save_bundle(
    folder: Path,
    model: CompressedViT,
    bundle: Bundle,
    images: Tensor,
    *,
    formats: Sequence[str] = ("onnx",),
    batch: int = 1,
) -> dict[str, Any]:
    """The check results of a fresh bundle folder, which replaces an older one as a whole.

    A format that fails does not spoil the rest: its reason is in the results (and in `check.json`).

    Args:
        images: (n, C, H, W) normalised, real ones, to compare the exported files with torch.
        batch: Images per run of the exported files.
    """
    from safetensors.torch import save_file

    with replacing_folder(folder) as fresh:
        save_file(_tensors(_backbone_module(model.backbone)), fresh / WEIGHTS)
        reducers = _tensors(model.reducers)
        if reducers:
            save_file(reducers, fresh / REDUCERS)
        write_best(fresh / "config.yaml", bundle)
        exports: dict[str, Any] = {}
        for name in formats:
            path = fresh / f"model{FORMATS.get(name, '')}"
            try:
                found = export_model(model, path, images, format=name, batch=batch, strict=False)
                exports[name] = {**found.to_dict(), "path": path.name}
            except ExportError as error:
                exports[name] = {"ok": False, "error": str(error)}
        results = {"autotok": bundle.autotok, "torch": torch.__version__, "exports": exports}
        write_text(fresh / "check.json", json.dumps(results, indent=1, default=_plain))
        write_text(fresh / "README.md", _readme(bundle, exports, bool(reducers)))
    return results


def load_bundle(
    path: Path, *, backbone: str | None = None, checkpoint: Path | None = None
) -> CompressedViT:
    """The compressed model of a bundle folder or `best.yaml`, in evaluation mode.

    Weights come from the folder (for `best.yaml`, from the folder `best` beside it) if they are
    there, else from where the backbone had them.

    Args:
        backbone: Another backbone to put the configuration on, by name.
        checkpoint: Weights to read instead.

    Raises:
        ConfigError, CheckpointError: see `read_best` and `load_backbone`.
    """
    bundle = read_best(path)
    ref, subnet = bundle.backbone, bundle.config.subnet
    home = path if path.is_dir() else path.parent / path.stem
    if not (home / WEIGHTS).is_file():
        home = path.parent  # the configuration inside a bundle folder
    own = checkpoint is None and backbone in (None, ref.name)
    weights = home / WEIGHTS if own and (home / WEIGHTS).is_file() else None
    given = weights or checkpoint
    if given is None and own and ref.checkpoint is not None:
        given = Path(ref.checkpoint)
        if not given.is_file():
            raise CheckpointError(
                f"checkpoint '{given}', which '{path}' names, is not here; give its place with"
                " --checkpoint, or keep the folder 'best' beside best.yaml"
            )
    sized = own and ref.family == "timm_vit" and ref.name != "tiny"
    loaded = load_backbone(
        backbone or ref.name,
        checkpoint=given,
        image_size=ref.image_shape[1] if sized else None,
        subnet=subnet,
    )
    if weights is not None:
        _load(_backbone_module(loaded), read_state_dict(weights), weights)
    bundle.check_fits(loaded.facts)
    model = compress_backbone(loaded, bundle.config)
    if (home / REDUCERS).is_file():
        _load(model.reducers, read_state_dict(home / REDUCERS), home / REDUCERS)
    return model.eval()


def _backbone_module(backbone: Backbone) -> nn.Module:
    """The module whose weight names others know: timm's own, or a stand-alone AutoFormer."""
    if isinstance(backbone, SupernetView):
        return backbone.supernet.cut(backbone.subnet)
    inner = getattr(backbone, "model", None)
    return inner if isinstance(inner, nn.Module) else backbone


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """State as independent contiguous tensors, which safetensors asks for."""
    return {k: v.detach().cpu().clone().contiguous() for k, v in module.state_dict().items()}


def _load(module: nn.Module, tensors: Mapping[str, Tensor], origin: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()[:160]
        raise CheckpointError(
            f"weights '{origin}' do not fit the model of their bundle ({reason}); was a file"
            " replaced?"
        ) from error


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _plain(value: object) -> object:
    """NumPy and torch scalars, tuples and mappings as JSON knows them."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _readme(bundle: Bundle, exports: Mapping[str, Any], has_reducers: bool) -> str:
    """How to use this folder."""
    ref, config = bundle.backbone, bundle.config
    channels, height, width = ref.image_shape
    lines = [
        f"# {ref.name}, compressed by {config.method}",
        "",
        f"Made by autotok {bundle.autotok}. In this folder:",
        "",
        "- `config.yaml`: backbone, preprocessing, configuration and evidence",
        f"- `{WEIGHTS}`: the backbone's weights under their usual names",
        *([f"- `{REDUCERS}`: the compression method's own weights"] if has_reducers else []),
        *[
            f"- `{found['path']}`: {_export_line(found)}"
            for found in exports.values()
            if "path" in found
        ],
        *[
            f"- no {name} file: {found['error']}"
            for name, found in exports.items()
            if "error" in found
        ],
        "- `check.json`: how the exported files compare with torch",
        "",
        "In Python, with autotok:",
        "",
        "    from autotok.export.bundle import load_bundle",
        "    from pathlib import Path",
        '    model = load_bundle(Path("."))      # images in, logits out',
        "",
        'or on a model of your own: `autotok.compress(model, "config.yaml")`.',
        "",
        f"Input: `images`, float32 (batch, {channels}, {height}, {width}), prepared as"
        " `preprocessing`",
        "in `config.yaml` says. Output: `logits`.",
        "",
    ]
    return "\n".join(lines)


def _export_line(found: Mapping[str, Any]) -> str:
    verdict = "agrees with torch" if found["ok"] else "DISAGREES with torch"
    return (
        f"batch {found['batch']}, {found['size_mb']} MB, {verdict} on {found['num_images']} images"
        f" (largest difference {found['max_abs_diff']:.1e})"
    )
