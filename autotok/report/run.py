"""A run directory as a program sees it: what it was asked, what it found, its models."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from autotok.backbones.loading import as_backbone, load_backbone
from autotok.compression.compress import compress_backbone, with_networks
from autotok.compression.model import CompressedViT
from autotok.documents import Place, read_yaml
from autotok.errors import ConfigError, RunDirectoryError, UnknownName, UsageError
from autotok.export.bundle import load_bundle
from autotok.metrics import METRICS, Metric, metric_of
from autotok.plain_data import typed
from autotok.searching.records.comparison import Comparisons
from autotok.searching.records.objective import asked_metrics
from autotok.searching.records.record import TrialRecord
from autotok.searching.records.rundir import RunDirectory, section_of
from autotok.searching.running.events import trial_text
from autotok.searching.running.model_worker import WEIGHTS_FOLDER
from autotok.searching.running.question import Question
from autotok.searching.space.budget import Budget
from autotok.searching.space.settings import SearchSettings
from autotok.training.student import retrained

from .again import resume_again, search_again
from .fronts import FrontOver, front_over, own_axes
from .plots import pareto_png
from .points import Point, limits_of, points_of
from .sources import corrected_in_words, device_sentences

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """A finished or unfinished run directory."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = RunDirectory.open(directory).path
        self._read: tuple[tuple[int, ...], dict[str, Any]] | None = None
        """Of pareto.json: which state of the file it was, and its records."""

    def __repr__(self) -> str:
        text = f"Run('{self.directory}', {self.state}"
        if self.state == "finished" and (best := self.records()["best"]) is not None:
            text += f", best {trial_text(best)}"
        return text + ")"

    @property
    def state(self) -> str:
        """'running', 'finished', or 'interrupted' where `resume` has to go on: with trials, or
        with what is handed over."""
        if RunDirectory(self.directory).in_use:
            return "running"
        done = RunDirectory(self.directory).handed_over
        return "finished" if done else "interrupted"

    @property
    def not_handed_over(self) -> str:
        """What is missing of a run that came to its end and was killed before all was written, and
        how to have it, in one sentence; '' where nothing is."""
        if RunDirectory(self.directory).handed_over:
            return ""
        names = ("env.json", *(("best.yaml", "best", "maps") if self.records()["best"] else ()))
        gone = [name for name in names if not (self.directory / name).exists()]
        gone.append("the notes and checks of the end")
        return f"not all was handed over (missing: {', '.join(gone)}): go on with {self._again}"

    @cached_property
    def config(self) -> dict[str, Any]:
        """The effective configuration, config.yaml."""
        return self._sections[0]

    @cached_property
    def question(self) -> Question:
        """What it was asked."""
        return section_of(*self._sections, "question", Question)

    @cached_property
    def settings(self) -> SearchSettings:
        """How it was searched."""
        return section_of(*self._sections, "search", SearchSettings)

    @property
    def command(self) -> str:
        """The command that asks the same again, or why there is none."""
        started = self.config.get("warm_start")
        return search_again(
            self.question.to_dict(),
            self.settings,
            embedded=bool(self.config.get("embedded_model")),
            warm_start=tuple(map(str, started)) if isinstance(started, list) else (),
        )

    def go_on(self, more: str = "") -> str:
        """How it is gone on with: a command with `more` flags, or what it takes in Python."""
        return resume_again(
            self.directory,
            self.question,
            self.settings,
            embedded=bool(self.config.get("embedded_model")),
            more=more,
        )

    @cached_property
    def _sections(self) -> tuple[dict[str, Any], Place]:
        return RunDirectory.open(self.directory).sections()

    @property
    def front(self) -> pd.DataFrame:
        """The Pareto front, cheapest first: pareto.csv."""
        return self._table("pareto.csv")

    @property
    def trials(self) -> pd.DataFrame:
        """Every trial: trials.csv."""
        return self._table("trials.csv")

    def records(self) -> dict[str, Any]:
        """What the final evaluation found: `best`, `random_control`, `reference`, `front`,
        `controls`, `smaller_image`, `no_smaller_image`, `no_random_control`, `others` (of further
        backbones), `budgets`, `comparisons`, `measuring`."""
        with self._reading("pareto.json") as path:
            if not path.is_file():
                raise self._unfinished(f"run '{self.directory}' is not finished")
            now = path.stat()
            state = now.st_ino, now.st_size, now.st_mtime_ns
            if self._read is None or self._read[0] != state:
                found = _records(json.loads(path.read_text("utf-8")), Place(path.name))
                points_of(found)  # what is not typed fails here, where the file is named
                device_sentences(None, found["measuring"])
                corrected_in_words(found["measuring"])
                self._read = state, found
            return dict(self._read[1])

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[Path]:
        """A file of the run; whatever is wrong in it is one sentence that names it."""
        path = self.directory / name
        try:
            yield path
        except RunDirectoryError:
            raise
        except (OSError, RecursionError, *_WRONG) as why:
            reason = f"{type(why).__name__}: {' '.join(str(why).split())[:100]}"
            raise RunDirectoryError(
                f"run file {path} is damaged ({reason}); write it again with {self._again}"
            ) from why

    def _unfinished(self, what: str) -> RunDirectoryError:
        return RunDirectoryError(f"{what}; go on with {self._again}")

    @property
    def _again(self) -> str:
        """How to go on, also where config.yaml does not say how it began."""
        try:
            told = self.go_on()
        except UsageError:
            told = f"autotok resume {shlex.quote(str(self.directory))}"
        return f"`{told}`" if told.startswith("autotok") else told

    @property
    def best(self) -> TrialRecord:
        """The recommended configuration with its evidence."""
        record = self.records()["best"]
        if record is None:
            raise RunDirectoryError(f"run '{self.directory}' found nothing inside its budget")
        assert isinstance(record, TrialRecord)
        return record

    def load_best(self, model: nn.Module | None = None) -> CompressedViT:
        """The recommended model, rebuilt of what was handed over; `model` replaces its backbone.

        Raises:
            CheckpointError: its weights are not there, or are no longer those that were searched.
            ConfigError: see `load`.
        """
        best, handed_over = self.best, self.directory / "best.yaml"
        if model is not None or not handed_over.is_file():
            return self.load(best, model)
        try:
            return load_bundle(handed_over)
        except UnknownName:
            self._ask_for_model()
            raise

    def load(self, record: TrialRecord, model: nn.Module | None = None) -> CompressedViT:
        """The model of one configuration of the front, with its fine-tuned weights if it has some.

        Raises:
            CheckpointError: its weights are not in the run directory.
            ConfigError: the run was started with a model object, and none is given.
        """
        question, config = self.question, record.config
        assert config is not None
        if model is None:
            self._ask_for_model()
            model = load_backbone(
                record.backbone or question.backbone,
                checkpoint=None if question.checkpoint is None else Path(question.checkpoint),
                image_size=question.image_size,
                subnet=config.subnet,
            )
        if config.mode == "plug-in":
            return with_networks(compress_backbone(as_backbone(model), config))
        path = self.directory / WEIGHTS_FOLDER / f"{config.config_id}.safetensors"
        return retrained(as_backbone(model), config, path)

    def _ask_for_model(self) -> None:
        """Raise `ConfigError` where the run was started with a model object."""
        if self.config.get("embedded_model"):
            raise ConfigError(
                f"run '{self.directory}' was started with a model object, which no name means; give"
                " the same one"
            )

    def front_over(self, *metrics: str, final: bool | None = None) -> FrontOver:
        """The front over any metrics, such as 'latency' and 'top1': over the run's own axes of what
        its final evaluation judged, over others of all that was evaluated; `final` says which.

        Raises:
            UnknownName: no such metric.
            RunDirectoryError: the run knows no values of one, or is not finished.
        """
        found = self._metrics(metrics)
        final = self.owns(*metrics) if final is None else final
        return front_over(self.points(), found, own=found if final else ())

    def owns(self, *metrics: str) -> bool:
        """Whether all of these are among the axes of its own front."""
        return {*self._metrics(metrics)} <= {*own_axes(self.asked)}

    def picture_over(self, x: str, y: str) -> Path:
        """pareto-X-Y.png of the run directory, drawn: two metrics against each other."""
        across, up = self._metrics((x, y))
        found, points = self.front_over(x, y), self.points()
        numbers = {p.number for p in found.points}
        kept = ("uncompressed", "random control", "smaller image", "other backbone")
        names = ("trial", "front")
        drawn = [
            p if p.kind in kept else dataclasses.replace(p, kind=names[p.number in numbers])
            for p in points
        ]
        path = self.directory / f"pareto-{across.column}-{up.column}.png"
        limits = limits_of(self.records()["budgets"])
        return pareto_png(path, drawn, up, x=across, limits=limits, title=self.directory.name)

    def _metrics(self, names: Sequence[str]) -> list[Metric]:
        """Rows of the table by name; 'quality', or another name of it, is what the run judged."""
        judged = self.judged.name
        found = [metric_of(judged if n == "quality" else n, beside=["quality"]) for n in names]
        for metric in found:
            if metric.kind == "judged" and metric.name != judged:
                raise RunDirectoryError(
                    f"run '{self.directory}' judged {judged}, not {metric.name}; ask for {judged}"
                )
        if len(set(found)) != len(found):
            raise ConfigError(f"metrics {list(names)} must be different ones")
        return found

    @property
    def judged(self) -> Metric:
        """The quality that it judged."""
        found = self.records()
        records = [r for r in (*found["front"], found["reference"]) if r is not None]
        return METRICS[next((r.score.metric for r in records if r.score is not None), "top1")]

    @property
    def asked(self) -> tuple[Metric, ...]:
        """The metrics of its objectives, in their order."""
        return asked_metrics(self.settings.objectives, self.judged.name)

    def points(self) -> list[Point]:
        """Everything that was evaluated; what the final evaluation judged, as it found it."""
        found = points_of(self.records())
        known = {p.number for p in found}
        trials = self.trial_points(self.judged, ("complete",))
        return found + [p for p in trials if p.number not in known]

    def trial_points(self, metric: Metric, states: Sequence[str] = ()) -> list[Point]:
        """The trials in some states, by default in any."""
        table = self.trials.astype(object)
        with self._reading("trials.csv"):
            rows = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
            return [
                Point.from_row(row, metric) for row in rows if not states or row["state"] in states
            ]

    def _table(self, name: str) -> pd.DataFrame:
        """A table with `number` and `state`, and numbers where there must be some."""
        import pandas as pd

        with self._reading(name) as path:
            if not path.is_file():
                raise self._unfinished(f"run '{self.directory}' has no {name} yet")
            table = pd.read_csv(path)
            if table.empty and list(table) == ["number"]:  # of an earlier version, no row at all
                table["state"] = []
            for column in ("number", "state"):
                table[column]
            for column in _NUMBERS & set(table):
                table[column] = pd.to_numeric(table[column])
            return table


_NUMBERS = {"number", "violation", *(metric.column for metric in METRICS.values())}
_WRONG = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""What reading values of other kinds raises; pandas' own errors are ValueErrors."""


def _records(data: Mapping[str, Any], where: Place) -> dict[str, Any]:
    """What pareto.json holds, as `Run.records` gives it."""
    found: dict[str, Any] = {
        key: None if data[key] is None else TrialRecord.from_dict(data[key], where / key)
        for key in ("best", "random_control", "reference")
    }
    given = data.get("smaller_image")  # a run of an earlier version has none
    at = where / "smaller_image"
    found["smaller_image"] = None if given is None else TrialRecord.from_dict(given, at)
    others = enumerate(data.get("others") or [])
    found["others"] = [TrialRecord.from_dict(item, where / "others" / n) for n, item in others]
    for why in ("no_smaller_image", "no_random_control"):
        found[why] = str(data.get(why) or "")
    for key in ("front", "controls"):
        records = enumerate(data[key])
        found[key] = [TrialRecord.from_dict(item, where / key / n) for n, item in records]
    found["budgets"] = [
        typed(Budget, item, where / "budgets" / n) for n, item in enumerate(data["budgets"])
    ]
    found["comparisons"] = Comparisons.from_dict(data.get("comparisons"), where / "comparisons")
    found["measuring"] = data.get("measuring") or {}
    return found


def load(path: str | Path) -> Run | CompressedViT:
    """The `Run` of a run directory, or the model of a `best.yaml` or of a bundle's folder.

    Raises:
        UsageError: it is neither; the message says what is wrong with it.
    """
    config = Path(path) / "config.yaml"  # of a run, or of a bundle
    if config.is_file() and "search" in dict(read_yaml(config)[0] or {}):
        return Run(path)
    return with_networks(load_bundle(Path(path)))
