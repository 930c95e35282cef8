"""`autoformer_demo`: the built-in supernet, small in width and large in token count.

Its weights (a few megabytes in half precision) travel with the package; one image costs the default
subnet about as much as AutoFormer-S, because the canvas has 841 patches. Trained by
`autotok supernet train studies/demo_supernet/recipe.yaml`.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from autotok.config import SubnetSpec
from autotok.errors import CheckpointError, misfit

from .autoformer import AutoFormer, SupernetSpec
from .checkpoint import read_state_dict
from .supernet import AutoFormerSupernet

DEMO_SPEC = SupernetSpec(
    embed_dim=144,
    depth=12,
    heads=3,
    mlp_ratio=4.0,
    embed_choices=(96, 120, 144),
    depth_choices=(10, 11, 12),
    heads_choices=(2, 3),
    mlp_ratio_choices=(3.0, 3.5, 4.0),
    image_shape=(1, 232, 232),
    patch_size=8,
    num_classes=10,
)
DEMO_SUBNET = SubnetSpec(
    embed_dim=144,
    heads=(2, 2, 2, 2, 3, 2, 2, 2, 2, 2, 2, 2),
    mlp_ratios=(4.0, 3.5, 4.0, 4.0, 3.5, 4.0, 4.0, 4.0, 3.5, 4.0, 4.0, 3.5),
)
WEIGHTS = "autoformer_demo.safetensors"


def load_demo_supernet(path: Path | None = None) -> AutoFormerSupernet:
    """The trained supernet in float32, from the package or from a file `save_supernet` wrote."""
    supernet = AutoFormerSupernet(DEMO_SPEC)
    with as_file(files("autotok") / "assets" / WEIGHTS) as packaged:
        tensors = read_state_dict(path or packaged)
    try:
        supernet.load_state_dict({key: value.float() for key, value in tensors.items()})
    except RuntimeError as error:
        raise CheckpointError(
            f"checkpoint '{path or WEIGHTS}' does not fit the demo supernet ({misfit(error)})"
        ) from error
    return supernet.eval()


def load_demo_backbone(subnet: SubnetSpec | None = None) -> AutoFormer:
    """A stand-alone subnet of the demo supernet, `DEMO_SUBNET` by default."""
    return load_demo_supernet().cut(subnet or DEMO_SUBNET, name="autoformer_demo").eval()
