"""Images that a supernet learns from."""

from pathlib import Path

import numpy as np
import torch
from tiny_supernet import SPEC, tiny_recipe
from tiny_supernet import STAGE as TINY_STAGE

from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.supernet.batches import training_batches
from autotok.supernet.recipe_file import load_recipe


def test_every_epoch_shows_every_image_once(tmp_path: Path) -> None:
    stages = [{**TINY_STAGE, "steps": 30, "batch_size": 127}]  # 11 batches are the 1,397 scans
    recipe = load_recipe(tiny_recipe(tmp_path, stages=stages))
    view = SupernetView(AutoFormerSupernet(SPEC), SPEC.largest())
    batches = training_batches(recipe, view)
    rng = np.random.default_rng(0)
    epochs = [[batches.batch(11 * e + i, rng).labels for i in range(11)] for e in range(2)]
    one, two = (torch.cat(labels) for labels in epochs)
    assert torch.equal(one.sort().values, two.sort().values)
    assert not torch.equal(one, two)
