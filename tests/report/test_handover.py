"""What a finished search leaves behind: evidence, report, and the model it was told to ship."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.report.handover import hand_over
from autotok.searching.records.comparison import compare_front
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.opening import run_search
from autotok.searching.running.question import Question
from autotok.searching.running.search_result import SearchResult
from autotok.searching.running.session import Session, build_problem
from autotok.searching.space.settings import SearchSettings


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, SearchResult]:
    torch.manual_seed(0)
    question = Question(backbone="tiny", data="digits", budgets=("60%",), max_images=48)
    session = build_problem(question)
    settings = SearchSettings(n_trials=4, retrain_trials=0)
    folder = tmp_path_factory.mktemp("runs") / "one"
    sections = {"question": session.question.to_dict()}
    return session, run_search(settings, session.problem, folder, sections=sections)


def handed(session: Session, result: SearchResult, asked: list[str]) -> Path:
    def compressed(config: CompressionConfig) -> CompressedViT:
        asked.append(config.config_id)
        return compress_backbone(session.backbone, config)

    hand_over(
        session.question.to_dict(),
        session.backbone,
        session.evaluator,
        result,
        compressed=compressed,
    )
    return result.directory


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_the_evidence_of_the_best_holds_its_comparisons(
    searched: tuple[Session, SearchResult],
) -> None:
    session, result = searched
    asked: list[str] = []
    folder = handed(session, result, asked)
    assert result.best is not None
    assert result.best.config is not None
    assert asked == [result.best.config.config_id]  # the model to ship came from the caller
    evidence = yaml.safe_load((folder / "best.yaml").read_text())["evidence"]
    comparison = evidence["comparison"]
    assert comparison["role"] == "best"
    assert comparison["against_reference"]["num_images"] == 48
    assert comparison["against_reference"]["verdict"] in ("better", "worse", "tie")
    assert evidence["tuned"] is None
    assert "More than noise?" in (folder / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_what_fine_tuning_did_travels_with_the_best(searched: tuple[Session, SearchResult]) -> None:
    session, result = searched
    best = result.best
    assert best is not None
    tuned = dataclasses.replace(
        best,
        tuned={"steps": 10, "images": 80, "seconds": 6.0, "loss": 0.5},
        untuned=best.tally,
    )
    front = tuple(tuned if r.number == best.number else r for r in result.front)
    final = dataclasses.replace(result.final, front=front, best=tuned)
    found = compare_front(final, records=result.records)
    RunDirectory(result.directory).write_json(
        "pareto.json", {**final.to_dict(), "budgets": [], "comparisons": found.to_dict()}
    )
    folder = handed(session, dataclasses.replace(result, final=final), [])
    evidence = yaml.safe_load((folder / "best.yaml").read_text())["evidence"]
    assert evidence["tuned"]["steps"] == 10
    assert evidence["tuning_gain"]["gain"]["num_images"] == 48
    assert "<h2>Fine-tuning</h2>" in (folder / "report.html").read_text()
