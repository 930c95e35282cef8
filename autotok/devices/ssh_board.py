"""`RemoteDevice`: measures exported models on a board over ssh, through dropped connections."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from autotok.errors import ConfigError, DeviceUnreachable

from .measurement import Measurement, MeasurementFailed, now
from .ssh_address import RUNTIMES, SshAddress
from .ssh_link import BoardTrouble, ConnectionDropped, Link

_LOG = logging.getLogger(__name__)
PAUSES_S = (1.0, 3.0)
"""Between attempts to reach the device."""
_ON_CUDA, _ON_CPU = ("torch", "onnxruntime", "trtexec"), ("onnxruntime", "torch")
# a board probes up to three runtimes one by one, 180 s each at most (`board.PROBE_S`)
_PROBING_S = 600.0
# the board ends a measurement that takes too long by itself: this is to hear it say so
_GRACE_S = 60.0
T = TypeVar("T")


@dataclass(frozen=True)
class BoardFacts:
    """What a board says of itself."""

    device: str
    python: str
    system: str
    cores: int
    memory_mb: float | None
    runtimes: Mapping[str, Mapping[str, Any]]
    """By name: version, device, cuda."""
    missing: Mapping[str, str]
    """Runtimes that are not there, and what was said when they were tried."""

    @property
    def preferred(self) -> tuple[str, ...]:
        """Its runtimes, the one that is most likely used there first."""
        fast = [name for name in _ON_CUDA if self.runtimes.get(name, {}).get("cuda")]
        slow = [name for name in _ON_CPU if name in self.runtimes and name not in fast]
        return (*fast, *slow)


class RemoteDevice:
    """A board reached over ssh; connects when needed, and again after a drop."""

    def __init__(
        self,
        address: SshAddress | str,
        *,
        connect_s: float = 15.0,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        """`pauses_s` lie between attempts: there is one attempt more than pauses."""
        self.address = SshAddress.parse(address) if isinstance(address, str) else address
        self.energy = True
        """Whether it is measured too, where the board counts it; takes a second or more a model."""
        self._connect_s, self._pauses_s = connect_s, tuple(pauses_s)
        self._link: Link | None = None
        self._facts: BoardFacts | None = None

    def hello(self) -> BoardFacts:
        """What the board says of itself; asked once.

        Raises:
            DeviceUnreachable: it does not answer.
            ConfigError: it has no suitable Python, or none of the runtimes.
        """
        wanted = self.address.runtime
        if self._facts is None:
            names = RUNTIMES if wanted is None else (wanted,)
            try:
                answer = self._persistently(
                    lambda link: link.ask("hello", deadline_s=_PROBING_S, runtimes=names)
                )
            except BoardTrouble as trouble:
                raise self._mute(trouble) from trouble
            try:
                self._facts = _facts_of(answer)
            except (ValueError, TypeError, KeyError) as error:
                raise self._mute(error) from error
        if not self._facts.runtimes:
            self.close()
            missing = "; ".join(f"{k}: {v}" for k, v in sorted(self._facts.missing.items()))
            raise ConfigError(
                f"device '{self.address}' has no {wanted or 'runtime'} for its"
                f" '{self.address.python}' ({missing}); install {wanted or 'onnxruntime or torch'}"
                " there, or name another Python with ?python=PATH"
            )
        return self._facts

    @property
    def runtimes(self) -> tuple[str, ...]:
        """What to measure with, in order of preference: runtimes of `board.py`."""
        facts = self.hello()
        return facts.preferred if self.address.runtime is None else (self.address.runtime,)

    def measure(
        self,
        model: Path,
        shape: Sequence[int],
        *,
        runtime: str,
        reference: Path | None = None,
        rounds: int = 15,
        timeout_s: float = 300.0,
        threads: int | None = None,
        number_format: str = "float32",
    ) -> Measurement:
        """A model's latency, memory and energy there, interleaved with the reference's.

        Args:
            model: A file that `runtime` takes, of the batch and image size of `shape`.
            shape: (batch, channels, height, width).
            runtime: One of `runtimes`.
            reference: The uncompressed model, a file of the same kind.
            rounds: Timed turns; up to three times as many while the run is noisy.
            timeout_s: Loading, warming up and timing may take so long.
            threads: Of the runtime on a CPU; its own choice by default.
            number_format: Of the model's file; the reference's is float32.

        Raises:
            MeasurementFailed: out of memory, out of time, or the runtime refuses the file.
            DeviceUnreachable: it does not answer.
        """
        facts = self.hello()
        task: dict[str, Any] = {"runtime": runtime, "shape": list(shape)}
        task |= {"dtype": self.address.dtype, "energy": self.energy}
        task |= {"rounds": rounds, "timeout_s": timeout_s, "threads": threads}
        task["number_format"] = number_format

        def work(link: Link) -> dict[str, Any]:
            # first what stays: a model may be its own reference
            task["reference"] = None if reference is None else link.put(reference)
            task["model"] = link.put(model, passing=True)
            return link.ask("measure", deadline_s=timeout_s + _GRACE_S, **task)

        try:
            answer = self._persistently(work)
        except BoardTrouble as trouble:
            words = self._sorry(trouble, runtime, timeout_s)
            raise MeasurementFailed(words, kind=trouble.kind) from trouble
        try:
            return self._reading(answer, facts, shape, number_format)
        except (ValueError, TypeError, KeyError) as error:
            raise MeasurementFailed(
                f"device '{self.address}' gave a measurement that cannot be ({error})"
            ) from error

    def close(self, *, patience_s: float = 5.0) -> None:
        """End the connection; the board removes its folder."""
        link, self._link = self._link, None
        if link is not None:
            link.close(patience_s)

    def _persistently(self, work: Callable[[Link], T]) -> T:
        """What the work gives, started again after a drop.

        Raises:
            DeviceUnreachable: the last attempt dropped too.
        """
        pauses = [*self._pauses_s, None]
        for attempt, pause in enumerate(pauses, start=1):
            try:
                if self._link is None:
                    self._link = Link(self.address, connect_s=self._connect_s)
                return work(self._link)
            except ConnectionDropped as drop:
                self.close(patience_s=0.2)
                if pause is None or drop.final:
                    raise DeviceUnreachable(
                        f"device '{self.address}' does not answer ({drop}; tried {attempt}"
                        f" time{'s' if attempt > 1 else ''}); see that it is on and that"
                        f" `ssh {' '.join(self.address.arguments)} true` works without a password"
                    ) from drop
                _LOG.warning("device '%s': %s; trying again", self.address, drop)
                time.sleep(pause)
            except BoardTrouble:
                raise
            except BaseException:
                self.close()
                raise
        raise AssertionError("the last attempt returns or raises")

    def _reading(
        self, answer: Mapping[str, Any], facts: BoardFacts, shape: Sequence[int], number_format: str
    ) -> Measurement:
        known: dict[str, Any] = {"device": f"{self.address} ({facts.device})", "when": now()}
        known |= {"batch": shape[0], "image_shape": tuple(shape[1:])}
        if number_format != "float32":  # the board knows what it was told, not what the file holds
            known["dtype"] = number_format
        return Measurement.from_dict({**answer, **known})

    def _mute(self, reason: Exception) -> DeviceUnreachable:
        self.close()
        return DeviceUnreachable(f"device '{self.address}' gives no account of itself ({reason})")

    def _sorry(self, trouble: BoardTrouble, runtime: str, timeout_s: float) -> str:
        """One sentence on what the board could not do."""
        where = f"device '{self.address}'"
        if trouble.kind == "memory":
            return (
                f"{where} ran out of memory with this model in {runtime}; compress"
                " more, measure a smaller batch, or end what else runs there"
            )
        if trouble.kind == "timeout":
            return (
                f"{where} had not measured this model after {timeout_s:.0f} s; give it more time,"
                " or fewer rounds"
            )
        if trouble.kind == "load":
            others = [name for name in self.hello().runtimes if name != runtime]
            way = f"?runtime={others[0]}" if others else "a newer version of it there"
            return f"{where}: its {runtime} cannot load this model ({trouble}); try {way}"
        return f"{where} could not measure this model in {runtime} ({trouble.kind}: {trouble})"


def _facts_of(answer: Mapping[str, Any]) -> BoardFacts:
    memory = answer.get("memory_mb")
    return BoardFacts(
        device=str(answer["device"])[:200],
        python=str(answer["python"])[:40],
        system=str(answer["system"])[:200],
        cores=int(answer["cores"]),
        memory_mb=None if memory is None else float(memory),
        runtimes={
            str(name): dict(found) for name, found in answer["runtimes"].items() if name in RUNTIMES
        },
        missing={str(name): str(words)[:200] for name, words in answer["missing"].items()},
    )
