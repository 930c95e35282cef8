"""Do exported files say what torch says? Every method on four kinds of backbone in two runtimes.

    python benchmarks/export_matrix.py --csv matrix.csv --write benchmarks/export_matrix.md

ONNX files of small models with random weights, run one image at a time by ONNX Runtime and by
OpenVINO and compared with torch: the largest difference over the largest output, which is to be
1e-4 at most, and the images with another first choice. Where a file disagrees, torch is compared
with itself on images moved by a millionth: as much means that which tokens go hangs on rounding.
Cells that the CSV holds already are not made again.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autotok.backbones.autoformer import AutoFormer, SupernetSpec
from autotok.backbones.base import Backbone
from autotok.backbones.loading import as_backbone
from autotok.backbones.lvvit import LVViT, LVViTSpec
from autotok.backbones.timm_vit import timm
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.errors import AutotokError
from autotok.export.exported import check_exportable, export_model, own_sensitivity
from autotok.export.formats import FORMATS
from autotok.export.openvino import OpenVinoSession
from autotok.methods.base import Count, Kind, Placement
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.registry import get_method, list_methods, unmet_need
from autotok.testing.reduction_case import stand_in

FAR = 1e-4
RATIOS = (0.7, 0.5, 0.35)
RUNTIMES = {"ONNX": "onnxruntime", "OpenVINO": "openvino"}


@dataclass(frozen=True)
class Cell:
    """One model in one runtime beside torch, or why there is none."""

    backbone: str
    method: str
    format: str
    images: int
    reason: str = ""
    """Why the method cannot; then nothing else is known."""
    relative: float | None = None
    """Largest difference over the largest output."""
    other_choices: int | None = None
    """Images with another first choice."""
    itself: float | None = None
    """The same of torch on images moved by a millionth; only where the file disagrees."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.backbone, self.method, self.format, self.images

    @property
    def agrees(self) -> bool:
        """Whether there is nothing to mend."""
        return bool(self.reason) or ((self.relative or 0.0) <= FAR and not self.other_choices)

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        text = f"{self.relative:.1e}" + (f", {self.other_choices}" if self.other_choices else "")
        return text if self.itself is None else f"{text}; torch itself {self.itself:.1e}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", default="ViT,LayerScale,AutoFormer,LV-ViT")
    parser.add_argument("--methods", default="", help="Only these, as 'tome,evit'.")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--csv", type=Path, required=True, help="Where cells are kept.")
    parser.add_argument("--write", type=Path, help="A page of the table, in Markdown.")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = [name for name in asked.methods.split(",") if name] or static_methods()
    chosen = {k: v for k, v in backbones().items() if k in asked.backbones.split(",")}
    known = read_cells(asked.csv)
    cells: list[Cell] = []
    for label, backbone in chosen.items():
        for method in names:
            keys = [(label, method, format, asked.images) for format in RUNTIMES]
            if not all(key in known for key in keys):
                for cell in made(label, backbone, method, asked.images):
                    known[cell.key] = cell
                    keep(cell, asked.csv)
                    print(f"{label} {method} {cell.format}: {cell}", flush=True)
            cells += [known[key] for key in keys]
    text = table(cells)
    print(text)
    if asked.write is not None:
        asked.write.write_text(page(text, cells))


# --- what is exported


def backbones() -> dict[str, Backbone]:
    """A plain ViT, one with LayerScale as DINOv2's, an AutoFormer and an LV-ViT; random weights."""
    shape = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3}
    vit, scaled = (
        timm.models.VisionTransformer(num_classes=10, init_values=value, **shape)
        for value in (None, 0.5)
    )
    supernet = SupernetSpec(
        embed_dim=48, depth=4, heads=3, mlp_ratio=4.0, embed_choices=(48,), depth_choices=(4,),
        heads_choices=(3,), mlp_ratio_choices=(4.0,), image_shape=(3, 64, 64), patch_size=8,
        num_classes=10, head_dim=16, max_offset=7,
    )  # fmt: skip
    spec = LVViTSpec(48, 4, 3, 144, image_shape=(3, 64, 64), patch_size=8, num_classes=10)
    found = {
        "ViT": as_backbone(vit),
        "LayerScale": as_backbone(scaled),
        "AutoFormer": AutoFormer(supernet, supernet.largest()),
        "LV-ViT": LVViT(spec),
    }
    for backbone in found.values():
        make_large(backbone)
    return found


def make_large(module: nn.Module) -> None:
    """Random weights so large that tokens differ: what is chosen must not hang on rounding."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15, generator=generator)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1, generator=generator)


def static_methods() -> list[str]:
    """Methods of fixed counts, whether they can be exported or not."""
    found = [get_method(name) for name in list_methods()]
    return [m.name for m in found if m.count is Count.STATIC and m.kind is not Kind.NONE]


def staged(method: str, backbone: Backbone) -> CompressedViT:
    """Three stages at a quarter, a half and three quarters, or what the method can do of it."""
    cls, depth = get_method(method), backbone.facts.num_blocks
    layers = [depth // 4, depth // 2, 3 * depth // 4]
    reductions = [Reduction(*pair) for pair in zip(layers, RATIOS, strict=True)]
    if cls.placement is Placement.BEFORE_BLOCKS:
        reductions = [Reduction(0, RATIOS[1])]
    elif cls.single_layer:
        reductions = [Reduction(layers[0], RATIOS[1])]
    model = compress_backbone(backbone, CompressionConfig(method, tuple(reductions))).eval()
    for reducer in model.reducers.values():
        if isinstance(reducer, ImageScoring):  # whose weights are not in the package
            reducer.network = stand_in()
    make_large(model.reducers)
    return model


# --- what is compared


@torch.no_grad()
def made(label: str, backbone: Backbone, method: str, number: int) -> Iterator[Cell]:
    """Cells of one model: one file, compared in every runtime."""
    cells = [Cell(label, method, format, number) for format in RUNTIMES]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(number, *backbone.facts.image_shape, generator=generator)
    need = unmet_need(get_method(method), backbone.facts)
    with tempfile.TemporaryDirectory(prefix="autotok-matrix-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            check_exportable(method)
            if need is None:
                model = staged(method, backbone)
                export_model(model, path, images[:1], strict=False)
        except AutotokError as error:
            need = str(error)
        if need is not None:
            yield from (dataclasses.replace(cell, reason=need) for cell in cells)
            return
        expected = torch.cat([model(image[None]) for image in images])
        moved: float | None = None
        for cell in cells:
            session = opened(path, RUNTIMES[cell.format])
            found = compared(cell, expected, torch.cat([session(image[None]) for image in images]))
            if not found.agrees:
                moved = own_sensitivity(model, images, 1, expected) if moved is None else moved
                found = dataclasses.replace(found, itself=moved / float(expected.abs().max()))
            yield found


def opened(path: Path, runtime: str) -> nn.Module:
    """A file in a runtime; the one of OpenVINO is what it makes of the ONNX file."""
    if runtime == "openvino":
        return OpenVinoSession(path)
    return FORMATS.get("onnx").open(path, torch.device("cpu"))


def compared(cell: Cell, expected: Tensor, got: Tensor) -> Cell:
    relative = float((expected - got).abs().max() / expected.abs().max())
    other = int((expected.argmax(1) != got.argmax(1)).sum())
    return dataclasses.replace(cell, relative=relative, other_choices=other)


# --- what is kept and printed


def read_cells(path: Path) -> dict[tuple[str, str, str, int], Cell]:
    """What an earlier run kept, of any number of images."""
    if not path.is_file():
        return {}
    found: dict[tuple[str, str, str, int], Cell] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            relative, itself = (float(row[k]) if row[k] else None for k in ("relative", "itself"))
            other = int(row["other_choices"]) if row["other_choices"] else None
            names = row["backbone"], row["method"], row["format"]
            cell = Cell(*names, int(row["images"]), row["reason"], relative, other, itself)
            found[cell.key] = cell
    return found


def keep(cell: Cell, path: Path) -> None:
    row, fresh = dataclasses.asdict(cell), not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def table(cells: list[Cell]) -> str:
    """A row a method, a column a backbone and format; reasons that hold everywhere stand once."""
    columns = list(dict.fromkeys((cell.backbone, cell.format) for cell in cells))
    rows: dict[str, dict[tuple[str, str], Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.method, {})[cell.backbone, cell.format] = cell
    lines = ["| method | " + " | ".join(f"{b} {f}" for b, f in columns) + " |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    lines += [
        f"| {method} | " + " | ".join(str(row[column]) for column in columns) + " |"
        for method, row in rows.items()
    ]
    return "\n".join(lines)


def page(text: str, cells: list[Cell]) -> str:
    """The table with what it says, and of what."""
    run = [cell for cell in cells if not cell.reason]
    good = sum(cell.agrees for cell in run)
    whose = ",".join(dict.fromkeys(cell.backbone for cell in cells))
    versions = ", ".join(FORMATS.get(name).version() for name in ("onnx", "openvino"))
    return (
        "# Exported files beside torch\n\n"
        "`python benchmarks/export_matrix.py --csv matrix.csv --write benchmarks/export_matrix.md"
        f" --backbones {whose}`: {good} of {len(run)}\ncells that can be exported agree.\n\n"
        "Largest difference over the largest output, float32, batch 1,"
        f" {cells[0].images} random images; after a comma, how many\nof them have another first"
        " choice; after a semicolon, what torch differs from itself when its input moves by a"
        "\nmillionth. Small models with random weights.\n"
        f"torch {torch.__version__}, {versions}, {platform.machine()}.\n\n{text}\n"
    )


if __name__ == "__main__":
    main()
