"""timm's ViTs by name: which there are, and how they are loaded, one family for each adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from torch import Tensor, nn

from autotok.errors import CheckpointError, UnsupportedBackbone, failure

from .checkpoint import read_state_dict
from .family import Family, ModelRequest, register_family
from .hub import hub_or_cache
from .timm_checkpoint import model_from_tensors
from .timm_eva import TimmEva
from .timm_names import bare_name, base_name, check_tag, is_timm_name
from .timm_refusals import refuse_module
from .timm_relative import TimmBeit, TimmRelPos
from .timm_vit import ClassAndMeanViT, TimmModel, TimmViT, model_name
from .torchvision_shim import ensure_torchvision
from .unfilled import making_on

ensure_torchvision()

import timm  # noqa: E402
from timm.models.beit import Beit  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.eva import Eva  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402
from timm.models.vision_transformer_relpos import VisionTransformerRelPos  # noqa: E402

ADAPTERS: Mapping[type[nn.Module], type[TimmModel]] = {
    VisionTransformer: TimmViT,
    VisionTransformerDistilled: TimmViT,
    ClassAndMeanViT: TimmViT,
    Eva: TimmEva,
    Beit: TimmBeit,
    VisionTransformerRelPos: TimmRelPos,
}
"""By class, sub-classes not meant."""
UNLISTED = ("*_18x2_*", "*_xp_*", "*pwee_*", "*_dwee_*", "*_dlittle_*", "vit_[!b]*_sapiens2")
"""Names of these modules whose models are refused, as `load` says with the reason."""


class TimmFamily(Family):
    """Models of some of timm's modules, by name (pretrained tags allowed) and as objects."""

    resizes = True
    modules: tuple[str, ...] = ()
    """Of timm, whose models are of the classes that an adapter runs."""

    def names(self) -> Sequence[str]:
        listed = [name for module in self.modules for name in timm.list_models(module=module)]
        return sorted(n for n in listed if not any(fnmatch(n, hidden) for hidden in UNLISTED))

    def matches(self, asked: str | nn.Module) -> bool:
        if isinstance(asked, str):
            return is_timm_name(asked) and _module_of(asked) in self.modules
        adapter = ADAPTERS.get(type(asked))
        return adapter is not None and adapter.family == self.name

    def load(self, asked: ModelRequest) -> TimmModel:
        if asked.checkpoint is None:
            return create_timm(asked.name, image_size=asked.image_size)
        tensors, origin = read_state_dict(asked.checkpoint), str(asked.checkpoint)
        return create_timm(
            asked.name, state_dict=tensors, image_size=asked.image_size, origin=origin
        )

    def structure(self, asked: ModelRequest, *, device: str = "meta") -> TimmModel:
        size: dict[str, Any] = {} if asked.image_size is None else {"img_size": asked.image_size}
        with making_on(device):
            model = timm.create_model(bare_name(asked.name), pretrained=False, **size)
            return timm_backbone(model.eval(), name=asked.name)

    def wrap(self, model: nn.Module) -> TimmModel:
        return timm_backbone(model)


@register_family("timm_eva")
class TimmEvaFamily(TimmFamily):
    """EVA, DINOv3, Perception Encoder and their kin."""

    wraps = "timm's Eva"
    about = (
        "timm's EVA, EVA-02, DINOv3, Perception Encoder, LingBot, RoPE-ViT: rotary positions, gated"
        " MLPs, inner norms, registers"
    )
    ask = "`vit_small_patch16_dinov3` and so on, or the model itself"
    modules = ("eva",)


@register_family("timm_relative")
class TimmRelativeFamily(TimmFamily):
    """BEiT and the ViTs with relative positions."""

    wraps = "Beit and VisionTransformerRelPos"
    about = "timm's BEiT, BEiT v2 and ViTs with relative positions: biases by offset"
    ask = "`beit_base_patch16_224`, `vit_relpos_small_patch16_224` and so on, or the model itself"
    modules = ("beit", "vision_transformer_relpos")


@register_family("timm_vit")
class TimmViTFamily(TimmFamily):
    """The plain ViTs, and the word for all others of timm."""

    wraps = "timm's VisionTransformer"
    about = (
        "timm's plain ViTs: ViT, DeiT, DeiT-3, distilled pairs, DINO, DINOv2, MAE, CLIP, SigLIP,"
        " FlexiViT, BEiT-3"
    )
    ask = "`deit_small_patch16_224` and so on, or the model itself"
    modules = ("vision_transformer", "deit")

    def matches(self, asked: str | nn.Module) -> bool:
        foreign = isinstance(asked, str) and is_timm_name(asked) and _module_of(asked) is None
        return foreign or super().matches(asked)

    def refuse(self, asked: str | nn.Module) -> None:
        if not isinstance(asked, str):
            refuse_module(model_name(asked), type(asked).__module__.rsplit(".", 1)[-1])
            return
        check_tag(asked)
        if is_timm_name(asked):
            module = _module_of(asked) or ""
            refuse_module(asked, module)
            raise UnsupportedBackbone(
                f"backbone '{asked}' is not supported: it is no plain Vision Transformer (timm's"
                f" module {module}); choose one that `autotok backbones` lists"
            )


def timm_backbone(model: nn.Module, *, name: str | None = None) -> TimmModel:
    """The adapter around a model of timm; the plain one's refusal for a class that none is for."""
    return ADAPTERS.get(type(model), TimmViT)(model, name=name)


def _module_of(name: str) -> str | None:
    """The module in which timm defines a model; None for one that somebody else registered."""
    package, _, module = timm.model_entrypoint(base_name(name)).__module__.rpartition(".")
    return module if package == "timm.models" else None


def create_timm(
    name: str,
    *,
    state_dict: Mapping[str, Tensor] | None = None,
    image_size: int | None = None,
    origin: str = "checkpoint",
) -> TimmModel:
    """A wrapped timm model with pretrained weights, or with the given ones.

    Given weights decide the architecture as far as it shows in them, the image size too unless one
    is asked for; position embeddings are then resampled as timm does. Weights that cannot be had or
    do not fit raise `CheckpointError`; a model is never left randomly initialised.
    """
    if state_dict is not None:
        model = model_from_tensors(name, state_dict, image_size=image_size, origin=origin)
        return timm_backbone(model, name=name)
    kwargs: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    with making_on("meta"):  # what cannot be run is told before anything is fetched
        timm_backbone(timm.create_model(bare_name(name), pretrained=False).eval(), name=name)
    try:
        with hub_or_cache():
            model = timm.create_model(name, pretrained=True, **kwargs)
    except Exception as error:  # the hub raises many types: offline, not found, no such tag
        raise CheckpointError(
            f"pretrained weights of '{name}' could not be fetched ({failure(error)[:120]});"
            " give a local file with --checkpoint"
        ) from error
    return timm_backbone(model.eval(), name=name)
