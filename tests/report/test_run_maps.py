"""The token maps that a run keeps for its page."""

import json
from pathlib import Path

from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.evaluation.data import load_data
from autotok.report.run_maps import CAPTIONS, FOLDER, kept_maps, write_maps


def test_a_dozen_maps_are_drawn_and_read_again(tmp_path: Path) -> None:
    config = CompressionConfig("evit", (Reduction(1, num_keep=8),))
    model, data = compress_backbone(tiny_backbone(), config), load_data("demo", tiny_backbone())
    write_maps(tmp_path, model, data)
    summary, maps = kept_maps(tmp_path)
    assert len(maps) == 12
    assert "of the digits' patches" in summary
    assert maps[0].caption.startswith("demo ")
    assert "patches held" in maps[0].caption
    assert all(one.png.startswith(b"\x89PNG") for one in maps)
    assert sum(len(one.png) for one in maps) < 500_000


def test_a_model_without_a_head_takes_no_image_for_a_class(tmp_path: Path) -> None:
    model = tiny_vit()
    model.reset_classifier(0)
    headless = compress_backbone(TimmViT(model.eval(), name="headless"), CompressionConfig())
    data = load_data("digits", headless.backbone, own_labels=True)
    write_maps(tmp_path, headless, data)
    captions = [one.caption for one in kept_maps(tmp_path)[1]]
    assert len(captions) == 12
    assert all(caption.startswith("digits ") and ":" not in caption for caption in captions)


def test_a_run_without_maps_or_with_damaged_ones_has_none(tmp_path: Path) -> None:
    assert kept_maps(tmp_path) == ("", [])
    (tmp_path / FOLDER).mkdir()
    for text in ("{", "[]", '{"captions": 3, "summary": ""}', '{"captions": ["a"], "summary": ""}'):
        (tmp_path / FOLDER / CAPTIONS).write_text(text)
        assert kept_maps(tmp_path) == ("", [])


def test_a_page_takes_no_more_than_it_may_hold(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for number in range(3):
        (tmp_path / FOLDER / f"{number:02d}.png").write_bytes(bytes(2_000_000))
    kept = {"captions": ["a", "b", "c"], "summary": "s"}
    (tmp_path / FOLDER / CAPTIONS).write_text(json.dumps(kept))
    assert [one.caption for one in kept_maps(tmp_path)[1]] == ["a", "b"]


def test_a_finished_run_shows_its_maps(finished_run: Path) -> None:
    assert len(list((finished_run / FOLDER).glob("*.png"))) == 12
    assert "Where the tokens went" in (finished_run / "report.html").read_text("utf-8")
