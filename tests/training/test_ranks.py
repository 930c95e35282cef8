"""Processes that train together do what one alone would, on their parts of each batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import shared_finetune
import torch
from safetensors.torch import load_file

from autotok.errors import ConfigError
from autotok.training.ranks import ALONE, Ranks, is_first_process, joined_ranks, own_device


@pytest.mark.parametrize(("total", "world"), [(8, 2), (10, 3), (7, 2), (64, 8)])
def test_a_batch_is_shared_out_whole_and_mixing_partners_stay_together(
    total: int, world: int
) -> None:
    shares = [Ranks(rank, world).rows(total) for rank in range(world)]
    assert sorted(row for share in shares for row in share) == list(range(total))
    for share in shares:
        assert [total - 1 - row for row in reversed(share)] == share


def test_one_process_alone_has_every_row_and_asks_nobody() -> None:
    assert joined_ranks() is ALONE
    assert ALONE.rows(5) == [0, 1, 2, 3, 4]
    assert ALONE.agreed(2.5) == 2.5
    assert ALONE.sum_gradients([], 1.5) == 1.5
    ALONE.check_batch(1)
    assert own_device("auto", ALONE) == "auto"


def test_a_batch_too_small_to_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="a batch of 4 cannot be shared by 3 processes; give"):
        Ranks(0, 3).check_batch(4)


def test_only_the_first_of_several_processes_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_first_process()
    monkeypatch.setenv("RANK", "1")
    assert is_first_process()  # some other program's rank
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert not is_first_process()


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder in (alone, both):
        folder.mkdir()
    shared_finetune.main(alone)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", shared_finetune.__file__, str(both)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    (one,) = (json.loads(line) for line in (alone / "told.jsonl").read_text().splitlines())
    two = [json.loads(line) for line in (both / "told.jsonl").read_text().splitlines()]
    assert len(two) == 2
    assert two[0] == two[1]
    assert two[0]["loss"] == pytest.approx(one["loss"], rel=1e-4)
    left, right = (load_file(folder / "w.safetensors") for folder in (alone, both))
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-3, atol=1e-5, msg=name)
