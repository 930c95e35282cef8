"""LTMP: merge what is similar enough, prune what is unimportant enough, by learned thresholds.

Bonnaerens, Dambre, "Learned Thresholds Token Merging and Pruning for Vision Transformers", TMLR
2023, arXiv 2307.10780; code Mxbonn/ltmp.

Between attention and MLP: tokens on even positions whose most similar odd one (cosine of mean keys)
is closer than `merge_threshold` merge into it; then every token that receives less attention on
average than `threshold` goes (a merged one counts with its greatest part). How many stay
depends on the image. In training tokens stay and masks drop them, hard forwards and by a sigmoid
backwards; only the two thresholds of each layer learn, by the task and the squared distance of the
cost ratio from its target. `emit` writes the thresholds into the configuration.

Departures: all prefix tokens are protected; the ratio aimed at defaults to that of the nominal
counts, and on a CPU the cost is the mean over each chunk of a batch (about 2,600 tokens);
thresholds can also be calibrated, without training, so that the nominal counts stay on average
(`merge_share` of them by merging). `num_keep` is nominal. Prune thresholds are stored in
thousandths, so that one learning rate gives both kinds the authors' rates. With `aligned`, training
averages attention over the tokens still there and pairs them as inference does; the authors' form
counts the dropped ones too and so learns thresholds for counts that inference does not reproduce.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.config import Options, Primitive
from autotok.facts import BackboneFacts
from autotok.tokens import AttentionRule, Extra, Needs, Taps, Tokens

from .base import Count, Kind, Option, Site, Training
from .learning import Learning, LossContext, TrainingRecipe
from .matching import Matching
from .official_weights import OfficialWeights
from .primitives import at_least_one, directions, select, select_ragged
from .registry import register
from .thresholds import Calibrated

MEANS = "ltmp.means"
# published rates are 5e-3 for merge and 5e-6 for prune thresholds: so scaled, one does for both
THOUSANDTHS = 1000.0


@register("ltmp")
class LTMP(Matching, OfficialWeights, Learning, Calibrated):
    """Merges and prunes by thresholds, as many as the image allows."""

    title = "LTMP (TMLR 2023)"
    kind = Kind.HYBRID
    training_need = Training.OPTIONAL
    count = Count.ADAPTIVE
    official_by_block = True
    calibrates = "threshold"
    learns_thresholds = True
    exportable = False
    options = (
        Option("merge_threshold", 0.9, "similarity above which tokens merge", low=0.0, high=1.0),
        Option("threshold", 0.0, "mean attention up to which tokens go", low=0.0, high=1.0),
        Option(
            "merge_share",
            0.5,
            "share of the removed that merges, in calibration",
            low=0.0,
            high=1.0,
            search=True,
        ),
        Option("tau", 0.1, "temperature of the masks' gradients", low=0.001, high=10.0),
        Option(
            "target",
            0.0,
            "cost ratio aimed at; 0 is the counts' own",
            low=0.0,
            high=1.0,
            model_wide=True,
        ),
        Option(
            "cost_weight", 10.0, "weight of the cost term", low=0.0, high=1000.0, model_wide=True
        ),
        Option("aligned", False, "train on the tokens that inference would see"),
    )
    needs = Needs.KEYS | Needs.ATTENTION
    proportional_attention = True
    recipe = TrainingRecipe(
        reducer_lr=50.0,
        backbone_lr=0.0,
        reducer_decay=0.0,
        losses={"ce": 1.0},
        source="Mxbonn/ltmp: thresholds only, lr 5e-3 (merge) and 5e-6 (prune), 1 epoch",
    )

    official_names = ((r"blocks\.(\d+)\.([^.]*_threshold)", r"\2"),)

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        self.merge_threshold = nn.Parameter(torch.tensor(float(self.values["merge_threshold"])))
        prune = float(self.values["threshold"]) * THOUSANDTHS
        self.prune_threshold = nn.Parameter(torch.tensor(prune))
        # the authors' 1e-5 in masked attention; the other methods' code has 1e-6
        self.rule = AttentionRule(diagonal=False, epsilon=1e-5)

    @classmethod
    def feasible(cls, entering: int, options: Options) -> tuple[int, int]:
        return 1, entering

    @classmethod
    def overhead_params(cls, facts: BackboneFacts, options: Options) -> int:
        return 2

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        prefix = tokens.num_prefix
        if self.training:
            alive = tokens.x.new_ones(tokens.sizes().shape) if tokens.mask is None else tokens.mask
            return self._mask(tokens, taps, alive)
        with torch.no_grad():
            live = _live(tokens)
            importance = _importance(taps, live, prefix)  # (B, n)
            value, partner = _best(taps, live, prefix)
            if self.calibrating:
                self._calibrate(value, partner, importance, live, num_keep)
            merges = value > self.merge_threshold
        merged = _folded(tokens, merges, partner, importance)
        keep = live & ~merges & (merged.importance > self.prune_threshold / THOUSANDTHS)
        if self.site.facts.reads_patches:
            keep = at_least_one(keep, merged.importance.masked_fill(~live | merges, -torch.inf))
        order = _parted(keep, prefix)
        return select_ragged(merged.tokens, keep, nominal=num_keep, order=order)

    # --- training: masks

    def _mask(self, tokens: Tokens, taps: Taps, mask: Tensor) -> Tokens:
        """All tokens, those that go masked out: a live one takes its new mask, others keep theirs.

        As in the authors' code, similarities and attention keep their gradients, so that an early
        threshold feels what it does to later choices; the merging itself passes none on.
        """
        prefix, live, tau = tokens.num_prefix, mask.detach() > 0.5, float(self.values["tau"])
        aligned = bool(self.values["aligned"])
        importance = _importance(taps, live if aligned else torch.ones_like(live), prefix)
        value, partner = _best(taps, live, prefix, unseen=-torch.inf if aligned else 0.0)
        merges = _hardened((value - self.merge_threshold) / tau) * live
        merged = _folded(tokens, merges.detach() > 0.5, partner, importance)
        limit = self.prune_threshold / THOUSANDTHS
        keep = torch.where(live, 1.0 - merges, mask)
        keep = torch.where(keep > 0.5, _hardened((merged.importance - limit) / tau), keep)
        if self.site.facts.reads_patches:
            stays = merged.importance.masked_fill(~live | (merges >= 0.5), -torch.inf)
            best = at_least_one(keep > 0.5, stays)
            keep = torch.where(best & (keep < 0.5), 1.0, keep)
        extras = {**tokens.extras, MEANS: self._noted(tokens, keep)}
        tokens = dataclasses.replace(merged.tokens, mask=keep, rule=self.rule, extras=extras)
        order = _parted(keep, prefix)
        if aligned:  # as inference leaves them
            gone = (keep.detach() < 0.5).gather(1, order)
            order = order.gather(1, gone.to(torch.int8).argsort(dim=1, stable=True))
        return select(tokens, order)

    def _noted(self, tokens: Tokens, keep: Tensor) -> Extra:
        """Per layer so far, (B, layers, 3): share of tokens kept, the layer, the nominal share."""
        prefix, total = tokens.num_prefix, keep.shape[1] + tokens.num_prefix
        share = ((keep.sum(dim=1) + prefix) / total).unsqueeze(1)  # (B, 1)
        fixed = share.new_tensor([float(self.site.layer), (self.site.num_keep + prefix) / total])
        rows = torch.cat([share, fixed.expand(share.shape[0], -1)], dim=1).unsqueeze(1)
        if MEANS in tokens.extras:
            rows = torch.cat([tokens.extras[MEANS].values, rows], dim=1)
        return Extra(rows, ())

    def extra_loss(self, context: LossContext) -> Tensor | None:
        """Squared distance of the cost ratio from its target, once per model."""
        if not self.site.is_last or MEANS not in context.tokens.extras:
            return None
        rows = context.tokens.extras[MEANS].values.mean(dim=0)  # (sites, 3)
        layers = [int(layer) for layer in rows[:, 1]]
        target = float(self.values["target"])
        if target == 0.0:
            target = float(self.cost_ratio(layers, rows[:, 2].detach()))
        distance = self.cost_ratio(layers, rows[:, 0]) - target
        return float(self.values["cost_weight"]) * distance**2

    def cost_ratio(self, layers: list[int], share: Tensor) -> Tensor:
        """Cost over the uncompressed model's where `share` (layers,) of tokens leave `layers`."""
        facts = self.site.facts
        count = facts.num_patches + facts.num_prefix
        leaving = dict(zip(layers, share, strict=True))
        now, total = share.new_ones(()), share.new_zeros(())
        for layer, block in enumerate(facts.blocks):
            width, after = block.width, leaving.get(layer, now)
            spent = 2 * now * count * width**2 + (now * count) ** 2 * width
            spent = spent + 4 * after * count * width**2
            total = total + spent / (6 * count * width**2 + count**2 * width)
            now = after
        return total / len(facts.blocks)

    @torch.no_grad()
    def end_step(self) -> None:
        self.merge_threshold.clamp_(0.0, 1.0)
        self.prune_threshold.clamp_(0.0, THOUSANDTHS)

    # --- thresholds without training, in and out of configurations

    @torch.no_grad()
    def _calibrate(
        self, value: Tensor, partner: Tensor, importance: Tensor, live: Tensor, num_keep: int
    ) -> None:
        """Thresholds at which `num_keep` tokens of these images stay on average."""
        wanted = max(0, int(live.sum()) - num_keep * live.shape[0])
        similar = value[value.isfinite()].sort(descending=True).values
        number = min(round(wanted * float(self.values["merge_share"])), len(similar))
        self.merge_threshold.fill_(_between(similar, number, 1.0, 0.0))
        self.merge_threshold.clamp_(0.0, 1.0)
        merges = value > self.merge_threshold
        raised = _raised(importance, merges, partner)
        falling = raised[live & ~merges].sort().values
        number = min(max(0, wanted - int(merges.sum())), len(falling))
        self.prune_threshold.fill_(_between(falling, number, 0.0, 1.0) * THOUSANDTHS)

    def calibrated(self) -> dict[str, Primitive]:
        return {
            "merge_threshold": float(self.merge_threshold.detach()),
            "threshold": float(self.prune_threshold.detach()) / THOUSANDTHS,
        }

    @classmethod
    def from_official(cls, name: str, values: Tensor) -> Tensor:
        return values * THOUSANDTHS if name == "prune_threshold" else values


@dataclasses.dataclass(frozen=True)
class Merged:
    """Tokens after merging, in place, and how much attention each receives."""

    tokens: Tokens
    importance: Tensor  # (B, n)


def _live(tokens: Tokens) -> Tensor:
    """(B, n) bool, False for padding."""
    if tokens.live is not None:
        return tokens.live
    shape = (tokens.x.shape[0], tokens.num_patches)
    return torch.ones(shape, dtype=torch.bool, device=tokens.x.device)


def _importance(taps: Taps, live: Tensor, prefix: int) -> Tensor:
    """(B, n): attention each patch receives, mean over heads and over prefix and live rows."""
    rows = F.pad(live.to(taps.attention.dtype), (prefix, 0), value=1.0)  # (B, N)
    received = (taps.attention.mean(dim=1) * rows.unsqueeze(-1)).sum(dim=1)
    return (received / rows.sum(dim=1, keepdim=True))[:, prefix:]


def _best(
    taps: Taps, live: Tensor, prefix: int, *, unseen: float = -torch.inf
) -> tuple[Tensor, Tensor]:
    """Each patch's most similar odd one: the cosine, -inf if it may not merge, and where, (B, n).

    Positions count prefix tokens; `unseen` is the similarity to a token that is not there.
    """
    metric = directions(taps.mean_keys[:, prefix:])  # (B, n, D)
    first = prefix % 2
    even, odd = metric[:, first::2], metric[:, 1 - first :: 2]
    value = metric.new_full(live.shape, -torch.inf)
    partner = torch.zeros_like(live, dtype=torch.int64)
    if odd.shape[1] == 0 or even.shape[1] == 0:
        return value, partner
    similarity = even @ odd.transpose(-2, -1)
    similarity = similarity.masked_fill(~live[:, None, 1 - first :: 2], unseen)
    best, where = similarity.max(dim=-1)
    value[:, first::2] = best.masked_fill(~live[:, first::2], -torch.inf)
    partner[:, first::2] = 2 * where + 1 - first
    return value, partner


def _parted(values: Tensor, prefix: int) -> Tensor:
    """(B, n), an order with tokens on even positions first; prefix tokens count."""
    first, line = prefix % 2, torch.arange(values.shape[1], device=values.device)
    order = torch.cat([line[first::2], line[1 - first :: 2]])
    return order.expand(values.shape[0], -1)


def _folded(tokens: Tokens, merges: Tensor, partner: Tensor, importance: Tensor) -> Merged:
    """Each token of `merges` (B, n) folded into its `partner`; all stay where they are."""
    sizes, patches = tokens.sizes(), tokens.patches
    given = sizes * merges
    size = sizes.scatter_add(1, partner, given)
    index, halves = partner.unsqueeze(-1), slice(tokens.num_prefix % 2, None, 2)
    parts = (given / size.gather(1, partner))[:, halves].unsqueeze(-1)
    moved = patches[:, halves] * parts  # only even ones merge
    means = patches * (sizes / size).unsqueeze(-1)
    means = means.scatter_add(1, index[:, halves].expand_as(moved), moved)
    del moved
    source = tokens.source
    if source is not None:
        held = (source & merges.unsqueeze(-1)).to(torch.float32)
        united = torch.zeros_like(held).scatter_add(1, index.expand_as(held), held)
        source = source | (united > 0)
    x = torch.cat([tokens.prefix, means], dim=1)
    new = dataclasses.replace(tokens, x=x, size=size, source=source)
    return Merged(new, _raised(importance, merges, partner))


def _raised(importance: Tensor, merges: Tensor, partner: Tensor) -> Tensor:
    """Importance (B, n), a partner's being the greatest of all it takes in."""
    taken = importance.masked_fill(~merges, -torch.inf)
    return importance.scatter_reduce(1, partner, taken, "amax")


def _hardened(logits: Tensor) -> Tensor:
    """1 above 0, else 0, with a sigmoid's gradient."""
    soft = logits.sigmoid()
    return (logits > 0).to(soft.dtype) + (soft - soft.detach())


def _between(ordered: Tensor, number: int, start: float, end: float) -> Tensor:
    """A value that parts the first `number` of a sorted (n,) from the others; `start` for none."""
    padded = torch.cat([ordered.new_tensor([start]), ordered, ordered.new_tensor([end])])
    return (padded[number] + padded[number + 1]) / 2 if number else padded[0]
