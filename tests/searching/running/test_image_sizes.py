"""A search over image sizes of one model runs each on the position table that it has for it."""

from pathlib import Path

import pytest
from torch import Tensor

from autotok.backbones.base import resampled_positions
from autotok.backbones.loading import save_backbone
from autotok.backbones.size_tables import add_size_tables
from autotok.backbones.tiny import tiny_backbone
from autotok.searching.running.opening import run_search
from autotok.searching.running.question import Question
from autotok.searching.running.session import build_problem
from autotok.searching.space.settings import SearchSettings

SETTINGS = SearchSettings(
    n_trials=4, sampler="random", images_few=8, images_more=8, images_final=8, control_shapes=0
)


@pytest.mark.slow
def test_no_table_is_resampled_for_a_size_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, path = tiny_backbone(), tmp_path / "sizes.safetensors"
    add_size_tables(backbone, (16, 24))
    save_backbone(backbone, path, name="tiny")
    question = Question(
        backbone="tiny", checkpoint=str(path), data="digits", budgets=("80%",),
        methods=("supervit",), image_sizes=(16, 24, 32),
    )  # fmt: skip
    grids = set[tuple[int, int]]()

    def noted(table: Tensor, own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        grids.add(grid)
        return resampled_positions(table, own, grid)

    monkeypatch.setattr("autotok.backbones.base.resampled_positions", noted)
    problem = build_problem(question, finetunes=0).problem
    result = run_search(SETTINGS, problem, tmp_path / "run")
    sizes = {record.config.image_size for record in result.records}
    assert sizes & {16, 24}
    assert grids <= {(1, 1)}  # of the control on smaller images still, which has none
