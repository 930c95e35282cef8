"""A recipe says everything; each wrong key or value is one sentence that names it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tiny_supernet import SPEC, SPEC_DATA, STAGE, tiny_recipe

from autotok.backbones.autoformer_spaces import published_subnet, supernet_spec
from autotok.backbones.demo import DEMO_SPEC, DEMO_SUBNET
from autotok.errors import ConfigError
from autotok.supernet.recipe_file import load_recipe

MIXTURE = {key: value for key, value in STAGE.items() if key != "sampling"}
DEMO = {"backbone": "autoformer_demo", "spec": ..., "data": "demo"}


def stage(**changes: Any) -> list[dict[str, Any]]:
    return [{**STAGE, **changes}]


def mixture(**changes: Any) -> list[dict[str, Any]]:
    return [{**MIXTURE, **changes}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stagse": []}, "did you mean 'stages'"),
        ({"stages": []}, "list of stages"),
        ({"stages": [{"name": "a"}]}, "lacks the key 'steps'"),
        ({"stages": stage(lr="fast")}, "must be a number"),
        ({"stages": stage(lr=[1, 2, 3])}, "must be a list of 2"),
        ({"stages": stage(lr=5.0)}, "lr: must be within 0 to 1"),
        ({"stages": stage(steps=0)}, "steps: must be 1 or more"),
        ({"stages": stage(batch_size=2.5)}, "batch_size: must be a whole number"),
        ({"stages": stage(name=3)}, "name: must be text"),
        ({"stages": stage(sampling="sandwhich")}, "did you mean 'sandwich'"),
        ({"stages": stage(schedule="step")}, "known: linear, cosine"),
        ({"stages": stage(random_subnets=-1)}, "random_subnets: must be"),
        ({"stages": stage(subnets={"random": 1.0})}, "belongs to sampling 'mixture'"),
        ({"stages": stage(sampling="uniform", random_subnets=1)}, "belongs to sampling 'sandwich'"),
        ({"stages": mixture(subnets={"lagrest": 1.0})}, "did you mean 'largest'"),
        ({"stages": mixture(subnets={"largest": 0.5})}, "add up to 0.5"),
        ({"stages": mixture(subnets={"largest": "all"})}, "subnets.largest: must be a number"),
        ({"stages": mixture(subnets=[])}, "must be a mapping"),
        ({"stages": stage(live_tokens=60)}, "'live_tokens' of stage 'a' is for data 'demo'"),
        ({"stages": stage(clutter=0.5)}, "'clutter' of stage 'a' is for data 'demo'"),
        ({**DEMO, "stages": stage(live_tokens=20)}, "more than a digit's 49 patches"),
        ({**DEMO, "stages": stage(live_tokens=842)}, "at most 841"),
        ({**DEMO, "augment": "crop-flip"}, "not for data 'demo'"),
        ({"version": 2}, "version: is 2"),
        ({"backbone": "autoformer_huge"}, "backbone: 'autoformer_huge' is unknown"),
        ({"backbone": "vit_small_patch16_224"}, "known: autoformer_demo"),
        ({"spec": ...}, "needs its shapes under the key 'spec'"),
        ({"spec": {**SPEC_DATA, "depht": 3}}, "did you mean 'depth'"),
        ({"spec": {"depth": 3}}, "lacks the key 'embed_dim'"),
        ({"spec": {**SPEC_DATA, "heads": 2.5}}, "heads: must be a whole number, got 2.5"),
        ({"spec": {**SPEC_DATA, "embed_choices": 12}}, "embed_choices: must be a list, got 12"),
        ({"spec": {**SPEC_DATA, "embed_choices": [48]}}, "holds at most 24"),
        ({"spec": {**SPEC_DATA, "image_shape": [8, 8]}}, "must be a list of 3"),
        ({"spec": {**SPEC_DATA, "patch_size": 3}}, "do not tile"),
        ({"spec": {**SPEC_DATA, "pooling": "max"}}, "known: mean, cls"),
        ({"default": {"embed_dim": 99, "heads": [1], "mlp_ratios": [2.0]}}, "at most 24"),
        ({"default": {"embed_dim": 12}}, "default: "),
        ({"data": 3}, "data: must be text"),
        ({"augment": "mixup"}, "known: none, crop-flip"),
        ({"distill": {"weigth": 1}}, "did you mean 'weight'"),
        ({"distill": {"weight": 2}}, "weight: must be within 0 to 1"),
        ({"distill": {"temperature": 0}}, "temperature: must be"),
        ({"betas": 0.9}, "betas: must be a list"),
        ({"betas": [0.9, 1.0]}, "betas: must be within"),
        ({"bf16": "yes"}, "bf16: must be true or false"),
        ({"seed": -1}, "seed: must be"),
        ({"clip_norm": 0}, "clip_norm: must be"),
        ({"ema_decay": 1.0}, "ema_decay: must be"),
        ({"label_smoothing": "none"}, "label_smoothing: must be"),
        ({"val_every": 0}, "val_every: must be"),
        ({"position_start": "zeros"}, "known: sinusoids, normal"),
        ({"spec": {**SPEC_DATA, "embed_dim": 22, "embed_choices": [20]}}, "that 4 divides"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_recipe(tiny_recipe(tmp_path, **change))
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("stages: [")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_recipe(path)


def test_a_spec_of_ones_own_is_taken_whole_and_its_largest_subnet_is_the_default(
    tmp_path: Path,
) -> None:
    recipe = load_recipe(tiny_recipe(tmp_path))
    assert (recipe.spec, recipe.default) == (SPEC, SPEC.largest())
    assert recipe.backbone == "autoformer_custom"


def test_named_supernets_bring_their_published_shapes_and_subnets(tmp_path: Path) -> None:
    demo = load_recipe(tiny_recipe(tmp_path, **DEMO))
    assert (demo.spec, demo.default) == (DEMO_SPEC, DEMO_SUBNET)
    small = load_recipe(tiny_recipe(tmp_path, backbone="autoformer_small", spec=...))
    assert (small.spec, small.default) == (supernet_spec("small"), published_subnet("small"))


def test_a_spec_beside_a_name_replaces_only_what_it_says(tmp_path: Path) -> None:
    change = {"backbone": "autoformer_tiny", "spec": {"num_classes": 10}}
    recipe = load_recipe(tiny_recipe(tmp_path, **change))
    assert recipe.spec == dataclasses.replace(supernet_spec("tiny"), num_classes=10)
    assert recipe.backbone == "autoformer_custom"


def test_the_learning_rate_runs_between_its_ends_linearly_or_as_a_cosine(tmp_path: Path) -> None:
    pair = {"steps": 5, "lr": [1.0, 0.0]}
    straight = load_recipe(tiny_recipe(tmp_path, stages=stage(**pair))).stages[0]
    assert [straight.lr_at(i) for i in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    curve = load_recipe(tiny_recipe(tmp_path, stages=stage(**pair, schedule="cosine"))).stages[0]
    assert [curve.lr_at(i) for i in range(5)] == pytest.approx(
        [1, 0.853553, 0.5, 0.146447, 0], abs=1e-6
    )


def test_the_rate_in_force_is_the_stages_under_the_warm_up(tmp_path: Path) -> None:
    stages = [{**STAGE, "steps": 2, "lr": [1.0, 1.0]}, {**STAGE, "steps": 4, "lr": [0.8, 0.2]}]
    recipe = load_recipe(tiny_recipe(tmp_path, stages=stages, warmup_steps=4))
    assert [recipe.lr_at(i) for i in range(6)] == pytest.approx([0.25, 0.5, 0.6, 0.6, 0.4, 0.2])


def test_images_before_a_step_add_up_over_stages(tmp_path: Path) -> None:
    stages = [{**STAGE, "steps": 2}, {**STAGE, "steps": 3, "batch_size": 10}]
    recipe = load_recipe(tiny_recipe(tmp_path, stages=stages))
    assert [recipe.images_before(i) for i in range(6)] == [0, 4, 8, 18, 28, 38]
