"""The ranking of heads and units: found once per run, kept as text, of another model found anew."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import autotok
from autotok.backbones.base import Backbone
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.errors import ConfigError
from autotok.evaluation.data import DataSource, load_data
from autotok.evaluation.folder import FolderData
from autotok.pruned_spec import PrunedSpec
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running import ranking
from autotok.searching.running.question import Question
from autotok.searching.running.ranking import RANKING_FILE, pruned_structure
from autotok.searching.running.session import build_problem
from autotok.searching.space.pruned_structure import PrunedStructure
from autotok.searching.space.settings import SearchSettings


def ranked(
    backbone: Backbone, data: DataSource, folder: Path | None, *, seed: int = 0
) -> PrunedStructure:
    return pruned_structure(backbone, data, seed=seed, folder=folder)


def test_a_ranking_is_found_once_and_read_back_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "RANKED_ON", 16)
    backbone = tiny_backbone()
    data = load_data("digits", backbone, split="train")
    first = ranked(backbone, data, tmp_path)
    other = ranked(backbone, data, None, seed=1)
    RunDirectory.check_new(tmp_path)  # alone it is no run
    monkeypatch.setattr(ranking, "importance_of", None)
    again = ranked(backbone, data, tmp_path)
    assert (again, again.ranking) == (first, first.ranking)
    assert other.ranking != first.ranking
    with pytest.raises(TypeError):  # another model's is found anew
        ranked(tiny_backbone(seed=1), data, tmp_path)
    (tmp_path / RANKING_FILE).write_text("[]")
    with pytest.raises(ConfigError, match=r"importance\.json' is no ranking"):
        ranked(backbone, data, tmp_path)


def test_an_image_found_unreadable_while_ranking_does_not_keep_a_run_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "RANKED_ON", 9)  # one more than go together
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(101):
        Image.new("L", (8, 8), number).save(photos / f"{number:03}.png")
    data = load_data(photos, tiny_backbone())
    assert isinstance(data, FolderData)
    data.path(data.subset(2, 0)[1]).write_bytes(b"no picture")
    question = Question(backbone="tiny", data=str(photos), budgets=("60%",), subnet="search")
    first, again = (build_problem(question, weights=tmp_path / "run" / "weights") for _ in "12")
    assert (tmp_path / "run" / RANKING_FILE).is_file()
    assert again.problem.fingerprint == first.problem.fingerprint
    assert again.problem.fingerprint.held() == first.problem.fingerprint.held()


@pytest.mark.slow
def test_a_run_of_pruned_and_fine_tuned_models_goes_on_where_it_was(
    no_onnx: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ranking, "RANKED_ON", 8)
    space = tmp_path / "space.yaml"
    space.write_text(
        "methods: [tome, evit]\nexclude: [none]\nmode: retrain\nsubnet: search\n"
        "conditions: [{when: {}, then: {subnet.depth: [2, 3]}}]\n"  # never the whole one
        "finetune: {length: 2 steps, batch_size: 8, lr: 0.001}\n"
    )
    few = SearchSettings(2, images_few=12, images_more=16, control_shapes=1, retrain_trials=2)
    short = autotok.search(
        "tiny", data="digits", budget="60%", space=space, settings=few, max_images=24,
        precision="float32", output=tmp_path / "run",
    )  # fmt: skip
    before = [*short.trials["config_id"]]
    monkeypatch.setattr(ranking, "importance_of", None)  # the ranking is read back
    longer = autotok.resume(short.directory, n_trials=4)
    assert [*longer.trials["config_id"]][:2] == before
    assert {*longer.trials["state"]} == {"complete"}
    front = [r.config for r in longer.records()["front"]]
    assert any(isinstance(c.subnet, PrunedSpec) and c.mode == "retrain" for c in front)
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(longer.load_best()(x), autotok.load(longer.directory / "best.yaml")(x))


@pytest.mark.parametrize("model", [None, tiny_vit()])
def test_a_search_asks_for_the_structure_of_names_and_of_models(
    model: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ranking, "RANKED_ON", 8)
    question = Question(backbone="tiny", data="digits", subnet="search", budgets=("60%",))
    problem = build_problem(question, model, weights=tmp_path / "weights").problem  # type: ignore[arg-type]
    structure = problem.space.structure
    assert structure is not None
    smallest = structure.shrunk(structure.default)[-1]
    assert structure.facts(smallest).num_blocks < problem.facts.num_blocks == 4
    assert (tmp_path / RANKING_FILE).is_file()
