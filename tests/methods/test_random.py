import torch
from hand import reducer

from autotok.tokens import Taps, Tokens


def kept(seed: int, layer: int) -> list[float]:
    x = torch.arange(-1.0, 40).reshape(1, 41, 1).expand(2, -1, 1)
    method = reducer("random", entering=40, keep=12, layer=layer, options={"seed": seed})
    out = method.reduce(Tokens(x, 1, (5, 8)), Taps(), 12)
    assert torch.equal(out.x[0], out.x[1])
    assert not method.state_dict()
    return [float(value) for value in out.patches[0, :, 0]]


def test_the_same_seed_keeps_the_same_tokens_in_raster_order() -> None:
    first = kept(3, 1)
    assert first == sorted(first) == kept(3, 1)
    assert len(set(first)) == 12


def test_other_seeds_and_layers_keep_other_tokens() -> None:
    assert len({tuple(kept(seed, layer)) for seed in range(4) for layer in range(4)}) == 16
