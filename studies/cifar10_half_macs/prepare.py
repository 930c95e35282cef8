"""Train a small timm ViT on CIFAR-10: a linear probe on its features, then all weights together.

    python studies/cifar10_half_macs/prepare.py --data cifar10 --output vit_cifar10.safetensors

`--data` is 'cifar10' (downloaded by torchvision) or an image folder with train/ and test/ inside;
`--checkpoint` starts from a file instead of timm's pretrained weights. Writes the weights under
timm's names, to be used as `autotok search --backbone NAME --checkpoint FILE`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from autotok.backbones.loading import load_backbone
from autotok.backbones.timm_family import create_timm
from autotok.backbones.timm_vit import TimmViT
from autotok.config import CompressionConfig
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.data import DataSource, load_data
from autotok.finetune_spec import FineTuneSpec
from autotok.training.finetune import finetune_student
from autotok.training.finetuned import FineTuneProgress
from autotok.training.student import student_of

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--probe-images", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--output", type=Path, default=Path("vit_cifar10.safetensors"))
    options = parser.parse_args()
    headless = load_backbone(
        options.backbone, checkpoint=options.checkpoint, image_size=options.image_size
    )
    assert isinstance(headless, TimmViT)
    model = with_head(headless, options)
    show(model, options.data, "linear probe")
    spec = FineTuneSpec(
        length=f"{options.steps} steps", losses={"ce": 1.0}, lr=options.lr, batch_size=BATCH,
        augment="crop-flip", ema_decay=0.99,
    )  # fmt: skip
    student = student_of(model, CompressionConfig(mode="retrain", finetune=spec))
    data = load_data(options.data, model, split="train")
    finetune_student(student, data, spec, teacher=None, on_progress=say)
    assert isinstance(student.backbone, TimmViT)
    show(student.backbone, options.data, "all weights")
    save_file(plain(student.backbone.model), options.output)


def with_head(headless: TimmViT, options: argparse.Namespace) -> TimmViT:
    """The backbone with a classifier fitted to its features."""
    features, labels = embedded(headless, options.data, options.probe_images)
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    probe = LogisticRegression(C=0.03, max_iter=300).fit((features - mean) / spread, labels)
    weight = probe.coef_ / spread
    tensors = plain(headless.model)
    tensors["head.weight"] = torch.tensor(weight, dtype=torch.float32)
    tensors["head.bias"] = torch.tensor(probe.intercept_ - weight @ mean, dtype=torch.float32)
    return create_timm(options.backbone, state_dict=tensors, image_size=options.image_size)


@torch.inference_mode()
def embedded(model: TimmViT, data: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, width) features and (n,) labels of training images."""
    source = labelled(data, model)
    indices = source.subset(min(count, len(source)), 0)
    features, labels = [], []
    for first in range(0, len(indices), BATCH):
        images, given = source.batch(indices[first : first + BATCH])
        features.append(model(images).numpy())
        labels.append(given.numpy())
    return np.concatenate(features), np.concatenate(labels)


def labelled(data: str, model: TimmViT) -> DataSource:
    """Training images with labels, though the model has no head yet."""
    shapes = create_timm(
        model.facts.name,
        state_dict={
            **plain(model.model),
            "head.weight": torch.zeros(10, model.facts.blocks[-1].width),
            "head.bias": torch.zeros(10),
        },
        image_size=model.facts.image_shape[1],
    )
    return load_data(data, shapes, split="train")


def plain(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}


def show(model: TimmViT, data: str, what: str) -> None:
    evaluator = Evaluator(model, load_data(data, model), metric="top1", seed=0)
    q = evaluator.reference(0, min(1000, evaluator.num_images)).quality()
    print(f"{what}: top-1 {q.value:.1f} % [{q.low:.1f}, {q.high:.1f}], {q.num_images} images",
          flush=True)  # fmt: skip


def say(progress: FineTuneProgress) -> None:
    if progress.step % 25 == 0:
        print(
            f"step {progress.step} of {progress.steps}, loss {progress.loss:.3f},"
            f" {progress.images_per_s:.1f} images/s, {progress.seconds_left:.0f} s left",
            flush=True,
        )


if __name__ == "__main__":
    main()
