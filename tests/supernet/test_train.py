"""Training by recipe: it learns, resumes to the bit, and refuses a wrong recipe."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from autotok.backbones.demo import DEMO_SPEC, DEMO_SUBNET, load_demo_supernet, save_supernet
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.errors import CheckpointError, ConfigError
from autotok.evaluation.demo import DemoDigits
from autotok.supernet.live_tokens import choose_live, forward_live
from autotok.supernet.recipe import load_recipe
from autotok.supernet.sampling import draw_subnet, sample_uniform
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stagse": []}, "did you mean 'stages'"),
        ({"stages": []}, "list of stages"),
        ({"stages": [{"name": "a"}]}, "'steps' is missing"),
        ({"stages": [{**STAGE, "lr": "fast"}]}, "number or"),
        ({"data": "imagenet"}, "only autoformer_demo on demo"),
        ({"version": 2}, "version 2"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(recipe(tmp_path, **change))


def test_the_committed_recipe_loads() -> None:
    committed = ROOT / "studies" / "demo_supernet" / "recipe.yaml"
    if not committed.exists():
        pytest.skip("installed without the repository")
    assert load_recipe(committed).steps > 1000


def test_live_tokens_keep_the_whole_digit_and_stand_for_the_whole_canvas() -> None:
    data = DemoDigits("train", 10)
    for index in range(10):
        canvas, _, box = data.draw(index)
        rng = np.random.default_rng(index)
        live = choose_live(canvas, box, 8, 70, 1.0, rng)
        assert len(set(live.index.tolist())) == 70
        assert live.size.sum() == pytest.approx(841, rel=1e-4)
        digit = {int(r * 29 + c) for r, c in box.patches(8)}
        kept = dict(zip(live.index.tolist(), live.size.tolist(), strict=True))
        assert digit <= set(kept)
        assert all(kept[i] == 1.0 for i in digit)


def test_all_tokens_live_with_size_one_is_the_whole_canvas() -> None:
    torch.manual_seed(0)
    view = SupernetView(AutoFormerSupernet(DEMO_SPEC), DEMO_SPEC.smallest()).eval()
    images = torch.stack([DemoDigits("val", 2)[i][0] for i in range(2)])
    index = torch.stack([torch.randperm(841), torch.randperm(841)])
    with torch.no_grad():
        live = forward_live(view, images, index, torch.ones(2, 841))
        torch.testing.assert_close(live, view(images), atol=2e-5, rtol=1e-4)


def test_subnets_are_drawn_from_the_choices_and_the_asked_kinds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        subnet = sample_uniform(DEMO_SPEC, rng)
        DEMO_SPEC.check(subnet)
        assert subnet.embed_dim in DEMO_SPEC.embed_choices
        assert subnet.depth in DEMO_SPEC.depth_choices
        assert set(subnet.heads) <= set(DEMO_SPEC.heads_choices)
    shares = {"largest": 0.5, "default": 0.5}
    kinds = {draw_subnet(DEMO_SPEC, DEMO_SUBNET, shares, rng) for _ in range(20)}
    assert kinds == {DEMO_SPEC.largest(), DEMO_SUBNET}
    with pytest.raises(ConfigError, match="did you mean 'largest'"):
        draw_subnet(DEMO_SPEC, DEMO_SUBNET, {"lagrest": 1.0}, rng)


def test_half_precision_weights_round_trip(tmp_path: Path) -> None:
    net = AutoFormerSupernet(DEMO_SPEC)
    save_supernet(net, tmp_path / "w.safetensors")
    again = load_demo_supernet(tmp_path / "w.safetensors")
    for mine, theirs in zip(net.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)
    assert (tmp_path / "w.safetensors").stat().st_size < 12e6
