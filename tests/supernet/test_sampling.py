"""Which subnets are drawn."""

import numpy as np
import pytest

from autotok.backbones.demo import DEMO_SPEC, DEMO_SUBNET
from autotok.errors import ConfigError
from autotok.supernet.sampling import draw_subnet, sample_uniform


def test_subnets_are_drawn_from_the_choices_and_the_asked_kinds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        subnet = sample_uniform(DEMO_SPEC, rng)
        DEMO_SPEC.check(subnet)
        assert subnet.embed_dim in DEMO_SPEC.embed_choices
        assert subnet.depth in DEMO_SPEC.depth_choices
        assert set(subnet.heads) <= set(DEMO_SPEC.heads_choices)
    shares = {"largest": 0.5, "default": 0.5}
    kinds = {draw_subnet(DEMO_SPEC, DEMO_SUBNET, shares, rng) for _ in range(20)}
    assert kinds == {DEMO_SPEC.largest(), DEMO_SUBNET}
    with pytest.raises(ConfigError, match="did you mean 'largest'"):
        draw_subnet(DEMO_SPEC, DEMO_SUBNET, {"lagrest": 1.0}, rng)
