"""`DeviceCorrections`: what a search measured, and what that says about its predictions.

The uncompressed model and a few published configurations are measured before the first trial, the
finalists before the final evaluation. Where measurements and predictions disagree by more than the
error that the target states, further predictions of the run are multiplied by the median ratio.
Measurements and factors are kept with the study: a resumed run measures nothing twice.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from autotok.config import CompressionConfig
from autotok.devices.measurement import Measurement
from autotok.errors import AutotokError, DeviceUnreachable, RunDirectoryError
from autotok.metrics import METRICS, ON_DEVICE
from autotok.searching.proposing.proposals import Proposals
from autotok.searching.records.objective import asked_metrics
from autotok.searching.records.record import MEASURED, TrialRecord
from autotok.searching.space.budget import Budget, worst_excess
from autotok.searching.space.problem import Problem

from .correction_factors import CORRECTED, POWER, corrected, corrected_anew, factor_name, power_of
from .early_configs import early_configs
from .events import OnEvent, Working
from .question import device_needed

_LOG = logging.getLogger(__name__)
UNCHECKED_PCT = 10.0
"""Allowed disagreement with a target that states no error."""
_GUESS_S = 15.0
"""A measurement, until one was made."""
_ROUNDS = 3
"""Of choosing finalists anew where some turn out to be outside a limit; more while all do, and that
teaches something."""


class DeviceCorrections:
    """Readings of a run's configurations; without a device, it leaves everything as it is."""

    def __init__(
        self,
        problem: Problem,
        on_event: OnEvent | None = None,
        *,
        limits: tuple[Budget, ...] | None = None,
    ) -> None:
        """`limits` are the budgets as the run stated them when it began."""
        self.original, self._on_event = problem, on_event
        self.progress: Callable[[], float] = lambda: 0.0
        """Of the whole search."""
        self._limits = limits
        self._notebook: Proposals | None = None
        self._readings: dict[str, Measurement] = {}
        self._failures: dict[str, dict[str, str]] = {}
        self._formats: dict[str, str] = {}
        """Number formats of what was measured."""
        self._raw: dict[str, Mapping[str, float]] = {}
        """Uncorrected predictions of what was measured."""
        self._early: dict[str, float] = {}
        self._shares: dict[str, float] = {}
        """Of the uncompressed model, which shares are of: measured before the first trial, over
        predicted."""
        self._factors: dict[str, float] = {}
        self._seconds: list[float] = []

    # --- what a search asks

    @property
    def active(self) -> bool:
        """Whether there is a device, or was one."""
        return self.original.measure is not None or bool(self._readings)

    @property
    def problem(self) -> Problem:
        """The problem with predictions corrected; shares of a predicted cost follow what was
        measured before the first trial, and then stay."""
        budgets = self._limits or tuple(map(self._rescaled, self.original.budgets))
        problem = dataclasses.replace(self.original, budgets=budgets)
        if self.original.predict is None:
            return problem
        return dataclasses.replace(problem, predict=self._predict)

    def expected_s(self, count: int) -> float:
        """Seconds that so many measurements take."""
        if self.original.measure is None:
            return 0.0
        return count * (median(self._seconds) if self._seconds else _GUESS_S)

    def learn_early(self) -> None:
        """Measure a few configurations before the first trial, and correct predictions by them.

        Raises:
            DeviceUnreachable: the device does not answer.
        """
        if self.original.measure is None or self.original.predict is None or self._early:
            return
        for config in early_configs(self.original):
            self._measure(config)
        self.learn()
        self._early, self._shares = dict(self._factors), self._of_whole()
        self._write()

    def learn(self) -> None:
        """Take everything measured so far into the correction of further predictions."""
        stated = self._stated()
        for metric, name in itertools.product(CORRECTED, dict.fromkeys(self._formats.values())):
            ratios = self._ratios(metric, name)
            if ratios:
                factor, allowed = median(ratios), stated.get(metric)
                beyond = abs(factor - 1.0) * 100 > (UNCHECKED_PCT if allowed is None else allowed)
                # what is predicted is float32's: another format's factor always counts
                beyond = beyond or name != "float32"
                self._factors[factor_name(metric, name)] = factor if beyond else 1.0
        powers = [r.energy_mj / r.latency_ms for r in self._readings.values() if r.energy_mj]
        if powers:
            self._factors[POWER] = median(powers)
        self._write()

    def insist_on(self, objectives: Sequence[str]) -> None:
        """Raise `ConfigError` where a metric of these or of the budgets is not known."""
        problem, predict = self.original, self.problem.predict
        asked = asked_metrics(objectives, problem.metric)
        for metric in (*asked, *(METRICS[b.metric] for b in problem.budgets)):
            if metric.name in ON_DEVICE and (
                predict is None or metric.name not in predict(self.original.whole)
            ):
                raise device_needed(metric)

    def judged(self, record: TrialRecord) -> TrialRecord:
        """A record with its measurement; beyond a limit by that, it is infeasible.

        Raises:
            DeviceUnreachable: the device does not answer.
        """
        if record.config is None or not self.active:
            return record
        config = record.config.plugged_in
        self._measure(config)
        return self.known(record)

    def known(self, record: TrialRecord) -> TrialRecord:
        """A record with its measurement, if there is one; nothing is measured."""
        if record.config is None:
            return record
        key = record.config.plugged_in.config_id
        if key in self._failures:
            return self._unmeasured(record, **self._failures[key])
        reading = self._readings.get(key)
        if reading is None:
            return record
        record = dataclasses.replace(record, reading=reading.to_dict())
        budgets = self.problem.budgets
        worst = worst_excess(budgets, record.values)
        if worst <= 0.0:
            return dataclasses.replace(record, violation=worst)
        reason = record.reason
        for budget in budgets:
            if budget.metric in ON_DEVICE and budget.excess_of(record.values) > 0.0:
                metric, value = METRICS[budget.metric], record.values[budget.metric]
                if record.source(metric) != MEASURED:
                    continue
                side = "below" if metric.higher_is_better else "over"
                reason = (
                    f"measured {value:.4g} {metric.unit} on {reading.device}, {side} the limit of"
                    f" {budget.limit:.4g}"
                )
        return dataclasses.replace(record, feasible=False, violation=worst, reason=reason)

    def may_hold(self, record: TrialRecord) -> bool:
        """Whether what is known by now leaves a record inside every limit."""
        record = self.known(record)
        if not record.feasible or record.reading is not None:
            return record.feasible
        for budget in self.problem.budgets:
            if budget.metric in ON_DEVICE and budget.metric in record.predicted:
                if not budget.holds(self._today(record).predicted[budget.metric]):
                    return False
        return True

    def settle(
        self,
        records: Sequence[TrialRecord],
        choose: Callable[[list[TrialRecord]], list[TrialRecord]],
    ) -> tuple[list[TrialRecord], list[TrialRecord]]:
        """(finalists with their measurements, those that turned out to be outside a limit).

        `choose` picks finalists; where some turn out to be outside, it picks again among what the
        corrected predictions leave.

        Raises:
            DeviceUnreachable: the device does not answer.
        """
        pool, outside = list(records), dict[int, TrialRecord]()
        chosen: list[TrialRecord] = []
        for rounds in itertools.count(1):
            before = len(self._readings)
            chosen = [self.judged(record) for record in choose([self._today(r) for r in pool])]
            wrong = {r.number: r for r in chosen if not r.feasible}
            outside |= wrong
            if read := len(self._readings) > before:  # else one that goes on learns from controls
                self.learn()
            if not wrong or (rounds >= _ROUNDS and (len(wrong) < len(chosen) or not read)):
                break
            pool = [r for r in pool if r.number not in outside and self.may_hold(r)]
        return [r for r in chosen if r.feasible], list(outside.values())

    def summary(self) -> dict[str, Any]:
        """What was measured and how predictions compare, as plain data; empty without a device."""
        if not self._readings and not self._failures:
            return {}
        stated = self._stated()
        first = next(iter(self._readings.values()), None)
        return {
            "device": "" if first is None else first.device,
            "runtime": "" if first is None else first.runtime,
            "dtype": " and ".join(dict.fromkeys(r.dtype for r in self._readings.values())),
            "num_measured": len(self._readings),
            "ratios": {m: self._ratios(m) for m in CORRECTED if self._ratios(m)},
            "stated_error_pct": {m: stated.get(m) for m in CORRECTED if self._ratios(m)},
            "corrections": {m: f for m, f in self._factors.items() if m != POWER and f != 1.0},
            "failures": [failure["reason"] for failure in self._failures.values()],
            "over_float32": self._over_float32(),
        }

    def _over_float32(self) -> dict[str, list[float]]:
        """Latencies in each other number format over float32's of the same configuration, which is
        told by its raw prediction; both as shares of the uncompressed model's, timed in turns with
        them, where that was."""
        found: dict[str, list[float]] = {}
        for key, name in self._formats.items():
            alike = [k for k in self._raw if self._raw[k] == self._raw.get(key)]
            plain = next((k for k in alike if self._formats[k] == "float32"), None)
            if name != "float32" and plain is not None:
                own, other = self._readings[key], self._readings[plain]
                ratio = own.latency_ms / other.latency_ms
                if own.speedup and other.speedup:
                    ratio = other.speedup / own.speedup
                found.setdefault(name, []).append(ratio)
        return found

    # --- the study's notes

    def keep_in(self, notebook: Proposals) -> None:
        """Take over what a study knows, and keep further readings there."""
        self._notebook = notebook
        data = notebook.noted("measured") or {}
        try:
            for key, item in (data.get("readings") or {}).items():
                self._readings.setdefault(key, Measurement.from_dict(item["reading"]))
                self._raw.setdefault(key, item["predicted"])
                self._formats.setdefault(key, item.get("number_format", "float32"))
            self._failures = {**(data.get("failures") or {}), **self._failures}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise RunDirectoryError(
                f"what was measured is damaged in the study ({type(error).__name__}: {error});"
                " start another run"
            ) from error
        self._early = data.get("early") or self._early or self._early_as_stated()
        self._shares = data.get("shares") or self._shares
        self._factors = data.get("factors") or self._factors or dict(self._early)
        self._write()

    def _write(self) -> None:
        if self._notebook is None or not self.active:
            return
        readings = {
            key: {
                "reading": reading.to_dict(),
                "predicted": dict(self._raw.get(key, {})),
                **(
                    {} if self._formats[key] == "float32" else {"number_format": self._formats[key]}
                ),
            }
            for key, reading in self._readings.items()
        }
        data = {"readings": readings, "failures": self._failures, "shares": self._shares}
        self._notebook.note("measured", {**data, "early": self._early, "factors": self._factors})

    # --- measuring

    def _measure(self, config: CompressionConfig) -> None:
        """Have a configuration's reading, or why there is none."""
        key, measure = config.config_id, self.original.measure
        if key in self._readings or key in self._failures or measure is None:
            return
        if self._on_event is not None:
            text = f"measuring on the device: {config.method}"
            self._on_event(Working(self.progress(), text))
        begin = time.monotonic()
        try:
            self._readings[key] = measure(config)
            self._formats[key] = config.number_format
        except DeviceUnreachable:
            raise
        except (AutotokError, MemoryError) as error:
            kind = "memory" if isinstance(error, MemoryError) else getattr(error, "kind", "")
            self._failures[key] = {"kind": str(kind), "reason": str(error)}
            _LOG.warning("%s was not measured: %s", config.method, error)
        else:
            if self.original.predict is not None:
                self._raw[key] = dict(self.original.predict(config))
            self._seconds.append(time.monotonic() - begin)
        self._write()

    def _unmeasured(self, record: TrialRecord, *, kind: str, reason: str) -> TrialRecord:
        if kind == "memory":
            # above 0, or samplers would take it for one inside the budget
            worst = max(0.01, record.violation)
            return dataclasses.replace(record, feasible=False, violation=worst, reason=reason)
        return dataclasses.replace(record, unmeasured=reason)

    # --- predictions

    def _predict(self, config: CompressionConfig) -> Mapping[str, float]:
        assert self.original.predict is not None
        return corrected(self.original.predict(config), self._factors, config.number_format)

    def _today(self, record: TrialRecord) -> TrialRecord:
        """A record with its predictions under today's correction, whenever it was told."""
        number_format = "float32" if record.config is None else record.config.number_format
        today = corrected_anew(record.predicted, self._factors, number_format)
        return dataclasses.replace(record, predicted=today)

    def _ratios(self, metric: str, number_format: str = "float32") -> list[float]:
        """Measured over predicted."""
        return [
            getattr(reading, metric) / self._raw[key][metric]
            for key, reading in self._readings.items()
            if self._raw.get(key, {}).get(metric) and self._formats[key] == number_format
            if metric != "peak_memory_mb" or reading.memory_alone
        ]

    def _of_whole(self) -> dict[str, float]:
        key = self.original.whole.config_id
        reading, raw = self._readings.get(key), self._raw.get(key, {})
        if reading is None:
            return {}
        known = [m for m in CORRECTED if raw.get(m) and getattr(reading, m)]
        if not reading.memory_alone:
            known = [m for m in known if m != "peak_memory_mb"]
        return {m: getattr(reading, m) / raw[m] for m in known}

    def _stated(self) -> dict[str, float | None]:
        """Error in per cent that the target states."""
        some: Mapping[str, float] = next(iter(self._raw.values()), {})
        return {metric: some.get(f"{word}_error_pct") for metric, word in CORRECTED.items()}

    def _early_as_stated(self) -> dict[str, float]:
        """What the first measurements must have said, of a run killed before it noted them."""
        both = zip(self._limits or (), self.original.budgets, strict=False)
        pairs = [(a, b) for a, b in both if b.relative and b.metric in METRICS]
        return {b.metric: a.limit / b.limit for a, b in pairs if a.limit != b.limit}

    def _rescaled(self, budget: Budget) -> Budget:
        name = METRICS[budget.metric].follows or budget.metric
        factor = self._shares.get(name, self._early.get(name, 1.0)) if budget.relative else 1.0
        return dataclasses.replace(budget, limit=budget.limit * power_of(budget.metric, factor))
