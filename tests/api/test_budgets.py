"""Budgets hold for adaptive methods, plugged in and fine-tuned, in whole searches of a model."""

from pathlib import Path

import pytest
import yaml

import autotok
from autotok.backbones.loading import load_backbone
from autotok.counting.macs import uncompressed
from autotok.errors import ConfigError
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.data import load_data
from autotok.export.bundle import load_bundle
from autotok.methods import get_method
from autotok.methods.base import Count
from autotok.searching.running.model_worker import judged_tally
from autotok.searching.running.question import Question
from autotok.searching.running.session import build_problem
from autotok.searching.space.settings import SearchSettings

pytestmark = pytest.mark.usefixtures("few_candidates")

SETTINGS = SearchSettings(n_trials=5, images_few=20, images_more=20, images_final=60)
TRAINED = {"length": "4 steps", "losses": "ce+soft", "batch_size": 8}


def space(folder: Path, **content: object) -> str:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.usefixtures("no_onnx")
@pytest.mark.parametrize(
    ("methods", "mode"),
    [
        pytest.param(["tofe-instance", "ltmp", "spvit"], ["retrain"], marks=pytest.mark.slow),
        (["ats", "ltmp", "asvit"], ["plug-in"]),
    ],
)
def test_every_row_inside_the_budget_is_inside_by_what_images_cost(
    methods: list[str], mode: list[str], tmp_path: Path
) -> None:
    run = autotok.search(
        "tiny",
        data="digits",
        budget="60%",
        space=space(tmp_path, methods=methods, mode=mode, finetune=TRAINED),
        settings=SETTINGS,
        output=tmp_path / "run",
    )
    backbone = load_backbone("tiny")
    evaluator, limit = (
        Evaluator(backbone, load_data("digits", backbone)),
        0.6 * uncompressed(backbone.facts).macs,
    )
    records = run.records()
    assert records["front"]
    for record in records["front"]:
        measured = judged_tally(evaluator, run.load(record), 0, 60)
        if get_method(record.config.method).count is Count.ADAPTIVE:
            mean = sum(measured.macs) / 60
            assert mean <= limit
            assert record.score.macs_mean == mean
            assert record.costs.macs == round(mean)
        assert measured.quality().value == record.score.value
        assert record.within_budget
    best = judged_tally(evaluator, load_bundle(run.directory / "best.yaml"), 0, 60)
    assert best.quality().macs_mean == run.best.row().get("macs_mean")
    trials = run.trials
    done = trials[trials["state"].isin(["complete", "infeasible"]) & trials["macs_mean"].notna()]
    assert len(done) >= 3
    assert ((done["macs"] <= limit) == done["feasible"]).all()
    assert ((done["mode"] == "retrain") == (done["finetuned"])).all()


def test_no_fine_tunes_and_a_space_that_only_retrains_run_nothing(tmp_path: Path) -> None:
    only = space(tmp_path, methods=["spvit", "topk"], mode=["retrain"])
    with pytest.raises(ConfigError, match="0 fine-tunes were asked for, so nothing of it can"):
        autotok.search(
            "tiny",
            data="digits",
            budget="60%",
            space=only,
            settings=SearchSettings(n_trials=2, retrain_trials=0),
            output=tmp_path / "run",
        )
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_without_fine_tunes_methods_that_must_be_trained_are_left_out(tmp_path: Path) -> None:
    both = space(tmp_path, methods=["spvit", "topk", "dynamicvit"], mode=["plug-in", "retrain"])
    question = Question(backbone="tiny", data="digits", budgets=("60%",), space=both)
    session = build_problem(question, weights=tmp_path / "weights", finetunes=0)
    assert session.problem.space.candidates(session.backbone.facts) == ("topk",)
    assert session.problem.space.mode == ("plug-in",)
    assert session.plug_in_only is not None
    assert "left out, for they have to be trained: spvit, dynamicvit" in session.plug_in_only
    trained = space(tmp_path, methods=["spvit"], mode=["plug-in", "retrain"])
    question = Question(backbone="tiny", data="digits", budgets=("60%",), space=trained)
    with pytest.raises(ConfigError, match=r"every method .* \(spvit\) has to be trained"):
        build_problem(question, weights=tmp_path / "weights", finetunes=0)
