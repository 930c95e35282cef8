"""Dominance, fronts, crowding and hypervolume, in plain NumPy.

Every array of points is (n, m), one row per configuration and one column per objective, all to be
minimised; `objective.losses` turns objectives of any direction into such columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from autotok.metrics import TABLE

from .objective import Objective, losses
from .record import TrialRecord

Points = NDArray[np.float64]


class Front:
    """The measured records that no other dominates, kept up to date as they come."""

    def __init__(
        self, objectives: Sequence[Objective], records: Iterable[TrialRecord] = ()
    ) -> None:
        self._objectives = tuple(objectives)
        measured = [record for record in records if record.measured]
        points = losses([r.values for r in measured], self._objectives)
        stay = front_mask(points)
        self._points = points[stay]
        self._members = [r for r, keep in zip(measured, stay, strict=True) if keep]

    def admit(self, record: TrialRecord) -> None:
        """Take a record in, if it belongs here; those that it dominates leave."""
        if not record.measured:
            return
        own = losses([record.values], self._objectives)
        if dominating(self._points, own[0]).any():
            return
        stay = ~dominated(self._points, own[0])
        self._members = [m for m, keep in zip(self._members, stay, strict=True) if keep] + [record]
        self._points = np.concatenate([self._points[stay], own])

    def has_room_for(self, record: TrialRecord) -> bool:
        """Whether no member dominates a record, which need not be finished."""
        return not dominating(self._points, losses([record.values], self._objectives)[0]).any()

    def keep(self, record: TrialRecord) -> None:
        """Take a record in, even if another dominates it: what is called best among equals."""
        if all(member.number != record.number for member in self._members):
            own = losses([record.values], self._objectives)
            self._members = [*self._members, record]
            self._points = np.concatenate([self._points, own])

    @property
    def records(self) -> list[TrialRecord]:
        """The members, cheapest first: by their exact cost, or where that is no objective and
        another cost is, by the last of those."""
        judged = {m.column for m in TABLE if m.kind == "judged"}
        costs = [i for i, o in enumerate(self._objectives) if o.name not in judged]
        exact = not costs or any(o.name == "macs_g" for o in self._objectives)

        def place(at: int) -> tuple[float, int]:
            member = self._members[at]
            macs = member.costs.macs if member.costs else 0
            return macs if exact else float(self._points[at, costs[-1]]), member.number

        return [self._members[at] for at in sorted(range(len(self._members)), key=place)]

    @property
    def best(self) -> TrialRecord | None:
        """The member that the first objective prefers; None while there are none."""
        return best_of(self.records, self._objectives)


def best_of(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> TrialRecord | None:
    """The first objective decides, then the next; of equal records the first one stays."""
    points = losses([r.values for r in records], objectives).tolist()
    return min(zip(points, records, strict=True), key=lambda pair: pair[0], default=(0, None))[1]


def dominating(points: Points, other: Points) -> NDArray[np.bool_]:
    """(n,) which points are no worse than another one (m,) everywhere and better somewhere."""
    found: NDArray[np.bool_] = np.all(points <= other, axis=1) & np.any(points < other, axis=1)
    return found


def dominated(points: Points, other: Points) -> NDArray[np.bool_]:
    """(n,) which points are no better than another one (m,) anywhere and worse somewhere."""
    found: NDArray[np.bool_] = np.all(other <= points, axis=1) & np.any(other < points, axis=1)
    return found


def front_mask(points: Points) -> NDArray[np.bool_]:
    """(n,) True where no other point dominates; equal points do not dominate each other."""
    if points.shape[1] == 2:
        return _stairs(points)
    stay = np.ones(len(points), dtype=bool)
    for index in np.lexsort(points.T[::-1]).tolist():  # whom one removes later come behind it
        if stay[index]:
            stay &= ~dominated(points, points[index])
    return stay


def _stairs(points: Points) -> NDArray[np.bool_]:
    """`front_mask` of two columns, by one sort: a point stays if nothing before it is as low."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    first, second = points[order].T
    begins = np.append(True, first[1:] != first[:-1])[: len(order)]  # of points alike in the first
    lowest = second[begins]
    least = np.minimum.accumulate(lowest)
    group = np.cumsum(begins) - 1
    stay = np.empty(len(points), dtype=bool)
    stay[order] = (second == lowest[group]) & ((group == 0) | (second < least[group - 1]))
    return stay


def crowding(points: Points) -> Points:
    """(n,) crowding distance of NSGA-II among the points given; extremes get infinity."""
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]] if len(order) else 0.0
        distance[order[[0, -1]]] = np.inf
        if spread > 0 and len(order) > 2:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distance


def thin(points: Points, size: int) -> NDArray[np.int64]:
    """Indices of at most `size` points, in the order given; the extremes of every column stay.

    The least crowded survive: the closest neighbour goes first, distances updated after each.
    """
    left = np.arange(len(points))
    while len(left) > size:
        distance = crowding(points[left])
        left = np.delete(left, int(np.argmin(distance)))
    return left


def hypervolume(points: Points, reference: Points) -> float:
    """Volume dominated up to `reference` (m,); points beyond it count nothing."""
    inside = points[np.all(points < reference, axis=1)]
    if not len(inside):
        return 0.0
    front = inside[front_mask(inside)]
    if front.shape[1] == 1:
        return float(reference[0] - front[:, 0].min())
    if front.shape[1] == 2:
        return _area(front, reference)
    return _sliced(front, reference)


def _area(front: Points, reference: Points) -> float:
    order = front[np.lexsort((front[:, 1], front[:, 0]))]
    right = np.append(order[1:, 0], reference[0])
    lowest = np.minimum.accumulate(order[:, 1])
    return float(np.sum((right - order[:, 0]) * (reference[1] - lowest)))


def _sliced(front: Points, reference: Points) -> float:
    """Slices along the last column, each a hypervolume of one dimension less."""
    order = front[np.argsort(front[:, -1], kind="stable")]
    edges = np.append(order[:, -1], reference[-1])
    total = 0.0
    for index in range(len(order)):
        height = edges[index + 1] - edges[index]
        if height > 0:
            total += height * hypervolume(order[: index + 1, :-1], reference[:-1])
    return total
