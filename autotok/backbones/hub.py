"""Asking timm's hub for weights without waiting for one that cannot be reached.

The hub's client tries again and again with growing pauses, file by file: most of a minute until a
machine without a network hears so. Here one short question comes first; without an answer only
files fetched earlier are looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_session

# huggingface_hub alone retries for a minute before it says that there is no network
PATIENCE = 5.0
"""Seconds to wait for the hub's first answer, names looked up and proxies passed."""


def hub_answers() -> bool:
    """Whether the hub answers at all, tried once; HF_HUB_OFFLINE means no."""
    if constants.HF_HUB_OFFLINE:
        return False
    answers: list[bool] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
            answers.append(True)
        except Exception:  # whatever the client raises, there was no answer
            answers.append(False)

    # looking a name up knows no timeout, so it may take as long as it likes beside us
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return bool(answers and answers[0])


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Inside, a hub that does not answer is not asked again: its client looks at its cache only."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
