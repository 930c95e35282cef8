"""Keeping large memory blocks between images, where the C library would return them each time."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys

# as glibc's malloc.h numbers them; mallopt takes an int, which limits the largest
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def reuse_large_blocks() -> bool:
    """Whether glibc was told to keep freed blocks of up to 2 GB instead of unmapping them.

    An attention map over a thousand tokens is tens of megabytes; by default each is mapped, faulted
    in page by page and unmapped again, which was measured to cost 1.5 (batch 1) to 2.7 (batch 4)
    times the arithmetic. The setting is for the whole process and lasts until it ends, so commands
    call this once; the package never does by itself. False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _LARGEST), mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    return kept == (1, 1)
