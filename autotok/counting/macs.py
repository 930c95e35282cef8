"""Exact cost of a configuration from integer token counts: multiply-accumulates and parameters.

Convention. A MAC is one multiply-add of a matrix product or convolution; norms, softmax, additions,
gathers and sorts count nothing. Three figures come from one formula:

    macs          everything executed: stem, linear layers, both attention products, products with
                  relative-position tables, the method's own products, the class row where fused
                  attention makes it extra, read-out
    macs_noattn   without the two attention products (q k^T and a v) and the class row, as fvcore
                  and torch's CPU counter report models with fused attention; relative-position
                  products stay in, being linear layers of every token
    flops2x       2 * macs

Per block, with N = prefix + patch tokens in its attention and M in its MLP:

    N (3 C inner + inner C + positions + extras) + 2 N^2 inner + M * matrices * C * hidden
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotok.compression.schedule import Schedule, realise
from autotok.config import CompressionConfig, Options
from autotok.facts import BackboneFacts
from autotok.methods.base import Counts, Placement, Span, TokenReducer
from autotok.methods.image_scoring import image_network
from autotok.methods.observing import Observing, observed_needs
from autotok.methods.registry import get_method
from autotok.methods.two_pass import TwoPass
from autotok.tokens import NEEDS_MAP, Needs

from .cost import Cost
from .exit_head_costs import exit_head_macs, exit_head_params, leaving_counts, scheduled_rows


class LiveCounts(NamedTuple):
    """Live patch tokens of M images."""

    entering: Counts
    """(M, L + 1), what left the block before and, last, what the read-out sees."""
    attention: Counts
    """(M, L)."""
    mlp: Counts
    """(M, L)."""
    readout: Counts
    """(M,)."""


@dataclass(frozen=True)
class _Coefficients:
    """What a backbone's cost is a polynomial of, per block (L,)."""

    constant: int
    per_attention_token: Counts
    per_attention_pair: Counts
    per_mlp_token: Counts
    per_readout_token: int


@lru_cache(maxsize=256)
def _coefficients(facts: BackboneFacts) -> _Coefficients:
    blocks = facts.blocks
    return _Coefficients(
        constant=facts.stem_macs + facts.readout_macs + sum(b.fixed_macs for b in blocks),
        per_attention_token=np.array(
            [
                4 * b.width * b.inner_width
                + b.position_macs_per_token
                + b.linear_macs_extra_per_token
                for b in blocks
            ],
            dtype=np.int64,
        ),
        per_attention_pair=np.array([2 * b.inner_width for b in blocks], dtype=np.int64),
        per_mlp_token=np.array(
            [b.mlp_matrices * b.width * b.hidden for b in blocks], dtype=np.int64
        ),
        per_readout_token=facts.readout_macs_per_token,
    )


def cost(facts: BackboneFacts, config: CompressionConfig) -> Cost:
    """Exact cost of one configuration, at the image size that it names.

    Raises:
        ConfigError, IncompatibleMethod: see `autotok.compression.schedule.realise`.
    """
    return schedule_cost(facts, config, realise(config, facts))


def schedule_cost(facts: BackboneFacts, config: CompressionConfig, schedule: Schedule) -> Cost:
    """Exact cost of a configuration whose token counts are already known."""
    facts = facts.at_size(config.image_size)
    method = get_method(config.method)
    attention = np.array([schedule.attention], dtype=np.int64)  # (1, L)
    mlp = np.array([schedule.mlp], dtype=np.int64)
    linear, products = _backbone_macs(facts, attention, mlp, np.array([schedule.readout]))
    params = facts.params
    layers = tuple(site.layer for site in schedule.sites)
    products = products + _listening_macs(facts, method, config.options, layers, attention)
    overrides = {r.layer: r.options for r in config.reductions}
    for site in schedule.sites:
        options = method.resolve_options({**config.options, **overrides[site.layer]})
        own, rows = _site_macs(
            facts,
            method,
            options,
            layer=site.layer,
            entering=np.array([site.num_entering]),
            keep=np.array([site.num_keep]),
        )
        linear, products = linear + own, products + rows
        params += method.site_params(site, options) + _auxiliary(facts, method, options)[1]
    kept = np.array([schedule.kept], dtype=np.int64)
    options = method.resolve_options(config.options)
    linear = linear + method.joint_macs(facts, layers, kept, options)
    linear = linear + method.early_macs(facts, layers, kept, options)
    if config.exits is not None:
        rows = scheduled_rows(facts, config.exits, leaving_counts(facts, config, mlp, kept))
        for (layer, kind), count in zip(config.exits.places, rows, strict=True):
            total, own = exit_head_macs(kind, facts, layer, count)
            linear, products = linear + own, products + total - own
            params += exit_head_params(kind, facts, layer)
    return Cost(int(linear[0] + products[0]), int(linear[0]), params)


def uncompressed(facts: BackboneFacts) -> Cost:
    """Exact cost of the backbone itself."""
    return cost(facts, CompressionConfig())


def schedule_macs(
    facts: BackboneFacts,
    method_name: str,
    options: Options,
    layers: Sequence[int],
    counts: NDArray[np.int64],
) -> Counts:
    """`Cost.macs` of many schedules of one method at once, (M,).

    Args:
        facts: The backbone.
        method_name: A registered method.
        options: Its options, the same at every layer; defaults fill the rest.
        layers: Reduction layers in rising order, S of them.
        counts: Patch tokens leaving each of them, (M, S); assumed feasible, nothing is checked.
    """
    method = get_method(method_name)
    resolved = method.resolve_options(options)
    counts = np.asarray(counts, dtype=np.int64).reshape(-1, len(layers))
    found = method.occupancy(layers, counts, facts, resolved)
    linear, products = _backbone_macs(facts, found.attention, found.mlp, found.readout)
    total = linear + products + _listening_macs(facts, method, resolved, layers, found.attention)
    for index, layer in enumerate(layers):
        own, rows = _site_macs(
            facts,
            method,
            resolved,
            layer=layer,
            entering=found.entering[:, index],
            keep=counts[:, index],
        )
        total = total + own + rows
    total = total + method.joint_macs(facts, layers, counts, resolved)
    return total + method.early_macs(facts, layers, counts, resolved)


def counted_macs(
    facts: BackboneFacts,
    method: type[TokenReducer],
    config: CompressionConfig,
    counts: LiveCounts,
    *,
    stop: int | None = None,
) -> tuple[Counts, Counts]:
    """(`Cost.macs`, `Cost.macs_noattn`) of M images, (M,) each, from their live patch tokens. Of
    images that stop behind block `stop`, only what ran until then costs."""
    entering, attention, mlp, readout = counts
    blocks = facts.num_blocks if stop is None else stop + 1
    run = facts if stop is None else _first(facts, blocks)
    linear, products = _backbone_macs(run, attention[:, :blocks], mlp[:, :blocks], readout)
    layers = tuple(r.layer for r in config.reductions)
    heard = _listening_macs(facts, method, config.options, layers, attention[:, :blocks])
    products = products + heard
    if not layers:
        return linear + products, linear
    left = {
        Placement.BEFORE_BLOCKS: attention,
        Placement.BEFORE: attention,
        Placement.MID: mlp,
        Placement.AFTER: entering[:, 1:],
    }[method.placement]
    kept, common = left[:, layers], method.resolve_options(config.options)
    reached = sum(layer < blocks for layer in layers)
    for index, reduction in enumerate(config.reductions[:reached]):
        layer, keep = reduction.layer, kept[:, index]
        options = method.resolve_options({**config.options, **reduction.options})
        parks = method.lasts(options) is not Span.REST  # every layer chooses among all again
        judged = np.full_like(keep, facts.num_patches) if parks else entering[:, layer]
        own, rows = _site_macs(facts, method, options, layer=layer, entering=judged, keep=keep)
        linear, products = linear + own, products + rows
    if reached:
        linear = linear + method.joint_macs(facts, layers, kept[:, :reached], common)
    linear = linear + method.early_macs(facts, layers, kept, common)
    return linear + products, linear


def _first(facts: BackboneFacts, blocks: int) -> BackboneFacts:
    """The embedding and the first blocks alone, without the read-out and what later blocks make."""
    part = facts.blocks[:blocks]
    return dataclasses.replace(facts, blocks=part, readout_macs=0, readout_macs_per_token=0)


def _backbone_macs(
    facts: BackboneFacts, attention: Counts, mlp: Counts, readout: Counts
) -> tuple[Counts, Counts]:
    """((M,) without, (M,) of the attention products) from patch-token counts (M, L) and (M,)."""
    prefix, c = facts.num_prefix, _coefficients(facts)
    rows = attention + prefix
    linear = c.constant + rows @ c.per_attention_token + (mlp + prefix) @ c.per_mlp_token
    linear = linear + (readout + prefix) * c.per_readout_token
    return linear, (rows * rows) @ c.per_attention_pair


def _listening_macs(
    facts: BackboneFacts,
    method: type[TokenReducer],
    options: Options,
    layers: Sequence[int],
    attention: Counts,
) -> Counts:
    """(M,) of class rows that the method hears from blocks other than its reduction layers."""
    total = np.zeros(attention.shape[0], dtype=np.int64)
    if facts.explicit_attention or not issubclass(method, Observing):
        return total
    resolved = method.resolve_options(options)
    own = method.resolve_needs(facts, resolved)
    at_own = method.placement in (Placement.MID, Placement.AFTER)
    for layer, needs in observed_needs(method, tuple(layers), facts, resolved).items():
        if layer >= attention.shape[1]:
            break
        block = facts.blocks[layer]
        if at_own and layer in layers:
            needs = Needs.NONE if own & Needs.CLS_ATTENTION else needs
        if Needs.CLS_ATTENTION in needs and not needs & NEEDS_MAP:
            total = total + (attention[:, layer] + facts.num_prefix) * block.inner_width
    return total


def _site_macs(
    facts: BackboneFacts,
    method: type[TokenReducer],
    options: Options,
    *,
    layer: int,
    entering: Counts,
    keep: Counts,
) -> tuple[Counts, Counts]:
    """((M,) the method's own products, (M,) the class row it asks for) at one reduction layer.

    A static method is skipped where it would keep everything, and so are its taps.
    """
    active = method.acts(entering, keep, options)
    own = method.overhead_macs(facts, layer, entering, keep, options)
    block, needs = facts.blocks[layer], method.resolve_needs(facts, options)
    if method.placement is Placement.BEFORE:
        own = own + _scouted_macs(facts, layer, entering, needs)
    own = own + _auxiliary(facts, method, options)[0]
    taps_apply = method.placement in (Placement.MID, Placement.AFTER)
    extra_row = taps_apply and Needs.CLS_ATTENTION in needs and not needs & NEEDS_MAP
    rows = np.zeros_like(entering)
    if extra_row and not facts.explicit_attention:
        rows = (entering + facts.num_prefix) * block.inner_width
    if issubclass(method, TwoPass):
        rows = rows + method.first_pass_macs(facts, options)[1]
    return np.where(active, own, 0), np.where(active, rows, 0)


def _scouted_macs(facts: BackboneFacts, layer: int, entering: Counts, needs: Needs) -> Counts:
    """(M,) of the projections that a choice before a block looks at, over what enters it."""
    block = facts.blocks[layer]
    whole = sum(bool(needs & tap) for tap in (Needs.QUERIES, Needs.KEYS, Needs.VALUES))
    rows = (entering + facts.num_prefix) * whole + bool(needs & Needs.CLS_QUERY)
    return rows * block.width * block.inner_width


def _auxiliary(
    facts: BackboneFacts, method: type[TokenReducer], options: Options
) -> tuple[int, int]:
    """(multiply-accumulates, parameters) of the network that the method looks at images with."""
    name = image_network(method, options)
    if name is None:
        return 0, 0
    from autotok.backbones.feature_net import feature_net_cost

    return feature_net_cost(name, facts.image_shape)
