"""`PrunedStructure`: what pruning may leave of a ViT, as three questions of a search space.

How many blocks, which share of the heads and which share of the MLP units is asked; which of them
is decided by their importance per multiply-accumulate over all blocks together, so that the space
stays small and the structure is as uneven as the model is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest

from autotok.backbones.importance import Importance
from autotok.config import Primitive
from autotok.facts import BackboneFacts
from autotok.pruned_spec import PrunedSpec, units_text

from .subnets import Asked

SHARES = (0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Of the heads, and of the MLP units, of the blocks kept."""
LEAST_DEPTH = 0.5
"""Share of the blocks: fewer are beyond what a short fine-tune mends."""
WIDE_MLP = 512
"""MLPs from here on are cut in steps of 64, narrower ones of 32: matrix kernels work in tiles of so
many columns (tensor cores, AVX-512 and NEON blocks alike), and the rest of a tile is paid for in
full. A width is a multiple of the step, at least one of them, or the whole. Heads go whole, for
their width is what attention kernels are built for."""


@dataclass(frozen=True)
class PrunedStructure:
    """The pruned structures of one ViT; every choice is sorted, smallest first."""

    depth_choices: tuple[int, ...]
    heads_choices: tuple[float, ...]
    mlp_choices: tuple[float, ...]
    default: PrunedSpec
    """Everything kept: what a configuration without a subnet means."""
    digest: str
    """Short hash of the ranking."""
    ranking: Importance = field(repr=False, compare=False)
    facts_of: Callable[[PrunedSpec], BackboneFacts] = field(repr=False, compare=False)
    _made: dict[tuple[int, float, float], PrunedSpec] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _facts: dict[PrunedSpec, BackboneFacts] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(
        cls,
        facts: BackboneFacts,
        ranking: Importance,
        facts_of: Callable[[PrunedSpec], BackboneFacts],
    ) -> PrunedStructure:
        """All that can be asked of a backbone whose parts are ranked."""
        depth = facts.num_blocks
        text = json.dumps(ranking.to_dict(), sort_keys=True)
        return cls(
            tuple(range(max(1, round(LEAST_DEPTH * depth)), depth + 1)),
            SHARES,
            SHARES,
            PrunedSpec(
                tuple(range(depth)),
                tuple(tuple(range(b.heads)) for b in facts.blocks),
                tuple(units_text(list(range(b.hidden)), b.hidden) for b in facts.blocks),
            ),
            hashlib.sha256(text.encode()).hexdigest()[:12],
            ranking,
            facts_of,
        )

    def ask(self, ask: Asked) -> None:
        """Ask for a structure, smallest question first."""
        ask("subnet.depth", self.depth_choices)
        ask("subnet.heads", self.heads_choices)
        ask("subnet.mlp", self.mlp_choices)

    def subnet(self, params: Mapping[str, Primitive]) -> PrunedSpec:
        """The structure that a proposal asks for."""
        names = ("subnet.depth", "subnet.heads", "subnet.mlp")
        depth, heads, mlp = (params[name] for name in names)
        return self._spec(int(depth), float(heads), float(mlp))

    def params(self, subnet: PrunedSpec) -> dict[str, Primitive]:
        """The inverse of `subnet`; of a structure from elsewhere, the nearest choices."""
        rows = [self.ranking.units[b] for b in subnet.blocks]
        heads = sum(map(len, subnet.heads)) / sum(len(self.ranking.heads[b]) for b in subnet.blocks)
        mlp = sum(subnet.widths) / sum(map(len, rows))
        return {
            "subnet.depth": _nearest(self.depth_choices, subnet.depth),
            "subnet.heads": _nearest(self.heads_choices, heads),
            "subnet.mlp": _nearest(self.mlp_choices, mlp),
        }

    def canonical(self, subnet: PrunedSpec | None) -> PrunedSpec | None:
        """None for the whole model, so that a configuration has one name only."""
        return None if subnet == self.default else subnet

    def facts(self, subnet: PrunedSpec | None) -> BackboneFacts:
        """Facts of a structure; None is the whole model."""
        spec = subnet or self.default
        if spec not in self._facts:
            self._facts[spec] = self.facts_of(spec)
        return self._facts[spec]

    def shrunk(self, subnet: PrunedSpec) -> list[PrunedSpec]:
        """The structure, then ever smaller ones down to the smallest, one choice less at each step.

        MLP, heads and depth take turns, as long as each has a smaller choice.
        """
        params = self.params(subnet)
        steps = [
            [(name, choice) for choice in reversed(choices) if choice < float(params[name])]
            for name, choices in (
                ("subnet.mlp", self.mlp_choices),
                ("subnet.heads", self.heads_choices),
                ("subnet.depth", self.depth_choices),
            )
        ]
        path = [subnet]
        for step in (s for turn in zip_longest(*steps) for s in turn if s is not None):
            params = {**params, step[0]: step[1]}
            found = self.subnet(params)
            if found != path[-1]:  # a few heads and units have fewer sizes than there are choices
                path.append(found)
        return path

    def _spec(self, depth: int, heads: float, mlp: float) -> PrunedSpec:
        key = depth, heads, mlp
        if key not in self._made:
            rank = self.ranking
            order = sorted(range(len(rank.blocks)), key=lambda b: (-rank.blocks[b], b))
            blocks = sorted(order[:depth])
            kept_heads = kept_groups([rank.heads[b] for b in blocks], heads, step=1)
            kept_units = kept_groups(
                [rank.units[b] for b in blocks], mlp, step=mlp_step(len(rank.units[0]))
            )
            self._made[key] = PrunedSpec(
                tuple(blocks),
                tuple(map(tuple, kept_heads)),
                tuple(
                    units_text(kept, len(rank.units[b]))
                    for b, kept in zip(blocks, kept_units, strict=True)
                ),
            )
        return self._made[key]


def mlp_step(hidden: int) -> int:
    """MLP units that are kept or left out together."""
    return 64 if hidden >= WIDE_MLP else 32


def kept_groups(rows: Sequence[Sequence[float]], share: float, *, step: int) -> list[list[int]]:
    """What is kept of each row, about `share` of all of them together, in rising order.

    A row's entries are grouped by importance, `step` at a time; the groups of all rows compete by
    importance per entry (all entries cost the same), and of each row the first stays.
    """
    groups = [_groups(tuple(row), step) for row in rows]
    ready = [
        (-worth, r, g) for r, row in enumerate(groups) for g, (worth, _) in enumerate(row) if g > 0
    ]
    spare = max(0, round(share * (len(ready) + len(rows))) - len(rows))
    chosen = {(r, 0) for r in range(len(rows))} | {(r, g) for _, r, g in sorted(ready)[:spare]}
    return [
        sorted(i for g, (_, group) in enumerate(row) if (r, g) in chosen for i in group)
        for r, row in enumerate(groups)
    ]


@lru_cache(maxsize=256)
def _groups(row: tuple[float, ...], step: int) -> list[tuple[float, list[int]]]:
    """(importance per entry, entries) of each group, the most important first.

    What does not fill one is the last, kept with all or not at all.
    """
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    groups = [order[start : start + step] for start in range(0, len(order), step)]
    return [(sum(row[i] for i in group) / len(group), group) for group in groups]


def _nearest(choices: Sequence[float], value: float) -> Primitive:
    return min(choices, key=lambda choice: abs(choice - value))
