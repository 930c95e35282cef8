"""PaPr: a feature map, enlarged to the grid, says which patches stay."""

from pathlib import Path

import pytest
import torch
from hand import reducer
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.backbones.feature_net import _create
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError
from autotok.methods.papr import PaPr
from autotok.profiling.macs import cost, uncompressed
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
