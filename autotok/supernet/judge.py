"""How good a trained demo supernet is: accuracy of several subnets on held-out canvases."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotok.backbones.demo import DEMO_SPEC, DEMO_SUBNET, load_demo_supernet
from autotok.backbones.supernet import SupernetView
from autotok.evaluation.demo import DemoDigits
from autotok.evaluation.intervals import wilson
from autotok.files import write_text
from autotok.profiling.macs import uncompressed

from .recipe import load_recipe
from .sampling import sample_uniform
from .train import evaluate_subnet

__all__ = ["judge"]

JUDGE_SEED = 2
OTHERS_SHARE = 0.2
"""Of the test images, for subnets other than the default."""


def judge(
    recipe: Path, weights: Path, *, on_progress: Callable[[float, str], None] | None = None
) -> dict[str, Any]:
    """Accuracy with 95 % intervals of the default, largest, smallest and two random subnets.

    Writes `results.json` beside the weights.
    """
    settings = load_recipe(recipe)
    supernet = load_demo_supernet(weights)
    rng = np.random.default_rng(settings.seed)
    subnets = {"default": DEMO_SUBNET, "largest": DEMO_SPEC.largest()}
    subnets |= {"smallest": DEMO_SPEC.smallest()}
    subnets |= {f"random {i}": sample_uniform(DEMO_SPEC, rng) for i in range(2)}
    rows = []
    for number, (name, subnet) in enumerate(subnets.items()):
        count = settings.test_images
        if name != "default":
            count = max(1, int(OTHERS_SHARE * count))
        view = SupernetView(supernet, subnet)
        data = DemoDigits("val", count, seed=JUDGE_SEED)
        correct = evaluate_subnet(view, data, count)
        low, high = wilson(correct, count)
        rows.append(
            {
                "subnet": name,
                "embed_dim": subnet.embed_dim,
                "heads": list(subnet.heads),
                "mlp_ratios": list(subnet.mlp_ratios),
                "macs_g": uncompressed(view.facts).macs_g,
                "params_m": view.facts.params / 1e6,
                "top1_pct": 100.0 * correct / count,
                "low_95": 100.0 * low,
                "high_95": 100.0 * high,
                "num_images": count,
            }
        )
        if on_progress is not None:
            on_progress((number + 1) / len(subnets), f"{name}: {rows[-1]['top1_pct']:.1f} % top-1")
    results = {
        "weights_mb": weights.stat().st_size / 1e6,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "subnets": rows,
    }
    write_text(weights.parent / "results.json", json.dumps(results, indent=1))
    return results
