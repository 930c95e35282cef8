"""Supernets: train one, score and cut its subnets, search among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autotok.backbones.autoformer import SupernetSpec
from autotok.backbones.autoformer_family import load_supernet, supernet_structure
from autotok.backbones.supernet import SupernetView
from autotok.config import CompressionConfig, SubnetSpec
from autotok.counting.macs import uncompressed
from autotok.devices.placing import torch_device
from autotok.documents import Place, parse_yaml, read_yaml
from autotok.errors import ConfigError, ExportError, nearest
from autotok.evaluation.data import check_data, load_data
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.export.best_yaml import BackboneRef, Bundle, write_best
from autotok.files import check_folder, check_output_file
from autotok.finetune_spec import check_seed
from autotok.metrics import EXACT
from autotok.names import check_number
from autotok.plain_data import typed
from autotok.searching.space.budget import BudgetRequest, parse_budgets, resolve
from autotok.supernet.cutting import cut_to_file
from autotok.supernet.evolution import EvolutionSettings
from autotok.supernet.judge import SubnetScore, judge_supernet, score_subnets
from autotok.supernet.sampling import sample_uniform
from autotok.supernet.search import SearchPlan, SubnetSearch, check_unused
from autotok.supernet.search import evolve_subnets as run_search
from autotok.supernet.train import Progress, train_from_recipe

OnProgress = Callable[[float, str], None]
WORDS = ("default", "largest", "smallest", "random:SEED")


def train_supernet(
    recipe: str | Path,
    output: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    on_training: Callable[[Progress], None] | None = None,
    on_judging: OnProgress | None = None,
) -> dict[str, Any]:
    """What a training by a recipe gave: accuracy of several subnets on held-out images."""
    recipe, output = Path(recipe), Path(output)
    check_folder(output)
    placed = torch_device(device)
    weights = train_from_recipe(
        recipe, output, resume=resume, device=str(placed), progress=on_training
    )
    judged = judge_supernet(recipe, weights, device=placed, on_progress=on_judging)
    return {"weights": str(weights), **judged}


def parse_subnet(text: str, spec: SupernetSpec, default: SubnetSpec) -> SubnetSpec:
    """A subnet from a word ('default', 'largest', 'smallest', 'random:SEED'), a file or JSON.

    Files and JSON hold `embed_dim`, `heads` and `mlp_ratios`, or a configuration (a best.yaml too)
    that names a subnet.

    Raises:
        ConfigError: none of these, or a subnet that the supernet does not hold.
    """
    named = {"default": default, "largest": spec.largest(), "smallest": spec.smallest()}
    word, _, seed = text.partition(":")
    if text in named:
        found = named[text]
    elif word == "random" and seed.isdecimal():
        found = sample_uniform(spec, np.random.default_rng(int(seed)))
    elif text.lstrip().startswith("{"):
        found = _subnet(*parse_yaml(text, "subnet"))  # JSON is YAML
    elif Path(text).suffix in (".yaml", ".yml", ".json"):
        like = "a YAML file with embed_dim, heads and mlp_ratios"
        found = _subnet(*read_yaml(Path(text), like=like))
    else:
        hint = nearest(word, [*named, "random"])
        raise ConfigError(
            f"subnet '{text}' is unknown;{hint} known: {', '.join(WORDS)}, a YAML file, or JSON"
            " with embed_dim, heads and mlp_ratios"
        )
    spec.check(found)
    return found


def _subnet(data: object, place: Place) -> SubnetSpec:
    for key in ("config", "subnet"):
        if isinstance(data, Mapping) and key in data:
            data, place = data[key], place / key
    return typed(SubnetSpec, data, place)


def evaluate_subnets(
    backbone: str = "autoformer_demo",
    *,
    subnets: Sequence[str] = ("default", "largest", "smallest"),
    checkpoint: str | Path | None = None,
    data: str | Path = "demo",
    num_images: int | None = None,
    seed: int = 0,
    device: str = "auto",
    on_progress: OnProgress | None = None,
) -> list[SubnetScore]:
    """One score per subnet on the shared weights: validation top-1 with interval, MACs, parameters.

    `subnets` are texts as `parse_subnet` takes them.
    """
    check_number("num_images", num_images)
    check_seed(seed)
    placed = torch_device(device)
    check_data(data)
    checkpoint = None if checkpoint is None else Path(checkpoint)
    spec, default = supernet_structure(backbone, checkpoint)
    chosen = {text: parse_subnet(text, spec, default) for text in subnets}
    supernet = load_supernet(backbone, checkpoint).to(placed)
    source = load_data(data, SupernetView(supernet, default, name=backbone))
    counts = dict.fromkeys(chosen, num_images or len(source))
    return score_subnets(
        supernet, backbone, chosen, source, counts, seed=seed, on_progress=on_progress
    )


def cut_subnet(
    subnet: str,
    output: str | Path,
    *,
    backbone: str = "autoformer_demo",
    checkpoint: str | Path | None = None,
    data: str | Path = "demo",
    num_images: int = 4,
) -> dict[str, Any]:
    """What was cut: files, cost, and the largest difference from the supernet's view.

    Writes stand-alone weights to `output` and, beside them, a YAML that `autotok evaluate` takes.
    """
    check_number("num_images", num_images)
    output, checkpoint = Path(output), None if checkpoint is None else Path(checkpoint)
    if output.suffix != ".safetensors":
        raise ExportError(f"'{output}' cannot be written: give a file that ends in .safetensors")
    check_output_file(output)
    check_data(data)
    spec, default = supernet_structure(backbone, checkpoint)
    chosen = parse_subnet(subnet, spec, default)
    supernet = load_supernet(backbone, checkpoint)
    view = SupernetView(supernet, chosen, name=backbone).eval()
    source = load_data(data, view)
    images = source.batch(source.subset(num_images, 0))[0]
    difference = cut_to_file(view, output, images)
    described = output.with_suffix(".yaml")
    _write_yaml(described, view, output.resolve(), {"cut_from": str(checkpoint or backbone)})
    cost = uncompressed(view.facts)
    return {
        "file": str(output),
        "yaml": str(described),
        "size_mb": round(output.stat().st_size / 1e6, 3),
        "embed_dim": chosen.embed_dim,
        "depth": chosen.depth,
        "heads": list(chosen.heads),
        "mlp_ratios": list(chosen.mlp_ratios),
        "macs_g": round(cost.macs_g, 4),
        "params_m": round(cost.params_m, 4),
        "max_difference_from_view": difference,
        "images_compared": len(images),
    }


def _write_yaml(
    path: Path, view: SupernetView, checkpoint: Path | None, evidence: Mapping[str, Any]
) -> None:
    bundle = Bundle(
        backbone=BackboneRef.of(view.facts, checkpoint=checkpoint),
        config=CompressionConfig(subnet=view.subnet),
        preprocessing=preprocessing_of(view).to_dict(),
        evidence={"costs": uncompressed(view.facts).columns, **evidence},
    )
    write_best(path, bundle)


@dataclass(frozen=True)
class SubnetQuestion:
    """What a subnet search is asked."""

    budgets: tuple[str, ...]
    at_least: tuple[str, ...] = ()
    """Lower limits, written like budgets."""
    backbone: str = "autoformer_demo"
    checkpoint: Path | None = None
    data: str = "demo"
    images: int = 100
    final_images: int = 400
    finalists: int = 3
    flops_convention: str = "macs"
    settings: EvolutionSettings = field(default_factory=EvolutionSettings)
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        for request in (*self._requests(self.budgets), *self._requests(self.at_least)):
            if request.metric not in EXACT:
                raise ConfigError(
                    f"budget '{request.text}' is on {request.metric}; a subnet search takes"
                    " FLOPs, MACs, parameters, or a share of those"
                )
        if self.timeout_s is not None and not 0.0 < self.timeout_s < float("inf"):
            raise ConfigError(f"timeout is {self.timeout_s} s; give a time above 0, or none")

    def _requests(self, texts: Sequence[str]) -> Sequence[BudgetRequest]:
        return parse_budgets(texts, convention=self.flops_convention) if texts else ()

    def limits(self, default: Mapping[str, float]) -> dict[str, tuple[float, float]]:
        """{metric: (least, most)}; shares are of the default subnet's cost."""
        found: dict[str, tuple[float, float]] = {}
        for texts, end in ((self.budgets, 1), (self.at_least, 0)):
            for request in self._requests(texts):
                limit = resolve(request, default).limit
                low, high = found.get(request.metric, (0.0, float("inf")))
                found[request.metric] = (low, limit) if end else (limit, high)
        return found


def search_subnets(
    question: SubnetQuestion,
    output: str | Path,
    *,
    resume: bool = False,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """What AutoFormer's evolutionary search finds within the budget; files go to `output`.

    Fitness is top-1 on training images, the final evaluation top-1 on validation images. Writes
    `candidates.jsonl`, `candidates.csv`, `result.json` and `best.yaml`.
    """
    output = Path(output)
    check_folder(output)
    check_unused(output, resume=resume)
    check_data(question.data)
    default = supernet_structure(question.backbone, question.checkpoint)[1]
    supernet = load_supernet(question.backbone, question.checkpoint)
    view = SupernetView(supernet, default, name=question.backbone).eval()
    search = SubnetSearch(
        supernet,
        question.backbone,
        default,
        _plan(question, view),
        train=load_data(question.data, view, split="train"),
        val=load_data(question.data, view, split="val"),
        folder=output,
        on_progress=on_progress,
    )
    result = run_search(search, resume=resume)
    best = result["best"]
    subnet = SubnetSpec(best["embed_dim"], best["heads"], best["mlp_ratios"])
    evidence = {key: best[key] for key in ("top1_pct", "low_95", "high_95", "num_images")}
    checkpoint = None if question.checkpoint is None else question.checkpoint.resolve()
    _write_yaml(output / "best.yaml", search.view(subnet), checkpoint, evidence)
    return {**result, "folder": str(output)}


def _plan(question: SubnetQuestion, view: SupernetView) -> SearchPlan:
    """The question in plain numbers; shares are of the default subnet's cost."""
    whole = uncompressed(view.facts)
    reference = BackboneRef.of(view.facts, checkpoint=question.checkpoint)
    return SearchPlan(
        settings=question.settings,
        limits=question.limits({metric: getattr(whole, metric) for metric in EXACT}),
        images=question.images,
        final_images=question.final_images,
        finalists=question.finalists,
        about={
            "backbone": question.backbone,
            "checkpoint": reference.checkpoint_sha256,
            "data": question.data,
        },
        timeout_s=question.timeout_s,
    )
