"""What a worker process inherits, and when it must not start."""

import os
import subprocess
import sys
from pathlib import Path

import factories
import pytest

from autotok.searching.engines.workers import ProcessEngine

HERE = Path(__file__).parent


@pytest.mark.slow
def test_workers_take_turns_at_the_gpus_and_the_driver_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    engine = ProcessEngine(factories.TellsItsGpu(tmp_path), 3, gpus=("5", "3"))
    try:
        engine.start()
    finally:
        engine.close()
    assert sorted((tmp_path / "seen").read_text().split()) == ["3", "5", "5"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,3"


UNGUARDED = """
from autotok.searching.engines.base import Job
from autotok.searching.engines.workers import ProcessEngine
from autotok.config import CompressionConfig
from autotok.errors import AutotokError
import factories
engine = ProcessEngine(factories.fake_worker, 2)
engine.submit(Job(0, CompressionConfig(), 0, 8))
try:
    engine.collect()
except AutotokError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_script_without_its_guard_is_told_so_and_nothing_else(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    path = os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[2])])
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.startswith("the script that calls this search is run again by each worker")
    assert "if __name__ == '__main__':" in done.stdout
    assert done.stderr == ""
