"""Hugging Face transformers' ViTs: `hf:org/name`, a local folder, and model objects."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from autotok.errors import CheckpointError, ConfigError, UnsupportedBackbone, failure

from .base import Backbone
from .checkpoint import read_state_dict
from .family import Family, ModelRequest, register_family, tensors_of, write_tensors
from .hf_files import PREPROCESSORS, names_in, preprocessing_from, read_json, telling, told_in
from .hf_layouts import DEFAULTS, MODELS, PREFIX, REASONS
from .hub import hub_or_cache
from .torchvision_shim import ensure_torchvision

log = logging.getLogger(__name__)
REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
BESIDE = re.compile(
    r"(text_model|text_projection|logit_scale|logit_bias|decoder|lm_head|visual_projection)\b.*"
    r"|.*(mask_token|position_ids|relative_position_index)|(\w+\.)?(pooler|head)\..*"
)
"""Names of what may stand in a file beside the model that is made of it."""
UNPOOLED = {"add_pooling_layer": False}
"""Options of a class whose weights were saved without a pooler."""


@dataclass(frozen=True)
class _Told:
    """What is known of a model before its weights."""

    kind: str
    config: Any
    preprocessing: dict[str, Any]
    side: int | tuple[int, int] | None
    options: dict[str, Any]
    """Of its class, beside the configuration."""


@register_family("transformers")
class TransformersFamily(Family):
    """ViT, DeiT, DINOv2, DINOv3, BEiT, and the image towers of CLIP and SigLIP."""

    about = (
        "Hugging Face transformers' ViT, DeiT, DINOv2 with and without registers, DINOv3, BEiT,"
        " and the image towers of CLIP and SigLIP, headless or classifiers"
    )
    ask = "`hf:org/name`, `hf:folder` that holds `config.json`, or the model itself"
    wraps = "transformers' ViT, DeiT, DINOv2, DINOv3, BEiT, CLIP and SigLIP vision models"
    resizes = True

    def names(self) -> Sequence[str]:
        return ()  # as many as there are folders and repositories

    def matches(self, asked: str | nn.Module) -> bool:
        if not isinstance(asked, str):
            return _is_theirs(asked) and type(asked).__name__ in MODELS
        # whether it is there or not: a bundle's weights tell all, but are asked for by this name
        return asked.startswith(PREFIX) or "/" in asked.removeprefix("timm/")

    def refuse(self, asked: str | nn.Module) -> None:
        if isinstance(asked, str):
            if (_folder(asked) / "config.json").is_file():
                raise ConfigError(f"'{asked}' is a folder; ask for it as '{PREFIX}{asked}'")
        elif _is_theirs(asked):
            _refuse(type(asked).__name__, type(asked).__name__)

    def wrap(self, model: nn.Module) -> Backbone:
        return self._wrapped(model, None)

    def wrap_at(self, model: nn.Module, image_size: int) -> Backbone:
        return self._wrapped(model, image_size)  # models resample their positions themselves

    def _wrapped(self, model: nn.Module, image_size: int | None) -> Backbone:
        from .hf_vit import HFViT

        place = str(getattr(model.config, "_name_or_path", ""))
        given = _preprocessing(place, fetch=_cached) if place else {}
        side = given.pop("side", None)
        return HFViT(model, image_size=image_size or side, preprocessing=given)

    def load(self, asked: ModelRequest) -> Backbone:
        from .hf_vit import HFViT

        told = _told(asked)
        return HFViT(
            _loaded(asked, told),
            name=asked.name,
            image_size=asked.image_size or told.side,
            preprocessing=told.preprocessing,
        )

    def structure(self, asked: ModelRequest, *, device: str = "meta") -> Backbone:
        from .hf_vit import HFViT

        told = _told(asked)
        with torch.device(device):
            model = _class(told.kind)(told.config, **told.options).eval()
            side = asked.image_size or told.side
            given = told.preprocessing
            return HFViT(model, name=asked.name, image_size=side, preprocessing=given)

    def save(self, backbone: Backbone, path: Path, *, name: str) -> None:
        from .hf_vit import HFViT

        assert isinstance(backbone, HFViT)
        metadata = telling(backbone.weights, backbone.preprocessing())
        write_tensors(path, tensors_of(backbone.weights), metadata)


def _is_theirs(model: nn.Module) -> bool:
    return type(model).__module__.startswith("transformers.models.")


def _refuse(name: str, kind: str) -> NoReturn:
    reason = REASONS.get(kind, "autotok runs ViT, DeiT, DINOv2, DINOv3, BEiT, and the image towers"
                         " of CLIP and SigLIP of transformers")  # fmt: skip
    raise UnsupportedBackbone(f"backbone '{name}' is not supported: {kind} is none: {reason}")


def _transformers() -> Any:
    ensure_torchvision()  # which transformers imports where it is installed
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise CheckpointError(
            "models of Hugging Face need transformers; pip install 'autotok[transformers]'"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Inside, transformers shows neither bars nor tables of what it found: it is looked at here."""
    words = _transformers().utils.logging
    level, bars = words.get_verbosity(), words.is_progress_bar_enabled()
    words.set_verbosity(logging.CRITICAL)
    words.disable_progress_bar()
    try:
        yield
    finally:
        words.set_verbosity(level)
        if bars:
            words.enable_progress_bar()


def _class(kind: str) -> Any:
    return getattr(_transformers(), kind)


def _folder(name: str) -> Path:
    return Path(name.removeprefix(PREFIX)).expanduser()


def _is_folder(name: str) -> bool:
    return _folder(name).is_dir()


def _place(name: str) -> str:
    """A folder, or a repository's name."""
    return str(_folder(name)) if _is_folder(name) else name.removeprefix(PREFIX)


def _told(asked: ModelRequest) -> _Told:
    """Class, configuration and preprocessing of a model, from its file, folder or repository."""
    carried = None if asked.checkpoint is None else told_in(asked.checkpoint)
    if carried is not None:
        kind, config = carried.kind, _configured(carried.config, str(asked.checkpoint))
    else:
        config = _read_config(asked.name)
        kind = _kind(asked.name, config)
    if kind not in MODELS:
        _refuse(asked.name, kind)
    if kind.startswith(("CLIPVision", "SiglipVision")) and hasattr(config, "vision_config"):
        width, config = getattr(config, "projection_dim", None), config.vision_config
        if width is not None:  # of both towers
            config.projection_dim = width
    given = _preprocessing(_place(asked.name)) if carried is None else dict(carried.preprocessing)
    file = asked.checkpoint or Path(_place(asked.name)) / "model.safetensors"
    names = names_in(file)
    headless = names is not None and not any("pooler." in name for name in names)
    options = UNPOOLED if headless and _may_lack_pooler(kind) else {}
    return _Told(kind, config, given, given.pop("side", None), options)


def _may_lack_pooler(kind: str) -> bool:
    return "add_pooling_layer" in inspect.signature(_class(kind).__init__).parameters


def _configured(values: dict[str, Any], origin: str) -> Any:
    """A configuration object of plain data."""
    transformers = _transformers()
    try:
        rest = {key: value for key, value in values.items() if key != "model_type"}
        return transformers.AutoConfig.for_model(values["model_type"], **rest)
    except Exception as error:  # their checks raise whatever they like
        raise CheckpointError(
            f"'{origin}' carries no configuration of transformers ({failure(error)[:140]}); give"
            " the model's folder"
        ) from error


def _read_config(name: str) -> Any:
    """The configuration of a folder or repository."""
    place = _place(name)
    if _is_folder(name):
        return _configured(read_json(Path(place) / "config.json"), str(Path(place) / "config.json"))
    if not REPOSITORY.fullmatch(place):
        raise CheckpointError(
            f"'{place}' is no folder and names no repository; give 'hf:organisation/model', or a"
            " folder that holds config.json and the weights"
        )
    try:
        with hub_or_cache():
            return _transformers().AutoConfig.from_pretrained(place)
    except CheckpointError:
        raise
    except Exception as error:  # offline, no such repository, a gated one, a broken file
        raise CheckpointError(
            f"'{name}' could not be fetched ({failure(error)[:140]}); give a local folder that"
            " holds config.json and the weights"
        ) from error


def _kind(name: str, config: Any) -> str:
    """The class to make: the one that the configuration names, else the tower of its kind."""
    named = [str(kind) for kind in config.architectures or () if kind in MODELS]
    if named:
        return named[0]
    if config.model_type in DEFAULTS:
        return DEFAULTS[str(config.model_type)]
    _refuse(name, str((config.architectures or [config.model_type])[0]))


def _preprocessing(
    place: str, fetch: Callable[[str, str], Path | None] | None = None
) -> dict[str, Any]:
    """That of a folder or repository; {} where it has no file of it, which is said.

    `fetch` gives a repository's file, from the network if need be by default.
    """
    for file in PREPROCESSORS:
        path = Path(place) / file
        if not path.is_file() and not Path(place).is_dir():
            path = (fetch or _fetched)(place, file) or path
        if path.is_file():
            return preprocessing_from(read_json(path), origin=str(path))
    log.warning("'%s' has no preprocessor_config.json: images are prepared as its family's", place)
    return {}


def _fetched(repository: str, file: str) -> Path | None:
    from huggingface_hub import hf_hub_download

    try:
        with hub_or_cache():
            return Path(hf_hub_download(repository, file))
    except Exception:  # offline, or no such file: then the family's own way is taken, and said
        return None


def _cached(repository: str, file: str) -> Path | None:
    """A file that came with the model, if it did."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, file)
    except ValueError:  # no name of a repository
        return None
    return Path(found) if isinstance(found, str) else None


def _loaded(asked: ModelRequest, told: _Told) -> nn.Module:
    """The model with the weights of its file, folder or repository, all of them found."""
    origin = asked.checkpoint or asked.name
    model, info = _read(asked, told)
    missing = sorted(info["missing_keys"])
    pooler = [key for key in model.state_dict() if key.startswith("pooler.")]
    if missing and missing == sorted(pooler) and _may_lack_pooler(told.kind):
        told, missing = replace(told, options=UNPOOLED), []
        model, info = _read(asked, told)
    # of masked image modelling with BEiT, whose tokens are normed by the head
    known = re.compile(BESIDE.pattern + (r"|layernorm\..*" if told.options else ""))
    beside = sorted(key for key in info["unexpected_keys"] if not known.fullmatch(key))
    if missing or beside:
        fault = f"'{missing[0]}' is missing" if missing else f"'{beside[0]}' has no place in it"
        raise CheckpointError(f"weights of '{origin}' do not fit {told.kind}: {fault}")
    return model.eval()


def _read(asked: ModelRequest, told: _Told) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and what its weights lack or have in excess."""
    file = asked.checkpoint
    place = _place(asked.name) if file is None else None
    given = None if file is None else read_state_dict(file)
    try:
        with hub_or_cache(), _quietly():
            model, info = _class(told.kind).from_pretrained(
                place,
                config=told.config,
                state_dict=given,
                dtype=torch.float32,  # theirs is the file's
                output_loading_info=True,
                **told.options,
            )
    except Exception as error:
        raise CheckpointError(
            f"weights of '{file or asked.name}' could not be loaded ({failure(error)[:140]}); give"
            " a folder that holds config.json and model.safetensors"
        ) from error
    return model, info
