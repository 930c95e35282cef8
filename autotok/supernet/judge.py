"""How good the subnets of a supernet are: accuracy with intervals, and what they cost."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotok.backbones.autoformer_family import load_supernet
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.config import SubnetSpec
from autotok.counting.macs import uncompressed
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.data import DataSource
from autotok.files import write_text

from .batches import held_out
from .recipe_file import load_recipe
from .sampling import sample_uniform

# canvases that neither training nor its checks (seed 1) have seen
JUDGE_SEED = 2
OTHERS_SHARE = 0.2
"""Of the test images, for subnets other than the default."""


@dataclass(frozen=True)
class SubnetScore:
    """One subnet on the shared weights: top-1 with its 95 % interval, and its exact cost."""

    label: str
    subnet: SubnetSpec
    macs_g: float
    params_m: float
    top1_pct: float
    low_95: float
    high_95: float
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `results.json` holds it."""
        return {
            "subnet": self.label,
            "embed_dim": self.subnet.embed_dim,
            "heads": list(self.subnet.heads),
            "mlp_ratios": list(self.subnet.mlp_ratios),
            "macs_g": self.macs_g,
            "params_m": self.params_m,
            "top1_pct": self.top1_pct,
            "low_95": self.low_95,
            "high_95": self.high_95,
            "num_images": self.num_images,
        }


def score_subnet(
    view: SupernetView,
    data: DataSource,
    count: int,
    *,
    label: str,
    seed: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> SubnetScore:
    """A view's score on the first `count` images of the seeded order, or on all there are.

    Raises:
        ConfigError: the data has no labels for the model's classes.
    """
    evaluator = Evaluator(view, data, metric="top1", seed=seed)
    quality = evaluator.evaluate(view, 0, count, on_images=on_images).quality()
    return SubnetScore(
        label=label,
        subnet=view.subnet,
        macs_g=uncompressed(view.facts).macs_g,
        params_m=view.facts.params / 1e6,
        top1_pct=quality.value,
        low_95=quality.low,
        high_95=quality.high,
        num_images=quality.num_images,
    )


def score_subnets(
    supernet: AutoFormerSupernet,
    name: str,
    subnets: Mapping[str, SubnetSpec],
    data: DataSource,
    counts: Mapping[str, int],
    *,
    seed: int = 0,
    on_progress: Callable[[float, str], None] | None = None,
) -> list[SubnetScore]:
    """One score per labelled subnet, each on its own number of images of one order."""
    total = sum(min(counts[label], len(data)) for label in subnets)
    done, scores = 0, list[SubnetScore]()
    for label, subnet in subnets.items():

        def advance(images: int, label: str = label) -> None:
            nonlocal done
            done += images
            if on_progress is not None:
                on_progress(done / total, f"{label}: {done} of {total} forward passes in all")

        view = SupernetView(supernet, subnet, name=name).eval()
        found = score_subnet(view, data, counts[label], label=label, seed=seed, on_images=advance)
        scores.append(found)
    return scores


def judge_supernet(
    recipe: Path,
    weights: Path,
    *,
    device: torch.device | None = None,
    on_progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """Accuracy with 95 % intervals of the default, largest, smallest and two random subnets.

    Writes `results.json` beside the weights.
    """
    settings = load_recipe(recipe)
    spec = settings.spec
    supernet = load_supernet(settings.backbone, weights).to(device)
    rng = np.random.default_rng(settings.seed)
    subnets = {"default": settings.default, "largest": spec.largest()}
    subnets |= {"smallest": spec.smallest()}
    subnets |= {f"random {i}": sample_uniform(spec, rng) for i in range(2)}
    counts = dict.fromkeys(subnets, max(1, int(OTHERS_SHARE * settings.test_images)))
    counts["default"] = settings.test_images
    view = SupernetView(supernet, settings.default, name=settings.backbone)
    data = held_out(settings, view, settings.test_images, JUDGE_SEED)
    scores = score_subnets(
        supernet, settings.backbone, subnets, data, counts, on_progress=on_progress
    )
    results = {
        "weights_mb": weights.stat().st_size / 1e6,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "subnets": [score.to_dict() for score in scores],
    }
    write_text(weights.parent / "results.json", json.dumps(results, indent=1))
    return results
