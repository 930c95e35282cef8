"""ATS: points on the cumulated significance pick tokens."""

import pytest
import torch
from hand import reducer, tokens

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.calibrate import needs_calibration
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.counting.adaptive import image_costs, metered
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost
from autotok.errors import ConfigError, ExportError
from autotok.export.exported import check_exportable
from autotok.methods import TokenReducer
from autotok.methods.ats import ATS
from autotok.tokens import Taps, Tokens

PATCHES = torch.arange(4.0).unsqueeze(1)


def taps(*significance: float) -> Taps:
    """One head whose class row is `significance`, with values of length 1."""
    row = torch.tensor([[[0.0, *significance]]])
    return Taps({"cls_attention": row, "values": torch.ones(1, 1, len(significance) + 1, 1)})


def sampler(keep: int, **options: Primitive) -> TokenReducer:
    return reducer("ats", entering=4, keep=keep, options=options)


def kept(made: TokenReducer, points: int, *significance: float) -> list[float]:
    patches = torch.arange(float(len(significance))).unsqueeze(1)
    out = made.reduce(tokens(patches), taps(*significance), points)
    return out.patches[0, :, 0].tolist()


def test_points_pick_the_nearest_token_on_the_sorted_curve() -> None:
    # rising: 0.1, 0.2, 0.3, 0.4; curve 0.1, 0.3, 0.6, 1.0, scaled to 0, 2/9, 5/9, 1;
    # three points 2/9, 11/18, 1 fall on the second, third and fourth
    assert kept(sampler(3), 3, 0.2, 0.4, 0.1, 0.3) == [0.0, 3.0, 1.0]


def test_points_that_meet_in_one_token_keep_fewer() -> None:
    assert kept(sampler(4), 4, 0.01, 0.01, 0.01, 0.97) == [1.0, 2.0, 3.0]


def test_the_least_token_is_never_picked() -> None:
    assert 2.0 not in kept(sampler(4, points=64), 4, 0.2, 0.4, 0.1, 0.3)


def test_only_as_many_as_there_are_points_can_be_picked() -> None:
    assert kept(sampler(1), 1, 0.2, 0.4, 0.1, 0.3) == [1.0]


def test_the_raster_sampler_takes_middles_of_even_intervals() -> None:
    # curve 0.2, 0.6, 0.7, 1.0; points 1/6, 3/6 pick the first and the second
    assert kept(sampler(2, sampler="raster"), 2, 0.2, 0.4, 0.1, 0.3) == [0.0, 1.0]


def test_a_long_value_makes_a_token_significant() -> None:
    given = Taps(
        {"cls_attention": torch.tensor([[[0.0, 0.5, 0.5]]]), "values": torch.ones(1, 1, 3, 1)}
    )
    given.values[0, 0, 2] = 5.0
    out = reducer("ats", entering=2, keep=1).reduce(tokens(PATCHES[:2]), given, 1)
    assert out.patches.flatten().tolist() == [1.0]


def test_training_masks_what_inference_removes() -> None:
    made = sampler(3).train()
    out = made.reduce(tokens(PATCHES), taps(0.2, 0.4, 0.1, 0.3), 3)
    assert out.num_patches == 4
    assert out.mask is not None
    assert out.mask.tolist() == [[1.0, 1.0, 0.0, 1.0]]


def test_masked_tokens_are_not_sampled_again() -> None:
    made = sampler(2).train()
    once = made.reduce(tokens(PATCHES), taps(0.2, 0.4, 0.1, 0.3), 2)
    assert once.mask is not None
    twice = made.reduce(once, taps(9.0, 0.4, 9.0, 0.3), 2)
    assert twice.mask is not None
    assert bool((twice.mask <= once.mask).all())


@pytest.mark.parametrize("sampler_name", ["sorted", "raster"])
def test_calibration_meets_the_nominal_mean_count(sampler_name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    row = torch.rand(8, 1, 41, generator=generator) ** 3
    given = Taps({"cls_attention": row, "values": torch.ones(8, 1, 41, 2)})
    made = reducer("ats", entering=40, keep=20, options={"sampler": sampler_name})
    assert isinstance(made, ATS)
    many = Tokens(torch.zeros(8, 41, 3), 1, (1, 40))
    made.calibrating = True
    made.reduce(many, given, 20)
    made.calibrating = False
    out = made.reduce(many, given, 20)
    live = torch.ones(8, out.num_patches) if out.live is None else out.live.float()
    assert abs(float(live.sum(dim=1).mean()) - 20) <= 0.5
    assert made.calibrated() == {"points": made.points}
    assert made.points > 20


def images() -> torch.Tensor:
    """Three images that keep different numbers of tokens."""
    contrast = torch.tensor([0.2, 1.0, 4.0]).reshape(3, 1, 1, 1)
    return contrast * torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def twice(**options: Primitive) -> CompressedViT:
    reductions = (Reduction(1, num_keep=16), Reduction(2, num_keep=16))
    return compress_backbone(tiny_backbone(), CompressionConfig("ats", reductions, options)).eval()


@pytest.mark.parametrize("sampler_name", ["sorted", "raster"])
@torch.no_grad()
def test_fixed_rows_change_shapes_and_no_result(sampler_name: str) -> None:
    ragged, fixed = twice(sampler=sampler_name), twice(sampler=sampler_name, rows="fixed")
    alone = torch.cat([ragged(image) for image in images().split(1)])
    torch.testing.assert_close(fixed(images()), alone, rtol=0, atol=2e-5)
    left = fixed.forward_tokens(images())
    assert left.num_patches == 16
    assert left.live is not None
    counts = [ragged.forward_tokens(image).num_patches for image in images().split(1)]
    assert left.live.sum(dim=1).tolist() == counts
    assert min(counts) < 16


@pytest.mark.slow
@torch.no_grad()
def test_fixed_rows_export() -> None:
    model = twice(rows="fixed")
    program = torch.export.export(model, (images(),))
    other = images().flip(0)
    torch.testing.assert_close(program.module()(other), model(other), rtol=0, atol=2e-5)


def test_fixed_rows_cost_what_is_planned_and_may_be_exported() -> None:
    model = twice(rows="fixed")
    assert count_macs(model) == cost(model.backbone.facts, model.config).macs
    assert metered(model) is model
    assert metered(twice()) is not model
    assert max(image_costs(twice(), images()).macs) < count_macs(model)
    check_exportable("ats", fixed=True)
    with pytest.raises(ExportError, match="method 'ats' cannot be exported"):
        check_exportable("ats")


def test_fixed_rows_are_never_calibrated_and_say_so() -> None:
    assert not needs_calibration(twice(rows="fixed").config)
    assert needs_calibration(twice().config)
    with pytest.raises(ConfigError, match="'points' of method 'ats' is 5, but with rows=fixed"):
        twice(rows="fixed", points=5)
    config = CompressionConfig("ats", (Reduction(1),), {"rows": "fixed"})
    with pytest.raises(ConfigError, match="layer 1 gives neither keep_ratio nor num_keep"):
        compress_backbone(tiny_backbone(), config)
