"""Proxy networks: features, cost, and weights that are given or asked for, never made up."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import autotok.methods  # noqa: F401
from autotok.backbones.feature_net import (
    FeatureNet,
    _create,
    feature_net_cost,
    feature_net_structure,
    load_feature_net,
)
from autotok.backbones.loading import load_structure
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.errors import CheckpointError, UnknownName
from autotok.predicting import trace as traces
from autotok.predicting.trace import trace


def saved(folder: Path, name: str = "mobileone_s0") -> Path:
    torch.manual_seed(0)
    path = folder / f"{name}.pth"
    torch.save(_create(name).state_dict(), path)
    return path


def test_features_are_those_of_the_network_before_pooling(tmp_path: Path) -> None:
    path = saved(tmp_path)
    reference = _create("mobileone_s0").eval()
    reference.load_state_dict(torch.load(path, weights_only=True))
    net = load_feature_net("mobileone_s0", checkpoint=path)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference.forward_features(images)
    assert net(images).shape == (1, 1024, 2, 2)
    torch.testing.assert_close(net(images), expected, atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("name", ["mobileone_s0", "resnet18", "resnet50", "mobilenetv3_small_100"])
def test_running_block_by_block_changes_no_feature(name: str) -> None:
    torch.manual_seed(0)
    model = _create(name).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_features(images)
    assert torch.equal(FeatureNet(name, model)(images), expected)


def test_the_largest_map_is_freed_before_the_later_stages_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, freed = [0], []  # operators so far, and how many there were when so many bytes went
    operator, remove = traces._operator, traces.LiveBytes.remove

    def counted(*args: Any, **kwargs: Any) -> traces.Operator:
        done[0] += 1
        return operator(*args, **kwargs)

    def noted(memory: traces.LiveBytes, key: int, size: int) -> None:
        freed.append((size, done[0]))
        remove(memory, key, size)

    monkeypatch.setattr(traces, "_operator", counted)
    monkeypatch.setattr(traces.LiveBytes, "remove", noted)
    config = CompressionConfig(method="papr", reductions=(Reduction(0, num_keep=98),))
    model = compress_backbone(load_structure("vit_small_patch16_224"), config)
    found = trace(model, batch=2)
    stem = [after for size, after in freed if size == 4 * 2 * 48 * 112 * 112]
    assert len(stem) == 1
    readers = [i for i, o in enumerate(found.operators) if (2, 48, 112, 112) in o.inputs]
    assert stem[0] <= readers[-1] + 2  # the activation of the block that reads it


def test_a_folder_of_weights_is_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, "resnet18")
    monkeypatch.setenv("AUTOTOK_WEIGHTS", str(tmp_path))
    assert load_feature_net("resnet18")(torch.zeros(1, 3, 64, 64)).shape == (1, 512, 2, 2)


def test_a_grey_image_is_shown_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "resnet18")
    monkeypatch.setenv("AUTOTOK_WEIGHTS", str(tmp_path))
    network = load_feature_net("resnet18")
    grey = torch.rand(2, 1, 64, 64)
    assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route")

    monkeypatch.delenv("AUTOTOK_WEIGHTS", raising=False)
    monkeypatch.setattr("timm.create_model", offline)
    monkeypatch.setattr("autotok.backbones.feature_net._check_name", lambda name: None)
    monkeypatch.setattr("autotok.backbones.hub.hub_answers", lambda: False)
    with pytest.raises(CheckpointError, match=r"could not be fetched .*AUTOTOK_WEIGHTS"):
        load_feature_net("resnet18")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "resnet18")
    with pytest.raises(CheckpointError, match="does not fit proxy network 'resnet34'"):
        load_feature_net("resnet34", checkpoint=path)


@pytest.mark.parametrize("name", ["resnet", "vit_tiny_patch16_224", "resnet18.nonsense"])
def test_what_gives_no_feature_map_is_refused(name: str) -> None:
    with pytest.raises(UnknownName, match="proxy network"):
        feature_net_structure(name)


def test_the_cost_of_a_known_network_is_its_published_one() -> None:
    macs, params = feature_net_cost("resnet18", (3, 224, 224))
    assert macs == 1_813_561_344  # 1.81 G, the classifier's 512 000 left out
    assert params == 11_689_512 - 513_000


def test_a_named_network_is_loaded_at_the_first_image() -> None:
    net = FeatureNet("resnet18")
    assert net(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 512, 2, 2)
    assert list(net.parameters()) == []


def test_a_loaded_network_still_shows_its_shapes_alone(tmp_path: Path) -> None:
    net = load_feature_net("resnet18", checkpoint=saved(tmp_path, "resnet18"))
    before = net(torch.ones(1, 3, 64, 64))
    assert net(torch.empty(2, 3, 64, 64, device="meta")).is_meta
    assert torch.equal(net(torch.ones(1, 3, 64, 64)), before)


def test_shapes_alone_are_of_the_precision_asked_for() -> None:
    net = FeatureNet("resnet18")
    inside = net.to_structure(torch.float16)
    assert {p.dtype for p in inside.parameters()} == {torch.float16}
    assert {p.dtype for p in FeatureNet("resnet18").to_structure().parameters()} == {torch.float32}


def test_a_folder_of_weights_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTOK_WEIGHTS", str(tmp_path / "mistyped"))
    with pytest.raises(CheckpointError, match="mistyped', which AUTOTOK_WEIGHTS names"):
        load_feature_net("mobileone_s0")


def test_a_replica_on_another_device_uses_a_network_that_is_there(tmp_path: Path) -> None:
    net = load_feature_net("mobileone_s0", checkpoint=saved(tmp_path))
    here, there = torch.zeros(1), SimpleNamespace(device=torch.device("meta"), is_meta=False)
    replica = net._replicate_for_data_parallel()
    moved = replica.inside(there)
    assert {p.device for p in moved.parameters()} == {there.device}
    assert net._replicate_for_data_parallel().inside(there) is moved  # copied once, not each batch
    assert replica.inside(here) is net.inside(here) is net.inside()
    net.double()
    assert next(net.inside(there).parameters()).dtype == torch.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replica_on_a_gpu_gives_the_features_of_the_processor(tmp_path: Path) -> None:
    net = load_feature_net("mobileone_s0", checkpoint=saved(tmp_path))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = net._replicate_for_data_parallel()(images.cuda()).cpu()
    torch.testing.assert_close(found, net(images), atol=1e-3, rtol=1e-2)
