"""Batches go to a GPU from pinned memory, and anywhere else as they are."""

from typing import Any

import torch

from autotok.evaluation.transfer import sent


class Batch:
    """Stands for a tensor on the CPU; says what was done with it."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, done: list[Any]) -> None:
        self.done = done

    def pin_memory(self) -> "Batch":
        self.done.append("pinned")
        return self

    def to(self, device: torch.device, dtype: torch.dtype, *, non_blocking: bool) -> "Batch":
        self.done.append((str(device), dtype, non_blocking))
        return self


def test_a_gpu_is_sent_pinned_memory_without_waiting() -> None:
    done: list[Any] = []
    sent(Batch(done), torch.device("cuda", 1))  # type: ignore[arg-type]
    assert done == ["pinned", ("cuda:1", torch.float32, True)]


def test_a_batch_that_stays_is_the_same_tensor() -> None:
    batch = torch.ones(2, 3)
    assert sent(batch, torch.device("cpu")) is batch
    assert sent(batch, torch.device("cpu"), torch.float64).dtype == torch.float64
