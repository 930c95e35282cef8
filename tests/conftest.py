"""One torch thread for each process that tests, the same random state for every test, and the
finished run that many tests look at."""

import fcntl
import functools
import gc
import inspect
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from autotok.interrupts import SIGNALS

# tests start some eighty processes, each of which would compile the package
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# decided before torch is imported, for workers of pytest-xdist and for `-n 0` alike
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"


LONG = ("test_ray.py", "test_packaging.py", "test_docs.py", "test_scripts.py")
"""Whose slow tests take longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes a minute or waits for processes first: whatever is begun last has the others
    wait."""
    items.sort(key=_late)


def _late(item: pytest.Item) -> int:
    if item.get_closest_marker("crash") is not None:
        return 0
    slow = item.get_closest_marker("slow") is not None
    return 1 if slow and item.path.name in LONG else 2


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """The same random numbers and threads for every test, and warnings, whatever -q was given
    before."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        # manual_seed writes out the stack for each kind of device that is absent
        (torch if torch.cuda.is_initialized() else torch.default_generator).manual_seed(0)
        torch.set_num_threads(1)
    if logging.getLogger("autotok").level:  # setting it empties the caches of all loggers
        logging.getLogger("autotok").setLevel(logging.NOTSET)
    _read_functions_once()


def _read_functions_once() -> None:
    """torch's ONNX exporter reads the source of its five hundred functions in every export, which
    takes as long as a small model: here it does so once."""
    module = sys.modules.get("torch.onnx._internal.exporter._registration")
    registry = getattr(module, "ONNXRegistry", None)
    if hasattr(registry, "from_torchlib") and not hasattr(registry.from_torchlib, "cache_info"):
        registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))


def pytest_collection_finish() -> None:
    """What was imported stays to the end, a million objects: looked through a last time here."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


# No test cuts the power, and a killed process loses nothing that it wrote: waiting for the disk
# after every line of a study took more than half of the time of the searching tests.
os.fsync = lambda handle: None  # type: ignore[assignment]

# however busy the machine is: no test is about time
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

SEARCH = (
    "search --backbone tiny --data digits --budget 60% --target jetson-nx --methods tome,evit"
    " --trials 4 --max-images 40 --timeout 0 --finetunes 0 -q -o"
)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small search by the command line, handed over; made once for all workers: only look."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "finished"
    with open(base / "finished.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _search(folder.with_name("begun"))
            folder.with_name("begun").rename(folder)
    return folder


def _search(folder: Path) -> None:
    from autotok import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["autotok", *SEARCH.split(), str(folder)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    logging.getLogger("autotok").setLevel(logging.NOTSET)  # -q must not silence other tests


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> Path:
    """The same run in a folder that may be changed."""
    return Path(shutil.copytree(finished_run, tmp_path / "finished"))


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches hand over no ONNX file, which takes longer to write than a small search takes."""
    from autotok.errors import ExportError

    def fail(*_: object, **__: object) -> None:
        raise ExportError("left out by this test")

    monkeypatch.setattr("autotok.export.bundle.export_model", fail)


@pytest.fixture
def quick_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX files by the exporter that takes a quarter of the time, for tests of something else."""
    from autotok.export.formats import FORMATS

    monkeypatch.setattr(FORMATS.get("onnx"), "opset", 17)


@pytest.fixture
def three_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are timed in three turns, in tests that look at no latency."""
    from autotok.devices.measure import measure

    defaults = inspect.unwrap(measure).__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "timeout_s", 0.1)


@pytest.fixture(scope="module")
def few_candidates() -> Iterator[None]:
    """Proposals are chosen among a few hundred candidates, not thousands, which most of the time of
    a small search goes into; for all of a module, as searches that are compared have the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autotok.searching.proposing.surrogate._SHAPES", 60)
        yield


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals that whoever started pytest has ignored, as `nohup` does, are heard here."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
