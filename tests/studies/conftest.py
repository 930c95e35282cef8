"""Makes `published_rows` importable from the tests of this folder and of the command line."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
