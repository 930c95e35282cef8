"""The operator trace: one forward on the meta device, every operator written down.

Latency and memory predictions are made from it. It also follows the life of every tensor: the
storage of each is weakly referenced while Python runs the model, so the peak of live bytes is that
of eager execution, temporaries held by callers' frames included.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from autotok.backbones.base import Backbone
from autotok.compression.model import CompressedViT

from .operators import OperatorClass, classify, kernels
from .structure import meta_copy

__all__ = ["Operator", "Trace", "trace"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """One operator call as executed."""

    name: str
    kind: OperatorClass
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    dtype: str
    bytes_read: int
    bytes_written: int
    macs: int
    launches: int


@dataclass(frozen=True)
class Trace:
    """All operators of one forward, and what memory it needs."""

    operators: tuple[Operator, ...]
    batch: int
    dtype: str
    image_shape: tuple[int, int, int]
    fused_attention: bool
    """Attention without its map in memory counts as one operator."""
    weight_bytes: int
    """Parameters and buffers the model holds."""
    input_bytes: int
    """The images, held by the caller throughout."""
    peak_live_bytes: int
    """Highest sum of live tensors, images included, weights not."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole batch."""
        return sum(op.macs for op in self.operators)

    @property
    def launches(self) -> int:
        """Kernels launched."""
        return sum(op.launches for op in self.operators)

    def unknown(self) -> tuple[str, ...]:
        """Names of operators that are in no class; their cost is a guess."""
        return tuple(sorted({o.name for o in self.operators if o.kind is OperatorClass.OTHER}))


@torch.no_grad()
def trace(
    model: CompressedViT | Backbone,
    *,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    fused_attention: bool = True,
) -> Trace:
    """Trace one forward of `batch` images; `model` itself is neither run nor changed.

    Args:
        model: Compressed or not, on any device.
        batch: Images at once.
        dtype: Number format of weights and images.
        fused_attention: Whether the target has a kernel for plain attention; if not, its products,
            softmax and map are operators of their own.
    """
    twin = meta_copy(model, dtype=dtype)
    facts = (twin.backbone if isinstance(twin, CompressedViT) else twin).facts
    images = torch.empty(batch, *facts.image_shape, dtype=dtype, device="meta")
    recorder = _Recorder()
    recorder.follow(images)
    if fused_attention:
        with _FusedAttention(recorder), recorder:
            twin(images)
    else:
        with recorder:
            twin(images)
    return Trace(
        operators=tuple(recorder.operators),
        batch=batch,
        dtype=str(dtype).removeprefix("torch."),
        image_shape=facts.image_shape,
        fused_attention=fused_attention,
        weight_bytes=_weight_bytes(twin),
        input_bytes=images.nbytes,
        peak_live_bytes=recorder.memory.peak,
    )


def _weight_bytes(model: nn.Module) -> int:
    storages = {
        t.untyped_storage()._cdata: t.untyped_storage().nbytes()
        for t in [*model.parameters(), *model.buffers()]
    }
    return sum(storages.values())


@dataclass
class _Memory:
    """Live bytes, now and at most."""

    live: int = 0
    peak: int = 0
    known: set[int] = field(default_factory=set)

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.remove, key, size).atexit = False

    def remove(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


class _Recorder(TorchDispatchMode):
    """Writes down every operator below autograd, and follows what it allocates."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self.memory = _Memory()
        self.paused = False

    def follow(self, tensor: Tensor) -> None:
        """Count a tensor as live from now until nobody holds it."""
        self.memory.add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.paused:
            return result
        taken, given = list(_tensors((args, kwargs))), list(_tensors(result))
        name = func._overloadpacket.__name__
        held = {t.untyped_storage()._cdata for t in taken}
        fresh = [t for t in given if t.untyped_storage()._cdata not in held]
        mutates = func._schema.is_mutable
        for tensor in fresh:
            self.follow(tensor)
        launches = kernels(name) if fresh or mutates else 0
        kind = classify(name) if launches else OperatorClass.VIEW
        macs = 0
        if func._overloadpacket in flop_registry:
            formula = flop_registry[func._overloadpacket]
            macs = formula(*args, **kwargs, out_val=result) // 2
        self.operators.append(_operator(name, kind, taken, given, macs, launches))
        return result


def _operator(
    name: str,
    kind: OperatorClass,
    taken: list[Tensor],
    given: list[Tensor],
    macs: int,
    launches: int,
) -> Operator:
    shown = (given or taken)[:1]
    return Operator(
        name=name,
        kind=kind,
        inputs=tuple(tuple(t.shape) for t in taken),
        outputs=tuple(tuple(t.shape) for t in given),
        dtype=str(shown[0].dtype).removeprefix("torch.") if shown else "",
        bytes_read=sum(map(_touched, taken)) if launches else 0,
        bytes_written=sum(map(_touched, given)) if launches else 0,
        macs=macs,
        launches=launches,
    )


class _FusedAttention(TorchFunctionMode):
    """Stands in for the fused attention kernel, which the meta device takes apart.

    The output is laid out as the kernels lay it out, (B, N, H, D) in memory, so that flattening the
    heads afterwards is a view, as it is on a device.
    """

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, k, v = args[:3]
        mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
        batch, heads, rows, width = q.shape
        columns = k.shape[-2]
        recorder = self.recorder
        recorder.paused = True
        memory = q.new_empty(batch, rows, heads, v.shape[-1])
        out = memory.transpose(1, 2)
        recorder.paused = False
        recorder.follow(memory)
        taken = [q, k, v, *([mask] if mask is not None else [])]
        macs = batch * heads * rows * columns * (width + v.shape[-1])
        name = "scaled_dot_product_attention"
        recorder.operators.append(
            _operator(name, OperatorClass.ATTENTION, taken, [out], macs, launches=1)
        )
        return out


def _tensors(tree: object) -> Iterator[Tensor]:
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf


def _touched(tensor: Tensor) -> int:
    """Bytes of memory behind a tensor; axes that were expanded are read once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= 1 if stride == 0 and size > 1 else size
    return count * tensor.element_size()
