"""`realise`: the one function from (configuration, backbone facts) to integer token counts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from autotok.config import CompressionConfig, Reduction, round_count
from autotok.errors import ConfigError
from autotok.facts import BackboneFacts
from autotok.methods.base import Count, Placement, Site, Span, TokenReducer
from autotok.methods.registry import check_compatible, get_method
from autotok.methods.thresholds import Calibrated


@dataclass(frozen=True)
class Schedule:
    """Realised patch-token counts; every cost is computed from these."""

    sites: tuple[Site, ...]
    attention: tuple[int, ...]
    """Patch tokens in each block's attention, (L,)."""
    mlp: tuple[int, ...]
    """Patch tokens in each block's MLP, (L,)."""
    readout: int
    """Patch tokens that reach the read-out."""

    @property
    def kept(self) -> tuple[int, ...]:
        """Patch tokens leaving each reduction layer."""
        return tuple(site.num_keep for site in self.sites)

    @property
    def by_layer(self) -> dict[int, int]:
        """Patch tokens leaving each layer that reduces."""
        return {site.layer: site.num_keep for site in self.sites}


def realise(config: CompressionConfig, facts: BackboneFacts) -> Schedule:
    """The token counts a configuration means on a backbone, at the image size that it names.

    Raises:
        ConfigError: an image size that cannot be, a layer that does not exist, counts that rise,
            or a count the method cannot reach; the message names the feasible range.
        IncompatibleMethod: the backbone lacks what the method requires.
    """
    facts = facts.at_size(config.image_size)
    method = get_method(config.method)
    check_compatible(method, facts)
    if method.single_layer and len(config.reductions) > 1:
        raise ConfigError(
            f"method '{method.name}' reduces once, but {len(config.reductions)} layers are given"
        )
    layers = tuple(r.layer for r in config.reductions)
    beyond = [layer for layer in layers if layer >= facts.num_blocks]
    if beyond:
        raise ConfigError(
            f"layer {beyond[0]} cannot reduce: backbone '{facts.name}' has"
            f" {facts.num_blocks} blocks (0-{facts.num_blocks - 1})"
        )
    _check_model_wide(config, method)
    span = method.lasts(method.resolve_options(config.options))
    parks = span is not Span.REST
    entering, sites = facts.num_patches, []
    for index, reduction in enumerate(config.reductions):
        site = _site(config, reduction, method, entering, facts)
        own = method.resolve_options({**config.options, **reduction.options})
        if method.lasts(own) is not span:
            raise ConfigError(
                f"layer {reduction.layer} has an option of its own that decides how long reductions"
                f" of method '{method.name}' last; set it for all layers, in the configuration"
            )
        sites.append(replace(site, index=index, layers=layers))
        entering = entering if parks else site.num_keep
    counts = np.array([[site.num_keep for site in sites]], dtype=np.int64)
    found = method.occupancy(layers, counts, facts, method.resolve_options(config.options))
    return Schedule(
        tuple(sites),
        tuple(found.attention[0].tolist()),
        tuple(found.mlp[0].tolist()),
        int(found.readout[0]),
    )


def _check_model_wide(config: CompressionConfig, method: type[TokenReducer]) -> None:
    """Raise `ConfigError` where a layer differs in an option that is one for all layers."""
    common = method.resolve_options(config.options)
    for reduction in config.reductions:
        own = method.resolve_options({**config.options, **reduction.options})
        for option in method.options:
            name = option.name
            if option.model_wide and own[name] != common[name]:
                raise ConfigError(
                    f"option '{name}' of method '{method.name}' is one for all layers, and layer"
                    f" {reduction.layer} gives {own[name]!r} where the configuration has"
                    f" {common[name]!r}; set it in the options of the configuration"
                )


def is_adaptive(config: CompressionConfig) -> bool:
    """Whether images keep different numbers of tokens somewhere, so that counts are nominal."""
    method = get_method(config.method)
    return any(
        method.count_with(method.resolve_options({**config.options, **r.options})) is Count.ADAPTIVE
        for r in config.reductions
    )


def needs_calibration(config: CompressionConfig) -> bool:
    """Whether a threshold method is given amounts, and no thresholds that would meet them.

    One for all layers that is the option's default counts as none: searches spell defaults out.
    """
    method = get_method(config.method)
    if not issubclass(method, Calibrated) or not is_adaptive(config):
        return False
    found = method.calibrates
    if config.options.get(found) not in (None, method.resolve_options({})[found]):
        return False
    return any(
        found not in r.options and (r.keep_ratio is not None or r.num_keep is not None)
        for r in config.reductions
    )


def _site(
    config: CompressionConfig,
    reduction: Reduction,
    method: type[TokenReducer],
    entering: int,
    facts: BackboneFacts,
) -> Site:
    layer = reduction.layer
    options = method.resolve_options({**config.options, **reduction.options})
    if method.placement is Placement.BEFORE_BLOCKS and layer != 0:
        raise ConfigError(
            f"method '{method.name}' acts before the blocks: its layer must be 0, got {layer}"
        )
    if layer < method.first_layer:
        raise ConfigError(
            f"method '{method.name}' judges by the attention of an earlier block, so layer {layer}"
            f" cannot reduce; its first layer is {method.first_layer}"
        )
    keep = reduction.num_keep
    if reduction.keep_ratio is not None:
        keep = round_count(reduction.keep_ratio, facts.num_patches, method.rounding)
    if keep is None:
        if method.count_with(options) is Count.ADAPTIVE:
            return Site(layer, entering, entering, facts)
        raise ConfigError(
            f"layer {layer} gives neither keep_ratio nor num_keep, which method"
            f" '{method.name}' needs"
        )
    if keep > entering:
        raise ConfigError(
            f"layer {layer} is asked to keep {keep} patch tokens, but only {entering} arrive there"
        )
    low, high = method.feasible(entering, options)
    if keep != entering and not low <= keep <= high:
        raise ConfigError(
            f"method '{method.name}' cannot keep {keep} of the {entering} patch tokens"
            " entering layer"
            f" {layer}; feasible: {low} to {high}, that is keep_ratio"
            f" {_ratios(low, high, facts.num_patches)}"
        )
    return Site(layer, entering, keep, facts)


def _ratios(low: int, high: int, total: int) -> str:
    """'0.063 to 0.328': shares of `total`, rounded inwards so that either one is accepted."""
    for digits in (3, 6):
        scale = 10**digits
        first, last = -(-low * scale // total), high * scale // total
        if first <= last:
            break
    return f"{first / scale:.{digits}f} to {last / scale:.{digits}f}"
