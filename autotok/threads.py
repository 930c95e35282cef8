"""How the threads of torch wait for one another."""

from __future__ import annotations

import os

# libgomp counts tries, and 300,000 of them by default: those are the milliseconds
_SPINS = "1000"


def wait_asleep(environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Have threads that wait sleep after some microseconds; the user's own choice stays.

    By default OpenMP's spin for milliseconds. Where other programs want the cores, each waiting
    thread then burns the time slice of the one it waits for: an image of the demo took 0.5 to 5 s
    instead of 0.2 to 0.4 s on two busy cores. Takes effect in a process that has not loaded torch
    yet, and in its children.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPINS)
