"""Where the time goes, block by block."""

import pytest
import torch

from autotok.backbones.loading import load_structure
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction, SubnetSpec
from autotok.counting.macs import cost, uncompressed
from autotok.predicting.predict import predict
from autotok.pruned_spec import PrunedSpec
from autotok.report.block_report import block_report, block_rows

PRUNED = PrunedSpec((0, 2), ((0, 1), (2,)), ("f" * 8 + "0" * 40,) * 2)


def model(method: str = "tome", *keep: tuple[int, int]) -> CompressedViT:
    reductions = tuple(Reduction(layer, num_keep=count) for layer, count in keep)
    return compress_backbone(tiny_backbone(), CompressionConfig(method, reductions)).eval()


def test_blocks_add_up_to_the_whole_before_and_after() -> None:
    made = model("tome", (1, 10))
    report = block_report(made, target="jetson-nx", measure_on=None, batch=1)
    blocks = report["blocks"]
    assert [b["block"] for b in blocks] == ["embedding", "0", "1", "2", "3", "read-out"]
    assert [b["tokens_in_attention"] for b in blocks] == [16, 16, 16, 10, 10, 10]
    assert [b["tokens_in_mlp"] for b in blocks] == [16, 16, 10, 10, 10, 10]
    facts = made.backbone.facts
    total = sum(b["macs_g"] for b in blocks)
    assert total == pytest.approx(cost(facts, made.config).macs_g, abs=3e-4)
    before = sum(b["uncompressed"]["macs_g"] for b in blocks)
    assert before == pytest.approx(uncompressed(facts).macs_g, abs=3e-4)
    assert report["predicted_ms_by_operator"]["matmul"] > 0
    before = predict(made.backbone, "jetson-nx").latency_ms
    assert report["predicted_uncompressed_ms"] == pytest.approx(before, abs=1e-3)
    own = predict(made, "jetson-nx").latency_ms
    assert report["predicted_speedup"] == pytest.approx(before / own, abs=1e-3)
    assert report["peak_block"] in {b["block"] for b in blocks}
    assert report["peak_live_mb"] == max(b["live_mb"] for b in blocks)


def test_measured_times_stand_beside_the_others() -> None:
    report = block_report(model("topk", (1, 4)), target=None, measure_on="local", batch=2)
    assert all(b["measured_ms"] >= 0 for b in report["blocks"])
    for side in ("", "_uncompressed"):
        assert abs(sum(report[f"measured_share_pct_by_operator{side}"].values()) - 100) < 1
    heads, rows = block_rows({**report, "macs_g": 0.002})
    assert heads == ["block", "tokens", "GFLOPs", "measured ms", "live MB"]
    assert rows[2][1] == "16, 4"
    assert "(" in rows[2][2]


def test_an_uncompressed_model_has_nothing_before_it() -> None:
    report = block_report(model("none"), target=None, measure_on=None, batch=1)
    assert "uncompressed" not in report["blocks"][0]
    assert "peak_block_uncompressed" not in report
    assert all(
        "(" not in cell for row in block_rows({**report, "macs_g": 0.002})[1] for cell in row
    )


@pytest.mark.parametrize("reductions", [(), (Reduction(1, num_keep=10),)])
def test_blocks_of_a_pruned_model_stand_beside_those_that_they_were(
    reductions: tuple[Reduction, ...],
) -> None:
    config = CompressionConfig("tome" if reductions else "none", reductions, subnet=PRUNED)
    pruned, whole = compress_backbone(tiny_backbone(), config).eval(), model("none")
    report = block_report(pruned, target="jetson-nx", measure_on=None, batch=1)
    before = block_report(whole, target="jetson-nx", measure_on=None, batch=1)
    blocks, theirs = report["blocks"], before["blocks"]
    assert [b["block"] for b in blocks] == ["embedding", "0", "1", "read-out"]
    assert [b["uncompressed"] for b in blocks] == [theirs[at] for at in (0, 1, 3, 5)]
    assert report["peak_block_uncompressed"] == before["peak_block"]
    own, plain = (predict(m, "jetson-nx").latency_ms for m in (pruned, whole))
    assert report["predicted_speedup"] == pytest.approx(plain / own, abs=1e-3)
    names = [row[0] for row in block_rows({**report, "macs_g": 0.002})[1]]
    assert names == ["embedding", "0", "1 (2)", "read-out"]


def test_a_subnet_of_a_supernet_is_its_own_uncompressed_model() -> None:
    subnet = SubnetSpec(144, (2,) * 8, (3.5,) * 8)
    backbone = load_structure("autoformer_demo", subnet=subnet)
    for keep in ((), (Reduction(2, 0.5),)):
        made = compress_backbone(backbone, CompressionConfig("tome" if keep else "none", keep))
        blocks = block_report(made, target=None, measure_on=None, batch=1)["blocks"]
        assert len(blocks) == 10
        assert ("uncompressed" in blocks[0]) == bool(keep)


def test_the_model_is_neither_run_nor_changed_without_measuring() -> None:
    made = model("tome", (1, 10))
    made.backbone.embed = lambda *_, **__: pytest.fail("was run")  # type: ignore[method-assign]
    block_report(model("tome", (1, 10)), target=None, measure_on=None, batch=1)
    assert next(made.parameters()).device == torch.device("cpu")
