"""`Family`: what a family of backbones registers, and the registry that everything else asks.

A family is one file: a sub-class of `Family` under `register_family("name")`, and the `Backbone`
that it hands out. Names, loading, bundles, the command line and the catalogue follow from it.
Installed packages add theirs through the entry-point group `autotok.backbones`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from autotok.config import SubnetSpec
from autotok.errors import CheckpointError, UnknownName, UnsupportedBackbone
from autotok.facts import BackboneFacts
from autotok.files import replacing
from autotok.registry import Registry

from .base import Backbone


@dataclass(frozen=True)
class ModelRequest:
    """Which model of a family is asked for."""

    name: str
    checkpoint: Path | None = None
    """Weight file, which exists; None: from where the family has them."""
    image_size: int | None = None
    """Input side in pixels; a family of one size may leave it alone: who asked checks it."""
    subnet: SubnetSpec | None = None
    """Never given to a family without subnets."""


class Family:
    """One family of backbones; `matches`, `load` and `structure` are to be filled in."""

    name = ""
    """Set by `register_family`; what the facts of its backbones call `family`."""
    wraps = ""
    """The model objects that `wrap` takes, in words; "" takes none."""
    about = ""
    """What it runs, in words, for the table of what runs."""
    ask = ""
    """How its models are asked for, for the same table."""
    resizes = False
    """Whether its models take images of other sizes than their own."""
    has_subnets = False
    """Whether one set of weights holds several models, of which a `SubnetSpec` chooses one."""

    def names(self) -> Sequence[str]:
        """Names to list and to suggest; `matches` may know more."""
        return ()

    def matches(self, asked: str | nn.Module) -> bool:
        """Whether a name, or a model object, is one that this family runs."""
        raise NotImplementedError

    def refuse(self, asked: str | nn.Module) -> None:
        """Raise what is known about a name or model that no family matches; else do nothing."""

    def load(self, asked: ModelRequest) -> Backbone:
        """The model with real weights, in evaluation mode; it reads what `save` writes.

        Raises:
            CheckpointError: the weights cannot be had, or do not fit: never random ones instead.
        """
        raise NotImplementedError

    def structure(self, asked: ModelRequest, *, device: str = "meta") -> Backbone:
        """The model without weights: shapes on the meta device, random ones elsewhere."""
        raise NotImplementedError

    def facts(self, asked: ModelRequest) -> BackboneFacts:
        """What is known about the model without its weights."""
        return self.structure(asked).facts

    def wrap(self, model: nn.Module) -> Backbone:
        """The adapter around a model object that `matches` said yes to, for images of the size that
        the model is used with."""
        raise NotImplementedError

    def wrap_at(self, model: nn.Module, image_size: int) -> Backbone:
        """The same for square images of so many pixels."""
        return self.wrap(model).at_size(image_size)

    def save(self, backbone: Backbone, path: Path, *, name: str) -> None:
        """Write the weights as safetensors under names that others know.

        `name` is what the backbone is asked for by; `load` gives the same model from name and file.
        """
        write_tensors(path, tensors_of(backbone.weights))


_F = TypeVar("_F", bound=type[Family])
FAMILIES: Registry[Family] = Registry(
    "backbone family",
    group="autotok.backbones",
    own={
        "autoformer": "autotok.backbones.autoformer_family",
        "lvvit": "autotok.backbones.lvvit",
        "tiny": "autotok.backbones.tiny",
        "transformers": "autotok.backbones.hf_family",
        "timm_vit": "autotok.backbones.timm_family",
        "timm_eva": "autotok.backbones.timm_family",
        "timm_relative": "autotok.backbones.timm_family",
    },
)
"""Asked in this order; the last ones import timm."""


def register_family(name: str) -> Callable[[_F], _F]:
    """Class decorator: make a `Family` known."""

    def add(cls: _F) -> _F:
        cls.name = name
        FAMILIES.add(name, cls())
        return cls

    return add


def family_of(asked: str | nn.Module) -> Family:
    """The family of a model's name, or of a model object.

    Raises:
        UnknownName: no family knows the name.
        UnsupportedBackbone: no adapter runs the model; the message says why.
    """
    for family in FAMILIES:
        if family.matches(asked):
            return family
    for family in FAMILIES:
        family.refuse(asked)
    if isinstance(asked, str):
        names = [name for family in FAMILIES for name in family.names()]
        raise UnknownName("backbone", asked, names, show=0)
    kind = type(asked).__name__
    able = ", ".join(family.wraps for family in FAMILIES if family.wraps)
    raise UnsupportedBackbone(
        f"backbone '{kind}' is not supported: its class is {kind}, adapters exist for {able}"
    )


def no_download(name: str, where: str) -> CheckpointError:
    """The error of a family whose weights are nowhere that autotok may fetch them from."""
    return CheckpointError(
        f"weights of '{name}' cannot be downloaded by autotok; get the official {where} and give it"
        " with --checkpoint"
    )


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """State as independent contiguous tensors, which safetensors asks for."""
    return {k: v.detach().cpu().clone().contiguous() for k, v in module.state_dict().items()}


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> Path:
    """`path`, now a safetensors file."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return path
