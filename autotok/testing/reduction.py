"""The contract of one reduction, checked on synthetic tokens."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.errors import ConfigError, IncompatibleMethod
from autotok.methods.base import Count, Kind, Option, TokenReducer
from autotok.methods.block_hooks import BlockHooks
from autotok.methods.learning import Learning
from autotok.methods.registry import get_method, misdeclared
from autotok.tokens import Needs, Taps, Tokens

from .reduction_case import (
    PREFIXES,
    ReductionCase,
    layers,
    loss_context,
    reduction_case,
    reduction_cases,
    require,
)

Method = type[TokenReducer]


def check_declarations(method: Method) -> None:
    """Everything a table, a search or a cost formula reads is declared."""
    require(get_method(method.name) is method, method, "is not what the registry knows by its name")
    require(bool(method.title), method, "declares no title")
    require(bool(method.__doc__), method, "has no docstring")
    wrong = misdeclared(method)
    require(wrong is None, method, f"means nothing: {wrong}")
    names = [option.name for option in method.options]
    require(len(set(names)) == len(names), method, f"declares an option twice: {names}")
    require("keep_ratio" not in names, method, "takes keep_ratio, which the configuration owns")


def check_options(method: Method) -> None:
    """Every value an option may take is accepted and runs; others are refused."""
    for option in method.options:
        for value in _samples(option):
            require(
                method.resolve_options({option.name: value})[option.name] == value,
                method,
                f"changes option {option.name}={value!r}",
            )
            for moment in reduction_cases(method, options={option.name: value}, prefixes=(1,)):
                _counts(method, moment, moment.run())
        for bad in _bad_samples(option):
            try:
                method.resolve_options({option.name: bad})
            except ConfigError:
                continue
            require(False, method, f"accepts {option.name}={bad!r}")


def check_feasible_range(method: Method) -> None:
    """Lowest and highest counts make sense for any number of entering tokens."""
    options = method.resolve_options({})
    for entering in (1, 2, 3, 4, 5, 15, 16, 196, 197):
        low, high = method.feasible(entering, options)
        require(
            1 <= low <= high <= entering,
            method,
            f"claims to keep {low} to {high} of {entering} tokens",
        )


def check_shape_and_prefix(method: Method) -> None:
    """The promised count arrives; prefix tokens stay first, in order, untouched."""
    for moment in reduction_cases(method):
        out = moment.run()
        _counts(method, moment, out)
        same = torch.equal(out.prefix, moment.tokens.prefix)
        require(same, method, f"touches prefix tokens ({moment.tokens.num_prefix} of them)")


def check_prefix_counts(method: Method) -> None:
    """1, 2 and 5 prefix tokens work; none works too, or the unmet need is named."""
    for num_prefix in PREFIXES:
        try:
            reduction_case(method, num_prefix=num_prefix).run()
        except IncompatibleMethod as error:
            require(num_prefix == 0, method, f"fails with {num_prefix} prefix tokens: {error}")
            require("needs" in str(error), method, f"does not name its unmet need: {error}")


def check_size_is_conserved(method: Method) -> None:
    """Sizes add up to the number of patches and agree with sources, if the method says so."""
    if not method.conserves_size:
        return
    for moment in reduction_cases(method):
        out = moment.run()
        total = out.sizes().sum(dim=1)
        require(
            torch.allclose(total, torch.full_like(total, moment.tokens.num_patches)),
            method,
            f"declares that it conserves size, but sizes add up to {total.tolist()}",
        )
        assert out.source is not None
        held = out.source.sum(dim=-1).to(total.dtype)
        require(torch.allclose(held, out.sizes()), method, "has sizes that disagree with sources")


def check_facts_travel_together(method: Method) -> None:
    """Coordinates, sources, extras and features of a token belong to the same patches."""
    alone = method.count is Count.ADAPTIVE  # padding beside others holds nothing of its own
    for moment in reduction_cases(method, batch=1 if alone else 3):
        out, start = moment.run(), moment.tokens
        assert start.coords is not None
        require(out.source is not None, method, "loses sources")
        require(out.coords is not None, method, "loses coordinates")
        assert out.source is not None
        assert out.coords is not None
        fields = (out.coords, out.source)
        require(
            all(f.shape[1] == out.num_patches for f in fields),
            method,
            "leaves coordinates or sources behind",
        )
        if method.kind is Kind.POOL:
            continue
        require(int(out.source.sum(1).max()) <= 1, method, "puts one patch into two tokens")
        tag = out.extras["tag"].values  # (B, k)
        expected = start.coords.gather(1, tag.unsqueeze(-1).expand(-1, -1, 2))
        require(torch.equal(out.coords, expected), method, "mixes up coordinates")
        own = out.source.gather(2, tag.unsqueeze(-1))
        require(bool(own.all()), method, "mixes up sources")
        pair = tag.unsqueeze(2) * 1000 + tag.unsqueeze(1)
        require(torch.equal(out.extras["pair"].values, pair), method, "mixes up pairwise extras")
        if method.kind in (Kind.PRUNE, Kind.NONE):
            rows = start.patches.gather(1, tag.unsqueeze(-1).expand(out.patches.shape))
            require(torch.equal(out.patches, rows), method, "prunes, but changes what it keeps")


def check_batch_neighbours(method: Method) -> None:
    """An image's tokens do not depend on the images beside it."""
    for layer in layers(method):
        together = reduction_case(method, layer=layer, dtype=torch.float64)
        out = together.run()
        for index in range(out.x.shape[0]):
            alone = together.reducer.reduce(
                _one(together.tokens, index), _one_taps(together.taps, index), together.num_keep
            )
            length = alone.x.shape[1]
            if out.live is not None:
                count = out.num_prefix + int(out.live[index].sum())
                require(count == length, method, "counts an image's tokens by its batch neighbours")
            same = torch.allclose(alone.x, out.x[index : index + 1, :length], atol=1e-12)
            require(same, method, "lets an image's tokens depend on its batch neighbours")


def check_precision_device_and_repeat(method: Method) -> None:
    """Precision and device stay; the same input gives the same output; the input is not changed."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        moment = reduction_case(method, dtype=dtype)
        before = moment.tokens.x.clone()
        state = {key: value.clone() for key, value in moment.reducer.state_dict().items()}
        first, second = moment.run(), moment.run()
        require(first.x.dtype is dtype, method, f"turns {dtype} into {first.x.dtype}")
        require(torch.equal(first.x, second.x), method, "gives two results for one input")
        require(torch.equal(before, moment.tokens.x), method, "changes its input in place")
        after = moment.reducer.state_dict()
        same = all(torch.equal(after[key], value) for key, value in state.items())
        require(same, method, "writes state in evaluation")
    if method.count is Count.STATIC:
        out = reduction_case(method, device="meta").run()
        require(out.x.device.type == "meta", method, "leaves the device of its input")


def check_gradients(method: Method) -> None:
    """Gradients reach the tokens, and every parameter in training mode, of one image too."""
    for layer, batch in itertools.product(layers(method), (3, 1)):
        moment = reduction_case(method, layer=layer, batch=batch)
        moment.reducer.train()
        leaf = moment.tokens.x.clone().requires_grad_()
        out = moment.reducer.reduce(moment.tokens.with_x(leaf), moment.taps, moment.num_keep)
        loss = (out.patches * torch.linspace(0.5, 1.5, out.patches.shape[-1])).sum()
        for part in (out.mask, out.size):
            if part is not None and part.requires_grad:
                loss = loss + (part * torch.linspace(0.5, 1.5, part.shape[-1])).sum()
        own = _own_loss(moment.reducer, out)
        loss = loss if own is None else loss + own
        if loss.requires_grad:
            loss.backward()
        grad = leaf.grad
        reached = grad is not None and bool(grad.isfinite().all()) and bool(grad.abs().sum() > 0)
        require(reached, method, "lets no finite gradient reach the tokens")
        for name, parameter in moment.reducer.named_parameters():
            require(parameter.grad is not None, method, f"lets no gradient reach '{name}'")


def check_declared_needs_suffice(method: Method) -> None:
    """With exactly the declared taps it runs; without any it may not, unless it declared none."""
    for moment in reduction_cases(method, prefixes=(1, 0)):
        try:
            moment.run()
        except AttributeError as error:
            require(False, method, f"reads more than it declares: {error}")
        free = Needs.GRID
        if moment.reducer.needs & ~free and method.kind is not Kind.NONE:
            try:
                moment.reducer.reduce(moment.tokens, Taps(), moment.num_keep)
            except AttributeError:
                continue
            require(False, method, f"declares {moment.reducer.needs}, but reads none of it")


def check_overhead(method: Method) -> None:
    """The declared multiply-accumulates are those that torch's counter sees."""
    kinds = [o for o in method.options if o.choices or isinstance(o.default, bool)]
    cases: list[dict[str, Primitive]] = [{}, *({o.name: v} for o in kinds for v in _samples(o))]
    for options in cases:
        for moment in reduction_cases(method, options=options, prefixes=(1, 0), batch=1):
            site = moment.reducer.site
            entering, keep = np.array([site.num_entering]), np.array([moment.num_keep])
            values = moment.reducer.values
            claimed = method.overhead_macs(site.facts, site.layer, entering, keep, values)
            early = method.early_macs(site.facts, (site.layer,), keep[:, None], values)
            promised = int(claimed[0] + early[0])
            untraced = dataclasses.replace(moment.tokens, source=None)  # only drawings trace
            with FlopCounterMode(display=False) as counter:
                moment.reducer.reduce(untraced, moment.taps, moment.num_keep)
            seen = counter.get_total_flops() // 2 + moment.prepared_macs
            require(
                promised == seen or moment.num_keep == site.num_entering,
                method,
                f"declares {promised} MACs of its own with {options}, torch counts {seen}",
            )


def check_config_round_trip(method: Method) -> None:
    """A configuration of the method comes back equal from its JSON."""
    options = method.resolve_options({})
    reductions = tuple(
        Reduction(layer, keep_ratio=0.7, options=options) for layer in layers(method)
    )
    config = CompressionConfig(method.name, reductions, options)
    again = CompressionConfig.from_json(config.to_json())
    same = again == config and again.config_id == config.config_id
    require(same, method, "has options that do not survive JSON")


def _own_loss(reducer: TokenReducer, left: Tokens) -> Tensor | None:
    """The method's own loss terms after a reduction that left these tokens."""
    if not isinstance(reducer, Learning):
        return None
    return reducer.extra_loss(loss_context(reducer, _to_the_end(reducer, left)))


def _to_the_end(reducer: TokenReducer, tokens: Tokens) -> Tokens:
    """Tokens that passed the blocks after the reduction, as far as the method watches them."""
    if not isinstance(reducer, BlockHooks):
        return tokens
    for block in range(reducer.site.layer, reducer.site.facts.num_blocks):
        tokens = reducer.after_block(block, tokens)
    return reducer.finish(tokens)


def _counts(method: Method, moment: ReductionCase, out: Tokens) -> None:
    start = moment.tokens
    shape = (start.x.shape[0], start.num_prefix + moment.num_keep, start.x.shape[2])
    if method.count is Count.ADAPTIVE:
        return
    require(
        tuple(out.x.shape) == shape,
        method,
        f"was asked for tokens of shape {shape} and returned {tuple(out.x.shape)}",
    )


def _samples(option: Option) -> list[Primitive]:
    if option.choices:
        return list(option.allowed)
    if isinstance(option.default, bool):
        return [True, False]
    values: list[Primitive] = [option.default]
    kind = type(option.default)
    if option.low is not None and option.high is not None:
        middle = (option.low + option.high) / 2
        values += [kind(option.low), kind(middle), kind(option.high)]
    return values


def _bad_samples(option: Option) -> list[Primitive]:
    names_a_file = isinstance(option.default, str) and not option.choices
    bad: list[Primitive] = [1.5 if names_a_file else "no such value"]
    if isinstance(option.default, (int, float)) and not isinstance(option.default, bool):
        kind = type(option.default)
        bad += [kind(option.high + 1)] if option.high is not None else []
        bad += [kind(option.low - 1)] if option.low is not None else []
    return bad


def _one(tokens: Tokens, index: int) -> Tokens:
    def row(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[index : index + 1]

    return dataclasses.replace(
        tokens,
        x=tokens.x[index : index + 1],
        size=row(tokens.size),
        coords=row(tokens.coords),
        source=row(tokens.source),
        mask=row(tokens.mask),
        extras={
            name: dataclasses.replace(extra, values=extra.values[index : index + 1])
            for name, extra in tokens.extras.items()
        },
    )


def _one_taps(taps: Taps, index: int) -> Taps:
    whole = {"position_table"}  # the same for every image
    return Taps(
        {
            name: getattr(taps, name)[slice(None) if name in whole else slice(index, index + 1)]
            for name in taps.names()
        }
    )


REDUCTION_CHECKS: tuple[Callable[[Method], None], ...] = (
    check_declarations,
    check_options,
    check_feasible_range,
    check_shape_and_prefix,
    check_prefix_counts,
    check_size_is_conserved,
    check_facts_travel_together,
    check_batch_neighbours,
    check_precision_device_and_repeat,
    check_gradients,
    check_declared_needs_suffice,
    check_overhead,
    check_config_round_trip,
)
"""Checks that need a method only."""
