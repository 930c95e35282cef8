"""A fine-tune that is killed goes on and ends with the same bits; bad checkpoints are refused."""

import dataclasses
import errno
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from multiprocessing.process import BaseProcess
from pathlib import Path

import killable_finetune
import pytest
import torch
from safetensors.torch import load_file
from tiny_student import Noise, same, student, weights

from autotok.backbones.tiny import tiny_backbone
from autotok.errors import CheckpointError, RunDirectoryError
from autotok.finetune_spec import FineTuneSpec
from autotok.training.finetune import finetune_student
from autotok.training.finetuned import FineTuneProgress
from autotok.training.teacher import Teacher

SPEC = FineTuneSpec(length="6 steps", batch_size=4, lr=1e-5, ema_decay=0.5)


def start(folder: Path, delay: float) -> BaseProcess:
    """Forked off a server that has imported torch once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([killable_finetune.__name__])
    files = (folder / "c.pt", folder / "w.safetensors")
    process = context.Process(target=killable_finetune.main, args=(*files, delay))
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join(120)
    return process.exitcode


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*sys.path]))
    rng = random.Random(11)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    assert ended(start(tmp_path / "whole", 0.0)) == 0
    kills = 0
    for _ in range(4):
        checkpoint = tmp_path / "killed" / "c.pt"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = start(tmp_path / "killed", 0.1)
        while process.is_alive():  # until it has begun to train
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                break
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 0.4))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join(120)
    assert kills >= 3
    assert ended(start(tmp_path / "killed", 0.0)) == 0
    left, right = (load_file(tmp_path / name / "w.safetensors") for name in ("whole", "killed"))
    assert same(left, right)
    assert not [p for p in (tmp_path / "killed").iterdir() if "partial" in p.name]


class Stop(Exception):
    pass


def stopped_at(step: int, checkpoint: Path, spec: FineTuneSpec = SPEC) -> None:
    def stop(progress: FineTuneProgress) -> None:
        if progress.step == step:
            raise Stop

    with pytest.raises(Stop):
        finetune_student(
            student(), Noise(), spec, teacher=Teacher(tiny_backbone()), checkpoint=checkpoint,
            checkpoint_every_s=0.0, on_progress=stop,
        )  # fmt: skip


def test_going_on_from_a_checkpoint_equals_never_stopping(tmp_path: Path) -> None:
    whole = student()
    data, teacher = Noise(), Teacher(tiny_backbone())
    finetune_student(whole, data, SPEC, teacher=teacher)  # its teacher then remembers all logits
    stopped_at(3, tmp_path / "c.pt")
    resumed, steps = student(), []
    done = finetune_student(
        resumed, data, SPEC, teacher=teacher, checkpoint=tmp_path / "c.pt",
        on_progress=lambda p: steps.append(p.step),
    )  # fmt: skip
    assert steps == [4, 5, 6]
    assert (done.steps, done.images) == (6, 24)
    assert same(weights(whole), weights(resumed))


def test_a_finished_fine_tune_is_only_read_again(tmp_path: Path) -> None:
    teacher, spec = Teacher(tiny_backbone()), dataclasses.replace(SPEC, length="2 steps")
    first, again = student(), student()
    done = finetune_student(first, Noise(), spec, teacher=teacher, checkpoint=tmp_path / "c.pt")
    repeated = finetune_student(again, Noise(), spec, teacher=teacher, checkpoint=tmp_path / "c.pt")
    assert repeated == done
    assert same(weights(first), weights(again))


def test_interrupting_keeps_the_last_whole_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, count = Noise(), 0
    draw = data.batch

    def interrupted(indices: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        nonlocal count
        count += 1
        if count == 6:  # one for the data's identity, one of those held out, one a step
            raise KeyboardInterrupt
        return draw(indices)

    monkeypatch.setattr(data, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune_student(
            student(), data, SPEC, teacher=Teacher(tiny_backbone()), checkpoint=tmp_path / "c.pt"
        )
    assert torch.load(tmp_path / "c.pt", weights_only=True)["step"] == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("spec", "its fine-tune settings differ"),
        ("config", "its configuration differs"),
        ("data", "its training images differ"),
        ("weights", "its starting weights differ"),
        ("teacher", "its teacher differs"),
    ],
)
def test_a_checkpoint_of_another_fine_tune_is_refused(
    tmp_path: Path, change: str, words: str
) -> None:
    stopped_at(1, tmp_path / "c.pt")
    spec = dataclasses.replace(SPEC, lr=2e-3) if change == "spec" else SPEC
    backbone = tiny_backbone(seed=1 if change == "weights" else 0)
    model = student("topk" if change == "config" else "evit", backbone=backbone)
    teacher = Teacher(tiny_backbone(seed=1 if change == "teacher" else 0))
    data = Noise(48 if change == "data" else 64)
    with pytest.raises(CheckpointError, match=words):
        finetune_student(model, data, spec, teacher=teacher, checkpoint=tmp_path / "c.pt")


def test_a_checkpoint_from_when_other_weights_decayed_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_at(1, tmp_path / "c.pt")
    monkeypatch.setattr("autotok.training.schedule.NOT_DECAYED", ())
    with pytest.raises(CheckpointError, match=r"another autotok .*delete it to start over"):
        finetune_student(
            student("evit"),
            Noise(64),
            SPEC,
            teacher=Teacher(tiny_backbone()),
            checkpoint=tmp_path / "c.pt",
        )


@pytest.mark.parametrize("damage", ["cut", "garbage", "pickle"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.pt"
    stopped_at(1, path)
    content = {"cut": path.read_bytes()[:2000], "garbage": b"no checkpoint"}
    if damage == "pickle":
        torch.save({"format": 2, "identity": Fraction(1, 2)}, path)  # a class no reader knows
    else:
        path.write_bytes(content[damage])
    with pytest.raises(CheckpointError, match=r"cannot be read .* delete it to start over$"):
        finetune_student(
            student(), Noise(), SPEC, teacher=Teacher(tiny_backbone()), checkpoint=path
        )


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_gives_one_sentence_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    path = tmp_path / "c.pt"
    stopped_at(1, path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not wrapped:
            raise error
        try:
            raise error
        except OSError as cause:
            raise RuntimeError("unexpected pos 64 vs 0") from cause

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunDirectoryError, match=r"cannot be written \(No space left on device\)"):
        finetune_student(
            student(), Noise(), SPEC, teacher=Teacher(tiny_backbone()), checkpoint=path
        )
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


AUTO = FineTuneSpec(length="60 steps", batch_size=4)


class Killed(Noise):
    """Images that end the process, so to speak, at one of its draws."""

    def __init__(self, draw: int) -> None:
        super().__init__()
        self.draw, self.draws = draw, 0

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.draws += 1
        if self.draws == self.draw:
            raise Stop
        return super().batch(indices)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["evit", "spvit", "ltmp", "diffrate"])
def test_stopped_in_the_probe_or_after_it_a_probed_one_ends_with_the_same_bits(
    method: str, tmp_path: Path
) -> None:
    teacher, whole, data = Teacher(tiny_backbone()), student(method), Killed(0)
    expected = finetune_student(whole, data, AUTO, teacher=teacher)
    in_training = data.draws - expected.steps + 3
    in_probe = data.draws - expected.steps - 2
    assert len(expected.rate.tried) >= 1
    for draw in (4, in_probe, in_training):
        path = tmp_path / f"{draw}.pt"
        with pytest.raises(Stop):
            finetune_student(
                student(method), Killed(draw), AUTO, teacher=teacher, checkpoint=path,
                checkpoint_every_s=0.0,
            )  # fmt: skip
        assert path.exists() == (draw == in_training)
        if draw == 4:  # without a checkpoint it begins anew, as the next one does
            continue
        resumed = student(method)
        done = finetune_student(resumed, Noise(), AUTO, teacher=teacher, checkpoint=path)
        assert done.evidence() == expected.evidence()
        assert (done.steps, done.loss) == (expected.steps, expected.loss)
        assert same(weights(whole), weights(resumed))
