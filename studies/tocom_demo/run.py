"""The demo's weights, trained with every token, merged at four degrees, with and without ToCom.

    python studies/tocom_demo/run.py

Trains the adapters once, shortly, then folds them for each degree. Prints a table and writes
results.csv beside itself.
"""

import argparse
import csv
import math
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.loading import load_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.folding import pinned
from autotok.config import CompressionConfig, Reduction
from autotok.counting.macs import cost
from autotok.evaluation.data import load_data
from autotok.methods.author_units import from_num_removed
from autotok.methods.tocom import removed_at
from autotok.training.pair_distillation import PairSpec, distil_pairs, save_adapters

DEGREES = (4, 8, 12, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--images", type=int, default=100)
    asked = parser.parse_args()
    backbone = load_backbone("autoformer_demo").eval()
    spec = PairSpec(asked.steps, asked.batch_size, asked.lr, augment="none")
    with tempfile.TemporaryDirectory() as folder:
        path = trained(backbone, spec, Path(folder) / "adapters.safetensors")
        data = load_data("demo", backbone)
        images, labels = data.batch(data.subset(asked.images, 0))
        assert labels is not None
        whole = logits(backbone, CompressionConfig(), images)
        print(
            f"uncompressed: top-1 {top1(whole, labels):.1f} % of {len(labels)} images", flush=True
        )
        rows = [compared(backbone, degree, path, whole, (images, labels)) for degree in DEGREES]
    with (Path(__file__).parent / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def trained(backbone: Backbone, spec: PairSpec, path: Path) -> Path:
    """The file of fresh adapters; how their loss went is printed."""
    data, began = load_data("demo", backbone, split="train"), time.perf_counter()
    losses: list[float] = []
    adapters = distil_pairs(backbone, data, spec, on_step=lambda _, loss: losses.append(loss))
    half = len(losses) // 2
    print(
        f"adapters: {spec.steps} steps of {spec.batch_size} images, lr {spec.lr:g}, in"
        f" {(time.perf_counter() - began) / 60:.1f} min; mean loss {mean(losses[:half]):.2e} in the"
        f" first half, {mean(losses[half:]):.2e} in the second",
        flush=True,
    )
    return save_adapters(adapters, path, backbone, spec)


def compared(
    backbone: Backbone, degree: int, adapters: Path, whole: Tensor, data: tuple[Tensor, Tensor]
) -> dict[str, str | int]:
    """One line of the table, printed: the same schedule as `tome` and as `tocom`."""
    images, labels = data
    reductions = schedule(backbone, degree)
    plain = CompressionConfig("tome", reductions)
    chosen = pinned(CompressionConfig("tocom", reductions, {"adapters": str(adapters)}))
    tome, tocom = (logits(backbone, config, images) for config in (plain, chosen))
    first, second = divergence(whole, tome), divergence(whole, tocom)
    gap = second - first  # of the same images
    row: dict[str, str | int] = {
        "degree": degree,
        "macs_g": f"{cost(backbone.facts, plain).macs_g:.2f}",
        "tome_top1_pct": f"{top1(tome, labels):.1f}",
        "tocom_top1_pct": f"{top1(tocom, labels):.1f}",
        "tome_kl": f"{float(first.mean()):.5f}",
        "tocom_kl": f"{float(second.mean()):.5f}",
        "kl_change": f"{float(gap.mean()):+.5f}",
        "kl_change_error": f"{float(gap.std()) / math.sqrt(len(gap)):.5f}",
        "num_images": len(labels),
    }
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def schedule(backbone: Backbone, degree: int) -> tuple[Reduction, ...]:
    facts = backbone.facts
    removed = removed_at(degree, facts, rescaled=True)
    return from_num_removed(
        removed, facts.num_patches, num_blocks=facts.num_blocks, at_most_half=True
    )


@torch.inference_mode()
def logits(backbone: Backbone, config: CompressionConfig, images: Tensor) -> Tensor:
    model = compress_backbone(backbone, config).eval()
    return torch.cat([model(part) for part in images.split(8)])


def divergence(whole: Tensor, other: Tensor) -> Tensor:
    """(B,), KL from the uncompressed model's output."""
    p, q = whole.log_softmax(dim=1), other.log_softmax(dim=1)
    return (p.exp() * (p - q)).sum(dim=1)


def top1(found: Tensor, labels: Tensor) -> float:
    return 100.0 * float((found.argmax(dim=1) == labels).float().mean())


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
