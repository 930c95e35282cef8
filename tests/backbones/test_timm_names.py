"""Names of timm's models: the tag counts."""

from collections.abc import Callable

import pytest

from autotok.backbones.loading import check_name, load_backbone, load_structure
from autotok.backbones.timm_names import is_timm_name
from autotok.errors import UnknownName


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "timm/vit_tiny_patch16_224.augreg_in21k"])
def test_prefix_and_tag_may_be_there_or_not(name: str) -> None:
    assert is_timm_name(name)
    assert not is_timm_name(f"{name}.x")


@pytest.mark.parametrize("ask", [check_name, load_structure, load_backbone])
def test_a_tag_that_timm_does_not_know_is_told(ask: Callable[[str], object]) -> None:
    told = r"'timm/vit_tiny_patch16_224.augreg_in21' is unknown; did you mean .*augreg_in21k"
    with pytest.raises(UnknownName, match=told):
        ask("timm/vit_tiny_patch16_224.augreg_in21")
    with pytest.raises(UnknownName, match="known: resnet50"):
        ask("resnet50.nonsense")
