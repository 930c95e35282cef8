"""`preprocessing.json` says in data and in words what the model was judged with."""

import pytest

from autotok.evaluation.preprocessing import Preprocessing
from autotok.export.preprocessing_file import preprocessing_file


def test_every_step_is_there_as_data_and_in_words() -> None:
    plain = Preprocessing(3, 224, 160, crop_pct=0.9).to_dict()
    found = preprocessing_file(plain, file="m.onnx", batch=1, output="logits", classes=10)
    assert found["input"] == {
        "name": "images", "shape": [1, 3, 224, 160], "layout": "NCHW", "dtype": "float32"
    }  # fmt: skip
    assert found["resize"]["to"] == [248, 177]
    words = " ".join(found["in_words"])
    for part in ("RGB", "bicubic", "248 x 177", "central 224 x 160", "mean 0.485", "0.229"):
        assert part in words


def test_the_edge_and_the_rounding_of_a_crop_are_told() -> None:
    asked = {"file": "m.onnx", "batch": 1, "output": "logits", "classes": 10}
    edge = Preprocessing(3, 224, 224, crop_pct=224 / 410, resize=(410, 410), crop_rounding="down")
    found = preprocessing_file(edge.to_dict(), **asked)
    assert (found["resize"]["to"], found["crop"]["rounding"]) == ([410, 410], "down")
    assert "the one more goes at the bottom and right" in " ".join(found["in_words"])
    other = preprocessing_file(Preprocessing(3, 224, 224).to_dict(), **asked)
    assert other["crop"]["rounding"] == "nearest"
    assert "the even number of pixels" in " ".join(other["in_words"])


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (("cat", "d\x1bog"), ["cat", "d\\x1bog"]),
        (("0", "1"), None),
        (("000", "001"), None),
        (("cat", "dog", "emu"), None),
        ((), None),
    ],
)
def test_classes_are_named_where_names_say_something(
    names: tuple[str, ...], written: list[str] | None
) -> None:
    plain = Preprocessing(3, 32, 32).to_dict()
    asked = {"file": "m.onnx", "batch": 1, "output": "logits", "classes": 2}
    assert preprocessing_file(plain, **asked, class_names=names).get("class_names") == written
