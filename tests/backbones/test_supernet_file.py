"""Files of supernets and of subnets cut from them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autotok.backbones.demo import DEMO_SPEC, DEMO_SUBNET
from autotok.backbones.supernet import AutoFormerSupernet
from autotok.backbones.supernet_file import read_origin, save_supernet
from autotok.errors import CheckpointError


def test_a_file_with_a_broken_description_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    tensors = {"a": torch.zeros(1)}
    for text in ("{", "{}", '{"backbone": "x", "spec": {"depth": "a"}, "subnet": {}}'):
        save_file(tensors, path, metadata={"autotok_autoformer": text})
        with pytest.raises(CheckpointError, match="is damaged") as caught:
            read_origin(path)
        assert "\n" not in str(caught.value)
    save_file(tensors, path)
    assert read_origin(path) is None


def test_a_supernet_file_keeps_shapes_choices_pooling_and_default(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    net = AutoFormerSupernet(DEMO_SPEC)
    save_supernet(net, path, default=DEMO_SUBNET)
    origin = read_origin(path)
    assert origin is not None
    assert (origin.backbone, origin.spec) == ("autoformer_demo", DEMO_SPEC)
    assert origin.subnet == DEMO_SUBNET
