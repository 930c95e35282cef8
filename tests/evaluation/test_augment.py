"""Images moved about."""

import numpy as np
import torch

from autotok.evaluation.augment import augmented


def test_augmented_images_are_shifted_and_flipped_by_their_seed() -> None:
    images = torch.arange(2 * 64, dtype=torch.float32).reshape(2, 1, 8, 8).repeat(8, 1, 1, 1)
    once, again = (augmented(images, "crop-flip", np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(once, again)
    assert once.shape == images.shape
    assert not torch.equal(once, images)
    middle = images[0, 0, 3, 3]  # a shift of one pixel at most keeps the middle inside
    assert all((picture == middle).any() for picture in once[::2, 0])
