"""`Problem`: everything a search needs to know about the model, the data and the device, injected.

The search itself meets no tensor and no model: costs are numbers, quality is a tally that adds up.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autotok.config import CompressionConfig, Options, Reduction, Subnet
from autotok.counting.cost import Cost
from autotok.devices.measurement import Measurement
from autotok.errors import ConfigError
from autotok.facts import BackboneFacts
from autotok.metrics import METRICS, TABLE
from autotok.searching.records.record import Score

from .budget import Budget, BudgetRequest, resolve
from .search_space import SearchSpace
from .shape import Shape
from .subnets import Subnets

COUNTED_IMAGES = 16
"""Images that the independent counter runs where they cost different amounts."""


class QualityLike(Protocol):
    """What `TallyLike.quality()` returns; `autotok.evaluation.accuracy.Quality` fits."""

    @property
    def metric(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def num_images(self) -> int: ...


class TallyLike(Protocol):
    """Sums over images; tallies of disjoint images add up."""

    @property
    def num_images(self) -> int: ...

    def __add__(self, other: Any, /) -> Any: ...

    def quality(self) -> QualityLike:
        """The figure, with its interval."""
        ...


@dataclass(frozen=True)
class Tuned:
    """What a fine-tune did; its weights are kept where `Worker.evaluate` finds them."""

    steps: int
    images: int
    seconds: float
    loss: float
    """Mean over the last tenth of the steps."""
    config: str = ""
    """The configuration that came out, `CompressionConfig.canonical`, where training or calibration
    found thresholds; its weights are kept under its id. '' where it is the one that went in."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """The rate and why, what was tried, which state was kept (`FineTuned.evidence`)."""


class Worker(Protocol):
    """What does the jobs, in whatever process. `Problem` is one; see `engines.base`."""

    @property
    def evaluate(self) -> Callable[[CompressionConfig, int, int], TallyLike]:
        """(configuration, start, stop) -> tally over images [start, stop) of the seeded order.

        A configuration of mode 'retrain' is judged with the weights its fine-tune left.
        """
        ...

    @property
    def finetune(self) -> Callable[[CompressionConfig], Tuned] | None:
        """Fine-tune a configuration and keep its weights; started again, it goes on where a killed
        one stopped. None where nothing can be retrained."""
        ...

    @property
    def pace(self) -> Callable[[CompressionConfig], Tuned] | None:
        """Fine-tune a configuration for as long as it says and keep nothing, to see how fast that
        is: `Tuned.images` in `Tuned.seconds`, what comes before the first step apart. None where
        nobody knows."""
        ...


class ExactCosts:
    """Exact costs of configurations, by the formula of `autotok.counting.macs`."""

    def __init__(
        self,
        facts: BackboneFacts,
        structure: Subnets | None = None,
        backbones: Sequence[tuple[str, BackboneFacts]] = (),
    ) -> None:
        self._facts, self._structure = facts, structure
        self._others = {name: ExactCosts(other) for name, other in backbones}
        self._subnets: dict[Subnet, BackboneFacts] = {}
        self._sized: dict[tuple[Subnet | None, int], BackboneFacts] = {}

    def facts(
        self, subnet: Subnet | None, image_size: int | None = None, backbone: str = ""
    ) -> BackboneFacts:
        """Facts of a subnet at an image size, of one backbone of several; None is it as it is."""
        if backbone in self._others:
            return self._others[backbone].facts(subnet, image_size)
        if image_size is not None:
            key = subnet, image_size
            if key not in self._sized:
                self._sized[key] = self.facts(subnet).at_size(image_size)
            return self._sized[key]
        if subnet is None:
            return self._facts
        if subnet not in self._subnets:
            assert self._structure is not None, "a configuration names a subnet"
            self._subnets[subnet] = self._structure.facts(subnet)
        return self._subnets[subnet]

    def cost(self, config: CompressionConfig) -> Cost:
        """Every convention at once; of exits that are to meet a mean cost, that."""
        from autotok.counting.macs import cost

        facts = self.facts(config.subnet, config.image_size, config.backbone)
        found = cost(facts, config)
        share = 1.0
        if config.exits is not None and config.exits.mean_macs is not None:
            share = config.exits.mean_macs / found.macs
        return Cost(round(share * found.macs), round(share * found.macs_noattn), int(found.params))

    def exit_macs(self, shape: Shape, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """(M, 2) multiply-accumulates of an image that stops at the first exit of a shape, and of
        one that goes on to the end, by rows of counts (M, S)."""
        from autotok.counting.exit_costs import exit_macs_of

        facts = self.facts(shape.subnet, shape.image_size, shape.backbone)
        reductions = tuple(Reduction(layer, num_keep=1) for layer in shape.layers)
        config = CompressionConfig(shape.method, reductions, shape.options, exits=shape.exits)
        return exit_macs_of(facts, config, counts)[:, [0, -1]]

    def schedule_macs(
        self,
        method: str,
        options: Options,
        layers: Sequence[int],
        counts: NDArray[np.int64],
        subnet: Subnet | None = None,
        image_size: int | None = None,
        backbone: str = "",
    ) -> NDArray[np.int64]:
        """(M,) multiply-accumulates of M rows of counts (M, S) at fixed layers."""
        from autotok.counting.macs import schedule_macs

        facts = self.facts(subnet, image_size, backbone)
        return schedule_macs(facts, method, options, layers=layers, counts=counts)


def budgets_of(
    requests: Iterable[BudgetRequest],
    facts: BackboneFacts,
    predict: Callable[[CompressionConfig], Mapping[str, float]] | None = None,
) -> tuple[Budget, ...]:
    """The limits that requests mean; shares are of what the uncompressed model costs."""
    whole = CompressionConfig()
    known: dict[str, float] = {**vars(ExactCosts(facts).cost(whole))}
    known |= {} if predict is None else predict(whole)
    return tuple(resolve(request, known) for request in requests)


@dataclass(frozen=True)
class Fingerprint:
    """What whoever resumes or joins a study must find unchanged."""

    code: str
    """Short hash of the space, the budgets and what else earlier versions knew."""
    held: Callable[[], dict[str, str]] = field(compare=False)
    """The same in words by name, and what a hash of these does not tell, such as the weights."""


@dataclass(frozen=True)
class Problem:
    """One search problem. Callables get and give plain values."""

    facts: BackboneFacts
    """Of the first backbone, where the space has several."""
    space: SearchSpace
    budgets: tuple[Budget, ...]
    evaluate: Callable[[CompressionConfig, int, int], TallyLike]
    """(configuration, start, stop) -> tally over images [start, stop) of the seeded order."""
    total_images: int
    metric: str
    """What `evaluate` scores, one of `metrics.QUALITIES`."""
    predict: Callable[[CompressionConfig], Mapping[str, float]] | None = None
    """Metrics on the target by name (latency_ms, peak_memory_mb ...), with latency_error_pct and
    memory_error_pct where the target's predictions were checked."""
    measure: Callable[[CompressionConfig], Measurement] | None = None
    """Measures on a device; None where none is at hand. `DeviceUnreachable` ends the search."""
    load_tally: Callable[[Mapping[str, Any]], TallyLike] | None = None
    """A tally from `dataclasses.asdict` of one, so that a resumed run need not repeat images."""
    count: Callable[[CompressionConfig], float] | None = None
    """Independent multiply-accumulate counter, for what is reported; where images cost different
    amounts, the mean over the first `COUNTED_IMAGES`, of what really ran."""
    finetune: Callable[[CompressionConfig], Tuned] | None = None
    """See `Worker.finetune`; without it the space is plug-in only."""
    pace: Callable[[CompressionConfig], Tuned] | None = None
    """See `Worker.pace`; without it fine-tunes are taken to be as fast as evaluation."""
    has_weights: Callable[[CompressionConfig], bool] | None = None
    """Whether what a fine-tune left is here; without it everything is. Trials of a joined study may
    have left theirs in another run's folder, or on another machine."""
    batch: int | None = None
    """Images at a time that the metrics on the target mean; None: the target's own."""
    precision: str = "float32"
    """What `evaluate` computes in."""
    held: Callable[[], Mapping[str, str]] = dict
    """What else its trials share, by name in words (`running.held`); asked when a study is opened,
    for it reads all weights."""
    evaluator: str | None = None
    """Whose quality it scores, where that is the user's own."""

    def __post_init__(self) -> None:
        if self.finetune is None and "retrain" in self.space.mode:
            if self.space.mode == ("retrain",):
                raise ConfigError(
                    f"space '{self.space.name}' only retrains, and nothing can be fine-tuned here;"
                    " add plug-in to its mode"
                )
            plain = dataclasses.replace(self.space, mode=("plug-in",))
            object.__setattr__(self, "space", plain)

    @cached_property
    def costs(self) -> ExactCosts:
        """What configurations cost exactly."""
        return ExactCosts(self.facts, self.space.structure, self.space.backbones)

    def facts_of(self, backbone: str) -> BackboneFacts:
        """Of a backbone by name; "" is the first, or the only one."""
        return self.space.facts_of(backbone, self.facts)

    @property
    def whole(self) -> CompressionConfig:
        """The uncompressed model, of several backbones the first."""
        return CompressionConfig(backbone=self.space.names()[0])

    @property
    def fingerprint(self) -> Fingerprint:
        """What a resumed or joined study must agree in."""
        data = [
            [self.facts.name, self.facts.grid, self.facts.num_blocks, self.facts.params],
            [repr(self.space), self.metric, self.total_images],
            [[b.metric, b.limit] for b in self.budgets],
            *([] if self.batch is None else [self.batch]),
            *([] if self.precision == "float32" else [self.precision]),
            *([] if self.evaluator is None else [self.evaluator]),
            *([] if self.space.number_formats == ("float32",) else [self.space.number_formats]),
            *([["image_size", *self.space.image_sizes]] if self.space.image_sizes else []),
            *([["exits", self.space.exits, self.space.exit_share]] if self.space.exits else []),
            *([name, f.grid, f.num_blocks, f.params] for name, f in self.space.backbones),
        ]
        code = hashlib.sha256(json.dumps(data, default=str).encode()).hexdigest()[:12]
        return Fingerprint(code, self._held)

    def _held(self) -> dict[str, str]:
        limits = (METRICS[b.metric].limit_in_words(b.limit) for b in self.budgets)
        return {
            "backbone": ", ".join(name for name, _ in self.space.backbones) or self.facts.name,
            "space": self.space.name,
            "budget": " and ".join(limits) or "none",
            "quality": self.evaluator or self.metric,
            "number of images": str(self.total_images),
            "precision": self.precision,
            **self.held(),
        }


def early_score(tally: TallyLike | None) -> Score | None:
    """What is known of a quality so far; None before two images, of which a mean says nothing."""
    return None if tally is None or tally.num_images < 2 else to_score(tally)


def to_score(tally: TallyLike) -> Score:
    """The quality of a tally as plain numbers."""
    found = tally.quality()
    judged = [m.column for m in TABLE if m.kind == "judged"]
    names = (*judged, "macs_mean", "macs_std", "macs_noattn_mean")
    extra = {name: getattr(found, name, None) for name in names}
    return Score(
        metric=found.metric,
        value=float(found.value),
        low=float(found.low),
        high=float(found.high),
        num_images=int(found.num_images),
        finetuned=bool(getattr(found, "finetuned", False)),
        **extra,
    )
