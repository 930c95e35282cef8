"""Adapters folded into a copy of the weights: what runs, what is written, what is left alone."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import autotok
from autotok.api.models import build_config
from autotok.backbones.autoformer import AutoFormer
from autotok.backbones.base import Backbone
from autotok.backbones.lvvit import LVViT, LVViTSpec
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone, reconfigured
from autotok.compression.folding import pinned, with_fold
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost
from autotok.errors import CheckpointError, IncompatibleMethod
from autotok.methods.folding import WeightFold
from autotok.methods.tocom import Adapters

REDUCTIONS = (Reduction(0, num_keep=13), Reduction(1, num_keep=10), Reduction(2, num_keep=7))


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """A file of adapters that act on the tiny ViT."""
    return written(tiny_backbone(), tmp_path / "adapters.safetensors")


def written(backbone: Backbone, path: Path, *, scale: float = 0.2) -> Path:
    made = Adapters(backbone.facts, group_width=1, seed=1)
    generator = torch.Generator().manual_seed(2)
    tensors = {
        n: torch.randn(w.shape, generator=generator) * w.shape[1] ** -0.5 for n, w in made.named()
    }
    save_file(tensors, path, metadata={"scale": str(scale)})
    return path


def config(path: Path | str, **options: float) -> CompressionConfig:
    return CompressionConfig("tocom", REDUCTIONS, {**options, "adapters": str(path)})


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def run(model: CompressedViT) -> torch.Tensor:
    logits: torch.Tensor = model.eval()(images())
    return logits


def plain() -> torch.Tensor:
    return run(compress_backbone(tiny_backbone(), CompressionConfig("tome", REDUCTIONS)))


def test_the_file_says_scale_and_width_where_the_configuration_does_not(adapters: Path) -> None:
    found = pinned(config(adapters)).options
    assert (found["scale"], found["group_width"]) == (0.2, 1)
    assert len(str(found["adapters_sha256"])) == 16
    assert pinned(config(adapters, scale=0.05)).options["scale"] == 0.05
    other = CompressionConfig("tome", REDUCTIONS)
    assert pinned(other) is other


def test_only_the_projections_are_copied_and_the_users_model_is_not_written(
    adapters: Path,
) -> None:
    model = tiny_vit()
    before = copy.deepcopy(model.state_dict())
    folded = autotok.compress(model, config(adapters))
    run(folded)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    own = dict(folded.backbone.weights.named_parameters())
    other = {name for name, value in model.named_parameters() if own[name] is not value}
    assert other == {f"blocks.{i}.attn.qkv.weight" for i in range(4)}
    assert float((run(folded) - plain()).abs().max()) > 1e-3


def test_degree_by_degree_it_is_tome_where_nothing_is_to_compensate(adapters: Path) -> None:
    alike = compress_backbone(tiny_backbone(), pinned(config(adapters, scale=0.0)))
    assert torch.equal(run(alike), plain())
    without = compress_backbone(tiny_backbone(), CompressionConfig("tocom", REDUCTIONS))
    assert torch.equal(run(without), plain())
    uniform = build_config(
        tiny_backbone(), "tocom", r=2, options={"adapters": str(adapters), "source_degree": 8}
    )
    tome = build_config(tiny_backbone(), "tome", r=2)  # degree 16 x 2 x 4 / 16
    expected = run(compress_backbone(tiny_backbone(), tome))
    assert torch.equal(run(compress_backbone(tiny_backbone(), uniform)), expected)


def test_it_compensates_where_nothing_merges(adapters: Path) -> None:
    chosen = CompressionConfig(
        "tocom", options={"source_degree": 8, "group_width": 1, "adapters": str(adapters)}
    )
    model = compress_backbone(tiny_backbone(), chosen)
    whole = run(compress_backbone(tiny_backbone(), CompressionConfig()))
    assert float((run(model) - whole).abs().max()) > 1e-3


def test_it_costs_what_tome_costs(adapters: Path) -> None:
    model = compress_backbone(tiny_backbone(), pinned(config(adapters)))
    tome = CompressionConfig("tome", REDUCTIONS)
    assert cost(model.backbone.facts, model.config) == cost(model.backbone.facts, tome)
    assert count_macs(model) == cost(model.backbone.facts, tome).macs
    assert model.unaltered_blocks() == 0


def test_the_original_moves_with_its_twin(adapters: Path) -> None:
    model = compress_backbone(tiny_backbone(), pinned(config(adapters)))
    assert model.original is not model.backbone
    model.double()
    kinds = {p.dtype for part in (model, model.original) for p in part.parameters()}
    assert kinds == {torch.float64}


def test_another_file_than_the_configurations_is_refused(adapters: Path) -> None:
    chosen = pinned(config(adapters))
    written(tiny_backbone(), adapters, scale=0.1)
    with pytest.raises(CheckpointError, match=r"adapters '.*' are not those .*adapters_sha256"):
        compress_backbone(tiny_backbone(), chosen)
    adapters.unlink()
    with pytest.raises(CheckpointError, match=r"adapters\.safetensors"):
        compress_backbone(tiny_backbone(), chosen)


def test_other_families_are_folded_too(tmp_path: Path) -> None:
    spec = LVViTSpec(width=24, depth=2, heads=2, hidden=48)
    for backbone in (LVViT(spec).eval(), small_autoformer()):
        made = Adapters(backbone.facts, group_width=1, seed=1)
        for _, weight in made.named():
            weight.data.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
        between = made.between(0, 8, scale=0.2)
        twin = with_fold(backbone, between)
        x = torch.randn(1, *backbone.facts.image_shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            before = backbone(x)
            backbone.added = between.added
            unfolded = backbone(x)
            backbone.added = None
            torch.testing.assert_close(twin(x), unfolded, rtol=1e-4, atol=1e-5)
            assert float((before - unfolded).abs().max()) > 1e-4


def small_autoformer() -> AutoFormer:
    from autotok.backbones.autoformer import SupernetSpec

    spec = SupernetSpec(
        24, 2, 2, 2.0, (24,), (2,), (2,), (2.0,), image_shape=(3, 32, 32), patch_size=8,
        num_classes=5, head_dim=8,
    )  # fmt: skip
    return AutoFormer(spec, spec.largest(), name="small").eval()


class Bare(Backbone):
    """A backbone without projections of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = tiny_backbone().facts


def test_a_backbone_without_projections_of_its_own_is_refused_by_name() -> None:
    with pytest.raises(IncompatibleMethod, match=r"'tiny' \(family timm_vit\) has no projection"):
        with_fold(Bare(), WeightFold())


def test_a_fold_changes_nothing_unless_it_says_otherwise() -> None:
    backbone = tiny_backbone()
    assert torch.equal(with_fold(backbone, WeightFold())(images()), backbone(images()))


def test_another_exit_or_format_keeps_folded_weights_and_other_tokens_fold_anew(
    adapters: Path,
) -> None:
    model = compress_backbone(tiny_backbone(), pinned(config(adapters)))
    again = reconfigured(model, dataclasses.replace(model.config, number_format="float16"))
    assert again.backbone is model.backbone
    assert again.original is model.original
    fewer = dataclasses.replace(model.config, reductions=(Reduction(0, num_keep=8),))
    fresh = compress_backbone(model.original, fewer)
    assert torch.equal(run(reconfigured(model, fewer)), run(fresh))


def test_weights_that_came_folded_are_never_folded_again(adapters: Path) -> None:
    first = compress_backbone(tiny_backbone(), pinned(config(adapters)))
    loaded = compress_backbone(first.backbone, first.config, is_folded=True)
    assert loaded.is_folded
    assert loaded.unaltered_blocks() == 0
    fewer = dataclasses.replace(loaded.config, reductions=(Reduction(0, num_keep=8),))
    for other in (loaded.config, fewer):
        again = reconfigured(loaded, other)
        assert again.is_folded
        assert again.backbone is first.backbone
    assert torch.equal(run(reconfigured(loaded, loaded.config)), run(first))
