"""All that waits for a GPU, in one go of less than 25 minutes: right, fast, whole.

    python benchmarks/accelerator.py --output runs/gpu          # on a CUDA machine
    python benchmarks/accelerator.py --device cpu --quick       # the same steps, to try the script

Steps, each printed with its time and kept going past one that fails:

1. `same`: every method on the device against the CPU, largest difference of the logits of one
   batch in float32, and the configurations whose classes differ
2. `throughput`: images a second of an evaluation of a DeiT-S (random weights) at batch 128 over
   those of the bare model on the same batches, in the format that `--precision auto` chooses
3. `search`: the README's command on the device, with a latency budget measured there
4. `finetune`: `autotok finetune` on the device
5. `calibrate`: the target file of the device, with its held-out errors

What was found is written to OUTPUT/found.json with the device, the versions and the time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from autotok.backbones.loading import load_backbone, load_structure
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.evaluation.accuracy import Evaluator, computing
from autotok.evaluation.data import load_data
from autotok.evaluation.precision import choose_format
from autotok.evaluation.transfer import sent
from autotok.files import write_text
from autotok.methods.registry import get_method, list_methods
from autotok.report.handover import environment
from autotok.testing import example_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--quick", action="store_true", help="Small models and few images.")
    parser.add_argument("--steps", default="same,throughput,search,finetune,calibrate")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    device = torch.device(asked.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found: dict[str, Any] = {
        "device": name,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": environment(),
    }
    for step in asked.steps.split(","):
        begin = time.monotonic()
        try:
            found[step] = STEPS[step](asked, device)
        except Exception as error:
            found[step] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        found[step]["seconds"] = round(time.monotonic() - begin, 1)
        print(step, json.dumps(found[step]), flush=True)
        write_text(asked.output / "found.json", json.dumps(found, indent=1) + "\n")


def same(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Logits of every method here and there."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    backbone = load_backbone("tiny" if asked.quick else "autoformer_demo").eval()
    images = load_data("digits" if asked.quick else "demo", backbone).batch(range(8))[0]
    differences, other = {}, []
    for method in list_methods():
        config = example_config(get_method(method), backbone.facts)
        try:
            model = compress_backbone(backbone, config).eval()
            with torch.inference_mode():
                here = model(images)
                there = model.to(device)(images.to(device)).cpu()
        except Exception as error:
            differences[method] = f"{type(error).__name__}: {error}"[:160]
            continue
        finally:
            backbone.cpu()
        differences[method] = float((here - there).abs().max())
        if not torch.equal(here.argmax(-1), there.argmax(-1)):
            other.append(method)
    return {"largest difference": differences, "other classes": other}


def throughput(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Images a second of an evaluation, and of the bare model."""
    name, count = ("tiny", 64) if asked.quick else ("deit_small_patch16_224", 2048)
    backbone = load_structure(name, device="cpu").eval().to(device)
    data = load_data("digits" if asked.quick else "demo", backbone)
    count = min(count, len(data))
    chosen = choose_format("auto", backbone, data, seed=0)
    judge = Evaluator(backbone, data, metric="kl", batch_size=128, precision=chosen.precision)
    rates: dict[str, Any] = {"precision": chosen.sentence}
    batches = [
        data.batch(data.subset(stop, 0)[stop - 128 : stop]) for stop in range(128, count + 1, 128)
    ] or [data.batch(data.subset(count, 0))]
    judge.reference(0, count)
    for method in ("none", "tome", "evit"):
        config = CompressionConfig(method, () if method == "none" else (Reduction(1, 0.5),))
        model = compress_backbone(backbone, config).eval()
        bare = _seconds(device, lambda model=model: _run(model, batches, device, chosen.precision))
        whole = _seconds(device, lambda model=model: judge.evaluate(model, 0, count))
        rates[method] = {
            "bare img/s": round(sum(len(b[0]) for b in batches) / bare, 1),
            "evaluation img/s": round(count / whole, 1),
            "ratio": round(count / whole * bare / sum(len(b[0]) for b in batches), 3),
        }
    return rates


def _run(model: torch.nn.Module, batches: list[Any], device: torch.device, precision: str) -> None:
    with torch.inference_mode(), computing(device, precision):
        for images, _ in batches:
            model(sent(images, device))


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Of the faster of two, after one to warm up."""
    spent = []
    for _ in range(3):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.append(time.perf_counter() - begin)
    return min(spent[1:])


def _autotok(*words: str) -> str:
    """What a command printed."""
    done = subprocess.run(
        [sys.executable, "-m", "autotok.cli", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"autotok {words[0]} exits with {done.returncode}: {done.stderr[-300:]}")
    return done.stdout


def search(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The README's command there, under a latency budget."""
    folder = asked.output / "search"
    quick = ("-b", "tiny", "--data", "digits", "--trials", "4", "--max-images", "32")
    _autotok(
        *("search", "--target", "jetson-nx", "--budget", "2.3GFLOPs" if not asked.quick else "60%"),
        *("--device", str(device), "-o", str(folder), "--timeout", "60" if asked.quick else "240"),
        *(quick if asked.quick else ()),
    )
    rows = (folder / "trials.csv").read_text("utf-8").splitlines()
    best = json.loads((folder / "pareto.json").read_text("utf-8"))["best"]
    return {"trials": len(rows) - 1, "best": best["config"], "score": best["score"]}


def finetune(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """A short fine-tune there."""
    small = ("-b", "tiny", "--data", "digits") if asked.quick else ("-b", "autoformer_demo")
    data = () if asked.quick else ("--data", "demo")
    keep = "0.5@1" if asked.quick else "0.5@3,0.3@6,0.15@9"
    length = "4 steps" if asked.quick else "200 steps"
    said = _autotok(
        *("finetune", *small, *data, "--method", "evit", "--keep", keep, "--length", length),
        *("--device", str(device), "-o", str(asked.output / "finetune"), "--json"),
    )
    return {"said": json.loads(said)}


def calibrate(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The target file of the device."""
    few = ("--measurements", "10", "--minutes", "1", "-b", "tiny") if asked.quick else ()
    path = asked.output / "target.yaml"
    said = _autotok("calibrate", "--device", str(device), "-o", str(path), "--json", *few)
    return {"said": json.loads(said)}


STEPS = {
    "same": same,
    "throughput": throughput,
    "search": search,
    "finetune": finetune,
    "calibrate": calibrate,
}


if __name__ == "__main__":
    main()
