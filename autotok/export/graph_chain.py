"""Several files of one model that stops early: written, compared with torch, and run in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autotok.compression.model import CompressedViT
from autotok.errors import ExportError
from autotok.files import write_text

from .best_yaml import json_text
from .formats import FORMATS, INPUT, ExportFormat, Written
from .graph_parts import LOGITS, all_answers, graph_parts, stop_rule, stopped_at
from .infer import AnyArray, Chain, Refused, Stopping, read_chain
from .running import running

DESCRIPTION = ".json"
"""After a model file's name, it is the file that names the parts and says when an image stops."""

_IN_WORDS = (
    "Run the parts in their order, one image at a time; each takes the tensors that it names, of"
    " the image and of parts before it, and gives those that it names, the logits first.",
    "After each part but the last, ask whether the image stops; if it does, that part's logits are"
    " the answer, else those of the last. 'confidence': the largest softmax probability is above"
    " the part's threshold (or equal, where at_threshold is true; one threshold is for all parts)."
    " 'entropy': that of the probabilities, in nats, is below it. 'patience': as many parts in a"
    " row as that number named the same class. 'patient_confident': as many in a row had an entropy"
    " below the threshold.",
)


def description_of(path: Path) -> Path:
    """Where the parts of the model file `path` are named."""
    return path.with_name(path.name + DESCRIPTION)


def check_chain(format: ExportFormat, *, batch: int, dynamic_batch: bool, precision: str) -> None:
    """Raise where a model that stops early cannot be written so.

    Raises:
        ExportError: of the format, the batch or the number format.
    """
    if not format.takes_parts:
        able = ", ".join(f.name for f in FORMATS if f.takes_parts)
        raise ExportError(
            f"a model that stops early is several graphs, which {format.name} files are not written"
            f" for; try --format {able}"
        )
    if batch != 1 or dynamic_batch:
        asked = "a dynamic batch" if dynamic_batch else f"a batch of {batch}"
        raise ExportError(
            f"a model that stops early is exported for one image at a time, as each stops where it"
            f" does, and not for {asked}; leave --batch and --dynamic-batch out"
        )
    if precision != "float32":
        raise ExportError(
            f"a model that stops early is exported in float32, not in {precision}; leave"
            " --precision out"
        )


@dataclass(frozen=True)
class WrittenChain:
    """Files of the parts, and what torch and they say of the same images, nobody stopping."""

    files: tuple[str, ...]
    written: Written
    expected: Tensor
    """(parts, n, K), of torch."""
    got: Tensor
    """(parts, n, K), of the files."""
    stopped: Tensor
    """(n,) part that answers each image, by torch."""
    stopped_files: Tensor
    """(n,) the same, by the files."""


def write_chain(
    format: ExportFormat, model: CompressedViT, images: Tensor, path: Path
) -> WrittenChain:
    """What was written beside the description `path`; the files run on every image, and through
    every part, so that none goes unseen because all images stop before it."""
    stem = Path(path.name.removesuffix(DESCRIPTION)).stem
    parts = graph_parts(model, images[:1])
    files = [f"{stem}.{number}{format.suffix}" for number in range(len(parts))]
    values = {INPUT: images[:1]}
    told: list[Written] = []
    for part, file in zip(parts, files, strict=True):
        example = tuple(values[name] for name in part.takes)
        told.append(format.write_part(part, example, path.parent / file))
        values.update(zip(part.gives, part(*example), strict=True))
    described = {
        "format": 1,
        "input": {"name": INPUT, "shape": list(images[:1].shape)},
        "parts": [
            {"file": file, "takes": list(part.takes), "gives": list(part.gives)}
            for part, file in zip(parts, files, strict=True)
        ],
        "stop": stop_rule(model),
        "in_words": _IN_WORDS,
    }
    write_text(path, json_text(described))
    expected = all_answers(model, images)
    with running(format):
        opened = FileChain(path, format)
        got = opened.every(images)
    return WrittenChain(
        tuple(files),
        _together(told, format.stand_in),
        *(expected, got),
        *(stopped_at(model, expected), opened.stopped_at(got)),
    )


def _together(told: Sequence[Written], stand_in: str) -> Written:
    """What was said of the parts, as of one file."""
    counts = sum((Counter(one.operators) for one in told), Counter[str]())
    exporters = [one.exporter for one in told]
    # one part not to be taken on trust, and none is
    exporter = stand_in if stand_in in exporters else exporters[-1]
    return Written(exporter, dict(counts.most_common()))


class FileChain(nn.Module):
    """The files of a model that stops early, on the CPU, run one image at a time."""

    def __init__(self, path: Path, format: ExportFormat) -> None:
        """`path` is the description that `write_chain` left beside them."""
        super().__init__()
        try:
            found = read_chain(path)
        except Refused as error:
            raise ExportError(str(error)) from error
        parts = [
            (format.open_part(path.parent / part["file"]), part["takes"], part["gives"])
            for part in found["parts"]
        ]
        self.chain = Chain(parts, found["stop"])

    def forward(self, images: Tensor) -> Tensor:
        """(n, classes) of images (n, C, H, W); each stops where it is sure."""
        answers = [self.chain.answer(image.float().cpu().numpy()) for image in images.split(1)]
        return torch.from_numpy(np.concatenate([logits for logits, _ in answers]))

    def every(self, images: Tensor) -> Tensor:
        """(parts, n, classes): what each part says, with nobody stopping."""
        found = []
        for image in images.split(1):
            values: dict[str, AnyArray] = {INPUT: image.float().cpu().numpy()}
            for run, takes, gives in self.chain.parts:
                values.update(zip(gives, run([values[name] for name in takes]), strict=True))
                found.append(values[LOGITS])
        together = torch.from_numpy(np.concatenate(found))  # (n parts, K)
        return together.reshape(len(images), len(self.chain.parts), -1).transpose(0, 1)

    def stopped_at(self, answers: Tensor) -> Tensor:
        """(n,) number of the part that answers each image, of what all say (parts, n, K)."""
        found = []
        for own in answers[:-1].transpose(0, 1).numpy():
            stopping = Stopping(self.chain.rule)
            asked = (number for number, row in enumerate(own) if stopping.stops(row))
            found.append(next(asked, len(own)))
        return torch.tensor(found)


class OneByOne(nn.Module):
    """A model of batch 1 on any number of images, one after the other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(n, classes) of images (n, C, H, W)."""
        return torch.cat([self.model(image) for image in images.split(1)])


def open_file(path: Path, format: ExportFormat) -> nn.Module:
    """What `export_model` wrote to `ExportResult.path`, as a model on the CPU."""
    if path.suffix == DESCRIPTION:
        return FileChain(path, format)
    return format.open(path, torch.device("cpu"))
