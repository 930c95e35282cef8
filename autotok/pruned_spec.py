"""`PrunedSpec`: which blocks, heads and MLP units a pruned ViT keeps, said in full.

The numbers are those of the uncompressed model, so that a configuration alone, beside the model
that it was found for, gives the pruned one again: nothing has to be ranked anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from autotok.errors import ConfigError


@dataclass(frozen=True)
class PrunedSpec:
    """What is kept of a ViT: one entry per kept block, in rising order.

    A kept block keeps at least one head and one MLP unit: methods look at every block's attention,
    and a block that is not worth a head is better dropped as a whole.
    """

    blocks: tuple[int, ...]
    """Which blocks."""
    heads: tuple[tuple[int, ...], ...]
    """Which heads of each."""
    units: tuple[str, ...]
    """Which MLP units of each: a hexadecimal number whose highest bit is unit 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(int(b) for b in self.blocks))
        heads = tuple(tuple(int(h) for h in row) for row in self.heads)
        object.__setattr__(self, "heads", heads)
        object.__setattr__(self, "units", tuple(str(u) for u in self.units))
        if not self.blocks or not len(self.blocks) == len(heads) == len(self.units):
            raise ConfigError(
                f"subnet lists {len(self.blocks)} blocks, heads of {len(heads)} and units of"
                f" {len(self.units)}; all need one entry per kept block"
            )
        for what, row in (("blocks", self.blocks), *(("heads", row) for row in heads)):
            if not row or row[0] < 0 or list(row) != sorted(set(row)):
                raise ConfigError(
                    f"subnet keeps {what} {list(row)}; give whole numbers from 0 on, rising, each"
                    " once, at least one"
                )
        for text in self.units:
            if not text or set(text) - set("0123456789abcdef") or not text.strip("0"):
                raise ConfigError(
                    f"subnet keeps units '{text[:20]}'; give a hexadecimal number (0-9, a-f) that"
                    " holds at least one 1"
                )

    @property
    def depth(self) -> int:
        """Number of blocks kept."""
        return len(self.blocks)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """MLP units kept in each block."""
        return tuple(int(text, 16).bit_count() for text in self.units)

    @property
    def short(self) -> str:
        """Its shape in a few words, such as '10 blocks, heads 3-6, MLP 512-1536'."""
        ranges = []
        for counts in ([len(row) for row in self.heads], self.widths):
            ranges.append("-".join(map(str, sorted({min(counts), max(counts)}))))
        return f"{self.depth} blocks, heads {ranges[0]}, MLP {ranges[1]}"


def units_text(kept: list[int], total: int) -> str:
    """The text of `PrunedSpec.units` for some of `total` units."""
    digits, held = -(-total // 4), set(kept)
    bits = "".join("1" if unit in held else "0" for unit in range(4 * digits))
    return f"{int(bits, 2):0{digits}x}"


def listed_units(text: str) -> list[int]:
    """The inverse of `units_text`."""
    bits = f"{int(text, 16):0{4 * len(text)}b}"
    return [unit for unit, bit in enumerate(bits) if bit == "1"]
