"""Training by recipe: it learns, resumes to the bit, and refuses a wrong recipe."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_supernet import SPEC, tiny_recipe
from tiny_supernet import STAGE as TINY_STAGE

from autotok.backbones.autoformer_family import load_supernet, supernet_structure
from autotok.backbones.demo import DEMO_SPEC, DEMO_SUBNET, load_demo_supernet
from autotok.backbones.loading import load_backbone
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.errors import CheckpointError, ConfigError, DataError, RunDirectoryError
from autotok.supernet.batches import training_batches
from autotok.supernet.checkpoint import fresh_state
from autotok.supernet.judge import judge_supernet
from autotok.supernet.recipe_file import load_recipe
from autotok.supernet.sampling import draw_subnets
from autotok.supernet.train import train_from_recipe

ROOT = Path(__file__).parents[2]
STAGE = {
    "name": "a",
    "steps": 4,
    "batch_size": 2,
    "live_tokens": 60,
    "lr": [1e-3, 1e-4],
    "subnets": {"smallest": 1.0},
}


def recipe(tmp_path: Path, **changes: object) -> Path:
    data = {"version": 1, "stages": [dict(STAGE), {**STAGE, "name": "b", "steps": 2}]}
    data |= {"val_every": 3, "val_images": 0, "bf16": False, **changes}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_training_writes_weights_a_log_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    steps: list[int] = []
    path = recipe(tmp_path)
    whole = train_from_recipe(path, tmp_path / "whole", progress=lambda p: steps.append(p.step))
    assert steps == [3, 4, 6]
    with (tmp_path / "whole" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["a", "a", "b"]
    known = load_recipe(path)  # a warm-up of 100 steps
    assert [row["lr"] for row in rows] == [f"{known.lr_at(step):.2e}" for step in (2, 3, 5)]
    assert all(float(row["loss"]) > 0 for row in rows)

    class Killed(Exception):
        pass

    def kill(progress: object) -> None:
        if getattr(progress, "step", 0) == 4:
            raise Killed

    with pytest.raises(Killed):
        train_from_recipe(path, tmp_path / "cut", progress=kill)
    resumed = train_from_recipe(path, tmp_path / "cut", resume=True)
    a, b = load_demo_supernet(whole), load_demo_supernet(resumed)
    for mine, theirs in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_resuming_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="without --resume"):
        train_from_recipe(recipe(tmp_path), tmp_path / "none", resume=True)


def test_the_committed_recipe_loads() -> None:
    committed = ROOT / "studies" / "demo_supernet" / "recipe.yaml"
    if not committed.exists():
        pytest.skip("installed without the repository")
    assert load_recipe(committed).steps > 1000


@pytest.mark.parametrize(
    ("step", "drawn"),
    [
        (0, (144, 25, 46.0)),
        (1, (120, 28, 41.0)),
        (3, (144, 30, 41.0)),
        (8, (96, 20, 30.0)),
        (702, (96, 26, 37.0)),
    ],
)
def test_the_committed_recipe_draws_the_subnets_of_its_recorded_run(
    step: int, drawn: tuple[int, int, float]
) -> None:
    committed = ROOT / "studies" / "demo_supernet" / "recipe.yaml"
    if not committed.exists():
        pytest.skip("installed without the repository")
    recipe = load_recipe(committed)
    stage, _ = recipe.locate(step)
    rng = np.random.default_rng([recipe.seed, step])
    (subnet,) = draw_subnets(recipe.spec, recipe.default, stage, rng)
    assert (subnet.embed_dim, sum(subnet.heads), sum(subnet.mlp_ratios)) == drawn


def test_the_recorded_run_s_first_batch_is_drawn_again() -> None:
    committed = ROOT / "studies" / "demo_supernet" / "recipe.yaml"
    if not committed.exists():
        pytest.skip("installed without the repository")
    recipe = load_recipe(committed)
    rng = np.random.default_rng([recipe.seed, 0])
    draw_subnets(recipe.spec, recipe.default, recipe.stages[0], rng)
    view = SupernetView(AutoFormerSupernet(DEMO_SPEC), DEMO_SUBNET)
    batch = training_batches(recipe, view).batch(0, rng)
    assert batch.index is not None
    assert int(batch.index.sum()) == 1724687
    assert batch.labels.tolist()[:4] == [0, 1, 2, 3]


def same_files(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Stopped(Exception):
    pass


def stop_at(step: int) -> Any:
    def progress(report: Any) -> None:
        if report.step >= step:
            raise Stopped

    return progress


@pytest.mark.parametrize(
    "changes",
    [
        {"distill": {"weight": 0.5, "temperature": 2.0}, "augment": "crop-flip", "val_images": 8},
        {"stages": [{**TINY_STAGE, "sampling": "uniform"}], "distill": {}, "bf16": True},
    ],
)
def test_any_sampling_resumes_to_the_same_weights(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tiny_recipe(tmp_path, **changes)
    whole = train_from_recipe(path, tmp_path / "whole")
    with pytest.raises(Stopped):
        train_from_recipe(path, tmp_path / "cut", progress=stop_at(6))
    resumed = train_from_recipe(path, tmp_path / "cut", resume=True)
    assert same_files(whole, resumed)
    with (tmp_path / "cut" / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3", "6"]


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    stages = [{**TINY_STAGE, "steps": 24}]
    path = tiny_recipe(tmp_path, stages=stages, val_every=2)
    whole = train_from_recipe(path, tmp_path / "whole")
    code = "import sys; from pathlib import Path; from autotok.supernet.train import *;"
    code += "train_from_recipe(Path(sys.argv[1]), Path(sys.argv[2]))"
    output = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", code, str(path), str(output)])
    while not (output / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert torch.load(output / "checkpoint.pt", weights_only=True)["step"] >= 2
    assert same_files(whole, train_from_recipe(path, output, resume=True))


def test_a_folder_that_holds_a_training_is_not_trained_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_recipe(tmp_path)
    train_from_recipe(path, tmp_path / "a")
    monkeypatch.setattr("autotok.supernet.train.fresh_state", None)  # told before anything is made
    with pytest.raises(RunDirectoryError, match="--resume"):
        train_from_recipe(path, tmp_path / "a")


def test_only_the_same_recipe_resumes_but_stages_may_be_added(tmp_path: Path) -> None:
    train_from_recipe(tiny_recipe(tmp_path), tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"'seed' differs"):
        train_from_recipe(tiny_recipe(tmp_path, seed=3), tmp_path / "a", resume=True)
    changed = [{**TINY_STAGE, "lr": 0.5}]
    with pytest.raises(CheckpointError, match=r"'stage 1' differs"):
        train_from_recipe(tiny_recipe(tmp_path, stages=changed), tmp_path / "a", resume=True)
    longer = [TINY_STAGE, {**TINY_STAGE, "steps": 2}]
    steps: list[int] = []
    path = tiny_recipe(tmp_path, stages=longer)
    train_from_recipe(path, tmp_path / "a", resume=True, progress=lambda p: steps.append(p.step))
    assert steps == [8]


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device 'gpu' is not here"):
        train_from_recipe(tiny_recipe(tmp_path), tmp_path / "a", device="gpu")


def test_data_without_the_models_labels_is_refused(tmp_path: Path) -> None:
    spec = {**yaml.safe_load(tiny_recipe(tmp_path).read_text())["spec"], "num_classes": 7}
    with pytest.raises(DataError, match="7 classes"):
        train_from_recipe(tiny_recipe(tmp_path, spec=spec), tmp_path / "a")


def test_training_starts_from_official_weights_with_a_new_head(tmp_path: Path) -> None:
    torch.manual_seed(5)
    given = AutoFormerSupernet(SPEC)
    torch.save({"model": given.state_dict(), "epoch": 1}, tmp_path / "official.pth")
    state = fresh_state(load_recipe(tiny_recipe(tmp_path, weights="official.pth")))
    for key, value in state.supernet.state_dict().items():
        assert torch.equal(value, given.state_dict()[key])
    spec = {**yaml.safe_load(tiny_recipe(tmp_path).read_text())["spec"], "num_classes": 4}
    recipe = load_recipe(tiny_recipe(tmp_path, weights="official.pth", spec=spec))
    other = fresh_state(recipe).supernet
    assert other.head.weight.shape == (4, 24)
    assert torch.equal(other.blocks.state_dict()["0.fc1.weight"], given.blocks[0].fc1.weight)
    small = load_recipe(tiny_recipe(tmp_path, weights="official.pth", spec={**spec, "depth": 4}))
    with pytest.raises(CheckpointError, match="do not fit"):
        fresh_state(small)


def test_trained_weights_load_by_name_under_the_official_keys(tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path)
    weights = train_from_recipe(path, tmp_path / "a")
    assert weights.name == "autoformer_custom.safetensors"
    assert set(load_file(weights)) == set(AutoFormerSupernet(SPEC).state_dict())
    assert "blocks.0.attn.rel_pos_embed_k.embeddings_table_v" in load_file(weights)
    assert supernet_structure("autoformer_custom", weights) == (SPEC, SPEC.largest())
    loaded = load_backbone("autoformer_custom", checkpoint=weights, subnet=SPEC.smallest())
    assert loaded.facts.num_blocks == 1
    assert load_supernet("autoformer_custom", weights).spec == SPEC
    results = judge_supernet(path, weights)
    assert [row["subnet"] for row in results["subnets"]][:3] == ["default", "largest", "smallest"]
    assert results["subnets"][0]["num_images"] == 10
    with pytest.raises(CheckpointError, match="written for backbone 'autoformer_custom'"):
        load_supernet("autoformer_tiny", weights)
