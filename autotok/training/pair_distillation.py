"""`distil_pairs`: ToCom's adapters of one backbone, learned between pairs of degrees of merging.

Jie et al., ECCV 2024, arXiv 2408.06798. Every step draws two different degrees. The teacher is the
backbone merged at the one, as it is; the student is merged at the other, with the adapters between
the two in their unfolded form; both see the same images, and only the adapters learn, from the
Kullback-Leibler divergence of their outputs. Everything random is a function of (seed, step).

Departures: one process, in float32; the length is a number of steps, and the images are varied as
`augment` says, where the authors take ten epochs of ImageNet under DeiT's recipe; no branch is left
out, where their student drops 0.1 of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.backbones.family import write_tensors
from autotok.backbones.twin import twin_of
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.errors import ConfigError, DataError, Diverged, IncompatibleMethod
from autotok.evaluation.augment import augmented, check_augment
from autotok.evaluation.data import DataSource
from autotok.evaluation.transfer import sent
from autotok.export.weights import weights_identity
from autotok.finetune_spec import check_seed
from autotok.methods.author_units import from_num_removed
from autotok.methods.tocom import DEGREES, Adapters, ToCom, removed_at

from .batches import BatchOrder, augmentation_draws, seed_streams
from .losses import deit_soft

FORMAT = "autotok adapters 1"
_PAIRS = 0x9A125
"""The stream of a seed that draws degrees."""


@dataclass(frozen=True)
class PairSpec:
    """How adapters are trained; by default as published, but for length, batch and stochastic
    depth, of which there is none."""

    steps: int = 1000
    batch_size: int = 16
    lr: float = 2e-3
    """At the start; the authors' for 1,024 images a step."""
    final_lr: float = 1e-5
    """Where the cosine ends, at most `lr`."""
    weight_decay: float = 0.05
    scale: float = 0.1
    group_width: int = 2
    """Hidden units per degree."""
    dropout: float = 0.1
    """Of hidden units."""
    rescaled: bool = True
    """See the option of `tocom`."""
    augment: str = "crop-flip"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr", "scale", "group_width"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}")
        for option in ToCom.options:  # or no model could take what is trained
            if option.name in ("scale", "group_width"):
                option.check(getattr(self, option.name), ToCom.name)
        check_seed(self.seed)
        check_augment(self.augment)

    def pair(self, step: int) -> tuple[int, int]:
        """(source, target) of a step: uniform among the ordered pairs of different degrees."""
        draws = np.random.default_rng([self.seed, _PAIRS, step])
        source, target = draws.choice(DEGREES + 1, size=2, replace=False)
        return int(source), int(target)

    def rate(self, step: int) -> float:
        """The learning rate of a step: a cosine without warm-up."""
        share = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        final = min(self.final_lr, self.lr)
        return final + (self.lr - final) * share


class PairStudent(nn.Module):
    """A frozen backbone at any degree, plain or with adapters on the way from another one."""

    def __init__(self, backbone: Backbone, adapters: Adapters, spec: PairSpec) -> None:
        super().__init__()
        if not all(backbone.alone().qkv_weights(i) for i in range(backbone.facts.num_blocks)):
            raise IncompatibleMethod(
                f"backbone '{backbone.facts.name}' (family {backbone.facts.family}) has no"
                " projection to queries, keys and values of its own; adapters cannot be trained"
                " for it"
            )
        self.backbone = twin_of(
            backbone.alone(), lambda p: nn.Parameter(p.detach(), requires_grad=False)
        )
        self.adapters, self.spec = adapters, spec
        self.train()

    def train(self, mode: bool = True) -> PairStudent:
        """Adapters train; the backbone is as it is judged, for its statistics are the original's
        own buffers."""
        super().train(mode)
        self.backbone.eval()
        return self

    def at(self, degree: int) -> CompressedViT:
        """The frozen backbone at a degree."""
        facts = self.backbone.facts
        removed = removed_at(degree, facts, rescaled=self.spec.rescaled)
        reductions = from_num_removed(
            removed, facts.num_patches, num_blocks=facts.num_blocks, at_most_half=True
        )
        return compress_backbone(self.backbone, CompressionConfig("tome", reductions))

    @torch.no_grad()
    def teach(self, images: Tensor, source: int) -> Tensor:
        """Logits (B, classes) at the source, without adapters."""
        logits: Tensor = self.at(source)(images)
        return logits

    def forward(self, images: Tensor, source: int, target: int) -> Tensor:
        """Logits (B, classes) at the target, compensated from the source."""
        between = self.adapters.between(source, target, scale=self.spec.scale)
        dropout = self.spec.dropout if self.training else 0.0
        self.backbone.added = lambda i, normed: between.added(i, normed, dropout=dropout)
        try:
            logits: Tensor = self.at(target)(images)
        finally:
            self.backbone.added = None
        return logits


def distil_pairs(
    backbone: Backbone,
    data: DataSource,
    spec: PairSpec,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> Adapters:
    """Trained adapters for a backbone, which is not changed.

    Args:
        data: Training images; labels are not looked at.
        on_step: Told of every step's number and loss.

    Raises:
        ConfigError: the backbone has no classes to compare.
        DataError: there are no images.
        IncompatibleMethod: the backbone has no projections that adapters could be folded into.
        Diverged: the loss, or a step's gradient, is no number.
    """
    if not backbone.facts.num_classes:
        raise ConfigError(
            f"backbone '{backbone.facts.name}' has no classifier, and adapters learn from its"
            " output; give one with a head"
        )
    if len(data) == 0:
        raise DataError(f"data '{data.name}' has no training images; give at least one")
    device = next(backbone.parameters()).device
    adapters = Adapters(backbone.facts, group_width=spec.group_width, seed=spec.seed).to(device)
    student = PairStudent(backbone, adapters, spec)
    order = BatchOrder(data, spec.seed, spec.batch_size, len(data))
    optimizer = torch.optim.AdamW(adapters.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
    with torch.random.fork_rng(devices=[]):
        for step in range(spec.steps):
            seed_streams(spec.seed * 1_000_003 + step, device)  # dropout
            images, _ = data.batch(order.indices(step))
            images = augmented(images, spec.augment, augmentation_draws(spec.seed, step))
            for group in optimizer.param_groups:
                group["lr"] = spec.rate(step)
            loss = _step(student, optimizer, sent(images, device), step)
            if on_step is not None:
                on_step(step, loss)
    return adapters


def _step(
    student: PairStudent, optimizer: torch.optim.Optimizer, images: Tensor, step: int
) -> float:
    """The loss of one step, which the adapters now learned from."""
    spec = student.spec
    pair = spec.pair(step)
    teacher = student.teach(images, pair[0])
    optimizer.zero_grad(set_to_none=True)
    loss = deit_soft(student(images, *pair).float(), teacher.float())
    loss.backward()
    norm = nn.utils.clip_grad_norm_(student.adapters.parameters(), math.inf)
    if not (math.isfinite(loss.item()) and bool(torch.isfinite(norm))):
        raise Diverged(f"adapters diverged at step {step}; try a lower lr than {spec.lr:g}")
    optimizer.step()
    return loss.item()


def save_adapters(adapters: Adapters, path: Path, backbone: Backbone, spec: PairSpec) -> Path:
    """`path`, now holding adapters under their authors' names, with the scale that they were
    trained at and whose they are (safetensors)."""
    tensors = {n: w.detach().cpu().contiguous() for n, w in adapters.named()}
    metadata = {
        "format": FORMAT,
        "backbone": backbone.facts.name,
        "backbone_weights": weights_identity(backbone),
        **{key: str(value) for key, value in dataclasses.asdict(spec).items()},
    }
    return write_tensors(path, tensors, metadata)
