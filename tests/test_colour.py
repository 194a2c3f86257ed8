"""Colour: on a terminal what calls for attention has it, and nothing else; not in a pipe, and not with NO_COLOR."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from terminals import Seen

ROOT = Path(__file__).parents[1]
MAIN = "import sys; from llmconv.cli.main import main; sys.exit(main())"
ESCAPE = b"\x1b["


@pytest.fixture
def commands(checkpoint, tmp_path) -> dict[str, list[str]]:
    """Commands, by the word that is to stand out."""
    model = str(checkpoint("qwen2", max_position_embeddings=65536))
    large = ["-s", "65536", "-b", "128", "-c", "cv186x", "--max_input_length", "64", "-o", str(tmp_path / "out")]
    return {
        "WARNING": ["plan", "-m", model, *large],
        "ERROR": ["doctor", str(tmp_path / "nowhere")],
        "MISSING": ["doctor"],
    }


def environment(word: str, **more: str) -> dict[str, str]:
    """Without what this process has to say of colours; the compiler is missing where that is to be told."""
    left_out = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM", "CLICOLOR_FORCE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | ({"TPUC_ROOT": "/nowhere"} if word == "MISSING" else {}) | {"PYTHONPATH": str(ROOT)} | more


def test_a_terminal_gets_colour(commands):
    for word, colour in (("WARNING", b"33"), ("ERROR", b"31"), ("MISSING", b"31")):
        seen = Seen([sys.executable, "-c", MAIN, *commands[word]], environment(word), columns=60)
        assert seen.wait() in (0, 1, 2)
        assert re.findall(rb"\x1b\[([\d;]+)m(\w+)\x1b\[0m", seen.raw) == [(colour, word.encode())]
        assert seen.raw.count(ESCAPE) == 2


def test_no_colour_is_no_colour(commands):
    for word, argv in commands.items():
        seen = Seen([sys.executable, "-c", MAIN, *argv], environment(word, NO_COLOR="1"), columns=60)
        seen.wait()
        assert word.encode() in seen.raw and ESCAPE not in seen.raw
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *argv], env=environment(word), capture_output=True, timeout=60
        )
        assert re.search(rf"^{word}\b".encode(), done.stdout, re.M) and ESCAPE not in done.stdout
