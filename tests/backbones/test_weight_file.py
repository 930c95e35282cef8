"""A weight file is believed only as far as its bytes go, and runs nothing."""

import argparse
import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autotok.backbones.checkpoint import read_state_dict
from autotok.errors import CheckpointError


def saved(folder: Path, data: object, *, legacy: bool = False) -> Path:
    path = folder / "weights.pth"
    torch.save(data, path, _use_new_zipfile_serialization=not legacy)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_state_dict(path)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


ODD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "one value, claimed 10^12 times": (
        lambda: torch.zeros(1).expand(10**6, 10**6), "far more values than the file stores"),
    "one value, claimed 12 times": (
        lambda: torch.zeros(1).expand(3, 4), "far more values than the file stores"),
    "overlapping rows": (
        lambda: torch.zeros(200).as_strided((90, 90), (1, 1)), "far more values than the file"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "is a sparse or nested tensor"),
    "sparse, of any size": (
        lambda: torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (2**40, 2**20)),
        "is a sparse or nested tensor"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantized"),
    "meta": (lambda: torch.empty(3, device="meta"), "has no values for 'w'"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "complex64 values"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # some of these are in beta
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("word", ODD)
def test_a_tensor_whose_values_are_not_in_the_file_is_refused(
    word: str, legacy: bool, tmp_path: Path
) -> None:
    make, words = ODD[word]
    assert words in refusal(saved(tmp_path, {"model": {"w": make()}}, legacy=legacy))


def test_one_tensor_under_many_names_does_not_add_up_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tied = torch.zeros(1000)
    path = saved(tmp_path, {f"w{i}": tied for i in range(100)})
    assert len(read_state_dict(path)) == 100
    monkeypatch.setattr("autotok.backbones.weight_file.MAX_BYTES", 100_000)
    assert "save each tensor once" in refusal(path)


def test_a_compressed_archive_is_refused_before_it_grows(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"w": torch.zeros(2**22)}, whole)  # 16 MB of zeros
    path = tmp_path / "small.pth"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    assert path.stat().st_size < 2**17
    assert "compressed archive that would grow to 16 MB" in refusal(path)


@pytest.mark.parametrize("claimed", [100, 60_000])
def test_a_tensor_that_claims_more_than_its_record_is_refused(claimed: int, tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"w": torch.zeros(3000), "x": torch.zeros(50)}, whole)
    path = tmp_path / "claims.pth"
    wrong = b"M" + struct.pack("<H", claimed)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for part in old.infolist():
            content = old.read(part)
            if part.filename.endswith("data.pkl"):
                assert content.count(b"K2") == 2  # 50: of the storage and of the shape
                content = content.replace(b"K2", wrong)
            new.writestr(part.filename, content)
    refusal(path)


class Marker:
    """An object whose pickle would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
def test_nothing_that_a_file_names_is_run_and_its_class_is_told(
    legacy: bool, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    path = saved(tmp_path, {"w": torch.ones(2), "args": Marker(touched)}, legacy=legacy)
    assert "it holds a 'io.open' object" in refusal(path)
    assert not touched.exists()


def test_settings_beside_the_weights_are_stand_ins_not_objects(tmp_path: Path) -> None:
    created: list[object] = []
    allowed = torch.serialization.get_safe_globals()

    class Namespace(argparse.Namespace):
        def __setstate__(self, state: object) -> None:
            created.append(state)

    Namespace.__module__, Namespace.__qualname__ = "argparse", "Namespace"
    original = argparse.Namespace
    argparse.Namespace = Namespace  # type: ignore[misc]
    try:
        path = saved(tmp_path, {"model": {"w": torch.ones(2)}, "args": Namespace(lr=0.1)})
        assert read_state_dict(path)["w"].tolist() == [1.0, 1.0]
    finally:
        argparse.Namespace = original  # type: ignore[misc]
    assert created == []
    assert set(torch.serialization.get_safe_globals()) == set(allowed)  # nothing stays so


def test_a_pickle_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.pth"
    deep = b"\x80\x02" + b"}X\x05\x00\x00\x00model" * 50_000 + b"}" + b"s" * 50_000 + b"."
    whole = io.BytesIO()
    torch.save({"w": torch.zeros(1)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for part in old.infolist():
            inner = part.filename.endswith("data.pkl")
            new.writestr(part.filename, deep if inner else old.read(part))
    assert "nested deeper than 8 levels" in refusal(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([torch.ones(1)], "holds a list"),
        ({"a": {"w": torch.ones(1)}, "epoch": 3}, "holds no tensors but 'a', 'epoch'"),
        ({}, "holds no tensors"),
        ({"model": None}, "holds no tensors but 'model'"),
    ],
)
def test_what_is_no_state_dict_says_what_it_is(data: object, words: str, tmp_path: Path) -> None:
    assert words in refusal(saved(tmp_path, data))


def test_a_plain_pickle_is_no_weight_file(tmp_path: Path) -> None:
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(OrderedDict(w=[1.0, 2.0])))
    refusal(path)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"backbone": 1', '{"spec": [[]]}'])
def test_nested_or_broken_metadata_of_a_supernet_is_damage(text: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from autotok.backbones.autoformer_family import CUSTOM
    from autotok.backbones.loading import load_backbone

    path = tmp_path / "supernet.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata={"autotok_autoformer": text})
    with pytest.raises(CheckpointError, match="is damaged"):
        load_backbone(CUSTOM, checkpoint=path)
