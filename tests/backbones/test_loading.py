"""Backbones by name, file or object."""

from __future__ import annotations

import pytest

from autotok.backbones.loading import (
    backbone_facts,
    load_backbone,
    load_structure,
)
from autotok.errors import ConfigError


@pytest.mark.parametrize("name", ["autoformer_demo", "lvvit_s", "tiny", "deit_tiny_patch16_224"])
def test_facts_are_those_of_the_structure(name: str) -> None:
    assert backbone_facts(name) == load_structure(name).facts


def test_an_image_size_that_a_family_cannot_give_is_refused() -> None:
    with pytest.raises(ConfigError, match="'autoformer_demo' takes images of 232 pixels, not 224"):
        load_backbone("autoformer_demo", image_size=224)
