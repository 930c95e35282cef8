"""The README of a bundle: each figure with what it is of."""

from typing import Any

from autotok.backbones.loading import as_backbone
from autotok.backbones.tiny import tiny_vit
from autotok.config import CompressionConfig, SubnetSpec
from autotok.export.best_yaml import BackboneRef, Bundle
from autotok.export.readme import readme
from autotok.pruned_spec import PrunedSpec

EVIDENCE: dict[str, Any] = {
    "question": {"target": "nx"},
    "costs": {"macs_g": 0.000537},
    "macs_counted": 537_120,
    "predicted": {"latency_ms": 20.0, "latency_error_pct": 1.34, "peak_memory_mb": 90.0},
    "predicted_for": {"target": "nx", "of": "PyTorch eager float32", "batch": 64},
}


def text(evidence: dict[str, Any]) -> str:
    facts = as_backbone(tiny_vit().eval()).facts
    bundle = Bundle(BackboneRef.of(facts), CompressionConfig("none"), {}, evidence)
    return readme(bundle, {}, False)


def test_a_small_cost_has_digits_and_latency_and_memory_say_of_how_many_images() -> None:
    told = text(EVIDENCE)
    assert "- Cost: 0.000537 G multiply-accumulates an image" in told
    assert "a second, independent counter found 0.000537." in told
    of = "predicted for nx (PyTorch eager float32, 64 images at a time, "
    assert f"- Latency: 20 ms, {of}checked to 1.3 %), not measured." in told
    assert f"- Peak memory: 90 MB, {of}never checked), not measured." in told


def test_a_cost_that_depends_on_the_image_stands_once_as_a_mean() -> None:
    quality = {"metric": "top1", "value": 90.0, "low": 87.0, "high": 93.0, "num_images": 400}
    searched = {**EVIDENCE, "quality": {**quality, "macs_mean": 537_000.0}}
    told = text(searched)
    assert "Mean cost" not in told
    mean = "- Cost: 0.000537 G multiply-accumulates an image, attention included (papers say"
    mean += " GFLOPs), the mean over the 400 images judged"
    assert f"{mean}; a second, independent counter, run on some of them, comes to 0.000537." in told
    tuned = {**searched, "costs": {"macs_g": 0.00081}, "macs_counted": None}
    assert f"{mean} (nominally, by formula, 0.00081)." in text(tuned)


def test_a_corrected_figure_does_not_claim_the_target_s_error() -> None:
    corrected = "corrected by what was measured on a board (latency times 1.30)"
    predicted = {**EVIDENCE["predicted"], "latency_correction": 1.3}
    about = {**EVIDENCE["predicted_for"], "batch": 1, "corrected": corrected}
    told = text({**EVIDENCE, "predicted": predicted, "predicted_for": about})
    of = "predicted for nx (PyTorch eager float32"
    assert f"- Latency: 20 ms, {of}, {corrected}), not measured." in told
    assert f"- Peak memory: 90 MB, {of}, never checked), not measured." in told


def test_the_title_says_what_was_done_to_the_model() -> None:
    ref = BackboneRef.of(as_backbone(tiny_vit().eval()).facts, name="tiny")

    def title(config: CompressionConfig) -> str:
        return readme(Bundle(ref, config, {}), {}, False).splitlines()[0]

    assert title(CompressionConfig("none")) == "# tiny, uncompressed"
    smaller = CompressionConfig("none", image_size=24)
    assert title(smaller) == "# tiny, on images of 24 pixels a side"
    pruned = PrunedSpec((0, 2), ((0, 1), (2,)), ("f" * 8 + "0" * 40,) * 2)
    alone = CompressionConfig("none", subnet=pruned)
    assert title(alone) == "# tiny, pruned (2 blocks, heads 1-2, MLP 32)"
    subnet = CompressionConfig("tome", subnet=SubnetSpec(144, (2, 3), (4.0, 3.5)))
    shape = "144 wide, 2 deep, heads 2-3, MLP 3.5-4"
    assert title(subnet) == f"# tiny, subnet ({shape}), compressed by tome"
    lower = CompressionConfig("tome", mode="retrain", number_format="int8")
    assert title(lower) == "# tiny, compressed by tome, fine-tuned, in int8"
