"""A search problem with fixed answers: no model, no images, everything a formula."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autotok.config import CompressionConfig
from autotok.facts import BackboneFacts, BlockFacts
from autotok.finetune_spec import Length
from autotok.searching.space.budget import parse_budgets
from autotok.searching.space.problem import ExactCosts, Problem, Tuned, budgets_of
from autotok.searching.space.search_space import SearchSpace
from autotok.searching.space.space_file import load_space


def vit_facts(depth: int = 12, width: int = 384, side: int = 14) -> BackboneFacts:
    """A ViT-S of the given depth."""
    block = BlockFacts(width, width // 64, 64, 4 * width, params=12 * width * width)
    return BackboneFacts(
        name="fake",
        family="tiny",
        blocks=(block,) * depth,
        num_prefix=1,
        has_cls=True,
        cls_is_supervised=True,
        grid=(side, side),
        pooling="cls",
        carries_positions=False,
        has_position_table=True,
        image_shape=(3, side * 16, side * 16),
        patch_size=(16, 16),
        num_classes=1000,
        stem_macs=side * side * 768 * width,
        readout_macs=1000 * width,
        params=12 * width * width * depth,
    )


@dataclass(frozen=True)
class FakeQuality:
    metric: str
    value: float
    low: float
    high: float
    num_images: int
    finetuned: bool = False


@dataclass(frozen=True)
class FakeTally:
    """Hits of images, summed."""

    hits: float = 0.0
    num_images: int = 0

    def __add__(self, other: Any, /) -> FakeTally:
        return FakeTally(self.hits + other.hits, self.num_images + other.num_images)

    def quality(self) -> FakeQuality:
        value = 100.0 * self.hits / self.num_images
        spread = 50.0 / self.num_images**0.5
        return FakeQuality("top1", value, value - spread, value + spread, self.num_images)


BONUS = {"tome": 0.05, "pitome": 0.04, "tofu": 0.06, "evit": 0.03, "topk": 0.02, "ltp": 0.0}


class FakeEvaluator:
    """Accuracy falls with the tokens taken away, more so early; methods differ a little."""

    def __init__(self, facts: BackboneFacts) -> None:
        self.facts = facts
        self.calls: list[tuple[str, int, int]] = []
        self.tuned: list[str] = []

    def accuracy(self, config: CompressionConfig) -> float:
        left, depth, lost = self.facts.num_patches, self.facts.num_blocks, 0.0
        for reduction in config.reductions:
            gone = max(0.0, 1.0 - (reduction.num_keep or 0) / left)  # parked ones may return
            lost += gone**1.5 * (1.2 - reduction.layer / depth) * 0.12
            left = reduction.num_keep or 0
        wiggle = int(hashlib.sha256(config.config_id.encode()).hexdigest()[:6], 16) / 16**6
        bonus = BONUS.get(config.method, -0.1) if config.reductions else 0.06
        if config.subnet is not None:
            lost += 0.002 * (144 - config.subnet.embed_dim) / 24
        if config.mode == "retrain":
            assert config.config_id in self.tuned, "judged before its fine-tune"
            lost *= 0.4
        return max(0.01, 0.85 - lost + bonus + 0.01 * wiggle)

    def finetune(self, config: CompressionConfig) -> Tuned:
        assert config.mode == "retrain"
        assert config.finetune is not None
        self.tuned.append(config.config_id)
        steps = int(Length.parse(config.finetune.length).amount)
        return Tuned(steps, 8 * steps, 0.01, 0.5)

    def __call__(self, config: CompressionConfig, start: int, stop: int) -> FakeTally:
        self.calls.append((config.config_id, start, stop))
        return FakeTally(self.accuracy(config) * (stop - start), stop - start)


def fake_problem(
    budgets: str = "50%",
    *,
    facts: BackboneFacts | None = None,
    space: SearchSpace | str = "default",
    evaluate: Callable[[CompressionConfig, int, int], FakeTally] | None = None,
    predict: Callable[[CompressionConfig], Mapping[str, float]] | None = None,
    finetune: Callable[[CompressionConfig], Tuned] | None = None,
    total_images: int = 400,
) -> Problem:
    """A problem over `FakeEvaluator`, with the real cost formula."""
    facts = facts or vit_facts()
    space = load_space(space) if isinstance(space, str) else space
    costs = ExactCosts(facts, space.structure)
    return Problem(
        facts=facts,
        space=space,
        budgets=budgets_of(parse_budgets(budgets), facts, predict),
        evaluate=evaluate or FakeEvaluator(facts),
        total_images=total_images,
        metric="top1",
        predict=predict,
        load_tally=lambda data: FakeTally(**data),
        count=lambda config: costs.cost(config).macs,
        finetune=finetune,
    )
