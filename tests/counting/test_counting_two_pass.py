"""What two passes cost: two amounts, the mixture of images, and the confidence for a mean."""

import pytest
import torch
from torch import Tensor

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.two_pass import TwoPassViT
from autotok.config import CompressionConfig, Reduction
from autotok.counting.adaptive import Metered, image_costs
from autotok.counting.counter import count_each, count_macs
from autotok.counting.macs import cost
from autotok.counting.two_pass import PassCosts, calibrated_to
from autotok.errors import ConfigError
from autotok.facts import BackboneFacts


def model(**options: float) -> TwoPassViT:
    config = CompressionConfig("cfvit", (Reduction(0),), options)
    made = compress_backbone(tiny_backbone(), config).eval()
    assert isinstance(made, TwoPassViT)
    return made


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def blocks(facts: BackboneFacts, tokens: int) -> int:
    return sum(
        4 * b.width * b.width * tokens + 2 * b.width * tokens**2 + 8 * b.width**2 * tokens
        for b in facts.blocks
    )


def test_both_amounts_are_the_sheets_formula() -> None:
    made = model(alpha=0.5)
    facts, each = made.backbone.facts, PassCosts.of(made.backbone.facts, made.config)
    width, patch, head = facts.blocks[0].width, 3 * 8 * 8 * facts.blocks[0].width, 10 * 48
    coarse = 4 * patch + blocks(facts, 5) + head + 5 * width  # one class row, of block 3
    fine = 8 * patch + 8 * width**2 * 2 + blocks(facts, 1 + 4 + 3 * 2) + head
    assert (each.exit, each.fine) == (coarse, fine)
    assert each.both == cost(facts, made.config).macs == count_macs(made)
    products = 2 * width * 4 * (5**2 + 11**2) + 5 * width
    assert each.both - each.both_noattn == products


@torch.no_grad()
def test_each_image_costs_what_ran() -> None:
    confident = model().first(images()).logits.softmax(dim=1).amax(dim=1).sort().values
    made = model(threshold=float(confident[3:5].mean()))
    metered = Metered(made)
    assert torch.equal(metered(images()), made(images()))
    found = metered.image_costs
    assert found is not None
    assert (
        found.macs.tolist()
        == count_each(made, images())
        == image_costs(made, images()).macs.tolist()
    )
    assert len(set(found.macs.tolist())) == 2
    assert set(found.tokens[:, 0].tolist()) == {4, 10}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_calibration_meets_a_mean_cost(share: float) -> None:
    made = model()
    each = PassCosts.of(made.backbone.facts, made.config)
    wanted = each.exit + share * each.fine
    found = calibrated_to(made, images(), wanted / 1e9)
    assert image_costs(found, images()).mean == pytest.approx(wanted)


def test_a_mean_cost_outside_of_both_passes_is_refused_with_the_range() -> None:
    with pytest.raises(ConfigError, match=r"'cfvit' cannot cost 9 GFLOPs.*costs 0\.\d+ and both"):
        calibrated_to(model(), images(), 9.0)
