"""The sample nets' fixtures, which the tests of bmodel have."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "bmodel"))

from sample_nets import compiled  # noqa: F401
