"""TensorRT: an ONNX file with the command that builds an engine of it on the device, and a runner.

An engine is built where it runs, so what is written and checked here is the ONNX file alone.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from string import Template

from torch import Tensor, nn

from .engines import engine_table
from .formats import INPUT, Written, register_format
from .onnx import Onnx

_RUNNER = Path(__file__).with_name("trt_runner.py")
FLAGS = {"float32": "", "float16": "--stronglyTyped", "int8": "--int8 --fp16"}
"""Of trtexec, by the file's number format; what `board.py` gives it too."""
_OLD = 17
"""The highest operator set of TensorRT 8, which knows of no types but by --fp16 and --int8."""
_COMPUTES = {
    "float32": "in float32; with --fp16 as an argument of this script, in float16",
    "float16": "in float16 as the file says",
    "int8": "in int8 where the file says so, elsewhere in float16 or float32",
}
_BUILD = Template(
    """\
#!/bin/sh
# Builds $engine of $name on the device that it is to run on, then times it there.
# The file was checked in ONNX Runtime, not in TensorRT: there was none where it was written.
# What to expect: a build of minutes, "&&&& PASSED" at the end of each of the two parts, and the
# latency under "GPU Compute Time"; then compare the outputs with
#   python3 $runner $engine images.npy logits.npy
# Operators, by TensorRT's own lists:
$verdicts
set -eu
cd "$$(dirname "$$0")"
$flags
trtexec --onnx=$name --saveEngine=$engine $$flags$shapes "$$@"
trtexec --loadEngine=$engine$run --useCudaGraph --warmUp=500 --iterations=200
"""
)


@register_format("tensorrt")
class TensorRt(Onnx):
    """An ONNX file and, beside it, what makes an engine of it."""

    runtime: str | None = None
    board_runtimes: tuple[str, ...] = ()
    takes_parts: bool = False

    def write(
        self, model: nn.Module, images: Tensor, path: Path, *, dynamic_batch: bool
    ) -> Written:
        """As ONNX, with the two scripts."""
        written = super().write(model, images, path, dynamic_batch=dynamic_batch)
        self._beside(path, written, images, dynamic_batch=dynamic_batch)
        note = (
            "there is no TensorRT here: the ONNX file was checked in ONNX Runtime;"
            f" {path.stem}.trtexec.sh builds and times the engine on the device"
        )
        return Written(written.exporter, written.operators, notes=(note,))

    def lower(self, path: Path, precision: str, images: Tensor, *, batch: int) -> Written:
        """As ONNX, built with what the number format asks for."""
        written = super().lower(path, precision, images, batch=batch)
        script = path.with_name(f"{path.stem}.trtexec.sh")
        text = script.read_text("utf-8")
        text = re.sub(r"^flags=.*", self._flags_line(precision), text, flags=re.MULTILINE)
        script.write_text(_with_verdicts(text, self.engines(written.operators)), "utf-8")
        return written

    def _flags_line(self, precision: str) -> str:
        old = precision == "float16" and self.opset <= _OLD
        return f"flags='{'--fp16' if old else FLAGS[precision]}'  # computes {_COMPUTES[precision]}"

    def _beside(self, path: Path, written: Written, images: Tensor, *, dynamic_batch: bool) -> None:
        shape = "x".join(map(str, images.shape[1:]))
        ranges = zip(("min", "opt", "max"), (1, 1, max(16, len(images))), strict=True)
        shapes = "".join(f" --{word}Shapes={INPUT}:{n}x{shape}" for word, n in ranges)
        runner = path.with_name(f"{path.stem}.trt_runner.py")
        text = _BUILD.substitute(
            name=shlex.quote(path.name),
            engine=shlex.quote(f"{path.stem}.engine"),
            runner=shlex.quote(runner.name),
            flags=self._flags_line("float32"),
            shapes=shapes if dynamic_batch else "",
            run=f" --shapes={INPUT}:1x{shape}" if dynamic_batch else "",
            verdicts="",
        )
        script = path.with_name(f"{path.stem}.trtexec.sh")
        script.write_text(_with_verdicts(text, self.engines(written.operators)), "utf-8")
        script.chmod(0o755)
        runner.write_text(_RUNNER.read_text("utf-8"), "utf-8")


def _with_verdicts(text: str, verdicts: dict[str, str]) -> str:
    """The script with what TensorRT's versions make of the file."""
    words = {e.name: e.what for e in engine_table() if e.name.startswith("tensorrt")}
    lines = "".join(f"#   {words[name]}: {verdicts[name]}\n" for name in words)
    head, body = text.split("set -eu\n")
    head = "".join(line for line in head.splitlines(True) if not line.startswith("#   TensorRT"))
    return f"{head.rstrip()}\n{lines}set -eu\n{body}"
