"""Image folders: layouts, labels, and images that cannot be read."""

import logging
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from autotok.backbones.timm_vit import imagenet_synsets
from autotok.errors import DataError
from autotok.evaluation.depth import GUESSED
from autotok.evaluation.folder import FolderData, PixelCache
from autotok.evaluation.preprocessing import Preprocessing

SMALL = Preprocessing(3, 16, 16)


def save(path: Path, grey: int = 128) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 24, 3), grey, dtype=np.uint8)).save(path)


def test_class_folders_as_many_as_the_classes_give_labels(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for i in range(3):
            save(tmp_path / name / f"{i}.png")
    data = FolderData(tmp_path, SMALL, 2)
    images, labels = data.batch(data.subset(6, 0))
    assert data.labelled
    assert data.class_names == ("cat", "dog")
    assert images.shape == (6, 3, 16, 16)
    assert labels is not None
    assert labels.bincount().tolist() == [3, 3]
    first = data.subset(1, 0)
    expected = data.path(first[0]).parent.name
    assert data.class_names[int(data.batch(first)[1][0])] == expected  # type: ignore[index]


def test_synset_folders_give_imagenet_labels(tmp_path: Path) -> None:
    synsets = imagenet_synsets(1000)
    assert len(synsets) == 1000
    save(tmp_path / "n01440764" / "tench.JPEG")
    save(tmp_path / "n15075141" / "paper.JPEG")
    data = FolderData(tmp_path, SMALL, 1000)
    labels = data.batch([0, 1])[1]
    assert labels is not None
    assert labels.tolist() == [0, 999]


@pytest.mark.parametrize(
    "names", [("a.png", "b.png"), ("x/a.png", "x/deep/b.png"), ("x/a.png", "b.png")]
)
def test_other_layouts_are_label_free(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        save(tmp_path / name)
    data = FolderData(tmp_path, SMALL, 2)
    assert not data.labelled
    assert len(data) == 2
    assert data.batch([0])[1] is None


def test_a_folder_of_splits_is_entered(tmp_path: Path) -> None:
    save(tmp_path / "val" / "a.png")
    save(tmp_path / "train" / "b.png")
    assert FolderData(tmp_path, SMALL, 2).path(0).name == "a.png"
    assert FolderData(tmp_path, SMALL, 2, split="train").path(0).name == "b.png"


def test_training_images_are_never_taken_from_a_folder_without_splits(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(DataError, match="no sub-folder 'train'"):
        FolderData(tmp_path, SMALL, 2, split="train")


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / ".thumbnails" / "b.png")
    (tmp_path / "._a.png").write_text("resource fork")
    (tmp_path / "readme.txt").write_text("text")
    assert len(FolderData(tmp_path, SMALL, 2)) == 1


def test_a_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    save(tmp_path / "x" / "a.png")
    (tmp_path / "x" / "loop").symlink_to(tmp_path)
    assert len(FolderData(tmp_path, SMALL, 2)) == 1


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda p: p.mkdir(), "holds no images"),
        (lambda p: None, "does not exist"),
        (lambda p: p.write_text("x"), "is a file"),
    ],
)
def test_what_is_not_a_folder_of_images_is_refused(
    tmp_path: Path,
    prepare: Callable[[Path], object],
    message: str,
) -> None:
    folder = tmp_path / "images"
    prepare(folder)
    with pytest.raises(DataError, match=message):
        FolderData(folder, SMALL, 2)


def test_few_unreadable_images_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(149):
        save(tmp_path / f"{i:03}.png")
    (tmp_path / "bad.png").write_text("not an image")
    data = FolderData(tmp_path, SMALL, 2)
    with caplog.at_level(logging.WARNING):
        chosen = data.subset(200, 0)
    assert len(chosen) == 149
    assert len(data) == 150  # whatever was found since
    assert "1 unreadable image skipped" in caplog.text
    assert "bad.png" in caplog.text
    assert data.subset(20, 0) == chosen[:20]


def test_many_unreadable_images_are_refused_naming_the_first(tmp_path: Path) -> None:
    for i in range(20):
        save(tmp_path / f"{i:03}.png")
    (tmp_path / "bad.png").write_text("not an image")
    with pytest.raises(DataError, match=r"bad\.png' cannot be read"):
        FolderData(tmp_path, SMALL, 2).subset(21, 0)


def test_images_are_decoded_once(tmp_path: Path) -> None:
    save(tmp_path / "a.png", grey=10)
    data = FolderData(tmp_path, SMALL, 2)
    before = data.batch(data.subset(1, 0))[0]
    save(tmp_path / "a.png", grey=200)
    assert torch.equal(before, data.batch([0])[0])


def test_the_cache_forgets_what_was_not_used_for_longest() -> None:
    cache = PixelCache(max_bytes=2 * 300)
    for index in (0, 1):
        cache.put(index, torch.zeros(300, dtype=torch.uint8))
    assert cache.get(0) is not None
    cache.put(2, torch.zeros(300, dtype=torch.uint8))
    assert cache.get(1) is None
    assert cache.get(0) is not None


def test_images_decoded_in_threads_are_those_of_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for i in range(150):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(
            tmp_path / f"{i:03}.png"
        )
    (tmp_path / "077.png").write_bytes(b"no image")
    alone, together = (FolderData(tmp_path, SMALL, 0) for _ in range(2))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    expected = alone.batch(alone.subset(150, 3))[0]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    before = warnings.filters[:]
    assert together.subset(7, 3) == alone.subset(7, 3)
    assert together.subset(150, 3) == alone.subset(150, 3)
    assert len(together.subset(150, 3)) == 149
    assert torch.equal(together.batch(together.subset(150, 3))[0], expected)
    assert warnings.filters == before


def test_threads_decode_while_others_wait_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(8):
        save(tmp_path / f"{i}.png", grey=10 * i)
    data, four = FolderData(tmp_path, SMALL, 0), threading.Barrier(4, timeout=30)
    decoded = Preprocessing.decoded_with_range

    def waiting(self: Preprocessing, path: Path) -> tuple[torch.Tensor, object]:
        four.wait()  # never ends unless four are at it together
        return decoded(self, path)

    monkeypatch.setattr(Preprocessing, "decoded_with_range", waiting)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert data.batch(data.subset(8, 0))[0].shape == (8, 3, 16, 16)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("tops", "differ"), [((4000, 5000, 3000), True), ((4000, 256, 0), False)])
def test_deep_greys_that_are_scaled_by_different_ranges_are_warned_of_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    threads: int,
    tops: tuple[int, ...],
    differ: bool,
) -> None:
    for i, top in enumerate(tops):
        Image.fromarray(np.full((20, 20), top, np.uint16)).save(tmp_path / f"{i}.png")
    save(tmp_path / "eight_bits.png", grey=9)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    with caplog.at_level(logging.WARNING):
        data = FolderData(tmp_path, SMALL, 0)
        data.batch(data.subset(len(data), 0))
    told = [line for line in caplog.messages if "not scaled alike" in line]
    assert len(told) == differ
    assert all("0 to 4095" in line and "0 to 65535" in line for line in told)


def test_ranges_that_files_state_are_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for top in (1023, 4095):
        image = Image.fromarray(np.full((20, 20), 700, np.uint16))
        image.save(tmp_path / f"{top}.tif", tiffinfo={281: top})
    with caplog.at_level(logging.WARNING):
        data = FolderData(tmp_path, SMALL, 0)
        data.batch(data.subset(2, 0))
    assert caplog.messages == []


def test_a_text_beside_the_pixels_is_no_range(tmp_path: Path) -> None:
    told = PngInfo()
    told.add_text(GUESSED, "0")
    Image.new("L", (20, 20)).save(tmp_path / "0.png", pnginfo=told)
    assert FolderData(tmp_path, SMALL, 0).batch([0])[0].shape == (1, 3, 16, 16)
    assert Preprocessing(3, 16, 16).decoded_with_range(tmp_path / "0.png")[1] is None
