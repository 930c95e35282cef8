"""Weight files of supernets and of subnets cut out of them: safetensors that say what they hold.

The metadata names the backbone, the supernet's shapes and one subnet: the default of a supernet
file, the only one of a cut file. Files without it (the official ones) are read all the same.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autotok.config import SubnetSpec, checked_keys
from autotok.errors import CheckpointError, ConfigError
from autotok.files import replacing

from .autoformer import AutoFormer, SupernetSpec
from .supernet import AutoFormerSupernet

__all__ = ["Origin", "read_origin", "save_cut", "save_supernet", "spec_from_dict"]

KEY = "autotok_autoformer"
LARGEST = 1 << 16
"""Of any width, depth or side; beyond it a typing error asks for more memory than there is."""
_TUPLES = ("embed_choices", "depth_choices", "heads_choices", "mlp_ratio_choices", "image_shape")


@dataclass(frozen=True)
class Origin:
    """What a weight file says about itself."""

    backbone: str
    """The name `load_backbone` takes."""
    spec: SupernetSpec
    subnet: SubnetSpec

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self))


def read_origin(path: Path) -> Origin | None:
    """What a .safetensors file of ours says it holds; None where it says nothing.

    Raises:
        CheckpointError: the file is missing or damaged, or says something that cannot be.
    """
    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
        if text is None:
            return None
        data = json.loads(text)
        subnet = SubnetSpec(**checked_keys(data["subnet"], SubnetSpec, "subnet"))
        spec = spec_from_dict(data["spec"], "spec")
        spec.check(subnet)
        return Origin(str(data["backbone"]), spec, subnet)
    except (SafetensorError, OSError, ArithmeticError, ValueError, LookupError, TypeError,
            RecursionError) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"checkpoint '{path}' is damaged ({reason}); write or fetch it again"
        ) from error


def spec_from_dict(data: object, where: str, base: SupernetSpec | None = None) -> SupernetSpec:
    """Shapes of a supernet from plain data, checked; fields left out are those of `base`.

    Raises:
        ConfigError: a key is unknown or missing, or a value cannot be.
    """
    given = checked_keys(data, SupernetSpec, where)
    values: dict[str, Any] = {} if base is None else dataclasses.asdict(base)
    for item in dataclasses.fields(SupernetSpec):
        name = item.name
        if name in given:
            values[name] = _checked(name, given[name], where)
        elif name not in values and item.default is dataclasses.MISSING:
            raise ConfigError(f"{where}: key '{name}' is missing; a supernet of one's own needs it")
    spec = SupernetSpec(**values)
    _check_shapes(spec, where)
    return spec


def _checked(name: str, value: Any, where: str) -> Any:
    """A field's value as its type wants it."""
    if name == "pooling":
        if value not in ("mean", "cls"):
            raise ConfigError(f"{where}: pooling is '{value}'; known: mean, cls")
        return value
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    fraction = name.startswith("mlp_ratio")
    good = (int, float) if fraction else (int,)
    listed = isinstance(value, (list, tuple)) == (name in _TUPLES)
    if not listed or not items or (name == "image_shape" and len(items) != 3):
        wanted = "channels, height, width" if name == "image_shape" else "a list of numbers"
        wanted = wanted if name in _TUPLES else "one number"
        raise ConfigError(f"{where}: {name} is {value!r}; give {wanted}")
    if any(isinstance(v, bool) or not isinstance(v, good) or not 0 < v <= LARGEST for v in items):
        kind = "numbers" if fraction else "whole numbers"
        raise ConfigError(f"{where}: {name} is {value!r}; give {kind} above 0, up to {LARGEST}")
    items = [float(v) if fraction else int(v) for v in items]
    return tuple(items) if name in _TUPLES else items[0]


def _check_shapes(spec: SupernetSpec, where: str) -> None:
    _, height, width = spec.image_shape
    if height % spec.patch_size or width % spec.patch_size or height != width:
        raise ConfigError(
            f"{where}: patches of {spec.patch_size} pixels do not tile a square image of"
            f" {height}x{width}; give sides that are the same multiple of patch_size"
        )
    try:
        spec.check(spec.largest())
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}; widen the supernet or narrow its choices") from error


def save_supernet(
    supernet: AutoFormerSupernet,
    path: Path,
    *,
    name: str = "autoformer_demo",
    default: SubnetSpec | None = None,
) -> None:
    """Write the weights in half precision as safetensors, under the official names."""
    origin = Origin(name, supernet.spec, default or supernet.spec.largest())
    state = {k: v.detach().to(torch.float16) for k, v in supernet.state_dict().items()}
    _write(state, path, origin)


def save_cut(model: AutoFormer, path: Path, *, name: str) -> None:
    """Write a stand-alone subnet's weights, which `load_backbone(name, checkpoint=path)` reads."""
    _write(model.state_dict(), path, Origin(name, model.spec, model.subnet))


def _write(tensors: Mapping[str, Tensor], path: Path, origin: Origin) -> None:
    from safetensors.torch import save_file

    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with replacing(path) as temporary:
        save_file(plain, temporary, metadata={KEY: origin.to_json()})
