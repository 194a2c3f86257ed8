"""Helpers of these tests are modules beside them; the families' checkpoints are beside the families' tests."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "families")]
