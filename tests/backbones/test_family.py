"""A family of backbones is one file: registered from here, everything else follows from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import autotok
from autotok.backbones.base import Backbone
from autotok.backbones.checkpoint import read_state_dict
from autotok.backbones.family import FAMILIES, Family, ModelRequest, register_family
from autotok.backbones.fitting import checked_fit, load_fitting
from autotok.backbones.loading import (
    as_backbone,
    backbone_facts,
    known_backbones,
    load_backbone,
    load_structure,
)
from autotok.cli.catalog import app
from autotok.config import CompressionConfig, Reduction, SubnetSpec
from autotok.counting.macs import cost
from autotok.errors import ConfigError, UnknownName, UnsupportedBackbone
from autotok.export.best_yaml import BackboneRef, Bundle
from autotok.export.bundle import load_bundle, save_bundle
from autotok.facts import BackboneFacts, BlockFacts
from autotok.tokens import Needs, Taps, Tokens

WIDTH, SIDE, PATCH, DEPTH, CLASSES = 8, 16, 4, 2, 3
PATCHES = (SIDE // PATCH) ** 2


class ToyViT(nn.Module):
    """Somebody's model: one head without class token, and its blocks' weights by position."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(DEPTH))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))
        self.up = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(DEPTH))
        self.down = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, CLASSES)


class ToyBackbone(Backbone):
    def __init__(self, model: ToyViT, name: str) -> None:
        super().__init__()
        self.model = model
        block = BlockFacts(WIDTH, 1, WIDTH, 2 * WIDTH, params=sum(
            p.numel() for part in (model.qkv, model.out, model.up, model.down)
            for p in part[0].parameters()))  # fmt: skip
        self.facts = BackboneFacts(
            name=name, family="toy", blocks=(block,) * DEPTH, num_prefix=0, has_cls=False,
            cls_is_supervised=False, grid=(SIDE // PATCH, SIDE // PATCH), pooling="mean",
            carries_positions=False, has_position_table=False, image_shape=(3, SIDE, SIDE),
            patch_size=(PATCH, PATCH), num_classes=CLASSES,
            stem_macs=PATCHES * WIDTH * 3 * PATCH**2, readout_macs=WIDTH * CLASSES,
            params=sum(p.numel() for p in model.parameters()),
        )  # fmt: skip

    @property
    def weights(self) -> nn.Module:
        return self.model

    def embed(
        self, images: Tensor, needs: Needs = Needs.NONE, *, trace: bool = False
    ) -> tuple[Tokens, Taps]:
        x = self.model.stem(images).flatten(2).transpose(1, 2)
        return Tokens(x, 0, self.facts.grid), Taps({})

    def attend(self, index: int, tokens: Tokens, needs: Needs = Needs.NONE) -> tuple[Tensor, Taps]:
        q, k, v = self.model.qkv[index](tokens.x).unsqueeze(1).chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return self.model.out[index](out), Taps({"keys": k} if needs & Needs.KEYS else {})

    def feed(self, index: int, tokens: Tokens) -> Tensor:
        return self.model.down[index](F.gelu(self.model.up[index](tokens.x)))

    def readout(self, tokens: Tokens) -> Tensor:
        return self.model.head(tokens.x.mean(dim=1))


@pytest.fixture
def toy() -> Iterator[None]:
    """The family while a test runs: all that a package of somebody else's has to say."""

    @register_family("toy")
    class ToyFamily(Family):
        wraps = "somebody's ToyViT"

        def names(self) -> Sequence[str]:
            return ("toy_small",)

        def matches(self, asked: str | nn.Module) -> bool:
            return asked == "toy_small" or isinstance(asked, ToyViT)

        def load(self, asked: ModelRequest) -> Backbone:
            torch.manual_seed(5)
            model = ToyViT()
            if asked.checkpoint is not None:
                given, origin = read_state_dict(asked.checkpoint), str(asked.checkpoint)
                fit = checked_fit(model.state_dict(), given, origin=origin, name=asked.name)
                load_fitting(model, fit)
            return ToyBackbone(model, asked.name).eval()

        def structure(self, asked: ModelRequest, *, device: str = "meta") -> Backbone:
            with torch.device(device):
                return ToyBackbone(ToyViT(), asked.name).eval()

        def wrap(self, model: nn.Module) -> Backbone:
            assert isinstance(model, ToyViT)
            return ToyBackbone(model, "toy_small")

    yield
    FAMILIES.discard("toy")


CONFIG = CompressionConfig("random", (Reduction(1, num_keep=6),))


def images() -> Tensor:
    return torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.usefixtures("toy")
@pytest.mark.usefixtures("quick_files")
def test_a_registered_family_is_loaded_compressed_exported_and_loaded_again(tmp_path: Path) -> None:
    backbone = load_backbone("toy_small")
    with torch.no_grad():  # other weights than `load` would make again
        backbone.get_parameter("model.head.bias").add_(1.0)
    model = autotok.compress(backbone, CONFIG)
    bundle = Bundle(BackboneRef.of(backbone.facts), CONFIG, {})
    checks = save_bundle(tmp_path / "best", model, bundle, images(), formats=("onnx", "pt2"))
    assert [found["ok"] for found in checks["exports"].values()] == [True, True]
    again = load_bundle(tmp_path / "best")
    assert isinstance(again.backbone, ToyBackbone)
    assert torch.equal(again(images()), model(images()))


@pytest.mark.usefixtures("toy")
def test_the_listing_the_facts_and_the_cost_know_a_registered_family() -> None:
    assert known_backbones("toy*") == ["toy_small"]
    listed = CliRunner().invoke(app, ["backbones", "toy*", "--json"])
    assert json.loads(listed.output) == ["toy_small"]
    assert load_structure("toy_small").facts == backbone_facts("toy_small")
    # by hand: stem, two blocks (qkv, two products of attention, output, MLP) and the head
    n, c = PATCHES, WIDTH
    block = n * 3 * c * c + 2 * n * n * c + n * c * c + 2 * n * c * 2 * c
    expected = n * c * 3 * PATCH**2 + DEPTH * block + c * CLASSES
    assert cost(backbone_facts("toy_small"), CompressionConfig()).macs == expected


@pytest.mark.usefixtures("toy")
def test_a_model_object_of_a_registered_family_is_wrapped() -> None:
    assert isinstance(as_backbone(ToyViT()), ToyBackbone)


@pytest.mark.usefixtures("toy")
def test_what_a_family_does_not_have_is_said_for_it() -> None:
    with pytest.raises(ConfigError, match="takes images of 16 pixels, not 32"):
        load_backbone("toy_small", image_size=32)
    with pytest.raises(ConfigError, match="'toy_small' has no subnets"):
        load_backbone("toy_small", subnet=SubnetSpec(8, (1,), (2.0,)))
    with pytest.raises(UnknownName, match="did you mean 'toy_small'"):
        load_backbone("toy_smal")


def test_a_model_that_no_family_runs_is_refused_with_those_that_are_run() -> None:
    with pytest.raises(UnsupportedBackbone, match=r"class is ToyViT, adapters exist for .*timm's"):
        as_backbone(ToyViT())


def test_a_timm_model_that_is_no_vision_transformer_is_refused_before_its_weights_are_asked_for(
) -> None:  # fmt: skip
    with pytest.raises(UnsupportedBackbone, match="'resnet18' is not supported"):
        load_backbone("resnet18", checkpoint=Path("nowhere.pth"))
