"""What ViTs of transformers say about themselves."""

import pytest
from hf_models import hf_backbone


@pytest.mark.parametrize(
    ("kind", "pooling", "prefix", "classes"),
    [
        ("ViTForImageClassification", "cls", 1, 5),
        ("DeiTForImageClassificationWithTeacher", "cls+dist", 2, 5),
        ("Dinov2WithRegistersForImageClassification", "cls+mean", 5, 5),
        ("DINOv3ViTModel", "cls", 5, 0),
        ("BeitForImageClassification", "mean", 1, 5),
        ("CLIPForImageClassification", "mean", 1, 5),
        ("SiglipVisionModel", "map", 0, 0),
        ("SiglipForImageClassification", "mean", 0, 5),
    ],
)
def test_the_kind_of_every_head_is_known(
    kind: str, pooling: str, prefix: int, classes: int
) -> None:
    facts = hf_backbone(kind).facts
    assert (facts.pooling, facts.num_prefix, facts.num_classes) == (pooling, prefix, classes)
    assert facts.carries_positions == kind.startswith(("DINOv3", "Beit"))
