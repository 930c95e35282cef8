"""`best.yaml`: one configuration, its backbone, its preprocessing and the evidence for it.

It rebuilds the module wherever the backbone can be had. Nothing is ever pickled.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import autotok
from autotok.config import CompressionConfig
from autotok.documents import read_yaml
from autotok.errors import ConfigError
from autotok.facts import BackboneFacts
from autotok.files import write_text
from autotok.plain_data import checked_keys, to_plain, typed

from .weights import WeightFile, describe_weights, sha256_of

FORMAT = 1


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
    """The files beside it, which a retrained configuration means nothing without; filled in when
    written."""
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
        """Whether the configuration means nothing without the files beside it."""
        return bool(trained_words(self.config))

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


def trained_words(config: CompressionConfig) -> str:
    """'was fine-tuned', or what else of it was trained; '' where any weights will do."""
    if config.mode == "retrain":
        return "was fine-tuned"
    return "" if config.exits is None else "has trained heads of exits"


def write_best(path: Path, bundle: Bundle) -> Path:
    """`path`, now holding the bundle as YAML with a line on how to use it.

    It names the weights that are in the folder beside it (`best/` for `best.yaml`); those of a
    retrained one `save_bundle` must have written before.

    Raises:
        ConfigError: those weights are not there.
    """
    bundle = dataclasses.replace(bundle, weights=describe_weights(path))
    if bundle.has_trained_weights and not bundle.weights:
        raise ConfigError(
            f"'{path}' cannot be written: its configuration has trained weights, and none"
            f" are in '{path.parent / path.stem}'; save the bundle folder first"
        )
    plain = json.loads(json_text(bundle.to_dict()))
    body = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
    use = f"Use it: autotok.compress(model, {path.name!r}),\n# or on the command line:"
    if bundle.has_trained_weights:
        use = (
            f"It {trained_words(bundle.config)}; its weights lie\n# where `weights` says; use both:"
        )
    header = f"# Found by autotok {bundle.autotok}. {use} autotok evaluate {path.name}\n"
    return write_text(path, header + body)


def read_best(path: Path) -> Bundle:
    """The bundle in a `best.yaml`, or in a folder that holds one (or `config.yaml`).

    Raises:
        ConfigError: missing, too large, not YAML, or with a key or value that cannot be.
    """
    data, place = read_yaml(yaml_of(path), like="a best.yaml, or the folder of a bundle")
    found = checked_keys(data, Bundle, place).get("format", FORMAT)
    if found != FORMAT:
        raise ConfigError(
            f"{place / 'format'}: the file has format {found!r}, but this autotok reads format"
            f" {FORMAT}; it may come from another version"
        )
    return typed(Bundle, data, place)


def yaml_of(path: Path) -> Path:
    """The YAML of a bundle: the path itself, or the one in the folder."""
    names = (path / name for name in ("best.yaml", "config.yaml"))
    return next((p for p in names if p.is_file()), path) if path.is_dir() else path


def json_text(data: Mapping[str, Any]) -> str:
    """As JSON, NumPy's and torch's scalars too."""
    return json.dumps(data, indent=1, default=_plain)


def _plain(value: object) -> object:
    """NumPy and torch scalars, tuples and mappings as JSON knows them."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
