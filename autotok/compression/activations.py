"""What precedes the first reduction of candidates, kept for batches of images that come again.

Blocks that no reducer acts in give the same for every candidate. Kept are the tokens that enter the
block a candidate first acts in, per batch: the same images in the same company, so that what comes
out is the same to the last bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

import torch
from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.tokens import Needs, Tokens

from .model import CompressedViT

LIMIT_BYTES = 2**28  # as much as an uncompressed forward of a few images takes
Key = tuple[Hashable, ...]


class Activations:
    """Tokens on their way through one uncompressed backbone; the longest unused go first."""

    def __init__(self, backbone: Backbone, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.backbone, self.limit_bytes = backbone, limit_bytes
        self.bytes, self.hits = 0, 0
        """Bytes held; blocks that were not run again, a batch at a time."""
        self._kept: OrderedDict[Key, Tokens] = OrderedDict()
        self._lock = Lock()

    def entering(self, layer: int, images: Tensor, batch: Hashable, needs: Needs) -> Tokens:
        """Tokens of a batch, which `batch` names, as they enter block `layer`."""
        cast = torch.is_autocast_enabled(images.device.type)
        like = batch, needs, images.dtype, cast and torch.get_autocast_dtype(images.device.type)
        keys = [(*like, start) for start in range(layer, 0, -1)]
        with self._lock:
            key = next((key for key in keys if key in self._kept), None)
            if key is not None:
                start, tokens = layer - keys.index(key), self._kept[key]
                self._kept.move_to_end(key)
                self.hits += start
        if key is None:
            start, tokens = 0, self.backbone.embed(images, needs)[0]
        if start < layer:
            tokens = self.backbone.run_blocks(tokens, start, layer)
            with self._lock:
                self._keep(keys[0], tokens)
        return tokens

    def _keep(self, key: Key, tokens: Tokens) -> None:
        if key in self._kept:
            return
        self._kept[key] = tokens
        self.bytes += _bytes(tokens)
        while self.bytes > self.limit_bytes:
            self.bytes -= _bytes(self._kept.popitem(last=False)[1])


def _bytes(tokens: Tokens) -> int:
    return tokens.x.nbytes + (0 if tokens.shared is None else tokens.shared.nbytes)


@contextmanager
def entered(
    model: nn.Module, images: Tensor, indices: Sequence[int], kept: Activations | None
) -> Iterator[None]:
    """While open, the model's next forward, of these images, starts where it first acts.

    Nothing happens without `kept`, and where the model is none of its backbone's or acts at once.
    """
    parts = [part for part in model.modules() if isinstance(part, CompressedViT)]
    layer = parts[0].unaltered_blocks() if len(parts) == 1 else 0
    if kept is None or layer == 0 or parts[0].backbone is not kept.backbone:
        yield
        return
    needs = parts[0].embedding_needs() & Needs.GRID
    parts[0].entry = layer, kept.entering(layer, images, tuple(indices), needs)
    try:
        yield
    finally:
        parts[0].entry = None
