"""Several processes that train one model together, as `torchrun` starts them; else one alone.

Every process holds all weights and takes its own images of each batch; gradients are summed before
the step, so all go the same way. Whatever clocks and rounding may decide otherwise, the first
decides.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import distributed, nn

from autotok.errors import ConfigError

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""The first judges and writes while the others wait for it."""


def is_first_process() -> bool:
    """Whether this process prints and writes: the first that `torchrun` started, or one alone."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """This one writes."""
        return self.rank == 0

    def rows(self, total: int) -> list[int]:
        """Places of a batch that this process trains on; i is among them if total - 1 - i is.

        So that images which are mixed, a batch with itself in reverse order, stay together.
        """
        return [i for i in range(total) if min(i, total - 1 - i) % self.world == self.rank]

    def check_batch(self, batch_size: int) -> None:
        """Raise `ConfigError` where a process would have nothing to do."""
        if batch_size < 2 * self.world and self.world > 1:
            raise ConfigError(
                f"a batch of {batch_size} cannot be shared by {self.world} processes; give a"
                f" batch_size of {2 * self.world} or more, or start fewer"
            )

    def sum_gradients(self, parameters: Iterable[nn.Parameter], loss: float) -> float:
        """The sum of all processes' losses; gradients are now sums as well."""
        if self.world == 1:
            return loss
        found = [p.grad for p in parameters if p.grad is not None]
        last = torch.tensor([loss], device=found[0].device)
        flat = torch.cat([*(grad.reshape(-1) for grad in found), last])
        distributed.all_reduce(flat)
        sizes = [grad.numel() for grad in found]
        for grad, values in zip(found, flat[:-1].split(sizes), strict=True):
            grad.copy_(values.view_as(grad))
        return float(flat[-1])

    def share_buffers(self, module: nn.Module) -> None:
        """Running statistics and the like are those of the first process."""
        if self.world > 1:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    distributed.broadcast(buffer, 0)

    def agreed(self, value: float) -> float:
        """A number that every process found, as the first has it."""
        return self.from_first(lambda: value)

    def from_first(self, work: Callable[[], T]) -> T:
        """What the first process makes of it; the others wait, and do nothing."""
        if self.world == 1:
            return work()
        found: list[Any] = [work() if self.first else None]
        distributed.broadcast_object_list(found, 0, device=torch.device("cpu"))
        return cast(T, found[0])


ALONE = Ranks()


def joined_ranks() -> Ranks:
    """This process among those that `torchrun` started with it; alone where it did not.

    They speak over gloo, and NCCL between GPUs, of which each takes the one of its local number.
    """
    if not distributed.is_available() or not distributed.is_torchelastic_launched():
        return ALONE
    if not distributed.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
        atexit.register(distributed.destroy_process_group)
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def own_device(name: str, ranks: Ranks) -> str:
    """The device of this process: of several that may use any GPU, the one of its own."""
    if ranks.world > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}"
    return name
