"""`autotok methods` and `autotok methods show NAME`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from autotok.methods import list_methods
from autotok.methods.evidence import NotBuilt

Run = Callable[..., tuple[int, str, str]]


def test_the_table_names_every_method_and_what_is_not_built(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = NotBuilt("ghost", "Ghost (2030)", "it needs a crystal ball")
    monkeypatch.setattr("autotok.not_built", lambda: (entry,))
    code, out, _ = run("methods")
    assert code == 0
    assert all(name in out for name in list_methods())
    assert "autotok methods show NAME" in out
    assert "it needs a crystal ball" in out


def test_a_page_is_text_or_json(run: Run) -> None:
    code, out, _ = run("methods", "show", "tome", "--backbone", "tiny")
    assert code == 0
    assert "held to     the authors' code (facebookresearch/ToMe)" in out
    assert "on tiny (4 blocks, 16 patches)" in out
    code, out, _ = run("methods", "show", "tome", "--json")
    assert code == 0
    page = json.loads(out)
    assert page["name"] == "tome"
    assert page["on_backbone"]["keeps_of_all_patches"] == [98, 196]


def test_an_unknown_method_is_one_sentence_with_the_nearest_name(run: Run) -> None:
    code, _, err = run("methods", "show", "tomee")
    assert code == 2
    assert "did you mean 'tome'?" in err
    assert err.strip().count("\n") == 0


def test_pages_are_written_to_a_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotok.report.method_pages.list_methods", lambda: ["tome", "topk"])
    code, out, _ = run("methods", "--write", str(tmp_path / "pages"))
    assert code == 0
    assert "pages written to" in out
    assert "(tome.md)" in (tmp_path / "pages" / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_a_missing_network_is_one_sentence_and_does_not_stand_in_the_way_of_counting(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AUTOTOK_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = ("--backbone", "tiny", "--method", "papr", "--keep", "0.5@0")
    code, _, err = run("evaluate", *model, "--data", "digits")
    assert code == 2
    assert "AUTOTOK_WEIGHTS" in err
    assert err.strip().count("\n") == 0
    code, out, _ = run("profile", *model, "--no-measure", "--check", "--json")
    assert code == 0
    assert json.loads(out)["check"] == "equal"


def test_the_catalogues_list_what_there_is(run: Run) -> None:
    code, out, _ = run("methods", "--backbone", "autoformer_demo", "--json")
    rows = {row["method"]: row for row in json.loads(out)}
    assert code == 0
    assert {"tome", "evit", "topk", "ltp", "pitome", "tofu", "random", "none"} <= set(rows)
    assert "column" in rows["evit"]["fits"]
    code, out, _ = run("methods", "--backbone", "vit_medium_patch16_gap_240", "--json")
    assert code == 0
    code, out, _ = run("targets", "--json")
    rows = {row["target"]: row for row in json.loads(out)}
    assert rows["jetson-nx"]["predictions_of"] == "PyTorch eager float32"
    code, out, _ = run("backbones", "deit_small*")
    assert "deit_small_patch16_224" in out.split()


def test_a_target_is_confronted_with_the_published_points(run: Run) -> None:
    code, out, _ = run("targets", "show", "rtx3090", "--json")
    report = json.loads(out)
    assert code == 0
    assert len(report["points"]) >= 8
    assert all(point["published"] > 0 and point["predicted"] > 0 for point in report["points"])
    assert all(row["source"] for row in report["numbers"])
