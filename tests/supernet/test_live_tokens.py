"""Tokens that live, and what they stand for."""

import numpy as np
import pytest
import torch

from autotok.backbones.demo import DEMO_SPEC
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.evaluation.demo import DemoDigits
from autotok.supernet.live_tokens import choose_live, forward_live


def test_live_tokens_keep_the_whole_digit_and_stand_for_the_whole_canvas() -> None:
    data = DemoDigits("train", 10)
    for index in range(10):
        canvas, _, box = data.draw(index)
        rng = np.random.default_rng(index)
        live = choose_live(canvas, box, 8, 70, 1.0, rng)
        assert len(set(live.index.tolist())) == 70
        assert live.size.sum() == pytest.approx(841, rel=1e-4)
        digit = {int(r * 29 + c) for r, c in box.patches(8)}
        kept = dict(zip(live.index.tolist(), live.size.tolist(), strict=True))
        assert digit <= set(kept)
        assert all(kept[i] == 1.0 for i in digit)


def test_all_tokens_live_with_size_one_is_the_whole_canvas() -> None:
    torch.manual_seed(0)
    view = SupernetView(AutoFormerSupernet(DEMO_SPEC), DEMO_SPEC.smallest()).eval()
    images = torch.stack([DemoDigits("val", 2)[i][0] for i in range(2)])
    index = torch.stack([torch.randperm(841), torch.randperm(841)])
    with torch.no_grad():
        live = forward_live(view, images, index, torch.ones(2, 841))
        torch.testing.assert_close(live, view(images), atol=2e-5, rtol=1e-4)
