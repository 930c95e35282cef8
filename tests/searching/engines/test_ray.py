"""The Ray engine: the in-process answers, over lost workers and nodes, on the loopback only."""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import factories
import pytest
from problems import fake_problem
from test_workers import alive, config, jobs, outcomes, until

from autotok.errors import ConfigError, DeviceUnreachable, UnknownName
from autotok.searching.engines.base import InProcessEngine, Job, WorkerFactory
from autotok.searching.engines.job_queue import LOSSES
from autotok.searching.engines.ray import RayEngine
from autotok.searching.running.events import Event, TrialFinished
from autotok.searching.running.opening import run_search
from autotok.searching.space.settings import SearchSettings

INSTALLED = all(importlib.util.find_spec(name) for name in ("ray", "pyarrow"))
needs_ray = pytest.mark.skipif(not INSTALLED, reason="ray[tune] is not installed")
pytestmark = [  # Ray's own, raised as it is imported and run
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "FutureWarning", "ResourceWarning", "UserWarning")
]


def engine_of(
    factory: WorkerFactory, storage: Path, workers: int, address: str | None = None
) -> RayEngine:
    return RayEngine(factory, workers=workers, address=address, resources={}, storage=storage)


# --- without Ray


def test_without_ray_the_engine_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'autotok\[ray\]'"):
        engine_of(factories.fake_worker, tmp_path, 1)


# --- Ray started here


@pytest.fixture(scope="class")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="class")
def engine(folder: Path) -> Iterator[RayEngine]:
    found = engine_of(factories.Workers(folder), folder, 2)
    yield found
    found.close()
    found.close()
    import ray

    assert not ray.is_initialized()
    assert not (folder / "ray").exists()


@needs_ray
@pytest.mark.slow
class TestOnOneStartedRay:
    def test_two_ray_workers_give_every_outcome_once_and_as_in_process(
        self, engine: RayEngine, folder: Path
    ) -> None:
        here = InProcessEngine(fake_problem())
        found = outcomes(engine, jobs(12))
        for job in jobs(12):
            here.submit(job)
            assert found[job.number].tally == here.collect().tally
        assert 1 <= len((folder / "built").read_text().split()) <= 2

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
    def test_ray_started_here_listens_on_the_loopback_address_only(self, engine: RayEngine) -> None:
        outcomes(engine, jobs(2))
        import ray

        session = ray._private.worker._global_node.get_session_dir_path()
        ours = {os.getpid(), *family(os.getpid())}
        ours |= {pid for pid in pids() if session in command(pid)}
        listening = [(address, command(pid)) for pid in ours for address in addresses(pid)]
        assert len(listening) >= 4  # gcs, raylet and workers at least
        loopback = ("127.", "::1", "::ffff:127.")
        assert [found for found in listening if not found[0].startswith(loopback)] == []

    def test_a_job_whose_ray_worker_is_killed_runs_again_or_fails_in_words(
        self, engine: RayEngine
    ) -> None:
        once = Job(0, config(50), factories.KILL_ONCE, factories.KILL_ONCE + 8)
        always = Job(1, config(51), factories.KILL_ALWAYS, factories.KILL_ALWAYS + 8)
        raises = Job(2, config(52), factories.RAISE, factories.RAISE + 8)
        found = outcomes(engine, [once, always, raises, *jobs(5)[3:]])
        assert found[0].error == ""
        assert found[1].error.startswith(f"{LOSSES + 1} workers were lost with this job")
        assert found[2].error == "ValueError: no such image"
        assert [found[n].error for n in (3, 4)] == ["", ""]


@needs_ray
@pytest.mark.slow
def test_a_search_with_one_ray_worker_is_the_in_process_search(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = SearchSettings(n_trials=14, seed=3)
    here = run_search(settings, fake_problem(), tmp_path / "here")
    (tmp_path / "there").mkdir()
    capfd.readouterr()
    engine = engine_of(factories.fake_worker, tmp_path / "there", 1)
    there = run_search(settings, fake_problem(), tmp_path / "run", engine=engine)
    assert [(r.params, r.state, r.score) for r in there.records] == [
        (r.params, r.state, r.score) for r in here.records
    ]
    assert [(r.config, r.score) for r in there.front] == [(r.config, r.score) for r in here.front]
    assert capfd.readouterr().out == ""
    assert list((tmp_path / "there").iterdir()) == []


@needs_ray
@pytest.mark.slow
def test_a_raising_factory_ends_the_search_and_ray_with_the_error_as_it_is(tmp_path: Path) -> None:
    engine = engine_of(factories.unknown_backbone, tmp_path, 1)
    engine.submit(jobs(1)[0])
    with pytest.raises(UnknownName, match="did you mean 'autoformer_demo'"):
        engine.collect()
    import ray

    assert not ray.is_initialized()


@needs_ray
@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_killed_driver_leaves_nothing_of_ray_behind_and_the_next_starts_clean(
    tmp_path: Path,
) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), str(here.parents[2])])
    for _ in range(2):  # the second run meets what the first one left in the folder
        ours = killed_with_its_ray(tmp_path, path)
        until(lambda left=ours: not any(map(alive, left)), 25.0)  # Ray alone takes half a minute


def killed_with_its_ray(folder: Path, path: str) -> set[int]:
    """Kills a driver with busy workers; the processes that it had started."""
    (folder / "built").unlink(missing_ok=True)
    script = str(Path(__file__).parent / "ray_driver.py")
    environment = {**os.environ, "PYTHONPATH": path}
    driver = subprocess.Popen([sys.executable, script, str(folder)], env=environment)
    try:
        until((folder / "built").exists, 200.0)
        ours = family(driver.pid) - {driver.pid}
        assert {"raylet", "gcs_server"} <= {Path(command(p).split()[0]).name for p in ours}
    finally:
        driver.kill()
        driver.wait()
    return ours


# --- a cluster


@needs_ray
@pytest.mark.parametrize(
    ("address", "kind", "words"),
    [
        ("127.0.0.1:1", DeviceUnreachable, "no Ray cluster can be joined at '127.0.0.1:1'"),
        ("ray://head:10001", ConfigError, "is of a Ray client"),
        ("nonsense", ConfigError, "must be 'auto' or HOST:PORT"),
    ],
)
def test_an_address_without_a_cluster_is_refused_in_words(
    address: str, kind: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        engine_of(factories.fake_worker, tmp_path, 1, address)


@needs_ray
def test_a_server_that_is_not_ray_is_told_from_one(tmp_path: Path) -> None:
    import threading

    with socket.create_server(("", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(64)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(DeviceUnreachable, match="what listens there is not Ray"):
            engine_of(factories.fake_worker, tmp_path, 1, f"127.0.0.1:{server.getsockname()[1]}")


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each, on this machine."""
    from ray.cluster_utils import Cluster

    from autotok.devices.ray_cluster import load_ray

    ray = load_ray()
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": quick},
    )
    found.second = found.add_node(num_cpus=1)
    yield found
    ray.shutdown()
    found.shutdown()


@needs_ray
@pytest.mark.slow
def test_a_node_lost_in_mid_search_loses_no_trial(cluster: Any, tmp_path: Path) -> None:
    built, finished = tmp_path / "built", []

    def on_event(event: Event) -> None:
        if isinstance(event, TrialFinished):
            finished.append(event.record.number)
            if event.evaluated == 6:
                until(lambda: len(built.read_text().split()) >= 2, 300.0)
                cluster.remove_node(cluster.second, allow_graceful=False)

    engine = engine_of(factories.Workers(tmp_path, delay_s=0.2), tmp_path, 2, cluster.address)
    assert engine.capacity == 2
    settings = SearchSettings(n_trials=16, seed=3)
    result = run_search(settings, fake_problem(), tmp_path / "run", on_event, engine=engine)
    assert len(finished) == len(set(finished))
    assert not [(r.reason, r) for r in result.records if r.state in ("failed", "running")]
    assert result.evaluated == 16
    assert [r.number for r in result.records] == list(range(len(result.records)))
    import ray

    ray.init(address=cluster.address)  # closing the engine has left the cluster up
    assert sum(node["Alive"] for node in ray.nodes()) == 1


@needs_ray
@pytest.mark.slow
def test_a_fine_tune_goes_on_elsewhere_when_its_node_is_lost(cluster: Any, tmp_path: Path) -> None:
    steps = 40
    factory = factories.Workers(tmp_path, steps=steps, delay_s=0.1, gate=6)
    engine = engine_of(factory, tmp_path, 2, cluster.address)
    logs = [tmp_path / f"{config(40 + n).config_id}.log" for n in range(2)]
    try:
        for number in range(2):
            engine.submit(Job(number, config(40 + number), task="finetune"))
        until(lambda: all(log.exists() and log.read_text().count("\n") > 5 for log in logs), 300.0)
        cluster.remove_node(cluster.second, allow_graceful=False)
        (tmp_path / "go").touch()
        found = [engine.collect(), engine.collect()]
    finally:
        engine.close()
    assert [outcome.error for outcome in found] == ["", ""]
    assert [outcome.tuned.steps for outcome in found if outcome.tuned] == [steps, steps]
    moved = 0
    for log in logs:
        lines = [line.split() for line in log.read_text().splitlines()]
        assert sorted({int(step) for step, _ in lines}) == list(range(steps))
        assert len(lines) <= steps + 1  # at most the step under way was done twice
        moved += len({pid for _, pid in lines}) == 2
    assert moved == 1


# --- what /proc says


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def family(pid: int) -> set[int]:
    parents = {}
    for other in pids():
        try:
            parents[other] = int(
                Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue
    found, size = {pid}, 0
    while len(found) > size:
        size = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def addresses(pid: int) -> list[str]:
    """Addresses on which a process listens over TCP."""
    try:
        links = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    except OSError:
        return []
    rows = [row.split() for table in tables for row in table.splitlines()[1:]]
    hexes = [r[1].split(":")[0] for r in rows if r[3] == "0A" and f"socket:[{r[9]}]" in links]
    return [readable(text) for text in hexes]


def readable(text: str) -> str:
    raw = bytes.fromhex(text)
    words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    return socket.inet_ntop(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words)
