"""Tests here use the made-up device of another room's."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "devices"))
