"""What one adds to autotok from outside: seven seams, no file of the package touched.

Each test is all that somebody's own script or package has to write, and what follows from it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from optuna.samplers import BaseSampler, RandomSampler
from torch import Tensor, nn

import autotok
from autotok import metrics
from autotok.backbones.base import Backbone
from autotok.backbones.family import FAMILIES, Family, ModelRequest, register_family
from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_vit
from autotok.counting.counter import count_macs
from autotok.export.formats import FORMATS, ExportFormat, Written, register_format
from autotok.methods.primitives import select
from autotok.methods.registry import METHODS, list_methods
from autotok.metrics import Metric, register_metric
from autotok.predicting.target import load_target
from autotok.searching.engines.base import Engine, Job, Outcome, run_job
from autotok.searching.running.opening import run_search
from autotok.searching.space.settings import SearchSettings
from autotok.tokens import Taps, Tokens

sys.path.insert(0, str(Path(__file__).parent / "searching"))

from problems import fake_problem

FEW = SearchSettings(n_trials=3, control_shapes=0, retrain_trials=0)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    rows = (metrics.TABLE, metrics.EXACT, metrics.PREDICTED, metrics.ON_DEVICE, metrics.QUALITIES)
    words = (metrics.METRICS, metrics.UNITS, metrics._BY_WORD)
    lengths = [len(part) for part in (*rows, *words)]
    yield
    METHODS.discard("every_other")
    FAMILIES.discard("slates")
    FORMATS.discard("state")
    for part, length in zip(rows, lengths, strict=False):
        del part[length:]
    for table, length in zip(words, lengths[len(rows) :], strict=True):
        for key in list(table)[length:]:
            del table[key]


def test_a_method_is_a_class() -> None:
    @autotok.register("every_other")
    class EveryOther(autotok.TokenReducer):
        """Keeps tokens at even distances."""

        title = "Every other token"
        kind = autotok.Kind.PRUNE

        def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
            index = torch.arange(num_keep, device=tokens.x.device) * tokens.num_patches // num_keep
            return select(tokens, index.expand(tokens.x.shape[0], -1))

    assert "every_other" in list_methods()
    model = autotok.compress(tiny_vit(), method="every_other", keep={1: 0.5})
    assert model.schedule.kept == (8,)
    source = model.forward_tokens(images(), trace=True).source
    assert source is not None
    assert source[0].float().argmax(dim=-1).tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert count_macs(model) == autotok.macs(model).macs


def test_a_backbone_family_is_a_class() -> None:
    @register_family("slates")
    class Slates(Family):
        def names(self) -> Sequence[str]:
            return ("slate_small",)

        def matches(self, asked: str | nn.Module) -> bool:
            return asked == "slate_small"

        def load(self, asked: ModelRequest) -> Backbone:
            return TimmViT(tiny_vit(2), name=asked.name)

        def structure(self, asked: ModelRequest, *, device: str = "meta") -> Backbone:
            return self.load(asked)

    from autotok.backbones.loading import known_backbones, load_backbone

    assert known_backbones("slate*") == ["slate_small"]
    model = autotok.compress(load_backbone("slate_small"), method="topk", keep={1: 0.5})
    assert model(images()).shape == (3, 10)


def test_a_target_is_a_yaml_file(tmp_path: Path) -> None:
    sourced = {"source": "estimate: of a test"}
    setting = {
        "asynchronous": False,
        "fused_attention": True,
        "fixed_ms": {"value": 3.0, **sourced},
        "dispatch_us": {"value": 0.0, **sourced},
        "kernel_start_us": {"value": 0.0, **sourced},
        "efficiency": {
            name: {"value": 0.5, **sourced} for name in ("matmul", "conv", "attention", "bandwidth")
        },
        "runtime_base_mb": {"value": 100.0, **sourced},
        "activation_overhead": {"value": 1.0, **sourced},
    }
    target = {
        "name": "my-board",
        "title": "My board",
        "kind": "cpu",
        "memory_mb": {"value": 1024, **sourced},
        "shared_memory": True,
        "peak_gmacs": {"float32": {"value": 1e6, **sourced}},
        "bandwidth_gb_s": {"value": 1e6, **sourced},
        "default_dtype": "float32",
        "default_batch": 1,
        "settings": {"eager": setting},
    }
    path = tmp_path / "my-board.yaml"
    path.write_text(yaml.safe_dump(target))
    assert load_target(str(path)).name == "my-board"
    found = autotok.predict(tiny_vit(), target=str(path))
    # so fast that nothing but the fixed cost is left
    assert found.latency_ms == pytest.approx(3.0, abs=0.01)


def test_a_sampler_is_a_function_of_a_seed(tmp_path: Path) -> None:
    seeds = []

    def sampler(seed: int) -> BaseSampler:
        seeds.append(seed)
        return RandomSampler(seed)

    settings = SearchSettings(n_trials=22, sampler=sampler, control_shapes=0)
    found = run_search(settings, fake_problem(), tmp_path / "run")
    assert len(found.records) >= 22
    proposed = [r for r in found.records if r.origin == "sampler"]
    assert proposed
    assert len(set(seeds)) >= len(proposed)


def test_an_export_format_is_a_class(tmp_path: Path) -> None:
    @register_format("state")
    class State(ExportFormat):
        suffix = ".state"

        def write(
            self, model: nn.Module, images: Tensor, path: Path, *, dynamic_batch: bool
        ) -> Written:
            torch.save(model, path)
            return Written("torch.save", {})

        def open(self, path: Path, device: torch.device) -> nn.Module:
            opened: nn.Module = torch.load(path, weights_only=False)  # written by this test
            return opened.eval()

        def version(self, opened: nn.Module | None = None) -> str:
            return "state 1"

    model = autotok.compress(tiny_vit(), method="topk", keep={1: 0.5})
    found = autotok.export(model, tmp_path / "m.state", images=images(), format="state")
    assert (found.ok, found.same_argmax, found.runtime) == (True, True, "state 1")
    with torch.no_grad():
        again = FORMATS.get("state").run(tmp_path / "m.state", images(), 3)
        assert torch.equal(again, model(images()))


MG_A_MS = 0.25


@pytest.mark.usefixtures("no_onnx")
def test_a_metric_is_a_row_that_says_where_its_value_comes_from(tmp_path: Path) -> None:
    carbon = Metric(
        "carbon_mg", "carbon_mg", "carbon", "mg", "predicted", ("carbon",), spellings={"mgco2": 1},
        shown=("mgCO2",), limit="{:.4g} mg of carbon per batch", aspect="latency",
        follows="latency_ms", predicted=lambda found: MG_A_MS * found.latency_ms,
    )  # fmt: skip
    register_metric(carbon)
    with pytest.raises(autotok.ConfigError, match="'carbon_mg' is 'carbon' as another is"):
        register_metric(carbon)
    plain = MG_A_MS * autotok.predict(tiny_vit(), target="jetson-nx").latency_ms
    run = autotok.search(
        "tiny", data="digits", budget=("90%", f"{2 * plain:.6f}mgCO2"), target="jetson-nx",
        objectives=("top1", "carbon"), settings=None, n_trials=3, timeout_s=None,
        retrain_trials=0, max_images=20, methods=["tome"], output=tmp_path / "run",
    )  # fmt: skip
    front = run.front
    assert len(front) >= 1
    assert (front["carbon_mg"] - MG_A_MS * front["latency_ms"]).abs().max() < 1e-9
    assert (front["carbon_mg"] <= 2 * plain).all()
    report = (tmp_path / "run" / "report.html").read_text()
    assert "carbon mg (predicted for jetson-nx" in report
    assert "mg of carbon per batch" in report


class Backwards:
    """An engine that holds two jobs and does the later one first."""

    capacity = 2

    def __init__(self) -> None:
        self.worker = fake_problem()
        self.jobs: deque[Job] = deque()
        self.most, self.closed = 0, False

    def start(self) -> float:
        return 0.0

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self.most = max(self.most, len(self.jobs))

    def collect(self) -> Outcome:
        return run_job(self.worker, self.jobs.pop())

    def close(self) -> None:
        self.closed = True


def test_an_engine_is_an_object_of_four_methods(tmp_path: Path) -> None:
    engine = Backwards()
    taken: Engine = engine
    found = run_search(FEW, fake_problem(), tmp_path / "run", engine=taken)
    assert len([r for r in found.records if r.state == "complete"]) >= 3
    assert (engine.most, engine.closed) == (2, True)
