"""A supernet small enough to train in seconds, and recipes for it."""

from pathlib import Path
from typing import Any

import yaml

from autotok.backbones.autoformer import SupernetSpec

SPEC = SupernetSpec(
    embed_dim=24,
    depth=3,
    heads=3,
    mlp_ratio=3.0,
    embed_choices=(12, 16, 20),
    depth_choices=(1, 2, 3),
    heads_choices=(1, 2, 3),
    mlp_ratio_choices=(1.5, 2.0, 3.0),
    image_shape=(1, 8, 8),
    patch_size=4,
    num_classes=10,
    head_dim=4,
    max_offset=2,
)
SPEC_DATA: dict[str, Any] = {
    "embed_dim": 24,
    "depth": 3,
    "heads": 3,
    "mlp_ratio": 3.0,
    "embed_choices": [12, 16, 20],
    "depth_choices": [1, 2, 3],
    "heads_choices": [1, 2, 3],
    "mlp_ratio_choices": [1.5, 2.0, 3.0],
    "image_shape": [1, 8, 8],
    "patch_size": 4,
    "num_classes": 10,
    "head_dim": 4,
    "max_offset": 2,
}
STAGE: dict[str, Any] = {
    "name": "a",
    "steps": 6,
    "batch_size": 4,
    "lr": [1e-3, 1e-4],
    "sampling": "sandwich",
}


def tiny_recipe(folder: Path, **changes: Any) -> Path:
    """A recipe file for the tiny supernet on digits."""
    data = {"backbone": "autoformer_custom", "spec": SPEC_DATA, "data": "digits", "bf16": False}
    data |= {"val_every": 3, "val_images": 0, "test_images": 10, "stages": [STAGE], **changes}
    data = {key: value for key, value in data.items() if value is not ...}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return path
