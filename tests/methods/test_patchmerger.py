import numpy as np
import torch
from hand import reducer, tokens
from torch.nn import functional as F

from autotok.methods import Site, get_method
from autotok.methods.patchmerger import PatchMerger
from autotok.testing import synthetic_facts
from autotok.tokens import Taps

PATCHES = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))


def merger(scaled: bool = False) -> PatchMerger:
    method = reducer("patchmerger", entering=5, keep=2, options={"scaled": scaled})
    assert isinstance(method, PatchMerger)
    return method


def test_queries_of_zero_average_the_normalised_tokens() -> None:
    method = merger()
    with torch.no_grad():
        method.queries.zero_()
    out = method.reduce(tokens(PATCHES), Taps(), 2)
    mean = F.layer_norm(PATCHES, (16,)).mean(dim=0)
    torch.testing.assert_close(out.patches[0], mean.expand(2, -1))


def test_a_long_query_picks_the_token_it_points_at() -> None:
    method, normed = merger(), F.layer_norm(PATCHES, (16,))
    with torch.no_grad():
        method.queries.copy_(100 * normed[[3, 1]])
    out = method.reduce(tokens(PATCHES), Taps(), 2)
    torch.testing.assert_close(out.patches[0], normed[[3, 1]], atol=1e-4, rtol=0)


def test_scaling_softens_the_choice() -> None:
    sharp, soft = merger(), merger(scaled=True)
    soft.load_state_dict(sharp.state_dict())
    assert soft.scale == 0.25  # width 16
    mean = F.layer_norm(PATCHES, (16,)).mean(dim=0)
    spread = [
        (m.reduce(tokens(PATCHES), Taps(), 2).patches[0] - mean).norm() for m in (soft, sharp)
    ]
    assert spread[0] < spread[1]


def test_costs_and_parameters_follow_the_count() -> None:
    method, facts = get_method("patchmerger"), synthetic_facts(1)
    macs = method.overhead_macs(facts, 1, np.array([10]), np.array([4]), {})
    assert macs.tolist() == [2 * 10 * 4 * 16]
    made = sum(p.numel() for p in merger().parameters())
    assert method.site_params(Site(1, 5, 2, facts), {}) == made
