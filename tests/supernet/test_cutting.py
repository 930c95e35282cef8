"""A subnet cut to a file is the subnet, and the file knows which one it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_supernet import SPEC

from autotok.backbones.autoformer import AutoFormer
from autotok.backbones.autoformer_family import load_supernet
from autotok.backbones.demo import DEMO_SUBNET, load_demo_supernet
from autotok.backbones.loading import load_backbone
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.backbones.supernet_file import save_cut
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.errors import CheckpointError, ExportError
from autotok.evaluation.demo import DemoDigits
from autotok.supernet.cutting import cut_to_file, largest_difference
from autotok.supernet.sampling import sample_uniform

NAME = "autoformer_custom"


@pytest.fixture
def supernet() -> AutoFormerSupernet:
    torch.manual_seed(0)
    net = AutoFormerSupernet(SPEC)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def test_twenty_random_subnets_read_back_equal_their_views(
    supernet: AutoFormerSupernet, tmp_path: Path
) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "cut.safetensors"
    images = torch.randn(3, 1, 8, 8)
    for _ in range(20):
        view = SupernetView(supernet, sample_uniform(SPEC, rng), name=NAME)
        assert cut_to_file(view, path, images) <= 1e-6
        again = load_backbone(NAME, checkpoint=path)
        assert isinstance(again, AutoFormer)
        assert again.subnet == view.subnet
        assert again.facts == view.facts
        assert sum(p.numel() for p in again.parameters()) == view.facts.params
        assert largest_difference(again, view, images) <= 1e-6


@pytest.mark.slow
def test_the_demos_default_cut_to_a_file_is_the_demo(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    view = SupernetView(load_demo_supernet(), DEMO_SUBNET, name="autoformer_demo")
    images = DemoDigits("val", 1)[0][0][None]
    assert cut_to_file(view, path, images) <= 1e-6
    again = load_backbone("autoformer_demo", checkpoint=path)
    with torch.inference_mode():
        torch.testing.assert_close(again(images), view.eval()(images), atol=1e-5, rtol=1e-5)


def test_a_cut_that_differs_is_not_left_behind(
    supernet: AutoFormerSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = SupernetView(supernet, SPEC.largest(), name=NAME)
    other = supernet.cut(SPEC.largest(), name=NAME)
    torch.nn.init.ones_(other.head.weight)
    monkeypatch.setattr(AutoFormerSupernet, "cut", lambda *a, **k: other)
    with pytest.raises(ExportError, match="differs from the supernet's view"):
        cut_to_file(view, tmp_path / "cut.safetensors", torch.randn(1, 1, 8, 8))
    assert not (tmp_path / "cut.safetensors").exists()


def test_a_cut_file_is_refused_as_another_subnet_backbone_or_supernet(
    supernet: AutoFormerSupernet, tmp_path: Path
) -> None:
    path = tmp_path / "cut.safetensors"
    save_cut(supernet.cut(SPEC.smallest(), name=NAME), path, name=NAME)
    assert load_backbone(NAME, checkpoint=path, subnet=SPEC.smallest()).facts.num_blocks == 1
    with pytest.raises(CheckpointError, match="holds another subnet"):
        load_backbone(NAME, checkpoint=path, subnet=SPEC.largest())
    with pytest.raises(CheckpointError, match="ask for --backbone autoformer_custom"):
        load_backbone("autoformer_demo", checkpoint=path)
    with pytest.raises(CheckpointError, match="not the supernet"):
        load_supernet(NAME, path)


def test_a_view_of_any_subnet_can_be_compressed(supernet: AutoFormerSupernet) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        subnet = sample_uniform(SPEC, rng)
        view = SupernetView(supernet, subnet, name=NAME).eval()
        last = view.facts.num_blocks - 1
        config = CompressionConfig("tome", (Reduction(last, num_keep=3),), subnet=subnet)
        model = compress_backbone(view, config)
        assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)
        assert model.schedule.kept[-1] == 3
