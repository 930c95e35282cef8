"""ONNX files opened in ONNX Runtime, the same way wherever one is run here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

EXACT_INT8 = ("session.x64quantprecision", "1")
"""int8 products are summed in full. By default ONNX Runtime pairs them in 16 bits on x86 processors
that have AVX2 or AVX-512 but no VNNI, where the sums saturate without a word; with VNNI, and in
files without int8, this changes nothing."""

Provider = str | tuple[str, dict[str, Any]]
"""What runs operators: its name, with its options where it has any."""


def onnx_session(
    model: bytes, *, threads: int = 0, providers: Sequence[Provider] = ("CPUExecutionProvider",)
) -> Any:
    """An `onnxruntime.InferenceSession` of a serialised model; 0 threads: as many as it chooses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it prints of errors, it raises too
    options.intra_op_num_threads = threads
    options.add_session_config_entry(*EXACT_INT8)
    return onnxruntime.InferenceSession(model, options, providers=list(providers))
