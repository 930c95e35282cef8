"""The architecture that a file's tensors tell."""

import pytest

from autotok.backbones.family import FAMILIES
from autotok.backbones.timm_layout import inferred_arguments
from autotok.backbones.timm_vit import timm
from autotok.backbones.unfilled import making_on


@pytest.mark.slow
def test_no_models_own_weights_ask_for_another_architecture() -> None:
    changed = {}
    for name in FAMILIES.get("timm_vit").names():
        with making_on("meta"):
            model = timm.create_model(name, pretrained=False)
        found = inferred_arguments(model.state_dict(), model)
        if found:
            changed[name] = found
    assert changed == {}
