"""One golden file, run and compared: what the readers of all methods share.

A file holds outputs of the authors' own code (or of a paper's equations where it says so):
`logits`, `tokens` entering each block (prefix included), `config`, the authors' knobs as JSON,
learned parameters under `extra.*` by their official names. Readers turn `config` into a `Case`.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.timm_vit import TimmViT, VisionTransformer
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.official import load_official
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Reduction
from autotok.tokens import Tokens

GOLDEN = Path(__file__).parents[1] / "golden"
ATOL = 2e-5
BLOCKS, PATCHES = 6, 64
Config = dict[str, Any]
Arrays = Mapping[str, Any]


@dataclass
class Outcome:
    """What a run gave."""

    logits: Tensor
    """(images, classes)."""
    tokens: Tokens
    """As they reached the read-out; of the last image where images ran one by one."""
    attention: Tensor
    """(images, blocks): live patch tokens in each block's attention."""
    mlp: Tensor
    block_cls: Tensor
    """(blocks, images, C): the class token leaving each block."""
    model: CompressedViT


@dataclass
class Case:
    """How to reproduce one file."""

    config: CompressionConfig = field(default_factory=CompressionConfig)
    training: bool = False
    """Run the training form, with gradients."""
    one_by_one: bool = False
    """Each image alone: how data-dependent counts are defined."""
    counts: bool = True
    """Whether `tokens` (and `mlp_tokens`) say what runs; masked forms keep every token."""
    backbone: Callable[[], Backbone] | None = None
    """Other than the tiny ViT."""
    prepare: Callable[[CompressedViT], None] | None = None
    """Anything to do to the model before it runs."""
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    """Context to run in, such as one that replaces random decisions."""
    compare: Callable[[Outcome, Arrays], None] | None = None
    """What a file holds beyond the usual."""
    atol: float = ATOL
    block_atol: float | None = None
    """Of the class token leaving each block, if another."""
    check: Callable[[Arrays], None] | None = None
    """Replaces all of the above: files about one function only."""


Reader = Callable[[Config, Arrays], Case]


def folders() -> list[Path]:
    """tests/golden, and the folder that AUTOTOK_GOLDEN_DIR names."""
    extra = os.environ.get("AUTOTOK_GOLDEN_DIR")
    return [GOLDEN, Path(extra)] if extra else [GOLDEN]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Config, Arrays]]:
    """(configuration, arrays) of a file."""
    with np.load(path) as arrays:
        yield json.loads(str(arrays["config"])), arrays


@cache
def tiny_vit() -> TimmViT:
    """The ViT that the files were made with."""
    model = VisionTransformer(
        img_size=64, patch_size=8, num_classes=10, embed_dim=96, depth=BLOCKS, num_heads=3
    ).eval()
    with np.load(GOLDEN / "tinyvit.npz") as arrays:
        model.load_state_dict({key: torch.from_numpy(arrays[key]) for key in arrays.files})
    return TimmViT(model, name="golden")


@cache
def images() -> Tensor:
    """The four images, (4, 3, 64, 64)."""
    with np.load(GOLDEN / "inputs.npz") as arrays:
        return torch.from_numpy(arrays["x"])


def build(case: Case, arrays: Arrays) -> CompressedViT:
    """The compressed model with the file's learned parameters."""
    backbone = tiny_vit() if case.backbone is None else case.backbone()
    model = compress_backbone(backbone, case.config)
    learned = {k.removeprefix("extra."): arrays[k] for k in arrays if k.startswith("extra.")}
    if learned and any(True for _ in model.reducers.parameters()):
        load_official(model, {k: torch.from_numpy(np.asarray(v)) for k, v in learned.items()})
    if case.prepare is not None:
        case.prepare(model)
    return model.train(case.training)


def run(case: Case, arrays: Arrays) -> Outcome:
    """Build and run a case."""
    model = build(case, arrays)
    x = images()
    rows = [x[i : i + 1] for i in range(len(x))] if case.one_by_one else [x]
    with case.around(), torch.set_grad_enabled(case.training):
        parts = [_forward(model, row) for row in rows]
    model.eval()
    return Outcome(
        logits=torch.cat([p.logits for p in parts]),
        tokens=parts[-1].tokens,
        attention=torch.cat([p.attention for p in parts]),
        mlp=torch.cat([p.mlp for p in parts]),
        block_cls=torch.cat([p.block_cls for p in parts], dim=1),
        model=model,
    )


def _forward(model: CompressedViT, x: Tensor) -> Outcome:
    blocks = range(model.backbone.facts.num_blocks)
    watch = TapRequest(after=frozenset(blocks), counting=True)
    tokens = model.forward_tokens(x, trace=True, watch=watch)
    return Outcome(
        logits=model.backbone.readout(tokens),
        tokens=tokens,
        attention=torch.stack([watch.counts[layer].attention for layer in blocks], dim=1),
        mlp=torch.stack([watch.counts[layer].mlp for layer in blocks], dim=1),
        block_cls=torch.stack([watch.tokens[layer].x[:, 0] for layer in blocks]),
        model=model,
    )


def verify(case: Case, arrays: Arrays) -> None:
    """Compare everything a file holds that all files hold, then what its reader adds."""
    if case.check is not None:
        case.check(arrays)
        return
    found = run(case, arrays)
    close(found.logits, arrays["logits"], atol=case.atol)
    prefix = found.tokens.num_prefix
    if case.counts:
        per_block(found.attention, arrays["tokens"], prefix)
        if "mlp_tokens" in arrays:
            per_block(found.mlp, arrays["mlp_tokens"], prefix)
    if "block_cls" in arrays:
        atol = case.atol if case.block_atol is None else case.block_atol
        close(found.block_cls, arrays["block_cls"], rtol=1e-5, atol=atol)
    if case.compare is not None:
        case.compare(found, arrays)


def per_block(counts: Tensor, expected: Any, prefix: int) -> None:
    """Counts (images, blocks) of patch tokens, against (blocks,), (images, blocks) or its
    transpose with prefix tokens."""
    wanted = np.asarray(expected)
    if wanted.ndim == 2 and wanted.shape != tuple(counts.shape):
        wanted = wanted.T
    np.testing.assert_array_equal(
        counts.numpy() + prefix, np.broadcast_to(wanted, tuple(counts.shape))
    )


def close(
    got: Tensor, expected: np.ndarray[Any, Any], *, rtol: float = 0.0, atol: float = ATOL
) -> None:
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=rtol, atol=atol)


def same_sets(got: Tensor, expected: np.ndarray[Any, Any]) -> None:
    """Index rows (images, k) hold the same indices, in whatever order."""
    np.testing.assert_array_equal(np.sort(got.numpy(), axis=1), np.sort(expected, axis=1))


def with_options(
    reductions: tuple[Reduction, ...], options: list[dict[str, Any]]
) -> tuple[Reduction, ...]:
    """The reductions, with options listed per layer of the backbone."""
    return tuple(
        Reduction(r.layer, num_keep=r.num_keep, options=options[r.layer]) for r in reductions
    )
