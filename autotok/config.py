"""What to do to a backbone: `CompressionConfig`, frozen, versioned, the noun everybody shares.

Search writes it, `compress` reads it, records carry it, bundles ship it. Also here: the one
function that turns kept amounts into integer token counts (`realise`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from numbers import Real
from types import MappingProxyType
from typing import Any

from autotok.documents import Place, parse_json
from autotok.errors import ConfigError, nearest
from autotok.exits import ExitPolicy
from autotok.finetune_spec import FineTuneSpec
from autotok.plain_data import to_plain, typed, whole
from autotok.pruned_spec import PrunedSpec

VERSION = 1
MODES = ("plug-in", "retrain")
POSITIONS = ("carried", "naive")
MOST_SIDE = 4096
"""Pixels of an image's side at most."""
NUMBERS = ("float32", "float16", "int8")
"""Number formats of exported files."""
Primitive = bool | int | float | str
Options = Mapping[str, Primitive]
"""A method's own options by name."""


@dataclass(frozen=True)
class SubnetSpec:
    """A subnet of an AutoFormer supernet: one width, and heads and MLP ratio per layer."""

    embed_dim: int
    heads: tuple[int, ...]
    mlp_ratios: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", tuple(int(h) for h in self.heads))
        object.__setattr__(self, "mlp_ratios", tuple(float(r) for r in self.mlp_ratios))
        if not self.heads or len(self.heads) != len(self.mlp_ratios):
            raise ConfigError(
                f"subnet lists heads for {len(self.heads)} layers and MLP ratios for"
                f" {len(self.mlp_ratios)}; both need one entry per layer"
            )
        if self.embed_dim < 1 or min(self.heads) < 1 or min(self.mlp_ratios) <= 0:
            raise ConfigError("subnet widths, heads and MLP ratios must be positive")

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.heads)

    @property
    def short(self) -> str:
        """Its shape in a few words, such as '144 wide, 12 deep, heads 2-3, MLP 3.5-4'."""
        heads = "-".join(f"{h}" for h in sorted({min(self.heads), max(self.heads)}))
        ratios = "-".join(f"{r:g}" for r in sorted({min(self.mlp_ratios), max(self.mlp_ratios)}))
        return f"{self.embed_dim} wide, {self.depth} deep, heads {heads}, MLP {ratios}"

    def hidden(self, layer: int) -> int:
        """MLP width of a layer, `int(embed_dim * ratio)` as published."""
        return int(self.embed_dim * self.mlp_ratios[layer])


Subnet = SubnetSpec | PrunedSpec
"""Which part of a model: of an AutoFormer supernet, or what pruning leaves of any other ViT."""


@dataclass(frozen=True)
class Reduction:
    """How much is kept at one reduction layer: a keep ratio, or a count of patch tokens.

    `keep_ratio` is live patch tokens after the layer over the image's initial patch tokens, in (0,
    1]. `num_keep` is the same as an integer. Exactly one is given, neither for threshold methods.
    `options` override the method's options at this layer.
    """

    layer: int
    keep_ratio: float | None = None
    num_keep: int | None = None
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _read_only(self.options))
        for name in ("layer", "num_keep"):
            given = getattr(self, name)
            if type(given) is not int and (given is not None or name == "layer"):
                object.__setattr__(self, name, whole(name, given))
        if self.layer < 0:
            raise ConfigError(f"layer {self.layer} cannot reduce: layers count from 0")
        if self.keep_ratio is not None and self.num_keep is not None:
            raise ConfigError(f"layer {self.layer} gives both keep_ratio and num_keep; give one")
        ratio: Any = self.keep_ratio
        if ratio is not None and not (isinstance(ratio, Real) and 0.0 < float(ratio) <= 1.0):
            raise ConfigError(
                f"keep_ratio {self.keep_ratio!r} at layer {self.layer} is outside (0, 1]"
            )
        if self.num_keep is not None and self.num_keep < 0:
            raise ConfigError(f"num_keep {self.num_keep} at layer {self.layer} is negative")
        if self.keep_ratio is not None:  # 1 and 1.0 are one ratio, and one id
            object.__setattr__(self, "keep_ratio", float(self.keep_ratio))

    @classmethod
    def from_dict(cls, data: object, *, where: Place | str = "reduction") -> Reduction:
        """From plain data; those of one layer and count, of which a large study holds many
        thousands, are one object."""
        if type(data) is dict and data.keys() == {"layer", "num_keep"}:
            layer, num_keep = data["layer"], data["num_keep"]
            if type(layer) is type(num_keep) is int and min(layer, num_keep) >= 0:
                return _counted(layer, num_keep)
        return typed(cls, data, where)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles: a read-only mapping can do neither by itself."""
        return Reduction, (self.layer, self.keep_ratio, self.num_keep, dict(self.options))


@lru_cache(maxsize=8192)
def _counted(layer: int, num_keep: int) -> Reduction:
    return Reduction(layer, num_keep=num_keep)


@dataclass(frozen=True)
class CompressionConfig:
    """One way to compress one backbone; JSON and YAML round-trip exactly.

    `positions: naive` rebuilds relative positions from the sequence length as AutoFormer's own code
    does; it exists for studies of that fault only.
    """

    method: str = "none"
    reductions: tuple[Reduction, ...] = ()
    options: Options = field(default_factory=dict)
    mode: str = "plug-in"
    positions: str = "carried"
    subnet: Subnet | None = None
    finetune: FineTuneSpec | None = None
    """How it is retrained; only with mode 'retrain', where None means the defaults."""
    exits: ExitPolicy | None = None
    """Where images may stop early; None: nowhere."""
    number_format: str = "float32"
    """Of the file that is shipped: one of `NUMBERS`. In torch the model stays as it is."""
    image_size: int | None = None
    """Side in pixels that images are resized to inside the model, a multiple of the patch size;
    None: the backbone's own."""
    backbone: str = ""
    """Which one, in a search of several; "" is the only one. Who compresses gives it."""
    version: int = VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _read_only(self.options))
        _require_reductions(self.reductions)
        object.__setattr__(
            self, "reductions", tuple(sorted(self.reductions, key=lambda r: r.layer))
        )
        layers = [r.layer for r in self.reductions]
        if len(set(layers)) != len(layers):
            raise ConfigError(f"layers {layers} name a reduction layer twice")
        if self.version != VERSION:
            raise ConfigError(
                f"configuration version {self.version} is unknown; this autotok reads version"
                f" {VERSION}"
            )
        _one_of("mode", self.mode, MODES)
        if self.finetune is not None and self.mode != "retrain":
            raise ConfigError(
                "mode 'plug-in' does not fine-tune; leave finetune out or set retrain"
            )
        _one_of("positions", self.positions, POSITIONS)
        _one_of("number_format", self.number_format, NUMBERS)
        if self.image_size is not None:
            object.__setattr__(self, "image_size", whole("image_size", self.image_size))
        if self.image_size is not None and not 1 <= self.image_size <= MOST_SIDE:
            raise ConfigError(
                f"image_size {self.image_size} is no side of an image; give a multiple of the"
                f" patch size, {MOST_SIDE} pixels at most"
            )

    def __eq__(self, other: object) -> bool:
        """By the id: an option's 1 and 1.0 are told apart, as only its method knows its type."""
        if not isinstance(other, CompressionConfig):
            return NotImplemented
        return self.config_id == other.config_id

    def __hash__(self) -> int:
        return hash(self.config_id)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles: a read-only mapping can do neither by itself."""
        given = vars(self) | {"options": dict(self.options)}
        return CompressionConfig, tuple(given[item.name] for item in dataclasses.fields(self))

    @property
    def plugged_in(self) -> CompressionConfig:
        """The same reduction without any retraining."""
        return dataclasses.replace(self, mode="plug-in", finetune=None)

    @cached_property
    def config_id(self) -> str:
        """Short hash of the canonical JSON: equal configurations, and only those, share it."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:12]

    @property
    def canonical(self) -> str:
        """JSON on one line, the same for equal configurations."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON or YAML."""
        data: dict[str, Any] = {
            "version": self.version,
            "method": self.method,
            "mode": self.mode,
            "positions": self.positions,
            "options": dict(self.options),
            "reductions": [_reduction_dict(r) for r in self.reductions],
        }
        if self.subnet is not None:
            data["subnet"] = to_plain(self.subnet)
        if self.finetune is not None:
            data["finetune"] = self.finetune.to_dict()
        if self.exits is not None:
            data["exits"] = self.exits.to_dict()
        if self.number_format != "float32":
            data["number_format"] = self.number_format
        if self.image_size is not None:
            data["image_size"] = self.image_size
        if self.backbone:
            data["backbone"] = self.backbone
        return data

    @classmethod
    def from_dict(cls, data: object, *, where: Place | str = "configuration") -> CompressionConfig:
        """The inverse of `to_dict`; unknown keys are refused with the nearest known one."""
        return typed(cls, data, where)

    def to_json(self) -> str:
        """JSON text to be read."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CompressionConfig:
        """Parse `to_json`'s text."""
        return cls.from_dict(parse_json(text, "configuration"))


def round_count(ratio: float, total: int, rounding: str) -> int:
    """`ratio * total` as an integer by 'floor', 'ceil' or 'round', safe against float noise.

    0.55 * 100 is 55.00000000000001 in floats and must not become 56 by ceil: 1e-9 of slack is
    given.
    """
    exact = ratio * total
    if rounding == "floor":
        return math.floor(exact + 1e-9)
    if rounding == "ceil":
        return math.ceil(exact - 1e-9)
    if rounding == "round":
        return math.floor(exact + 0.5)
    raise AssertionError(f"rounding rule {rounding!r}")


def _reduction_dict(reduction: Reduction) -> dict[str, Any]:
    data: dict[str, Any] = {"layer": reduction.layer}
    if reduction.keep_ratio is not None:
        data["keep_ratio"] = reduction.keep_ratio
    if reduction.num_keep is not None:
        data["num_keep"] = reduction.num_keep
    if reduction.options:
        data["options"] = dict(reduction.options)
    return data


def _read_only(options: Options) -> Options:
    if not isinstance(options, Mapping):
        raise ConfigError(f"options are {options!r}; give a mapping, such as {{'alpha': 0.5}}")
    plain = {name: _scalar(value) for name, value in options.items()}
    return MappingProxyType(plain)


def _scalar(value: Any) -> Any:
    """NumPy's numbers as Python's, which JSON knows."""
    return value.item() if type(value).__module__ == "numpy" else value


def _require_reductions(given: Any) -> None:
    listed = isinstance(given, (list, tuple))
    if not listed or not all(isinstance(item, Reduction) for item in given):
        raise ConfigError(
            f"reductions are {given!r}; give a tuple of Reduction, such as"
            " (Reduction(3, keep_ratio=0.7),)"
        )


def _one_of(word: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        hint = nearest(str(value), allowed)
        raise ConfigError(f"{word} '{value}' is unknown;{hint} known: {', '.join(allowed)}")
