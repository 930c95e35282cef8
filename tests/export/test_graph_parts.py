"""Models that stop early, cut into graphs: together they are the model."""

import pytest
import torch
from early import early_model, images, median_policy
from torch import Tensor

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.exit_scores import score_exits
from autotok.compression.model import CompressedViT
from autotok.compression.two_pass import TwoPassViT
from autotok.config import CompressionConfig, Reduction
from autotok.exits import ExitPolicy
from autotok.export.formats import INPUT
from autotok.export.graph_parts import (
    all_answers,
    graph_parts,
    has_parts,
    stop_rule,
    stopped_at,
)

KINDS = ("linear", "metr", "local", "global-2")


def two_pass(threshold: float = 0.5, *, depth: int = 4) -> TwoPassViT:
    config = CompressionConfig("cfvit", (Reduction(0),), {"threshold": threshold})
    made = compress_backbone(tiny_backbone(depth), config).eval()
    assert isinstance(made, TwoPassViT)
    return made


def run_in_turn(model: CompressedViT, image: Tensor) -> Tensor:
    """(parts, 1, K): every part on what it names, made for another image."""
    values, found = {INPUT: image}, []
    for part in graph_parts(model, images(1)):
        given = part(*[values[name] for name in part.takes])
        values.update(zip(part.gives, given, strict=True))
        found.append(values["logits"])
    return torch.stack(found)


CARRIED = [
    ("none", ()),
    ("tome", (Reduction(1, num_keep=12), Reduction(3, num_keep=9))),  # sizes
    ("gtp", (Reduction(1, num_keep=12), Reduction(3, num_keep=9))),  # a graph among tokens
    ("evovit", (Reduction(1, num_keep=8), Reduction(3, num_keep=8))),  # scores of earlier blocks
    ("idlevit", (Reduction(1, num_keep=12), Reduction(3, num_keep=9))),  # tokens parked
    ("cropr", (Reduction(1, num_keep=12), Reduction(3, num_keep=9))),
]


@pytest.mark.parametrize(("method", "reductions"), CARRIED)
@torch.no_grad()
def test_parts_hand_over_all_that_later_blocks_need(
    method: str, reductions: tuple[Reduction, ...]
) -> None:
    model = early_model(median_policy(KINDS), method, reductions)
    other = images(3)[2:]
    scores = score_exits(model, other)
    expected = torch.cat([scores.logits, scores.final.unsqueeze(0)])
    torch.testing.assert_close(run_in_turn(model, other), expected, atol=2e-5, rtol=1e-5)


def test_what_did_not_change_keeps_its_name() -> None:
    policy = ExitPolicy((1, 3, 4), threshold=(0.5,))
    parts = graph_parts(early_model(policy, "tome", (Reduction(1, num_keep=9),)), images(1))
    assert [part.takes for part in parts[:2]] == [(INPUT,), ("x_0", "size_0")]
    assert [part.gives for part in parts[1:]] == [("logits", "x_1"), ("logits", "x_2"), ("logits",)]
    assert parts[2].takes == ("x_1", "size_0")


@torch.no_grad()
def test_two_passes_are_two_parts() -> None:
    model, some = two_pass(), images(3)
    assert has_parts(model)
    answers = all_answers(model, some)
    torch.testing.assert_close(
        torch.cat([run_in_turn(model, image) for image in some.split(1)], dim=1), answers
    )
    at = stopped_at(model, answers)
    torch.testing.assert_close(answers[at, torch.arange(3)], model(some), atol=2e-5, rtol=1e-5)
    assert at.bool().tolist() == model.answer(some).refined.tolist()


def test_a_rule_is_plain_data() -> None:
    policy = ExitPolicy((0, 2), criterion="patient_confident", threshold=(0.4,), patience=3)
    rule = {"criterion": "patient_confident", "thresholds": [0.4, 0.4], "patience": 3}
    assert stop_rule(early_model(policy)) == rule
    assert stop_rule(two_pass(0.25)) == {
        "criterion": "confidence", "thresholds": [0.25], "at_threshold": True
    }  # fmt: skip


def test_a_model_that_runs_to_the_end_is_no_parts() -> None:
    assert not has_parts(compress_backbone(tiny_backbone(), CompressionConfig()))
    assert not has_parts(torch.nn.Identity())
