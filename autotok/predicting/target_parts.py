"""What a target is made of: numbers with their sources, settings, points, and a calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from autotok.config import Options
from autotok.errors import ConfigError, nearest
from autotok.metrics import PREDICTED
from autotok.names import check_number

from .regressors import FEATURES

ROLES = ("fitted", "held out")
EFFICIENCIES = ("matmul", "conv", "attention", "bandwidth")
FUSIONS = ("none", "pointwise", "epilogue")
POSITIONS = ("carried", "dense")
STORED_AS = {
    "float32": "float32",
    "tfloat32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
}
"""Number formats that predictions are made in, by how tensors are stored."""
DTYPES = (*STORED_AS, "int8")
"""Those that a target may state a peak of: how int8 files run is measured, not predicted."""


def check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    """Raise `ConfigError` where the value is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{what} '{value}' is unknown; choose one of: {', '.join(choices)}")


@dataclass(frozen=True)
class Number:
    """A value and where it comes from: 'datasheet ...', 'fitted: ...' or 'estimate: ...'."""

    value: float
    source: str

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ConfigError(f"value must not be negative, got {self.value}")
        if not self.source.strip():
            raise ConfigError("source must say where the number comes from")


@dataclass(frozen=True)
class Terms:
    """Time per unit of each regressor of `regressors.py`: a latency model fitted to measurements.

    Where a setting has them, they take the place of its roofline.
    """

    source: str
    microseconds: Mapping[str, float]
    """By regressor; those left out take no time."""

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise ConfigError("source must say where the terms come from")
        if not self.microseconds:
            raise ConfigError("microseconds must map regressors to times")
        for name, value in self.microseconds.items():
            if name not in FEATURES:
                raise ConfigError(f"regressor '{name}' is unknown;{nearest(str(name), FEATURES)}")
            if not value >= 0:
                raise ConfigError(f"regressor '{name}' must not be negative, got {value!r}")
        object.__setattr__(self, "microseconds", MappingProxyType(dict(self.microseconds)))


@dataclass(frozen=True)
class CalibrationRecord:
    """How a target's terms came about, and how well they did on configurations kept aside."""

    when: str
    machine: str
    torch: str
    autotok: str
    threads: int
    clock: str
    dtype: str
    batch: int
    backbones: tuple[str, ...]
    measurements: int
    """Configurations measured, those kept aside included."""
    held_out: int
    within_5_pct: float
    """Share of those kept aside, in per cent."""
    within_10_pct: float
    worst_pct: float
    """Largest latency error of those kept aside."""
    rank_correlation: float | None = None
    """None where too few were kept aside, or all were predicted or measured alike."""
    memory_points: int = 0
    memory_worst_pct: float | None = None
    """Largest peak-memory error where it was checked."""
    runtime: str = ""
    """What ran the models; `torch` is the version that made or exported them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "backbones", tuple(self.backbones))
        check_choice("dtype", self.dtype, STORED_AS)
        check_number("batch", self.batch)


@dataclass(frozen=True)
class Setting:
    """How a device executes a model: the coefficients of the latency and memory models."""

    asynchronous: bool
    """Kernels queue while the host goes on (CUDA), so the slower of host and device decides."""
    fused_attention: bool
    """Plain attention runs as one kernel, without its map in memory."""
    fixed_ms: Number
    dispatch_us: Number
    """Host time per kernel."""
    kernel_start_us: Number
    """Device time to start and drain a kernel, however small."""
    efficiency: Mapping[str, Number]
    """Share of peak that matmul, conv and attention reach, and of bandwidth that the rest does."""
    runtime_base_mb: Number
    activation_overhead: Number
    """Memory taken per byte of live tensors: the allocator's cache and kernels' work space."""
    half_width: Number | None = None
    """Width of a product at which it reaches half its efficiency; none: it does not saturate."""
    tile_rows: Number | None = None
    """Rows are computed in whole tiles of so many; none: no steps."""
    fusion: str = "none"
    """'pointwise': neighbouring pointwise kernels are one; 'epilogue': so are those behind a
    product."""
    terms: Terms | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "efficiency", MappingProxyType(dict(self.efficiency)))
        check_choice("fusion", self.fusion, FUSIONS)
        missing = [key for key in EFFICIENCIES if key not in self.efficiency]
        if missing or len(self.efficiency) != len(EFFICIENCIES):
            raise ConfigError(f"efficiency must give exactly: {', '.join(EFFICIENCIES)}")
        for key, number in self.efficiency.items():
            if not 0 < number.value <= 1:
                raise ConfigError(f"efficiency {key} must be in (0, 1], got {number.value}")


@dataclass(frozen=True)
class Reference:
    """What is known of the implementation behind a published point, where it was not autotok's."""

    launches_per_reduction: int
    """Kernels added in every reducing block."""
    fused_attention: bool
    source: str
    relative_positions: str = "carried"
    """'dense': looked up anew from the sequence length in every block, see `as_published.py`."""
    proportional: bool = True
    """Attention adds the log of token sizes, where there are any; told apart with 'dense' only."""

    def __post_init__(self) -> None:
        check_choice("relative_positions", self.relative_positions, POSITIONS)


@dataclass(frozen=True)
class PublishedPoint:
    """A published or measured figure that predictions are held against."""

    source: str
    backbone: str
    method: str
    metric: str
    value: float
    role: str
    """'fitted' if coefficients were made from it, else 'held out'."""
    batch: int = 1
    dtype: str = "float32"
    gflops: float | None = None
    """As published; conventions differ from paper to paper."""
    num_keep: tuple[int, ...] = ()
    """Patch tokens leaving `layers`, chosen to meet `gflops`."""
    layers: tuple[int, ...] = ()
    """Layers that reduce; 0, 1, ... by default."""
    options: Options = field(default_factory=dict, hash=False)
    """Of the method, by name."""
    reference: Reference | None = None
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_keep", tuple(self.num_keep))
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        layers = tuple(self.layers) or tuple(range(len(self.num_keep)))
        object.__setattr__(self, "layers", layers)
        if len(layers) != len(self.num_keep):
            raise ConfigError(f"layers has {len(layers)} entries, num_keep {len(self.num_keep)}")
        check_choice("metric", self.metric, PREDICTED)
        check_choice("dtype", self.dtype, STORED_AS)
        check_number("batch", self.batch)
        check_choice("role", self.role, ROLES)

    @property
    def label(self) -> str:
        """Backbone, method, cost and batch in a few words."""
        cost = "" if self.gflops is None else f" {self.gflops:g}G"
        return f"{self.backbone} {self.method}{cost} batch {self.batch}"
