"""A configuration is read with the weights that it was written with, or not at all."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from exporting import CONFIG, compressed, images, made
from safetensors.torch import load_file, save_file

from autotok.backbones.loading import as_backbone, load_backbone
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.calibrate import calibrated
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.errors import CheckpointError, IncompatibleMethod
from autotok.export.best_yaml import BackboneRef, Bundle, read_best, write_best
from autotok.export.bundle import bundle_structure, load_bundle, load_uncompressed, save_bundle
from autotok.export.weights import fingerprint


def handed_over(folder: Path, model: CompressedViT, bundle: Bundle) -> Path:
    """The best.yaml of a run, its folder beside it."""
    save_bundle(folder / "best", model, bundle, images(), formats=())
    return write_best(folder / "best.yaml", bundle)


def edited(path: Path, **changes: object) -> Path:
    """The YAML with other entries; None takes one out."""
    data = {**yaml.safe_load(path.read_text()), **changes}
    path.write_text(yaml.safe_dump({k: v for k, v in data.items() if v is not None}))
    return path


@torch.inference_mode()
def test_a_renamed_configuration_finds_the_weights_that_it_names(tmp_path: Path) -> None:
    model, bundle = made()
    copy = shutil.copy(handed_over(tmp_path, model, bundle), tmp_path / "mine.yaml")
    assert torch.equal(load_bundle(copy)(images()), model(images()))


@torch.inference_mode()
def test_alone_it_is_read_only_where_the_backbones_own_weights_are_the_same(tmp_path: Path) -> None:
    model, bundle = made()  # of a model object whose weights its name does not lead to
    alone = tmp_path / "best.yaml"
    shutil.copy(handed_over(tmp_path / "run", model, bundle), alone)
    with pytest.raises(
        CheckpointError, match=r"best/weights.safetensors', which are not here, and"
    ):
        load_bundle(alone)
    with pytest.raises(CheckpointError, match="those of backbone 'tiny' are others"):
        load_uncompressed(alone)
    again = tmp_path / "run" / "best" / "weights.safetensors"
    assert torch.equal(load_bundle(alone, checkpoint=again)(images()), model(images()))
    plain = compress_backbone(tiny_backbone(), CONFIG).eval()
    shutil.copy(handed_over(tmp_path / "plain", plain, bundle), alone)
    assert torch.equal(load_bundle(alone)(images()), plain(images()))


@torch.inference_mode()
def test_what_an_earlier_version_wrote_is_read_as_before(tmp_path: Path) -> None:
    path = edited(handed_over(tmp_path, *made()), weights=None)
    alone = shutil.copy(path, tmp_path / "alone.yaml")
    assert torch.equal(load_bundle(path)(images()), made()[0](images()))
    plain = compress_backbone(tiny_backbone(), CONFIG)
    assert torch.equal(load_bundle(alone)(images()), plain(images()))


def test_replaced_weights_of_a_plug_in_are_refused(tmp_path: Path) -> None:
    path = handed_over(tmp_path, *made())
    save_file(tiny_vit(seed=1).state_dict(), tmp_path / "best" / "weights.safetensors")
    for given in (path, path.parent / "best"):
        with pytest.raises(
            CheckpointError, match=r"another sha256.*give weights with --checkpoint"
        ):
            load_bundle(given)


@torch.inference_mode()
def test_a_replaced_checkpoint_is_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    save_file(tiny_vit(seed=1).state_dict(), file)
    ref = BackboneRef.of(tiny_backbone().facts, checkpoint=file)
    path = write_best(tmp_path / "best.yaml", Bundle(ref, CONFIG, {}))
    before = load_bundle(path)(images())
    save_file(tiny_vit(seed=2).state_dict(), file)
    for load in (load_bundle, load_uncompressed):
        with pytest.raises(
            CheckpointError, match=r"own.safetensors' is not the file that '.*sha256"
        ):
            load(path)
    other = load_bundle(path, checkpoint=file)
    assert not torch.equal(other(images()), before)
    before = compress_backbone(load_backbone("tiny", checkpoint=file), CONFIG)(images())
    assert torch.equal(other(images()), before)


def test_a_fingerprint_tells_weights_apart_but_not_their_last_digits(tmp_path: Path) -> None:
    path, own = tmp_path / "w.safetensors", as_backbone(tiny_vit()).weights.state_dict()
    first, second = (n for n in own if n.endswith("mlp.fc1.weight") and n[7] in "01")

    def moved(changes: dict[str, torch.Tensor]) -> float:
        save_file({**own, **changes}, path)
        found = fingerprint(path)
        return max(abs(a - b) for a, b in zip(found, base, strict=True)) / base[0]

    save_file(own, path)
    base = fingerprint(path)
    assert moved({first: own[first] * (1 + 1e-6)}) < 1e-5
    assert moved({first: own[first] * (1 + 1e-2)}) > 1e-5
    assert moved({first: own[second].clone(), second: own[first].clone()}) > 1e-3


# --- parameters of methods


def learned(folder: Path) -> tuple[CompressedViT, Path]:
    """A model whose method has parameters that seem trained, and its best.yaml."""
    model = compressed("dynamicvit", tiny_backbone()).eval()
    ref = BackboneRef.of(model.backbone.facts, name="tiny")
    return model, handed_over(folder, model, Bundle(ref, model.config, {}))


def test_lost_parameters_of_a_method_are_missed(tmp_path: Path) -> None:
    model, path = learned(tmp_path)
    with torch.inference_mode():
        assert torch.equal(load_bundle(path)(images()), model(images()))
    (tmp_path / "best" / "reducers.safetensors").unlink()
    for given in (path, edited(path, weights=None)):
        with pytest.raises(CheckpointError, match=r"reducers.safetensors'.* not here"):
            load_bundle(given)


def test_parameters_that_start_as_published_are_missed_where_they_were_written(
    tmp_path: Path,
) -> None:
    config = CompressionConfig("sit", (Reduction(1, num_keep=9),))
    model = compress_backbone(tiny_backbone(), config).eval()
    ref = BackboneRef.of(model.backbone.facts, name="tiny")
    path = handed_over(tmp_path / "run", model, Bundle(ref, config, {}))
    assert [item.file for item in read_best(path).weights][1:] == ["best/reducers.safetensors"]
    assert load_file(path.parent / "best" / "reducers.safetensors")
    alone = shutil.copy(path, tmp_path / "alone.yaml")
    with pytest.raises(CheckpointError, match="the parameters of method 'sit', is not here"):
        load_bundle(alone)


def test_a_method_that_nobody_trained_is_refused_in_a_file_too(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, method="dynamicvit")
    bundle = Bundle(BackboneRef.of(tiny_backbone().facts), config, {})
    path = write_best(tmp_path / "best.yaml", bundle)
    with pytest.raises(
        IncompatibleMethod, match="'dynamicvit' has parameters that must be trained"
    ):
        load_bundle(path)
    assert bundle_structure(path).config == config  # to be counted
    assert load_uncompressed(path).facts == tiny_backbone().facts  # to be fine-tuned


@torch.inference_mode()
def test_thresholds_that_the_configuration_says_need_no_file(tmp_path: Path) -> None:
    amounts = CompressionConfig("ltmp", (Reduction(1, num_keep=10),))
    model = calibrated(compress_backbone(tiny_backbone(), amounts), images()).eval()
    bundle = Bundle(BackboneRef.of(model.backbone.facts), model.config, {})
    alone = tmp_path / "best.yaml"
    shutil.copy(handed_over(tmp_path / "run", model, bundle), alone)
    assert torch.equal(load_bundle(alone)(images()), model(images()))
