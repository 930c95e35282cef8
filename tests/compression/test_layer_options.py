"""An option that a reduction layer has of its own changes that layer alone, or is refused."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.exit_set import check_exits
from autotok.compression.model import CompressedViT
from autotok.compression.schedule import realise
from autotok.config import CompressionConfig, Options, Primitive, Reduction
from autotok.counting.macs import cost
from autotok.errors import ConfigError
from autotok.exits import ExitPolicy
from autotok.methods import get_method, list_methods
from autotok.methods.base import Option
from autotok.methods.learning import Learning, LossContext
from autotok.methods.ltmp import LTMP
from autotok.tokens import Tokens

FIRST, SECOND = 1, 2  # of four blocks
KEEPS = {FIRST: 11, SECOND: 6}  # of 16 patches
OPTIONS = [
    (name, option.name)
    for name in list_methods()
    for option in get_method(name).options
    if not get_method(name).single_layer
]
OTHER: Mapping[str, Primitive] = {
    "adapters": "other.safetensors", "adapters_sha256": "0123", "points": 5, "first": 3,
    "num_pruned": 1, "features": 6, "threshold": 0.3, "num_heads": 2, "tau": 1.0,
    "score": "column", "heatvit.threshold": 1e4, "spvit.threshold": 1e4, "ppt.threshold": 0.0,
    "tofe-instance.threshold": 1e4, "tofu.mode": "avg", "pitome.variant": "bsm",
}  # fmt: skip
"""Values that matter, where the first other choice or an end of the range does not."""
BESIDE: Mapping[str, Options] = {
    "gtp.seed": {"selection": "random"},
    "kmeans.seed": {"weighted": False},
    "kmeans.first": {"weighted": False},
    "kmedoids.iterations": {"mode": "reference", "weighted": False, "first": 2},
    "kmedoids.seed": {"weighted": False},
    "kmedoids.first": {"weighted": False},
    "ltmp.aligned": {"threshold": 0.05, "merge_threshold": 0.5},
    "pitome.variant": {"variant": "plain"},
    "heatvit.threshold": {"threshold": -1e4},
    "spvit.threshold": {"threshold": -1e4},
    "tofu.norm_rule": {"mode": "mlerp"},
}
"""Options of all layers without which one does not matter."""
SILENT = {"ats.rows", "metr.count_schedule"}
"""Options that change no result here: how rows are padded, layers at which no count falls."""


def config(name: str, options: Options, own: Mapping[int, Options]) -> CompressionConfig:
    places = [Reduction(at, num_keep=n, options=own.get(at, {})) for at, n in KEEPS.items()]
    return CompressionConfig(name, tuple(places), options)


def another(name: str, option: Option) -> Primitive:
    """A value that is not the default."""
    for known in (f"{name}.{option.name}", option.name):
        if known in OTHER:
            return OTHER[known]
    if isinstance(option.default, bool):
        return not option.default
    ends = option.allowed or (option.low, option.high)
    value = next(end for end in ends if end not in (None, option.default))
    assert value is not None
    return type(option.default)(value)


@cache
def backbone() -> Backbone:
    return tiny_backbone().double()


@cache
def images() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, *backbone().facts.image_shape, generator=generator).double()


def made(wanted: CompressionConfig) -> CompressedViT:
    """A model whose learned parts are drawn by their names, whatever else it has."""
    model = compress_backbone(backbone(), wanted)
    with torch.no_grad():
        for name, value in model.reducers.named_parameters():
            if value.dim() > 0 and not name.endswith("_logits"):  # DiffRate's start is one
                seed = sum(ord(letter) * (place + 1) for place, letter in enumerate(name))
                noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
                value.copy_(noise / max(1, value.shape[-1]) ** 0.5)
    return model.double().eval()


@torch.no_grad()
def left(model: CompressedViT) -> Tokens:
    """What leaves the block before the second reduction layer."""
    tokens, embedded = model.entered(images())
    return model.through(range(SECOND), tokens, embedded)


@torch.no_grad()
def answer(model: CompressedViT, entering: Tokens) -> Tensor:
    """The logits of what enters the second reduction layer."""
    _, embedded = model.entered(images())
    return model.ended(model.through(range(SECOND, 4), entering, embedded))


def seen(wanted: CompressionConfig) -> list[Tensor]:
    """All that an option may change: the answer, the cost, a training step, calibration."""
    model, macs = made(wanted), cost(backbone().facts, wanted)
    with torch.no_grad():
        found = [model(images()), torch.tensor([macs.macs, macs.params]).double()]
    reducers = list(model.train().reducers.children())
    torch.manual_seed(0)
    learning = [reducer for reducer in reducers if isinstance(reducer, Learning)]
    for reducer in learning:
        reducer.begin_step(0.2)
    tokens = model.forward_tokens(images())
    logits, full = model.backbone.readout(tokens), torch.ones(3, 17, tokens.x.shape[2]).double()
    losses = [logits.square().sum()]
    for reducer in learning:
        teacher = dict.fromkeys(reducer.teacher_layers(), full)
        labels, theirs = torch.zeros(3, dtype=torch.int64), logits.detach() ** 2
        loss = reducer.extra_loss(LossContext(tokens, logits, labels, theirs, teacher))
        losses.append(torch.zeros(()) if loss is None else loss)
    parameters = list(model.reducers.parameters())
    if parameters:
        grads = torch.autograd.grad(sum(losses), parameters, allow_unused=True)  # type: ignore[arg-type]
        found += [grad.flatten() for grad in grads if grad is not None]
    found += [logits.detach(), torch.stack([loss.detach().double() for loss in losses])]
    for reducer in reducers:
        if isinstance(reducer, LTMP):  # has an option for it
            reducer.eval().calibrating = True
            with torch.no_grad():
                model.eval()(images())
            found.append(torch.tensor(list(reducer.calibrated().values())).double())
    return found


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() < 1e-12)


def matters(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) != len(other) or not all(map(same, one, other))


def swept() -> list[Any]:
    """Refusals, which cost nothing, and of what is run and compared two; the others are slow."""
    refused = {(n, o.name) for n in list_methods() for o in get_method(n).options if o.model_wide}
    quick = {*refused, ("evit", "fuse"), ("gtp", "alpha")}
    slow = pytest.mark.slow
    return [
        pytest.param(*each, id="-".join(each), marks=() if each in quick else slow)
        for each in OPTIONS
    ]


@pytest.mark.parametrize(("name", "key"), swept())
def test_a_layers_own_option_changes_that_layer_alone_or_is_refused(name: str, key: str) -> None:
    (option,) = (option for option in get_method(name).options if option.name == key)
    value, beside = another(name, option), BESIDE.get(f"{name}.{key}", {})
    for_all = config(name, {**beside, key: value}, {})
    own = {at: config(name, beside, {at: {key: value}}) for at in KEEPS}
    if option.model_wide:
        for wanted in own.values():
            with pytest.raises(ConfigError, match=f"'{key}' .* is one for all layers"):
                realise(wanted, backbone().facts)
        realise(config(name, {key: value}, {FIRST: {key: value}}), backbone().facts)
        return
    plain, every = made(config(name, beside, {})), made(for_all)
    first, second = (made(own[at]) for at in KEEPS)
    for start in (left(plain), left(every)):
        assert same(answer(first, start), answer(plain, start))
        assert same(answer(second, start), answer(every, start))
    assert same(left(first).x, left(every).x)
    assert same(left(second).x, left(plain).x)
    before = seen(config(name, beside, {}))
    heard = [at for at, wanted in own.items() if matters(before, seen(wanted))]
    assert heard == ([] if f"{name}.{key}" in SILENT else [FIRST, SECOND])


def test_an_exit_behind_a_layer_that_acts_by_its_own_options_is_refused() -> None:
    facts, early = backbone().facts, ExitPolicy((1,), ("local-dw",))
    for own, refused in (({"count_schedule": True}, True), ({}, False)):
        places = (Reduction(1, num_keep=16, options=own), Reduction(2, num_keep=8))
        wanted = CompressionConfig("metr", places, exits=early)
        schedule = realise(wanted, facts)
        if not refused:
            check_exits(wanted, facts, schedule)
            continue
        with pytest.raises(ConfigError, match="reduces it at layer 1"):
            check_exits(wanted, facts, schedule)
