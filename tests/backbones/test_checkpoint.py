"""The one model's tensors come out of whatever training code wrapped around them."""

import pytest
import torch
from torch import Tensor

from autotok.backbones.checkpoint import peeled
from autotok.errors import CheckpointError

ONE, TWO = torch.ones(1), torch.full((1,), 2.0)


def names(data: dict[str, object]) -> set[str]:
    return set(peeled(data, "file").tensors)


def test_prefixes_go_from_all_names_that_have_them() -> None:
    assert names({"module.model.blocks.0.x": ONE, "module.head": ONE}) == {"blocks.0.x", "head"}
    assert names({"module.0.w": ONE, "module.1.w": ONE}) == {"0.w", "1.w"}
    assert names({"_orig_mod.module.w": ONE, "_orig_mod.module.v": ONE}) == {"w", "v"}


def test_names_that_only_look_like_prefixes_stay() -> None:
    assert names({"model.w": ONE, "head": ONE}) == {"model.w", "head"}
    assert names({"blocks.0.model.w": ONE}) == {"blocks.0.model.w"}
    assert names({"encoder.layer.0.w": ONE}) == {"encoder.layer.0.w"}  # another family's own


def test_two_tensors_of_one_name_are_refused() -> None:
    data = {"backbone.blocks.0.w": ONE, "backbone.head": ONE, "head": TWO}
    with pytest.raises(CheckpointError, match="two tensors for 'head'"):
        peeled(data, "file")


def test_two_models_of_which_none_is_an_average_are_refused() -> None:
    data = {"backbone.blocks.0.w": ONE, "net.blocks.0.w": TWO}
    with pytest.raises(CheckpointError, match=r"several models, under 'backbone\.', 'net\.'"):
        peeled(data, "file")


@pytest.mark.parametrize(
    "data",
    [
        {"model": {"w": ONE}, "model_ema": {"w": TWO}},
        {"model_ema": {"module": {"w": TWO}}, "model": {"w": ONE}},
        {"state_dict": {"w": ONE}, "state_dict_ema": {"w": TWO}},
        {"student": {"w": ONE}, "teacher": {"w": TWO}},
        {"encoder": {"w": ONE}, "target_encoder": {"w": TWO}, "predictor": {"w": ONE}},
    ],
)
def test_the_average_is_taken_and_the_choice_told(data: dict[str, dict[str, Tensor]]) -> None:
    found = peeled(data, "file")
    assert found.tensors["w"] is TWO
    assert len(found.choices) == 1


def test_a_teacher_beside_a_model_is_somebody_else() -> None:
    found = peeled({"teacher": {"w": TWO}, "model": {"w": ONE}}, "file")
    assert found.tensors["w"] is ONE
    assert found.choices == ()


def test_a_dictionary_that_holds_itself_is_refused() -> None:
    endless: dict[str, object] = {}
    endless["model"] = endless
    with pytest.raises(CheckpointError, match="nested deeper"):
        peeled(endless, "file")
