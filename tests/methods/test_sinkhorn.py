import numpy as np
import torch
from hand import reducer, tokens

from autotok.methods import Site, get_method
from autotok.methods.sinkhorn import Sinkhorn, transport_plan
from autotok.testing import synthetic_facts
from autotok.tokens import Taps


def test_every_token_gives_one_unit_and_every_centre_gets_the_same() -> None:
    scores = torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    plan = transport_plan(scores, 1.0, 5)
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(2, 20))
    torch.testing.assert_close(plan.sum(dim=2), torch.full((2, 8), 20 / 8), atol=1e-3, rtol=0)


def test_a_small_epsilon_sends_tokens_to_their_own_centre() -> None:
    plan = transport_plan(torch.eye(3)[None], 0.01, 10)
    torch.testing.assert_close(plan[0], torch.eye(3), atol=1e-4, rtol=0)


def test_norms_are_lost_and_the_parameter_is_left_alone() -> None:
    method = reducer("sinkhorn", entering=5, keep=2)
    assert isinstance(method, Sinkhorn)
    before = method.v.detach().clone()
    patches = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    out = method.reduce(tokens(patches), Taps(), 2)
    longer = method.reduce(tokens(patches * 7), Taps(), 2)
    torch.testing.assert_close(out.patches, longer.patches)
    assert torch.equal(out.prefix, tokens(patches).prefix)
    assert torch.equal(method.v, before)


def test_sizes_are_shared_out_only_if_asked_for() -> None:
    patches = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    plain = reducer("sinkhorn", entering=6, keep=2).reduce(tokens(patches), Taps(), 2)
    assert plain.size is None
    counting = reducer("sinkhorn", entering=6, keep=2, options={"track_size": True})
    out = counting.reduce(tokens(patches), Taps(), 2)
    torch.testing.assert_close(out.sizes().sum(), torch.tensor(6.0))


def test_costs_and_parameters_follow_the_count() -> None:
    method, facts = get_method("sinkhorn"), synthetic_facts(1)
    macs = method.overhead_macs(facts, 1, np.array([10, 8]), np.array([4, 2]), {})
    assert macs.tolist() == [2 * 10 * 4 * 16, 2 * 8 * 2 * 16]
    assert method.site_params(Site(1, 10, 4, facts), {}) == 4 * 16
