"""Sizes in a trace as functions of token counts, found from a few traces and exact on all of them.

Every size of every tensor is an integer combination of the counts around its block and of their
halves (even and odd tokens), or a product of two such. Combinations are solved for and then checked
on more traces than they have unknowns; a size that does not fit makes a trace inexpressible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotok.compression.schedule import Schedule

__all__ = ["Columns", "SymbolicSizes", "Inexpressible", "fit_symbolic_sizes"]

Counts = NDArray[np.int64]
_CLOSE = 1e-3
_SPARE = 1
"""Traces beyond the unknowns that a combination must fit too."""


class Inexpressible(Exception):
    """The sizes are no such functions, or the traces are too few to tell."""


@dataclass(frozen=True)
class Columns:
    """The counts that sizes are made of: 1, tokens in every block, tokens kept, and halves."""

    num_patches: int
    num_blocks: int
    layers: tuple[int, ...]

    def table(self, schedules: Sequence[Schedule]) -> Counts:
        """(N, V) of all counts."""
        whole = np.array(
            [
                (self.num_patches, *s.attention, *s.mlp, s.readout, *(x.num_keep for x in s.sites))
                for s in schedules
            ],
            dtype=np.int64,
        )
        return np.hstack([np.ones((len(whole), 1), np.int64), whole, whole // 2])

    def near(self, block: int) -> list[int]:
        """Columns that sizes of a block's operators may be made of: entering, its own, leaving.

        Block -1 is what comes before the first.
        """
        count = self.num_blocks
        found = [2 + b for b in (block, block + 1) if 0 <= b < count]  # in attention
        found += [2 + count + b for b in (block - 1, block) if 0 <= b < count]  # in the MLP
        if block >= count - 1:
            found.append(2 + 2 * count)
        kept = [i for i, layer in enumerate(self.layers) if layer <= block][-1:]
        found += [3 + 2 * count + i for i in kept]
        width = 2 + 2 * count + len(self.layers)
        return [0, *found, *(width + i for i in found)]

    @property
    def kept(self) -> list[int]:
        """Columns of the tokens kept at the layers."""
        start = 3 + 2 * self.num_blocks
        return [0, *range(start, start + len(self.layers))]


@dataclass(frozen=True)
class SymbolicSizes:
    """Integer combinations of columns, each once, and products of two of them."""

    weights: Counts
    """(V, F)."""
    products: tuple[tuple[int, int], ...]
    """Numbers of the factors; products are numbered after the combinations."""

    def __call__(self, table: Counts) -> Counts:
        """(N, F + P) of (N, V) counts."""
        exact = table.astype(np.float64) @ self.weights.astype(np.float64)
        found: Counts = np.rint(exact).astype(np.int64)
        pairs = [found[:, left] * found[:, right] for left, right in self.products]
        return np.column_stack([found, *pairs])

    @property
    def constant(self) -> NDArray[np.bool_]:
        """(F + P,) whether a form is the same for all counts."""
        varies = np.asarray(self.weights[1:].any(axis=0)).tolist()
        return ~np.array([*varies, *(varies[a] or varies[b] for a, b in self.products)])


def fit_symbolic_sizes(
    sizes: Sequence[Counts], near: Sequence[Sequence[int]], table: Counts
) -> tuple[SymbolicSizes, list[list[int]]]:
    """(the forms, the form of each size) of groups of sizes (T, M) seen in T traces.

    Args:
        sizes: One array for each group.
        near: The columns each group's sizes may be made of.
        table: (T, V) of the traces.

    Raises:
        Inexpressible: see above.
    """
    same = {tuple(column): index for index, column in reversed(list(enumerate(table.T)))}
    first = np.array([same[tuple(column)] for column in table.T])
    sums: dict[tuple[int, ...], int] = {}
    numbers = [
        _numbered(group, sorted({int(first[c]) for c in columns}), table, sums)
        for group, columns in zip(sizes, near, strict=True)
    ]
    weights = np.array(list(sums), dtype=np.int64).reshape(len(sums), -1).T
    seen = {tuple(values): number for number, values in enumerate((table @ weights).T.tolist())}
    pairs: dict[tuple[int, int], int] = {}
    for group, row in zip(sizes, numbers, strict=True):
        for place in [i for i, number in enumerate(row) if number < 0]:
            pair = _factors(group[:, place], seen)
            row[place] = len(sums) + pairs.setdefault(pair, len(pairs))
    return SymbolicSizes(weights, tuple(pairs)), numbers


def _numbered(
    group: Counts, columns: list[int], table: Counts, sums: dict[tuple[int, ...], int]
) -> list[int]:
    """The combination of each size of (T, M), entered into `sums`; -1 where there is none."""
    unique, back = np.unique(group, axis=1, return_inverse=True)
    weights, fits = _combinations(unique, columns, table)
    found = [
        sums.setdefault(tuple(row), len(sums)) if fit else -1
        for row, fit in zip(weights.T.tolist(), fits, strict=True)
    ]
    return [found[i] for i in back.ravel()]


def _factors(values: Counts, known: Mapping[tuple[int, ...], int]) -> tuple[int, int]:
    """The numbers of two known forms that (T,) sizes are products of, as where axes are joined."""
    for other, number in known.items():
        factor = np.array(other)
        if np.ptp(factor) and (factor > 0).all() and (values % factor == 0).all():
            rest = known.get(tuple((values // factor).tolist()))
            if rest is not None:
                return number, rest
    raise Inexpressible(f"sizes {values.tolist()} are no combination of the counts")


def _combinations(
    values: Counts, columns: list[int], table: Counts
) -> tuple[Counts, NDArray[np.bool_]]:
    """((V, M) weights that make (T, M) values, (M,) where there are any); whole counts alone if
    those are enough."""
    half = (table.shape[1] + 1) // 2
    weights = np.zeros((table.shape[1], values.shape[1]), dtype=np.int64)
    done = np.zeros(values.shape[1], dtype=bool)
    changing = [c for c in columns if c == 0 or np.ptp(table[:, c]) > 0]
    for chosen in ([0], [c for c in changing if c < half], changing):
        wanted = np.flatnonzero(~done)
        basis = table[:, chosen].astype(np.float64)
        few = len(chosen) + _SPARE > len(table)
        if not len(wanted) or few or np.linalg.matrix_rank(basis) < len(chosen):
            continue
        solved = np.linalg.lstsq(basis, values[:, wanted].astype(np.float64), rcond=None)[0]
        whole = np.rint(solved)
        fits = (np.abs(solved - whole) < _CLOSE).all(axis=0)
        fits &= (basis @ whole == values[:, wanted]).all(axis=0)
        weights[np.ix_(chosen, wanted[fits])] = whole[:, fits].astype(np.int64)
        done[wanted[fits]] = True
    return weights, done
