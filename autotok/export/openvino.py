"""OpenVINO files (.xml, the weights in a .bin beside it): converted from ONNX, run on the CPU.

int8 is made by NNCF, which knows transformers; openvino and nncf are the extra 'openvino'.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotok.config import NUMBERS
from autotok.errors import ExportError, failure

from .formats import ExportFormat, Written, not_exported, register_format
from .graph_parts import GraphPart
from .infer import AnyArray, PartRunner
from .onnx import Onnx

_NO_OPERATION = ("Constant", "Parameter", "Result")


@register_format("openvino")
class OpenVino(ExportFormat):
    """For Intel's processors and graphics, and whatever else OpenVINO runs on."""

    suffix = ".xml"
    precisions = NUMBERS
    stand_in = f"openvino of {Onnx.stand_in}"
    runtime = "openvino"
    takes_parts = True

    def check(self) -> None:
        try:
            import openvino

            _nncf()
            openvino.Core()
        except Exception as error:  # a broken build raises anything, ImportError to OSError
            raise ExportError(
                f"OpenVINO files cannot be made here ({failure(error)[:160]}); install it with"
                " `pip install 'autotok[openvino]'`, or choose another --format"
            ) from error
        Onnx().check()

    def write(
        self, model: nn.Module, images: Tensor, path: Path, *, dynamic_batch: bool
    ) -> Written:
        """By OpenVINO's converter, of the ONNX file."""
        onnx = partial(Onnx().write, model, images, dynamic_batch=dynamic_batch)
        return self._converted(onnx, path)

    def write_part(self, part: GraphPart, example: tuple[Tensor, ...], path: Path) -> Written:
        return self._converted(partial(Onnx().write_part, part, example), path)

    def _converted(self, onnx: Callable[[Path], Written], path: Path) -> Written:
        import openvino

        with tempfile.TemporaryDirectory(prefix="autotok-openvino-") as folder:
            step = Path(folder) / "model.onnx"
            older = onnx(step).exporter == Onnx.stand_in
            try:
                found = openvino.Core().read_model(str(step))
                openvino.save_model(found, str(path), compress_to_fp16=False)
            except Exception as error:  # its own types are private
                raise not_exported(self.name, failure(error)[:200]) from error
        by = self.stand_in if older else f"openvino {openvino.__version__.split('-')[0]}"
        return Written(by, _operations(found))

    def lower(self, path: Path, precision: str, images: Tensor, *, batch: int) -> Written:
        """float16 weights by OpenVINO, int8 by NNCF's quantiser for transformers.

        Products of two activations stay in float32, as in ONNX files. Weights take seven of the
        eight bits: processors without VNNI add products up in 16 bits, where more would overflow.
        """
        import openvino

        model = openvino.Core().read_model(str(path))
        by = f"openvino {openvino.__version__.split('-')[0]} float16 weights"
        if precision == "int8":
            nncf = _nncf()
            by = f"nncf {nncf.__version__}"
            chunks = [chunk.numpy() for chunk in images.split(batch)]
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
                    model = nncf.quantize(
                        model,
                        nncf.Dataset(chunks),
                        model_type=nncf.ModelType.TRANSFORMER,
                        subset_size=len(chunks),
                        ignored_scope=nncf.IgnoredScope(names=_products(model)),
                        advanced_parameters=_seven_bits(),
                    )
            except Exception as error:
                raise not_exported(self.name, f"int8: {failure(error)[:200]}") from error
        fresh = path.with_name(f"fresh-{path.name}")  # the weights of the old one are mapped
        openvino.save_model(model, str(fresh), compress_to_fp16=precision == "float16")
        for suffix in (".bin", ".xml"):
            os.replace(fresh.with_suffix(suffix), path.with_suffix(suffix))
        return Written(by, _operations(model))

    def open(self, path: Path, device: torch.device) -> nn.Module:
        return OpenVinoSession(path)

    def open_part(self, path: Path) -> PartRunner:
        request = _request(path)

        def run(arrays: Sequence[AnyArray]) -> list[AnyArray]:
            request.infer(list(arrays))
            return [value.data.copy() for value in request.output_tensors]

        return run

    def version(self, opened: nn.Module | None = None) -> str:
        import openvino

        return f"openvino {openvino.__version__.split('-')[0]} CPU f32"


class OpenVinoSession(nn.Module):
    """An OpenVINO file on the CPU, with as many threads as torch has.

    Where weights are not int8, products are in float32: on processors that have bfloat16 OpenVINO
    would take that unasked.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._request = _request(path)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, classes), on the host."""
        self._request.infer([images.float().cpu().numpy()])
        return torch.from_numpy(self._request.get_output_tensor(0).data.copy())


def _request(path: Path) -> Any:
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    model: Any = openvino.Core().compile_model(str(path), "CPU", hints)
    return model.create_infer_request()


def _nncf() -> Any:
    """The module; it would report its use to its makers, unasked."""
    os.environ.setdefault("NNCF_CI", "1")
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf


def _seven_bits() -> Any:
    """Weights of which no sum of products overflows 16 bits."""
    from nncf.quantization import advanced_parameters as of

    return of.AdvancedQuantizationParameters(overflow_fix=of.OverflowFix.ENABLE)


def _products(model: Any) -> list[str]:
    """Names of the products of two activations."""
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "MatMul"
        and all(value.get_node().get_type_name() != "Constant" for value in node.input_values())
    ]


def _operations(model: Any) -> dict[str, int]:
    """How often each operation occurs, most frequent first."""
    kinds = (node.get_type_name() for node in model.get_ordered_ops())
    return dict(Counter(kind for kind in kinds if kind not in _NO_OPERATION).most_common())
