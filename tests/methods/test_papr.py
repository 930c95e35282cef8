"""PaPr: a feature map, enlarged to the grid, says which patches stay."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hand import reducer
from torch import Tensor, nn
from torch.nn import functional as F

import autotok
from autotok.backbones.feature_net import _create
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost, uncompressed
from autotok.errors import CheckpointError, ConfigError, IncompatibleMethod
from autotok.methods.papr import PaPr
from autotok.methods.registry import check_compatible
from autotok.predicting.trace import trace
from autotok.searching.running.question import Question
from autotok.searching.running.session import build_problem
from autotok.tokens import Taps, Tokens


class Corners(nn.Module):
    """A map of 2 x 2 whose channels average to 0, 1, 2 and 4."""

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
        return torch.stack([mean - 1.0, mean + 1.0]).expand(x.shape[0], -1, -1, -1)


def made() -> PaPr:
    new = reducer("papr", entering=15, keep=2, layer=0)
    assert isinstance(new, PaPr)
    new.network = Corners()
    return new


def fifteen() -> Tokens:
    return Tokens(torch.arange(-1.0, 15.0).reshape(1, 16, 1), 1, (3, 5))


IMAGE = Taps({"image": torch.zeros(1, 3, 24, 40)})


def test_the_patches_under_the_highest_activity_stay_by_falling_score() -> None:
    out = made().reduce(fifteen(), IMAGE, 2)
    assert out.patches.flatten().tolist() == [14.0, 13.0]  # the corner at the bottom right


def test_it_looks_before_anything_is_embedded() -> None:
    config = CompressionConfig("papr", (Reduction(0, num_keep=8),))
    found = trace(compress_backbone(tiny_backbone(), config), batch=2)
    names = [operator.name for operator in found.operators]
    looked = names.index("upsample_bicubic2d")
    inputs = [found.operators[i].inputs[0] for i, name in enumerate(names) if name == "convolution"]
    assert names.count("convolution") == len([n for n in names[:looked] if n == "convolution"]) + 1
    assert inputs[0] == inputs[-1] == (2, 3, 32, 32)  # the stem's first, the patch embedding last


def test_corners_of_map_and_grid_are_aligned() -> None:
    scores = made().scores(IMAGE.image).reshape(3, 5)
    corners = [scores[0, 0], scores[0, 4], scores[2, 0], scores[2, 4]]
    torch.testing.assert_close(torch.stack(corners), torch.tensor([0.0, 1.0, 2.0, 4.0]))
    other = F.interpolate(
        torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]]), size=(3, 5), mode="bicubic", align_corners=False
    )
    assert not torch.allclose(scores, other[0, 0])


def test_without_its_network_it_says_what_is_missing() -> None:
    new = reducer("papr", entering=15, keep=2, layer=0)
    with pytest.raises(ConfigError, match="needs its proxy network"):
        new.reduce(fifteen(), IMAGE, 2)


def test_the_network_is_no_part_of_the_compressed_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = _create("mobilenetv3_small_100")
    torch.save(network.state_dict(), tmp_path / "mobilenetv3_small_100.pth")
    monkeypatch.setenv("AUTOTOK_WEIGHTS", str(tmp_path))
    options = {"proxy": "mobilenetv3_small_100"}
    config = CompressionConfig("papr", (Reduction(0, num_keep=8),), options)
    model = compress_backbone(tiny_backbone(), config).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(images)
        doubled = model.double()(images.double())
    torch.testing.assert_close(logits.double(), doubled, atol=1e-4, rtol=0.0)
    assert not [key for key in model.state_dict() if "network" in key]
    model.load_state_dict(model.state_dict())


def test_the_network_is_in_the_cost() -> None:
    facts = tiny_backbone().facts
    config = CompressionConfig("papr", (Reduction(0, num_keep=8),))
    found, small = cost(facts, config), uncompressed(facts)
    assert found.macs > small.macs
    assert found.params > small.params


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AUTOTOK_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("offline")
def test_a_network_that_cannot_be_had_is_found_out_when_compressing() -> None:
    with pytest.raises(CheckpointError, match=r"'mobileone_s0' .* AUTOTOK_WEIGHTS") as caught:
        autotok.compress(tiny_vit(), method="papr", keep={0: 0.5})
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_a_search_finds_it_out_before_the_first_trial(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("version: 1\nmethods: [papr]\noptions: {papr: {proxy: [resnet18]}}\n")
    question = Question(backbone="tiny", data="digits", budgets=("60%",), space=str(space))
    with pytest.raises(CheckpointError, match=r"'resnet18' .* AUTOTOK_WEIGHTS"):
        build_problem(question, tiny_vit())


@pytest.mark.usefixtures("offline")
def test_without_weights_it_is_counted_and_traced() -> None:
    model = autotok.compress(tiny_vit(), method="papr", keep={0: 0.5}, untrained=True)
    assert count_macs(model) == autotok.macs(model).macs
    traced = trace(model, batch=2, dtype=torch.float16)
    names = [operator.name for operator in traced.operators]
    assert names.count("convolution") > 10
    assert len(names) < 1000  # building the network is no part of running it
    assert traced.weight_bytes > 2 * autotok.macs(tiny_vit()).params


def test_images_of_other_channels_are_refused_in_a_sentence() -> None:
    facts = dataclasses.replace(tiny_backbone().facts, image_shape=(4, 32, 32))
    with pytest.raises(IncompatibleMethod, match="needs images of one channel or three colours"):
        check_compatible(PaPr, facts)
