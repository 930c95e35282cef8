"""Which images a fidelity uses: nested, seeded, stratified."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def nested_order(labels: Sequence[int] | int, seed: int) -> list[int]:
    """All positions in an order of which every beginning is a stratified sample.

    Each class is shuffled and spread evenly over [0, 1) from a random start, and the order is that
    of the spread points: any beginning holds each class in proportion, to within one image.
    `labels` is one class per image, or just the number of images where there are no labels (a plain
    shuffle).
    """
    stream = np.random.default_rng([seed, 0x0DA7A])
    if isinstance(labels, int):
        return [int(i) for i in stream.permutation(labels)]
    classes = np.asarray(labels)
    point = np.empty(len(classes))
    for name in np.unique(classes):
        members = stream.permutation(np.flatnonzero(classes == name))
        point[members] = (np.arange(len(members)) + stream.random()) / len(members)
    return [int(i) for i in np.lexsort((stream.random(len(classes)), point))]
