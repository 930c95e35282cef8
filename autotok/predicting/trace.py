"""The operator trace: one forward on the meta device, every operator written down.

Latency and memory predictions are made from it. It also follows the life of every tensor: the
storage of each is weakly referenced while Python runs the model, so the peak of live bytes is that
of eager execution, temporaries held by callers' frames included.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator
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
from autotok.counting.meta_model import meta_copy
from autotok.counting.operators import LOOK_UPS, OperatorClass, classify, kernels
from autotok.methods.base import Kind
from autotok.methods.registry import get_method

from .meta_cache import MetaCache

__all__ = ["Life", "Operator", "Trace", "trace"]

Shape = tuple[int, ...]
_OUTCOMES = MetaCache()


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
    touched: tuple[Shape, ...] = ()
    """Bytes per element, then the axes really read, of each tensor taken and given; expanded axes
    count once."""


@dataclass(frozen=True)
class Life:
    """A storage: the operators during which it is live, first and last, and its size."""

    first: int
    last: int
    sizes: Shape
    """Bytes per element, then axes; their product is its bytes."""


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
    pooled: bool = False
    """Tokens are soft mixtures, so their positions crowd in the middle of the image."""
    marks: tuple[int, ...] = ()
    """Operators before each block and before the read-out."""
    lives: tuple[Life, ...] = ()
    """Every storage allocated; the images come first."""

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
    fusing = _FusedAttention(recorder) if fused_attention else contextlib.nullcontext()
    with _marked(twin, recorder) as marks, fusing, recorder:
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
        pooled=isinstance(twin, CompressedViT) and get_method(twin.config.method).kind is Kind.POOL,
        marks=tuple(marks),
        lives=recorder.memory.ended(len(recorder.operators)),
    )


@contextlib.contextmanager
def _marked(model: nn.Module, recorder: _Recorder) -> Iterator[list[int]]:
    """Filled while `model` runs: how many operators came before each block and the read-out."""
    marks: list[int] = []

    def marking(step: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*args: Any, **kwargs: Any) -> Any:
            marks.append(len(recorder.operators))
            return step(*args, **kwargs)

        return marked

    places: list[tuple[nn.Module, str]] = []
    if isinstance(model, CompressedViT):
        places = [(model, "_attended"), (model.backbone, "readout")]
    for owner, name in places:
        object.__setattr__(owner, name, marking(getattr(owner, name)))
    try:
        yield marks
    finally:
        for owner, name in places:  # the backbone may be shared
            object.__delattr__(owner, name)


def _weight_bytes(model: nn.Module) -> int:
    aside: list[Any] = [m for m in model.modules() if hasattr(m, "to_structure")]
    storages = {
        t.untyped_storage()._cdata: t.untyped_storage().nbytes()
        for part in [model, *(module.inside() for module in aside)]
        for t in [*part.parameters(), *part.buffers()]
    }
    return sum(storages.values())


@dataclass
class _Memory:
    """Live bytes, now and at most."""

    live: int = 0
    peak: int = 0
    known: dict[int, int] = field(default_factory=dict)
    """Number in `spans` of every live storage."""
    spans: list[tuple[int, int | None, Shape]] = field(default_factory=list)
    """First operator, the one before which it went (None: not yet), sizes."""

    def add(self, tensor: Tensor, operators: list[Operator]) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known[key] = len(self.spans)
        sizes = (tensor.element_size(), *tensor.shape)
        self.spans.append((len(operators), None, sizes if math.prod(sizes) == size else (size,)))
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.remove, key, size, operators).atexit = False

    def remove(self, key: int, size: int, operators: list[Operator]) -> None:
        number = self.known.pop(key)
        first, _, sizes = self.spans[number]
        self.spans[number] = first, len(operators), sizes
        self.live -= size

    def ended(self, count: int) -> tuple[Life, ...]:
        """All storages so far, after `count` operators."""
        return tuple(
            Life(first, (count if end is None else end) - 1, sizes)
            for first, end, sizes in self.spans
        )


class _Recorder(TorchDispatchMode):
    """Writes down every operator below autograd, and follows what it allocates."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self.memory = _Memory()
        self.paused = False

    def follow(self, tensor: Tensor) -> None:
        """Count a tensor as live from now until nobody holds it."""
        self.memory.add(tensor, self.operators)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = _OUTCOMES(func, args, kwargs)
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
    touched = tuple(map(_touched, [*taken, *given])) if launches else ()
    if name in LOOK_UPS and given:  # of what they look up in, they read what they give
        touched = (touched[len(taken)], *touched[1:])
    read, written = touched[: len(taken)], touched[len(taken) :]
    return Operator(
        name=name,
        kind=kind,
        inputs=tuple(tuple(t.shape) for t in taken),
        outputs=tuple(tuple(t.shape) for t in given),
        dtype=str(shown[0].dtype).removeprefix("torch.") if shown else "",
        bytes_read=sum(map(math.prod, read)),
        bytes_written=sum(map(math.prod, written)),
        macs=macs,
        launches=launches,
        touched=touched,
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


def _touched(tensor: Tensor) -> Shape:
    """Bytes per element and the axes in memory; axes that were expanded are read once."""
    axes = zip(tensor.shape, tensor.stride(), strict=True)
    return (tensor.element_size(), *(1 if stride == 0 else size for size, stride in axes))
