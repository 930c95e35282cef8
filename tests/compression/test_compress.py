"""`compress` takes nothing from its model, and what it makes behaves as a module does."""

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autotok
from autotok.backbones.timm_vit import VisionTransformer
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone, reconfigured
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Reduction
from autotok.counting.counter import count_macs
from autotok.exits import ExitPolicy
from autotok.methods import get_method, list_methods
from autotok.methods.base import Kind, TokenReducer
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.primitives import select
from autotok.searching.space.settings import SearchSettings
from autotok.testing.model import default_backbones, example_config
from autotok.testing.reduction_case import stand_in
from autotok.tokens import Taps, Tokens


def modes(model: nn.Module) -> dict[str, tuple[bool, tuple[bool, ...]]]:
    """By name: training or not, and which own parameters are trained."""
    return {
        name: (part.training, tuple(p.requires_grad for p in part.parameters(recurse=False)))
        for name, part in model.named_modules()
    }


def mixed_model() -> VisionTransformer:
    """A model in training mode, with a block in evaluation mode and another frozen."""
    model = tiny_vit()
    model.train()
    model.blocks[1].eval()
    model.blocks[2].requires_grad_(False)
    return model


FEW = SearchSettings(n_trials=1, images_few=8, images_more=8, images_final=8)
VERBS: dict[str, Callable[[nn.Module, Path], object]] = {
    "compress": lambda model, _: autotok.compress(model, method="tome", r=1),
    "as_backbone": lambda model, _: autotok.as_backbone(model),
    "macs": lambda model, _: autotok.macs(model),
    "predict": lambda model, _: autotok.predict(model, "x86-desktop"),
    "profile": lambda model, _: autotok.profile(model),
    "profile compressed": lambda model, _: autotok.profile(
        autotok.compress(model, method="tome", r=1)
    ),
    "evaluate": lambda model, _: autotok.evaluate(model, "digits", num_images=8),
    "evaluate compressed": lambda model, _: autotok.evaluate(
        autotok.compress(model, method="tome", r=1), "digits", num_images=8
    ),
    "export": lambda model, path: autotok.export(model, path / "m.pt2", format="pt2"),
    "search": lambda model, path: autotok.search(
        model, data="digits", budget="60%", settings=FEW, output=path / "run"
    ),
    "finetune": lambda model, _: autotok.finetune(
        autotok.compress(model, method="tome", r=1),
        data="digits",
        spec=autotok.FineTuneSpec(length="2 steps"),
        num_images=8,
    ),
}


@pytest.mark.usefixtures("three_turns", "no_onnx")
@pytest.mark.parametrize(
    "verb",  # a profile starts a process that measures the memory
    [pytest.param(v, marks=pytest.mark.slow) if "profile" in v else v for v in VERBS],
)
def test_a_verb_leaves_the_mode_of_every_part_of_the_model_alone(verb: str, tmp_path: Path) -> None:
    model = mixed_model()
    before, weights = modes(model), copy.deepcopy(model.state_dict())
    VERBS[verb](model, tmp_path)
    assert modes(model) == before
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_a_compressed_model_is_in_the_mode_of_what_it_holds(training: bool) -> None:
    model = tiny_vit().train(training)
    compressed = autotok.compress(model, method="dynamicvit", keep={1: 0.5}, untrained=True)
    assert {part.training for part in compressed.modules()} == {training}
    other = reconfigured(compressed, CompressionConfig("dynamicvit", (Reduction(2, 0.5),)))
    assert {part.training for part in other.modules()} == {training}


@pytest.mark.usefixtures("three_turns")
def test_what_is_profiled_runs_as_it_would_be_deployed() -> None:
    model = tiny_vit().train()
    compressed = autotok.compress(model, method="dynamicvit", keep={1: 0.5}, untrained=True)
    seen: list[bool] = []
    model.norm.register_forward_hook(lambda part, *_: seen.append(part.training))
    autotok.profile(compressed)
    assert set(seen) == {False}


# --- replicas, and reducers that are put in later


def replica(model: nn.Module) -> Any:
    """What `torch.nn.parallel.replicate` makes for another device, with tensors of its own."""
    parts = list(model.modules())
    twins = {part: part._replicate_for_data_parallel() for part in parts}  # type: ignore[operator]
    for part in parts:
        for name, child in part._modules.items():
            if child is not None:
                setattr(twins[part], name, twins[child])
        for held in (part._parameters, part._buffers):
            for name, value in held.items():
                if value is not None:
                    setattr(twins[part], name, value.detach().clone())
    return twins[model]


@pytest.mark.parametrize("backbone", range(len(default_backbones())))
@pytest.mark.parametrize("method", ["tome", "patchmerger"])
def test_a_replica_computes_with_its_own_parameters(method: str, backbone: int) -> None:
    config = CompressionConfig(method, (Reduction(1, num_keep=9),))
    model = compress_backbone(copy.deepcopy(default_backbones()[backbone]), config).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        twin = replica(model)
        expected = twin(images)
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
        assert torch.equal(twin(images), expected)
        assert bool(expected.isfinite().all())


class Counting(TokenReducer):
    """Keeps the first patches, and counts how often it did."""

    title, kind = "toy", Kind.PRUNE
    calls = 0

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        self.calls += 1
        index = torch.arange(num_keep).expand(tokens.x.shape[0], -1)
        return select(tokens, index)


def test_a_reducer_put_in_later_is_the_one_that_runs() -> None:
    model = autotok.compress(tiny_vit(), method="tome", r=2)
    old = model.reducers["2"]
    assert isinstance(old, TokenReducer)
    model.reducers["2"] = toy = Counting(old.site, {})
    tokens = model.forward_tokens(torch.randn(2, 3, 32, 32))
    assert toy.calls == 1
    assert tokens.num_patches == model.schedule.readout


# --- hooks


@pytest.mark.parametrize("where", ["model", "block", "attention"])
def test_a_hook_that_never_fires_is_told_once(where: str, caplog: pytest.LogCaptureFixture) -> None:
    timm_model = tiny_vit()
    model = autotok.compress(timm_model, method="tome", r=1)
    block = timm_model.blocks[1]
    place = {"model": timm_model, "block": block, "attention": block.attn}[where]
    fired: list[nn.Module] = []
    place.register_forward_hook(lambda part, *_: fired.append(part))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            model(torch.randn(1, 3, 32, 32))
    assert fired == []
    assert [r.getMessage() for r in caplog.records] == [
        f"hooks on {NAMES[where]} of 'VisionTransformer' never fire: its parts are run one by one;"
        " take tokens and attention with forward_tokens(images,"
        f" watch={TapRequest.__name__}(...)) of"
        " autotok.compression.model, or hook a part, such as blocks.0.mlp"
    ]


NAMES = {"model": "the model", "block": "blocks.1", "attention": "blocks.1.attn"}


@pytest.mark.parametrize("backbone", range(len(default_backbones())))
def test_blocks_of_every_backbone_are_known_to_be_silent(
    backbone: int, caplog: pytest.LogCaptureFixture
) -> None:
    held = copy.deepcopy(default_backbones()[backbone])
    model = compress_backbone(held, CompressionConfig())
    blocks = dict(held.unused())
    blocks[f"blocks.{held.facts.num_blocks - 1}"].register_forward_pre_hook(lambda *_: None)
    with caplog.at_level(logging.WARNING):
        model(torch.randn(1, 3, 32, 32))
    assert f"blocks.{held.facts.num_blocks - 1}" in caplog.text


def test_a_hook_on_a_part_fires_and_the_watch_sees_what_a_block_hook_would() -> None:
    timm_model = tiny_vit()
    model = compress_backbone(tiny_backbone(), CompressionConfig())
    inputs: list[Tensor] = []
    timm_model.blocks[2].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    parts: list[Tensor] = []
    last: Any = model.backbone
    last.model.blocks[2].norm1.register_forward_pre_hook(lambda _, args: parts.append(args[0]))
    images, watch = torch.randn(2, 3, 32, 32), TapRequest(after=frozenset({1}))
    with torch.no_grad():
        timm_model(images)
        model.forward_tokens(images, watch=watch)
    assert torch.allclose(watch.tokens[1].x, inputs[0], atol=1e-5)
    assert torch.allclose(parts[0], inputs[0], atol=1e-5)


def test_a_model_without_hooks_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    model = autotok.compress(tiny_vit(), method="tome", r=1)
    assert isinstance(model, CompressedViT)
    with caplog.at_level(logging.WARNING):
        model(torch.randn(1, 3, 32, 32))
    assert caplog.records == []


@pytest.mark.parametrize("name", [n for n in list_methods() if n != "none"])
def test_a_model_in_half_precision_has_reducers_in_it(name: str) -> None:
    backbone = tiny_backbone().to(torch.bfloat16)
    model = compress_backbone(backbone, example_config(get_method(name), backbone.facts))
    for reducer in model.reducers.children():
        if isinstance(reducer, ImageScoring):
            reducer.network = stand_in().to(torch.bfloat16)
    logits = model.eval()(torch.randn(1, 3, 32, 32, dtype=torch.bfloat16))
    state = [t for t in model.state_dict().values() if t.is_floating_point()]
    assert {t.dtype for t in [logits, *state]} == {torch.bfloat16}


def test_heads_of_exits_are_in_the_number_format_of_the_model() -> None:
    config = CompressionConfig(exits=ExitPolicy((1, 3)))
    model = compress_backbone(tiny_backbone().to(torch.bfloat16), config).eval()
    assert model(torch.randn(2, 3, 32, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", [n for n in list_methods() if n not in ("none", "papr")])
def test_a_model_is_copied_between_two_training_steps(name: str) -> None:
    backbone = tiny_backbone().train()
    model = compress_backbone(backbone, example_config(get_method(name), backbone.facts))
    model(torch.randn(2, 3, 32, 32)).square().mean().backward()
    twin = copy.deepcopy(model)
    assert twin.training
    assert count_macs(model) == count_macs(twin)
    pickle.loads(pickle.dumps(model))
