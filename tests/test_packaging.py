"""The wheel and the sdist by themselves: what they need travels inside them."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEMO = """
import autotok
print(autotok.__file__)
demo = autotok.load_backbone("autoformer_demo")
print(autotok.evaluate(demo, "demo", num_images=2).num_images)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_carries_its_data_and_stays_small(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "autotok/assets/autoformer_demo.safetensors" in names
    assert "autotok/search_spaces/default.yaml" in names
    assert "autotok/predicting/targets/jetson-nx.yaml" in names
    assert {"autotok/studies/tables/ltp-1.yaml", "autotok/studies/published.csv"} <= set(names)
    assert "autotok/py.typed" in names
    assert not any(name.startswith(("tests/", "studies/")) for name in names)
    assert wheel.stat().st_size < 15e6


@pytest.mark.slow
def test_the_installed_wheel_runs_a_two_trial_search(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own that sees this one's libraries, but not this repository."""
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    site = next((home / "lib").glob("python*")) / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries))
    command = [home / "bin" / "python", "-m", "autotok.cli", "search"]
    command += ["-b", "tiny", "--data", "digits", "--target", "jetson-nx", "--budget", "60%"]
    command += ["--trials", "2", "--max-images", "8", "--timeout", "0", "-o", tmp_path / "run"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "best.yaml").is_file()
    done = subprocess.run(
        [str(home / "bin" / "python"), "-c", DEMO],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout
    assert done.stdout.splitlines()[-1] == "2"


@pytest.mark.slow
def test_the_tests_of_the_sdist_find_all_they_need_in_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        # as an attribute: the argument is not known to every patch release of 3.10 and 3.11
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path / "out")
    home = next((tmp_path / "out").iterdir())
    environment = {**os.environ, "PYTHONPATH": str(home)}

    reading = "(test_readme or test_house or test_method_pages or test_recipe_file) and not torch"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-v", "-k", reading]  # collects them all
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout
    for name in ("test_readme", "test_house", "test_method_pages", "test_recipe_file"):
        assert f"/{name}.py " in done.stdout
