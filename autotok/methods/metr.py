"""METR: EViT whose class token is taught early, by small classifiers that only training has.

Liu, Kan, Shan, Chen, "A Simple Romance Between Multi-Exit Vision Transformer and Token Reduction",
ICLR 2024, OpenReview gJeYtRuguR; code LiuDongyang6/METR.

Class attention in early blocks is a poor judge of tokens, since the loss acts only at the far end.
A head on the class token that leaves each reducing block, W2 tanh(W1 LN(x) + b1) + b2, adds its
cross-entropy and its distance to the model's own final answer, which is not pulled towards it:

    L = CE(z, t) + head_weight sum_l CE(m_l, t) + distill_weight sum_l KD(m_l, z)

Sums over heads; KD is tau^2 times the mean over images of KL(softmax(z / tau), softmax(m / tau)).
`deploy` takes the heads off: what is left is EViT with those weights.

Departures: the authors call their KD term and publish none; this form is ours. Heads sit at the
reduction layers; one elsewhere is a reduction layer that keeps everything. Where there is no class
token the mean over the patches is read. Without labels the cross-entropy of the heads is left out.
The authors' lists of counts say what stays beside the fused token, so that a list that repeats a
count drops one token and fuses it alone, weighted by its attention: option `count_schedule`. Heads
may learn from the uncompressed model instead (option `target`), which is ours. What the authors'
poster trains first, heads without a reduction, is a schedule that keeps everything. Heads beside
another method are its exits of kind `metr`, under the losses of exits; the sum above is this
method's alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from autotok.config import Options
from autotok.errors import ConfigError
from autotok.tokens import Taps, Tokens

from .base import Option, Site
from .block_hooks import BlockHooks
from .evit import EViT
from .learning import LossContext, TrainingRecipe
from .losses import self_distillation
from .official_weights import OfficialWeights
from .primitives import fuse
from .registry import register
from .scoring import attention_scores


def early_head(width: int, num_classes: int) -> nn.Sequential:
    """Logits (B, classes) of a class token (B, C), under torch's own start of a Linear."""
    return nn.Sequential(
        nn.LayerNorm(width, eps=1e-6),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, num_classes),
    )


@register("metr")
class METR(BlockHooks, OfficialWeights, EViT):
    """EViT, trained with classifiers on early class tokens that are gone afterwards."""

    title = "METR (ICLR 2024)"
    same_untrained = "evit"
    acts_early = False
    options = (
        *EViT.options,
        Option("head_weight", 0.15, "weight of the heads' cross-entropy", low=0.0, high=100.0),
        Option(
            "distill_weight",
            0.15,
            "weight of the heads' distance to the final answer",
            low=0.0,
            high=100.0,
        ),
        Option("temperature", 1.0, "of that distance", low=0.01, high=100.0),
        Option(
            "target",
            "answer",
            "whose answer that is: the model's own final one, or the uncompressed model's",
            choices=("answer", "uncompressed"),
        ),
        Option(
            "count_schedule",
            False,
            "a layer that is given the count that enters it fuses its last token alone",
        ),
    )
    official_names = ((r"mid_heads\.(\d+)\.(.+)", r"head.\2"),)
    official_by_block = True
    recipe = TrainingRecipe(
        losses={"ce": 1.0},
        source="LiuDongyang6/METR: 30 epochs from DeiT, 8e-5 at batch 2048 to 2e-6, no warm-up",
    )

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        self.head: nn.Sequential | None = None
        self.seen: Tensor | None = None  # training: the class token leaving the block
        if site.facts.num_classes:
            self.head = early_head(site.facts.blocks[site.layer].width, site.facts.num_classes)

    @classmethod
    def acts(cls, entering: Any, keep: Any, options: Options) -> Any:
        alone = bool(options["count_schedule"] and options["fuse"])
        return super().acts(entering, keep, options) | alone

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        if self.acts(num_keep, num_keep, self.values) and num_keep == tokens.num_patches:
            scores = attention_scores(taps, self.needs, tokens.num_prefix)
            return fuse(tokens, scores.topk(num_keep, dim=1).indices, scores)
        return super().reduce(tokens, taps, num_keep)

    def after_block(self, layer: int, tokens: Tokens) -> Tokens:
        if self.training and self.head is not None and layer == self.site.layer:
            has_cls = self.site.facts.has_cls
            self.seen = tokens.x[:, 0] if has_cls else tokens.patches.mean(dim=1)
        return tokens

    def terms(self, context: LossContext) -> tuple[Tensor, Tensor]:
        """(cross-entropy, distance to the final answer) of this head, not weighted."""
        assert self.head is not None
        assert self.seen is not None
        answer = self.head(self.seen).float()
        right = answer.new_zeros(())
        if context.labels is not None:
            smoothing = context.label_smoothing
            right = F.cross_entropy(answer, context.labels, label_smoothing=smoothing)
        heat = float(self.values["temperature"])
        return right, self_distillation(answer, self._target(context), temperature=heat)

    def _target(self, context: LossContext) -> Tensor:
        """Logits (B, classes) that the heads are drawn to."""
        if self.values["target"] == "answer":
            return context.logits
        theirs = context.teacher_logits
        if theirs is None or theirs.shape != context.logits.shape:
            raise ConfigError(
                f"option 'target' of method '{self.name}' is 'uncompressed', which needs a teacher"
                f" of {context.logits.shape[1]} classes; give the uncompressed model, or set it to"
                " 'answer'"
            )
        return theirs

    def teacher_layers(self) -> frozenset[int]:
        """A block where the uncompressed model's answer is the target: asking for one has it
        run, whose logits come with its tokens."""
        asks = self.head is not None and self.values["target"] == "uncompressed"
        return frozenset({self.site.layer}) if asks else frozenset()

    def extra_loss(self, context: LossContext) -> Tensor | None:
        """This head's share of the loss."""
        if self.head is None or self.seen is None:
            return None
        right, near = self.terms(context)
        self.seen = None  # the graph behind it is no longer needed
        values = self.values
        return float(values["head_weight"]) * right + float(values["distill_weight"]) * near

    def deploy(self) -> None:
        self.head, self.seen = None, None
