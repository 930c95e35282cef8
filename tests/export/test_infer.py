"""`infer.py` of a bundle: the same pixels, the same logits, and one sentence for what is wrong."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from exporting import images, made
from PIL import Image

import autotok
from autotok.evaluation.preprocessing import Preprocessing
from autotok.export import infer
from autotok.export.bundle import save_bundle
from autotok.export.preprocessing_file import preprocessing_file


def picture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(size[0])
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, and a picture beside it."""
    folder = tmp_path_factory.mktemp("infer")
    model, bundle = made()
    save_bundle(folder / "best", model, bundle, images())
    picture((50, 40)).save(folder / "a.png")
    return folder / "best"


def expected(best: Path) -> np.ndarray:
    model = autotok.load(best)
    assert isinstance(model, autotok.CompressedViT)
    how = Preprocessing(3, 32, 32)
    pixels = how.decoded(best.parent / "a.png")
    with torch.inference_mode():
        return model(how.normalise(pixels[None])).numpy()


@pytest.mark.parametrize("size", [(50, 40), (33, 91), (32, 32), (20, 300)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize(
    "how",
    [
        Preprocessing(3, 32, 32),
        Preprocessing(3, 32, 48, interpolation="bilinear", crop_pct=1.0),
        Preprocessing(3, 32, 32, crop_mode="squash", crop_pct=0.9),
        Preprocessing(3, 32, 32, crop_mode="border", crop_pct=0.9),
        Preprocessing(1, 32, 32, mean=(0.2,), std=(0.3,), crop_pct=0.5),
        Preprocessing(3, 32, 32, resize=(41, 41), crop_rounding="down"),
        Preprocessing(3, 24, 32, resize=(41, 41), crop_rounding="down"),
        Preprocessing(3, 24, 32, resize=(33, 47), crop_mode="squash"),
    ],
    ids=["center", "oblong", "squash", "border", "grey", "edge", "oblong edge", "squashed edges"],
)
def test_pictures_are_prepared_as_the_model_was_judged(
    how: Preprocessing, mode: str, size: tuple[int, int]
) -> None:
    image = picture(size, mode)
    spec = preprocessing_file(how.to_dict(), file="", batch=1, output="logits", classes=2)
    wanted = how.normalise(how.pixels(image)[None]).numpy()
    np.testing.assert_allclose(infer.prepare(image, spec), wanted, atol=1e-6)


def test_it_gives_the_logits_of_the_model(
    best: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(infer, "HERE", best)
    out = best.parent / "logits.npy"
    assert infer.infer_files([str(best.parent / "a.png"), "--logits", str(out)]) == 0
    np.testing.assert_allclose(np.load(out), expected(best), atol=1e-4)
    assert f"class {expected(best).argmax()} " in capsys.readouterr().out


@pytest.mark.usefixtures("quick_files")
def test_it_calls_the_classes_by_their_names(
    best: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, bundle = made()
    own = list("klmnopqrst")
    model.original.whole.model.pretrained_cfg = {"label_names": own}
    for given in (tuple("abcdefghij"), None):
        save_bundle(tmp_path / "best", model, bundle, images(), class_names=given)
        monkeypatch.setattr(infer, "HERE", tmp_path / "best")
        assert infer.infer_files([str(best.parent / "a.png"), "--top", "1"]) == 0
        name = (given or own)[expected(best).argmax()]
        assert f"\t{name} " in capsys.readouterr().out


def test_a_bad_image_is_named_and_the_others_are_answered(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(infer, "HERE", best)
    (tmp_path / "bad.png").write_bytes(b"xx")
    Image.new("L", (1, 3_000_000)).save(tmp_path / "thin.png")
    good, out = str(best.parent / "a.png"), tmp_path / "logits.npy"
    files = [str(tmp_path / "bad.png"), good, str(tmp_path / "thin.png"), good]
    assert infer.infer_files([*files, "--logits", str(out)]) == 2
    found, said = np.load(out), capsys.readouterr()
    assert np.isnan(found[[0, 2]]).all()
    np.testing.assert_allclose(found[[1, 3]], expected(best).repeat(2, axis=0), atol=1e-4)
    assert [row.split("\t")[0] for row in said.out.splitlines()] == [good, good]
    first, second = said.err.splitlines()
    assert "bad.png' cannot be read" in first
    assert "thin.png': 1 x 3000000 pixels would be 36 x 108000000 when resized" in second
    assert infer.infer_files([files[0], "--logits", str(tmp_path / "none.npy")]) == 2


def test_images_are_held_a_batch_at_a_time(
    best: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = infer.read_spec(best)
    spec["input"]["shape"][0] = 2
    held: list[int] = []

    def run(images: np.ndarray) -> tuple[np.ndarray, list[str]]:
        held.append(len(images))
        return np.arange(10.0 * len(images)).reshape(-1, 10), ["!"] * len(images)

    rows = infer.answers([best.parent / "a.png"] * 5, spec, run, 1)
    assert held == [2, 2, 1]
    assert [None if row is None else int(row[0]) for row in rows] == [0, 10, 0, 10, 0]
    assert capsys.readouterr().out.count("%!\n") == 5


@pytest.mark.parametrize("place", ["nowhere/out.npy", "."])
def test_where_logits_cannot_go_is_told_before_any_image(
    place: str,
    best: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(infer, "HERE", best)
    asked = [str(best.parent / "a.png"), "--logits", str(tmp_path / place)]
    assert infer.infer_files(asked) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "cannot be written: it must be a file in a folder that is there" in said.err


def spoil_names(folder: Path) -> None:
    path = folder / "preprocessing.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class_names": ["a", "b"]}))


def spoil_file(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no model")


def spoil_size(folder: Path) -> None:
    path = folder / "preprocessing.json"
    data = json.loads(path.read_text())
    data["input"]["shape"] = [1, 3, 64, 64]
    data["crop"] = {"where": "center", "height": 64, "width": 64}
    path.write_text(json.dumps(data))


def spoil_words(folder: Path) -> None:
    (folder / "preprocessing.json").write_text("{")


def drop_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def no_picture(folder: Path) -> None:
    (folder.parent / "a.png").write_bytes(b"text")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (spoil_file, "model.onnx' cannot be opened by onnxruntime"),
        (spoil_size, "takes images of [3, 32, 32], and preprocessing.json makes [3, 64, 64]"),
        (spoil_names, "cannot be read (class_names are not one for each class)"),
        (spoil_words, "preprocessing.json' cannot be read"),
        (drop_file, "model.onnx' is not there; copy the whole folder again"),
        (no_picture, "a.png' cannot be read"),
    ],
)
def test_what_is_damaged_is_one_sentence(
    best: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: "object",
    sentence: str,
) -> None:
    shutil.copytree(best.parent, tmp_path / "copy")
    folder = tmp_path / "copy" / "best"
    assert callable(spoil)
    spoil(folder)
    monkeypatch.setattr(infer, "HERE", folder)
    assert infer.infer_files([str(folder.parent / "a.png")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("key", ["file", "input", "output", "resize", "crop", "mean", "std"])
def test_a_key_that_is_missing_is_named(key: str, best: Path, tmp_path: Path) -> None:
    data = json.loads((best / "preprocessing.json").read_text())
    del data[key]
    (tmp_path / "preprocessing.json").write_text(json.dumps(data))
    with pytest.raises(infer.Refused, match=f"preprocessing.json' lacks the key '{key}'; copy"):
        infer.read_spec(tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("file", "../model.onnx"), ("file", 3), ("input.shape", [1, 2, 32, 32]),
        ("input.shape", [1]), ("input.shape", [1, 3, 32]), ("input.shape", ["x", 3, 32, 32]),
        ("input.shape", 3), ("input.shape", [1.5, 3, 32, 32]),
        ("output.classes", "ten"), ("output.classes", -1), ("resize.rule", "crop"),
        ("resize.to", "x"), ("resize.to", [36]), ("resize.to", [36, 0]),
        ("resize.interpolation", "foo"), ("resize.interpolation", 3), ("crop.height", "32"),
        ("crop.height", 24), ("crop.rounding", "up"), ("shrink", 3),
        ("mean", [0.5]), ("mean", ["a", "b", "c"]), ("std", [1.0, 1.0, 0.0]), ("std", 1.0),
        ("resize", "center"), ("shrink", {"to": [16, 16]}), ("shrink", {"to": None}),
        ("class_names", [*range(10)]), ("class_names", 10),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_one_sentence(
    place: str, value: object, best: Path, tmp_path: Path
) -> None:
    data = json.loads((best / "preprocessing.json").read_text())
    *groups, key = place.split(".")
    (data[groups[0]] if groups else data)[key] = value
    (tmp_path / "preprocessing.json").write_text(json.dumps(data))
    with pytest.raises(infer.Refused, match=r"preprocessing.json' cannot be read \(.*\); copy"):
        infer.read_spec(tmp_path)


@pytest.mark.parametrize("top", [0, -1])
def test_no_classes_to_print_are_refused(
    top: int, best: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(infer, "HERE", best)
    assert infer.infer_files([str(best.parent / "a.png"), "--top", str(top)]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "", f"infer.py: --top is {top}; give 1 or more classes to print\n"
    )  # fmt: skip


def test_a_missing_pillow_is_one_sentence(best: Path) -> None:
    program = (
        "import runpy, sys; sys.modules['PIL'] = None;"
        f" runpy.run_path({str(best / 'infer.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.endswith("; run: pip install numpy pillow onnxruntime\n")


def test_a_missing_runtime_is_one_sentence(
    best: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(infer, "HERE", best)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert infer.infer_files([str(best.parent / "a.png")]) == 2
    assert "onnxruntime is not installed; run: pip install onnxruntime" in capsys.readouterr().err


def with_needs(names: list[str]) -> set[str]:
    """Distributions and what they need, without extras."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            needs = (r for r in distribution(name).requires or () if ";" not in r)
            names += [re.match(r"[\w.-]+", r)[0] for r in needs]  # type: ignore[index]
    return found


def environment(folder: Path) -> Path:
    """The Python of an environment with numpy, pillow and onnxruntime, and what these need: as they
    are installed here, so that no network is."""
    venv.create(folder, with_pip=False)
    home = next(folder.glob("lib/python*/site-packages"))
    for name in with_needs(["numpy", "pillow", "onnxruntime"]):
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            (home / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    return folder / "bin" / "python"


@pytest.mark.slow
def test_it_runs_where_only_numpy_pillow_and_onnxruntime_are(best: Path, tmp_path: Path) -> None:
    python, out = environment(tmp_path / "env"), tmp_path / "logits.npy"
    for absent in ("torch", "autotok", "onnx"):
        look = [python, "-I", "-c", f"import {absent}"]
        assert subprocess.run(look, capture_output=True, env={}).returncode
    command = [python, "infer.py", best.parent / "a.png", "--logits", out]
    subprocess.run(command, cwd=best, check=True, env={"PATH": ""}, capture_output=True)
    np.testing.assert_allclose(np.load(out), expected(best), atol=1e-4)


def test_a_file_of_smaller_images_is_fed_as_the_model_resizes_them(tmp_path: Path) -> None:
    model, bundle = made()
    config = dataclasses.replace(bundle.config, reductions=(), method="none", image_size=24)
    bundle = dataclasses.replace(bundle, config=config)
    smaller = autotok.compress(model.backbone, config)
    results = save_bundle(tmp_path / "best", smaller, bundle, images())
    assert results["exports"]["onnx"]["ok"], results
    assert results["exports"]["onnx"]["input_shape"] == [1, 3, 24, 24]
    assert "24 x 24 pixels, not of 32 x 32" in (tmp_path / "best" / "README.md").read_text("utf-8")
    picture((50, 40)).save(tmp_path / "a.png")
    spec = infer.read_spec(tmp_path / "best")
    assert any("Resize that to 24 x 24" in line for line in spec["in_words"])
    prepared = infer.prepare(infer.read_picture(tmp_path / "a.png"), spec)
    found = infer.logits_of(infer.open_model(tmp_path / "best", spec), prepared)
    np.testing.assert_allclose(found, expected(tmp_path / "best"), atol=1e-4)
