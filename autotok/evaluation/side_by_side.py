"""Batches run side by side, each in a thread of its own, where a CPU has several cores.

Threads inside an operator wait for one another at the end of each, some thousand times an image;
threads with a batch each wait once, and what a batch gives does not depend on their number.
"""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from autotok.backbones.base import Backbone

_LOG = logging.getLogger(__name__)
J = TypeVar("J")
R = TypeVar("R")


class LoadedBatch(NamedTuple):
    """Images that are run in one go, by their place in the order."""

    first: int
    indices: list[int]
    images: Tensor
    labels: Tensor | None


def at_a_time(batches: int, device: torch.device) -> int:
    """Batches to run side by side: as many as there are threads for, on a CPU."""
    return max(1, min(torch.get_num_threads(), batches)) if device.type == "cpu" else 1


def twins(model: nn.Module, count: int) -> list[nn.Module]:
    """The model and others that share its tensors and backbones, but nothing that a forward may
    leave in them; the model alone where it cannot be copied."""
    shared: dict[int, object] = {id(x): x for x in chain(model.parameters(), model.buffers())}
    for part in model.modules():
        if isinstance(part, Backbone):
            shared[id(part)] = part
    try:
        return [model, *(copy.deepcopy(model, dict(shared)) for _ in range(count - 1))]
    except Exception as error:  # copying runs arbitrary code
        _LOG.debug("one batch is run at a time: %s", error)
        return [model]


def in_order(
    jobs: Iterable[J], work: Callable[[nn.Module, J], R], models: Sequence[nn.Module]
) -> Generator[R, None, None]:
    """What `work` makes of a model that is free and of each job, in the order of the jobs.

    As many at a time as there are models, which share the threads of torch. Jobs are made in the
    caller's thread, at most one ahead; with one model all is done there.
    """
    if len(models) == 1:
        yield from (work(models[0], job) for job in jobs)
        return
    free: SimpleQueue[nn.Module] = SimpleQueue()
    for model in models:
        free.put(model)

    def done(job: J) -> R:
        model = free.get()
        try:
            return work(model, job)
        finally:
            free.put(model)

    threads = torch.get_num_threads()
    share = max(1, threads // len(models))
    pool = ThreadPoolExecutor(len(models), "batch", torch.set_num_threads, (share,))
    running: deque[Future[R]] = deque()
    try:
        for job in jobs:
            running.append(pool.submit(done, job))
            if len(running) > len(models):
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what a thread sets holds for those that come later
