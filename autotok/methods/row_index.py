"""Where tokens stand once the images of a batch are laid end to end, row after row.

On CPU whole rows are copied by one `index_select` over all images' rows; its index needs each
image's first row. These small constants are made once per shape, except where something watches
the operators (tracing, export, the meta device), which has to see them made.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from autotok.tokens import is_watched


def flat_rows(index: Tensor, count: int, *, skip: int = 0, step: int = 1) -> Tensor:
    """(B, k) rows of B blocks of `count` rows: those at `skip + step * index` of each block."""
    if index.shape[0] == 1 and skip == 0 and step == 1:
        return index
    first = _constants(index, (count, skip, 0, 0))[0]
    return torch.add(first, index, alpha=step)


def fixed_rows(
    index: Tensor, count: int, *, prefix: int, start: int, odd: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of each image: number `start` (B, 1), the first `prefix` ones, every second from `odd`.

    The batch, and the device, are those of `index`.
    """
    return _constants(index, (count, start, prefix, odd))


def add_rows(values: Tensor, target: Tensor, rows: Tensor) -> None:
    """Add `rows` (B, r, C) to `values` (B, k, C), in place, at `target` (B, r) of each image."""
    if torch.onnx.is_in_onnx_export():
        values += _chosen(target, values.shape[1], values.dtype) @ rows
        return
    # for gradients `index_add_` keeps its source, which here is often a part of what it changes
    if target.shape[0] == 1 and not values.requires_grad:
        values[0].index_add_(0, target[0], rows[0])
    elif (
        _plain(target) and values.device.type == "cpu"
    ):  # 10 times faster there than `scatter_add_`
        image = _constants(target, (1, 0, 0, 0))[0]
        values.index_put_((image, target), rows, accumulate=True)
    else:
        values.scatter_add_(1, target.unsqueeze(-1).expand_as(rows), rows)


def summed_up(values: Tensor, target: Tensor, first: int) -> Tensor:
    """The first K rows of `values` (B, N, C), with each of the last, (B, r), added to the row
    `first + target`; said as one product, see `_chosen`."""
    kept = values.shape[1] - target.shape[1]
    return values[:, :kept] + _chosen(first + target, kept, values.dtype) @ values[:, kept:]


def _chosen(target: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """(B, K, r): 1 where a row goes to one of K; by it a sum is a product, not a scatter.

    For files only: engines refuse scatters with a sum, and the threads of ONNX Runtime lose some of
    what they add to the same row.
    """
    line = torch.arange(count, device=target.device).unsqueeze(-1)
    return (line == target.unsqueeze(1)).to(dtype)


Shape = tuple[int, int, int, int]
"""Rows of an image, the row to start from, prefix rows, the first odd row."""


def _constants(index: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    make = _kept if _plain(index) else _made
    return make(index.shape[0], shape, index.device)


def _plain(index: Tensor) -> bool:
    """Nothing watches the operators."""
    return type(index) is Tensor and not index.is_meta and not is_watched()


def _made(batch: int, shape: Shape, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    count, start, prefix, odd = shape
    image = torch.arange(batch, device=device).unsqueeze(1) * count
    line = torch.arange(count, device=device)
    return image + start, image + line[:prefix], image + line[odd::2]


@functools.lru_cache(maxsize=1024)
def _kept(batch: int, shape: Shape, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    with torch.inference_mode(False):
        return _made(batch, shape, device)
