"""Images that a supernet learns from."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_supernet import SPEC, SPEC_DATA, tiny_recipe
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


def test_an_unreadable_image_is_left_out_of_every_epoch(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    names = [photos / "train" / word / f"{i}.png" for word in "ab" for i in range(60)]
    for number, path in enumerate([*names, photos / "val" / "a" / "0.png"]):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 2 * number).save(path)
    names[77].write_bytes(names[77].read_bytes()[:40])
    spec = {**SPEC_DATA, "num_classes": 2}
    stages = [{**TINY_STAGE, "steps": 9, "batch_size": 40}]
    recipe = load_recipe(tiny_recipe(tmp_path, spec=spec, stages=stages, data=str(photos)))
    view = SupernetView(AutoFormerSupernet(recipe.spec), recipe.spec.largest())
    batches, rng = training_batches(recipe, view), np.random.default_rng(0)
    shown = [batches.batch(step, rng) for step in range(9)]
    for first in (0, 3, 6):
        pixels = torch.cat([batch.images.flatten(1)[:, 0] for batch in shown[first : first + 3]])
        assert len(pixels) == 120
        assert len(pixels.unique()) == 119
    resumed = training_batches(recipe, view)
    assert torch.equal(resumed.batch(7, rng).images, shown[7].images)
