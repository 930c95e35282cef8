"""The fastest number format that agrees with float32 on this model; one for a whole run."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import autotok
from autotok.backbones.base import Backbone
from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone
from autotok.compression.two_pass import TwoPassViT
from autotok.config import CompressionConfig, Reduction
from autotok.errors import UnknownName
from autotok.evaluation import precision
from autotok.evaluation.accuracy import Evaluator, computing
from autotok.evaluation.data import ArrayData
from autotok.evaluation.preprocessing import Preprocessing
from autotok.methods.gtp import GRAPH
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.observing import Observing
from autotok.searching.running.engine_choice import ProblemFactory
from autotok.searching.running.question import Question
from autotok.searching.running.session import build_problem
from autotok.tokens import Taps, Tokens

TOME = CompressionConfig("tome", (Reduction(1, keep_ratio=0.75), Reduction(2, keep_ratio=0.5)))
CPU = torch.device("cpu")


def noise(count: int = 24) -> ArrayData:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return ArrayData("noise", pixels, None, Preprocessing(3, 32, 32, crop_pct=1.0))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Hardware that multiplies in bfloat16, and models large enough to gain by it."""
    monkeypatch.setattr(precision, "_fast_formats", lambda device: ("bfloat16",))
    monkeypatch.setattr(precision, "LEAST_WORK", 0)
    monkeypatch.setattr(precision, "SLOWEST", float("inf"))
    return monkeypatch


def choose(backbone: Backbone, asked: str = "auto") -> precision.ChosenFormat:
    return precision.choose_format(asked, backbone, noise(), seed=0)


def test_a_format_that_agrees_with_float32_is_chosen_and_says_how_well(
    fast: pytest.MonkeyPatch,
) -> None:
    found = choose(tiny_backbone())
    assert found.precision == "bfloat16"
    assert "same class as float32 on 8 of 8 images" in found.why


def test_features_without_classes_keep_their_nearest_neighbour(fast: pytest.MonkeyPatch) -> None:
    model = tiny_vit()
    model.reset_classifier(0)
    found = choose(TimmViT(model.eval(), name="headless"))
    assert "same nearest neighbour as float32 on" in found.why


def test_a_model_whose_answers_change_stays_in_float32(fast: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    with torch.no_grad():
        for block in backbone.model.blocks:  # logits in the thousands: 8 bits tell no maximum
            block.attn.qkv.weight.mul_(300.0)
    found = choose(backbone)
    assert found.precision == "float32"
    assert "of 8 images" in found.why


def test_a_format_that_overflows_leaves_the_choice_to_the_next(fast: pytest.MonkeyPatch) -> None:
    fast.setattr(precision, "_fast_formats", lambda device: ("float16", "bfloat16"))
    backbone = tiny_backbone()
    with torch.no_grad():
        last = backbone.model.blocks[-1].mlp
        last.fc1.weight[0] = 0.0
        last.fc1.bias[0], last.fc2.weight[0, 0] = 300.0, 300.0  # 90,000, and float16 ends at 65,504
    assert choose(backbone).precision == "bfloat16"


def test_small_models_and_other_hardware_stay_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_fast_formats", lambda device: ("bfloat16",))
    assert "too small" in choose(tiny_backbone()).why
    monkeypatch.setattr(precision, "_fast_formats", lambda device: ())
    assert choose(tiny_backbone()).precision == "float32"
    assert choose(tiny_backbone(), "bfloat16").precision == "bfloat16"  # forced
    with pytest.raises(UnknownName, match="bfloat16"):
        choose(tiny_backbone(), "bfloat61")


def test_what_is_embedded_read_out_and_chosen_keeps_its_bits() -> None:
    backbone, seen = tiny_backbone(), {}
    model = compress_backbone(backbone, TOME)
    reducer = model.reducers["1"]
    reduce = reducer.reduce

    def watched(tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        seen["keys"] = taps.keys.dtype
        seen["product"] = (taps.keys @ taps.keys.transpose(-2, -1)).dtype
        return reduce(tokens, taps, num_keep)

    reducer.reduce = watched
    backbone.model.blocks[2].mlp.fc1.register_forward_hook(
        lambda module, given, out: seen.update(inside=out.dtype)
    )
    for name, part in (("embedded", backbone.model.patch_embed), ("head", backbone.model.head)):
        part.register_forward_hook(
            lambda module, given, out, name=name: seen.update({name: out.dtype})
        )
    with torch.inference_mode(), computing(CPU, "bfloat16"):
        model(noise().batch([0, 1])[0])
    full = dict.fromkeys(("keys", "product", "embedded", "head"), torch.float32)
    assert seen == {**full, "inside": torch.bfloat16}


def test_what_methods_do_before_the_blocks_keeps_its_bits() -> None:
    images = noise().batch([0, 1])[0]
    graph = compress_backbone(
        tiny_backbone(), CompressionConfig("gtp", (Reduction(1, num_keep=8),))
    )
    twice = compress_backbone(tiny_backbone(), CompressionConfig("cfvit", (Reduction(0),)))
    assert isinstance(twice, TwoPassViT)
    look = compress_backbone(
        tiny_backbone(), CompressionConfig("papr", (Reduction(0, num_keep=8),))
    )
    method = look.reducers["0"]
    assert isinstance(method, ImageScoring)
    method.network = nn.Conv2d(3, 4, 8, 8)
    found = []
    for name in ("float32", "bfloat16"):
        with torch.no_grad(), computing(CPU, name):
            coarse = twice.first(images)
            known = dataclasses.replace(coarse, score=coarse.embedded[:, 1:, 0])
            known = dataclasses.replace(known, tokens=coarse.tokens.with_x(coarse.embedded))
            fine = twice.method.second_tokens(twice.backbone, images, known)
            joined = graph.entered(images)[0].extras[GRAPH].values
            seen = look.entered(images)[1].image_scores
        assert seen is not None
        found.append([coarse.embedded, fine.x, joined, seen])
    for full, fast in zip(*found, strict=True):
        assert full.dtype == fast.dtype
        assert torch.equal(full, fast)


def test_what_is_heard_of_other_blocks_is_added_up_in_full() -> None:
    config = CompressionConfig("evovit", (Reduction(2, num_keep=8),))
    model, seen = compress_backbone(tiny_backbone(), config), []
    method = model.reducers["2"]
    assert isinstance(method, Observing)
    observe = method.observe

    def watched(layer: int, tokens: Tokens, taps: Taps) -> Tokens:
        seen.append(taps.cls_attention.dtype)
        return observe(layer, tokens, taps)

    method.observe = watched  # type: ignore[method-assign]
    with torch.inference_mode(), computing(CPU, "bfloat16"):
        model(noise().batch([0, 1])[0])
    assert seen == [torch.float32] * 2


def test_the_uncompressed_model_agrees_with_itself_in_any_format() -> None:
    backbone = tiny_backbone()
    judge = Evaluator(backbone, noise(), metric="kl", precision="bfloat16")
    plain = Evaluator(backbone, noise(), metric="kl")
    same = judge.evaluate(compress_backbone(backbone, CompressionConfig()), 0, 24)
    assert same.kl_sum == pytest.approx(0.0, abs=1e-9)
    low, exact = (e.evaluate(compress_backbone(backbone, TOME), 0, 24) for e in (judge, plain))
    assert low.precision == "bfloat16"
    assert low.quality().value != exact.quality().value
    assert low.quality().value == pytest.approx(exact.quality().value, rel=0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_a_run_keeps_its_format_whatever_the_next_machine_can_do(
    fast: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[str] = []
    asked = {"data": "digits", "budget": "60%", "max_images": 24, "retrain_trials": 0}
    run = autotok.search(
        "tiny", **asked, n_trials=3, output=tmp_path / "run",
        on_event=lambda event: told.append(autotok.event_text(event)[0]),
    )  # fmt: skip
    question = yaml.safe_load((run.directory / "config.yaml").read_text())["question"]
    assert question["precision"] == "bfloat16"
    assert any("judged in bfloat16" in line for line in told)
    assert "judged in bfloat16" in (run.directory / "report.html").read_text()
    fast.setattr(precision, "_fast_formats", lambda device: ())
    more = autotok.resume(run.directory, n_trials=6)
    assert "judged in bfloat16" in (run.directory / "report.html").read_text()
    whole = autotok.search(
        "tiny", **asked, n_trials=6, precision="bfloat16", output=tmp_path / "whole"
    )
    assert list(more.front["config_id"]) == list(whole.front["config_id"])
    assert list(more.front["top1_pct"]) == list(whole.front["top1_pct"])


def test_workers_judge_in_the_format_of_their_driver(
    fast: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = build_problem(Question(backbone="tiny", data="digits", budgets=("60%",)))
    assert session.problem.precision == "bfloat16"
    fast.setattr(precision, "_fast_formats", lambda device: ())
    theirs = ProblemFactory.of(session.question.to_dict(), None, 0, tmp_path)()
    assert theirs.precision == "bfloat16"
    ours = session.problem.evaluate(TOME, 0, 8)
    assert dataclasses.asdict(theirs.evaluate(TOME, 0, 8)) == dataclasses.asdict(ours)


def test_a_run_of_an_earlier_version_goes_on_in_float32() -> None:
    before = Question(backbone="tiny").to_dict()
    del before["precision"], before["precision_why"]
    assert Question.from_dict(before).precision == "float32"


def test_a_model_that_lacks_an_operator_in_the_format_is_refused_not_fatal(
    fast: pytest.MonkeyPatch,
) -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("not implemented for 'BFloat16'")
            return x

    backbone = tiny_backbone()
    backbone.model.blocks[0].mlp = Picky()
    found = choose(backbone)
    assert (found.precision, found.why) == ("float32", "bfloat16 cannot run this model")
