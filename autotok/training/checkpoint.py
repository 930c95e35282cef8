"""A fine-tune on disk, whole or not at all, so that a killed one goes on where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotok.backbones.weight_file import read_claims, read_weight_file
from autotok.errors import CheckpointError
from autotok.files import write_state

from .heldout import Best
from .probe import RateChoice, Tried
from .schedule import TrainingPlan
from .steps import BackOff, TrainingRun

FORMAT = 2
PAST = ("step", "images", "seconds", "losses", "marks", "gave_up")
_WORDS = {
    "config": "its configuration differs",
    "spec": "its fine-tune settings differ",
    "data": "its training images differ",
    "weights": "its starting weights differ",
    "teacher": "its teacher differs",
    "precision": "its precision differs",
}


def write_checkpoint(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`; a reader or a crash never meets half of one.

    Raises:
        RunDirectoryError: the disk is full, or the folder cannot be written.
    """
    write_state(path, {"format": FORMAT, "identity": dict(identity), **state})


def read_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `write_checkpoint` stored; None if there is no file.

    A key of `identity` that is None is not compared.

    Raises:
        CheckpointError: damaged, or of another fine-tune.
    """
    if not path.is_file():
        return None
    try:
        read_claims(path)  # refuses what would grow on reading
        data: Any = read_weight_file(path)
        found, version = data["identity"], data["format"]
    except Exception as error:  # the unpickler raises whatever the garbage makes it raise
        raise CheckpointError(
            f"checkpoint '{path}' cannot be read ({type(error).__name__}); delete it to start over"
        ) from error
    if version != FORMAT:
        raise CheckpointError(
            f"checkpoint '{path}' was written by another autotok; delete it to start over"
        )
    for key, value in identity.items():
        if value is not None and found.get(key) != value:
            raise CheckpointError(
                f"checkpoint '{path}' belongs to another fine-tune ({_WORDS.get(key, key)}); give"
                " another path, or delete it to start over"
            )
    return dict(data)


def state_of(run: TrainingRun) -> dict[str, Any]:
    """All that a run needs to go on: plain data and tensors."""
    return {
        "student": run.student.state_dict(),
        "objective": run.objective.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "ema": run.ema,
        "lr": run.spec.lr,
        "plan": dataclasses.asdict(run.plan),
        "choice": dataclasses.asdict(run.choice),
        "best": {"step": run.best.step, "loss": run.best.loss, "state": run.best.state},
        "back_offs": [dataclasses.asdict(one) for one in run.back_offs],
        "checks": run.checks,
        "held_out": run.held_out.indices,
        "num_images": run.order.num_images,
        "spared": run.order.skip,
        **{name: getattr(run, name) for name in PAST},
    }


def restore(run: TrainingRun, found: Mapping[str, Any]) -> None:
    """Give a run without a past that of a checkpoint.

    Raises:
        CheckpointError: other weights decayed when it was written.
    """
    run.set_rate(found["lr"])
    run.student.load_state_dict(found["student"])
    run.objective.load_state_dict(found["objective"])
    try:
        run.optimizer.load_state_dict(found["optimizer"])
    except ValueError as error:  # groups of other sizes
        raise CheckpointError(
            "the checkpoint of this fine-tune was written by another autotok (weight decay was of"
            " other weights); delete it to start over"
        ) from error
    run.plan = TrainingPlan(**found["plan"])
    tried = tuple(Tried(**one) for one in found["choice"]["tried"])
    run.choice = RateChoice(**{**found["choice"], "tried": tried})
    run.best = Best(**found["best"])
    run.back_offs = [BackOff(**one) for one in found["back_offs"]]
    run.checks = [(step, loss) for step, loss in found["checks"]]
    for name in PAST:
        setattr(run, name, found[name])
    if found["ema"] is not None:
        device = next(run.student.parameters()).device
        run.ema = [value.detach().clone().to(device) for value in found["ema"]]
