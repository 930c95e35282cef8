"""One torch thread for each worker of pytest-xdist, decided before torch is imported, and the same
random weights for a test whatever ran before it."""

import os
import sys

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _same_random_state() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
