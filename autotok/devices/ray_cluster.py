"""Ray on this machine, or a cluster to join; the module itself is an argument, see `ray.py`."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autotok.errors import ConfigError, DeviceUnreachable, failure

_LOG = logging.getLogger(__name__)
_LOOPBACK = "127.0.0.1"
_CONNECT_S = 10.0
# Ray would set aside 30 % of the memory; jobs and outcomes take kilobytes
_OBJECT_STORE = 256 * 2**20
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a table per trial, which nobody reads
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # the study is the truth: nothing is restored from Tune
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_INIT": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints even at verbosity 0
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


@contextlib.contextmanager
def _loopback(ray: Any) -> Iterator[None]:
    """Ray's own way to say that this is no cluster: its node address is then the loopback one.

    `ray.init(_node_ip_address='127.0.0.1')` is not enough: Ray turns it into the machine's address.
    """
    constants = ray._private.ray_constants
    variable = constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, os.environ[variable] = os.environ.get(variable), "0"
    enabled, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = enabled
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def start(ray: Any, workers: int, needs: Mapping[str, float]) -> None:
    """Ray on this machine with room for so many workers, listening on the loopback address only."""
    named = {name: workers * need for name, need in needs.items() if name not in ("cpu", "gpu")}
    with _loopback(ray):
        ray.init(
            address="local",
            num_cpus=max(1, -int(-workers * needs["cpu"] // 1)),
            resources=named,
            object_store_memory=_OBJECT_STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
        addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
    if addresses != {_LOOPBACK}:
        raise ConfigError(
            f"this Ray ({ray.__version__}) listens on {', '.join(sorted(addresses))} and not on the"
            " loopback address alone; start a cluster yourself and give its --ray-address"
        )


def join(ray: Any, address: str) -> None:
    """Connect to a running cluster.

    Raises:
        ConfigError: the address is not one.
        DeviceUnreachable: no cluster answers there; known after seconds, not minutes.
    """
    if "://" in address:
        raise ConfigError(
            f"Ray address '{address}' is of a Ray client; give 'auto' or the HOST:PORT of the"
            " cluster's head, on one of its nodes"
        )
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdigit()):
        raise ConfigError(f"Ray address '{address}' must be 'auto' or HOST:PORT")
    try:
        found = ray._private.services.canonicalize_bootstrap_address(address)
        host, _, port = str(found).rpartition(":")
        _knock(host.strip("[]"), int(port))
        ray.init(address=found, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreachable(address, error) from error


def _knock(host: str, port: int) -> None:
    """Refuse what is not a gRPC server; Ray itself would wait minutes for it.

    Raises:
        OSError: nobody answers there, or not in HTTP/2.
    """
    with socket.create_connection((host, port), _CONNECT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # an empty frame of type 4
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        answer = connection.recv(9)
        if len(answer) < 4 or answer[3] != settings[3]:
            raise ConnectionError("what listens there is not Ray")


def _unreachable(address: str, error: Exception) -> DeviceUnreachable:
    return DeviceUnreachable(
        f"no Ray cluster can be joined at '{address}' ({failure(error)}); start one with"
        " `ray start --head`, or leave out --ray-address"
    )


def room(ray: Any, needs: Mapping[str, float]) -> int:
    """Jobs that fit into the cluster at once."""
    places = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = plain(node["Resources"])
            places += min(
                int(has.get(n, 0.0) / need + 1e-9) for n, need in needs.items() if need > 0
            )
    return places


def capacity(places: int, workers: int | None, needs: Mapping[str, float]) -> int:
    listed = ", ".join(f"{name} {amount:g}" for name, amount in needs.items())
    if places == 0:
        raise ConfigError(
            f"no node of the Ray cluster has what a trial takes ({listed}); ask for less"
        )
    if workers is not None and workers > places:
        _LOG.warning("%d workers of %s are wanted; there is room for %d", workers, listed, places)
    return workers or places


def check_shared_folder(ray: Any, storage: Path) -> None:
    """Refuse a run directory that another node does not see."""
    on_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    token = Path(storage).absolute() / f".seen-{uuid.uuid4().hex[:8]}"
    token.touch()
    path = str(token)
    try:
        looks = {}
        for node in ray.nodes():
            if node["Alive"]:
                there = on_node(node["NodeID"], soft=False)
                task = ray.remote(num_cpus=0, scheduling_strategy=there)(
                    lambda: os.path.exists(path)
                )
                looks[task.remote()] = node["NodeManagerAddress"]
        ready, _ = ray.wait(list(looks), num_returns=len(looks), timeout=60.0)
        blind = [looks[look] for look in ready if not ray.get(look)]
    finally:
        token.unlink(missing_ok=True)
    if blind:
        raise ConfigError(
            f"node {blind[0]} of the Ray cluster does not see the run directory '{storage}'; put"
            " --output on storage that all nodes share"
        )


def plain(resources: Mapping[str, float]) -> dict[str, float]:
    """Resources with Tune's names for CPUs and GPUs."""
    return {
        name.lower() if name.lower() in ("cpu", "gpu") else name: amount
        for name, amount in resources.items()
    }


def load_ray() -> Any:
    """The ray module, quiet.

    Raises:
        ConfigError: it is not installed.
    """
    for name, value in TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.tune")
    except ImportError as error:
        raise ConfigError(
            "the ray engine needs Ray Tune: install it with `pip install 'autotok[ray]'`, or use"
            " --engine local"
        ) from error
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return ray
