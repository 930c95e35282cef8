"""Drawn configurations can be reached by their method, and vary."""

import numpy as np
import pytest

import autotok.methods  # noqa: F401
from autotok.backbones.loading import load_structure
from autotok.compression.schedule import realise
from autotok.predicting.random_configs import draw, drawable_methods

FACTS = load_structure("vit_small_patch16_224").facts


@pytest.mark.parametrize("name", drawable_methods(FACTS))
def test_every_drawn_configuration_can_be_realised(name: str) -> None:
    rng = np.random.default_rng(0)
    drawn = [draw(FACTS, name, rng) for _ in range(20)]
    kept = [realise(config, FACTS).kept for config in drawn]
    assert len(set(kept)) > 10
    assert all(1 <= count <= FACTS.num_patches for counts in kept for count in counts)


def test_methods_that_need_a_download_or_reduce_nothing_are_left_out() -> None:
    names = drawable_methods(FACTS)
    assert not {"none", "papr"} & set(names)
    assert {"topk", "tome", "kmedoids"} <= set(names)


def test_a_seed_draws_the_same_again() -> None:
    first, second = (draw(FACTS, "tome", np.random.default_rng(5)) for _ in range(2))
    assert first == second


def test_a_shallow_model_is_given_no_more_layers_than_it_has() -> None:
    shallow, rng = load_structure("tiny").facts, np.random.default_rng(0)
    for name in drawable_methods(shallow):
        for _ in range(10):
            realise(draw(shallow, name, rng), shallow)
