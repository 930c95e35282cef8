import torch
from hand import angles, keys, reducer, tokens

# patches 0 and 2 take in; patch 1 (0, 4) is nearest to patch 2 (3, 0)
PATCHES = torch.tensor([[1.0, 1], [0, 4], [3, 0], [7, 7]])
TAPS = keys(angles(0, 85, 90, 170))


def merged(mode: str, rule: str = "paper", layer: int = 1) -> list[float]:
    options: dict[str, bool | int | float | str] = {"mode": mode, "norm_rule": rule}
    method = reducer("tofu", entering=4, keep=3, layer=layer, options=options)
    out = method.reduce(tokens(PATCHES), TAPS, 3)
    assert out.size is None
    torch.testing.assert_close(out.x[0, :3], torch.tensor([[-1.0, -1], [7, 7], [1, 1]]))
    return [round(float(value), 4) for value in out.x[0, 3]]


def test_pruning_drops_the_source_and_leaves_the_partner() -> None:
    assert merged("prune") == [3, 0]


def test_averaging_takes_the_plain_mean() -> None:
    assert merged("avg") == [1.5, 2]


def test_mlerp_gives_the_mean_the_largest_norm() -> None:
    assert merged("mlerp") == [2.4, 3.2]


def test_the_third_partys_rule_divides_by_the_old_partners_norm() -> None:
    assert merged("mlerp", "third_party") == [2, 2.6667]


def test_early_blocks_prune_and_late_ones_merge() -> None:
    assert [merged("auto", layer=layer) for layer in (0, 3)] == [[3, 0], [3, 0]]
    assert [merged("auto", layer=layer) for layer in (4, 5)] == [[2.4, 3.2]] * 2
