"""Exported files: how fast are they, and what does int8 make of them?

    python benchmarks/exports.py speed --backbone vit_small_patch14_dinov2 --image-size 224
    python benchmarks/exports.py operators --method tome
    python benchmarks/exports.py int8 --images 200
    python benchmarks/exports.py writing --backbone autoformer_demo --methods evit

`export_matrix.py` compares them with torch. `speed`: time over the uncompressed export's in the
same runtime, taking turns, beside the ratio of multiply-accumulates. `operators`: where ONNX
Runtime spends the time of both. `int8`: quality of the file, its size and latency beside float32.
`writing`: what it takes to write, and check on one image, a file of each format.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.backbones.loading import load_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.counting.macs import cost
from autotok.devices.measure import measure
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.data import load_data
from autotok.export.exported import export_model
from autotok.export.file_model import FileModel
from autotok.export.formats import FORMATS
from autotok.export.openvino import OpenVinoSession
from autotok.methods.base import Count, Kind
from autotok.methods.registry import get_method, list_methods
from autotok.report.export_report import calibration_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speed", "operators", "int8", "writing"])
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--methods", default="", help="Only these, as 'tome,evit'.")
    parser.add_argument("--method", default="tome")
    parser.add_argument("--data", default="demo")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--threads", type=lambda text: text.split(","), default=["1", "2"])
    parser.add_argument("--seconds", type=float, default=30.0, help="Of one measurement.")
    parser.add_argument("--runtimes", default="onnxruntime,openvino")
    parser.add_argument("--formats", default="onnx", help="Of `writing`, as 'onnx,executorch'.")
    parser.add_argument("--share", type=float, default=0.5, help="Of the multiply-accumulates.")
    asked = parser.parse_args()
    verbs = {"speed": speed, "operators": operators, "int8": int8, "writing": writing}
    verbs[asked.what](asked)


# --- what is exported


def static_methods(only: str) -> list[str]:
    """Methods of fixed counts that can be exported."""
    names = [name.strip() for name in only.split(",") if name.strip()] or list_methods()
    classes = [get_method(name) for name in names]
    return [
        m.name
        for m in classes
        if m.exportable and m.count is Count.STATIC and m.kind is not Kind.NONE
    ]


def at_share(method: str, backbone: Backbone, share: float) -> CompressedViT:
    """As many tokens out of every block (merging) or three stages (others) as cost that share."""
    facts = backbone.facts
    whole, total, depth = cost(facts, CompressionConfig()).macs, facts.num_patches, facts.num_blocks

    def config(strength: float) -> CompressionConfig:
        if get_method(method).kind is Kind.MERGE:
            kept = [total]
            for i in range(depth):  # a matching removes half at most
                wanted = round(total * (1 - strength * (i + 1) / depth))
                kept.append(max(wanted, kept[-1] - kept[-1] // 2))
            kept = kept[1:]
            return CompressionConfig(
                method, tuple(Reduction(i, num_keep=k) for i, k in enumerate(kept))
            )
        layers = (depth // 4, depth // 2, 3 * depth // 4)
        kept = [max(1, round(total * (1 - strength) ** (i + 1))) for i in range(3)]
        return CompressionConfig(
            method, tuple(Reduction(at, num_keep=k) for at, k in zip(layers, kept, strict=True))
        )

    low, high = 0.0, 0.99
    for _ in range(20):
        middle = (low + high) / 2
        above = cost(facts, config(middle)).macs > share * whole
        low, high = (middle, high) if above else (low, middle)
    return compress_backbone(backbone, config(high)).eval()


def random_images(backbone: Backbone, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, *backbone.facts.image_shape, generator=generator)


# --- what is printed


def speed(asked: argparse.Namespace) -> None:
    backbone = load_backbone(
        asked.backbone, checkpoint=asked.checkpoint, image_size=asked.image_size
    )
    whole, images = cost(backbone.facts, CompressionConfig()).macs, random_images(backbone, 1)
    print("| method | runtime | threads | MACs | time | MACs over time | error |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        beside = exported(compress_backbone(backbone, CompressionConfig()), images, folder, "none")
        for method in static_methods(asked.methods or "tome,evit,topk"):
            model = at_share(method, backbone, asked.share)
            share = cost(backbone.facts, model.config).macs / whole
            path = exported(model, images, folder, method)
            for runtime, threads in itertools.product(asked.runtimes.split(","), asked.threads):
                torch.set_num_threads(int(threads))
                own, other = (opened(p, runtime) for p in (path, beside))
                found = measure(own, images, reference=other, timeout_s=asked.seconds)
                ratio = 1 / (found.speedup or 1.0)
                print(
                    f"| {method} | {runtime} | {threads} | {share:.3f} | {ratio:.3f} |"
                    f" {share / ratio:.2f} | {found.speedup_error_pct or 0:.1f} % |",
                    flush=True,
                )


def exported(model: CompressedViT, images: Tensor, folder: str, name: str) -> Path:
    """An ONNX file of the model, which both runtimes read."""
    path = Path(folder) / f"{name}.onnx"
    export_model(model.eval(), path, images, strict=False)
    return path


def opened(path: Path, runtime: str) -> nn.Module:
    """A file in a runtime, with as many threads as torch has now."""
    if runtime == "openvino":
        return OpenVinoSession(path)
    return FORMATS.get("onnx").open(path, torch.device("cpu"))


def operators(asked: argparse.Namespace) -> None:
    backbone = load_backbone(
        asked.backbone, checkpoint=asked.checkpoint, image_size=asked.image_size
    )
    model, images = at_share(asked.method, backbone, asked.share), random_images(backbone, 1)
    times = [
        profiled(part, images) for part in (model, compress_backbone(backbone, CompressionConfig()))
    ]
    total = sum(times[1].values())
    print(f"| operator | {asked.method}, ms | uncompressed, ms | ratio |\n|---|---|---|---|")
    for name in sorted(set(times[0]) | set(times[1]), key=lambda n: -times[0][n]):
        own, whole = times[0][name], times[1][name]
        if own > 0.002 * total:
            ratio = f"{own / whole:.2f}" if whole else "-"
            print(f"| {name} | {own:.2f} | {whole:.2f} | {ratio} |")
    own = sum(times[0].values())
    print(f"| all | {own:.2f} | {total:.2f} | {own / total:.3f} |")


def profiled(model: CompressedViT, images: Tensor, runs: int = 30) -> Counter[str]:
    """Milliseconds of one run by operator, one thread, in ONNX Runtime."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_model(model, path, images, strict=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.enable_profiling = 1, True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options)
        for _ in range(runs):
            session.run(None, {"images": images.numpy()})
        events = json.loads(Path(session.end_profiling()).read_text())
    found: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["args"]["op_name"]] += event["dur"] / 1000 / runs
    return found


def int8(asked: argparse.Namespace) -> None:
    torch.set_num_threads(int(asked.threads[0]))
    name = "autoformer_demo" if asked.data == "demo" else asked.backbone
    backbone = load_backbone(name, checkpoint=asked.checkpoint, image_size=asked.image_size)
    evaluator = Evaluator(backbone, load_data(asked.data, backbone))
    models = {"uncompressed": compress_backbone(backbone, CompressionConfig())}
    models |= {
        m: at_share(m, backbone, asked.share) for m in static_methods(asked.methods or "evit")
    }
    shown = calibration_images(models["uncompressed"], asked.data)
    print(
        "| model | runtime | format | quality on the file | MB | ms | over float32 uncompressed |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        whole: dict[str, Path] = {}
        for label, model in models.items():
            step = exported(model, shown[:1], folder, label)
            for runtime in asked.runtimes.split(","):
                path = converted(step, runtime)
                whole.setdefault(runtime, path)
                for precision in ("float32", "int8"):
                    if precision == "int8":
                        format = FORMATS.get("openvino" if runtime == "openvino" else "onnx")
                        path = copied(path)
                        format.lower(path, precision, shown, batch=1)
                    row = file_row(path, whole[runtime], runtime, model, evaluator, asked)
                    print(f"| {label} | {runtime} | {precision} | {row} |", flush=True)


def writing(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    backbone = load_backbone(
        asked.backbone, checkpoint=asked.checkpoint, image_size=asked.image_size
    )
    models = {"none": compress_backbone(backbone, CompressionConfig()).eval()}
    models |= {
        m: at_share(m, backbone, asked.share) for m in static_methods(asked.methods or "evit")
    }
    small = compress_backbone(load_backbone("tiny"), CompressionConfig()).eval()
    print("| method | format | processor time, s | operators | MB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        for format in asked.formats.split(","):
            how = {"format": format, "strict": False}
            export_model(small, path, random_images(small.backbone, 1), **how)  # imports
            for label, model in models.items():
                began = time.process_time()
                found = export_model(model, path, random_images(backbone, 1), **how)
                spent, calls = time.process_time() - began, sum(found.operators.values())
                print(f"| {label} | {format} | {spent:.1f} | {calls} | {found.size_mb:.1f} |")


def converted(path: Path, runtime: str) -> Path:
    """The ONNX file, or what OpenVINO makes of it."""
    if runtime != "openvino":
        return path
    import openvino

    found = path.with_suffix(".xml")
    openvino.save_model(openvino.Core().read_model(path), str(found), compress_to_fp16=False)
    return found


def copied(path: Path) -> Path:
    """A file of another name, with what lies beside it."""
    for file in path.parent.glob(f"{path.stem}.*"):
        if file.suffix in (path.suffix, ".bin"):
            shutil.copy(file, file.with_stem(f"{path.stem}-int8"))
    return path.with_stem(f"{path.stem}-int8")


def file_row(
    path: Path,
    whole: Path,
    runtime: str,
    model: CompressedViT,
    evaluator: Evaluator,
    asked: argparse.Namespace,
) -> str:
    """Quality on the file, size, latency beside the uncompressed model in float32."""
    own, other = opened(path, runtime), opened(whole, runtime)
    judged = evaluator.evaluate(FileModel(own, model.config), 0, asked.images).quality()
    images = evaluator.data.batch(evaluator.data.subset(1, 0))[0]
    timed = measure(own, images, reference=other, timeout_s=asked.seconds)
    size = sum(f.stat().st_size for f in (path, path.with_suffix(".bin")) if f.is_file()) / 1e6
    return (
        f"{judged.value:.1f} [{judged.low:.1f}, {judged.high:.1f}] | {size:.1f} |"
        f" {timed.latency_ms:.1f} | {1 / (timed.speedup or 1.0):.3f}"
    )


if __name__ == "__main__":
    main()
