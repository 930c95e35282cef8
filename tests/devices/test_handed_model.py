"""A model in two parts: weights in a file that any safetensors reader opens, the rest as bytes."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from autotok.backbones.tiny import tiny_backbone
from autotok.devices import handed_model
from autotok.devices.handed_model import put_together, take_apart


class Knotted(nn.Module):
    """Every way in which a module may hold tensors."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.arange(6.0).reshape(2, 3).T, requires_grad=False)
        self.register_buffer("scale", self.frozen.data[1])  # looks into another's memory
        self.loose = [torch.tensor([1, 2]), torch.tensor(True), torch.empty(0, 4)]
        self.shapeless = torch.empty(2, 2, device="meta")


def test_what_is_put_together_is_what_was_taken_apart(tmp_path: Path) -> None:
    model = Knotted()
    again = put_together(take_apart(model, tmp_path / "weights"), tmp_path / "weights")
    assert again.second.weight is again.first.weight
    assert isinstance(again.first.weight, nn.Parameter)
    assert (again.first.weight.requires_grad, again.frozen.requires_grad) == (True, False)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    for one, other in zip(again.loose, model.loose, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert again.shapeless.is_meta
    again.frozen.data.zero_()
    assert again.scale.abs().sum() == 0  # it is the same memory still


def test_the_file_holds_tensors_alone_and_the_bytes_none(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    rest = take_apart(backbone, tmp_path / "weights")
    stored = sum(value.nbytes for value in load_file(tmp_path / "weights").values())
    held = {t.data_ptr(): t.untyped_storage().nbytes() for t in backbone.state_dict().values()}
    assert stored >= sum(held.values())
    assert len(rest) < stored / 4
    assert b"autotok" in rest
    assert b"autotok" not in (tmp_path / "weights").read_bytes()


def test_weights_are_mapped_from_the_file_or_read_where_its_name_cannot_be_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, path = tiny_backbone(), tmp_path / "weights"
    rest = take_apart(backbone, path)
    mapped = put_together(rest, path)
    if sys.platform == "linux":
        assert str(path) in Path("/proc/self/maps").read_text("utf-8")

    def unspeakable(path: Path) -> None:
        raise UnicodeEncodeError("ascii", "\xfc", 0, 1, "no such letter")

    monkeypatch.setattr(handed_model, "load_file", unspeakable)
    read = put_together(rest, path)
    for name, value in backbone.state_dict().items():
        assert torch.equal(mapped.state_dict()[name], value)
        assert torch.equal(read.state_dict()[name], value)
