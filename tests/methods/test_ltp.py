import dataclasses

import numpy as np
import pytest
import torch
from hand import angles, reducer, tokens

from autotok.compression.schedule import realise
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError, IncompatibleMethod
from autotok.methods.ltp import LTP
from autotok.testing import synthetic_facts
from autotok.tokens import Taps

PATCHES = torch.tensor([[10.0], [20], [30], [40]])
LOOKS = angles(0, 3, 90, 180)  # 0 and 1 look alike


def kept(alpha: float, places: list[float], keep: int = 2) -> list[float]:
    method = reducer("ltp", entering=4, keep=keep, layer=0, options={"alpha": alpha})
    table = torch.tensor(places, dtype=torch.float32).unsqueeze(1)
    taps = Taps({"patch_embedding": LOOKS.unsqueeze(0), "position_table": table})
    out = method.reduce(tokens(PATCHES), taps, keep)
    return [float(value) for value in out.patches[0, :, 0]]


def test_redundant_patches_go_and_raster_order_stays() -> None:
    assert kept(0.0, [1, 2, 3, 4]) == [30, 40]


def test_important_places_stay() -> None:
    assert kept(1.0, [4, 3, 2, 1]) == [10, 20]


def test_both_terms_weigh_equally_by_default() -> None:
    assert kept(0.5, [0, 1, 1, 0], keep=1) == [30]


def test_places_that_are_all_alike_leave_the_choice_to_looks() -> None:
    assert kept(0.5, [1, 1, 1, 1]) == [30, 40]


def test_it_reduces_once_before_block_0_and_needs_a_position_table() -> None:
    facts = synthetic_facts(1)
    with pytest.raises(ConfigError, match="its layer must be 0, got 3"):
        realise(CompressionConfig("ltp", (Reduction(3, num_keep=5),)), facts)
    with pytest.raises(ConfigError, match="reduces once"):
        realise(CompressionConfig("ltp", (Reduction(0, num_keep=9), Reduction(1))), facts)
    bare = dataclasses.replace(facts, has_position_table=False)
    with pytest.raises(IncompatibleMethod, match="needs an absolute position table"):
        realise(CompressionConfig("ltp", (Reduction(0, num_keep=9),)), bare)
    schedule = realise(CompressionConfig("ltp", (Reduction(0, keep_ratio=0.7),)), facts)
    assert schedule.attention == (11,) * 6  # ceil(0.7 * 15)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_scores_weigh_the_two_maps_of_the_paper(alpha: float) -> None:
    """alpha 0 is the redundancy map alone, 1 the importance map alone."""
    draw = np.random.default_rng(3)
    looks, table = draw.normal(size=(9, 5)), draw.normal(size=(9, 5))
    units = [look / np.linalg.norm(look) for look in looks]
    redundancy = [max(float(a @ b) for j, b in enumerate(units) if j != i)
                  for i, a in enumerate(units)]  # fmt: skip
    importance = [float(np.linalg.norm(row)) for row in table]

    def scaled(values: list[float]) -> np.ndarray:
        return (np.array(values) - min(values)) / (max(values) - min(values))

    method = reducer("ltp", entering=9, keep=4, layer=0, options={"alpha": alpha})
    assert isinstance(method, LTP)
    got = method._scores(torch.from_numpy(looks).unsqueeze(0), torch.from_numpy(table))
    expected = alpha * scaled(importance) - (1 - alpha) * scaled(redundancy)
    np.testing.assert_allclose(got[0].numpy(), expected, rtol=0, atol=2e-5)
