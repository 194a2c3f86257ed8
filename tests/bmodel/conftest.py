"""The sample nets' fixtures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from sample_nets import compiled  # noqa: F401
