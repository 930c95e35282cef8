"""Batches side by side give what they give one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from autotok.backbones.loading import load_backbone
from autotok.compression.activations import Activations
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.adaptive import metered
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.data import load_data
from autotok.evaluation.side_by_side import at_a_time, in_order, twins


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


class Noting(nn.Module):
    """Leaves its input in itself, as metered models do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.noted: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.noted.append(float(x))
        return x * self.weight


def test_results_come_in_order_whatever_finishes_first(threads: int) -> None:
    second = threading.Event()

    def work(_: nn.Module, job: int) -> int:
        if job == 0:
            assert second.wait(30)  # so the first batch ends after the second
        if job == 1:
            second.set()
        return 10 * job

    models: list[nn.Module] = [nn.Identity()] * threads
    assert list(in_order(range(5), work, models)) == [0, 10, 20, 30, 40]
    assert torch.get_num_threads() == threads


def test_twins_share_weights_and_nothing_a_forward_leaves() -> None:
    model = Noting()
    first, second = twins(model, 2)
    second(torch.ones(1))
    assert first is model
    assert first.noted == []
    assert next(second.parameters()) is model.weight


def test_an_error_in_a_batch_reaches_the_caller(threads: int) -> None:
    def work(_: nn.Module, job: int) -> int:
        return 1 // job

    with pytest.raises(ZeroDivisionError):
        list(in_order([1, 0, 1], work, [nn.Identity()] * threads))
    assert torch.get_num_threads() == threads


def test_few_batches_and_accelerators_run_in_fewer_threads(threads: int) -> None:
    assert at_a_time(5, torch.device("cpu")) == threads
    assert at_a_time(1, torch.device("cpu")) == 1
    assert at_a_time(5, torch.device("meta")) == 1


@pytest.mark.parametrize("method", ["tome", "ats"])
def test_a_tally_is_the_same_by_one_thread_and_by_two(method: str, threads: int) -> None:
    backbone = load_backbone("tiny").eval()
    config = CompressionConfig(method, (Reduction(1, 0.5),))
    model = metered(compress_backbone(backbone, config).eval())
    tallies = []
    for count in (1, threads):
        torch.set_num_threads(count)
        evaluator = Evaluator(backbone, load_data("digits", backbone), metric="kl", batch_size=3)
        evaluator.activations = Activations(backbone)
        tallies.append(evaluator.evaluate(model, 0, 20))
    assert tallies[0] == tallies[1]
