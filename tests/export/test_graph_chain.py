"""Files of a model that stops early: checked part by part, stopped as torch stops, run alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from early import early_model, images
from exporting import photos
from PIL import Image
from test_graph_parts import two_pass

import autotok
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.exit_rules import first_exits
from autotok.compression.exit_scores import score_exits
from autotok.compression.model import CompressedViT
from autotok.config import Reduction
from autotok.errors import ExportError
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.exits import CRITERIA, ExitPolicy
from autotok.export import infer
from autotok.export.best_yaml import BackboneRef, Bundle
from autotok.export.bundle import save_bundle
from autotok.export.exported import export_model
from autotok.export.formats import FORMATS, Written
from autotok.export.graph_chain import FileChain, OneByOne, _together, description_of, open_file

TORCHS = ["torchscript", pytest.param("pt2", marks=pytest.mark.slow)]


def small(threshold: float = 0.5) -> CompressedViT:
    """Three blocks, an exit behind the first."""
    policy = ExitPolicy((0,), ("metr",), threshold=(threshold,))
    return early_model(policy, "tome", (Reduction(0, num_keep=12),), backbone=tiny_backbone())


def halving(model: CompressedViT) -> CompressedViT:
    """With the threshold that stops half of `images()` at the first exit."""
    with torch.no_grad():
        sure = score_exits(model, images()).logits[0].softmax(dim=-1).amax(dim=-1)
    return small(float(sure.quantile(0.5)))


@pytest.mark.parametrize("format", TORCHS)
def test_files_say_and_stop_what_torch_does(tmp_path: Path, format: str) -> None:
    model, chosen = halving(small()), FORMATS.get(format)
    result = export_model(model, tmp_path / "model.x", images(), format=format)
    assert (result.ok, result.same_stop_pct, result.num_images) == (True, 100.0, 8)
    assert result.stopped == (4, 4)
    assert result.parts == (f"model.0{chosen.suffix}", f"model.1{chosen.suffix}")
    assert result.path == str(tmp_path / "model.x.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == [*result.parts, "model.x.json"]
    opened = open_file(Path(result.path), chosen)
    with torch.no_grad():
        torch.testing.assert_close(opened(images()), model(images()), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_no_part_of_a_program_holds_the_weights_of_another(tmp_path: Path) -> None:
    result = export_model(small(), tmp_path / "model", images(1), format="pt2")
    whole = export_model(tiny_backbone(), tmp_path / "whole", images(1), format="pt2")
    assert result.size_mb < 1.5 * whole.size_mb


@pytest.mark.slow
@pytest.mark.parametrize(("format", "early"), [("openvino", True), ("onnx", False)])
def test_runtimes_stop_where_torch_does(tmp_path: Path, format: str, early: bool) -> None:
    if format == "openvino":
        pytest.importorskip("openvino")
    policy = ExitPolicy((0,), ("global-2",), threshold=(0.3,))
    reductions = (Reduction(0, num_keep=12),)
    shallow = early_model(policy, "tome", reductions, backbone=tiny_backbone(2))
    model = shallow if early else two_pass(0.5, depth=1)
    result = export_model(model, tmp_path / "model", images(), format=format)
    assert (result.ok, result.same_stop_pct, len(result.parts)) == (True, 100.0, 2)
    assert 0 < result.stopped[0] < 8
    assert result.risky_operators == ()
    opened = open_file(Path(result.path), FORMATS.get(format))
    with torch.no_grad():
        torch.testing.assert_close(opened(images()), model(images()), atol=1e-4, rtol=0)


def test_one_part_of_the_older_exporter_is_enough_to_trust_none() -> None:
    told = [Written(name, {"Add": 1}) for name in ("torchscript", "dynamo")]
    for order in (told, told[::-1]):
        assert _together(order, "torchscript") == Written("torchscript", {"Add": 2})
    assert _together(told[1:], "torchscript").exporter == _together(told, "").exporter == "dynamo"


POLICIES = [
    ExitPolicy((0, 1, 2, 3), threshold=(0.3,)),
    ExitPolicy((0, 1, 2, 3), threshold=(0.6, 0.5, 0.4, 0.3)),
    ExitPolicy((0, 1, 2, 3), criterion="entropy", threshold=(1.9,)),
    ExitPolicy((0, 1, 2, 3), criterion="patience", patience=2),
    ExitPolicy((0, 1, 2, 3), criterion="patient_confident", threshold=(2.0,), patience=2),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.criterion)
def test_without_torch_the_same_images_stop(policy: ExitPolicy) -> None:
    logits = 0.7 * torch.randn(4, 200, 10, generator=torch.Generator().manual_seed(0))
    rule = {
        "criterion": policy.criterion,
        "thresholds": list(policy.threshold),
        "patience": policy.patience,
    }
    expected = first_exits(policy, logits) % 5
    found = []
    for rows in logits.transpose(0, 1).numpy():
        stopping = infer.Stopping(rule)
        found.append(next((n for n, row in enumerate(rows) if stopping.stops(row)), 4))
    assert found == expected.tolist()
    assert len(set(found)) > 2


def test_an_image_at_the_threshold_itself_stops_where_the_rule_says_so() -> None:
    even = np.zeros(2, np.float32)
    rule = {"criterion": "confidence", "thresholds": [0.5]}
    assert not infer.Stopping(rule).stops(even)
    assert infer.Stopping({**rule, "at_threshold": True}).stops(even)


def test_files_that_stop_elsewhere_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = halving(small())
    monkeypatch.setattr(
        FileChain, "stopped_at", lambda self, answers: torch.ones(answers.shape[1]).long()
    )
    with pytest.raises(ExportError, match=r"over 8 images, 50 % of which .* of a threshold"):
        export_model(model, tmp_path / "model.pt", images(), format="torchscript")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"format": "executorch"},
            "which executorch files are not written for; try --format onnx,",
        ),
        ({"batch": 2}, "not for a batch of 2; leave --batch"),
        ({"dynamic_batch": True}, "not for a dynamic batch; leave --batch"),
        ({"precision": "float16"}, "in float32, not in float16; leave --precision out"),
    ],
)
def test_what_such_files_cannot_be_is_one_sentence(
    tmp_path: Path, asked: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ExportError, match=f"a model that stops early .*{sentence}"):
        export_model(small(), tmp_path / "model", images(1), **asked)  # type: ignore[arg-type]


def described(**stop: object) -> dict[str, Any]:
    parts = [
        {"file": "m.0.pt", "takes": ["images"], "gives": ["logits", "x_0"]},
        {"file": "m.1.pt", "takes": ["x_0"], "gives": ["logits"]},
    ]
    return {"parts": parts, "stop": {"criterion": "confidence", "thresholds": [0.5], **stop}}


def with_part(**changed: object) -> dict[str, Any]:
    told = described()
    told["parts"][1] |= changed
    return told


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "lacks the key 'parts'"),
        ([], "cannot be read"),
        ({"parts": [], "stop": {}}, "names 0 parts, and two are the fewest"),
        ({"parts": 3, "stop": {}}, "cannot be read"),
        (
            described(criterion="confidense"),
            "criterion 'confidense' is none of confidence, entropy",
        ),
        (described(thresholds="much"), "over 2 parts cannot have the thresholds 'much'"),
        (described(thresholds=[0.1, 0.2, 0.3]), "cannot have the thresholds"),
        (described(criterion="patience", thresholds=[]), "lacks the key 'patience'"),
        (described(criterion="patience", thresholds=[], patience=0), "patience is 0"),
        (with_part(takes=["nothing"]), "takes .'nothing'., which no part before it gives"),
        (with_part(gives=["x_1"]), "'m.1.pt' gives no logits"),
        (with_part(file="../m.1.pt"), "no name of a file beside it"),
    ],
)
def test_a_damaged_description_is_one_sentence(tmp_path: Path, told: object, words: str) -> None:
    path = description_of(tmp_path / "model.pt")
    path.write_text(json.dumps(told))
    with pytest.raises(ExportError, match=words):
        open_file(path, FORMATS.get("torchscript"))


def test_whoever_runs_files_without_autotok_knows_its_rules() -> None:
    assert set(infer.CRITERIA) == set(CRITERIA)


def test_one_by_one_is_the_batch() -> None:
    model = tiny_backbone()
    with torch.no_grad():
        torch.testing.assert_close(OneByOne(model)(images(3)), model(images(3)))


# --- the folder, and what runs it


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, and two pictures beside it of which one is answered early."""
    folder = tmp_path_factory.mktemp("chain")
    model = halving(small())
    rng = np.random.default_rng(0)
    for name in "ab":
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    evidence = {"quality": {"metric": "top1", "value": 50.0, "low": 40.0, "high": 60.0}}
    evidence["quality"] |= {"num_images": 100, "macs_mean": 2.5e6}
    ref = BackboneRef.of(model.backbone.facts, name="tiny")
    bundle = Bundle(ref, model.config, preprocessing_of(model.backbone).to_dict(), evidence)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FORMATS.get("onnx"), "opset", 17)  # by the exporter that is quick
        save_bundle(folder / "best", model, bundle, photos(2))
    return folder / "best"


def test_a_bundle_runs_where_autotok_is_not(
    best: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(infer, "HERE", best)
    out, files = best.parent / "logits.npy", [best.parent / f"{name}.png" for name in "ab"]
    assert infer.infer_files([*map(str, files), "--logits", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    spec = infer.read_spec(best)
    prepared = [infer.prepare(infer.read_picture(file), spec) for file in files]
    model = autotok.load(best)
    assert isinstance(model, CompressedViT)
    with torch.no_grad():
        pixels = torch.from_numpy(np.concatenate(prepared))
        np.testing.assert_allclose(np.load(out), model(pixels).numpy(), atol=1e-4)
        stopped, _ = score_exits(model, pixels).chosen(model)
    assert [line[-11:] for line in printed] == [
        f"part {number % 2 + 1} of 2" for number in stopped.tolist()
    ]


def test_a_bundle_says_how_its_files_are_run(best: Path) -> None:
    checks = json.loads((best / "check.json").read_text())["exports"]["onnx"]
    assert (checks["ok"], checks["path"]) == (True, "model.onnx.json")
    told = json.loads((best / "model.onnx.json").read_text())
    assert [part["file"] for part in told["parts"]] == ["model.0.onnx", "model.1.onnx"]
    assert told["parts"][1]["takes"] == told["parts"][0]["gives"][1:]
    text = (best / "README.md").read_text()
    assert "- `model.0.onnx`, `model.1.onnx`, run in turn as `model.onnx.json` says" in text
    assert "(papers say GFLOPs), the mean over the 100 images judged." in text


def test_a_part_that_is_missing_is_named(best: Path, tmp_path: Path) -> None:
    spec = infer.read_spec(best)
    for name in ("model.0.onnx", "model.onnx.json"):
        (tmp_path / name).write_bytes((best / name).read_bytes())
    with pytest.raises(infer.Refused, match=r"model.1.onnx' is not there"):
        infer.open_chain(tmp_path, spec)


def test_a_part_of_another_export_is_told_before_it_runs(best: Path, tmp_path: Path) -> None:
    spec = infer.read_spec(best)
    for name in ("model.0.onnx", "model.1.onnx", "model.onnx.json"):
        (tmp_path / name).write_bytes((best / name).read_bytes())
    (tmp_path / "model.1.onnx").write_bytes((best / "model.0.onnx").read_bytes())
    with pytest.raises(infer.Refused, match="they are of different exports"):
        infer.open_chain(tmp_path, spec)
    with pytest.raises(infer.Refused, match="they are of different exports"):
        infer.open_chain(best, spec | {"input": {"shape": [1, 3, 48, 48]}})
