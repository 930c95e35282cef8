"""The engine benchmark: its oracle is the model itself, its counts are right, its table prints."""

import json
import sys
from pathlib import Path

import pytest
import torch

from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import accelerator
import engine
import export_matrix

TINY = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def backbone() -> engine.Backbone:
    torch.manual_seed(0)
    return engine.load(TINY)


def layered(method: str) -> CompressionConfig:
    counts = enumerate((183, 170, 157))
    return CompressionConfig(method, tuple(Reduction(i, num_keep=k) for i, k in counts))


def test_the_oracle_of_no_reduction_is_the_uncompressed_model(backbone: engine.Backbone) -> None:
    images = torch.randn(1, *backbone.facts.image_shape)
    counts = [backbone.facts.num_patches] * (2 * backbone.facts.num_blocks + 1)
    with torch.no_grad():
        assert torch.equal(engine.SlicingOracle(backbone, counts)(images), backbone(images))


def test_the_oracle_runs_the_counts_the_method_had(backbone: engine.Backbone) -> None:
    images = torch.randn(1, *backbone.facts.image_shape)
    model = compress_backbone(backbone, layered("topk")).eval()
    probe = engine.Probe(model)
    with torch.no_grad(), probe.watching():
        model(images)
    assert probe.counts[:6] == [196, 183, 183, 170, 170, 157]
    assert set(probe.counts[6:]) == {157}
    again = engine.Probe(compress_backbone(backbone, CompressionConfig()))
    with torch.no_grad(), again.watching():
        engine.SlicingOracle(backbone, probe.counts)(images)
    assert again.counts == probe.counts


@pytest.mark.parametrize(("method", "most"), [("random", 2), ("topk", 9), ("tome", 17)])
def test_a_reducing_block_adds_few_operators(
    backbone: engine.Backbone, method: str, most: int
) -> None:
    images = torch.randn(1, *backbone.facts.image_shape)
    model = compress_backbone(backbone, layered(method)).eval()
    first, last = map(int, engine.extra_operators(model, images).split("-"))
    assert 0 < first <= last <= most


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["md", "csv"])
def test_the_table_prints_a_line_per_method_and_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ending: str
) -> None:
    threads = torch.get_num_threads()
    arguments = ["--methods", "tome", "none", "--backbone", TINY, "--batch", "1", "--turns", "2"]
    path = tmp_path / f"engine.{ending}"
    engine.main([*arguments, "--threads", str(threads), "--write", str(path)])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith("tome")]
    assert len(rows) == 2
    assert all("+-" in row[1] and "+-" in row[3] for row in rows)
    assert not any(line.startswith("none") for line in lines)
    text = path.read_text()
    assert text.count("tome") == 2
    assert f"torch {torch.__version__}" in text
    assert all(rows[i][3] in text for i in range(2))


def test_no_time_left_still_gives_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    engine.main(["--methods", "random", "--backbone", TINY, "--batch", "1", "--minutes", "0"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("random")]
    assert len(rows) == 1
    assert rows[0].split()[-1] == str(engine.LEAST_TURNS)


@pytest.mark.slow
def test_the_script_for_a_gpu_goes_through_its_steps_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ("same", "throughput", "finetune")  # the others are commands tested elsewhere
    words = ["accelerator.py", "--device", "cpu", "--quick", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*words, "--steps", ",".join(steps)])
    accelerator.main()
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert not [found[step] for step in steps if "failed" in found[step]]
    differences = found["same"]["largest difference"]
    assert "could not be fetched" in differences.pop("papr")  # a pretrained network of its own
    assert set(differences.values()) == {0.0}
    assert set(found["throughput"]) >= {"none", "tome", "evit"}


def test_the_export_matrix_takes_cells_that_were_kept_and_says_what_disagrees(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kept, page = tmp_path / "matrix.csv", tmp_path / "matrix.md"
    good = export_matrix.Cell("ViT", "tome", "ONNX", 2, relative=2e-6, other_choices=0)
    bad = export_matrix.Cell("ViT", "tome", "OpenVINO", 2, "", 0.5, 1, 0.25)
    for cell in (good, bad):
        export_matrix.keep(cell, kept)
    asked = ["--backbones", "ViT", "--methods", "tome", "--images", "2", "--csv", str(kept)]
    threads = torch.get_num_threads()
    try:
        export_matrix.main([*asked, "--write", str(page)])
    finally:
        torch.set_num_threads(threads)
    row = "| tome | 2.0e-06 | 5.0e-01, 1; torch itself 2.5e-01 |"
    assert row in capsys.readouterr().out
    assert row in page.read_text()
    assert "1 of 2\ncells" in page.read_text()
    assert list(export_matrix.read_cells(kept).values()) == [good, bad]


def test_a_method_that_no_graph_can_hold_is_a_cell_that_says_why() -> None:
    small = export_matrix.backbones()["ViT"]
    cells = list(export_matrix.made("ViT", small, "ats", 1))
    assert [cell.format for cell in cells] == ["ONNX", "OpenVINO"]
    assert all(cell.reason and cell.agrees and cell.relative is None for cell in cells)
