"""`RayTasks`: single functions run on the nodes of a Ray cluster that carry a resource."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from autotok.errors import DeviceUnreachable, failure

from .ray_cluster import join, load_ray

# between two looks at whether a node with the resource is still there
_POLL_S = 1.0
RETRIES = 2
"""Of a task whose node was lost."""


class TaskLost(Exception):
    """The process that ran a task died; `memory` says whether of that."""

    def __init__(self, reason: str, *, memory: bool) -> None:
        super().__init__(reason)
        self.memory = memory


class RayTasks:
    """Runs functions where a resource is, one at a time, each in a process of its own."""

    def __init__(self, resource: str, address: str | None, *, patience_s: float = 60.0) -> None:
        """Join the cluster at `address` (HOST:PORT or 'auto'), if Ray is not connected yet.

        A task waits `patience_s` for a node with the resource to come back.

        Raises:
            DeviceUnreachable: no cluster, or none of its nodes carries the resource.
        """
        self._ray: Any = load_ray()
        self.resource, self._patience_s = resource, patience_s
        self._joined = not self._ray.is_initialized()
        if self._joined:
            join(self._ray, address or "auto")
        if not self.nodes():
            self.close()
            raise DeviceUnreachable(
                f"no node of the Ray cluster carries the resource '{resource}'; start one with"
                f" `ray start --address=HOST:PORT --resources='{{\"{resource}\": 1}}'`"
            )

    def nodes(self) -> list[str]:
        """Addresses of the live nodes that carry the resource."""
        return [str(node["NodeManagerAddress"]) for node in self._carriers()]

    def _carriers(self) -> list[Mapping[str, Any]]:
        return [
            node
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get(self.resource, 0) >= 1
        ]

    def run(
        self, function: Callable[..., Any], *arguments: Any, limit_s: float, gpu: bool = False
    ) -> Any:
        """What the function gives on such a node.

        Args:
            function: It must pickle, as its arguments must.
            limit_s: It may take so long, what it waits for included.
            gpu: It has a GPU to itself where such a node has one; Ray hides them from it else.

        Raises:
            Exception: what the function raised there.
            TaskLost: its process died.
            TimeoutError: it ran longer than the limit.
            DeviceUnreachable: no such node is left, or came back.
        """
        how: dict[str, Any] = {"num_cpus": 0, "resources": {self.resource: 1}, "max_calls": 1}
        if gpu and any(node["Resources"].get("GPU", 0) >= 1 for node in self._carriers()):
            how["num_gpus"] = 1
        task = self._ray.remote(max_retries=RETRIES, **how)(function)
        found = task.remote(*arguments)
        try:
            self._wait(found, limit_s)
        except BaseException:
            with contextlib.suppress(Exception):
                self._ray.cancel(found, force=True)  # never one that is done: that can crash Ray
            raise
        try:
            return self._ray.get(found)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.OutOfMemoryError as error:
            raise TaskLost(failure(error), memory=True) from error
        except self._ray.exceptions.RayError as error:
            if not self.nodes():
                raise self._gone() from error
            raise TaskLost(failure(error), memory=False) from error

    def _wait(self, found: Any, limit_s: float) -> None:
        begin = there = time.monotonic()
        while not self._ray.wait([found], timeout=_POLL_S)[0]:
            now = time.monotonic()
            if self.nodes():
                there = now
            elif now - there > self._patience_s:
                raise self._gone()
            if now - begin > limit_s:
                raise TimeoutError

    def _gone(self) -> DeviceUnreachable:
        return DeviceUnreachable(
            f"device 'ray:{self.resource}' is gone: no live node of the cluster carries the"
            " resource; bring one back, then go on"
        )

    def close(self) -> None:
        """Leave the cluster, if it was joined here; it stays up."""
        if self._joined and self._ray.is_initialized():
            self._ray.shutdown()
        self._joined = False
