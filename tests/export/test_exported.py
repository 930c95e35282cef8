"""Every method on both kinds of backbone survives export, and the file says the same as torch."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from exporting import autoformer, compressed, photos, racing
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.feature_net import FeatureNet, _create
from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ExportError, UnknownName
from autotok.export.exported import ExportResult, _judge, check_exportable, export_model
from autotok.export.formats import FORMATS
from autotok.methods.registry import get_method, list_methods, unmet_need

EXPORTABLE = [name for name in list_methods() if get_method(name).exportable]
QUICK = {"none", "sit", "tome"}
"""Exported in the default run; all others are slow."""


def vit() -> Backbone:
    return tiny_backbone(3)


MAKERS: dict[str, Callable[[], Backbone]] = {"vit": vit, "autoformer": autoformer}
FORMS = [("vit", "open"), ("autoformer", "fixed")]
"""Family, and the batch of the file: every method in these two, of which the other two take longer,
the quick ones in all four."""


def cells() -> Iterator[object]:
    for name, *form in itertools.product(EXPORTABLE, MAKERS, ("fixed", "open")):
        if name in QUICK or tuple(form) in FORMS:
            quick = name in QUICK and tuple(form) == ("vit", "fixed")
            marks = [] if quick else [pytest.mark.slow]
            yield pytest.param(name, *form, marks=marks, id="-".join([name, *form]))


@pytest.mark.parametrize(("name", "family", "batch"), list(cells()))
def test_every_exportable_method_gives_the_same_logits_in_onnxruntime(
    tmp_path: Path, name: str, family: str, batch: str
) -> None:
    model, path = compressed(name, MAKERS[family]()), tmp_path / "model.onnx"
    result = export_model(model, path, photos(4), dynamic_batch=batch == "open")
    assert (result.exporter, result.notes) == ("dynamo", ())
    assert result.batch == ("dynamic" if batch == "open" else 1)
    assert result.max_abs_diff < 1e-4
    assert result.same_argmax
    assert result.risky_operators == ()
    assert result.num_images == 4
    assert racing(path) == []
    assert not list(tmp_path.glob(".*"))
    for size in (3, 1) if batch == "open" else ():
        with torch.inference_mode():
            expected = model(photos(size))
        found = FORMATS.get("onnx").run(path, photos(size), size)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "name", [n for n in list_methods() if unmet_need(get_method(n), autoformer().facts) is None]
)
def test_what_a_method_does_hangs_on_no_rounding_that_runtimes_differ_in(name: str) -> None:
    images = torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    single, double = (compressed(name, make) for make in (autoformer(), autoformer().double()))
    double.double().load_state_dict(single.state_dict())
    with torch.inference_mode():
        expected = double(images.double())
        torch.testing.assert_close(single(images).double(), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_the_network_that_a_method_looks_at_images_with_is_in_the_file(tmp_path: Path) -> None:
    network = _create("resnet18").eval()
    backbone = TimmViT(tiny_vit(image_size=128, patch_size=16), name="tiny128")
    model = compress_backbone(backbone, CompressionConfig("papr", (Reduction(0, num_keep=40),)))
    next(iter(model.reducers.values())).network = FeatureNet("resnet18", network)
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    result = export_model(model, tmp_path / "model.onnx", images)
    assert (result.exporter, result.same_argmax) == ("dynamo", True)
    assert result.max_abs_diff < 1e-3
    assert result.size_mb > 40  # the network's own weights


@pytest.mark.parametrize("format", ["pt2", "torchscript"])
@pytest.mark.parametrize("make", [tiny_backbone, pytest.param(autoformer, marks=pytest.mark.slow)])
def test_torchs_own_formats_give_the_same_logits(
    tmp_path: Path, format: str, make: Callable[[], Backbone]
) -> None:
    path = tmp_path / "model.bin"
    result = export_model(compressed("tome", make()), path, photos(), format=format)
    assert path.stat().st_size == pytest.approx(1e6 * result.size_mb, abs=1e3)
    assert result.max_abs_diff < 1e-4
    assert sum(result.operators.values()) > 50


def test_a_file_that_disagrees_is_refused_and_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(path: Path, images: Tensor, batch: int) -> Tensor:
        return torch.arange(10.0).repeat(len(images), 1)

    monkeypatch.setattr(FORMATS.get("torchscript"), "run", wrong)
    model, path = compressed("none", tiny_backbone()), tmp_path / "model.pt"
    with pytest.raises(ExportError, match="disagrees with torch: largest difference"):
        export_model(model, path, photos(), format="torchscript")
    assert not path.exists()
    result = export_model(model, path, photos(), format="torchscript", strict=False)
    assert not result.ok
    assert path.exists()


def test_exporting_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = compressed("tome", tiny_backbone()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_model(model, tmp_path / "model.pt", photos(), format="torchscript")
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_method_that_cannot_be_exported_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(get_method("topk"), "exportable", False)
    with pytest.raises(ExportError, match="method 'topk' cannot be exported"):
        check_exportable("topk")


def test_an_unknown_format_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'onnx'"):
        check_exportable("none", "onx")


def test_export_without_images_to_check_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="at least 1 image"):
        export_model(tiny_backbone(), tmp_path / "m.onnx", photos(0))


def test_images_that_fill_up_the_last_batch_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(path: Path, images: Tensor, batch: int) -> Tensor:
        assert (len(images), batch) == (4, 2)
        wrong = (images == photos(3)[0]).flatten(1).all(dim=1)
        return torch.where(wrong[:, None], -1.0, 1.0) * model(images)

    model = tiny_backbone(1)
    monkeypatch.setattr(FORMATS.get("torchscript"), "run", run)
    how = {"format": "torchscript", "batch": 2, "checked_on": "random images"}
    result = export_model(model, tmp_path / "m.pt", photos(3), strict=False, **how)
    assert (result.num_images, result.agreement_pct) == (3, 66.67)
    with pytest.raises(ExportError, match="first choice different over 3 random images;"):
        export_model(model, tmp_path / "m.pt", photos(3), **how)


def test_a_model_on_a_knife_edge_is_told_from_a_wrong_file() -> None:
    wrong = ExportResult(
        path="model.onnx", format="onnx", exporter="dynamo", runtime="onnxruntime", batch=1,
        input_shape=(1, 3, 32, 32), size_mb=1.0, max_abs_diff=1.7, max_rel_diff=0.4,
        same_argmax=False, num_images=4, ok=False, operators={}, own_sensitivity=1e-5,
    )  # fmt: skip
    with pytest.raises(ExportError, match="try another --format or report it"):
        _judge(wrong, strict=True)
    edge = dataclasses.replace(wrong, own_sensitivity=1.2)
    with pytest.raises(ExportError, match="hangs on rounding here, so judge the file by its"):
        _judge(edge, strict=True)
