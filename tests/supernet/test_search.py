"""The search on real images: files, resuming, limits that cannot be met."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_supernet import SPEC

from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.config import SubnetSpec
from autotok.errors import ConfigError, InfeasibleBudget, RunDirectoryError
from autotok.evaluation.data import load_data
from autotok.supernet.evolution import EvolutionSettings
from autotok.supernet.search import Constraint, SearchPlan, SubnetSearch, evolve_subnets

SETTINGS = EvolutionSettings(6, 3, 3, 3, 2, seed=0)


def make(folder: Path, **changes: Any) -> SubnetSearch:
    torch.manual_seed(0)
    net = AutoFormerSupernet(SPEC).eval()
    view = SupernetView(net, SPEC.largest())
    values: dict[str, Any] = {
        "settings": SETTINGS,
        "limits": {"params": (0.0, 7000.0)},
        "images": 20,
        "final_images": 30,
        "finalists": 2,
        "about": {"data": "digits"},
        **changes,
    }
    return SubnetSearch(
        net,
        "autoformer_custom",
        SPEC.largest(),
        SearchPlan(**values),
        train=load_data("digits", view, split="train"),
        val=load_data("digits", view, split="val"),
        folder=folder,
    )


def test_a_search_writes_what_it_tried_and_what_it_found(tmp_path: Path) -> None:
    result = evolve_subnets(make(tmp_path))
    with (tmp_path / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == result["num_evaluated"] == 18
    assert all(float(row["params_m"]) <= 0.007 for row in rows)
    fit = sorted((float(row["train_top1_pct"]) for row in rows), reverse=True)
    finalists = result["finalists"]
    assert sorted((f["train_top1_pct"] for f in finalists), reverse=True) == fit[:2]
    assert result["best"] == finalists[0]
    assert finalists[0]["top1_pct"] >= finalists[1]["top1_pct"]
    assert finalists[0]["low_95"] < finalists[0]["top1_pct"] < finalists[0]["high_95"]
    assert result["default"]["within_limits"] is False
    assert result["default"]["num_images"] == 30
    assert json.loads((tmp_path / "result.json").read_text()) == result


def test_an_interrupted_search_resumes_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evolve_subnets(make(tmp_path / "whole"))
    broken, count = make(tmp_path / "cut"), 0
    original = SubnetSearch.fitness

    def counted(self: SubnetSearch, subnet: SubnetSpec) -> float:
        nonlocal count
        count += 1
        if count == 11:
            raise KeyboardInterrupt
        return original(self, subnet)

    monkeypatch.setattr(SubnetSearch, "fitness", counted)
    with pytest.raises(KeyboardInterrupt):
        evolve_subnets(broken)
    with (tmp_path / "cut" / "candidates.jsonl").open("a") as file:
        file.write('{"embed_dim": 12, "hea')  # what a kill leaves
    assert evolve_subnets(make(tmp_path / "cut"), resume=True) == whole
    assert count == 11 + 8
    names = [tmp_path / run / "candidates.csv" for run in ("whole", "cut")]
    assert names[0].read_text() == names[1].read_text()


def test_a_time_limit_ends_the_evolution_and_more_generations_go_on(tmp_path: Path) -> None:
    assert evolve_subnets(make(tmp_path, timeout_s=0.0))["num_evaluated"] == 1
    longer = EvolutionSettings(6, 4, 3, 3, 2, seed=0)
    assert evolve_subnets(make(tmp_path, settings=longer), resume=True)["num_evaluated"] == 24


def test_a_folder_with_a_search_is_kept_from_another(tmp_path: Path) -> None:
    evolve_subnets(make(tmp_path, timeout_s=0.0))
    with pytest.raises(RunDirectoryError, match="--resume"):
        evolve_subnets(make(tmp_path))
    with pytest.raises(RunDirectoryError, match="another 'images'"):
        evolve_subnets(make(tmp_path, images=21), resume=True)
    (tmp_path / "candidates.jsonl").write_text("nonsense\n")
    with pytest.raises(RunDirectoryError, match="damaged"):
        evolve_subnets(make(tmp_path), resume=True)


@pytest.mark.parametrize(
    ("limits", "error", "words"),
    [
        ({"params": (0.0, 10.0)}, InfeasibleBudget, "smallest has"),
        ({"macs": (1e9, 2e9)}, InfeasibleBudget, "largest has"),
        ({"params": (9.0, 8.0)}, ConfigError, "lower the one"),
    ],
)
def test_limits_that_cannot_be_met_are_refused(
    limits: dict[str, tuple[float, float]], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Constraint(SPEC, limits).check()
