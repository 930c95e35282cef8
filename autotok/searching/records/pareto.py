"""Dominance, fronts, ranks, crowding and hypervolume, in plain NumPy.

Every array of points is (n, m), one row per configuration and one column per objective, all to be
minimised; `objective.losses` turns objectives of any direction into such columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["crowding", "dominates", "front_mask", "hypervolume", "ranks", "thin"]

Points = NDArray[np.float64]


def dominates(a: Points, b: Points) -> bool:
    """Whether `a` (m,) is no worse than `b` (m,) everywhere and better somewhere."""
    return bool(np.all(a <= b) and np.any(a < b))


def front_mask(points: Points) -> NDArray[np.bool_]:
    """(n,) True where no other point dominates; equal points do not dominate each other."""
    keep = np.ones(len(points), dtype=bool)
    for index, point in enumerate(points):
        worse = np.all(points <= point, axis=1) & np.any(points < point, axis=1)
        keep[index] = not worse.any()
    return keep


def ranks(points: Points) -> NDArray[np.int64]:
    """(n,) non-dominated rank, 0 for the front, 1 for the front of the rest, and so on."""
    result = np.full(len(points), -1, dtype=np.int64)
    left, rank = np.arange(len(points)), 0
    while len(left):
        mask = front_mask(points[left])
        result[left[mask]] = rank
        left, rank = left[~mask], rank + 1
    return result


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
