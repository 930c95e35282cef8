"""The Ray engine: each job is a trial of Ray Tune, on this machine or anywhere in a cluster.

Tune's `Tuner` runs in a thread and asks a `Searcher` for trials; the searcher hands it our jobs as
flat dicts and takes their outcomes back. Tune decides where a trial runs; it never sees the study.
A job whose worker or node is lost is a new trial of Tune's, which itself fails a trial for good
whose worker dies while being handed over. A fine-tune that runs again goes on from its own
checkpoint in the run directory, which therefore must be on storage that all nodes see.

This is the only file that imports ray, and it does so when an engine is made.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import pickle
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotok.config import CompressionConfig
from autotok.devices.board import usable_cores
from autotok.devices.ray_cluster import (
    capacity,
    check_shared_folder,
    join,
    load_ray,
    plain,
    room,
    start,
)
from autotok.errors import AutotokError, ConfigError, failure

from .base import Job, Outcome, WorkerFactory, run_job
from .job_queue import JobQueue, from_flat, to_flat
from .pickling import build_error, dumped, packed, rebuilt, threads_per_worker, use_threads
from .watchdog import Watchdog

_FAREWELL_S = 20.0
_WORKER_S = 30.0
"""A job waits so long for a worker of its own."""


class RayEngine:
    """Runs jobs as trials of Ray Tune."""

    def __init__(
        self,
        factory: WorkerFactory,
        *,
        workers: int | None,
        address: str | None,
        resources: Mapping[str, float],
        storage: Path,
    ) -> None:
        """Start Ray on this machine, or join a cluster, and start Tune.

        Args:
            factory: Called once in each worker; it must pickle.
            workers: Jobs at a time; None is as many as there is room for.
            address: 'auto' or HOST:PORT of a running cluster, which stays up afterwards. None
                starts Ray here, on the loopback address only.
            resources: What one job takes, such as {'cpu': 2, 'gpu': 0.5, 'jetson': 1}; one CPU if
                it says nothing about CPUs.
            storage: Run directory, on storage that all nodes see.

        Raises:
            ConfigError: ray is not installed, the factory does not pickle, nothing in the cluster
                has the resources, or a node does not see the storage.
            DeviceUnreachable: no cluster answers at the address.
        """
        if workers is not None and workers < 1:
            raise ConfigError(f"workers is {workers}; it must be at least 1")
        dumped(factory)
        needs = {"cpu": 1.0, **plain(resources)}
        self._ray: Any = load_ray()
        self._started, self._watchdog = False, Watchdog()
        self._begin = time.monotonic()
        self._queue = JobQueue()
        self._thread: threading.Thread | None = None
        self._actors: set[Any] = set()
        self._folder: Path | None = None
        try:
            if not self._ray.is_initialized():
                self._started = True
                if address is None:
                    with self._watchdog.marking():
                        start(self._ray, workers or usable_cores(), needs)
                else:
                    join(self._ray, address)
            self.capacity = capacity(room(self._ray, needs), workers, needs)
            if address is not None:
                check_shared_folder(self._ray, storage)
            threads = max(1, int(needs["cpu"]))
            if address is None:
                threads = threads_per_worker(self.capacity)
            content = self._ray.cloudpickle.dumps(factory)  # by value what is in __main__
            self._launch(content, threads, needs, Path(storage).absolute())
        except BaseException:
            self.close()
            raise

    def start(self) -> float:
        """Wait until as many workers are built as do jobs; the seconds since this was made.

        Raises:
            AutotokError: no worker can be built.
        """
        for number in range(self.capacity):
            self.submit(Job(-1 - number, CompressionConfig(), task="start"))
        for _ in range(self.capacity):
            self.collect()
        return time.monotonic() - self._begin

    def submit(self, job: Job) -> None:
        self._queue.submit(job)

    def collect(self) -> Outcome:
        try:
            return self._queue.collect()
        except AutotokError:
            self.close()
            raise

    def close(self) -> None:
        """Stop Tune and its workers, Ray too if it was started here; nothing of Tune's is kept."""
        self._queue.close()
        actors, self._actors = self._actors, set()
        for actor in actors:
            with contextlib.suppress(Exception):  # it may be gone already
                self._ray.kill(actor)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_FAREWELL_S)
        if self._started and self._ray.is_initialized():
            self._ray.shutdown()
        self._started = False
        self._watchdog.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(
        self, content: bytes, threads: int, needs: Mapping[str, float], storage: Path
    ) -> None:
        from ray import tune

        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(self.capacity)
        self._folder = storage / "ray"
        shutil.rmtree(self._folder, ignore_errors=True)  # a killed driver's
        trainable = tune.with_parameters(_trainable(threads), factory=content, path=sys.path)
        tuner = tune.Tuner(
            tune.with_resources(trainable, dict(needs)),
            tune_config=tune.TuneConfig(
                search_alg=_searcher(self._queue),
                scheduler=_scheduler(self.capacity),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=self._folder.name,
                storage_path=str(self._folder.parent),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[_watcher(self._actors)],
                stop=_stopper(self._queue),
                verbose=0,
            ),
        )
        self._thread = threading.Thread(
            target=_fit, args=(tuner, self._queue), name="ray-tune", daemon=True
        )
        self._thread.start()


def _fit(tuner: Any, queue: JobQueue) -> None:
    reason = "it ended"
    try:
        tuner.fit()
    except BaseException as error:  # whatever it is, the driver must not wait for ever
        reason = failure(error)
    queue.break_off(AutotokError(f"Ray Tune stopped in mid-search: {reason}"))


# --- jobs as Tune sees them


def _trial_name(trial: Any) -> str:
    return f"job{trial.config.get('number', '')}-{trial.trial_id}"


def _searcher(queue: JobQueue) -> Any:
    """A `Searcher` whose suggestions are the driver's jobs."""
    from ray.tune.search import Searcher

    class Jobs(Searcher):  # type: ignore[misc, unused-ignore]
        def suggest(self, trial_id: str) -> Any:
            job = queue.next(trial_id)
            if job is None:
                return Searcher.FINISHED if queue.closed else None
            return to_flat(job)

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            if result is not None and "unable" in result:
                queue.break_off(rebuilt(*pickle.loads(base64.b64decode(result["unable"]))))
            job = queue.job(trial_id)
            if job is None:
                return
            if error or result is None or "outcome" not in result:
                queue.lose(trial_id)
            else:
                outcome = pickle.loads(base64.b64decode(result["outcome"]))
                queue.finish(trial_id, dataclasses.replace(outcome, job=job))

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the study is the truth."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing."""

    return Jobs()


def _trainable(threads: int) -> Any:
    """A `Trainable` that does one job per trial and keeps its worker from trial to trial."""
    from ray import tune

    class JobTrial(tune.Trainable):  # type: ignore[misc, unused-ignore]
        def setup(
            self, config: dict[str, Any], factory: bytes = b"", path: Sequence[str] = ()
        ) -> None:
            self._flat, self._worker, self._unable = config, None, ""
            sys.path.extend(folder for folder in path if folder not in sys.path)
            try:
                self._worker = pickle.loads(factory)()
            except BaseException as error:  # told to the driver, where it ends the search
                self._unable = base64.b64encode(pickle.dumps(build_error(error))).decode()
            use_threads(threads)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._flat = new_config
            return True

        def step(self) -> dict[str, Any]:
            if self._worker is None:
                return {"unable": self._unable, "done": True}
            content = packed(run_job(self._worker, from_flat(self._flat)))
            return {"outcome": base64.b64encode(content).decode(), "done": True}

    return JobTrial


def _stopper(queue: JobQueue) -> Any:
    from ray import tune

    class WhenClosed(tune.Stopper):  # type: ignore[misc, unused-ignore]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return queue.closed

    return WhenClosed()


def _watcher(actors: set[Any]) -> Any:
    """A `Callback` that collects the actors, so that `close` need not wait for what they do."""
    from ray import tune

    class Watcher(tune.Callback):  # type: ignore[misc, unused-ignore]
        def on_trial_start(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            actors.add(trial.temporary_state.ray_actor)

    return Watcher()


def _scheduler(capacity: int) -> Any:
    """First come, first served, but a job that waits for its own worker keeps waiting for a while.

    Tune's own order would move it to the next worker that becomes free and give up the one being
    built for it; with jobs shorter than the building, there would never be more than one worker.
    After `_WORKER_S` it is moved: then there may be no room for another worker, a node being lost.
    """
    from ray.tune.schedulers import FIFOScheduler

    class InOrder(FIFOScheduler):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
            self._since: dict[str, float] = {}
            self._kept = False

        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            self._keep_workers(tune_controller)
            now, before, self._since = time.monotonic(), self._since, {}
            oldest = None
            for trial in tune_controller.get_live_trials():
                if trial.status == "PENDING":
                    since = self._since[trial.trial_id] = before.get(trial.trial_id, now)
                    if oldest is None and now - since > _WORKER_S:
                        oldest = trial
            return oldest

        def _keep_workers(self, controller: Any) -> None:
            """Idle ones too: by default Tune keeps one, and the others are built anew."""
            trials = controller.get_live_trials()
            if not self._kept and trials:
                self._kept = True
                key = next(iter(trials)).placement_group_factory
                controller._actor_cache.increase_max(key, capacity)

    return InOrder()  # type: ignore[no-untyped-call, unused-ignore]
