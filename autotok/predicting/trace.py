"""The operator trace: one forward on the meta device, every operator written down.

Latency and memory predictions are made from it. It also follows the life of every tensor: the
storage of each is weakly referenced while Python runs the model, so the peak of live bytes is that
of eager execution, temporaries held by callers' frames included.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from autotok.backbones.base import Backbone
from autotok.compression.model import CompressedViT
from autotok.counting.meta_model import meta_copy
from autotok.counting.operators import LOOK_UPS, OperatorClass, classify, kernels
from autotok.methods.base import Kind
from autotok.methods.registry import get_method

from .meta_cache import MetaCache

MB = 1e6
Shape = tuple[int, ...]
_OUTCOMES = MetaCache()


@dataclass(frozen=True)
class Operator:
    """One operator call as executed."""

    name: str
    kind: OperatorClass
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    bytes_read: int
    bytes_written: int
    macs: int
    launches: int


@dataclass(frozen=True)
class Segment:
    """The operators of one block of a traced compressed model, its reduction and the head of an
    exit behind it included."""

    block: int
    """-1 for the embedding, the number of blocks for the read-out."""
    first: int
    """Where its operators start among those of the trace."""
    peak_live_bytes: int
    """Highest sum of live tensors meanwhile."""


@dataclass(frozen=True)
class Trace:
    """All operators of one forward, and what memory it needs."""

    operators: tuple[Operator, ...]
    batch: int
    dtype: str
    image_shape: tuple[int, int, int]
    weight_bytes: int
    """Parameters and buffers the model holds."""
    peak_live_bytes: int
    """Highest sum of live tensors, images included, weights not."""
    pooled: bool = False
    """Tokens are soft mixtures, so their positions crowd in the middle of the image."""
    segments: tuple[Segment, ...] = ()
    """Of a compressed model: embedding, blocks, read-out."""

    def operators_of(self, segment: Segment) -> tuple[Operator, ...]:
        """Those of one segment."""
        later = [s.first for s in self.segments if s.block > segment.block]
        return self.operators[segment.first : min(later, default=len(self.operators))]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole batch."""
        return sum(op.macs for op in self.operators)

    @property
    def launches(self) -> int:
        """Kernels launched."""
        return sum(op.launches for op in self.operators)


@torch.no_grad()
def trace(
    model: CompressedViT | Backbone,
    *,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    fused_attention: bool = True,
) -> Trace:
    """Trace one forward of `batch` images; `model` itself is neither run nor changed.

    Images run to the end: of a model with exits, every head is asked on the way.

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
    recorder.memory.add(images)
    fusing = _FusedAttention(recorder) if fused_attention else contextlib.nullcontext()
    with fusing, recorder:
        if isinstance(twin, CompressedViT):
            twin.run_to_end(images, recorder.begin)
        else:
            twin(images)
    recorder.end()
    return Trace(
        operators=tuple(recorder.operators),
        batch=batch,
        dtype=str(dtype).removeprefix("torch."),
        image_shape=facts.image_shape,
        weight_bytes=_weight_bytes(twin),
        peak_live_bytes=max(s.peak_live_bytes for s in recorder.segments),
        pooled=isinstance(twin, CompressedViT) and get_method(twin.config.method).kind is Kind.POOL,
        segments=tuple(recorder.segments) if isinstance(twin, CompressedViT) else (),
    )


def _weight_bytes(model: nn.Module) -> int:
    aside: list[Any] = [m for m in model.modules() if hasattr(m, "to_structure")]
    storages = {
        t.untyped_storage()._cdata: t.untyped_storage().nbytes()
        for part in [model, *(module.inside() for module in aside)]
        for t in [*part.parameters(), *part.buffers()]
    }
    return sum(storages.values())


@dataclass
class LiveBytes:
    """Bytes of the live tensors it was told of, now and at most."""

    live: int = 0
    peak: int = 0
    known: set[int] = field(default_factory=set)
    """Every live storage."""

    def add(self, tensor: Tensor) -> None:
        """Count a tensor as live from now until nobody holds it."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.remove, key, size).atexit = False

    def remove(self, key: int, size: int) -> None:
        self.known.remove(key)
        self.live -= size

    def lap(self) -> int:
        """The peak since the last lap; the next one starts with what is live."""
        peak, self.peak = self.peak, self.live
        return peak


class _Recorder(TorchDispatchMode):
    """Writes down every operator below autograd, and follows what it allocates."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self.memory = LiveBytes()
        self.paused = False
        self.segments: list[Segment] = []
        self._at = (-1, 0)

    def begin(self, block: int) -> None:
        """A block begins, or the read-out; the embedding has begun."""
        self.end()
        self._at = (block, len(self.operators))

    def end(self) -> None:
        """The block that had begun is over."""
        self.segments.append(Segment(*self._at, self.memory.lap()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = _OUTCOMES(func, args, kwargs)
        if self.paused:
            return result
        taken, given = list(_tensors((args, *kwargs.values()))), list(_tensors(result))
        name = func._overloadpacket.__name__
        held = {t.untyped_storage()._cdata for t in taken}
        fresh = [t for t in given if t.untyped_storage()._cdata not in held]
        mutates = func._schema.is_mutable
        for tensor in fresh:
            self.memory.add(tensor)
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
    read, written = [_bytes(t) for t in taken], [_bytes(t) for t in given]
    if name in LOOK_UPS and given:  # of what they look up in, they read what they give
        read[0] = written[0]
    return Operator(
        name=name,
        kind=kind,
        inputs=tuple(tuple(t.shape) for t in taken),
        outputs=tuple(tuple(t.shape) for t in given),
        bytes_read=sum(read) if launches else 0,
        bytes_written=sum(written) if launches else 0,
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
        recorder.memory.add(memory)
        taken = [q, k, v, *([mask] if mask is not None else [])]
        macs = batch * heads * rows * columns * (width + v.shape[-1])
        name = "scaled_dot_product_attention"
        recorder.operators.append(
            _operator(name, OperatorClass.ATTENTION, taken, [out], macs, launches=1)
        )
        return out


def _tensors(tree: object) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for branch in tree:
            yield from _tensors(branch)


def _bytes(tensor: Tensor) -> int:
    """Bytes in memory; axes that were expanded are read once."""
    axes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(size for size, stride in axes if stride)
