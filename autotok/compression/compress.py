"""`compress`: one verb from (backbone, configuration) to a compressed model."""

from __future__ import annotations

from autotok.backbones.base import Backbone
from autotok.backbones.hf_vit import HFViT
from autotok.backbones.pruning import check_subnet, pruned
from autotok.config import CompressionConfig, SubnetSpec
from autotok.errors import ConfigError
from autotok.methods.folding import adapters_of
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.registry import get_method
from autotok.methods.two_pass import TwoPass
from autotok.pruned_spec import PrunedSpec

from .exit_set import ExitSet, check_exits
from .folding import folded
from .model import CompressedViT
from .own_output import OwnOutputViT
from .schedule import realise
from .two_pass import TwoPassViT

_FOLDED_FOR = ("method", "reductions", "options", "subnet", "image_size")
"""What of a configuration decides how adapters are folded."""


def compress_backbone(
    backbone: Backbone,
    config: CompressionConfig,
    *,
    is_folded: bool = False,
    original: Backbone | None = None,
) -> CompressedViT:
    """A `CompressedViT` that holds the backbone (not a copy) and one reducer per reduction layer.

    Where the configuration prunes, it holds what is left of the backbone, with weights of its own;
    where it names an image size, the adapter of that size; where the method folds adapters in, a
    twin with the folded weights and everything else shared, unless the backbone's weights already
    are the folded ones; `original` is the backbone that they were folded from.

    Raises:
        ConfigError, IncompatibleMethod: see `realise`.
        ConfigError, UnsupportedBackbone: the backbone is none that its subnet fits.
        CheckpointError: see `folded`.
    """
    backbone = _pruned(backbone, config)
    if config.image_size is not None:
        backbone = backbone.at_size(config.image_size)
    if config.positions == "naive" and not backbone.facts.carries_positions:
        raise ConfigError(
            f"positions 'naive' means nothing on backbone '{backbone.facts.name}', which looks no"
            " positions up in its blocks; leave it at 'carried'"
        )
    schedule = realise(config, backbone.facts)
    method = get_method(config.method)
    overrides = {r.layer: r.options for r in config.reductions}
    reducers = {}
    for site in schedule.sites:
        options = method.resolve_options({**config.options, **overrides[site.layer]})
        reducer = method(site, options)
        reducer.needs = method.resolve_needs(backbone.facts, options)
        if isinstance(reducer, ImageScoring):
            from autotok.backbones.feature_net import FeatureNet

            reducer.network = FeatureNet(reducer.auxiliary(options))  # `with_networks` loads it
        reducers[site.layer] = reducer.train(backbone.training)
    check_exits(config, backbone.facts, schedule)
    exits = None if config.exits is None else ExitSet(config.exits, backbone.facts)
    kind = OwnOutputViT if isinstance(backbone, HFViT) else CompressedViT
    if issubclass(method, TwoPass) and reducers:
        kind = TwoPassViT
    running = backbone if is_folded else folded(backbone, config, schedule)
    model = kind(running, config, schedule, reducers, exits, original=original or backbone)
    model.is_folded = is_folded and original is None and bool(adapters_of(config))
    model = _in_mode(model, backbone.training)
    like = next(backbone.parameters())
    if not like.is_meta:
        model.reducers.to(like)
    if exits is not None:
        exits.to(like)
    return model


def _pruned(backbone: Backbone, config: CompressionConfig) -> Backbone:
    """What the configuration leaves of a backbone, which may be pruned to that already."""
    if isinstance(config.subnet, SubnetSpec):
        check_subnet(backbone, config.subnet)
    if not isinstance(config.subnet, PrunedSpec) or config.subnet == backbone.pruned:
        return backbone
    return pruned(backbone, config.subnet)


def with_networks(model: CompressedViT) -> CompressedViT:
    """This model, with the weights of the networks that its method looks at images with.

    Counts and traces need none, so they are not loaded before; left out, the first image loads
    them.

    Raises:
        CheckpointError: they cannot be had; the message says where to put them.
    """
    networks = [getattr(reducer, "network", None) for reducer in model.reducers.values()]
    if any(network is not None for network in networks):
        from autotok.backbones.feature_net import FeatureNet

        like = next(model.backbone.parameters())
        for network in networks:
            if isinstance(network, FeatureNet) and not like.is_meta:
                network.load(like)
    return model


def reconfigured(model: CompressedViT, config: CompressionConfig) -> CompressedViT:
    """A model of another configuration on the same backbone, with the method's parameters where
    they still fit (such as the same method with other counts or thresholds).

    Weights that were trained, or folded for these very tokens, are kept as they are.
    """
    if _keeps_weights(model, config):
        known = None if model.is_folded else model.original
        fresh = compress_backbone(model.backbone, config, is_folded=True, original=known)
        fresh.is_folded = model.is_folded
    else:
        fresh = compress_backbone(model.original, config)
    own, old = fresh.reducers.state_dict(), model.reducers.state_dict()
    fitting = {k: v for k, v in old.items() if k in own and own[k].shape == v.shape}
    fresh.reducers.load_state_dict(fitting, strict=False)
    if fresh.exits is not None and model.exits is not None:
        fresh.exits.take(model.exits)
    for layer, reducer in fresh.reducers.items():
        before = model.reducers[layer] if layer in model.reducers else None
        if isinstance(reducer, ImageScoring) and isinstance(before, ImageScoring):
            reducer.network = before.network  # loaded once
    return _in_mode(fresh, model.training)


def _keeps_weights(model: CompressedViT, config: CompressionConfig) -> bool:
    """Whether the weights that a model holds are those of another configuration as well."""
    if model.is_folded or model.config.mode == "retrain":
        return True
    return all(getattr(model.config, name) == getattr(config, name) for name in _FOLDED_FOR)


def _in_mode(model: CompressedViT, training: bool) -> CompressedViT:
    """The model with its reducers in a mode; the backbone, which may be another's, stays in its."""
    model.reducers.train(training)
    if model.exits is not None:
        model.exits.train(training)
    model.training = training
    return model
