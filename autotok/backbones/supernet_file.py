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

import torch
from torch import Tensor

from autotok.config import SubnetSpec
from autotok.documents import Place
from autotok.errors import CheckpointError, ConfigError
from autotok.plain_data import checked_keys, typed

from .autoformer import AutoFormer, SupernetSpec
from .family import write_tensors
from .supernet import AutoFormerSupernet

KEY = "autotok_autoformer"
LARGEST = 1 << 16
"""Of any width, depth or side; beyond it a typing error asks for more memory than there is."""


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
        subnet = typed(SubnetSpec, data["subnet"], "subnet")
        spec = spec_from_dict(data["spec"], "spec")
        spec.check(subnet)
        return Origin(str(data["backbone"]), spec, subnet)
    except (SafetensorError, OSError, ArithmeticError, ValueError, LookupError, TypeError,
            RecursionError) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"checkpoint '{path}' is damaged ({reason}); write or fetch it again"
        ) from error


def spec_from_dict(
    data: object, where: Place | str, base: SupernetSpec | None = None
) -> SupernetSpec:
    """Shapes of a supernet from plain data, checked; fields left out are those of `base`.

    Raises:
        ConfigError: a key is unknown or missing, or a value cannot be.
    """
    place = where if isinstance(where, Place) else Place(where)
    given = checked_keys(data, SupernetSpec, place)
    spec = typed(
        SupernetSpec, {**({} if base is None else dataclasses.asdict(base)), **given}, place
    )
    for name, value in dataclasses.asdict(spec).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if name != "pooling" and not (numbers and all(0 < n <= LARGEST for n in numbers)):
            raise ConfigError(f"{place / name}: is {value}; give numbers above 0, up to {LARGEST}")
    if spec.pooling not in ("mean", "cls"):
        raise ConfigError(f"{place / 'pooling'}: '{spec.pooling}' is unknown; known: mean, cls")
    _check_shapes(spec, place)
    return spec


def _check_shapes(spec: SupernetSpec, where: Place) -> None:
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
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_tensors(path, plain, {KEY: origin.to_json()})
