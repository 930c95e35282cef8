"""An image as the model and as people see it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotok.backbones.loading import load_structure
from autotok.backbones.tiny import tiny_backbone
from autotok.errors import DataError
from autotok.evaluation.data import load_data
from autotok.evaluation.demo import DemoDigits
from autotok.evaluation.shown_image import check_image, shown_image, shown_of


def test_a_file_is_shown_as_it_is_cropped_for_the_model(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (80, 60), (255, 0, 0)).save(path)
    shown = shown_image(str(path), tiny_backbone())
    assert (shown.name, shown.label, shown.digit) == ("red.png", "", None)
    assert shown.pixels.shape == (32, 32, 3)
    np.testing.assert_allclose(
        shown.pixels, np.broadcast_to([1.0, 0.0, 0.0], (32, 32, 3)), atol=1e-6
    )


def test_an_image_of_the_demo_knows_where_its_digit_is() -> None:
    backbone = load_structure("autoformer_demo")
    shown, digits = shown_image("demo:7", backbone), DemoDigits("val", 2000)
    box = digits.digit_box(7)
    assert shown.label == "7"
    assert shown.digit is not None
    where = np.argwhere(shown.digit.reshape(29, 29))
    assert where.tolist() == box.patches(8).tolist()
    np.testing.assert_allclose(shown.pixels[..., 0], digits.draw(7)[0].clip(0, 1), atol=1e-5)


def test_the_digit_is_found_again_where_the_canvas_was_resized_for_a_model() -> None:
    shown, box = shown_image("demo", tiny_backbone()), DemoDigits("val", 2000).digit_box(0)
    assert shown.digit is not None
    rows, columns = np.argwhere(shown.digit.reshape(4, 4)).T
    assert (rows.min(), columns.min()) == (box.top // 58, box.left // 58)
    assert rows.max() == (box.top + box.side - 1) // 58


def test_an_image_of_a_folder_is_called_by_its_file(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a\tb.png")
    source = load_data(str(tmp_path), tiny_backbone())
    assert shown_of(source, 0, tiny_backbone()).name == "a\\tb.png"


@pytest.mark.parametrize("name", ["nothing.png", "demo:x", "demo:-1", "."])
def test_what_is_no_image_is_one_sentence(name: str) -> None:
    with pytest.raises(DataError, match="give an image file, or demo:N or digits:N"):
        check_image(name)


def test_a_number_beyond_the_set_names_its_numbers() -> None:
    with pytest.raises(DataError, match="has images 0 to 399"):
        shown_image("digits:400", tiny_backbone())
