"""Which number format models are judged in: the fastest that agrees with float32 on this model.

Weights and the sum of branches stay in float32; products inside the blocks run in the other format
(torch's autocast), while embedding, read-out and whatever chooses tokens do not (`exactly`). The
uncompressed model's own outputs are computed in the same format as the compressed ones: what both
lose is then no difference, and a model that is not compressed agrees with itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.errors import AutotokError
from autotok.names import check_precision

from .accuracy import Evaluator, computing
from .data import DataSource

_LOG = logging.getLogger(__name__)
CHECK_IMAGES = 8
MOST_KL = 0.01
"""Mean over the images checked; a tenth of what a mild reduction costs, fifty times what bfloat16
does to the demo."""
LEAST_WORK = 5e7
"""Weights times tokens of a model: 1.2 times as fast there, 1.5 at 1e8; below, casts take what
products save."""
SLOWEST = 1.5
"""Times float32; load from others does not make it so slow, emulation does."""


@dataclass(frozen=True)
class ChosenFormat:
    """A number format, and why."""

    precision: str
    why: str

    @property
    def sentence(self) -> str:
        """Both in words."""
        return f"models are judged in {self.precision}: {self.why}"


def choose_format(asked: str, backbone: Backbone, data: DataSource, *, seed: int) -> ChosenFormat:
    """The format asked for; for 'auto' the fastest that agrees with float32 on the first images:
    every one keeps its class (headless: its nearest neighbour), and the mean KL is small.

    Raises:
        UnknownName: no such format.
    """
    check_precision(asked)
    if asked != "auto":
        return ChosenFormat(asked, "as asked")
    like, facts = next(backbone.parameters()), backbone.facts
    if like.dtype != torch.float32:
        return ChosenFormat("float32", f"the weights are {str(like.dtype).removeprefix('torch.')}")
    formats = _fast_formats(like.device)
    if not formats:
        return ChosenFormat("float32", f"nothing is faster on this {like.device.type}")
    if facts.params * (facts.num_patches + facts.num_prefix) < LEAST_WORK:
        return ChosenFormat("float32", "the model is too small to gain from another")
    refused = []
    for name in formats:
        agrees, words = _checked(name, backbone, data, seed)
        if agrees:
            return ChosenFormat(name, words)
        refused.append(f"{name} {words}")
    return ChosenFormat("float32", "; ".join(refused))


def _checked(name: str, backbone: Backbone, data: DataSource, seed: int) -> tuple[bool, str]:
    """Whether a format agrees with float32 on the first images, and how it went, in words."""
    number = min(CHECK_IMAGES, len(data))
    images, _ = data.batch(data.subset(number, seed))  # decoded before anything is timed
    plain = Evaluator(backbone, data, metric="agreement", seed=seed)
    plain.gallery_size = min(plain.gallery_size, number)
    cast = _Cast(backbone, name)
    try:
        with torch.inference_mode():
            for model in (backbone, cast):  # the first run of either is slower
                model(images[:1].to(next(backbone.parameters()).device))
        exact_s = _seconds(lambda: plain.reference(0, number))
        start = time.perf_counter()
        tally = plain.evaluate(cast, 0, number)
        low_s = time.perf_counter() - start
    except (AutotokError, RuntimeError) as error:  # infinity, or an operator that lacks the format
        _LOG.info("%s cannot be used: %s", name, error)
        return False, "cannot run this model"
    kl = tally.kl_sum / tally.num_compared
    what = "nearest neighbour" if plain.gallery_size else "class"
    words = (
        f"same {what} as float32 on {tally.agreeing} of {number} images, mean KL {kl:.1g},"
        f" {exact_s / low_s:.2f} times as fast"
    )
    agrees = tally.agreeing == number and kl <= MOST_KL and low_s <= SLOWEST * exact_s
    return agrees, words


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class _Cast(nn.Module):
    """A model in a number format of its own."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model, self._precision = model, precision

    def forward(self, images: Tensor) -> Tensor:
        with computing(images.device, self._precision):
            logits: Tensor = self.model(images)
        return logits


def _fast_formats(device: torch.device) -> tuple[str, ...]:
    """Formats that the hardware multiplies in faster than in float32, the safest first."""
    if device.type == "cuda":
        return ("bfloat16", "float16") if torch.cuda.is_bf16_supported() else ("float16",)
    if device.type == "mps":
        return ("float16",)
    return ("bfloat16",) if device.type == "cpu" and cpu_has_bf16() else ()


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies in bfloat16."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private, so may be missing
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)
