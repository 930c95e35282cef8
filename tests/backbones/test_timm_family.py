"""timm's models by name."""

from typing import Any

import pytest
from torch import nn

from autotok.backbones.loading import (
    as_backbone,
    known_backbones,
    load_backbone,
    load_structure,
)
from autotok.backbones.timm_family import create_timm
from autotok.backbones.timm_vit import timm
from autotok.errors import CheckpointError, UnknownName, UnsupportedBackbone


def test_anything_but_a_known_model_is_refused() -> None:
    with pytest.raises(UnsupportedBackbone, match="Linear"):
        as_backbone(nn.Linear(3, 3))
    with pytest.raises(UnknownName, match="did you mean 'deit_small_patch16_224'"):
        load_backbone("deit_smal_patch16_224")


def test_shapes_without_weights_are_those_of_the_tag() -> None:
    facts = load_structure("timm/vit_tiny_patch16_224.augreg_in21k").facts
    assert (facts.num_classes, load_structure("vit_tiny_patch16_224").facts.num_classes) == (
        21843,
        1000,
    )
    assert load_structure("beit_base_patch16_224.in22k_ft_in22k").facts.num_classes == 21841


def test_known_backbones_can_be_filtered() -> None:
    assert "deit_small_patch16_224" in known_backbones("deit_small*")
    assert known_backbones("autoformer_demo") == ["autoformer_demo"]


def test_weights_that_cannot_be_fetched_are_an_error_not_random_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create = timm.create_model

    def offline(*args: Any, **kwargs: Any) -> nn.Module:
        if kwargs.get("pretrained"):
            raise OSError("no route to host")
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr("autotok.backbones.hub.hub_answers", lambda: False)
    with pytest.raises(CheckpointError, match="--checkpoint"):
        create_timm("deit_small_patch16_224")


@pytest.mark.slow
def test_every_name_that_is_listed_runs_and_every_other_vit_is_refused_with_a_reason() -> None:
    modules = ("vision_transformer", "deit", "eva", "beit", "vision_transformer_relpos")
    listed = set(known_backbones())
    for name in (name for module in modules for name in timm.list_models(module=module)):
        if name in listed:
            facts = load_structure(name).facts
            assert facts.num_blocks > 1
            continue
        with pytest.raises(UnsupportedBackbone, match=f"'{name}' is not supported: ") as caught:
            load_structure(name)
        assert "\n" not in str(caught.value)
