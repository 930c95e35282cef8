"""Costs of images that cost different amounts, as the meter reads them."""

import torch
from early import early_model
from early import images as early_images

from autotok.counting.adaptive import Metered, metered
from autotok.counting.counter import count_each
from autotok.exits import ExitPolicy


def test_the_meter_says_where_images_stopped_and_what_each_cost() -> None:
    made = early_model(ExitPolicy((1, 3), threshold=(0.5,)))
    meter = metered(made)
    assert isinstance(meter, Metered)
    pictures = early_images(16)
    with torch.no_grad():
        torch.testing.assert_close(meter(pictures), made(pictures), atol=2e-5, rtol=1e-5)
    found = meter.image_costs
    assert found is not None
    assert len(found.exits) == 3
    assert sum(found.exits) == 16
    assert found.macs.tolist() == count_each(made, pictures)
    assert (found.tokens[:, -1] == 0).sum() == found.exits[0] + found.exits[1]
