"""The independent counter: torch's own operator-level count of a forward on the meta device.

It shares nothing with the formulas of `macs.py`: the compressed model runs, on tensors that have
shapes but no numbers, and `FlopCounterMode` adds up what was executed. On the meta device
`scaled_dot_product_attention` is dispatched as its two batched products, so attention is counted;
`count_operators` verifies that on the spot rather than trusting it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from autotok.backbones.base import Backbone, evaluating
from autotok.compression.model import CompressedViT

from .meta_model import meta_copy
from .operators import OperatorClass, classify

_HEAVY = (OperatorClass.MATMUL, OperatorClass.CONV, OperatorClass.ATTENTION, OperatorClass.OTHER)


@dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates of one image, and what the counter could not count."""

    macs: int
    by_operator: Mapping[str, int]
    uncounted: tuple[str, ...]
    """Operators that may multiply, or that nobody classified, for which torch has no formula."""


class _Seen(TorchDispatchMode):
    """Collects the operators that the flop counter has no formula for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uncounted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        name = packet.__name__
        if packet not in flop_registry and classify(name) in _HEAVY:
            self.uncounted[name] += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def count_operators(model: CompressedViT | Backbone) -> MacCount:
    """Count one image's forward; `model` itself is neither run nor changed."""
    _check_attention_is_counted()
    twin = meta_copy(model)
    facts = (twin.backbone if isinstance(twin, CompressedViT) else twin).facts
    dtype = next(twin.parameters()).dtype
    images = torch.empty(1, *facts.image_shape, dtype=dtype, device="meta")
    seen = _Seen()
    with FlopCounterMode(display=False) as counter, seen:
        twin(images)
    flops = counter.get_flop_counts().get("Global", {})
    assert all(value % 2 == 0 for value in flops.values())
    return MacCount(
        macs=counter.get_total_flops() // 2,
        by_operator={str(key): value // 2 for key, value in flops.items()},
        uncounted=tuple(f"{name} x{times}" for name, times in sorted(seen.uncounted.items())),
    )


@torch.no_grad()
def count_each(model: CompressedViT, images: Tensor) -> list[int]:
    """Multiply-accumulates of each image (n, C, H, W), executed one by one where the model is.

    For methods whose token counts depend on the image: on the meta device they are nominal.
    """
    like, found = next(model.parameters()), []
    with evaluating(model), _as_constants(model):
        for image in images.to(like).split(1):
            # fused attention has no formula off the meta device; spelled out, it is two products
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                model(image)
            found.append(counter.get_total_flops() // 2)
    return found


@contextmanager
def _as_constants(model: nn.Module) -> Iterator[None]:
    """Parameters that nothing learns: torch's counter loses its way where a module is called with
    one that does, such as the latent of an attention pool."""
    learning = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def count_macs(model: CompressedViT | Backbone) -> int:
    """Multiply-accumulates of one image as executed, by torch's counter on the meta device."""
    return count_operators(model).macs


@cache
def _check_attention_is_counted() -> None:
    """This torch counts fused attention on meta tensors, with and without a bias."""
    q = torch.empty(1, 2, 5, 8, device="meta")
    for mask in (None, torch.empty(1, 1, 5, 5, device="meta")):
        with FlopCounterMode(display=False) as counter:
            F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
        expected = 2 * 2 * (2 * 5 * 5 * 8)
        assert counter.get_total_flops() == expected, "this torch does not count fused attention"
