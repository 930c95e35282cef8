"""What the engine benchmark runs: backbones, schedules, and which method meets which."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from autotok.backbones.base import Backbone
from autotok.backbones.demo import load_demo_backbone
from autotok.backbones.feature_net import FOLDER
from autotok.backbones.timm_vit import TimmViT, timm
from autotok.config import CompressionConfig, Reduction
from autotok.facts import BackboneFacts
from autotok.methods.base import Kind, Placement
from autotok.methods.image_scoring import image_network
from autotok.methods.registry import get_method, list_methods

BACKBONES = ["vit_small_patch16_224", "autoformer_demo"]
STAGES, KEPT, KEPT_MILDLY = (3, 6, 9), (0.7, 0.5, 0.35), (0.95, 0.9, 0.85)
REMOVED = 13  # tokens in each layer, of ViT-S/16's 196
REMOVED_STRONGLY = 50  # of the demo's 841


def load(name: str) -> Backbone:
    """The demo subnet, or a timm ViT with random weights."""
    if name == "autoformer_demo":
        return load_demo_backbone()
    import timm

    return TimmViT(timm.create_model(name, pretrained=False).eval(), name=name).eval()


def stages(method: str, facts: BackboneFacts, kept: tuple[float, ...] = KEPT) -> CompressionConfig:
    """Keep 0.7, 0.5 and 0.35 of the tokens from blocks 3, 6 and 9 on; 0.5 where once is all."""
    rows = list(zip(STAGES, kept, strict=True))
    if get_method(method).single_layer:
        first = get_method(method).placement is Placement.BEFORE_BLOCKS
        rows = [(0 if first else STAGES[0], kept[1])]
    return CompressionConfig(
        method, tuple(Reduction(layer, keep_ratio=ratio) for layer, ratio in rows)
    )


def mild_stages(method: str, facts: BackboneFacts) -> CompressionConfig:
    """Keep 0.95, 0.9 and 0.85 of the tokens from blocks 3, 6 and 9 on; 0.9 where once is all."""
    return stages(method, facts, KEPT_MILDLY)


def layers(method: str, facts: BackboneFacts, removed: int = REMOVED) -> CompressionConfig:
    """13 tokens fewer in every block."""
    count, rows = facts.num_patches, []
    for layer in range(facts.num_blocks):
        count -= removed
        rows.append(Reduction(layer, num_keep=count))
    return CompressionConfig(method, tuple(rows))


def strong_layers(method: str, facts: BackboneFacts) -> CompressionConfig:
    """50 tokens fewer in every block."""
    return layers(method, facts, REMOVED_STRONGLY)


SCHEDULES: dict[str, Callable[[str, BackboneFacts], CompressionConfig]] = {
    "stages": stages,
    "layers": layers,
    "mild_stages": mild_stages,
    "strong_layers": strong_layers,
}


@contextmanager
def drawn_networks() -> Iterator[None]:
    """Random weights for the networks methods look at images with, unless there are real ones."""
    names = {
        image_network(get_method(m), get_method(m).resolve_options({})) for m in list_methods()
    }
    if FOLDER in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(None, names):
            weights = timm.create_model(name, pretrained=False).state_dict()
            torch.save(weights, Path(folder) / f"{name}.pth")
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[FOLDER]


def fits(method: str, schedule: str) -> bool:
    """Whether the table asks for it: every method in stages, matching ones in every layer."""
    kind = get_method(method).kind
    return kind is not Kind.NONE and (
        not schedule.endswith("layers") or kind in (Kind.MERGE, Kind.HYBRID)
    )
