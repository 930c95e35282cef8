import numpy as np
import torch
from hand import angles, keys, reducer, tokens

from autotok.methods import get_method
from autotok.testing import synthetic_facts

# a cluster of three (patches 0, 2, 4) and two on the other side (1, 3); energy: 2, 0, 4, 3, 1
PATCHES = torch.tensor([[10.0], [20], [30], [40], [50]])
TAPS = keys(angles(0, 190, 10, 235, 25))


def test_loners_are_protected_and_the_cluster_merges() -> None:
    method = reducer("pitome", entering=5, keep=4, options={"variant": "plain"})
    out = method.reduce(tokens(PATCHES), TAPS, 4)
    # the top two merge: 2 into 0; the others stay by falling energy
    assert out.x[0, :, 0].tolist() == [-1, 50, 40, 20, 20]
    assert out.size is not None
    assert out.size.tolist() == [[1, 1, 1, 2]]


def test_bsm_splits_all_tokens_in_energy_order() -> None:
    method = reducer("pitome", entering=5, keep=4, options={"variant": "bsm"})
    out = method.reduce(tokens(PATCHES), TAPS, 4)
    # a = 2, 4, 1 and b = 0, 3; the closest pair is 2 and 0, then 4 and 0, then 1 and 3
    assert out.x[0, :, 0].tolist() == [-1, 50, 20, 20, 40]


def test_the_margin_falls_with_depth_and_the_variant_changes_halfway() -> None:
    made = [reducer("pitome", entering=4, keep=3, layer=layer) for layer in range(6)]
    margins = [float(method.margin) for method in made]  # type: ignore[arg-type]
    np.testing.assert_allclose(margins, [0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert [method.variant for method in made] == ["bsm"] * 3 + ["plain"] * 3


def test_proportional_attention_is_off_unless_asked_for() -> None:
    assert not reducer("pitome", entering=4, keep=3).proportional_attention
    on = reducer("pitome", entering=4, keep=3, options={"proportional": True})
    assert on.proportional_attention


def test_reach_depends_on_the_variant_and_all_similarities_are_counted() -> None:
    method, facts = get_method("pitome"), synthetic_facts(1)
    auto, bsm = (method.resolve_options({"variant": word}) for word in ("auto", "bsm"))
    assert method.feasible(9, auto) == (5, 9)
    assert method.feasible(9, bsm) == (4, 9)
    assert method.feasible(1, bsm) == (1, 1)
    macs = method.overhead_macs(facts, 0, np.array([9]), np.array([5]), auto)
    assert macs.tolist() == [9 * 9 * 8]  # head_dim 8
