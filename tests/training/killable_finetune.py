"""A fine-tune as a process of its own, to be killed."""

import time
from pathlib import Path

from tiny_student import Noise, student

from autotok.backbones.tiny import tiny_backbone
from autotok.finetune_spec import FineTuneSpec
from autotok.training.finetune import finetune_student
from autotok.training.finetuned import FineTuneProgress
from autotok.training.student import save_weights
from autotok.training.teacher import Teacher

SPEC = FineTuneSpec(
    length="24 steps",
    losses={"soft": 1.0, "ce": 0.2, "tokens": 0.1},
    lr=1e-3,
    batch_size=6,
    accumulate=2,
    ema_decay=0.9,
    augment="crop-flip",
    seed=3,
)


def main(checkpoint: Path, output: Path, delay: float) -> None:
    def slow(_: FineTuneProgress) -> None:
        time.sleep(delay)  # so that kills land inside the training as well as around it

    model = student()
    teacher = Teacher(tiny_backbone())
    data = Noise(40)
    finetune_student(
        model, data, SPEC, teacher=teacher, checkpoint=checkpoint, on_progress=slow,
        checkpoint_every_s=0.0,
    )  # fmt: skip
    save_weights(model, output)
